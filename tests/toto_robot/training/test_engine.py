"""The training loop: its guard, its checkpoints, accumulation, and its ranks."""

import copy
import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.flop_counter import FlopCounterMode

from tests.toto_robot.tiny import GUARD, tiny_engine
from toto_robot.models import TotoConfig
from toto_robot.models.adapters import LowRankAdapters
from toto_robot.models.gpt2 import Gpt2Config
from toto_robot.models.mae import MaeConfig
from toto_robot.models.mamba import MambaConfig
from toto_robot.models.patches import PatchConfig
from toto_robot.models.transformer import Block
from toto_robot.models.vision_transformer import VitConfig
from toto_robot.probing.heads import LayerHeads
from toto_robot.recognition.sta_head import StaHead, StaModel
from toto_robot.training import engine as engine_module
from toto_robot.training import parallel, throughput
from toto_robot.training.engine import fit
from toto_robot.training.finetuned_model import FineTunedModel
from toto_robot.training.guard import Guard, GuardConfig
from toto_robot.training.optimizer import OptimizerConfig
from toto_robot.training.parallel import Ranks, join_ranks
from toto_robot.training.phase import Phase
from toto_robot.training.throughput import peak_flops

MODEL = TotoConfig(
    codes=40,
    dim=32,
    layers=2,
    heads=2,
    mlp_hidden=48,
    tie_embeddings=True,
    tokens_per_frame=8,
    frames=2,
    rope_base=10000.0,
    norm_eps=1e-5,
)
ENGINE = tiny_engine()
UNKEPT = tiny_engine(keep_every=1000)  # its checkpoints are nobody's business: the last one only
OPTIMIZER = OptimizerConfig(
    lr=1e-2,
    betas=(0.9, 0.95),
    weight_decay=0.1,
    warmup_steps=2,
    final_lr_fraction=0.1,
    clip_norm=1.0,
)


def rows(first, count):
    """Sequences that count on from a number of their own: a small model learns them."""
    starts = [
        int(np.random.default_rng((7, row)).integers(40)) for row in range(first, first + count)
    ]
    ids = (torch.tensor(starts)[:, None] + torch.arange(17)) % 40
    return (torch.cat([torch.full((count, 1), MODEL.start_video), ids], dim=1),)


def phase(**changes):
    values = {
        "steps": 12,
        "batch": 4,
        "part": 2,
        "rows": rows,
        "tokens_per_row": 16,
        "flops_per_row": 1e6,
        "validation": {"held_out": lambda first, count: rows(10_000 + first, count)},
        "validation_rows": 3,
    }
    return Phase(**(values | changes))


def train(out, engine=ENGINE, phases=None, optimizer=OPTIMIZER):
    torch.manual_seed(0)
    model = MODEL.build()
    with join_ranks(engine.device, engine.shard_ranks) as ranks:
        return fit(model, phases or [phase()], optimizer, engine, out, ranks, title="loss")


def log_of(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(out):
    return [row["loss"] for row in log_of(out)]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_a_model_learns_and_the_log_says_how(tmp_path):
    result = train(tmp_path, UNKEPT, [phase(steps=60, batch=8, part=8)])
    found = log_of(tmp_path)
    assert result.finished
    assert result.steps == 60
    assert result.tokens == 60 * 8 * 16 == found[-1]["tokens"]
    assert found[0]["validation_loss"] > 3.0 > 1.5 > found[-1]["validation_loss"]
    assert result.scores["validation/held_out"] == found[-1]["validation/held_out"]
    assert (tmp_path / "curve.png").stat().st_size > 0
    speeds = [json.loads(line) for line in (tmp_path / "speed.jsonl").read_text().splitlines()]
    assert len(speeds) == 60
    assert all(row["model_flops_utilisation"] > 0 for row in speeds)
    assert all(row["tokens_per_s"] > 0 for row in speeds)
    model = MODEL.build()
    model.load_state_dict(result.weights)
    expected = sum(model.loss(*rows(10_000 + i, 1)).item() for i in range(3)) / 3
    assert found[-1]["validation_loss"] == pytest.approx(expected, abs=1e-6)


def test_parts_of_a_batch_make_the_same_step(tmp_path):
    train(tmp_path / "parts", UNKEPT, [phase(batch=4, part=1)])
    train(tmp_path / "whole", UNKEPT, [phase(batch=4, part=4)])
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)


