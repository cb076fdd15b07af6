"""Distillation: the loss against a slow transcription, and that it teaches what the teacher knows."""

import numpy as np
import pytest
import torch
from torch import nn

from deepsentinel.errors import SampleError
from deepsentinel.features import Features
from deepsentinel.objectives.distillation import TEACHER_KEY, Distillation, at_size
from deepsentinel.objectives.hiding import Hiding

D = 5
KEEP = Hiding(s1=0, s2=0, bands=0, hole=0)


class Student(nn.Module):
    """Two maps of convolutions on radar, at strides 2 and 4."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(2, 3, 2, stride=2)
        self.coarse = nn.Conv2d(3, 4, 2, stride=2)

    def encode(self, batch):
        fine = self.fine(batch["image_s1"].nan_to_num(0.0) / 10)
        coarse = self.coarse(fine.relu())
        return Features(coarse.mean((2, 3)), (fine, coarse), (2, 4))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_batch(count: int = 3) -> dict[str, torch.Tensor]:
    g = seeded(1)
    s1 = torch.randn(count, 2, 16, 16, generator=g) * 3 - 12
    return {"image_s1": s1, TEACHER_KEY: torch.randn(count, D, 4, 4, generator=g) * 2 + 1}


def make_objective(**options) -> Distillation:
    facts = (torch.arange(D) / 10, torch.arange(1, D + 1) / 2, torch.full((D,), 0.3))
    return Distillation(4, (3, 4), *facts, width=6, **options)


def smooth_l1(found: np.ndarray, wanted: np.ndarray) -> float:
    """Girshick, "Fast R-CNN", arXiv 1504.08083, equation 3, element by element."""
    total = 0.0
    for a, b in zip(found.ravel(), wanted.ravel(), strict=True):
        gap = abs(float(a) - float(b))
        total += 0.5 * gap**2 if gap < 1 else gap - 0.5
    return total / found.size


def test_loss_against_a_slow_transcription():
    student, objective, batch = Student(), make_objective(hiding=KEEP), make_batch()
    with torch.no_grad():
        losses = objective(student, batch, seeded())
        features = student.encode(batch)
        teacher = batch[TEACHER_KEY].numpy()
        mean, std = np.arange(D) / 10, np.arange(1, D + 1) / 2
        # Dense: one linear layer each, fine maps averaged 2 x 2 down to the teacher's grid.
        fine = objective.laterals[0](features.maps[0]).numpy()
        fine = fine.reshape(3, 6, 4, 2, 4, 2).mean((3, 5))
        met = torch.from_numpy(fine) + objective.laterals[1](features.maps[1])
        dense = smooth_l1(
            objective.dense(met).numpy(),
            (teacher - mean[:, None, None]) / std[:, None, None],
        )
        pooled = smooth_l1(
            objective.pooled(features.embedding).numpy(), (teacher.mean((2, 3)) - mean) / 0.3
        )
    assert float(losses["dense"]) == pytest.approx(dense, rel=1e-4)
    assert float(losses["pooled"]) == pytest.approx(pooled, rel=1e-4)
    assert float(losses["loss"]) == pytest.approx(dense + pooled, rel=1e-4)


def test_a_student_learns_what_its_teacher_knows():
    """Here a mean of what the student sees; untrained it would stay at the teacher's spread."""
    batch = make_batch(16)
    seen = torch.nn.functional.avg_pool2d(batch["image_s1"], 4)
    batch[TEACHER_KEY] = seen[:, :1].expand(-1, D, -1, -1)
    whole = batch[TEACHER_KEY].mean((2, 3)).std(0)
    objective = Distillation(
        4, (3, 4), seen[:, 0].mean().expand(D), seen[:, 0].std().expand(D), whole, hiding=KEEP
    )
    student = Student()
    both = [*student.parameters(), *objective.parameters()]
    optimiser = torch.optim.Adam(both, lr=1e-2)
    course = []
    for _ in range(120):
        optimiser.zero_grad()
        losses = objective(student, batch, seeded())
        losses["loss"].backward()
        optimiser.step()
        course.append(float(losses["dense"]))
    assert course[-1] < course[0] / 4


def test_gradients_reach_student_and_head_but_not_the_teacher():
    student, objective, batch = Student(), make_objective(), make_batch()
    losses = objective(student, batch, seeded())
    losses["loss"].backward()
    for module in (student, objective):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert not losses["dense"].requires_grad
    assert not batch[TEACHER_KEY].requires_grad


def test_the_student_sees_less_than_the_batch_holds():
    seen = []

    class Looking(Student):
        def encode(self, batch):
            seen.append(batch)
            return super().encode(batch)

    batch = make_batch() | {"image_s2": torch.full((3, 12, 16, 16), 0.2)}
    make_objective(hiding=Hiding(s1=1, s2=0))(Looking(), batch, seeded())
    assert seen[0]["image_s1"].isnan().all()
    assert not batch["image_s1"].isnan().any()


def test_statistics_of_the_teacher_are_saved_but_not_trained():
    objective = make_objective()
    assert {"mean", "std", "pooled_std"} <= set(objective.state_dict())
    assert not {"mean", "std", "pooled_std"} & {n for n, _ in objective.named_parameters()}


def test_without_a_teacher_the_error_names_the_key():
    batch = make_batch()
    del batch[TEACHER_KEY]
    with pytest.raises(SampleError, match=r"no 'teacher'.*\['image_s1'\]"):
        make_objective()(Student(), batch, seeded())


@pytest.mark.parametrize("size", [(4, 4), (16, 16), (5, 3), (8, 16)])
def test_maps_come_to_any_size_with_their_mean_kept(size):
    maps = torch.arange(64.0).reshape(1, 1, 8, 8)
    found = at_size(maps, size)
    assert tuple(found.shape[-2:]) == size
    assert float(found.mean()) == pytest.approx(31.5, rel=0.06)
    assert (found[..., 1:, :] > found[..., :-1, :]).all(), "no row is out of place"
