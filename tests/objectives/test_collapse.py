"""Measures of collapse against loops and known cases; a run that collapses says so."""

import math

import numpy as np
import pytest
import torch

from deepsentinel.objectives.collapse import (
    CollapseWatch,
    effective_rank,
    embedding_std,
    spread,
)
from deepsentinel.objectives.views import images_of
from tests.objectives.conftest import make, make_batch, make_encoder, seeded, trainable


def test_embedding_std_against_a_loop():
    x = torch.randn(7, 5, generator=seeded()).double()
    rows = [row / math.sqrt(sum(v * v for v in row)) for row in x.numpy()]
    stds = []
    for j in range(5):
        column = [row[j] for row in rows]
        mean = sum(column) / 7
        stds.append(math.sqrt(sum((v - mean) ** 2 for v in column) / 6))
    assert embedding_std(x).item() == pytest.approx(sum(stds) / 5 * math.sqrt(5), rel=1e-5)


def test_effective_rank_against_eigenvalues():
    """exp of the entropy of singular values, here as roots of the scatter's eigenvalues."""
    x = torch.randn(40, 6, generator=seeded()) * torch.tensor([5.0, 3, 1, 0.3, 0.1, 0.01]) + 7
    y = x.numpy().astype(np.float64)
    y = y - y.mean(0)
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(y.T @ y), 0, None))
    share = singular / singular.sum()
    wanted = math.exp(-sum(p * math.log(p) for p in share if p > 0))
    assert effective_rank(x).item() == pytest.approx(wanted, rel=1e-4)


def test_directions_spread_evenly_have_a_spread_of_1_and_full_rank():
    x = torch.randn(4000, 16, generator=seeded())
    assert embedding_std(x).item() == pytest.approx(1.0, abs=0.02)
    assert effective_rank(x).item() == pytest.approx(16, rel=0.01)
    line = torch.randn(100, 1, generator=seeded()) * torch.ones(16)
    assert effective_rank(line + 3).item() == pytest.approx(1, abs=1e-3)


def test_scale_does_not_count():
    x = torch.randn(30, 4, generator=seeded())
    for scale in (1e-3, 1e3):
        assert effective_rank(scale * x).item() == pytest.approx(effective_rank(x).item(), rel=1e-3)
        assert embedding_std(scale * x).item() == pytest.approx(embedding_std(x).item(), rel=1e-3)


@pytest.mark.parametrize("shape", [(1, 4), (4,), (2, 3, 4)])
def test_one_embedding_has_no_spread(shape):
    with pytest.raises(ValueError, match="two embeddings or more"):
        spread(torch.zeros(shape))


def run(weights: dict[str, float], *, steps: int = 80) -> list[str | None]:
    """What the watch says while VICReg trains with these weights."""
    encoder, batch = make_encoder(embed_dim=16), make_batch(8)
    objective = make("vicreg", encoder, **weights)
    optimiser = torch.optim.Adam(trainable(encoder, objective), lr=3e-3)
    others, watch, said = make_batch(32, seed=9), CollapseWatch(), []
    for step in range(steps):
        if step % 8 == 0:
            with torch.no_grad():
                images = images_of(encoder, others)
                found = encoder(s1=images["image_s1"], s2=images["image_s2"])
                said.append(watch.look(found.embedding))
        losses = objective(encoder, batch, seeded(step))
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
    return said


def test_a_run_that_collapses_says_so_and_a_sound_one_does_not():
    """Without its variance term VICReg makes all embeddings one; that term prevents it."""
    collapsed = run({"variance": 0.0, "covariance": 0.0})
    assert collapsed[0] is None
    assert collapsed[-1] is not None
    assert "have collapsed: their spread went from" in collapsed[-1]
    assert run({}) == [None] * 10


def test_one_low_look_is_not_a_collapse():
    watch = CollapseWatch(patience=2)
    sound, flat = torch.randn(16, 4, generator=seeded()), torch.ones(16, 4)
    flat = flat + 1e-6 * sound
    assert [watch.look(x) is None for x in (sound, flat, sound, flat, flat)] == [
        True, True, True, True, False,
    ]  # fmt: skip


def test_a_resumed_watch_goes_on():
    watch, again = CollapseWatch(patience=2), CollapseWatch(patience=2)
    sound = torch.randn(16, 4, generator=seeded())
    flat = torch.ones(16, 4) + 1e-6 * sound
    for x in (sound, flat):
        watch.look(x)
    again.resume(watch.state())
    assert again.look(flat) == watch.look(flat) != None  # noqa: E711
