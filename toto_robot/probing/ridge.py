"""Fit linear probes in closed form, and compute confidence intervals of their scores.

A probe is a ridge regression. Cross-validation and bootstrap use whole episodes, because the frames
of an episode are similar. All probes use the same bootstrap resamples, so that differences of
scores are paired. For classes, one regression per class predicts 0 or 1, and the class with the
largest output is chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..moved import moved_names

__all__ = [
    "INTERVAL",
    "ProbeEvaluation",
    "Ridge",
    "Score",
    "difference",
    "fit_ridge",
    "principal_directions",
    "rotate",
    "standardise",
]

Array = NDArray[Any]
FLOOR = 1e-2  # minimum divisor of a feature, about the rounding error of half precision
HARDLY = 1e-3  # ridge penalty of companion inputs, relative to their mean variance
BLOCK = 1024  # number of rows whose products are summed together
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ridge:
    """The predictions of a probe on held-out episodes.

    Attributes:
        predictions: the k predicted values for each of the r rows, shape [r k].
        penalties: the chosen ridge penalty of each fold.
    """

    predictions: Array
    penalties: list[float]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Score:
    """The score of a probe, with bootstrap resamples.

    Attributes:
        score: mean R2 over all target columns, or the accuracy if the target is a class.
        draws: the score in each bootstrap resample of the episodes.
        each: R2 of each target column. Empty for classes.
        penalties: the chosen ridge penalty of each fold.
    """

    score: float
    draws: Array
    each: list[float]
    penalties: list[float]

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval of the score, from a bootstrap over episodes."""
        return float(np.percentile(self.draws, INTERVAL[0]))

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval of the score, from a bootstrap over episodes."""
        return float(np.percentile(self.draws, INTERVAL[1]))


class ProbeEvaluation:
    """An evaluation with the same targets, folds and resamples for all probes.

    Attributes:
        folds: fold of each of the r rows, shape [r]. All rows of an episode have the same fold.
    """

    def __init__(
        self,
        target: Array,
        episode: Array,
        *,
        is_label: bool,
        folds: int,
        resamples: int,
        penalties: Sequence[float],
        seed: int,
    ) -> None:
        """Draw the folds and the bootstrap resamples.

        Args:
            target: k target values of each of the r rows, float64 [r k]. Classes are one-hot.
            episode: number of the episode of each row, from 0, int [r].
            is_label: True if the target is a class.
            folds: number of folds into which the episodes are divided.
            resamples: number of bootstrap resamples of the episodes.
            penalties: ridge penalties to choose from.
            seed: random seed of folds and bootstrap.
        """
        rng = np.random.default_rng(seed)
        number = int(episode.max()) + 1
        self.folds = (rng.permutation(number) % folds)[episode]
        chances = np.full(number, 1 / number)
        weights = rng.multinomial(number, chances, resamples).astype(np.float64)
        self._target, self._episode, self._is_label = target, episode, is_label
        self._penalties = penalties
        counts = self._per_episode(np.ones((len(target), 1)))
        centred = target - target.mean(0)
        sums, squares = self._per_episode(centred), self._per_episode(np.square(centred))

        def variance(weighing: Array) -> Array:
            found = weighing @ squares - np.square(weighing @ sums) / (weighing @ counts)
            # a target that is constant in a resample has no score there
            return np.where(found > 1e-9 * squares.sum(0), found, np.nan)

        is_scored = np.ones(len(weights), bool) if is_label else ~np.isnan(variance(weights)).all(1)
        if not is_scored.any():
            raise ValueError("no resample of the episodes has two different targets")
        # With few episodes, all targets may be constant in a resample. Such resamples are dropped.
        self._weights, self._counts = weights[is_scored], counts
        self._once = np.ones((1, number))
        self._variances = variance(self._once), variance(self._weights)

    def score(self, inputs: Array, companions: int = 0, shown: Array | None = None) -> Score:
        """Fit a probe to p input values of each of the r rows, and return its score.

        Args:
            inputs: the inputs, shape [r p].
            companions: number of the inputs, counted from the last one, that have a small penalty;
                see `fit_ridge`.
            shown: inputs of the same rows for the test, see `fit_ridge`.
        """
        spread = np.ones(self._target.shape[1]) if self._is_label else self._target.var(0)
        ridge = fit_ridge(
            inputs, self._target, self.folds, self._penalties, 1 / spread, companions, shown
        )
        each, draws = self._score(ridge.predictions)
        return Score(
            score=float(each.mean()),
            draws=draws,
            each=[] if self._is_label else [float(one) for one in each],
            penalties=ridge.penalties,
        )

    def _score(self, predictions: Array) -> tuple[Array, Array]:
        """Return the score of each target column (one score for classes), and of each resample.

        The score of a resample is the mean over all target columns. A resample only weights the
        episodes, and probes are not fitted again. So the interval reflects the choice of test
        episodes, and not the choice of training episodes.
        """
        weights, once = self._weights, self._once
        if self._is_label:
            right = predictions.argmax(1) == self._target.argmax(1)
            hits = self._per_episode(right[:, None].astype(np.float64))
            drawn = weights @ hits / (weights @ self._counts)
            return (once @ hits / (once @ self._counts))[0], drawn[:, 0]
        errors = self._per_episode(np.square(self._target - predictions))
        whole, drawn = (
            1 - weighing @ errors / variance
            for weighing, variance in zip((once, weights), self._variances, strict=True)
        )
        return whole[0], np.nanmean(drawn, axis=1)

    def _per_episode(self, values: Array) -> Array:
        sums = np.zeros((int(self._episode.max()) + 1, *values.shape[1:]))
        np.add.at(sums, self._episode, values)
        return sums


def difference(one: Score, two: Score) -> dict[str, float]:
    """Return score `one` minus score `two`, with a 95 % interval of the difference.

    Both scores must come from the same evaluation, so that their resamples are paired.
    """
    low, high = np.percentile(one.draws - two.draws, INTERVAL)
    return {"score": one.score - two.score, "low": float(low), "high": float(high)}


def standardise(inputs: Array, floor: float = FLOOR) -> Array:
    """Scale each column of the inputs [r p] to mean 0 and standard deviation 1.

    A column with a standard deviation below `floor` is divided by `floor`, so it stays small.
    """
    return (inputs - inputs.mean(0)) / np.maximum(inputs.std(0), floor)


def fit_ridge(
    inputs: Array,
    target: Array,
    fold: Array,
    penalties: Sequence[float],
    weigh: Array,
    companions: int = 0,
    shown: Array | None = None,
) -> Ridge:
    """Predict the targets of each row by ridge regression that is fitted to the other folds.

    The penalty of a fold is chosen by cross-validation within the other folds. Fitting needs only
    sums of products over rows. These are computed once for each fold. The sums for a fit are the
    total minus the sums of the held-out folds.

    Args:
        inputs: p input values of each of the r rows, shape [r p].
        target: k target values of each row, shape [r k].
        fold: fold of each row, from 0, shape [r].
        penalties: penalties to choose from, relative to the mean variance of the inputs.
        weigh: weight of the squared error of each target column, shape [k].
        companions: number of inputs, the last ones, that always have the small penalty `HARDLY`.
            So the chosen penalty of the other inputs does not affect them.
        shown: inputs [r p] of the same rows from which the targets are predicted, for example of
            the same frames in another light; None: `inputs`. They are not used for the fit.
    """
    num_folds = int(fold.max()) + 1
    # one matrix product of inputs, a column of ones and targets contains all sums
    whole = torch.from_numpy(np.concatenate([inputs, np.ones((len(inputs), 1)), target], axis=1))
    moments = torch.zeros(num_folds, whole.shape[1], whole.shape[1], dtype=torch.float64)
    folds = torch.from_numpy(fold)
    for k in range(num_folds):
        for block in whole[folds == k].split(BLOCK):
            moments[k] += block.T @ block
    total, width = moments.sum(0), inputs.shape[1]
    errors = np.zeros((num_folds, len(penalties)))
    for one, two in combinations(range(num_folds), 2):
        rest = total - moments[one] - moments[two]
        for j, maps in enumerate(_solve(rest, width, penalties, companions)):
            errors[one, j] += _squared_error(moments[two], maps, width) @ weigh
            errors[two, j] += _squared_error(moments[one], maps, width) @ weigh
    chosen = [float(penalties[j]) for j in errors.argmin(1)]
    predictions = np.empty_like(target, dtype=np.float64)
    for k, penalty in enumerate(chosen):
        (maps,) = _solve(total - moments[k], width, [penalty], companions)
        rows = whole[folds == k, : width + 1]
        if shown is not None:
            rows = torch.cat([torch.from_numpy(shown[fold == k]), rows[:, width:]], dim=1)
        predictions[fold == k] = (rows @ maps).numpy()
    return Ridge(predictions=predictions, penalties=chosen)


def _solve(
    moments: Tensor, width: int, penalties: Sequence[float], companions: int
) -> list[Tensor]:
    """Fit one regression per penalty, and return the weights of each [p+1 k], biases last."""
    count = moments[width, width]
    mean = moments[width] / count  # means of the inputs, of the ones, and of the targets
    centred = moments - count * torch.outer(mean, mean)
    gram, cross = centred[:width, :width], centred[:width, width + 1 :]
    spread, main = gram.diagonal(), width - companions
    free, held = (
        torch.full_like(part, float(part.mean().clamp(min=1e-12))) if len(part) else part
        for part in (spread[:main], spread[main:])
    )
    maps = []
    for penalty in penalties:
        slope = cross
        if width:
            ridge = gram + torch.diag(torch.cat([penalty * free, HARDLY * held]))
            factor, failed = torch.linalg.cholesky_ex(ridge)
            if failed:  # rows are nearly equal, so the rounded matrix is not positive definite
                slope = torch.linalg.pinv(ridge, hermitian=True) @ cross
            else:
                slope = torch.cholesky_solve(cross, factor)
        offset = mean[width + 1 :] - mean[:width] @ slope
        maps.append(torch.cat([slope, offset[None]]))
    return maps


def _squared_error(moments: Tensor, maps: Tensor, width: int) -> Array:
    """Return the summed squared error of each target column [k], from the sums of a fold."""
    gram, cross = moments[: width + 1, : width + 1], moments[: width + 1, width + 1 :]
    square = moments[width + 1 :, width + 1 :].diagonal()
    error = square - 2 * (maps * cross).sum(0) + (maps * (gram @ maps)).sum(0)
    return error.clamp(min=0).numpy()


def rotate(inputs: Array, width: int) -> tuple[Array, float]:
    """Reduce inputs to at most ``width`` principal components, and return the kept variance share.

    If all components are kept, the probe is unchanged, because ridge regression does not depend on
    a rotation of its inputs. The components are computed from the inputs alone, not from the
    targets. At most 2 * width evenly spaced rows are used for them.
    """
    width = min(width, len(inputs))
    if inputs.shape[1] <= width:
        return inputs, 1.0
    some = inputs[np.unique(np.linspace(0, len(inputs) - 1, 2 * width).astype(int))]
    directions = principal_directions(some, width)
    components = np.concatenate(
        [inputs[i : i + BLOCK] @ directions for i in range(0, len(inputs), BLOCK)]
    )
    total = float(np.square(inputs).sum())
    return components, float(np.square(components).sum()) / total if total else 1.0


def principal_directions(rows: Array, width: int) -> Array:
    """Return the first principal directions of centred rows [r p], at most ``width``: [p k].

    They are the eigenvectors of the smaller one of the matrices [r r] and [p p] of products.
    """
    is_wide = rows.shape[1] > len(rows)
    products = rows @ rows.T if is_wide else rows.T @ rows
    values, vectors = torch.linalg.eigh(torch.from_numpy(products))
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    rank = min(width, int((values > 1e-9 * values[0]).sum()))
    if not is_wide:
        return vectors[:, :rank].numpy()
    return rows.T @ (vectors[:, :rank] / values[:rank].sqrt()).numpy()


__getattr__ = moved_names(
    __name__,
    {
        "Exam": "toto_robot.probing.ridge:ProbeEvaluation",
    },
)
