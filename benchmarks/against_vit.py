"""Measure the time to embed a camera frame with Toto, against the ViT-B/16 of MVP.

    OMP_NUM_THREADS=1 python -m benchmarks.against_vit

Each call computes one embedding from one uint8 frame of 480 x 640 pixels. Toto-base runs up to its
middle layer, with the small tokenizer `light` and with the architecture of the DALL-E tokenizer.
ViT-B/16 has images of 224 pixels and runs completely, as in the policies of MVP. All models run in
float32, and then with 8-bit integers in all matrix products of the blocks
(`toto_robot.encoders.int8`). Weights are random, because the time does not depend on them. The
models run alternately, and the minimum time of all rounds counts. With one thread, it is CPU time,
which does not include other processes. With more threads, it is wall time.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from benchmarks.timing import cpu_clock, least_seconds
from toto_robot import Encoder, TotoConfig, load_encoder
from toto_robot.config import from_dict
from toto_robot.encoders.int8 import Int8Linear, _Rounder, to_int8
from toto_robot.encoders.vit import VitEncoder
from toto_robot.models.vision_transformer import VitConfig
from toto_robot.tokenizers import DalleConfig

VIT = VitConfig(
    image_size=224, patch_size=16, dim=768, layers=12, heads=12, mlp_hidden=3072, norm_eps=1e-6,
    registers=0, layer_scale=False, positions="learned", norm_after_pool=False,
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
)  # fmt: skip
DALLE = DalleConfig(
    image_size=128, hidden=256, decoder_init=128, blocks_per_group=2, vocab_size=8192
)
ROUNDS = 7


def main() -> None:
    """Measure all models, and print one table of times for each precision."""
    torch.manual_seed(0)
    path = Path(__file__).parents[1] / "toto_robot" / "configs" / "model" / "base.yaml"
    config = from_dict(TotoConfig, yaml.safe_load(path.read_text()))
    frame = torch.randint(0, 256, (1, 480, 640, 3), dtype=torch.uint8)
    dalle = DALLE.build().eval().requires_grad_(False)
    light = Encoder(load_encoder("toto-nano").tokenizer, config.build(), config.layers // 2, "mean")
    rounded = to_int8(light, [frame[0]])
    vit = VitEncoder(VIT.build(), VIT.layers, "cls")
    calls: dict[str, Callable[[], object]] = {}
    for precision, toto, baseline in (("float32", light, vit), ("int8", rounded, _vit_int8(vit))):
        calls |= {
            f"{precision}, ViT-B/16": lambda model=baseline: model(frame),
            f"{precision}, Toto-base": lambda model=toto: model.from_tokens(ids),
        }
    calls |= {
        "light": lambda: light.tokenize(frame),
        "DALL-E": lambda: dalle.encode(frame),
    }
    with torch.inference_mode():
        ids = light.tokenize(frame)
        seconds = least_seconds(calls, ROUNDS, cpu_clock())
    print(f"one frame, {torch.get_num_threads()} thread(s), minimum of {ROUNDS}")
    for name, spent in seconds.items():
        print(f"{name:<24}{spent * 1e3:8.1f} ms")
    print(f"\nfrom frame to embedding{'float32':>17}{'int8':>9}  times ViT-B/16's time")
    for tokenizer in ("light", "DALL-E"):
        ratios = [
            (seconds[tokenizer] + seconds[f"{precision}, Toto-base"])
            / seconds[f"{precision}, ViT-B/16"]
            for precision in ("float32", "int8")
        ]
        print(f"Toto-base, {tokenizer:<24}{ratios[0]:5.2f}{ratios[1]:9.2f}")


def _vit_int8(vit: VitEncoder) -> VitEncoder:
    """Convert a ViT so that its blocks run on 8-bit integers, as `to_int8` does for a Toto."""
    other = vit.untrained(0)
    for block in other.transformer.blocks:
        for module, names in ((block.attn, ("qkv", "proj")), (block.mlp, ("fc1", "fc2"))):
            for name in names:
                setattr(module, name, _Biased(getattr(module, name)))
    return other


class _Biased(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.product, self.bias = Int8Linear(linear, _Rounder()), linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x).add_(self.bias)


if __name__ == "__main__":
    main()
