"""All scores of class probabilities, by torchmetrics, and the two that get intervals.

`kind` says what is classified: `"single"` patches of one class, `"multi"` patches of any number of
classes, `"pixels"`. Targets of -1 are not known and count nothing.
"""

from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepsentinel.errors import TrainingError
from deepsentinel.sample import IGNORE_INDEX
from deepsentinel.training.evaluation.intervals import (
    Floats,
    average_precisions,
    confusion_scores,
    confusions,
)
from deepsentinel.training.scoring.scores import Confusion, average_precision

Kind = Literal["single", "multi", "pixels"]

HEADLINES: Final[dict[Kind, tuple[str, str]]] = {
    "single": ("accuracy", "macro_f1"),
    "multi": ("micro_map", "macro_map"),
    "pixels": ("miou", "pixel_accuracy"),
}
"""The score that decides, and a second one; both get intervals."""

MEANINGS: Final[dict[str, str]] = {
    "accuracy": "share of right classes; multi-label: of right pairs of patch and class at 0.5",
    "pixel_accuracy": "share of labelled pixels with the right class",
    "miou": "mean IoU over the classes that occur in target or prediction",
    "top_3": "share of patches whose class is among the three most probable",
    "top_5": "share of patches whose class is among the five most probable",
    "macro_f1": "mean F1 over the classes that occur in target or prediction",
    "micro_f1": "F1 over all pairs of patch and class, at 0.5",
    "kappa": "Cohen's kappa; multi-label: its mean over the classes that occur",
    "micro_map": "average precision over all pairs of patch and class",
    "macro_map": "mean average precision over the classes that occur in the target",
    "auprc": "mean area under the precision-recall curve, by trapezoids, over the same classes",
    "weighted_log_loss": "log loss in which every class weighs the same; probabilities from 1e-6",
    "calibration_error": "expected difference of confidence and hit rate, 15 bins",
}
"""What each score means; all but the last two are better the higher they are."""

_LEAST: Final = 1e-6
"""Probabilities below count as this in the log loss, so that one zero does not make it infinite."""


def all_scores(kind: Kind, probabilities: NDArray[Any], target: NDArray[Any]) -> dict[str, float]:
    """Every score of `MEANINGS` that the kind has; NaN where one is not defined.

    Args:
        kind: what is classified.
        probabilities: (N, K).
        target: int (N,) class ids, or multi-hot (N, K) for `"multi"`; -1 = not known.

    Raises:
        TrainingError: nothing is labelled.

    Example:
        >>> found = all_scores("single", np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
        >>> found["accuracy"], round(found["weighted_log_loss"], 3), round(found["kappa"], 3)
        (0.5, 0.511, 0.0)
    """
    p, t = torch.from_numpy(np.asarray(probabilities, np.float64)), torch.from_numpy(target).long()
    if kind == "multi":
        return _multi(p, t)
    known = t != IGNORE_INDEX
    if not bool(known.any()):
        raise TrainingError(_NOTHING)
    return _single(kind, p[known], t[known])


def class_scores(
    kind: Kind, probabilities: NDArray[Any], target: NDArray[Any]
) -> tuple[str, NDArray[np.float64]]:
    """Name and value (K,) of the score of each class: IoU, F1 or average precision; NaN if absent.

    Example:
        >>> class_scores("pixels", np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
        ('iou', array([0.5, 0. ]))
    """
    p, t = torch.from_numpy(np.asarray(probabilities, np.float64)), torch.from_numpy(target).long()
    if kind == "multi":
        return "average_precision", _precisions(p, t).numpy()
    counts = _confusion(p, t)
    return ("iou", counts.iou().numpy()) if kind == "pixels" else ("f1", counts.f1().numpy())


def replicated(
    kind: Kind,
    probabilities: NDArray[Any],
    target: NDArray[Any],
    blocks: NDArray[Any],
    weights: Floats,
) -> dict[str, Floats]:
    """The two headline scores in each replicate of a bootstrap over blocks.

    Args:
        kind: what is classified.
        probabilities: (N, K).
        target: as in `all_scores`.
        blocks: (N,) block of each unit.
        weights: (B, blocks), as `block_weights` draws them.

    Returns:
        By name, (B,); NaN where a replicate holds nothing to score.

    Example:
        >>> p, t = np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1])
        >>> weights = np.array([[1.0, 1.0], [2.0, 0.0]])
        >>> replicated("single", p, t, np.array([0, 1]), weights)["accuracy"]
        array([0.5, 1. ])
    """
    if kind == "multi":
        return _multi_replicates(probabilities, target, blocks, weights)
    known = target != IGNORE_INDEX
    matrices = confusions(
        probabilities[known].argmax(axis=1),
        target[known],
        blocks[known],
        count=probabilities.shape[1],
        number=weights.shape[1],
    )
    found = confusion_scores(np.tensordot(weights, matrices, axes=1))
    if kind == "pixels":
        return {"miou": found["miou"], "pixel_accuracy": found["accuracy"]}
    return {"accuracy": found["accuracy"], "macro_f1": found["macro_f1"]}


