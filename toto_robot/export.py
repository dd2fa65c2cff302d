"""`python -m toto_robot.export`: an encoder as ONNX, for a computer without torch.

    frame.onnx       frames -> embedding, tokens
    stream.onnx      frames, keys and values of the past -> embedding, tokens, their own
    export.json      shapes, the encoder's fingerprint, and what the check found
    onnx_runtime.py  runs them with numpy and onnxruntime alone

All shapes are fixed. Resizing is part of the graph, so frames come as the camera gives them. What
was written is compared with torch over episodes with resets before the command ends.
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

__all__ = ["ExportConfig", "compare", "export", "export_onnx"]

OPSET = 20
TOLERANCE = 1e-4  # of embeddings of the same tokens; their elements are of the order of 1
LEAST_TOKENS = 0.99  # share of equal tokens: a number on the edge of two codes may fall either way


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Say what to export.

    Attributes:
        encoder: a Toto.
        height: of a camera's picture, pixels.
        width: likewise.
        num_envs: frames of one call.
        context: frames of the stream's window; None: no stream is exported.
        frame_skip: every how many camera frames the stream remembers one.
        check_steps: steps of the episodes on which the graphs are compared with torch.
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
    """Export, compare with torch, and say what was found."""
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
    found = compare(encoder, out, config.check_steps)
    card = json.loads((out / "export.json").read_text())
    write_json(out / "export.json", card | {"compared": found})
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
    """Write an encoder's graphs, their card and the file that runs them.

    Args:
        encoder: in float32, on the CPU.
        folder: made if it is not there.
        size: height and width of the frames, pixels.
        num_envs: frames of one call.
        context: frames of the stream's window; None: no stream.
        frame_skip: every how many camera frames the stream remembers one.

    Raises:
        ImportError: onnx or onnxscript is not installed (the extra `export`).
        ValueError: an encoder in another precision, on another device or that repeats frames, or a
            context longer than a training sequence.
    """
    _require_onnx()
    config = encoder.transformer.config
    _check(encoder, context)
    folder.mkdir(parents=True, exist_ok=True)
    frames = torch.zeros(num_envs, *size, 3, dtype=torch.uint8)
    outputs = ["frame_embedding", "frame_tokens"]
    _write(FrameGraph(encoder), {"frames": frames}, outputs, folder / "frame.onnx")
    head_width = config.dim // config.heads
    if context is not None:
        past = (context - 1) * config.tokens_per_frame
        memory = torch.zeros(encoder.layer, num_envs, config.heads, past, head_width)
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
    write_json(folder / "export.json", _card(encoder) | shapes | past)


def _check(encoder: Encoder, context: int | None) -> None:
    """Refuse what cannot be exported."""
    config, weight = encoder.transformer.config, encoder.transformer.embed_tokens.weight
    if weight.dtype != torch.float32 or weight.device.type != "cpu" or encoder.repeat_frame:
        raise ValueError(
            "only an encoder in float32 on the CPU that sees each frame once can be exported, got "
            f"{weight.dtype} on {weight.device}, repeat_frame={encoder.repeat_frame}"
        )
    if context is not None and not 2 <= context <= config.frames:
        raise ValueError(f"context must be in [2, {config.frames}] frames, got {context}")
    if context is not None and encoder.layer == 0:
        raise ValueError("layer 0 has no past: export it without a stream (context null)")


def _card(encoder: Encoder) -> dict[str, object]:
    """Return what a graph's users must know of the encoder."""
    config = encoder.transformer.config
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
    """Compare an export with torch, over episodes of random length of moving random pictures.

    Returns:
        For each graph the share of equal tokens, and the greatest difference of embeddings of the
        same tokens.

    Raises:
        ValueError: they differ by more than `LEAST_TOKENS` and `TOLERANCE` allow.
    """
    from .encoders.onnx_runtime import OnnxEncoder, OnnxStream

    single = OnnxEncoder(folder)
    card = single.card
    batch, context = card["num_envs"], card["context"]
    streams = None
    if context is not None:
        stream = encoder.stream(batch, context, mode="rolling", frame_skip=card["frame_skip"])
        streams = OnnxStream(folder), stream
    rng = np.random.default_rng(0)
    names = ["frame"] if streams is None else ["frame", "stream"]
    equal: dict[str, list[float]] = {name: [] for name in names}
    apart: dict[str, list[float]] = {name: [] for name in names}
    canvas = _canvas(rng, card)
    for step in tqdm(range(num_steps), desc="compare", unit="step", leave=False):
        left = step % (canvas.shape[2] - card["width"] + 1)
        frames = np.ascontiguousarray(canvas[:, :, left : left + card["width"]])
        tokens = encoder.tokenize(frames).numpy()
        pairs = {"frame": (single(frames), encoder.from_tokens(torch.from_numpy(single.tokens)))}
        equal["frame"].append(float((single.tokens == tokens).mean()))
        if streams is not None:
            mine, theirs = streams
            reset = rng.random(batch) < 1 / (2 * context)
            embedding = mine.step(frames, reset)
            pairs["stream"] = embedding, theirs.step_tokens(torch.from_numpy(mine.tokens), reset)
            equal["stream"].append(float((mine.tokens == tokens).mean()))
        for name, (found, expected) in pairs.items():
            apart[name].append(float(np.abs(found - expected.numpy()).max()))
    result = {}
    for name in names:
        share, difference = float(np.mean(equal[name])), float(np.max(apart[name]))
        result[f"{name}: share of equal tokens"] = share
        result[f"{name}: greatest difference"] = difference
        if not (share >= LEAST_TOKENS and difference <= TOLERANCE):
            raise ValueError(
                f"{folder}: {name}.onnx is not the encoder: {share:.2%} of the tokens are equal "
                f"(needed {LEAST_TOKENS:.0%}), embeddings of the same tokens differ by "
                f"{difference:.2g} (allowed {TOLERANCE})"
            )
    return result


def _write(graph: nn.Module, inputs: Mapping[str, Tensor], outputs: list[str], path: Path) -> None:
    logging.getLogger("onnx_ir").setLevel(logging.WARNING)  # it tells of every constant it merges
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


def _canvas(rng: np.random.Generator, card: Mapping[str, Any]) -> np.ndarray:
    """Draw smooth pictures wider than a frame, which a frame moves over."""
    coarse = torch.from_numpy(rng.uniform(0, 255, (card["num_envs"], 3, 9, 14))).float()
    size = (card["height"], card["width"] * 3 // 2)
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
