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
from torch.nn.functional import scaled_dot_product_attention
from tqdm import tqdm

from .cli import command
from .encoders.encoder import Encoder
from .encoders.loading import load_toto
from .encoders.pooling import normalise
from .encoders.streaming import FrameMemory
from .models import TotoConfig
from .models.transformer import rotate

__all__ = ["ExportConfig", "compare", "export", "export_onnx"]

OPSET = 20
TOLERANCE = 1e-4  # of embeddings of the same tokens; their elements are of the order of 1
LEAST_TOKENS = 0.99  # share of equal tokens: a number on the edge of two codes may fall either way


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Say what to export.

    Attributes:
        encoder: a shipped name or a checkpoint folder.
        layer: None for the checkpoint's own.
        pool: None for the checkpoint's own.
        height: of a camera's picture, pixels.
        width: likewise.
        num_envs: frames of one call.
        context: frames of the stream's window; None: no stream is exported.
        frame_skip: every how many camera frames the stream remembers one.
        check_steps: steps of the episodes on which the graphs are compared with torch.
    """

    encoder: str
    layer: int | None
    pool: str | None
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
    encoder = load_toto(config.encoder, layer=config.layer, pool=config.pool)
    print(
        f"{config.encoder}, layer {encoder.layer}, pool {encoder.pool}: "
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
    (out / "export.json").write_text(json.dumps(card | {"compared": found}, indent=1) + "\n")
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
    weight = encoder.transformer.embed_tokens.weight
    if weight.dtype != torch.float32 or weight.device.type != "cpu" or encoder.repeat_frame:
        raise ValueError(
            "only an encoder in float32 on the CPU that sees each frame once can be exported, got "
            f"{weight.dtype} on {weight.device}, repeat_frame={encoder.repeat_frame}"
        )
    if context is not None and not 2 <= context <= config.frames:
        raise ValueError(f"context must be in [2, {config.frames}] frames, got {context}")
    if context is not None and encoder.layer == 0:
        raise ValueError("layer 0 has no past: export it without a stream (context null)")
    folder.mkdir(parents=True, exist_ok=True)
    frames = torch.zeros(num_envs, *size, 3, dtype=torch.uint8)
    outputs = ["frame_embedding", "frame_tokens"]
    _write(_FrameGraph(encoder), {"frames": frames}, outputs, folder / "frame.onnx")
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
        _write(_StreamGraph(encoder), inputs, outputs, folder / "stream.onnx")
    card = {
        "format": 1,
        "fingerprint": encoder.fingerprint,
        "weights_hash": encoder.weights_hash,
        "layer": encoder.layer,
        "pool": encoder.pool,
        "dim": encoder.dim,
        "height": size[0],
        "width": size[1],
        "num_envs": num_envs,
        "context": context,
        "frame_skip": frame_skip,
        "mode": "rolling",
        "tokens_per_frame": config.tokens_per_frame,
        "heads": config.heads,
        "head_width": head_width,
        "rope_base": config.rope_base,
        "dtype": "float32",
        "torch": torch.__version__,
    }
    shutil.copyfile(Path(__file__).parent / "encoders/onnx_runtime.py", folder / "onnx_runtime.py")
    (folder / "export.json").write_text(json.dumps(card, indent=1) + "\n")


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


class _FrameGraph(nn.Module):
    """Frames to embeddings, without the checks that a graph cannot hold."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        encoder = self.encoder
        ids = encoder.tokenizer.encode(frames)
        start = ids.new_full((len(ids), 1), encoder.transformer.config.start_video)
        (hidden,) = encoder.transformer.features(torch.cat([start, ids], dim=1), (encoder.layer,))
        return encoder.pooling(normalise(hidden[:, 1:])), ids


class _StreamGraph(nn.Module):
    """The newest frames and their past to embeddings and their own keys and values."""

    start_keys: Tensor  # l 1 h 1 k
    start_values: Tensor

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        memory = FrameMemory(encoder.transformer, 1, 1, (encoder.layer,))
        for name, pairs in (
            ("start_keys", memory.start_keys),
            ("start_values", memory.start_values),
        ):
            self.register_buffer(name, torch.stack(pairs))  # l 1 h 1 k

    def forward(
        self,
        frames: Tensor,
        keys: Tensor,
        values: Tensor,
        past_bias: Tensor,
        cos: Tensor,
        sin: Tensor,
        start_cos: Tensor,
        start_sin: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        encoder = self.encoder
        ids = encoder.tokenizer.encode(frames)
        past = _GivenPast(
            keys=keys,
            values=values,
            bias=past_bias,
            angles=(cos[:, None], sin[:, None]),
            start_angles=(start_cos[:, None], start_sin[:, None]),
            start=(self.start_keys, self.start_values),
        )
        (hidden,) = encoder.transformer.features(ids, (encoder.layer,), past)
        embedding = encoder.pooling(normalise(hidden))
        return embedding, ids, torch.stack(past.new_keys), torch.stack(past.new_values)


class _GivenPast:
    """A `Memory` of tensors that were handed in; the frame's own are collected."""

    def __init__(
        self,
        *,
        keys: Tensor,
        values: Tensor,
        bias: Tensor,
        angles: tuple[Tensor, Tensor],
        start_angles: tuple[Tensor, Tensor],
        start: tuple[Tensor, Tensor],
    ) -> None:
        self._keys, self._values, self._bias = keys, values, bias
        self._angles, self._start_angles, self._start = angles, start_angles, start
        self.new_keys: list[Tensor] = []
        self.new_values: list[Tensor] = []

    def angles(
        self, config: TotoConfig, num_tokens: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        return self._angles

    def attend(self, block: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.new_keys.append(k)
        self.new_values.append(v)
        batch, num_tokens = len(q), q.shape[2]
        start_keys = rotate(self._start[0][block].expand(batch, -1, -1, -1), self._start_angles)
        start_values = self._start[1][block].expand(batch, -1, -1, -1)
        keys = torch.cat([start_keys, self._keys[block], k], dim=2)
        values = torch.cat([start_values, self._values[block], v], dim=2)
        shown = self._bias.new_zeros(batch, num_tokens, 1)
        past = self._bias[:, None].expand(-1, num_tokens, -1)
        future = torch.full((num_tokens, num_tokens), -torch.inf).triu(1).expand(batch, -1, -1)
        mask = torch.cat([shown, past, future], dim=2)[:, None]
        return scaled_dot_product_attention(q, keys, values, attn_mask=mask)

    def advance(self, num_tokens: int) -> None:
        pass


def _write(graph: nn.Module, inputs: Mapping[str, Tensor], outputs: list[str], path: Path) -> None:
    logging.getLogger("onnx_ir").setLevel(logging.WARNING)  # it tells of every constant it merges
    aside = path.with_name(f".{path.name}.part")
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
    aside.replace(path)


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


main = command("export", ExportConfig)(export)

if __name__ == "__main__":
    main()
