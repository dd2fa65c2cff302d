"""Measure generation with a memory of the past against a full pass for every token.

    OMP_NUM_THREADS=1 python -m benchmarks.generate

One frame, the likeliest token each time; the time to read the past is counted. The full passes are
timed at some places of the frame, evenly, in turn with the other way, and that both choose the same
tokens there is checked. CPU time on one thread, wall time on more.
"""

import argparse

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import cpu_clock, least_seconds
from toto_robot import load_encoder
from toto_robot.generation.sampling import generate_frames
from toto_robot.models import CausalModel

PASTS = (0, 3, 7, 15)  # frames


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="toto-nano")
    parser.add_argument("--samples", type=int, default=1, help="sequences at once")
    parser.add_argument("--places", type=int, default=5, help="of a frame, for the full passes")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    model = load_encoder(asked.encoder).transformer
    config = model.config
    count = config.tokens_per_frame
    places = np.linspace(0, count - 1, asked.places).round().astype(int).tolist()
    print(
        f"{asked.encoder}, {asked.samples} sequence(s), {torch.get_num_threads()} thread(s), the "
        f"least of {asked.rounds} rounds; full passes at {asked.places} of {count} places\n"
        f"{'frames of past':>14}{'tokens/s':>10}{'full passes, tokens/s':>24}{'ratio':>8}"
    )
    generator = torch.Generator().manual_seed(0)
    for frames in [past for past in PASTS if past < config.frames]:
        shape = (asked.samples, frames, count)
        past = torch.randint(0, config.codes, shape, generator=generator)
        frame = generate_frames(model, past, 1)[:, 0]
        assert torch.equal(_full_passes(model, past, frame, places), frame[:, places])
        seconds = least_seconds(
            {
                "memory": lambda past=past: generate_frames(model, past, 1),
                "full": lambda past=past, frame=frame: _full_passes(model, past, frame, places),
            },
            asked.rounds,
            cpu_clock(),
        )
        fast = asked.samples * count / seconds["memory"]
        slow = asked.samples * len(places) / seconds["full"]
        print(f"{frames:>14}{fast:>10.0f}{slow:>24.1f}{fast / slow:>7.0f}x", flush=True)


@torch.no_grad()
def _full_passes(model: CausalModel, past: Tensor, frame: Tensor, places: list[int]) -> Tensor:
    """Return the likeliest tokens at some places of a frame, from a pass over all before each."""
    start = past.new_full((len(past), 1), model.config.start_video)
    known = torch.cat([start, past.flatten(1), frame], dim=1)
    begin = 1 + past.shape[1] * past.shape[2]
    chosen = []
    for place in places:
        (hidden,) = model.features(known[:, : begin + place], (-1,))
        logits = model.logits(hidden[:, -1:])[:, 0, : model.config.codes]
        chosen.append(logits.argmax(dim=-1))
    return torch.stack(chosen, dim=1)


if __name__ == "__main__":
    main()
