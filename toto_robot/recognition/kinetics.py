"""`python -m toto_robot.recognition.kinetics videos.path=FOLDER`: classify actions in videos.

Action recognition as in the paper's Tables 8 and 16: one probe per layer on the frozen features of
clips, with Kinetics-400 or with other labelled videos. The predictions of several views of a video
are averaged (`views`). The training examples are the views of the training videos, so an epoch is
one pass over all these views.

    videos=kinetics videos.path=F videos.train_csv=train.csv videos.test_csv=validate.csv
    videos=table videos.path=F videos.csv=labels.csv      file, label, group, split
    videos=folders videos.path=F                          F/train/<class>/*.mp4, F/val/<class>/*.mp4

Without given test videos, `leave_out=group` tests each group of videos once, with probes that are
trained on the other groups; otherwise random divisions are used, which ignore the groups.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..cli import command
from ..config import to_dict
from ..data.divisions import (
    Division,
    check_random_divisions,
    given_division,
    leave_one_out,
    random_divisions,
)
from ..encoders.contract import FrameEncoder
from ..encoders.encoder import Encoder
from ..encoders.vision import VisionConfig
from ..files import write_csv
from ..probing.heads import LayerHeads
from ..probing.layer_features import open_layers
from ..runs import claim
from ..training.engine import EngineConfig
from ..training.parallel import join_ranks
from .labelled_videos import AnyVideos, LabelledVideos, check_classes, is_whole, report_problems
from .probe import Examples, Probe, ProbeConfig
from .scores import LayerScores, best_layer, score_layers, score_line, write_scores
from .views import Views, average_views, cache_views, read_problems, read_views

__all__ = ["KineticsConfig", "kinetics", "predict_videos"]

MOST_GROUPS = 100  # probes are trained once per group
PART = 512  # number of test videos whose logits are in memory together


@dataclass(frozen=True, kw_only=True, slots=True)
class KineticsConfig:
    """Settings of the command `kinetics`.

    Attributes:
        videos: the videos and their labels.
        views: clips and crops of a video; the paper's clips have 16 frames with stride 4.
        leave_out: `group` to test each group of videos with probes that are trained on the other
            groups; null: the given test videos, or random divisions.
        splits: number of random divisions into training and test videos, if they are used.
        test_share: share of each class's videos that a random division tests.
        encoder: the encoder; `none` probes raw 16 x 16 pixels.
        probe: settings of the probes; `probe.head=attention` for Table 8 and `cross_attention` for
            Table 16.
        engine: settings of the training loop; its device is also the encoder's.
        seed: seed of the random divisions.
    """

    videos: AnyVideos
    views: Views
    leave_out: Literal["group"] | None
    splits: int
    test_share: float
    encoder: VisionConfig
    probe: ProbeConfig
    engine: EngineConfig
    seed: int

    def __post_init__(self) -> None:
        """Check the random divisions."""
        check_random_divisions(self.splits, self.test_share)


def kinetics(config: KineticsConfig, out: Path) -> LayerScores | None:
    """Train and score the probes; write the results into `out`.

    The files are `results.json`, `layers.csv`, `layers.png`, `correct.npz`, `groups.csv` (accuracy
    within each group, if groups have several videos) and `problems.csv` (faults of the data, if
    there are any). Tokens and features of the videos are kept in `out/cache`, which may be deleted.
    An interrupted run resumes. Returns None if the run was asked to stop, and on all ranks except
    the first.

    Raises:
        ValueError: a table is damaged, a label is not a class, or a class has no training video;
            the message names the file and the field.
    """
    with join_ranks(config.engine.device, config.engine.shard_ranks) as ranks:
        videos = config.videos.listing()
        _divisions(config, videos)  # errors before hours of decoding
        if ranks.first:
            claim(out, config)
            views = config.views
            print(
                f"{videos.summary()}\n{views.clips} x {views.crops} views of {views.frames} frames "
                f"with stride {views.stride}",
                flush=True,
            )
        ranks.wait()
        source = open_layers(_build_encoder(config, ranks.device))
        digest = videos.digest()
        size, path = source.image_size, out / "cache" / "views.npy"
        inputs = ranks.first_then_others(
            lambda: cache_views(
                videos.files,
                lambda _, file: read_views(file, config.views, size),
                (config.views.count, config.views.frames, size, size, 3),
                config.views.span,
                source.compress,
                path,
                {"source": source.fingerprint, "videos": digest, "size": size}
                | to_dict(config.views),
            )
        )
        examples = _examples(videos, inputs, f"{digest} {to_dict(config.views)}")
        found = read_problems(path)
        valid = is_whole(videos.files, found)
        if ranks.first:
            report_problems(out, (*videos.problems, *found))
        probe = Probe(source, examples, config.probe, out / "cache", ranks)
        scores, majority = [], []
        for number, (train, test) in enumerate(_divisions(config, videos, valid)):
            chosen = _views_of(train, config.views.count)
            heads = probe.train(chosen, config.engine, out / f"division-{number}", ranks)
            if heads is None:
                return None
            if ranks.first:
                labels, groups = videos.labels[test], videos.groups[test]
                means = predict_videos(probe, heads, test, config.views.count)
                scores.append(score_layers(means, labels, groups, source.layers))
                counts = np.bincount(videos.labels[train], minlength=len(videos.classes))
                constant = np.tile(counts.astype(float), (1, len(test), 1))
                majority.append(score_layers(constant, labels, groups, (0,)))
        if not ranks.first:
            return None
        combined = LayerScores.combine(scores)
        _write(config, out, videos, combined, LayerScores.combine(majority))
        return combined


def predict_videos(
    probe: Probe, heads: LayerHeads, videos: NDArray[np.int64], views: int
) -> NDArray[np.float32]:
    """Return the class probabilities of videos at all layers, averaged over views, [l n c].

    There are l layers, n videos and c classes.

    Args:
        probe: the probe, whose examples are the views of all videos.
        heads: the trained heads.
        videos: int64 [n], indices of the videos to predict.
        views: number of views of a video.
    """
    parts = [videos[i : i + PART] for i in range(0, len(videos), PART)]
    means: list[Float[Tensor, "l n c"]] = [
        average_views(probe.predict(heads, _views_of(part, views)), views) for part in parts
    ]
    return np.concatenate([mean.numpy() for mean in means], axis=1)


def _build_encoder(config: KineticsConfig, device: torch.device) -> FrameEncoder | None:
    """Build the encoder, and check that it can encode clips of this length."""
    encoder = config.encoder.build(device)
    most = encoder.transformer.config.frames if isinstance(encoder, Encoder) else None
    if most and config.views.frames > most:
        raise ValueError(
            f"views.frames={config.views.frames}, but the encoder was trained on clips of at most "
            f"{most} frames"
        )
    return encoder


def _views_of(videos: NDArray[np.int64], views: int) -> NDArray[np.int64]:
    """Return the numbers of all views of videos."""
    return (videos[:, None] * views + np.arange(views)).ravel()


def _examples(videos: LabelledVideos, inputs: NDArray[Any], digest: str) -> Examples:
    """Return the views of all videos as examples."""
    views = inputs.shape[1]
    return Examples(
        inputs=inputs.reshape(-1, *inputs.shape[2:]),
        labels=np.repeat(videos.labels, views),
        groups=np.repeat(videos.groups, views),
        classes=videos.classes,
        fingerprint=digest,
    )


def _divisions(
    config: KineticsConfig, videos: LabelledVideos, valid: NDArray[np.bool_] | None = None
) -> list[Division]:
    """Return the divisions of the videos that are not damaged."""
    groups = len(videos.group_names)
    if config.leave_out is None and videos.is_test is not None:
        divisions = [given_division(videos.is_test)]
    elif config.leave_out is None:
        divisions = random_divisions(
            videos.labels, videos.classes, config.splits, config.test_share, config.seed
        )
    elif videos.is_test is not None:
        raise ValueError("leave_out=group: the videos have test videos; set leave_out=null")
    elif not 2 <= groups <= MOST_GROUPS:
        raise ValueError(
            f"leave_out=group needs 2 to {MOST_GROUPS} groups, got {groups}; videos.group names "
            "the column of the table with the groups"
        )
    else:
        divisions = leave_one_out(videos.groups)
    if valid is not None:
        divisions = [(train[valid[train]], test[valid[test]]) for train, test in divisions]
    for train, test in divisions:
        tested = {videos.group_names[group] for group in videos.groups[test][:1]}
        hint = f" when group {tested} is left out: set videos.min_groups=2"
        check_classes(videos.labels[train], videos.classes, hint * bool(config.leave_out))
    divisions = [(train, test) for train, test in divisions if len(test)]
    if not divisions:
        raise ValueError("all test videos are damaged")
    return divisions


def _write(
    config: KineticsConfig,
    out: Path,
    videos: LabelledVideos,
    scores: LayerScores,
    majority: LayerScores,
) -> None:
    """Write and print the results."""
    (row,) = majority.rows()
    notes: dict[str, object] = {"majority": row, "settings": to_dict(config)}
    notes |= {"videos": videos.summary(), "classes": list(videos.classes)}
    title = f"{len(videos.classes)} classes, {config.probe.head} probe"
    print(write_scores(out, scores, notes, title))
    print(f"{score_line('majority', row)}  (the most frequent training classes)")
    _write_groups(out, scores, majority, videos.group_names)


def _write_groups(
    out: Path, scores: LayerScores, majority: LayerScores, names: tuple[str, ...]
) -> None:
    """Write the accuracy of the best layer within each group, if groups have several videos."""
    if len(names) * 2 > len(scores.groups):
        return
    layer, _ = best_layer(scores)
    correct = scores.correct[scores.layers.index(layer)]
    rows = []
    for group in np.unique(scores.groups):
        chosen = scores.groups == group
        rows.append(
            {
                "group": names[group],
                "videos": int(chosen.sum()),
                "layer": layer,
                "top1": float(correct[chosen].mean()),
                "majority": float(majority.correct[0, chosen].mean()),
            }
        )
    write_csv(out / "groups.csv", rows)


main = command("kinetics", KineticsConfig)(kinetics)

if __name__ == "__main__":
    main()
