"""What learns from fixed vectors: k nearest neighbours and logistic regression, chosen on validation.

Both give class probabilities. Vectors of which nothing was observed (all NaN) train nothing; as a
question they are answered with the prior, the class frequencies of what was learnt from.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from deepsentinel.errors import TrainingError, UnknownNameError, nearest
from deepsentinel.sample import IGNORE_INDEX
from deepsentinel.training.evaluation.intervals import Floats
from deepsentinel.training.evaluation.metrics import HEADLINES, Kind, replicated
from deepsentinel.training.evaluation.probe import Labels, Vectors, standardise

Method = Literal["knn", "linear"]

GRIDS: Final[dict[str, tuple[float, ...]]] = {
    "knn": (1, 3, 10, 30),
    "linear": (1.0, 10.0, 100.0),
}
"""What is tried on the validation blocks: neighbours, and the inverse strength of the ridge penalty
before it is divided by the number of features (docs/design/016)."""


@dataclass(frozen=True, eq=False)
class Learnt:
    """What a learner says of the questions, and what was chosen for it."""

    probabilities: tuple[Floats, ...]
    """(M, K) for each set of questions."""
    chosen: float
    """Neighbours or penalty with the best score on the validation units."""
    val_score: float
    empty: tuple[int, ...]
    """Of how many questions nothing was observed."""
    prior: Floats
    """(K,)"""


def learn(
    method: str,
    train: tuple[Vectors, Labels],
    val: tuple[Vectors, Labels],
    questions: Sequence[Vectors],
    *,
    kind: Kind,
    count: int,
) -> Learnt:
    """Learn from `train`, choose on `val`, answer the questions.

    Args:
        method: `"knn"` or `"linear"`.
        train: (N, D) vectors, NaN = not observed, and their labels as `kind` has them.
        val: the same of other blocks.
        questions: sets of (M, D) vectors.
        kind: `"single"`, `"multi"` or `"pixels"`.
        count: K, the number of classes.

    Raises:
        UnknownNameError: unknown method.
        TrainingError: nothing labelled was observed.

    Example:
        >>> x, y = np.array([[0.0], [0.1], [0.9], [1.0]]), np.array([0, 0, 1, 1])
        >>> found = learn("linear", (x, y), (x, y), [np.array([[0.95]])], kind="single", count=2)
        >>> found.probabilities[0].argmax(axis=1).tolist(), found.prior.tolist()
        ([1], [0.5, 0.5])
    """
    if method not in GRIDS:
        raise UnknownNameError(f"unknown method {method!r}. {nearest(method, GRIDS)}")
    fit = _linear if method == "linear" else _knn
    x, y = _usable(*train, kind)
    prior = class_prior(y, kind, count)
    chosen, best = GRIDS[method][0], -np.inf
    sets = [val[0], *questions]
    seen = [np.isfinite(q).any(axis=1) for q in sets]
    plain, *others = _standardised(x, sets)
    answers: list[Floats] | None = None
    for option in GRIDS[method]:
        said = fit(plain, y, others, kind=kind, count=count, option=option)
        for answer, observed in zip(said, seen, strict=True):
            answer[~observed] = prior
        score = _headline(kind, said[0], val[1])
        if answers is None or score > best:
            chosen, best, answers = option, score, said
    assert answers is not None  # noqa: S101 - no grid is empty
    empty = tuple(int((~observed).sum()) for observed in seen[1:])
    return Learnt(tuple(answers[1:]), chosen, best, empty, prior)


def class_prior(labels: Labels, kind: Kind, count: int) -> Floats:
    """(K,) how often each class occurs among labels.

    Example:
        >>> class_prior(np.array([0, 0, 2]), "single", 3).round(2).tolist()
        [0.67, 0.0, 0.33]
    """
    if kind == "multi":
        known = labels != IGNORE_INDEX
        return np.asarray((labels == 1).sum(axis=0) / np.maximum(known.sum(axis=0), 1))
    shares: Floats = np.bincount(labels, minlength=count) / len(labels)
    return shares


def _usable(x: Vectors, y: Labels, kind: Kind) -> tuple[Vectors, Labels]:
    known = (y != IGNORE_INDEX).any(axis=1) if kind == "multi" else y != IGNORE_INDEX
    kept = known & np.isfinite(x).any(axis=1)
    if not kept.any():
        raise TrainingError(
            f"none of {len(x)} training units is labelled and observed, so there is nothing to "
            "learn from. Take a larger budget, other sensors, or fewer folds."
        )
    return x[kept], y[kept]


def _standardised(train: Vectors, others: Sequence[Vectors]) -> list[Floats]:
    stacked = np.concatenate([train, *others])
    first, rest = standardise(train, stacked[len(train) :])
    ends = np.cumsum([len(o) for o in others])[:-1]
    return [first, *np.split(rest, ends)]


def _headline(kind: Kind, probabilities: Floats, target: Labels) -> float:
    weights, blocks = np.ones((1, 1)), np.zeros(len(target), dtype=np.intp)
    score = float(replicated(kind, probabilities, target, blocks, weights)[HEADLINES[kind][0]][0])
    return score if np.isfinite(score) else -np.inf


def _knn(
    x: Floats, y: Labels, others: Sequence[Floats], *, kind: Kind, count: int, option: float
) -> list[Floats]:
    """Votes of the nearest by cosine; the prior has one vote, so that nothing has probability 0."""
    from sklearn.neighbors import NearestNeighbors

    neighbours = min(int(option), len(x))
    index = NearestNeighbors(n_neighbors=neighbours, metric="cosine").fit(x)
    hot = (y == 1) if kind == "multi" else np.eye(count)[y]
    prior = class_prior(y, kind, count)
    votes = [
        hot[index.kneighbors(o, return_distance=False)].sum(axis=1)
        if len(o)
        else np.zeros((0, count))
        for o in others
    ]
    return [(v + prior) / (neighbours + 1) for v in votes]


def _linear(
    x: Floats, y: Labels, others: Sequence[Floats], *, kind: Kind, count: int, option: float
) -> list[Floats]:
    inverse_penalty = option / x.shape[1]
    x, others = reduced(x, others)
    if kind != "multi":
        return _softmax_probabilities(x, y, others, count, inverse_penalty)
    answers = [np.empty((len(o), count)) for o in others]
    for k in range(count):
        known = y[:, k] != IGNORE_INDEX
        for answer, said in zip(
            answers, _one_class(x[known], y[known, k], others, inverse_penalty), strict=True
        ):
            answer[:, k] = said
    return answers


def reduced(x: Floats, others: Sequence[Floats]) -> tuple[Floats, list[Floats]]:
    """The same problem in fewer features, where there are more features than vectors.

    A ridge penalty keeps the weights within the span of the training vectors, so that coordinates
    in an orthonormal basis of that span lose nothing: the fitted probabilities are the same.

    Example:
        >>> few, _ = reduced(np.eye(2, 5), [])
        >>> few.shape
        (2, 2)
    """
    if len(x) >= x.shape[1]:
        return x, list(others)
    _, strength, basis = np.linalg.svd(x, full_matrices=False)
    kept = strength > 1e-10 * max(strength.max(initial=0), 1e-300)
    if not kept.any():
        return x[:, :1], [o[:, :1] for o in others]
    turn = basis[kept].T
    return x @ turn, [o @ turn for o in others]


def _one_class(
    x: Floats, y: Labels, others: Sequence[Floats], inverse_penalty: float
) -> list[Floats]:
    if len(np.unique(y)) < 2:  # nothing to tell apart: everything gets the share seen in training
        share = float(y.mean()) if len(y) else 0.0
        return [np.full(len(o), share) for o in others]
    fitted = _regression(x, y, inverse_penalty)
    return [fitted.predict_proba(o)[:, 1] if len(o) else np.zeros(0) for o in others]


def _softmax_probabilities(
    x: Floats, y: Labels, others: Sequence[Floats], count: int, inverse_penalty: float
) -> list[Floats]:
    classes = np.unique(y)
    answers = [np.zeros((len(o), count)) for o in others]
    if len(classes) == 1:
        for answer in answers:
            answer[:, classes[0]] = 1.0
        return answers
    fitted = _regression(x, y, inverse_penalty)
    for answer, o in zip(answers, others, strict=True):
        if len(o):
            answer[:, classes] = fitted.predict_proba(o)
    return answers


def _regression(x: Floats, y: Labels, inverse_penalty: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # After this many steps the scores no longer move, whatever is left of the gradient.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=inverse_penalty, max_iter=300).fit(x, y)
