"""Losses against slow loops and torch's own, and what ignored targets do to them."""

import numpy as np
import pytest
import torch
from segmentation_models_pytorch.losses import LovaszLoss
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from deepsentinel.errors import LabelError, UnknownNameError
from deepsentinel.heads.losses import (
    binary_cross_entropy,
    binary_focal,
    check_losses,
    cross_entropy,
    dice,
    focal,
    lovasz,
    regression,
)

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
    for loss in (cross_entropy, focal, dice, lovasz):
        assert torch.equal(loss(logits.detach(), target), loss(other, target))


@pytest.mark.parametrize("loss", [cross_entropy, focal, dice, lovasz])
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


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_is_the_slow_loop(logits, target, weights, gamma) -> None:
    x, t, total, weight = logits.detach().double().numpy(), target.numpy(), 0.0, 0.0
    for b, i, j in np.ndindex(*t.shape):
        if t[b, i, j] >= 0:
            p = (np.exp(x[b, :, i, j]) / np.exp(x[b, :, i, j]).sum())[t[b, i, j]]
            w = 1.0 if weights is None else weights[t[b, i, j]].item()
            total -= w * (1 - p) ** gamma * np.log(p)
            weight += w
    ours = focal(logits, target, gamma=gamma, class_weights=weights)
    assert ours.item() == pytest.approx(total / weight, rel=1e-5)


def test_focal_without_focus_is_the_cross_entropy(logits, target) -> None:
    ours = focal(logits, target, gamma=0.0, class_weights=WEIGHTS)
    assert torch.allclose(ours, cross_entropy(logits, target, class_weights=WEIGHTS))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_a_certain_answer_has_a_finite_slope(gamma) -> None:
    sure = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    (focal(sure, torch.tensor([0, 0]), gamma=gamma)).backward()
    assert torch.isfinite(sure.grad).all()
    one = torch.tensor([[200.0, -200.0]], requires_grad=True)
    binary_focal(one, torch.tensor([[1, 1]]), gamma=gamma).backward()
    assert torch.isfinite(one.grad).all()


def test_binary_focal_is_torchvisions() -> None:
    x, t = torch.randn(5, 4), torch.randint(0, 2, (5, 4))
    theirs = sigmoid_focal_loss(x, t.float(), alpha=-1, gamma=2.0, reduction="none")
    weighted = (theirs * WEIGHTS).sum() / (5 * WEIGHTS.sum())
    assert torch.allclose(binary_focal(x, t, class_weights=WEIGHTS), weighted, rtol=1e-4)
    some = torch.where(torch.rand(5, 4) < 0.3, -1, t)
    assert torch.allclose(binary_focal(x, some), theirs[some >= 0].mean(), rtol=1e-4)


def test_lovasz_is_that_of_smp(logits, target) -> None:
    theirs = LovaszLoss("multiclass", ignore_index=-1)(logits, target)
    ours = lovasz(logits, target)
    assert torch.allclose(ours, theirs, rtol=1e-5)
    (a,), (b,) = torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits)
    assert torch.allclose(a, b, atol=1e-6)


def test_lovasz_of_hard_answers_is_one_minus_the_mean_iou(target) -> None:
    answer = torch.randint(0, 4, target.shape)
    sure = 200.0 * F.one_hot(answer, 4).movedim(-1, 1)
    known, ious = target >= 0, []
    for k in range(4):
        a, b = (answer == k) & known, target == k
        ious.append((a & b).sum() / (a | b).sum())
    assert lovasz(sure, target).item() == pytest.approx(1 - np.mean(ious), abs=1e-5)


@pytest.mark.parametrize("kind", ["l1", "l2", "huber"])
def test_regression_is_torchs_over_what_is_known(kind) -> None:
    values = (3 * torch.randn(4, 2, 5, 3)).requires_grad_()
    target = torch.where(torch.rand(4, 2, 5, 3) < 0.4, torch.nan, torch.randn(4, 2, 5, 3))
    known = torch.isfinite(target)
    theirs = {"l1": F.l1_loss, "l2": F.mse_loss, "huber": F.huber_loss}[kind]
    ours, wanted = regression(values, target, kind=kind), theirs(values[known], target[known])
    assert torch.allclose(ours, wanted)
    (a,), (b,) = torch.autograd.grad(ours, values), torch.autograd.grad(wanted, values)
    assert torch.allclose(a, b)


def test_nothing_known_costs_nothing() -> None:
    values = torch.randn(2, 3, requires_grad=True)
    loss = regression(values, torch.full((2, 3), torch.nan))
    loss.backward()
    assert loss.item() == 0
    assert values.grad.abs().max() == 0


def test_losses_are_checked() -> None:
    with pytest.raises(UnknownNameError, match=r"'lovas'\. Did you mean 'lovasz'"):
        check_losses("lovas")
    with pytest.raises(UnknownNameError, match="'hinge'"):
        check_losses({"dice": 1, "hinge": 1})
    for wrong in ({}, {"dice": 0.0}, {"dice": float("nan")}):
        with pytest.raises(LabelError, match="weight above 0"):
            check_losses(wrong)
