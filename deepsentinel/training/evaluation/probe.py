"""Probes: how much a linear classifier reads from fixed vectors, also with few labels.

Vectors are embeddings of an encoder, or a control such as band statistics. What is not observed is
NaN and becomes the training mean.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepsentinel.errors import LabelError, ShapeError, TrainingError
from deepsentinel.sample import IGNORE_INDEX

Vectors = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]

_KM_PER_DEGREE = 111.2
PENALTY = 10.0
"""Inverse strength of the ridge penalty, divided by the number of features: standardised features
then give logits of one prior variance however many they are, and wide vectors are not favoured or
punished for their width (docs/design/016)."""


def probe(
    train_x: Vectors,
    train_y: Labels,
    test_x: Vectors,
    test_y: Labels,
    *,
    multilabel: bool = False,
    seed: int = 0,
) -> dict[str, float]:
    """Scores of a logistic regression on standardised vectors.

    Args:
        train_x: (N, D), NaN = not observed.
        train_y: int (N,) class ids, or with `multilabel` (N, C) multi-hot; -1 = not known.
        test_x: (M, D).
        test_y: as `train_y`.
        multilabel: one regression a class.
        seed: of the solver.

    Returns:
        `accuracy` and `macro_f1` (mean over the classes of the test labels); with `multilabel`
        `micro_map` and `macro_map` (mean over the classes that occur in the test labels).

    Raises:
        ShapeError: vectors and labels do not fit each other.
        LabelError: nothing is labelled.

    Example:
        >>> x = np.array([[0.0], [0.2], [0.9], [1.0]])
        >>> y = np.array([0, 0, 1, 1])
        >>> probe(x, y, x, y)
        {'accuracy': 1.0, 'macro_f1': 1.0}
    """
    rank = 2 if multilabel else 1
    for name, x, y in (("train", train_x, train_y), ("test", test_x, test_y)):
        _check(name, x, y, rank)
    known = (train_y != IGNORE_INDEX).reshape(len(train_y), -1).any(axis=1)
    train_y = train_y[known]
    train_x, test_x = standardise(train_x[known], test_x)
    if multilabel:
        scores = np.stack(
            [
                _positive_scores(train_x, train_y[:, k], test_x, seed)
                for k in range(train_y.shape[1])
            ],
            axis=1,
        )
        return _multilabel_scores(scores, test_y)
    return _single_scores(_predict(train_x, train_y, test_x, seed), test_y)


def fewshot_probe(
    x: Vectors,
    y: Labels,
    blocks: ArrayLike,
    *,
    sizes: Sequence[int] = (20, 60, 200),
    splits: int = 8,
    test_share: float = 0.5,
    multilabel: bool = False,
    seed: int = 0,
) -> dict[int, NDArray[np.float64]]:
    """Probe scores with few labels, over spatial splits that are the same for every `x`.

    Each split draws whole blocks for testing; training patches are drawn from the others, those of
    a smaller size being the first of a larger one. Splits depend on `blocks`, `sizes`, `splits`,
    `test_share` and `seed` alone, so that two sets of vectors are compared by the difference
    within each split.

    Args:
        x: (N, D), NaN = not observed.
        y: int (N,) class ids, or with `multilabel` (N, C) multi-hot; -1 = not known.
        blocks: (N,) which patches lie together, as `spatial_blocks` makes it.
        sizes: numbers of training patches.
        splits: how many splits.
        test_share: share of the blocks to test on.
        multilabel: as in `probe`.
        seed: decides the splits.

    Returns:
        By size, float64 (splits,): `micro_map` with `multilabel`, else `accuracy`.

    Raises:
        TrainingError: too few patches or blocks for these sizes.

    Example:
        >>> x = np.arange(40.0)[:, None]
        >>> y = (np.arange(40) >= 20).astype(int)
        >>> fewshot_probe(x, y, np.arange(40) % 8, sizes=(10,), splits=3)[10].shape
        (3,)
    """
    metric = "micro_map" if multilabel else "accuracy"
    scores: dict[int, list[float]] = {size: [] for size in sizes}
    for train, test in spatial_splits(
        blocks, most=max(sizes), splits=splits, test_share=test_share, seed=seed
    ):
        for size in sizes:
            few = train[:size]
            found = probe(x[few], y[few], x[test], y[test], multilabel=multilabel, seed=seed)
            scores[size].append(found[metric])
    return {size: np.array(values) for size, values in scores.items()}


def spatial_splits(
    blocks: ArrayLike, *, most: int, splits: int, test_share: float = 0.5, seed: int = 0
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Pairs of (training, test) indices; no block is in both, training is in random order.

    Args:
        blocks: (N,) block of each patch.
        most: how many training patches each split must offer.
        splits: how many splits.
        test_share: share of the blocks to test on.
        seed: decides the splits.

    Raises:
        TrainingError: too few patches or blocks.

    Example:
        >>> train, test = spatial_splits([0, 0, 1, 1], most=2, splits=1)[0]
        >>> sorted([*train.tolist(), *test.tolist()])
        [0, 1, 2, 3]
    """
    members = np.asarray(blocks)
    names = np.unique(members)
    tested = round(test_share * len(names))
    if not 0 < tested < len(names):
        raise TrainingError(
            f"{len(names)} blocks cannot be split with test_share={test_share}: at least one must "
            "train and one test. Take smaller blocks."
        )
    pairs = []
    for split in range(splits):
        generator = np.random.default_rng([seed, split])
        is_test = np.isin(members, generator.permutation(names)[:tested])
        train = generator.permutation(np.flatnonzero(~is_test))
        if len(train) < most:
            raise TrainingError(
                f"split {split} has {len(train)} patches to train on, {most} are asked for by "
                "sizes. Take smaller sizes, a smaller test_share, or more patches."
            )
        pairs.append((train, np.flatnonzero(is_test)))
    return pairs