def test_recomputed_activations_make_the_same_step(tmp_path, monkeypatch):
    forward = Mock(side_effect=Block.forward)
    monkeypatch.setattr(Block, "forward", lambda *args: forward(*args))
    train(tmp_path / "kept", UNKEPT)
    once, steps, parts = forward.call_count, 12, 2
    train(tmp_path / "recomputed", dataclasses.replace(UNKEPT, recompute=True))
    assert forward.call_count - 2 * once == steps * parts * MODEL.layers
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "recomputed"), abs=1e-6)


def test_a_killed_run_goes_on_to_the_bit(tmp_path):
    engine = dataclasses.replace(ENGINE, log_every=3)
    phases = [phase(steps=5), phase(steps=7, batch=2, part=1)]
    whole = train(tmp_path / "whole", engine, phases)
    kept = sorted(path.name for path in (tmp_path / "whole" / "checkpoints").iterdir())
    assert kept == ["step-0000008", "step-0000012"]

    class Killed(Exception):
        pass

    def dies(first, count):
        if first == 2 * 4:  # step 9 of all
            raise Killed
        return rows(first, count)

    with pytest.raises(Killed):
        train(tmp_path / "killed", engine, [phases[0], dataclasses.replace(phases[1], rows=dies)])
    again = train(tmp_path / "killed", engine, phases)
    assert same(again.weights, whole.weights)
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")


@pytest.mark.slow  # a process more; what a kill leaves is what the test above leaves
def test_kill_9_costs_no_more_than_the_steps_since_the_last_checkpoint(tmp_path):
    phases = [phase(steps=20, part=1)]
    whole = train(tmp_path / "whole", phases=phases)
    arguments = json.dumps([{"out": str(tmp_path / "killed"), "kill_at": 11}])
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, __file__, arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert max((tmp_path / "killed" / "checkpoints").iterdir()).name == "step-0000008"
    again = train(tmp_path / "killed", phases=phases)
    assert same(again.weights, whole.weights)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_a_finished_run_is_not_trained_again(tmp_path):
    def never(first, count):
        raise AssertionError("no row is needed")

    first = train(tmp_path)
    again = train(tmp_path, phases=[phase(rows=never)])
    assert same(first.weights, again.weights)
    assert again.scores["loss"] == first.scores["loss"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_whoever_asks_is_obeyed_after_the_step(number, tmp_path, capsys, monkeypatch):
    signals = []
    monkeypatch.setattr(engine_module, "stop_signals", signals)

    def asked(first, count):
        if first == 4 * 5:
            os.kill(os.getpid(), number)
        return rows(first, count)

    before = signal.getsignal(number)  # ray sets one of its own where it was imported
    stopped = train(tmp_path, phases=[phase(rows=asked)])
    assert not stopped.finished
    assert signals == [number]
    assert 4 <= stopped.steps < 12
    assert signal.getsignal(number) is before
    told = f"stopped after step {stopped.steps} of 12; run the same command to continue"
    assert stopped.stopped() == told
    whole = train(tmp_path / "whole")
    assert "continuing" not in capsys.readouterr().out
    assert same(train(tmp_path).weights, whole.weights)
    assert f"continuing: {stopped.steps} of 12 steps found" in capsys.readouterr().out


def spoiled(number, value):
    """Rows whose embedding of row ``number`` is spoiled through a weight of the loss."""

    def read(first, count):
        (ids,) = rows(first, count)
        weight = torch.ones(())
        if first <= number < first + count:
            weight = torch.tensor(value)
        return ids, weight

    return read


class Weighted(torch.nn.Module):
    """A transformer whose loss is multiplied by what comes with the batch."""

    def __init__(self):
        super().__init__()
        self.inner = MODEL.build()
        self.layers = self.inner.layers

    def loss(self, ids, weight):
        return self.inner.loss(ids) * weight


def fit_weighted(out, read, engine, steps=40):
    torch.manual_seed(0)
    with join_ranks("cpu", None) as ranks:
        return fit(
            Weighted(),
            [phase(steps=steps, rows=read, validation={})],
            OPTIMIZER,
            engine,
            out,
            ranks,
            title="loss",
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 50.0])
def test_a_bad_step_is_left_out_and_told(tmp_path, capsys, value):
    result = fit_weighted(tmp_path, spoiled(4 * 30 + 1, value), UNKEPT)
    assert result.skipped == 1
    assert all(torch.isfinite(tensor).all() for tensor in result.weights.values())
    assert [row["skipped"] for row in log_of(tmp_path)] == [0] * 30 + [1] * 10
    assert "loss" not in log_of(tmp_path)[30]
    assert "its update is skipped" in "".join(capsys.readouterr())
    assert log_of(tmp_path)[-1]["loss"] < 3.0


