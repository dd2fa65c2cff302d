"""Generate the next frames token by token, with cached keys and values.

    tokens = generate_frames(transformer, past, num_frames=4)            # [b t n] -> [b 4 n]
    tokens = generate_frames(transformer, past, 64, sampling=Sampling(temperature=1.0, top_p=0.9))

    for frame in continue_frames(transformer, past, 64): ...              # [b n] each, one by one

    tokens = preview_frame(transformer, past)                             # [b t n] -> [b n]

There are b videos with t earlier frames of n tokens. `preview_frame` predicts a whole frame in one
pass. Its input contains the newest frame twice: once as an earlier frame, and once in the place of
the unknown next frame. It selects the most likely token at each position.

Speculative decoding (Leviathan et al. 2023) could use the tokens of the newest frame as a draft of
the next frame. With the toto-nano of version 0.1 this was not faster, because too many tokens of
the draft were wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..encoders.encoder import Encoder
from ..encoders.loading import load_toto
from ..models import CausalModel
from ..models.causal import require_causal

__all__ = [
    "GREEDY",
    "Sampling",
    "choose",
    "continue_frames",
    "generate_frames",
    "load_predictor",
    "preview_frame",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Settings for choosing a token from its distribution.

    Attributes:
        temperature: number by which the logits are divided; 0: the most likely token is selected.
        top_k: only this number of most likely tokens can be selected; null: all tokens.
        top_p: only the most likely tokens whose probabilities sum to this value can be selected,
            but at least one token (nucleus sampling, Holtzman et al. 2020).
    """

    temperature: float
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: a value is out of its range.
        """
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1 or None, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")


GREEDY = Sampling(temperature=0.0)


def load_predictor(name_or_path: str, device: str) -> Encoder:
    """Load an encoder whose model can predict the next token.

    Raises:
        ValueError: the model cannot predict tokens. The errors of `load_toto` are also possible.
    """
    return load_toto(name_or_path, device=device)


def generate_frames(
    transformer: CausalModel,
    past: Int64[Tensor, "b t n"],
    num_frames: int,
    *,
    sampling: Sampling = GREEDY,
    generator: torch.Generator | None = None,
    window: int | None = None,
) -> Int64[Tensor, "b f n"]:
    """Generate the tokens of the next f frames of b videos.

    Args:
        transformer: model that predicts the tokens.
        past: tokens of the t earlier frames, oldest frame first; t may be 0.
        num_frames: number f of frames to generate.
        sampling: settings for selecting a token from its probabilities.
        generator: random generator on the CPU; None: torch's default generator.
        window: number of frames that the model uses, including the generated frame; None: as many
            as in a training sequence. When the window is full, its older half is dropped. The rest
            is processed again from the start token, so that the input is always like in training.

    Raises:
        ValueError: the window is longer than in training, or tokens or numbers are invalid.
    """
    predicted = continue_frames(
        transformer, past, num_frames, sampling=sampling, generator=generator, window=window
    )
    return torch.stack(list(predicted), dim=1)


@torch.no_grad()
def continue_frames(
    transformer: CausalModel,
    past: Int64[Tensor, "b t n"],
    num_frames: int,
    *,
    sampling: Sampling = GREEDY,
    generator: torch.Generator | None = None,
    window: int | None = None,
) -> Iterator[Int64[Tensor, "b n"]]:
    """Generate frames as `generate_frames` does; yield the tokens [b n] of one frame at a time."""
    config = transformer.config
    window = config.frames if window is None else window
    past = _check(transformer, past, window)
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    frames = list(past.unbind(1))
    frames = frames[max(0, len(frames) - (window - 1)) :]
    cache, last = _read(transformer, past, frames, window)
    for _ in range(num_frames):
        if len(frames) == window:
            frames = frames[window - window // 2 :]
            cache, last = _read(transformer, past, frames, window)
        frame = past.new_empty(len(past), config.tokens_per_frame)
        chance = torch.rand(frame.shape, generator=generator).to(past.device)
        for place in range(config.tokens_per_frame):
            logits = transformer(last, cache)[:, 0, : config.codes]  # special tokens are excluded
            frame[:, place] = choose(logits, sampling, chance[:, place])
            last = frame[:, place : place + 1]
        frames.append(frame)
        yield frame


@torch.no_grad()
def preview_frame(
    transformer: CausalModel, past: Int64[Tensor, "b t n"], *, window: int | None = None
) -> Int64[Tensor, "b n"]:
    """Predict the tokens of the next frame in one pass.

    Args:
        transformer: model that predicts the tokens.
        past: tokens of the t earlier frames, oldest frame first; at least one frame.
        window: number of frames that the model uses, including the next frame; None: as many as in
            a training sequence.

    Raises:
        ValueError: there are no earlier frames, the window is longer than in training, or tokens
            are invalid.
    """
    config = transformer.config
    window = config.frames if window is None else window
    past = _check(transformer, past, window)
    if past.shape[1] == 0:
        raise ValueError("past must have at least one frame")
    frames = past[:, max(0, past.shape[1] - (window - 1)) :] if window > 1 else past[:, :0]
    start = past.new_full((len(past), 1), config.start_video)
    ids = torch.cat([start, frames.flatten(1), past[:, -1, :-1]], dim=1)
    (hidden,) = transformer.features(ids, (-1,))
    logits = transformer.logits(hidden[:, -config.tokens_per_frame :])
    return logits[..., : config.codes].argmax(dim=-1)


def choose(
    logits: Float[Tensor, "b v"], sampling: Sampling, chance: Float[Tensor, " b"]
) -> Int64[Tensor, " b"]:
    """Select one token for each of b distributions over v tokens.

    Args:
        logits: logits of all tokens.
        sampling: settings for selecting a token.
        chance: uniform random numbers in [0, 1), which determine the selected tokens.
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    shares = torch.softmax(logits.float() / sampling.temperature, dim=-1)
    ids = None
    if sampling.top_k is not None or sampling.top_p < 1:
        shares, ids = shares.sort(dim=-1, descending=True, stable=True)
        if sampling.top_k is not None:
            shares[:, sampling.top_k :] = 0
        # the first token that brings the sum to top_p is the last that can be chosen
        before = shares.cumsum(dim=-1) - shares
        shares = shares.where(before < sampling.top_p * shares.sum(-1, keepdim=True), 0.0)
    sums = shares.cumsum(dim=-1)
    drawn = chance.to(sums)[:, None] * sums[:, -1:]
    ranks = torch.arange(sums.shape[-1], device=sums.device)
    last_possible = ranks.where(shares > 0, 0).amax(dim=-1, keepdim=True)
    # rounding may make the draw equal to the last sum, after which there is no token
    rank = torch.minimum(torch.searchsorted(sums, drawn, right=True), last_possible)
    return (rank if ids is None else ids.gather(-1, rank))[:, 0]


