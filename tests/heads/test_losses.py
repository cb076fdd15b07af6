"""Losses against slow loops and torch's own, and what ignored targets do to them."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deepsentinel.heads.losses import binary_cross_entropy, cross_entropy, dice

WEIGHTS = torch.tensor([1.0, 0.5, 3.0, 0.0])


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(3, 4, 6, 5, requires_grad=True)


@pytest.fixture
def target() -> torch.Tensor:
    return torch.randint(-1, 4, (3, 6, 5))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_torchs(logits, target, weights, smoothing) -> None:
    ours = cross_entropy(logits, target, class_weights=weights, label_smoothing=smoothing)
    theirs = F.cross_entropy(
        logits, target, weight=weights, ignore_index=-1, label_smoothing=smoothing
    )
    assert torch.allclose(ours, theirs, rtol=1e-5)
    (a,), (b,) = torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits)
    assert torch.allclose(a, b, atol=1e-7)


def test_cross_entropy_is_the_slow_loop(logits, target) -> None:
    x, t, total, weight = logits.detach().double().numpy(), target.numpy(), 0.0, 0.0
    for b, i, j in np.ndindex(*t.shape):
        if t[b, i, j] >= 0:
            p = np.exp(x[b, :, i, j]) / np.exp(x[b, :, i, j]).sum()
            total -= WEIGHTS[t[b, i, j]].item() * np.log(p[t[b, i, j]])
            weight += WEIGHTS[t[b, i, j]].item()
    ours = cross_entropy(logits, target, class_weights=WEIGHTS)
    assert ours.item() == pytest.approx(total / weight, rel=1e-5)


def test_ignored_pixels_change_nothing(logits, target) -> None:
    other = logits.detach().clone()
    other.movedim(1, -1)[target == -1] += 5 * torch.randn(int((target == -1).sum()), 4)
    for loss in (cross_entropy, dice):
        assert torch.equal(loss(logits.detach(), target), loss(other, target))


@pytest.mark.parametrize("loss", [cross_entropy, dice])
def test_nothing_labelled_costs_nothing(loss, logits) -> None:
    value = loss(logits, torch.full((3, 6, 5), -1))
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().max() == 0


def test_dice_is_the_slow_loop(logits, target) -> None:
    p, t = logits.detach().softmax(1).double().numpy(), target.numpy()
    scores = []
    for k in range(4):
        both = sum(p[b, k, i, j] for b, i, j in np.ndindex(*t.shape) if t[b, i, j] == k)
        size = sum(
            (t[b, i, j] == k) + p[b, k, i, j] for b, i, j in np.ndindex(*t.shape) if t[b, i, j] >= 0
        )
        scores.append(2 * both / size)
    assert dice(logits, target).item() == pytest.approx(1 - np.mean(scores), rel=1e-5)


def test_dice_of_a_perfect_answer_is_zero_whatever_classes_are_absent() -> None:
    target = torch.tensor([[0, 2, -1]])
    sure = 50 * F.one_hot(target.clamp(min=0), 4).movedim(-1, 1).float()
    assert dice(sure, target).item() == pytest.approx(0, abs=1e-5)


def test_binary_cross_entropy_is_the_slow_loop() -> None:
    x, t = torch.randn(5, 4), torch.randint(-1, 2, (5, 4))
    p = x.sigmoid().numpy()
    total = weight = 0.0
    for b, k in np.ndindex(5, 4):
        if t[b, k] >= 0:
            total -= WEIGHTS[k].item() * np.log(p[b, k] if t[b, k] else 1 - p[b, k])
            weight += WEIGHTS[k].item()
    ours = binary_cross_entropy(x, t, class_weights=WEIGHTS)
    assert ours.item() == pytest.approx(total / weight, rel=1e-5)


def test_half_precision_logits_lose_nothing_more(logits, target) -> None:
    half = logits.detach().bfloat16()
    assert cross_entropy(half, target).dtype == torch.float32
    assert torch.equal(cross_entropy(half, target), cross_entropy(half.float(), target))
