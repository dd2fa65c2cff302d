"""Mamba over visual tokens in one file (Gu & Dao 2023, arXiv 2312.00752; paper Table 6).

A block keeps a state of fixed size instead of keys and values. So the cost of a token does not
depend on the number of earlier tokens. The decay rate and the input weight of the state depend on
the token. Blocks have the parameter names of Hugging Face's ``MambaModel``.

If `mamba_ssm` is installed and the model is on CUDA, the kernel of `mamba_ssm` computes the
recurrence. Otherwise `selective_scan` computes it with a loop over time. The cost of the loop is
linear in the number of tokens, both forward and backward.

Shapes: b batch, t time (tokens), d width, e inner width, s state size, w length of the convolution.
"""

import importlib.util
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from .causal import CausalModel, SequenceLayout, check_sizes

__all__ = [
    "MambaConfig",
    "MambaModel",
    "MambaState",
    "RecurrentMemory",
    "selective_scan",
]

CHUNK = 64  # number of tokens whose states are in memory at the same time
STEP_RANGE = (1e-3, 0.1)  # smallest and largest time step at initialisation


@dataclass(frozen=True, kw_only=True, slots=True)
class MambaConfig(SequenceLayout):
    """Sizes of a Mamba. As in the original, the token embedding is also the output projection.

    Attributes:
        dim: width of the residual stream.
        layers: number of blocks.
        state: size of the state for each inner channel, 16 in the original.
        expand: ratio of the inner width to ``dim``, 2 in the original.
        convolution: length of the causal convolution, tokens, 4 in the original.
        norm_eps: epsilon of RMSNorm.
    """

    kind: ClassVar[str] = "mamba"
    dim: int
    layers: int
    state: int
    expand: int
    convolution: int
    norm_eps: float

    def __post_init__(self) -> None:
        """Check that the sizes are consistent."""
        SequenceLayout.__post_init__(self)
        check_sizes(self, "dim", "layers", "state", "expand")
        if self.convolution < 2:
            raise ValueError(f"convolution must be at least 2 tokens long, got {self.convolution}")

    @property
    def inner(self) -> int:
        """Width inside a block."""
        return self.expand * self.dim

    @property
    def step_rank(self) -> int:
        """Rank of the projection to the time steps."""
        return math.ceil(self.dim / 16)

    def build(self) -> "MambaModel":
        """Build the model with initialised weights."""
        return MambaModel(self)


class MambaModel(CausalModel):
    """A Mamba over visual tokens."""

    config: MambaConfig

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.lm_head = None
        self.init_weights()

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Initialise all weights with the rules of the authors.

        Embeddings and matrices are drawn from a normal distribution with standard deviation 0.02,
        divided by sqrt(layers) for the output matrices of blocks. The decay rates A of a channel
        are -1 to -s. D, the factor of the path that skips the recurrence, is 1. The bias of the
        time steps is drawn so that the steps are log-uniform from 0.001 to 0.1.
        """
        config = self.config
        for name, parameter in self.named_parameters():
            if name.endswith("A_log"):
                rates = torch.arange(1, config.state + 1, device=parameter.device)
                with torch.no_grad():
                    parameter.copy_(rates.log().expand_as(parameter))
            elif name.endswith("dt_proj.weight"):
                bound = config.step_rank**-0.5
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
            elif name.endswith("dt_proj.bias"):
                low, high = (math.log(step) for step in STEP_RANGE)
                nn.init.uniform_(parameter, low, high, generator=generator)
                with torch.no_grad():
                    steps = parameter.exp()
                    parameter.copy_(steps + torch.log(-torch.expm1(-steps)))  # inverse softplus
            elif "conv1d" in name:
                bound = config.convolution**-0.5
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
            elif parameter.ndim > 1:
                std = 0.02 / config.layers**0.5 if name.endswith("out_proj.weight") else 0.02
                nn.init.normal_(parameter, std=std, generator=generator)
            else:
                nn.init.ones_(parameter)

    def head_input(self, hidden: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Return the normalised output of the last block."""
        return self.norm(hidden)

    def new_memory(self, size: int) -> "MambaState":
        """Return the state before the first token. The state has a constant size."""
        return MambaState()

    def embed(
        self, ids: Int64[Tensor, "b t"], cache: "RecurrentMemory | None"
    ) -> tuple[Float[Tensor, "b t d"], tuple[()]]:
        """Return the token embedding."""
        return self.embed_tokens(ids), ()


