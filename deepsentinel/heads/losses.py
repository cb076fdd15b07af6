"""Losses of the heads. What is to be ignored (-1) weighs nothing; a batch of only that costs 0."""

import torch
from torch import Tensor
from torch.nn import functional as F

from deepsentinel.sample import IGNORE_INDEX


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
    return loss / weight.sum().clamp(min=torch.finfo(torch.float32).tiny)


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
    return (loss * weight).sum() / weight.sum().clamp(min=torch.finfo(torch.float32).tiny)
