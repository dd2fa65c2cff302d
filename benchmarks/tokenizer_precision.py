"""Measure the share of tokens that are unchanged in half precision, on real images.

    OMP_NUM_THREADS=1 python -m benchmarks.tokenizer_precision [folder of a tokenizer ...]

The baseline of every line is the same tokenizer in float32 on the same images. The small tokenizer
`light` has trained weights. The architectures of published tokenizers have random weights, unless
checkpoints are given (`python -m toto_robot.tokenizers.convert` makes them from published files).
Whether a token changes depends on the distance between the best two codes, and this distance
depends on the weights. So random weights show only that the computation is correct. They do not
show how many tokens change with trained weights. Images for random weights have half the published
side, because a CPU without half precision is slow. The time per token is the same.
"""

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import cpu_clock
from toto_robot import load_encoder
from toto_robot.data.images import IMAGE_SUFFIXES, read_square
from toto_robot.encoders.loading import load_tokenizer
from toto_robot.tokenizers import (
    AnyTokenizer,
    DalleConfig,
    DalleDVae,
    VqganConfig,
)

IMAGES = Path("data/real/images")
MOST = 12  # maximum number of images
MOST_LARGE = 1  # number of images for large tokenizers, which are slow on a CPU in half precision
LARGE = 20_000_000
DALLE = DalleConfig(
    image_size=64, hidden=256, decoder_init=128, blocks_per_group=2, vocab_size=8192
)
VQGAN = VqganConfig(
    image_size=128,
    width=128,
    multipliers=(1, 1, 2, 2, 4),
    blocks=2,
    attention_levels=(4,),
    latent=256,
    embedding=256,
    vocab_size=1024,
)


@torch.no_grad()
def main() -> None:
    """Print the share of unchanged tokens for each tokenizer and precision."""
    paths = sorted(p for p in IMAGES.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)[:MOST]
    torch.manual_seed(0)
    subjects: dict[str, AnyTokenizer] = {"light, trained": load_encoder("toto-nano").tokenizer}
    for folder in sys.argv[1:]:
        subjects[folder[-34:]] = load_tokenizer(Path(folder))
    subjects["DALL-E layout, random"] = DALLE.build().requires_grad_(False).eval()
    subjects["VQGAN f16, random"] = VQGAN.build().requires_grad_(False).eval()
    print(f"{len(paths)} images of {IMAGES}, {torch.get_num_threads()} threads")
    print(
        f"{'tokenizer':<36}{'path':<18}{'images':>9}{'tokens':>8}{'codes':>7}"
        f"{'same':>9}{'time of float32':>17}"
    )
    for name, tokenizer in subjects.items():
        _measure(name, tokenizer, paths)


def _measure(name: str, tokenizer: AnyTokenizer, paths: list[Path]) -> None:
    large = sum(parameter.numel() for parameter in tokenizer.parameters()) > LARGE
    paths = paths[:MOST_LARGE] if large else paths
    side = tokenizer.image_size
    frames = torch.stack([torch.from_numpy(read_square(path, side, 0.5, 0.5)) for path in paths])
    encoders: dict[str, Callable[[Tensor], Tensor]] = {"float32": tokenizer.encode}
    encoders["all bfloat16"] = copy.deepcopy(tokenizer).bfloat16().encode
    if isinstance(tokenizer, DalleDVae):
        for dtype in (torch.bfloat16, torch.float16):
            label = f"mixed {str(dtype).removeprefix('torch.')}"
            encoders[label] = copy.deepcopy(tokenizer).mixed(dtype).encode
    ids: dict[str, list[Tensor]] = {label: [] for label in encoders}
    least, clock = dict.fromkeys(encoders, float("inf")), cpu_clock()
    for frame in frames:  # precisions alternate, so that other load on the machine affects all
        for label, encode in encoders.items():
            start = clock()
            ids[label].append(encode(frame[None]))
            least[label] = min(least[label], clock() - start)
    exact = torch.cat(ids["float32"])
    for label in encoders:
        same = (torch.cat(ids[label]) == exact).float().mean().item()
        print(
            f"{name:<36}{label:<18}{len(frames):>9}{exact.numel():>8}{len(exact.unique()):>7}"
            f"{same:>8.2%}{least[label] / least['float32']:>16.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
