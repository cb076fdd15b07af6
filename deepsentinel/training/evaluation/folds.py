"""Who trains, who chooses and who tests: folds of spatial blocks, and how many labels may be used.

Every patch is tested once a seed, by a model that saw neither it nor any patch of its block.
Choices such as a penalty are made on the validation blocks, which neither train nor test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepsentinel.errors import TrainingError
from deepsentinel.sample import IGNORE_INDEX

Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Fold:
    """Indices of patches; no block is in two of the three."""

    train: Indices
    val: Indices
    test: Indices


def fold_numbers(blocks: ArrayLike, *, folds: int, seed: int = 0) -> Indices:
    """The fold of each patch: whole blocks, drawn at random, folds of about equal size.

    Args:
        blocks: (N,) block of each patch, as `spatial_blocks` makes it.
        folds: at least 3, one of them to test and one to choose.
        seed: decides which blocks go together.

    Raises:
        TrainingError: fewer blocks than folds, or fewer than three folds.

    Example:
        >>> fold_numbers([0, 0, 1, 2], folds=3).tolist()
        [0, 0, 2, 1]
    """
    names, members, sizes = np.unique(np.asarray(blocks), return_inverse=True, return_counts=True)
    if folds < 3 or len(names) < folds:
        raise TrainingError(
            f"folds={folds} of {len(names)} spatial blocks: at least 3 folds are needed, one to "
            "test, one to choose and the others to train, and a block for each. Take fewer folds "
            "or smaller blocks (block_km)."
        )
    order = np.random.default_rng([seed, len(names)]).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    numbers, filled = np.empty(len(names), dtype=np.intp), np.zeros(folds, dtype=np.intp)
    for block in order:
        numbers[block] = filled.argmin()
        filled[numbers[block]] += sizes[block]
    return numbers[members.reshape(-1)]


def spatial_folds(blocks: ArrayLike, *, folds: int = 5, seed: int = 0) -> tuple[Fold, ...]:
    """Cross-validation over blocks: fold k tests once, and chooses where fold k - 1 tests.

    Args:
        blocks: (N,) block of each patch.
        folds: how many.
        seed: decides which blocks go together.

    Raises:
        TrainingError: too few blocks or folds.

    Example:
        >>> sorted(int(i) for fold in spatial_folds([0, 1, 2, 3], folds=4) for i in fold.test)
        [0, 1, 2, 3]
    """
    number = fold_numbers(blocks, folds=folds, seed=seed)
    return tuple(
        Fold(
            train=np.flatnonzero((number != k) & (number != (k + 1) % folds)),
            val=np.flatnonzero(number == (k + 1) % folds),
            test=np.flatnonzero(number == k),
        )
        for k in range(folds)
    )


def given_fold(splits: Sequence[str]) -> Fold:
    """The one fold that a corpus brings: its splits train, val and test.

    Raises:
        TrainingError: one of the three is empty.

    Example:
        >>> given_fold(["test", "train", "val"]).test.tolist()
        [0]
    """
    names = np.asarray(splits)
    train, val, test = (np.flatnonzero(names == name) for name in ("train", "val", "test"))
    if not (len(train) and len(val) and len(test)):
        raise TrainingError(
            f"the splits of the corpus hold {len(train)} patches to train on, {len(val)} to choose "
            f"on (val) and {len(test)} to test; all three are needed. Use spatial folds instead: "
            "folds=5."
        )
    return Fold(train, val, test)


@dataclass(frozen=True)
class Budget:
    """How much of what could train is labelled.

    Example:
        >>> Budget("shots", 5).name, Budget("share", 0.1).name, Budget("count", 200).name
        ('5 per class', '10 %', '200 labels')
    """

    kind: Literal["shots", "share", "count"]
    """Labels of each class, share of all, or labels in all."""
    amount: float

    def __post_init__(self) -> None:
        whole = self.kind != "share"
        if self.amount <= 0 or (whole and self.amount != int(self.amount)):
            raise TrainingError(
                f"{self.kind} of {self.amount}: a whole number above 0 is expected."
            )
        if not whole and self.amount > 1:
            raise TrainingError(f"share of {self.amount}: give a share above 0, at most 1.")

    @property
    def name(self) -> str:
        """For tables."""
        if self.kind == "shots":
            return f"{self.amount:g} per class"
        return f"{100 * self.amount:g} %" if self.kind == "share" else f"{self.amount:g} labels"

    def draw(self, labels: NDArray[Any], candidates: Indices, *, seed: Sequence[int]) -> Indices:
        """Which candidates are labelled; a smaller budget of one kind takes part of a larger one.

        A class that has too few gives all that it has. Multi-label patches are drawn class by
        class, the rarest first, until each class is on enough of them.

        Args:
            labels: int (N,) or multi-hot (N, C).
            candidates: indices into `labels` that may train.
            seed: numbers that decide the draw.

        Raises:
            TrainingError: fewer candidates than `count` asks for.
        """
        order = np.random.default_rng([*seed]).permutation(candidates)
        if self.kind == "share":
            return order[: max(1, round(self.amount * len(order)))]
        if self.kind == "count":
            if len(order) < self.amount:
                raise TrainingError(
                    f"{self.amount:g} labels were asked for, but a fold has {len(order)} patches "
                    "to train on. Take fewer labels, or more folds."
                )
            return order[: int(self.amount)]
        few = int(self.amount)
        return _per_class(labels, order, few) if labels.ndim == 1 else _covering(labels, order, few)


def _per_class(labels: NDArray[Any], order: Indices, few: int) -> Indices:
    known = [c for c in np.unique(labels[order]) if c != IGNORE_INDEX]
    return np.concatenate([order[labels[order] == c][:few] for c in known])


def _covering(labels: NDArray[Any], order: Indices, few: int) -> Indices:
    """Patches until each class is on `few` of them, rarest class first."""
    positive = labels[order] == 1
    chosen = np.zeros(len(order), dtype=bool)
    for column in np.argsort(positive.sum(axis=0), kind="stable"):
        missing = few - int((positive[:, column] & chosen).sum())
        more = np.flatnonzero(positive[:, column] & ~chosen)[: max(0, missing)]
        chosen[more] = True
    return order[chosen]
