"""Golden vectors: reference images in a checkpoint, with the encoder's outputs for them.

`load_encoder` computes the outputs again and compares them with the saved outputs. So a changed
version of torch, resize method, channel order or precision is detected before a robot moves, if it
changes the outputs. There are three stages:

    1. preprocessing (channel order, value range, resize): frame -> input of the tokenizer
    2. tokenizer: its input -> tokens
    3. transformer: tokens -> features of a layer, averaged over the tokens

The third stage gets the saved tokens as its input, so an error names the stage that differs.
`golden.safetensors` contains the frames (uint8 [h w 3]), m pixels of the tokenizer's input (float32
[3 m]), the n tokens (int32 [n]) and d features of l layers (float32 [l d]). They were computed in
float32 on a CPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..downloads import check_downloaded
from ..files import written_aside
from ..moved import moved_names
from ..tokenizers.tokenizer import check_frames
from .encoder import Encoder

__all__ = [
    "GOLDEN",
    "TOLERANCES",
    "Tolerance",
    "golden_frames",
    "has_golden",
    "record_golden",
    "verify_golden",
]

__getattr__ = moved_names(
    __name__,
    {
        "golden_pictures": f"{__name__}:golden_frames",
        "write_golden": "toto_robot.encoders.loading:write_golden",
    },
)

GOLDEN = "golden.safetensors"

SAMPLE_STRIDE = 29  # in values of the tokenizer's input; coprime to image sides


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """The allowed differences between the outputs of an encoder and its golden vectors.

    Attributes:
        input: maximum difference of a value in the tokenizer's input, whose range is [-1, 1].
        tokens: minimum share of equal tokens.
        features: maximum difference of the averaged features. The features of each saved token are
            scaled to a root mean square of 1, and then averaged over the tokens.
    """

    input: float
    tokens: float
    features: float


# Measured with toto-nano on a CPU (torch 2.13), on its 4 images and all layers, against float32:
# float64 differs by 0 in the input, 0 % of the tokens and 1e-6 in the features; float16 by 5e-4, at
# most 1.6 % and 9e-4; bfloat16 by 4e-3, at most 8.6 % and 7e-3. The margin is for deeper models and
# other processors. Nothing is measured on accelerators, where convolutions in float32 may have the
# mantissa of float16 (TF32).
_HALF = Tolerance(input=2e-3, tokens=0.95, features=5e-3)
_BFLOAT = Tolerance(input=1e-2, tokens=0.8, features=3e-2)
TOLERANCES: Mapping[tuple[torch.dtype, str], Tolerance] = MappingProxyType(
    {
        (torch.float64, "cpu"): Tolerance(input=1e-4, tokens=0.99, features=1e-4),
        (torch.float32, "cpu"): Tolerance(input=1e-4, tokens=0.99, features=1e-4),
        (torch.float16, "cpu"): _HALF,
        (torch.bfloat16, "cpu"): _BFLOAT,
        (torch.float32, "accelerator"): Tolerance(input=1e-4, tokens=0.95, features=5e-3),
        (torch.float16, "accelerator"): _HALF,
        (torch.bfloat16, "accelerator"): _BFLOAT,
    }
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Vectors:
    """One reference image, and the outputs of the stages for it."""

    frame: Tensor  # h w 3
    input: Tensor  # 3 m
    tokens: Tensor  # n
    features: Tensor  # l d


def record_golden(encoder: Encoder, folder: Path, frames: Sequence[np.ndarray] = ()) -> Path:
    """Compute the golden vectors of an encoder, and write them into its checkpoint.

    Args:
        encoder: the encoder of the checkpoint, in float32 on the CPU.
        folder: the checkpoint's folder.
        frames: a few small uint8 images [h w 3] like those of the training data. The function also
            uses a synthetic test image, which is larger than the encoder's input.

    Returns:
        Path of the written file, which replaces an existing file.

    Raises:
        ValueError: a frame is invalid.
    """
    tensors: dict[str, Tensor] = {}
    for index, frame in enumerate([_pattern(encoder.image_size), *frames]):
        image = check_frames(np.asarray(frame)[None])
        network_input, tokens = _tokenize(encoder, image)
        features = _features(encoder, tokens, range(encoder.num_layers + 1))[0]
        tensors |= {
            f"{index}.frame": image[0].contiguous(),
            f"{index}.input": network_input,
            f"{index}.tokens": tokens[0].int(),
            f"{index}.features": features,
        }
    notes = {"weights_hash": encoder.weights_hash, "torch": torch.__version__}
    with written_aside(folder / GOLDEN) as aside:
        save_file(tensors, aside, notes)
        aside.chmod(0o644)  # safetensors makes the file readable only by its owner
    return folder / GOLDEN


def has_golden(folder: Path) -> bool:
    """Return whether a checkpoint has golden vectors."""
    return (folder / GOLDEN).is_file()


def golden_frames(folder: Path) -> list[UInt8[Tensor, "h w 3"]]:
    """Return the images of a checkpoint's golden vectors; an empty list if it has none."""
    if not has_golden(folder):
        return []
    _, vectors = _read(folder / GOLDEN)
    return [one.frame for one in vectors]