def spatial_blocks(lonlat: ArrayLike, *, block_km: float = 5.0) -> NDArray[np.intp]:
    """Block ids of patches by their position: squares of about `block_km`.

    Args:
        lonlat: (N, 2) longitude and latitude in degrees.
        block_km: side of a square; east-west it is right at the mean latitude.

    Returns:
        int (N,), from 0.

    Raises:
        TrainingError: a position is not known.

    Example:
        >>> spatial_blocks([[10.01, 50.0], [10.02, 50.0], [11.0, 50.0]]).tolist()
        [0, 0, 1]
    """
    degrees = np.asarray(lonlat, dtype=np.float64)
    unknown = int((~np.isfinite(degrees).all(axis=1)).sum())
    if unknown:
        raise TrainingError(
            f"{unknown} of {len(degrees)} patches have no position, so they cannot be split by "
            "place. Leave them out, or give blocks of your own."
        )
    scale = _KM_PER_DEGREE * np.array([np.cos(np.radians(degrees[:, 1].mean())), 1.0])
    cells = np.floor(degrees * scale / block_km).astype(np.int64)
    _, blocks = np.unique(cells, axis=0, return_inverse=True)
    return blocks.reshape(-1)


def standardise(train: Vectors, test: Vectors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both by mean and standard deviation of the training vectors; NaN becomes 0, the mean.

    Example:
        >>> standardise(np.array([[0.0], [2.0], [np.nan]]), np.array([[3.0]]))[1]
        array([[2.]])
    """
    train, test = train.astype(np.float64), test.astype(np.float64)
    seen = np.isfinite(train)
    count = np.maximum(seen.sum(axis=0), 1)
    mean = np.where(seen, train, 0).sum(axis=0) / count
    variance = (np.where(seen, train - mean, 0) ** 2).sum(axis=0) / count
    scale = np.where(variance > 0, np.sqrt(variance), 1)
    filled = [np.where(np.isfinite(x), (x - mean) / scale, 0) for x in (train, test)]
    return filled[0], filled[1]


def _positive_scores(
    train_x: NDArray[np.float64], train_y: Labels, test_x: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    known = train_y != IGNORE_INDEX
    y = train_y[known]
    if len(np.unique(y)) < 2:  # nothing to tell apart: everything gets the share seen in training
        return np.full(len(test_x), float(y.mean()) if len(y) else 0.0)
    scores: NDArray[np.float64] = _fitted(train_x[known], y, seed).predict_proba(test_x)[:, 1]
    return scores


def _predict(
    train_x: NDArray[np.float64], train_y: Labels, test_x: NDArray[np.float64], seed: int
) -> Labels:
    if len(np.unique(train_y)) == 1:
        return np.full(len(test_x), train_y[0])
    predicted: Labels = _fitted(train_x, train_y, seed).predict(test_x)
    return predicted


def _fitted(x: NDArray[np.float64], y: Labels, seed: int) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # After this many steps the scores no longer move, whatever is left of the gradient.
        warnings.simplefilter("ignore", ConvergenceWarning)
        inverse_penalty = PENALTY / x.shape[1]
        return LogisticRegression(C=inverse_penalty, max_iter=1000, random_state=seed).fit(x, y)


def _single_scores(predicted: Labels, truth: Labels) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score

    known = truth != IGNORE_INDEX
    predicted, truth = predicted[known], truth[known]
    f1 = f1_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
    return {"accuracy": float(accuracy_score(truth, predicted)), "macro_f1": float(f1)}


def _multilabel_scores(scores: NDArray[np.float64], truth: Labels) -> dict[str, float]:
    from sklearn.metrics import average_precision_score

    known = truth != IGNORE_INDEX
    by_class = [
        average_precision_score(truth[known[:, k], k], scores[known[:, k], k])
        for k in range(truth.shape[1])
        if (truth[:, k] == 1).any()
    ]
    micro = average_precision_score(truth[known], scores[known])
    return {"micro_map": float(micro), "macro_map": float(np.mean(by_class))}


def _check(name: str, x: Vectors, y: Labels, rank: int) -> None:
    if x.ndim != 2 or y.ndim != rank or len(x) != len(y):
        wanted = "(N, C), multi-hot" if rank == 2 else "(N,), class ids"
        raise ShapeError(
            f"{name}: vectors of shape {x.shape} and labels of shape {y.shape}; (N, D) and "
            f"{wanted} are expected."
        )
    labelled = (y == 1) if rank == 2 else (y != IGNORE_INDEX)
    if not labelled.any():
        raise LabelError(f"{name}: nothing is labelled among {len(y)} patches.")
