"""Train probes on the frozen features of all layers, and score them on held-out examples.

    examples = Examples(inputs=..., labels=..., groups=..., classes=(...))
    probe = Probe(open_layers(encoder), examples, config, cache=folder, ranks=ranks)
    heads = probe.train(train, engine, out, ranks)     # train, test: numbers of examples
    logits = probe.predict(heads, test)                # [l n c]

The encoder is run once per example if the features of all layers fit into `cache_gb`; otherwise
once per example and epoch, from the cached tokens.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..data.shuffle import key_of, permute
from ..probing.heads import AVERAGED, LayerHeads, ProbeKind
from ..probing.layer_features import EXAMPLES, LayerSource, cache_array
from ..training.engine import EngineConfig, fit
from ..training.optimizer import AnyOptimizer
from ..training.parallel import Ranks
from ..training.phase import Phase

__all__ = [
    "Examples",
    "Probe",
    "ProbeConfig",
]

BYTES = 2  # of a cached feature, float16


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """Settings of the training of probes.

    Attributes:
        head: `linear` (average pooling), `batch_norm_linear` (the same with a batch norm, as MAE),
            `attention` (paper section 3.5), `cross_attention` (paper A.7), or `low_rank` (no
            pooling, for classes that are places in the image).
        epochs: passes over the training examples; 90 in the paper.
        batch: examples per step, over all ranks.
        part: examples per forward pass on a rank; gradients of the parts are accumulated.
        optimizer: settings of AdamW (without `kind`), of SGD (`kind: sgd`) or of LARS (`kind:
            lars`); the paper's learning rate is 6e-5.
        standardise: true to subtract the mean of each feature over the training examples, and to
            divide by its standard deviation, for each layer.
        cache_gb: largest size of the cached features of all layers, in GB (1e9 bytes); larger
            features are computed anew in each epoch.
        seed: seed of the order of the examples.
    """

    head: ProbeKind
    epochs: int
    batch: int
    part: int
    optimizer: AnyOptimizer
    standardise: bool
    cache_gb: float
    seed: int

    def __post_init__(self) -> None:
        """Check that epochs, batch and part are positive."""
        for name in ("epochs", "batch", "part"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.head == "batch_norm_linear" and self.part < 2:
            raise ValueError("head=batch_norm_linear needs a part of at least 2 examples, got 1")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Examples:
    """Labelled clips in the form that `LayerSource.compress` returns.

    Attributes:
        inputs: compressed clips [n ...], usually a memory map.
        labels: int64 [n], the class of each example.
        groups: int64 [n]; examples of one group are correlated (the clips of a video), and are
            resampled together for intervals.
        classes: names of the classes.
        fingerprint: hash of the examples, for the cache of their features.
    """

    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    classes: tuple[str, ...]
    fingerprint: str


class Probe:
    """Probes of all layers of one encoder on one set of examples."""

    def __init__(
        self,
        source: LayerSource,
        examples: Examples,
        config: ProbeConfig,
        cache: Path,
        ranks: Ranks,
    ) -> None:
        """Compute and cache the features of all examples, if they fit into `cache_gb`.

        Args:
            source: the encoder.
            examples: training and test examples.
            config: settings.
            cache: folder of the cached features; it may be deleted.
            ranks: this process and its group; the first rank writes the cache.
        """
        self._source, self._examples, self._config = source, examples, config
        self._cached: NDArray[Any] | None = None
        count = len(examples.labels)
        one = self._compute(examples.inputs[:1]).numpy()
        self._num_tokens = one.shape[2]
        size_gb = count * one.size * BYTES / 1e9
        if size_gb <= config.cache_gb:
            kind = "mean" if config.head in AVERAGED else "tokens"
            facts = {"source": source.fingerprint, "examples": examples.fingerprint, "pool": kind}
            self._cached = ranks.first_then_others(
                lambda: cache_array(
                    cache / f"features-{kind}.npy",
                    count,
                    lambda rows: (
                        self._compute(examples.inputs[rows.start : rows.stop]).half().numpy()
                    ),
                    facts,
                    f"encode ({size_gb:.2g} GB of features)",
                )
            )
        elif ranks.first:
            print(
                f"features of all layers need {size_gb:.3g} GB, more than cache_gb="
                f"{config.cache_gb:g}: they are computed anew in each of {config.epochs} epochs",
                flush=True,
            )

    def train(
        self, train: NDArray[np.int64], engine: EngineConfig, out: Path, ranks: Ranks
    ) -> LayerHeads | None:
        """Train the heads of all layers on the examples `train`, or resume the training in `out`.

        Returns:
            The heads, which are trained on the first rank only; None if the run was asked to stop.
        """
        config, count = self._config, len(train)
        statistics = self._statistics(train) if config.standardise else None
        heads = self._new_heads(statistics)
        key = key_of(config.seed)

        def rows(first: int, number: int) -> tuple[Tensor, ...]:
            index = np.arange(first, first + number)
            chosen = train[permute(index % count, count, key, index // count)]
            return self.features(chosen), torch.from_numpy(self._examples.labels[chosen])

        tokens = math.prod(self._examples.inputs.shape[1:])
        phase = Phase(
            steps=math.ceil(config.epochs * count / config.batch),
            batch=config.batch,
            part=config.part,
            rows=rows,
            tokens_per_row=tokens,
            flops_per_row=6.0 * sum(p.numel() for p in heads.parameters()),
        )
        title = f"cross entropy of {len(self._source.layers)} layers"
        result = fit(heads, [phase], config.optimizer, engine, out, ranks, title=title)
        trained = self._new_heads(statistics)
        return trained.eval() if result.load(trained, ranks) else None

    @torch.no_grad()
    def predict(self, heads: LayerHeads, test: NDArray[np.int64]) -> Float[Tensor, "l n c"]:
        """Return the logits of the examples `test` at all layers."""
        parts = [test[i : i + EXAMPLES] for i in range(0, len(test), EXAMPLES)]
        logits = [heads(self.features(part)) for part in tqdm(parts, desc="test", unit="batch")]
        return torch.cat(logits, dim=1)

    def features(self, index: NDArray[np.int64]) -> Float[Tensor, "b l n d"]:
        """Return the features of the examples `index`; averaged over tokens for a linear head."""
        if self._cached is not None:
            return torch.from_numpy(self._cached[index]).float()
        order = np.argsort(index)  # memory maps are read in order
        found = self._compute(self._examples.inputs[index[order]])
        return found[np.argsort(order)]

    def _compute(self, inputs: NDArray[Any]) -> Float[Tensor, "b l n d"]:
        features = self._source.features(inputs).cpu()
        return features.mean(2, keepdim=True) if self._config.head in AVERAGED else features

    def _new_heads(self, statistics: tuple[Tensor, Tensor] | None) -> LayerHeads:
        heads = LayerHeads(
            self._config.head,
            len(self._source.layers),
            self._source.dim,
            len(self._examples.classes),
            self._num_tokens,
        )
        if statistics is not None:
            heads.standardise(*statistics)
        return heads

    def _statistics(self, train: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation [l d] of the features of at most 2,000 examples."""
        chosen = train[np.linspace(0, len(train) - 1, min(len(train), 2000)).astype(int)]
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for i in range(0, len(chosen), EXAMPLES):
            features = self.features(chosen[i : i + EXAMPLES]).double()
            count += features.shape[0] * features.shape[2]
            total, squares = total + features.sum((0, 2)), squares + features.square().sum((0, 2))
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        return mean.float(), variance.sqrt().float()
