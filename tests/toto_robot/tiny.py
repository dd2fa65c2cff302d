"""Models and settings small enough for a test of milliseconds."""

import dataclasses

import torch

from toto_robot import Encoder
from toto_robot.models import TotoConfig
from toto_robot.tokenizers import LightConfig
from toto_robot.training.engine import EngineConfig
from toto_robot.training.guard import GuardConfig

GUARD = GuardConfig(deviations=6.0, history=20, most_skipped=2)


def tiny_toto(side):
    """An encoder of frames of ``side`` pixels with fresh weights, always the same."""
    torch.manual_seed(0)
    tokenizer = LightConfig(
        image_size=side, levels=(8, 8, 8, 4, 4), widths=(8, 8), blocks=(1, 1),
        decoder_widths=(8, 8, 8), decoder_blocks=(1, 1, 1),
    ).build()  # fmt: skip
    transformer = TotoConfig(
        codes=8192, dim=16, layers=2, heads=2, mlp_hidden=24, tie_embeddings=True,
        tokens_per_frame=(side // 8) ** 2, frames=4, rope_base=10000.0, norm_eps=1e-5,
    ).build()  # fmt: skip
    return Encoder(tokenizer, transformer, layer=1, pool="grid2")


def tiny_engine(**changes):
    """One CPU process that logs each step."""
    engine = EngineConfig(
        device="cpu", precision="float32", compile=False, recompute=False, shard_ranks=None,
        read_threads=1, log_every=1, keep_every=4, keep_most=2, keep_in_background=False,
        guard=GUARD,
    )  # fmt: skip
    return dataclasses.replace(engine, **changes)
