"""``python -m toto_robot.training.from_videos``: train an encoder from a folder of videos.

The command decodes the videos, tokenises the frames with an existing tokenizer, and trains a
transformer. It writes an encoder folder that `load_encoder` opens. All intermediate results are
kept under ``out``, so that a stopped command can resume. If the frames of a
collection need too much disk space, or if several collections are mixed, use the commands
``toto_robot.data.tokenise`` and ``toto_robot.training.pretrain`` instead.
"""

from dataclasses import dataclass
from pathlib import Path

from ..cli import command
from ..data.decode import DecodeConfig, decode
from ..data.shards import Source
from ..encoders.loading import load_tokenizer
from ..models import ModelConfig
from .components import PCA_FRAMES
from .engine import EngineConfig
from .optimizer import OptimizerConfig
from .pretrain import PretrainConfig, Stage, pretrain
from .tokenizer import DataConfig

__all__ = ["FromVideosConfig", "from_videos"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FromVideosConfig:
    """Settings of `from_videos`.

    Attributes:
        videos: folder of videos, searched recursively.
        stride: number that selects every ``stride``-th frame of a video.
        crops: number of passes over each video. Each pass has another random crop.
        tokenizer_from: checkpoint folder of a tokenizer or an encoder, or the name of a shipped
            encoder.
        model: config of the transformer.
        optimizer: settings of AdamW and of its learning-rate schedule.
        stages: the training stages, the first stage first. Each stage has sequences of one length.
        engine: settings of the training loop: device, precision, ranks, log, checkpoints.
        validation_sequences: number of held-out sequences for each validation.
        frame_interval_s: time between two selected frames, seconds. The checkpoint records it. null
            if it differs much between the videos.
        golden_frames: number of video frames for the reference embeddings (golden vectors). They
            are stored with the encoder, to check later that it computes the same embeddings.
        seed: random seed of crops, weights and batches.
    """

    videos: Path
    stride: int
    crops: int
    tokenizer_from: str
    model: ModelConfig
    optimizer: OptimizerConfig
    stages: tuple[Stage, ...]
    engine: EngineConfig
    validation_sequences: int
    frame_interval_s: float | None
    golden_frames: int
    seed: int


def from_videos(config: FromVideosConfig, out: Path) -> Path:
    """Train an encoder on a folder of videos, and return the folder of the encoder.

    Raises:
        ValueError: ``videos`` is not a folder, no video could be read, none is as long as a
            sequence, or ``out`` has the frames of another folder or of other settings.
    """
    if not config.videos.is_dir():
        raise ValueError(f"videos: {config.videos} is not a folder")
    size = load_tokenizer(config.tokenizer_from).image_size
    source = Source(
        name="videos",
        kind="video",
        path=config.videos,
        crops=config.crops,
        stride=config.stride,
    )

    decoding = DecodeConfig(sources=(source,), size=size, seed=config.seed)
    return pretrain(
        PretrainConfig(
            model=config.model,
            tokenizer_from=config.tokenizer_from,
            image_size=None,
            start_from=None,
            data=(DataConfig(path=out / "frames" / source.name, weight=1.0),),
            optimizer=config.optimizer,
            stages=config.stages,
            engine=config.engine,
            validation_sequences=config.validation_sequences,
            frame_interval_s=config.frame_interval_s,
            golden_frames=config.golden_frames,
            seed=config.seed,
            pca_frames=PCA_FRAMES,
        ),
        out,
        prepare=lambda: decode(decoding, out / "frames"),
    )


main = command("from_videos", FromVideosConfig)(from_videos)

if __name__ == "__main__":
    main()