def _single(kind: Kind, p: Tensor, t: Tensor) -> dict[str, float]:
    from torchmetrics.functional import classification as tm

    count = p.shape[1]
    confusion, one_hot = _confusion(p, t), torch.nn.functional.one_hot(t, count)
    kappa = tm.multiclass_cohen_kappa(p, t, count)
    calibration = tm.multiclass_calibration_error(p, t, count, n_bins=15)
    shared = {
        "macro_f1": float(confusion.f1().nanmean()),
        "kappa": float(kappa),
        "auprc": _auprc(p, one_hot),
        "weighted_log_loss": _weighted_log_loss(p, t),
        "calibration_error": float(calibration),
    }
    if kind == "pixels":
        iou = float(confusion.iou().nanmean())
        return {"miou": iou, "pixel_accuracy": confusion.accuracy(), **shared}
    top = {
        f"top_{k}": float(tm.multiclass_accuracy(p, t, count, average="micro", top_k=k))
        for k in (3, 5)
        if count > k
    }
    return {
        "accuracy": confusion.accuracy(),
        **top,
        **shared,
        "micro_map": average_precision(p.flatten(), one_hot.flatten()),
        "macro_map": float(_precisions(p, one_hot).nanmean()),
    }


def _multi(p: Tensor, t: Tensor) -> dict[str, float]:
    from torchmetrics.functional import classification as tm

    known = t != IGNORE_INDEX
    if not bool((t == 1).any()):
        raise TrainingError(_NOTHING)
    flat, truth = p[known], t[known]
    return {
        "micro_map": average_precision(flat, truth),
        "macro_map": float(_precisions(p, t).nanmean()),
        "accuracy": float(tm.binary_accuracy(flat, truth)),
        "micro_f1": float(tm.binary_f1_score(flat, truth)),
        "macro_f1": _by_class(p, t, _binary_f1),
        "kappa": _by_class(p, t, tm.binary_cohen_kappa),
        "auprc": _auprc(p, t),
        "weighted_log_loss": _by_class(p, t, _balanced_log_loss),
        "calibration_error": float(tm.binary_calibration_error(flat, truth, n_bins=15)),
    }


def _confusion(p: Tensor, t: Tensor) -> Confusion:
    counts = Confusion(tuple(str(i) for i in range(p.shape[1])))
    counts.add(p.argmax(1), t)
    return counts


def _precisions(p: Tensor, t: Tensor) -> Tensor:
    """(K,) average precision; NaN for a class that does not occur."""
    values = []
    for k in range(p.shape[1]):
        known = t[:, k] != IGNORE_INDEX
        values.append(average_precision(p[known, k], t[known, k]))
    return torch.tensor(values, dtype=torch.float64)


def _auprc(p: Tensor, t: Tensor) -> float:
    from torchmetrics.functional.classification import binary_precision_recall_curve

    values = []
    for k in range(p.shape[1]):
        known = t[:, k] != IGNORE_INDEX
        if bool((t[known, k] == 1).any()):
            precision, recall, _ = binary_precision_recall_curve(p[known, k], t[known, k])
            values.append(-float(torch.trapezoid(precision, recall)))
    return float(np.mean(values)) if values else float("nan")


def _by_class(p: Tensor, t: Tensor, score: Any) -> float:
    """Mean over the classes of which both answers occur in the target."""
    values = []
    for k in range(p.shape[1]):
        known = t[:, k] != IGNORE_INDEX
        if len(torch.unique(t[known, k])) == 2:
            values.append(float(score(p[known, k], t[known, k])))
    return float(np.mean(values)) if values else float("nan")


def _binary_f1(p: Tensor, t: Tensor) -> Tensor:
    from torchmetrics.functional.classification import binary_f1_score

    return binary_f1_score(p, t)


def _weighted_log_loss(p: Tensor, t: Tensor) -> float:
    """Mean over the classes of the target of the mean log loss of their units."""
    safe = p.clamp_min(_LEAST)
    loss = -(safe / safe.sum(1, keepdim=True)).gather(1, t[:, None])[:, 0].log()
    return float(torch.stack([loss[t == c].mean() for c in torch.unique(t)]).mean())


def _balanced_log_loss(p: Tensor, t: Tensor) -> float:
    return _weighted_log_loss(torch.stack([1 - p, p], dim=1), t)


def _multi_replicates(
    probabilities: NDArray[Any], target: NDArray[Any], blocks: NDArray[Any], weights: Floats
) -> dict[str, Floats]:
    known = target != IGNORE_INDEX
    owner = np.broadcast_to(blocks[:, None], target.shape)
    micro = average_precisions(probabilities[known], target[known], weights, columns=owner[known])
    by_class = [
        average_precisions(probabilities[k, c], target[k, c], weights, columns=blocks[k])
        for c, k in enumerate(known.T)
    ]
    stacked = np.stack(by_class)
    there = np.isfinite(stacked)
    with np.errstate(invalid="ignore"):
        macro = np.where(there, stacked, 0).sum(axis=0) / there.sum(axis=0)
    return {"micro_map": micro, "macro_map": macro}


_NOTHING = (
    "nothing is labelled among the patches to be scored: every target is -1, or no patch has a "
    "class. Look at the corpus with `deepsentinel stats`, or take another label."
)
