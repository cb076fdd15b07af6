"""Weighted scores are those of the drawn patches; intervals cover; against loops that draw."""

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    jaccard_score,
)

from deepsentinel.training.evaluation.intervals import (
    Interval,
    average_precisions,
    block_weights,
    confusion_scores,
    confusions,
    interval,
)
from deepsentinel.training.evaluation.metrics import replicated


def drawn_again(weights, blocks):
    """Indices of the units that a replicate draws, block by block."""
    return np.concatenate(
        [np.tile(np.flatnonzero(blocks == b), int(n)) for b, n in enumerate(weights)]
    ).astype(int)


@pytest.fixture
def drawn(rng):
    blocks = rng.integers(0, 9, 120)
    return blocks, block_weights(blocks, replicates=6, seed=1)


def test_replicates_of_classes_are_scores_of_drawn_patches(rng, drawn) -> None:
    blocks, weights = drawn
    target = rng.integers(0, 4, 120)
    p = rng.dirichlet(np.ones(4), 120) + 0.5 * np.eye(4)[target]
    for kind, names in (
        ("single", ("accuracy", "macro_f1")),
        ("pixels", ("pixel_accuracy", "miou")),
    ):
        found = replicated(kind, p, target, blocks, weights)
        for b, w in enumerate(weights):
            i = drawn_again(w, blocks)
            t, c = target[i], p[i].argmax(axis=1)
            assert found[names[0]][b] == pytest.approx(accuracy_score(t, c))
            slow = (
                f1_score(t, c, average="macro")
                if kind == "single"
                else jaccard_score(t, c, average="macro")
            )
            assert found[names[1]][b] == pytest.approx(slow)


def test_replicates_of_many_labels_are_scores_of_drawn_patches(rng, drawn) -> None:
    blocks, weights = drawn
    target = (rng.random((120, 3)) < [0.5, 0.2, 0.05]).astype(int)
    p = np.round(rng.random((120, 3)) * 0.6 + 0.4 * target, 1)  # ties on purpose
    found = replicated("multi", p, target, blocks, weights)
    for b, w in enumerate(weights):
        i = drawn_again(w, blocks)
        slow = average_precision_score(target[i].ravel(), p[i].ravel())
        assert found["micro_map"][b] == pytest.approx(slow)
        each = [
            average_precision_score(target[i, k], p[i, k]) for k in range(3) if target[i, k].any()
        ]
        assert found["macro_map"][b] == pytest.approx(np.mean(each))


def test_unknown_labels_count_nothing(rng, drawn) -> None:
    blocks, weights = drawn
    target = rng.integers(0, 2, (120, 2))
    p = rng.random((120, 2))
    target[:30, 0] = -1
    found = replicated("multi", p, target, blocks, weights)["macro_map"]
    cut = [
        average_precisions(p[30:, 0], target[30:, 0], weights[:, blocks[30:]]),
        average_precisions(p[:, 1], target[:, 1], weights[:, blocks]),
    ]
    np.testing.assert_allclose(found, np.mean(cut, axis=0))


def test_average_precision_in_parts_is_the_same(rng, monkeypatch) -> None:
    scores, target, weights = rng.random(50), rng.integers(0, 2, 50), rng.integers(0, 3, (7, 50))
    whole = average_precisions(scores, target, weights.astype(float))
    monkeypatch.setattr("deepsentinel.training.evaluation.intervals._CHUNK", 100)
    np.testing.assert_allclose(average_precisions(scores, target, weights.astype(float)), whole)
    assert np.isnan(average_precisions(scores, np.zeros(50), np.ones((1, 50)))).all()


def test_each_block_is_drawn_once_on_average() -> None:
    weights = block_weights(np.arange(30), replicates=4000)
    assert (weights.sum(axis=1) == 30).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.08)
    np.testing.assert_allclose(weights.var(axis=0), 1 - 1 / 30, atol=0.12)


def test_intervals_hold_the_truth_as_often_as_they_say(rng) -> None:
    """Means of blocks of a known distribution: about 95 of 100 intervals hold its mean."""
    held = 0
    for trial in range(200):
        values = rng.normal(0, 1, 40)
        weights = block_weights(np.arange(40), replicates=300, seed=trial)
        found = interval(values.mean(), weights @ values / 40)
        held += found.low <= 0 <= found.high
    assert 0.88 < held / 200 < 0.99


def test_absent_classes_are_left_out_of_means() -> None:
    matrix = confusions(np.array([0, 1]), np.array([0, 1]), np.array([0, 0]), count=3, number=1)
    assert confusion_scores(matrix)["miou"].tolist() == [1.0]
    assert np.isnan(confusion_scores(np.zeros((1, 3, 3)))["macro_f1"]).all()


def test_verdicts() -> None:
    assert [Interval(0, a, b).verdict for a, b in ((-2, -1), (-1, 1), (1, 2))] == [
        "below",
        "same",
        "above",
    ]
    nothing = interval(0.5, [np.nan])
    assert np.isnan(nothing.low)
    assert nothing.verdict == "not known"
    assert str(nothing) == "0.500 [not known]"