@runtime_checkable
class RecurrentMemory(Protocol):
    """A cache that stores the state of each block between two calls of the model."""

    def read(self, block: int) -> tuple[Tensor, Tensor] | None:
        """Return the newest inputs of a block's convolution [b w-1 e], and its state [b e s].

        The result is None before the first `write`.
        """
        ...

    def write(self, block: int, inputs: Tensor, state: Tensor) -> None:
        """Store the newest inputs of a block's convolution and its state for the next `read`."""
        ...

    def advance(self, num_tokens: int) -> None:
        """Add the new tokens to the number of tokens that all blocks have processed."""
        ...


class MambaState:
    """The states of all blocks after the tokens that the model has processed.

    Attributes:
        length: number of tokens that the model has processed.
    """

    def __init__(self) -> None:
        self.length = 0
        self._blocks: dict[int, tuple[Tensor, Tensor]] = {}

    def read(self, block: int) -> tuple[Tensor, Tensor] | None:
        """Return the newest inputs of a block's convolution [b w-1 e], and its state [b e s].

        The result is None before the first `write`.
        """
        return self._blocks.get(block)

    def write(self, block: int, inputs: Tensor, state: Tensor) -> None:
        """Store the newest inputs of a block's convolution and its state for the next `read`."""
        self._blocks[block] = inputs, state

    def advance(self, num_tokens: int) -> None:
        """Add the new tokens to the length."""
        self.length += num_tokens


class _Block(nn.Module):
    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.mixer = _Mixer(config)

    def forward(self, x: Tensor, memory: RecurrentMemory | None = None, index: int = 0) -> Tensor:
        return x + self.mixer(self.norm(x), memory, index)


