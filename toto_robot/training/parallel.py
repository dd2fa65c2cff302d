"""Distribute training over devices: one process, or several processes with FSDP2.

    python -m toto_robot.training.pretrain                                    # one process
    torchrun --nproc-per-node 8 -m toto_robot.training.pretrain engine=cluster

torchrun starts the processes (ranks), and sets rank and world size in environment variables. With
one process, nothing is sharded, and no process group is created. With several processes,
parameters, gradients and optimizer state are sharded over groups of ``shard_ranks`` ranks. Each
group has a full copy (hybrid sharding). CPU ranks communicate with gloo, and GPUs with NCCL.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Protocol, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from ..device import choose_device

__all__ = [
    "Precision",
    "PrecisionSetting",
    "Ranks",
    "Trainable",
    "choose_precision",
    "distribute",
    "join_ranks",
    "whole",
]

T = TypeVar("T")

# `Ranks.wait`: the other ranks wait while rank 0 prepares data, and a large data set takes days to
# tokenise. Other communication keeps torch's limits of minutes, which end a run that hangs.
LONGEST_WAIT = timedelta(days=14)

Precision = Literal["float32", "bfloat16"]
PrecisionSetting = Literal["auto", "float32", "bfloat16"]


class Trainable(Protocol):
    """A module that the training loop `engine.fit` can train.

    Attributes:
        layers: the blocks. The training loop compiles, recomputes and shards each block separately.
    """

    layers: nn.ModuleList

    def loss(self, *batch: Tensor) -> Tensor:
        """Return the mean loss of a batch."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process of a training run, and the group of all processes.

    Attributes:
        rank: number of this process, from 0.
        world: number of processes.
        device: device of this process.
        mesh: device mesh with the dimensions replicate and shard. None with one process.
        waiting: the process group of `wait`, whose time limit is long. None: the default group.
    """

    rank: int
    world: int
    device: torch.device
    mesh: DeviceMesh | None
    waiting: Any = None

    @property
    def first(self) -> bool:
        """True for rank 0, which writes the files and prints."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of each value over all ranks."""
        return self.total(values) / self.world

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of each value over all ranks."""
        if self.mesh is not None:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def any(self, *flags: bool) -> list[bool]:
        """Return, for each flag, whether it is True on any rank. All ranks must call this."""
        if self.mesh is None:
            return list(flags)
        values = torch.tensor(flags, dtype=torch.float32, device=self.device)
        return [value > 0 for value in self.total(values).tolist()]

    def first_then_others(self, call: Callable[[], T]) -> T:
        """Return the result of a call that runs on the first rank before it runs on the others."""
        if not self.first:
            self.wait()
        result = call()
        if self.first:
            self.wait()
        return result

    def wait(self) -> None:
        """Block until all ranks have called this method."""
        if self.mesh is not None:
            dist.barrier(self.waiting)


@contextmanager
def join_ranks(device: str, shard_ranks: int | None) -> Iterator[Ranks]:
    """Join the process group of ``torchrun``, and leave it at the end of the `with` block.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``. ``auto`` uses a GPU if there is one.
        shard_ranks: number of ranks that share one copy of the model. None shards it over all
            ranks.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch sees no GPU; choose cpu or auto")
    on_gpu = choose_device(device) == "cuda"
    world = int(os.environ.get("WORLD_SIZE", "1"))
    shards = world if shard_ranks is None else shard_ranks
    if shards < 1 or world % shards:
        raise ValueError(f"shard_ranks must divide the {world} ranks, got {shard_ranks}")
    place = torch.device("cpu")
    if on_gpu:
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    if world == 1:
        yield Ranks(rank=0, world=1, device=place, mesh=None)
        return
    # gloo in addition to NCCL, because checkpoints are gathered and written on the CPU
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        mesh = init_device_mesh(
            place.type, (world // shards, shards), mesh_dim_names=("replicate", "shard")
        )
        waiting = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
        yield Ranks(rank=dist.get_rank(), world=world, device=place, mesh=mesh, waiting=waiting)
    finally:
        dist.destroy_process_group()


def choose_precision(wanted: PrecisionSetting, ranks: Ranks) -> tuple[Precision, str]:
    """Return the precision of matrix products on this machine, and the reason for it.

    `auto` chooses bfloat16 if the device has instructions for it. Several ranks on CPUs use
    float32, because FSDP2 would also round the residual stream of the blocks to bfloat16.
    """
    if wanted != "auto":
        return wanted, "as set"
    if ranks.device.type == "cuda":
        name = torch.cuda.get_device_name(ranks.device)
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16", f"{name} has instructions for it"
        return "float32", f"{name} has no instructions for bfloat16"
    if ranks.world > 1:
        return "float32", "several processes on CPUs"
    # torch before 2.9 cannot list them
    has = getattr(torch.cpu, "get_capabilities", dict)()
    name = has.get("cpu_name", "this CPU")
    for flag in ("amx_bf16", "avx512_bf16", "bf16"):  # bf16: ARM
        if has.get(flag):
            return "bfloat16", f"{name} has the instructions {flag}"
    return "float32", f"{name} has no known instructions for bfloat16"


def distribute(
    model: nn.Module,
    ranks: Ranks,
    *,
    precision: Precision,
    recompute: bool,
    compile_blocks: bool,
) -> None:
    """Move a model to its device and shard it over the ranks, in place.

    Args:
        model: a `Trainable`, equal on all ranks.
        ranks: this process and its group.
        precision: precision of matrix products. Parameters, reductions and the optimizer stay
            float32.
        recompute: True does not store the activations inside a block, and computes them again for
            the gradient (activation checkpointing). It needs less memory and a third more
            computation.
        compile_blocks: True compiles each block with TorchInductor.
    """
    model.to(ranks.device)
    blocks = cast(nn.ModuleList, model.layers)
    for index, block in enumerate(blocks):
        if recompute:
            block.forward = _recomputed(block)
        if compile_blocks:
            blocks[index] = cast(nn.Module, torch.compile(block))
    if ranks.mesh is None:
        return
    policy = MixedPrecisionPolicy()
    if precision == "bfloat16":
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
        )
    mesh = ranks.mesh if ranks.mesh.size(0) > 1 else ranks.mesh["shard"]
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # Outside the blocks, weights and tensors are float32, and autocast casts the products, as with
    # one process. So heads and losses have float32 inputs.
    fully_shard(model, mesh=mesh)
    # FSDP2 hooks only `forward` by default, but the training loop calls `loss`
    register_fsdp_forward_method(model, "loss")


def arithmetic(ranks: Ranks, precision: Precision) -> Any:
    """Return the autocast context of a forward pass.

    Sharded models need it too, because FSDP2 casts only weights and inputs of blocks.
    """
    if precision == "float32":
        return nullcontext()
    return torch.autocast(ranks.device.type, torch.bfloat16)


def defer_reduction(model: nn.Module, last: bool) -> None:
    """Set whether the next backward pass sums the gradients over the ranks.

    Only the last of several accumulated backward passes needs this sum.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)


def whole(tensor: Tensor) -> Tensor:
    """Return the full tensor. If the tensor is sharded, the shards of all ranks are gathered."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _recomputed(block: nn.Module) -> Any:
    forward = block.forward

    def recompute(*args: object) -> Any:
        return checkpoint(forward, *args, use_reentrant=False)

    return recompute