def test_too_many_bad_steps_stop_the_run_with_a_good_checkpoint(tmp_path):
    def read(first, count):
        ids, weight = spoiled(-1, 0.0)(first, count)
        return ids, weight * (float("nan") if first >= 4 * 30 else 1.0)

    engine = dataclasses.replace(ENGINE, keep_every=16)
    with pytest.raises(
        FloatingPointError, match=r"3 bad steps in a row.*checkpoint is good.*new out="
    ):
        fit_weighted(tmp_path, read, engine)
    last = max((tmp_path / "checkpoints").iterdir())
    assert last.name == "step-0000032"  # it holds the weights of step 30: two updates were skipped
    healed = fit_weighted(tmp_path, spoiled(-1, 0.0), engine)
    assert healed.finished
    assert all(torch.isfinite(tensor).all() for tensor in healed.weights.values())


def test_the_guard_knows_a_spike_from_noise():
    guard = Guard(GUARD)
    noise = np.random.default_rng(0).normal(3.0, 0.1, 200)
    assert [guard.fault(float(loss), 1.0) for loss in noise] == [None] * 200
    assert "is a spike above" in (guard.fault(5.0, 1.0) or "")
    assert guard.fault(2.0, 1.0) is None  # a low loss is no fault
    assert "gradient norm nan" in (guard.fault(3.0, float("nan")) or "")
    again = Guard(GUARD)
    again.restore(json.loads(json.dumps(guard.state())))
    assert again.state() == guard.state()
    guard.reset()
    assert guard.fault(5.0, 1.0) is None
    with pytest.raises(ValueError, match=r"guard\.history must be at least 20"):
        GuardConfig(deviations=6.0, history=3, most_skipped=2)


def test_what_no_rank_can_do_is_refused(tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match=r"batch must be a multiple of ranks \* part = 1 \* 3, got 4"
    ):
        train(tmp_path, phases=[phase(batch=4, part=3)])
    with (
        pytest.raises(ValueError, match="device must be auto, cpu or cuda, got 'tpu'"),
        join_ranks("tpu", None),
    ):
        pass
    monkeypatch.setenv("WORLD_SIZE", "4")
    with (
        pytest.raises(ValueError, match="shard_ranks must divide the 4 ranks, got 3"),
        join_ranks("cpu", 3),
    ):
        pass


def test_ranks_wait_for_days_while_the_first_prepares_data(monkeypatch):
    limits = {}

    def begin(backend, timeout=timedelta(minutes=30)):
        limits["default"] = timeout

    def group(backend, timeout=timedelta(minutes=30)):
        limits["waiting"] = timeout
        return "waiting"

    groups = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, replacement in {
        "init_process_group": begin,
        "destroy_process_group": lambda: None,
        "new_group": group,
        "get_rank": lambda: 1,
        "barrier": groups.append,
    }.items():
        monkeypatch.setattr(f"torch.distributed.{name}", replacement)
    mesh = Mock(spec=parallel.DeviceMesh)
    monkeypatch.setattr(parallel, "init_device_mesh", lambda *_, **__: mesh)
    with join_ranks("cpu", None) as ranks:
        ranks.first_then_others(lambda: None)
    assert groups == ["waiting"]
    assert limits["waiting"] > timedelta(days=7)
    assert limits["default"] < timedelta(hours=1)  # a run that hangs still ends


def test_the_peak_of_this_machine_is_that_of_the_fastest_product(monkeypatch):
    seconds = iter([0, 4, 4, 6, 6, 7, 7, 9, 9, 13, 13, 17])  # products of 4, 2, 1, 2, 4 and 4 s
    clock = SimpleNamespace(perf_counter=lambda: next(seconds))
    monkeypatch.setattr(throughput, "time", clock)
    with FlopCounterMode(display=False) as counter:
        peak = peak_flops(torch.device("cpu"), "float32")
    assert list(seconds) == []
    assert peak == counter.get_total_flops() / 6


