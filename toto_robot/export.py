"""`python -m toto_robot.export`: export an encoder as ONNX, for a computer without torch.

    frame.onnx       graph for single frames; input: frames; output: embeddings, tokens
    stream.onnx      graph for one step of a stream; input: frames, and the attention keys and
                     values of earlier frames; output: embeddings, tokens, new keys and values
    export.json      shapes, the encoder's fingerprint, and the results of the check
    onnx_runtime.py  module that runs the graphs with only numpy and onnxruntime

All shapes are fixed. The graphs resize the frames, so their input has the size of the camera image.
Before the command ends, it compares the graphs with torch over short episodes with resets.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from .cli import command
from .encoders.encoder import Encoder
from .encoders.onnx_graphs import FrameGraph, StreamGraph
from .encoders.vision import AnyToto, build_toto
from .files import write_json, written_aside
from .models import TotoConfig

__all__ = ["ExportConfig", "compare", "export", "export_onnx"]

OPSET = 20
TOLERANCE = 1e-4  # maximum difference of embeddings for equal tokens; their elements are about 1
LEAST_TOKENS = 0.99  # share of equal tokens: a value between two codes may be rounded either way


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Settings of the command `export`.

    Attributes:
        encoder: Toto encoder to export.
        height: height of a camera image, pixels.
        width: width of a camera image, pixels.
        num_envs: number of frames in each call, one per environment or camera.
        context: number of frames that the stream uses, including the newest frame; null: no stream
            is exported.
        frame_skip: distance between two frames of the stream's window, in camera frames.
        check_steps: number of steps for the comparison of the graphs with torch.
    """

    encoder: AnyToto
    height: int
    width: int
    num_envs: int
    context: int | None
    frame_skip: int
    check_steps: int

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.num_envs, self.frame_skip, self.check_steps) < 1:
            raise ValueError("height, width, num_envs, frame_skip and check_steps must be positive")
        if self.context is not None and self.context < 2:
            raise ValueError(f"context must be at least 2, or null for none, got {self.context}")


def export(config: ExportConfig, out: Path) -> None:
    """Export an encoder, compare the graphs with torch, and print the differences."""
    encoder = build_toto(config.encoder, "cpu")
    print(
        f"layer {encoder.layer} of {encoder.num_layers}, pool {encoder.pool}: "
        f"{config.num_envs} frames of {config.height} x {config.width}, "
        f"{'no stream' if config.context is None else f'stream of {config.context} frames'}"
    )
    export_onnx(
        encoder,
        out,
        size=(config.height, config.width),
        num_envs=config.num_envs,
        context=config.context,
        frame_skip=config.frame_skip,
    )
    try:
        found = compare(encoder, out, config.check_steps)
    except ValueError:
        (out / "export.json").unlink()  # the graphs cannot be loaded
        raise
    metadata = json.loads((out / "export.json").read_text())
    write_json(out / "export.json", metadata | {"compared": found})
    for name, value in found.items():
        print(f"{name:42} {value:.3g}")
    print(f"export: {out}")


def export_onnx(
    encoder: Encoder,
    folder: Path,
    *,
    size: tuple[int, int],
    num_envs: int = 1,
    context: int | None = None,
    frame_skip: int = 1,
) -> None:
    """Write an encoder's ONNX graphs, their metadata, and the Python file that runs them.

    An earlier export in the folder is replaced. The metadata is written last, and without it, the
    graphs cannot be loaded; so an interrupted export cannot be used.

    Args:
        encoder: an encoder in float32 on the CPU.
        folder: folder of the export; created if it does not exist.
        size: height and width of the frames, pixels.
        num_envs: number of frames in each call, one per environment or camera.
        context: number of frames that the stream uses, including the newest frame; None: no stream
            is exported.
        frame_skip: distance between two frames of the stream's window, in camera frames.

    Raises:
        ImportError: onnx, onnxruntime or onnxscript is not installed (the extra `export`).
        ValueError: the encoder has another precision or device or repeats frames, the context is
            below 2 or longer than a training sequence, layer 0 is exported with a context, the
            model is not of kind llama, or a context is set and its attention is not causal.
    """
    _require_onnx()
    config = _check(encoder, context)
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in ("export.json", "stream.onnx"):  # graphs of two encoders are never mixed
        (folder / earlier).unlink(missing_ok=True)
    frames = torch.zeros(num_envs, *size, 3, dtype=torch.uint8)
    outputs = ["frame_embedding", "frame_tokens"]
    _write(FrameGraph(encoder), {"frames": frames}, outputs, folder / "frame.onnx")
    head_width = config.dim // config.heads
    if context is not None:
        past = (context - 1) * config.tokens_per_frame
        memory = torch.zeros(max(encoder.layers), num_envs, config.heads, past, head_width)
        inputs = {
            "frames": frames,
            "keys": memory,
            "values": memory.clone(),
            "past_bias": torch.zeros(num_envs, past),
            "cos": torch.zeros(num_envs, config.tokens_per_frame, head_width),
            "sin": torch.zeros(num_envs, config.tokens_per_frame, head_width),
            "start_cos": torch.zeros(num_envs, 1, head_width),
            "start_sin": torch.zeros(num_envs, 1, head_width),
        }
        outputs += ["new_keys", "new_values"]
        _write(StreamGraph(encoder), inputs, outputs, folder / "stream.onnx")
    shutil.copyfile(Path(__file__).parent / "encoders/onnx_runtime.py", folder / "onnx_runtime.py")
    shapes = {"height": size[0], "width": size[1], "num_envs": num_envs}
    past = {"context": context, "frame_skip": frame_skip, "mode": "rolling"}
    write_json(folder / "export.json", _metadata(encoder, config) | shapes | past)