@torch.no_grad()
def verify_golden(
    encoder: Encoder,
    folder: Path,
    layers: Sequence[int] | None = None,
    frames: int | None = None,
) -> None:
    """Compare the outputs of an encoder with the golden vectors of its checkpoint.

    Args:
        encoder: the encoder; outputs are computed on its device and in its dtype.
        folder: the checkpoint's folder.
        layers: numbers of the layers whose features are compared; None: the encoder's layers.
        frames: number of reference images that are compared, from the first; None: all.

    Raises:
        FileNotFoundError: the checkpoint has no golden vectors.
        ValueError: a difference is larger than allowed by `TOLERANCES` (the message names the
            stage), the table has no tolerance for this dtype and device, the file is damaged, or it
            belongs to other weights.
    """
    file = folder / GOLDEN
    notes, vectors = _read(file)
    if notes.get("weights_hash") != encoder.weights_hash:
        raise ValueError(f"{file} belongs to other weights; write_golden writes it again")
    tolerance = _tolerance(encoder)
    vectors = vectors[:frames]
    for index, one in enumerate(vectors):
        network_input, tokens = _tokenize(encoder, one.frame[None])
        stage, what = _compare_input(network_input, one.input, tolerance.input)
        if not stage:
            equal = (tokens[0] == one.tokens).float().mean().item()
            stage = "tokenizer" if equal < tolerance.tokens else ""
            what = f"{equal:.1%} of its tokens are equal, needed {tolerance.tokens:.0%}"
        if stage:
            raise _mismatch(file, stage, f"image {index}: {what}", encoder, notes)
    wanted = list(encoder.layers) if layers is None else list(layers)
    expected = torch.stack([one.features[wanted] for one in vectors])
    found = _features(encoder, torch.stack([one.tokens for one in vectors]).long(), wanted)
    difference = (found - expected).abs().amax(dim=(0, 2))  # l
    worst = int(difference.argmax())
    # written so that a NaN is also a mismatch
    if not difference[worst] <= tolerance.features:
        what = (
            f"features of layer {wanted[worst]} differ by {difference[worst]:.2g} on the recorded "
            f"tokens, allowed {tolerance.features:.2g}"
        )
        raise _mismatch(file, "transformer", what, encoder, notes)


def _read(file: Path) -> tuple[dict[str, str], list[_Vectors]]:
    check_downloaded(file)
    try:
        with safe_open(file, framework="pt") as opened:
            notes = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        count = 1 + max(int(name.split(".")[0]) for name in tensors)
        vectors = [
            _Vectors(
                frame=tensors[f"{index}.frame"],
                input=tensors[f"{index}.input"],
                tokens=tensors[f"{index}.tokens"],
                features=tensors[f"{index}.features"],
            )
            for index in range(count)
        ]
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error}); fetch the checkpoint again") from error
    return notes, vectors