def by_ranks(count, *jobs):
    """Run jobs of this file's ``main`` on ranks that torchrun starts."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(count), __file__, json.dumps(jobs)]
    here = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(here), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow  # four processes with torch
def test_two_machines_train_as_one_process(tmp_path):
    """The command of each machine, as docs/pretraining.md has it."""
    train(tmp_path / "one", UNKEPT, [phase(steps=20)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    command += ["--rdzv-backend=c10d", f"--rdzv-endpoint={place}", "--rdzv-id=job", __file__]
    command.append(json.dumps([{"out": str(tmp_path / "two")}]))
    here = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(here), "OMP_NUM_THREADS": "1"}
    agents = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [agent.wait(280) for agent in agents] == [0, 0]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)


@pytest.mark.slow  # three processes with torch
def test_two_ranks_train_as_one_process(tmp_path):
    whole = train(tmp_path / "one", UNKEPT, [phase(steps=20)])
    by_ranks(2, {"out": str(tmp_path / "two")})
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    held_out = [row["validation_loss"] for row in log_of(tmp_path / "one")]
    assert [row["validation_loss"] for row in log_of(tmp_path / "two")] == pytest.approx(
        held_out, abs=1e-5
    )
    weights = torch.load(tmp_path / "two" / "weights.pt", weights_only=True)
    assert weights.keys() == whole.weights.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, whole.weights[name], atol=1e-4, rtol=1e-3)


@pytest.mark.slow  # six processes
def test_others_go_on_with_what_two_ranks_saved(tmp_path):
    """One process, four ranks, and two replicas of two."""
    train(tmp_path / "one", UNKEPT, [phase(steps=20)])
    by_ranks(2, {"out": str(tmp_path / "alone"), "stop_after": 8})
    assert len(losses(tmp_path / "alone")) < 20
    for name in ("four", "hybrid"):
        shutil.copytree(tmp_path / "alone", tmp_path / name)
    train(tmp_path / "alone", phases=[phase(steps=20)])
    hybrid = {"out": str(tmp_path / "hybrid"), "shards": 2}
    by_ranks(4, {"out": str(tmp_path / "four")}, hybrid)
    for name in ("alone", "four", "hybrid"):
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "one"), abs=1e-5), name


def job(ranks, out, stop_after=None, kill_at=None, shards=None):
    """Train 20 steps on the ranks of torchrun, until a scheduler asks to stop or a kill."""

    def read(first, count):
        if kill_at is not None and first >= 4 * kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if stop_after is not None and first >= 4 * (stop_after - 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return rows(first, count)

    if shards is not None:
        names = ("replicate", "shard")
        mesh = init_device_mesh("cpu", (ranks.world // shards, shards), mesh_dim_names=names)
        ranks = dataclasses.replace(ranks, mesh=mesh)
    torch.manual_seed(0)
    out = Path(out)
    engine = dataclasses.replace(ENGINE, keep_in_background=True)
    phases = [phase(steps=20, part=1, rows=read)]
    result = fit(MODEL.build(), phases, OPTIMIZER, engine, out, ranks, title="loss")
    if ranks.first:
        torch.save(result.weights, out / "weights.pt")


if __name__ == "__main__":
    throughput.peak_flops = functools.cache(peak_flops)  # as conftest.py has it
    with join_ranks("cpu", None) as all_ranks:
        for arguments in json.loads(sys.argv[1]):
            job(all_ranks, **arguments)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            {"amx_bf16": True, "avx512_bf16": True, "cpu_name": "A"},
            ("bfloat16", "A has .*amx_bf16"),
        ),
        ({"avx512_bf16": True}, ("bfloat16", "avx512_bf16")),
        ({"avx2": True, "amx_bf16": False}, ("float32", "no known instructions")),
    ],
)
def test_precision_auto_is_that_of_the_instructions_of_the_cpu(
    flags, expected, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    result = train(tmp_path, dataclasses.replace(UNKEPT, precision="auto"))
    precision, reason = expected
    assert re.search(
        f"precision of matrix products: {precision} .*{reason}", capsys.readouterr().out
    )
    assert result.notes(None)["precision"] == precision


def test_losses_in_bfloat16_are_near_those_in_float32(tmp_path):
    train(tmp_path / "exact", UNKEPT)
    train(tmp_path / "rounded", dataclasses.replace(UNKEPT, precision="bfloat16"))
    exact, rounded = losses(tmp_path / "exact"), losses(tmp_path / "rounded")
    assert exact != rounded
    assert exact == pytest.approx(rounded, abs=0.02)


LAYOUT = {"codes": 40, "tokens_per_frame": 16, "frames": 1}
SIZES = {"dim": 32, "layers": 2, "norm_eps": 1e-5}
BLOCKS = {**SIZES, "heads": 2, "mlp_hidden": 32}


def small_toto():
    return TotoConfig(**LAYOUT, **BLOCKS, tie_embeddings=True, rope_base=1e4).build()


def small_mae():
    vit = VitConfig(
        image_size=32, patch_size=8, registers=0, layer_scale=False, positions="learned",
        norm_after_pool=False, mean=(0.5,) * 3, std=(0.2,) * 3, **BLOCKS,
    )  # fmt: skip
    return MaeConfig(
        encoder=vit, mask_ratio=0.75, decoder_dim=16, decoder_layers=1, decoder_heads=2,
        decoder_mlp_hidden=16,
    ).build()  # fmt: skip


def fine_tuned(head, **changes):
    setting = {"next_token_weight": 1.0, "stop_gradient": False, "layer_decay": 0.9}
    setting |= {"transformer_lr": 1.0, "ema_decay": 0.5} | changes
    return FineTunedModel(small_toto(), LayerHeads(head, 2, 32, 3), (1, 2), **setting)


def lora():
    model = fine_tuned("attention", ema_decay=None)
    LowRankAdapters(rank=2, alpha=4.0).prepare(model.transformer)
    return model


def anticipation(next_token_weight=1.0):
    head = StaHead(2, 32, 4, width=16, nouns=3, verbs=2)
    return StaModel(
        small_toto(), head, (1, 2), next_token_weight=next_token_weight, transformer_lr=0.5
    )


def draw(shape, end, kind=torch.int64):
    return torch.randint(0, end, shape, dtype=kind, generator=torch.Generator().manual_seed(0))


IDS, LABELS = draw((4, 18), 40), torch.tensor([0, 1, 2, 1])
IMAGES = draw((4, 32, 32, 3), 255, torch.uint8)
ORDER = torch.stack([torch.arange(16).roll(row) for row in range(4)])
FEATURES = torch.linspace(-1, 1, 4 * 2 * 16 * 32).sin().unflatten(0, (4, 2, 16, 32))
OBJECTS = (torch.full((4, 1, 4), 0.301), torch.zeros(4, 1, 2).long(), torch.full((4, 1), 1.001))
OBJECTS[0][..., 2:] = 0.707
HEADS = ("linear", "batch_norm_linear", "attention", "cross_attention")
TRAINABLES = {
    "toto": (small_toto, (IDS,)),
    "gpt2": (lambda: Gpt2Config(**LAYOUT, **BLOCKS).build(), (IDS,)),
    "mamba": (
        lambda: MambaConfig(**LAYOUT, **SIZES, state=4, expand=2, convolution=4).build(),
        (IDS,),
    ),
    "patches": (
        lambda: PatchConfig(
            image_size=32, patch_size=8, frames=1, target_codes=None, rope_base=1e4, **BLOCKS
        ).build(),
        (IMAGES[:, None],),
    ),
    "mae": (small_mae, (IMAGES, ORDER)),
    "anticipation": (anticipation, (IDS, *OBJECTS)),
    "lora": (lora, (IDS, LABELS)),
    **{
        f"fine-tuned {kind}": (functools.partial(fine_tuned, kind), (IDS, LABELS)) for kind in HEADS
    },
    "probe": (functools.partial(LayerHeads, "attention", 2, 32, 3), (FEATURES, LABELS)),
}


@pytest.fixture
def one_of_a_mesh(tmp_path):
    """The only rank of a process group: its model is sharded as with many ranks."""
    meeting = f"file://{tmp_path}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("replicate", "shard"))
        yield Ranks(rank=0, world=1, device=torch.device("cpu"), mesh=mesh)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", TRAINABLES)
def test_sharded_models_train_in_bfloat16(name, tmp_path, one_of_a_mesh):
    build, batch = TRAINABLES[name]
    torch.manual_seed(0)
    model = build()
    exact = copy.deepcopy(model).loss(*batch).item()
    one = phase(steps=1, part=4, validation={}, rows=lambda first, count: batch)
    engine = dataclasses.replace(UNKEPT, precision="bfloat16")
    result = fit(model, [one], OPTIMIZER, engine, tmp_path, one_of_a_mesh, title="loss")
    assert losses(tmp_path) == pytest.approx([exact], rel=0.01)
    assert {tensor.dtype for tensor in result.weights.values()} <= {torch.float32, torch.int64}


def test_a_background_checkpoint_is_complete_when_its_files_are_written(
    tmp_path, one_of_a_mesh, monkeypatch
):
    start = dcp.async_save

    def save(*args, **kwargs):
        future = start(*args, **kwargs)
        future.result()
        return future

    monkeypatch.setattr(dcp, "async_save", save)

    def dies(first, count):
        if first == 4 * 5:  # after the checkpoint of step 4, before that of step 8
            raise InterruptedError
        return rows(first, count)

    engine = dataclasses.replace(ENGINE, keep_in_background=True)
    with pytest.raises(InterruptedError):
        fit(
            MODEL.build(),
            [phase(rows=dies, part=4)],
            OPTIMIZER,
            engine,
            tmp_path,
            one_of_a_mesh,
            title="",
        )
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["step-0000004"]


def test_parameters_without_a_gradient_do_not_prevent_a_resumed_run(tmp_path):
    """With a next-token loss of weight 0, the last norm is never trained."""

    def anticipate(out):
        torch.manual_seed(0)
        _, batch = TRAINABLES["anticipation"]
        one = phase(steps=12, part=4, validation={}, rows=lambda first, count: batch)
        with join_ranks("cpu", None) as ranks:
            model = anticipation(next_token_weight=0.0)
            engine = dataclasses.replace(ENGINE, keep_most=9)
            return fit(model, [one], OPTIMIZER, engine, out, ranks, title="loss")

    whole = anticipate(tmp_path)
    for later in ("step-0000008", "step-0000012"):
        shutil.rmtree(tmp_path / "checkpoints" / later)
    assert same(anticipate(tmp_path).weights, whole.weights)


def test_a_sharded_model_gets_its_batch_unrounded(one_of_a_mesh):
    class Recorder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(1, 1)])

        def loss(self, boxes):
            return boxes.sum() + 0 * self.layers[0](boxes).sum()

    model = Recorder()
    setting = {"precision": "bfloat16", "recompute": False, "compile_blocks": False}
    parallel.distribute(model, one_of_a_mesh, **setting)
    boxes = torch.full((1, 1), 0.3001)
    with parallel.arithmetic(one_of_a_mesh, "bfloat16"):
        assert model.loss(boxes).item() == boxes.item()


def test_max_minutes_plans_fewer_steps_and_a_resumed_run_keeps_the_plan(tmp_path, capsys):
    engine = dataclasses.replace(UNKEPT, log_every=1000, max_minutes=0.03)
    planned = [phase(steps=300_000), phase(steps=100_000, batch=2, part=1)]
    result = train(tmp_path, engine, planned)
    assert result.finished
    assert 2 <= result.steps == result.all_steps < 40_000
    printed = capsys.readouterr().out
    assert f"training: {result.steps:,} of {result.steps:,} steps, about 0.00 hours" in printed
    assert "note: the training has" not in printed  # the warm-up is shortened too
    again = train(tmp_path, engine, planned)
    assert again.steps == again.all_steps == result.steps
    assert same(again.weights, result.weights)
    with pytest.raises(ValueError, match=r"max_minutes must be above 0, got 0\.0"):
        dataclasses.replace(engine, max_minutes=0.0)


def test_a_warm_up_longer_than_the_training_is_noted(tmp_path, capsys):
    slow = dataclasses.replace(OPTIMIZER, warmup_steps=48)
    train(tmp_path, UNKEPT, optimizer=slow)
    expected = (
        "note: the training has 12 steps, and the warm-up 48. So the learning rate only rises,"
    )
    assert f"{expected} to 25 % of {slow.lr:g}" in capsys.readouterr().out
    train(tmp_path / "short", UNKEPT)
    assert "note: the training" not in capsys.readouterr().out


def test_the_estimate_before_the_first_step_changes_no_result(tmp_path, capsys, monkeypatch):
    train(tmp_path / "without", UNKEPT)
    assert "hours" not in capsys.readouterr().out
    monkeypatch.setattr("toto_robot.training.engine.ESTIMATED_FROM", 1)
    train(tmp_path / "with", UNKEPT)
    assert "training: 12 of 12 steps, about 0.00 hours" in capsys.readouterr().out
    assert log_of(tmp_path / "with") == log_of(tmp_path / "without")
