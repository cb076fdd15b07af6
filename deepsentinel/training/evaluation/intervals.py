"""Bootstrap over spatial blocks: how sure a score is, and a difference between two scores.

Patches of one block resemble each other, so whole blocks are drawn again, with replacement. All
scores of one evaluation share the drawn blocks, so that the difference of two of them has a paired
interval: the difference of their replicates. Scores that weigh each patch by how often its block
was drawn are the same as scores of the drawn patches (the tests draw them).
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepsentinel.errors import TrainingError

Floats = NDArray[np.float64]
LEVEL: Final = 0.95
LEAST_BLOCKS: Final = 6
"""Blocks below which there is no interval: that all of five differ to one side is chance in 2 of 32
cases, more often than an interval of 95 % may be wrong; of one block all replicates are alike."""
_CHUNK: Final = 2**22
"""Numbers of one step of the bootstrap: bounds its memory."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        ends = f"{self.low:.3f}, {self.high:.3f}" if self.known else "not known"
        return f"{self.value:.3f} [{ends}]"

    @property
    def known(self) -> bool:
        """Whether there is an interval: of too few blocks there is none."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def verdict(self) -> str:
        """Of a difference: `below` or `above` zero, `same` where the interval holds it, or `not known`.

        Example:
            >>> Interval(0.1, -0.1, 0.3).verdict, Interval(-0.2, -0.3, -0.1).verdict
            ('same', 'below')
        """
        if not self.known:
            return "not known"
        return "below" if self.high < 0 else "above" if self.low > 0 else "same"


def interval(value: float, replicates: ArrayLike) -> Interval:
    """The percentile interval of replicates around a value; NaN among them is left out.

    Example:
        >>> str(interval(0.5, np.linspace(0, 1, 101)))
        '0.500 [0.025, 0.975]'
    """
    drawn = np.asarray(replicates, dtype=np.float64)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Interval(value, float("nan"), float("nan"))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high))


def sure(replicates: Floats, blocks: int) -> Floats:
    """The replicates of a score of so many blocks; NaN where these are too few for an interval.

    Example:
        >>> sure(np.array([0.25]), 6), sure(np.array([0.25]), 1)
        (array([0.25]), array([nan]))
    """
    return replicates if blocks >= LEAST_BLOCKS else np.full_like(replicates, np.nan)


def block_weights(blocks: ArrayLike, *, replicates: int, seed: int = 0) -> Floats:
    """How often each block is drawn in each replicate: (replicates, number of blocks).

    Args:
        blocks: (N,) block of each patch, numbered from 0.
        replicates: how many times all blocks are drawn.
        seed: decides the draws.

    Raises:
        TrainingError: no replicate was asked for.

    Example:
        >>> block_weights([0, 0, 1, 2], replicates=4).sum(axis=1).tolist()
        [3.0, 3.0, 3.0, 3.0]
    """
    if replicates < 1:
        raise TrainingError(f"replicates={replicates}: a bootstrap needs at least one.")
    count = int(np.max(np.asarray(blocks))) + 1
    generator = np.random.default_rng([seed, count, replicates])
    return generator.multinomial(count, np.full(count, 1 / count), replicates).astype(np.float64)


def confusions(
    classes: NDArray[Any], target: NDArray[Any], blocks: NDArray[Any], *, count: int, number: int
) -> Floats:
    """Confusion matrix of each block: (number, count, count), target by predicted class.

    Example:
        >>> confusions(np.array([1, 1]), np.array([0, 1]), np.array([0, 0]), count=2, number=1)
        array([[[0., 1.],
                [0., 1.]]])
    """
    flat = (blocks * count + target) * count + classes
    counts = np.bincount(flat, minlength=number * count * count)
    return counts.reshape(number, count, count).astype(np.float64)


def confusion_scores(matrix: Floats) -> dict[str, Floats]:
    """Accuracy, macro F1 and mean IoU of confusion matrices (..., K, K).

    Macro F1 and mean IoU are over the classes that occur in target or prediction.
    """
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    told, true = matrix.sum(axis=-2), matrix.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1, iou = 2 * right / (told + true), right / (told + true - right)
        accuracy = right.sum(-1) / matrix.sum((-2, -1))
    return {"accuracy": accuracy, "macro_f1": _mean(f1), "miou": _mean(iou)}


def average_precisions(
    scores: NDArray[Any],
    target: NDArray[Any],
    weights: Floats,
    *,
    columns: NDArray[np.intp] | None = None,
) -> Floats:
    """Average precision under each row of weights; NaN where no positive has weight.

    Equal scores count as one threshold, as in torchmetrics and scikit-learn.

    Args:
        scores: (N,).
        target: (N,) of 0 and 1.
        weights: (B, M), how often each entry, or each block of entries, counts.
        columns: (N,) where in `weights` each entry stands; entry i at i if `None`.

    Example:
        >>> average_precisions(np.array([0.9, 0.8, 0.1]), np.array([1, 0, 1]), np.ones((1, 3)))
        array([0.83333333])
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    positive = (target[order] == 1).astype(np.float64)
    places = order if columns is None else columns[order]
    step = max(1, _CHUNK // max(1, len(order)))
    parts = []
    for start in range(0, len(weights), step):
        drawn = weights[start : start + step][:, places]
        hits = np.cumsum(drawn * positive, axis=1)[:, ends]
        seen = np.cumsum(drawn, axis=1)[:, ends]
        gained = np.diff(hits, axis=1, prepend=0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(seen > 0, hits / seen, 0.0)
            parts.append((gained * precision).sum(axis=1) / hits[:, -1])
    return np.concatenate(parts)


def _mean(values: Floats) -> Floats:
    """Mean over the last axis without NaN; NaN where nothing else is there."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(known, values, 0).sum(axis=-1) / known.sum(axis=-1)
    return mean