def _tolerance(encoder: Encoder) -> Tolerance:
    parameters = [*encoder.tokenizer.parameters(), *encoder.transformer.parameters()]
    dtypes = sorted({str(parameter.dtype) for parameter in parameters})
    if len(dtypes) > 1:
        raise ValueError(f"golden vectors: stage 'dtype' is wrong: weights are mixed, {dtypes}")
    device = "cpu" if parameters[0].device.type == "cpu" else "accelerator"
    key = (parameters[0].dtype, device)
    if key not in TOLERANCES:
        known = [f"{dtype} on {where}" for dtype, where in TOLERANCES]
        raise ValueError(
            f"golden vectors: stage 'dtype' is wrong: no tolerance is known for {dtypes[0]} on "
            f"{device}; known: {known}; verify=False loads it without this check"
        )
    return TOLERANCES[key]


def _tokenize(
    encoder: Encoder, image: UInt8[Tensor, "1 h w 3"]
) -> tuple[Float[Tensor, "3 m"], Int64[Tensor, "1 n"]]:
    """Tokenise an image; return m pixels [3 m] of the tokenizer's input, and the tokens."""
    inputs: list[Tensor] = []
    handle = encoder.tokenizer.encoder.register_forward_pre_hook(
        lambda _, arguments: inputs.append(arguments[0])
    )
    try:
        tokens = encoder.tokenize(image)
    finally:
        handle.remove()
    # both tokenizers' inputs have colour as their first dimension
    values = inputs[0][0].unflatten(0, (3, -1)).flatten(1)
    return values[:, ::SAMPLE_STRIDE].float().cpu().contiguous(), tokens.cpu()


def _features(
    encoder: Encoder, tokens: Int64[Tensor, "b n"], layers: Sequence[int]
) -> Float[Tensor, "b l d"]:
    features = encoder.clip_features(tokens[:, None], layers)  # independent of repeat_frame
    return torch.stack([one.float().mean((1, 2)) for one in features], dim=1).cpu()


def _compare_input(
    found: Float[Tensor, "3 m"], expected: Tensor, allowed: float
) -> tuple[str, str]:
    """Return the name of the wrong step of the preprocessing, and its error; both empty if none."""
    if found.shape != expected.shape:
        return "resize", f"{tuple(found.shape)} values arrive, expected {tuple(expected.shape)}"
    difference = _distance(found, expected)
    if difference <= allowed:
        return "", ""
    for order in list(permutations(range(3)))[1:]:
        if _distance(found[list(order)], expected) <= allowed:
            return (
                "channel order",
                f"red, green and blue arrive as {''.join('RGB'[i] for i in order)}",
            )
    for_fit = torch.stack([found, torch.ones_like(found)], dim=2)  # 3 m 2
    fit = torch.linalg.lstsq(for_fit, expected[:, :, None]).solution
    if _distance((for_fit @ fit)[:, :, 0], expected) <= allowed:
        low, high = found.min().item(), found.max().item()
        return "value range", f"values arrive in [{low:.3g}, {high:.3g}], with a different scaling"
    return "resize", f"pixels differ by {difference:.2g}, allowed {allowed:.2g}"


def _distance(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


def _mismatch(
    file: Path, stage: str, what: str, encoder: Encoder, notes: Mapping[str, str]
) -> ValueError:
    weight = encoder.transformer.embed_tokens.weight
    here = [f"torch {torch.__version__}", f"{weight.dtype} on {weight.device}"]
    if (precision := torch.get_float32_matmul_precision()) != "highest":
        here.append(f"float32 matmul precision {precision!r}")
    return ValueError(
        f"golden vectors: stage {stage!r} is wrong: {what} ({', '.join(here)}; {file} was written "
        f"with torch {notes.get('torch')}). Embeddings would differ from those that policies were "
        "trained on; verify=False loads the encoder without this check"
    )


def _pattern(image_size: int) -> NDArray[np.uint8]:
    """Return a test image [h w 3] on which possible faults cause different errors.

    The three colour channels differ, so that exchanged channels are detected. The image has smooth
    areas and a pattern of single pixels, is not square, and is larger than the encoder's input, so
    that another resize method is detected.
    """
    height, width = image_size * 5 // 4, image_size * 3 // 2
    rows, columns = np.mgrid[:height, :width]
    checks = np.where((rows + columns) % 2, 230, 20)
    red = np.where(rows < height // 2, checks, columns * 255 // width)
    green = rows * 255 // height
    blue = (rows**2 + columns**2) * 20 // image_size**2 * 12
    return np.stack([red, green, blue], axis=-1).clip(0, 255).astype(np.uint8)
