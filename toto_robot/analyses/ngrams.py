"""`python -m toto_robot.analyses.ngrams`: distributions of tokens, token pairs and token triples.

An n-gram is a sequence of n horizontally neighbouring tokens of a frame. For several tokenizers and
data sets, the command counts all n-grams (paper Fig. 3, 12 and 13). It plots the share of each
n-gram against its rank. It prints the coverage (the share of the possible n-grams that occur at
least once), the entropy, and the probability that the next n-gram is new. As a control, it also
combines each token with tokens of other frames at the neighbouring positions. The control keeps
only the frequencies of the tokens at each position. The entropy of the control minus the entropy of
real pairs is the information that neighbours share.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..cli import command
from ..config import to_dict
from ..encoders.loading import load_tokenizer
from ..files import write_csv, write_json
from ..plots import drawing
from .clips import Part, frame_tokens
from .counting import GramCounter, Spectrum, grams

__all__ = ["NgramsConfig", "TokenSource", "count_grams", "ngrams"]

# Values of the column `neighbours`: neighbours of the same image, and of other frames.
SOURCES = ("pictures", "strangers")
POINTS = 2000  # maximum number of points of a drawn curve


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSource:
    """A tokenizer, and a data set that the tokenizer encodes.

    Attributes:
        name: name of this pair in the printed table.
        tokenizer: name of a shipped encoder, or folder of an encoder or a tokenizer.
        data: folder of a data set. If it has tokens of this tokenizer, they are used. Otherwise the
            command tokenises the frames, and does not store the tokens.
        part: the files to use: `held_out` files, `training` files, or `all` files.
        frames: maximum number of frames. If the part has more, evenly spaced frames are used.
            null uses all frames. Coverage grows with this number, so compare tokenizers on equal
            numbers of frames.
    """

    name: str
    tokenizer: str
    data: Path
    part: Part
    frames: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NgramsConfig:
    """Settings of `ngrams`.

    Attributes:
        sources: pairs of a tokenizer and a data set.
        lengths: the values of n. All n-grams of each length are counted.
        batch: number of frames that are processed at once, at least 2.
        memory_grams: maximum number of distinct n-grams of each length in memory. Each needs 16
            bytes, and twice as much while a batch is added. More n-grams are stored on disk.
        seed: random seed that selects the other frames of the control.
    """

    sources: tuple[TokenSource, ...]
    lengths: tuple[int, ...]
    batch: int
    memory_grams: int
    seed: int

    def __post_init__(self) -> None:
        """Check that sources have distinct names, and that lengths and batch are in range."""
        names = [source.name for source in self.sources]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"sources must have distinct names, got {names}")
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError(f"lengths must be at least 1, got {list(self.lengths)}")
        if self.batch < 2:
            raise ValueError(
                f"batch must be at least 2, to have neighbours from other frames, got {self.batch}"
            )


def ngrams(config: NgramsConfig, out: Path) -> None:
    """Count n-grams, print the table, and write `ngrams.csv`, `curves.csv` and `ngrams.png`.

    The counts of each source are kept in `out/spectra`, so an interrupted run resumes at the next
    source.

    Raises:
        ValueError: a data set or tokenizer does not exist, or the tokens of a frame do not form a
            square. Also if n-grams are longer than a row of tokens, or if there are too many
            possible n-grams for a 64-bit number.
    """
    table: list[dict[str, object]] = []
    curves: list[dict[str, object]] = []
    drawn: dict[int, list[tuple[str, Spectrum]]] = {length: [] for length in config.lengths}
    for source in config.sources:
        for (length, kind), spectrum in _counted(source, config, out).items():
            label: dict[str, object] = {"source": source.name, "length": length, "neighbours": kind}
            table.append(label | _facts(spectrum))
            curves += [
                {**label, "rank": int(rank), "share": float(share)}
                for rank, share in zip(*_thinned(spectrum), strict=True)
            ]
            if kind == SOURCES[0]:
                drawn[length].append((source.name, spectrum))
    write_csv(out / "ngrams.csv", table)
    write_csv(out / "curves.csv", curves)
    _draw(out / "ngrams.png", drawn)
    print(_text(table))
    print(f"results: {out / 'ngrams.csv'}, curves.csv, ngrams.png")


def count_grams(
    source: TokenSource, lengths: tuple[int, ...], batch: int, memory_grams: int, seed: int
) -> dict[tuple[int, str], Spectrum]:
    """Return a dictionary of spectra. A key has the n-gram length and the kind of neighbours.

    Neighbours are from the same frame, or from other frames of the batch (the control). Length 1
    has no control, because a single token has no neighbours.

    Raises:
        ValueError: the data set or the tokenizer cannot be used. `ngrams` lists the reasons.
    """
    tokenizer = load_tokenizer(source.tokenizer)
    codes, side = tokenizer.vocab_size, round(tokenizer.tokens_per_frame**0.5)
    if side * side != tokenizer.tokens_per_frame:
        raise ValueError(f"{source.name}: {tokenizer.tokens_per_frame} tokens do not form a square")
    if max(lengths) > side:
        raise ValueError(f"lengths must be at most the {side} tokens of a row, got {max(lengths)}")
    generator = np.random.default_rng(seed)
    count, batches = frame_tokens(source.data, tokenizer, source.part, source.frames, batch)
    keys = [
        (length, kind) for length in lengths for kind in SOURCES if length > 1 or kind == SOURCES[0]
    ]
    counters = {key: GramCounter(codes ** key[0], memory_grams) for key in keys}
    try:
        with tqdm(total=count, desc=source.name, unit="frame") as progress:
            for flat in batches:
                images = flat.reshape(-1, side, side)
                shown = {
                    SOURCES[0]: images,
                    SOURCES[1]: generator.permuted(flat, axis=0).reshape(-1, side, side),
                }
                for (length, kind), counter in counters.items():
                    counter.add(grams(shown[kind], length, codes))
                progress.update(len(flat))
        return {key: counter.spectrum() for key, counter in counters.items()}
    finally:
        for counter in counters.values():
            counter.close()


def _counted(
    source: TokenSource, config: NgramsConfig, out: Path
) -> dict[tuple[int, str], Spectrum]:
    """Return the spectra of one source. They are read from `out/spectra` if they are stored there.

    Stored spectra are used only if all settings are equal.
    """
    path = out / "spectra" / f"{source.name}.json"
    settings = to_dict(source) | {
        "lengths": list(config.lengths),
        "batch": config.batch,
        "seed": config.seed,
    }
    if path.is_file() and (kept := json.loads(path.read_text()))["settings"] == settings:
        return {
            (item["length"], item["neighbours"]): Spectrum(
                times=np.array(item["times"]),
                grams=np.array(item["grams"]),
                possible=item["possible"],
            )
            for item in kept["spectra"]
        }
    found = count_grams(source, config.lengths, config.batch, config.memory_grams, config.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    spectra = [
        {
            "length": length,
            "neighbours": kind,
            "possible": spectrum.possible,
            "times": spectrum.times.tolist(),
            "grams": spectrum.grams.tolist(),
        }
        for (length, kind), spectrum in found.items()
    ]
    write_json(path, {"settings": settings, "spectra": spectra})
    return found


def _facts(spectrum: Spectrum) -> dict[str, object]:
    return {
        "counted": spectrum.total,
        "distinct": spectrum.distinct,
        "possible": spectrum.possible,
        "coverage": spectrum.coverage,
        "entropy_bits": spectrum.entropy_bits,
        "half": spectrum.half,
        "unseen": spectrum.unseen,
    }


def _thinned(spectrum: Spectrum) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return at most `POINTS` corners of the curve, evenly spaced in the logarithm of the rank."""
    ranks, shares = spectrum.curve()
    if len(ranks) <= POINTS:
        return ranks, shares
    wanted = np.geomspace(1, ranks[-1], POINTS)
    keep = np.unique(np.searchsorted(ranks, wanted).clip(max=len(ranks) - 1))
    return ranks[keep], shares[keep]


def _text(table: list[dict[str, object]]) -> str:
    lines = [
        f"{'source':<24}{'n':>3} {'neighbours':<11}{'counted':>11}{'distinct':>10}{'coverage':>10}"
        f"{'bits':>7}{'half in':>9}{'next new':>10}"
    ]
    lines += [
        f"{row['source']:<24}{row['length']:>3} {row['neighbours']:<11}{row['counted']:>11}"
        f"{row['distinct']:>10}{row['coverage']:>10.3g}{row['entropy_bits']:>7.2f}{row['half']:>9}"
        f"{row['unseen']:>10.3f}"
        for row in table
    ]
    return "\n".join(lines)


def _draw(path: Path, drawn: dict[int, list[tuple[str, Spectrum]]]) -> None:
    with drawing(path, columns=len(drawn), width=5.0 * len(drawn), height=4.0) as (_, panels):
        for axes, (length, curves) in zip(panels, drawn.items(), strict=True):
            for name, spectrum in curves:
                axes.loglog(*_thinned(spectrum), label=f"{name}: {spectrum.distinct} seen")
            axes.set(xlabel="rank", ylabel="share", title=f"{length}-grams")
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")


main = command("ngrams", NgramsConfig)(ngrams)

if __name__ == "__main__":
    main()