def _check(transformer: CausalModel, past: Tensor, window: int) -> Tensor:
    """Check the tokens of the earlier frames, and return them on the model's device.

    Raises:
        ValueError: the window or the tokens of the earlier frames are invalid.
    """
    config = transformer.config
    require_causal(config, "a prediction")
    if not 1 <= window <= config.frames:
        raise ValueError(
            f"window must be in [1, {config.frames}] frames, the length that the model was "
            f"trained on, got {window}"
        )
    if past.ndim != 3 or past.shape[2] != config.tokens_per_frame:
        raise ValueError(
            f"past must have shape [b t {config.tokens_per_frame}], got {list(past.shape)}"
        )
    if past.numel() and not 0 <= int(past.min()) <= int(past.max()) < config.codes:
        raise ValueError(
            f"tokens must be in [0, {config.codes}), got [{int(past.min())}, {int(past.max())}]"
        )
    return past.to(transformer.embed_tokens.weight.device)


def _read(
    transformer: CausalModel, past: Tensor, frames: list[Tensor], window: int
) -> tuple[Any, Tensor]:
    """Process the start token and all tokens of the frames except the last token.

    Returns the cache of keys and values, and the last token, which is the next input.
    """
    start = past.new_full((len(past), 1), transformer.config.start_video)
    ids = torch.cat([start, *frames], dim=1)
    cache = transformer.new_memory(1 + window * transformer.config.tokens_per_frame)
    if ids.shape[1] > 1:
        # only for the cache: the output is not needed
        transformer.features(ids[:, :-1], (-1,), cache)
    return cache, ids[:, -1:]