def _check(encoder: Encoder, context: int | None) -> TotoConfig:
    """Return the config of the transformer. Raise ValueError if it cannot be exported."""
    config, weight = encoder.transformer.config, encoder.transformer.embed_tokens.weight
    if weight.dtype != torch.float32 or weight.device.type != "cpu" or encoder.repeat_frame:
        raise ValueError(
            "only an encoder in float32 on the CPU without repeat_frame can be exported, got "
            f"{weight.dtype} on {weight.device}, repeat_frame={encoder.repeat_frame}"
        )
    if not isinstance(config, TotoConfig):
        raise ValueError(f"only a model of kind llama can be exported, got {config.kind}")
    if context is not None and config.attention != "causal":
        raise ValueError(
            f"attention={config.attention} has no stream: export it without one (context=null)"
        )
    if context is not None and not 2 <= context <= config.frames:
        raise ValueError(f"context must be in [2, {config.frames}] frames, got {context}")
    if context is not None and max(encoder.layers) == 0:
        raise ValueError("layer 0 has no past: export it without a stream (context=null)")
    return config


def _metadata(encoder: Encoder, config: TotoConfig) -> dict[str, object]:
    """Return the properties of an encoder that are saved in `export.json`."""
    return {
        "format": 1,
        "fingerprint": encoder.fingerprint,
        "weights_hash": encoder.weights_hash,
        "layer": encoder.layer,
        "pool": encoder.pool,
        "dim": encoder.dim,
        "tokens_per_frame": config.tokens_per_frame,
        "heads": config.heads,
        "head_width": config.dim // config.heads,
        "rope_base": config.rope_base,
        "dtype": "float32",
        "torch": torch.__version__,
    }


@torch.no_grad()
def compare(encoder: Encoder, folder: Path, num_steps: int) -> dict[str, float]:
    """Compare the graphs of an export with torch, on moving random images with random resets.

    Returns:
        For each graph, the share of tokens that are equal to those of torch, and the maximum
        difference of the embeddings, for which torch uses the tokens of the graph.

    Raises:
        ValueError: too few tokens are equal (`LEAST_TOKENS`), or the difference of embeddings is
            larger than `TOLERANCE`.
    """
    from .encoders.onnx_runtime import OnnxEncoder, OnnxStream

    single = OnnxEncoder(folder)
    metadata = single.metadata
    batch, context = metadata["num_envs"], metadata["context"]
    streams = None
    if context is not None:
        stream = encoder.stream(batch, context, mode="rolling", frame_skip=metadata["frame_skip"])
        streams = OnnxStream(folder), stream
    rng = np.random.default_rng(0)
    names = ["frame"] if streams is None else ["frame", "stream"]
    equal: dict[str, list[float]] = {name: [] for name in names}
    apart: dict[str, list[float]] = {name: [] for name in names}
    canvas = _canvas(rng, metadata)
    for step in tqdm(range(num_steps), desc="compare", unit="step", leave=False):
        left = step % (canvas.shape[2] - metadata["width"] + 1)
        frames = np.ascontiguousarray(canvas[:, :, left : left + metadata["width"]])
        tokens = encoder.tokenize(frames).numpy()
        pairs = {"frame": (single(frames), encoder.from_tokens(torch.from_numpy(single.tokens)))}
        equal["frame"].append(float((single.tokens == tokens).mean()))
        if streams is not None:
            exported, original = streams
            reset = rng.random(batch) < 1 / (2 * context)
            embedding = exported.step(frames, reset)
            pairs["stream"] = (
                embedding,
                original.step_tokens(torch.from_numpy(exported.tokens), reset),
            )
            equal["stream"].append(float((exported.tokens == tokens).mean()))
        for name, (found, expected) in pairs.items():
            apart[name].append(float(np.abs(found - expected.numpy()).max()))
    result = {}
    for name in names:
        share, difference = float(np.mean(equal[name])), float(np.max(apart[name]))
        result[f"{name}: share of equal tokens"] = share
        result[f"{name}: greatest difference"] = difference
        if not (share >= LEAST_TOKENS and difference <= TOLERANCE):
            raise ValueError(
                f"{folder}: {name}.onnx does not match the encoder: {share:.2%} of the tokens are "
                f"equal (at least {LEAST_TOKENS:.0%} required), embeddings of the same tokens "
                f"differ by {difference:.2g} (allowed {TOLERANCE})"
            )
    return result


def _write(graph: nn.Module, inputs: Mapping[str, Tensor], outputs: list[str], path: Path) -> None:
    logging.getLogger("onnx_ir").setLevel(logging.WARNING)  # it logs every constant that it merges
    with written_aside(path) as aside:
        torch.onnx.export(
            graph.eval(),
            tuple(inputs.values()),
            aside,
            input_names=list(inputs),
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _canvas(rng: np.random.Generator, metadata: Mapping[str, Any]) -> np.ndarray:
    """Return smooth random images that are wider than a frame; frames are moving crops of them."""
    coarse = torch.from_numpy(rng.uniform(0, 255, (metadata["num_envs"], 3, 9, 14))).float()
    size = (metadata["height"], metadata["width"] * 3 // 2)
    fine = nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
    return fine.clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8).numpy()


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"the export needs {', '.join(missing)}: pip install 'toto-robot[export]'"
        )


OLD_KEYS = {"layer": "encoder.layer", "pool": "encoder.pool"}
main = command("export", ExportConfig, OLD_KEYS)(export)

if __name__ == "__main__":
    main()
