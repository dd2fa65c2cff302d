"""muP: what a step changes does not depend on the width, and with the standard rules it does."""

import pytest
import torch

from toto_robot.models import TotoConfig
from toto_robot.models.mup import parameter_groups
from toto_robot.models.transformer import llama_config, llama_state_dict

WIDTHS = (64, 128, 256)
BASE = 64
SIZES = dict(
    codes=61,
    layers=2,
    heads=4,
    tokens_per_frame=16,
    frames=2,
    rope_base=10000.0,
    norm_eps=1e-5,
)


def build(width, base, tied=False, seed=0):
    torch.manual_seed(seed)
    return TotoConfig(
        **SIZES, dim=width, mlp_hidden=2 * width, tie_embeddings=tied, mup_base_dim=base
    ).build()


def change(width, base, tied=False):
    """Return how much six steps change the residual stream and the logits: root mean squares."""
    model = build(width, base, tied)
    groups = parameter_groups(model, 0.1)
    optimizer = torch.optim.AdamW(groups, lr=2**-7, betas=(0.9, 0.95))
    for group in optimizer.param_groups:
        group["lr"] *= group["lr_scale"]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 61, (4, 33), generator=generator)
    ids[:, 1::2] = ids[:, 0:-1:2]  # something to learn

    def look():
        with torch.no_grad():
            (hidden,) = model.features(ids, (-1,))
            return hidden, model.logits(hidden)

    before = look()
    for _ in range(6):
        optimizer.zero_grad()
        model.loss(ids).backward()
        optimizer.step()
    return [
        (after - first).square().mean().sqrt().item()
        for after, first in zip(look(), before, strict=True)
    ]


@pytest.mark.parametrize("tied", [False, True])
def test_the_coordinate_check(tied):
    """With muP four times the width changes scales by less than half; without it, 30 times."""
    hidden, logits = zip(*(change(width, BASE, tied) for width in WIDTHS), strict=True)
    assert max(hidden) / min(hidden) < 1.5
    assert max(logits) / min(logits) < 1.5
    hidden, logits = zip(*(change(width, None, tied) for width in WIDTHS), strict=True)
    assert max(hidden) / min(hidden) > 20
    assert max(logits) / min(logits) > 1.5


def test_at_the_base_width_muP_is_the_standard_parametrisation():
    with_base, without = (build(BASE, base, tied=True) for base in (BASE, None))
    for one, other in zip(with_base.parameters(), without.parameters(), strict=True):
        assert torch.equal(one, other)
    ids = torch.arange(20)[None]
    assert torch.equal(with_base(ids), without(ids))
    scales = {group["lr_scale"] for group in parameter_groups(with_base, 0.1)}
    assert scales == {1.0}


def test_groups_hold_every_parameter_once_and_scale_what_is_inside_blocks():
    model = build(256, BASE)
    groups = parameter_groups(model, weight_decay=0.1)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    of = {id(p): group for group in groups for p in group["params"]}
    inside = of[id(model.layers[0].mlp.up_proj.weight)]
    assert (inside["lr_scale"], inside["weight_decay"]) == (0.25, 0.4)
    for outside in (model.embed_tokens.weight, model.lm_head.weight):
        assert (of[id(outside)]["lr_scale"], of[id(outside)]["weight_decay"]) == (1.0, 0.1)
    norm = of[id(model.layers[0].input_layernorm.weight)]
    assert (norm["lr_scale"], norm["weight_decay"]) == (1.0, 0.0)
    model.empty = torch.nn.Parameter(torch.empty(1, 0, 8))
    assert all(p.numel() for group in parameter_groups(model, 0.1) for p in group["params"])


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_groups_are_the_same_after_compilation_of_blocks():
    model = build(128, BASE)
    expected = [[tuple(p.shape) for p in g["params"]] for g in parameter_groups(model, 0.1)]
    for index, block in enumerate(model.layers):
        model.layers[index] = torch.compile(block, backend="eager")
    found = [[tuple(p.shape) for p in g["params"]] for g in parameter_groups(model, 0.1)]
    assert found == expected


def test_groups_survive_sharding(tmp_path):
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = build(128, BASE)
    expected = [
        (len(g["params"]), g["lr_scale"], g["weight_decay"]) for g in parameter_groups(model, 0.1)
    ]
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for block in model.layers:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        groups = parameter_groups(model, 0.1)
        optimizer = torch.optim.AdamW(groups, lr=1e-3)
        model(torch.arange(20)[None]).sum().backward()
        optimizer.step()
    finally:
        dist.destroy_process_group()
    found = [(len(g["params"]), g["lr_scale"], g["weight_decay"]) for g in groups]
    assert found == expected


@pytest.mark.parametrize("tied", [False, True])
def test_its_weights_go_over_to_hugging_face(tied):
    transformers = pytest.importorskip("transformers")
    model = build(128, BASE, tied).eval()
    with torch.no_grad():
        model.head_weight.normal_()
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**llama_config(model.config)))
    llama.eval().load_state_dict(llama_state_dict(model), strict=False)
    ids = torch.randint(0, 64, (2, 34), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), llama(ids).logits, atol=2e-5, rtol=1e-4)
