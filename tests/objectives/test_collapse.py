"""Measures of collapse against loops and known cases; a run that collapses says so."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.neighbours import WithNeighbours
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.objectives.collapse import (
    CollapseWatch,
    effective_rank,
    embedding_std,
    spread,
)
from deepsentinel.objectives.objective import Objective
from deepsentinel.objectives.registry import OBJECTIVES
from deepsentinel.objectives.views import encode, images_of
from deepsentinel.sample import collate
from tests.objectives.collapsing import MADE_TO_COLLAPSE
from tests.objectives.conftest import make, make_encoder, seeded, trainable


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


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> DeepSentinelDataset:
    root = tmp_path_factory.mktemp("collapse") / "corpus"
    write_synthetic_corpus(root, patches=160, patch_size=32)
    return DeepSentinelDataset(root, None, labels=())


def said(
    scenes: DeepSentinelDataset, made: Callable[[FusionEncoder], Objective], *, steps: int
) -> list[str | None]:
    """What the watch says of a run on synthetic scenes, every 20 steps."""
    encoder = make_encoder()
    objective, watch = made(encoder), CollapseWatch()
    samples = WithNeighbours(scenes, within_km=5.0, seed=0)
    held = images_of(encoder, collate([scenes[i] for i in range(0, 160, 2)]))
    optimiser = torch.optim.AdamW(trainable(encoder, objective), lr=1e-3)
    found: list[str | None] = []
    for step in range(steps + 1):
        if step % 20 == 0:
            with torch.no_grad():
                found.append(watch.look(encode(encoder.eval(), held).embedding))
            encoder.train()
        draw = torch.randperm(160, generator=seeded(step))[:8].tolist()
        losses = objective(encoder, collate([samples[i] for i in draw]), seeded(step))
        optimiser.zero_grad()
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(trainable(encoder, objective), 1.0)
        optimiser.step()
        objective.after_step(encoder, step, steps)
    return found


@pytest.mark.parametrize("made", MADE_TO_COLLAPSE)
def test_runs_that_are_made_to_collapse_say_so(made, scenes) -> None:
    found = said(scenes, made, steps=200)
    assert found[:3] == [None] * 3
    assert found[-1] is not None
    assert "have collapsed: their spread went from" in found[-1]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_sound_runs_of_every_objective_do_not(name, scenes) -> None:
    assert said(scenes, lambda encoder: make(name, encoder), steps=80) == [None] * 5


@pytest.mark.parametrize(("poles", "fallen"), [(1, True), (2, True), (8, False)])
def test_poles_are_a_collapse_where_they_lie_on_one_line(poles: int, fallen: bool) -> None:
    """Two poles are wider apart than any patches were; yet they tell patches only one from another."""
    watch, g = CollapseWatch(patience=1), seeded()
    start = torch.randn(128, 32, generator=g) + 3
    assert watch.look(start) is None
    where = torch.randn(poles, 32, generator=g)[torch.arange(128) % poles]
    said = watch.look(where + 1e-3 * torch.randn(128, 32, generator=g))
    assert (said is not None) is fallen
    if poles == 2:
        assert watch.last["embedding_std"] > watch.first["embedding_std"]


def test_a_wide_network_that_keeps_few_of_many_directions_has_not_collapsed() -> None:
    """Untrained, 90 of 128 possible; sound runs on few sources end with four or five."""
    watch, g = CollapseWatch(patience=1), seeded()
    watch.look(torch.randn(128, 1024, generator=g))
    assert watch.first["effective_rank"] > 90
    few = torch.randn(128, 5, generator=g) @ torch.randn(5, 1024, generator=g)
    assert watch.look(few) is None


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
