"""Losses of the heads. What is to be ignored (-1) weighs nothing; a batch of only that costs 0."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from deepsentinel.errors import LabelError, UnknownNameError, nearest
from deepsentinel.sample import IGNORE_INDEX

SEGMENTATION_LOSSES: Final = ("cross_entropy", "focal", "dice", "lovasz")
CLASSIFICATION_LOSSES: Final = ("cross_entropy", "focal")
REGRESSION_LOSSES: Final = ("l1", "l2", "huber")

_TINY: Final = torch.finfo(torch.float32).tiny


def check_losses(loss: str | Mapping[str, float]) -> dict[str, float]:
    """Weights by name of the losses of a segmentation, whose weighted sum is minimised.

    Raises:
        UnknownNameError: there is no such loss.
        LabelError: no loss, or a weight that is not above 0.

    Example:
        >>> check_losses("dice"), check_losses({"cross_entropy": 1, "lovasz": 0.5})
        ({'dice': 1.0}, {'cross_entropy': 1.0, 'lovasz': 0.5})
    """
    weights = {loss: 1.0} if isinstance(loss, str) else {k: float(v) for k, v in loss.items()}
    for name in weights:
        check_loss(name, SEGMENTATION_LOSSES)
    if not weights or not all(0 < w < float("inf") for w in weights.values()):
        raise LabelError(f"loss={loss!r}: name at least one loss, each with a weight above 0.")
    return weights


def check_loss(name: str, known: tuple[str, ...]) -> str:
    """A loss that there is.

    Raises:
        UnknownNameError: another name.

    Example:
        >>> check_loss("focal", CLASSIFICATION_LOSSES)
        'focal'
    """
    if name not in known:
        raise UnknownNameError(f"unknown loss {name!r}. {nearest(name, known)}")
    return name


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross entropy over what is labelled, weighted by class.

    The value is that of `torch.nn.functional.cross_entropy(..., ignore_index=-1)`, but where
    nothing is labelled it is 0 (with a gradient of 0) instead of NaN, and on a GPU the backward
    pass is deterministic.

    Args:
        logits: (B, K, ...).
        target: int64 (B, ...), -1 = ignore.
        class_weights: (K,).
        label_smoothing: share of the target spread over all classes.

    Returns:
        A scalar.

    Example:
        >>> cross_entropy(torch.zeros(1, 4), torch.tensor([2])).item()  # log 4
        1.386...
        >>> cross_entropy(torch.zeros(1, 4), torch.tensor([-1])).item()
        0.0
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    known = target != IGNORE_INDEX
    ids = target.clamp(min=0)
    weights = log_p.new_ones(log_p.shape[1]) if class_weights is None else class_weights
    weight = weights[ids] * known
    loss = (-log_p.gather(1, ids.unsqueeze(1)).squeeze(1) * weight).sum()
    if label_smoothing:
        by_class = weights.reshape(1, -1, *[1] * (log_p.ndim - 2))
        spread = (-(log_p * by_class).mean(1) * known).sum()
        loss = (1 - label_smoothing) * loss + label_smoothing * spread
    return loss / weight.sum().clamp(min=_TINY)


def focal(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Cross entropy in which what is already right counts less, by (1 - p) to the power of gamma.

    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017 (arXiv 1708.02002), with softmax
    and class weights in the place of alpha. With gamma 0 it is the cross entropy.

    Args:
        logits: (B, K, ...).
        target: int64 (B, ...), -1 = ignore.
        gamma: 0 or more.
        class_weights: (K,).

    Example:
        >>> focal(torch.zeros(1, 4), torch.tensor([2])).item()  # 0.75 ** 2 * log 4
        0.7797...
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    ids = target.clamp(min=0)
    right = log_p.gather(1, ids.unsqueeze(1)).squeeze(1)
    weights = log_p.new_ones(log_p.shape[1]) if class_weights is None else class_weights
    weight = weights[ids] * (target != IGNORE_INDEX)
    loss = -_hard(right, gamma) * right
    return (loss * weight).sum() / weight.sum().clamp(min=_TINY)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the soft Dice coefficient, mean over the classes that the batch holds.

    Milletari et al., V-Net, 3DV 2016 (arXiv 1606.04797), per class.

    Args:
        logits: (B, K, ...).
        target: int64 (B, ...), -1 = ignore.

    Example:
        >>> sure = torch.tensor([[9.0, -9.0], [-9.0, 9.0]])
        >>> round(dice(sure, torch.tensor([0, 1])).item(), 4)
        0.0
    """
    known = (target != IGNORE_INDEX).unsqueeze(1)
    p = logits.float().softmax(1) * known
    t = torch.movedim(F.one_hot(target.clamp(min=0), logits.shape[1]), -1, 1) * known
    axes = [0, *range(2, p.ndim)]
    both, sums, held = (p * t).sum(axes), (p + t).sum(axes), t.sum(axes) > 0
    score = 2 * both / sums.clamp(min=1e-6)
    return ((1 - score) * held).sum() / held.sum().clamp(min=1)