class _Mixer(nn.Module):
    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.sizes = (config.step_rank, config.state, config.state)
        inner = config.inner
        self.in_proj = nn.Linear(config.dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, config.convolution, groups=inner)
        self.x_proj = nn.Linear(inner, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(config.step_rank, inner)
        self.A_log = nn.Parameter(torch.empty(inner, config.state))
        self.D = nn.Parameter(torch.empty(inner))
        self.out_proj = nn.Linear(inner, config.dim, bias=False)

    def forward(self, x: Tensor, memory: RecurrentMemory | None, index: int) -> Tensor:
        inputs, gate = self.in_proj(x).chunk(2, dim=-1)  # b t e
        past = None if memory is None else memory.read(index)
        reach = self.conv1d.kernel_size[0] - 1
        before = inputs.new_zeros(len(x), reach, inputs.shape[2]) if past is None else past[0]
        inputs = torch.cat([before.to(inputs.dtype), inputs], dim=1)
        u = silu(self.conv1d(inputs.transpose(1, 2))).transpose(1, 2)  # b t e
        rank, b, c = self.x_proj(u).split(self.sizes, dim=-1)
        steps = softplus(self.dt_proj(rank).float())  # b t e
        rates = -self.A_log.float().exp()  # e s
        start = None if past is None else past[1]
        if memory is None and u.is_cuda and _has_kernel():
            y = _kernel_scan(u, steps, rates, b, c)
        else:
            y, state = selective_scan(u.float(), steps, rates, b.float(), c.float(), start)
            if memory is not None:
                memory.write(index, inputs[:, inputs.shape[1] - reach :], state)
        y = (y + u * self.D) * silu(gate)
        return self.out_proj(y.to(x.dtype))


def selective_scan(
    u: Float[Tensor, "b t e"],
    steps: Float[Tensor, "b t e"],
    rates: Float[Tensor, "e s"],
    b: Float[Tensor, "b t s"],
    c: Float[Tensor, "b t s"],
    start: Float[Tensor, "b e s"] | None = None,
) -> tuple[Float[Tensor, "b t e"], Float[Tensor, "b e s"]]:
    """Compute the recurrence of a selective state space (arXiv 2312.00752, equations 2 and 4).

        h_t = exp(steps_t * rates) * h_{t-1} + steps_t * b_t * u_t,    y_t = sum over s of c_t * h_t

    The tokens are divided into chunks, and only the state at the start of each chunk is kept. The
    backward pass computes the other states again. So the states of all tokens are never in memory
    at the same time.

    Args:
        u: inputs.
        steps: time step of each token, positive.
        rates: decay rates of the state, negative.
        b: input weights of the state.
        c: output weights of the state.
        start: the state before the first token. None is a zero state. No gradient is computed for
            it.

    Returns:
        The outputs y, and the last state. Gradients do not pass through the last state.
    """
    if start is None:
        start = u.new_zeros(u.shape[0], *rates.shape)
    return _SelectiveScan.apply(u, steps, rates, b, c, start)


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, steps: Tensor, rates: Tensor, b: Tensor, c: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor]:
        # time is the first dimension, so that each step is contiguous
        u, steps, b, c = (one.transpose(0, 1).contiguous() for one in (u, steps, b, c))
        y = torch.empty_like(u)
        starts, state = [], start
        for first in range(0, len(u), CHUNK):
            part = slice(first, first + CHUNK)
            starts.append(state)
            states, _ = _states(u[part], steps[part], rates, b[part], state)
            torch.matmul(states[1:], c[part, :, :, None], out=y[part].unsqueeze(-1))
            state = states[-1].clone()
        ctx.save_for_backward(u, steps, rates, b, c, *starts)
        ctx.mark_non_differentiable(state)
        return y.transpose(0, 1), state

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        u, steps, rates, b, c, *starts = ctx.saved_tensors
        output_gradient = outputs[0].transpose(0, 1).contiguous()
        to_u, to_steps, to_b, to_c = (torch.empty_like(one) for one in (u, steps, b, c))
        to_rates, later = torch.zeros_like(rates), torch.zeros_like(starts[0])
        for number in reversed(range(len(starts))):
            part = slice(number * CHUNK, (number + 1) * CHUNK)
            states, decays = _states(u[part], steps[part], rates, b[part], starts[number])
            to_c[part] = (output_gradient[part, :, None] @ states[1:]).squeeze(2)
            # the gradient of a state comes from the output and from the next state
            flow = output_gradient[part, ..., None] * c[part, :, None]
            flow[-1] += later
            for k in reversed(range(len(flow) - 1)):
                flow[k].addcmul_(decays[k + 1], flow[k + 1])
            later = decays[0] * flow[0]
            entered = (flow @ b[part, ..., None]).squeeze(3)  # gradient of steps * u
            to_u[part] = entered * steps[part]
            to_b[part] = ((steps[part] * u[part])[:, :, None] @ flow).squeeze(2)
            decay = flow.mul_(decays).mul_(states[:-1])  # gradient of steps * rates
            to_steps[part] = entered * u[part] + (decay * rates).sum(-1)
            to_rates += (decay * steps[part, ..., None]).sum((0, 1))
        to_u, to_steps, to_b, to_c = (one.transpose(0, 1) for one in (to_u, to_steps, to_b, to_c))
        return to_u, to_steps, to_rates, to_b, to_c, None


def _states(
    u: Tensor, steps: Tensor, rates: Tensor, b: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the states [1+t b e s] and the decays of a chunk.

    The first of the states is the state before the chunk.
    """
    decays = (steps[..., None] * rates).exp_()
    states = decays.new_empty(1 + len(u), *start.shape)
    states[0] = start
    torch.mul((steps * u)[..., None], b[:, :, None], out=states[1:])
    for k in range(len(u)):
        states[k + 1].addcmul_(decays[k], states[k])
    return states, decays


def _has_kernel() -> bool:
    return importlib.util.find_spec("mamba_ssm") is not None


def _kernel_scan(u: Tensor, steps: Tensor, rates: Tensor, b: Tensor, c: Tensor) -> Tensor:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # pyrefly: ignore

    # the kernel needs time as the last dimension
    turned = (one.transpose(1, 2).contiguous() for one in (u, steps.to(u.dtype)))
    turned_b, turned_c = (one.transpose(1, 2).contiguous() for one in (b, c))
    return selective_scan_fn(*turned, rates, turned_b, turned_c).transpose(1, 2)
