"""Measure the time to generate a frame with a key-value cache, against a full pass per token.

    OMP_NUM_THREADS=1 python -m benchmarks.generate

One frame is generated after some earlier frames. Each token is the most likely one. The time
includes encoding the earlier frames. The baseline runs the model over all earlier tokens again for
each new token. It is timed only at some tokens of the frame, at equal distances. At these tokens,
both ways must choose the same token. The two run alternately. With one thread, times are CPU time.
With more threads, they are wall time.
"""

import argparse

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import cpu_clock, least_seconds
from toto_robot import load_encoder
from toto_robot.generation.sampling import generate_frames
from toto_robot.models import CausalModel

PASTS = (0, 3, 7, 15)  # numbers of earlier frames


def main() -> None:
    """Print the times with and without a cache, for each number of earlier frames."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="toto-nano")
    parser.add_argument("--samples", type=int, default=1, help="sequences in a batch")
    parser.add_argument(
        "--places", type=int, default=5, help="tokens of the frame with full passes"
    )
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    model = load_encoder(arguments.encoder).transformer
    config = model.config
    count = config.tokens_per_frame
    places = np.linspace(0, count - 1, arguments.places).round().astype(int).tolist()
    print(
        f"{arguments.encoder}, {arguments.samples} sequence(s), {torch.get_num_threads()} "
        f"thread(s), minimum of {arguments.rounds} rounds; full passes at {arguments.places} of "
        f"{count} places\n"
        f"{'frames of past':>14}{'tokens/s':>10}{'full passes, tokens/s':>24}{'ratio':>8}"
    )
    generator = torch.Generator().manual_seed(0)
    for frames in [past for past in PASTS if past < config.frames]:
        shape = (arguments.samples, frames, count)
        past = torch.randint(0, config.codes, shape, generator=generator)
        frame = generate_frames(model, past, 1)[:, 0]
        assert torch.equal(_full_passes(model, past, frame, places), frame[:, places])
        seconds = least_seconds(
            {
                "memory": lambda past=past: generate_frames(model, past, 1),
                "full": lambda past=past, frame=frame: _full_passes(model, past, frame, places),
            },
            arguments.rounds,
            cpu_clock(),
        )
        fast = arguments.samples * count / seconds["memory"]
        slow = arguments.samples * len(places) / seconds["full"]
        print(f"{frames:>14}{fast:>10.0f}{slow:>24.1f}{fast / slow:>7.0f}x", flush=True)


@torch.no_grad()
def _full_passes(model: CausalModel, past: Tensor, frame: Tensor, places: list[int]) -> Tensor:
    """Return the most likely token at each of some positions in a frame.

    Each token needs a full pass over all earlier tokens.
    """
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