def lovasz(logits: Tensor, target: Tensor) -> Tensor:
    """Lovasz-softmax, a convex stand-in for one minus IoU, mean over the classes of the batch.

    Berman et al., The Lovasz-Softmax loss, CVPR 2018 (arXiv 1705.08790): the errors of a class,
    sorted, are weighed by how much each adds to the Jaccard loss.

    Args:
        logits: (B, K, ...).
        target: int64 (B, ...), -1 = ignore.

    Example:
        >>> sure = torch.tensor([[9.0, -9.0], [-9.0, 9.0]])
        >>> round(lovasz(sure, torch.tensor([0, 1])).item(), 4)
        0.0
    """
    p = logits.float().softmax(1).movedim(1, -1).flatten(0, -2)  # (N, K)
    ids = target.flatten()
    known = ids != IGNORE_INDEX
    total, held = p.sum() * 0, p.new_zeros(())
    for k in range(p.shape[1]):
        there = ids == k
        # An ignored pixel has no error, so it comes last and adds nothing.
        errors, order = ((there.float() - p[:, k]).abs() * known).sort(descending=True)
        total = total + errors @ _jaccard_steps(there[order]) * there.any()
        held = held + there.any()
    return total / held.clamp(min=1)


def _jaccard_steps(there: Tensor) -> Tensor:
    """What each of the sorted pixels adds to the Jaccard loss; counted in integers, exactly."""
    hits = there.long().cumsum(0)
    place = torch.arange(1, len(there) + 1, device=there.device)
    size = hits[-1]
    jaccard = 1 - (size - hits) / (size + place - hits)
    return torch.diff(jaccard, prepend=jaccard.new_zeros(1))


def binary_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean binary cross entropy over what is known, weighted by class.

    Args:
        logits: (B, K).
        target: int64 (B, K) of 0 and 1, -1 = not known.
        class_weights: (K,).
        label_smoothing: moves targets this far towards 0.5, from either end.

    Example:
        >>> binary_cross_entropy(torch.zeros(1, 2), torch.tensor([[1, -1]])).item()  # log 2
        0.693...
    """
    known = target != IGNORE_INDEX
    wanted = target.clamp(min=0).float() * (1 - label_smoothing) + label_smoothing / 2
    loss = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
    weight = known.float() if class_weights is None else known * class_weights
    return (loss * weight).sum() / weight.sum().clamp(min=_TINY)


def binary_focal(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Binary cross entropy in which what is already right counts less, as in `focal`.

    Args:
        logits: (B, K).
        target: int64 (B, K) of 0 and 1, -1 = not known.
        gamma: 0 or more.
        class_weights: (K,).

    Example:
        >>> binary_focal(torch.zeros(1, 2), torch.tensor([[1, -1]])).item()  # 0.5 ** 2 * log 2
        0.1732...
    """
    known = target != IGNORE_INDEX
    wanted = target.clamp(min=0).float()
    right = -F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
    weight = known.float() if class_weights is None else known * class_weights
    loss = -_hard(right, gamma) * right
    return (loss * weight).sum() / weight.sum().clamp(min=_TINY)


def _hard(log_p: Tensor, gamma: float) -> Tensor:
    """(1 - p) to the power of gamma; kept off 0, where the slope of a root is infinite."""
    return (-torch.expm1(log_p)).clamp(min=1e-6) ** gamma


def regression(values: Tensor, target: Tensor, *, kind: str = "l1") -> Tensor:
    """Mean error over what is known; where nothing is, 0.

    Args:
        values: (B, K, ...).
        target: as `values`, NaN = not known.
        kind: `"l1"`, the absolute error; `"l2"`, the square; `"huber"`, half the square up to an
            error of 1, the absolute error less a half beyond.

    Example:
        >>> regression(torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, torch.nan]])).item()
        2.0
    """
    known = torch.isfinite(target)
    # NaN must not come near the error: 0 times its gradient is NaN.
    error = values.float() - torch.where(known, target, values.detach()).float()
    if kind == "l2":
        loss = error.square()
    elif kind == "huber":
        loss = F.huber_loss(error, torch.zeros_like(error), reduction="none")
    else:
        loss = error.abs()
    return (loss * known).sum() / known.sum().clamp(min=1)
