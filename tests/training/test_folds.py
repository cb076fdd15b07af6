"""Folds share no block, budgets are nested and seeded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepsentinel.errors import TrainingError
from deepsentinel.training.evaluation.folds import Budget, given_fold, spatial_folds


@given(
    st.lists(st.integers(0, 11), min_size=40, max_size=80), st.integers(3, 5), st.integers(0, 99)
)
@settings(max_examples=25)
def test_every_patch_is_tested_once_and_no_block_is_shared(blocks, folds, seed) -> None:
    blocks = np.array([*blocks, *range(12)])
    found = spatial_folds(blocks, folds=folds, seed=seed)
    tested = np.concatenate([f.test for f in found])
    assert sorted(tested) == list(range(len(blocks)))
    for fold in found:
        parts = [set(blocks[p]) for p in (fold.train, fold.val, fold.test)]
        assert all(parts)
        assert len(set.union(*parts)) == sum(len(p) for p in parts)
        assert len(fold.train) + len(fold.val) + len(fold.test) == len(blocks)


def test_folds_are_balanced_and_seeds_differ() -> None:
    blocks = np.repeat(np.arange(40), 5)
    sizes = [len(f.test) for f in spatial_folds(blocks, folds=5)]
    assert sizes == [40] * 5
    first, again, other = (spatial_folds(blocks, seed=s)[0].test.tolist() for s in (0, 0, 1))
    assert first == again != other


def test_too_few_blocks_or_folds_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"folds=5 of 4 spatial blocks.*block_km"):
        spatial_folds([0, 1, 2, 3], folds=5)
    with pytest.raises(TrainingError, match="at least 3 folds"):
        spatial_folds([0, 1, 2, 3], folds=2)
    with pytest.raises(TrainingError, match="0 to choose"):
        given_fold(["train", "test"])


def test_shots_take_so_many_of_each_class() -> None:
    labels = np.array([0] * 10 + [1] * 3 + [2] * 20 + [-1] * 5)
    drawn = Budget("shots", 5).draw(labels, np.arange(len(labels)), seed=(0,))
    assert np.bincount(labels[drawn]).tolist() == [5, 3, 5]
    fewer = Budget("shots", 2).draw(labels, np.arange(len(labels)), seed=(0,))
    assert set(fewer) < set(drawn)


def test_shots_of_many_labels_cover_every_class(rng) -> None:
    labels = (rng.random((200, 4)) < [0.5, 0.3, 0.1, 0.02]).astype(int)
    drawn = Budget("shots", 3).draw(labels, np.arange(200), seed=(0,))
    there = np.minimum(labels.sum(axis=0), 3)
    assert (labels[drawn].sum(axis=0) >= there).all()
    assert len(drawn) <= 12
    assert len(set(drawn)) == len(drawn)


def test_shares_and_counts_are_nested_and_drawn_from_candidates(rng) -> None:
    labels, candidates = rng.integers(0, 3, 100), np.arange(20, 80)
    small, large = (Budget("share", s).draw(labels, candidates, seed=(1, 2)) for s in (0.1, 1.0))
    few = Budget("count", 6).draw(labels, candidates, seed=(1, 2))
    assert len(small) == 6
    assert sorted(large) == list(range(20, 80))
    assert small.tolist() == large[:6].tolist() == few.tolist()
    with pytest.raises(TrainingError, match="200 labels"):
        Budget("count", 200).draw(labels, candidates, seed=(0,))


@pytest.mark.parametrize(("kind", "amount"), [("shots", 0), ("shots", 1.5), ("share", 1.1)])
def test_impossible_budgets_are_refused(kind, amount) -> None:
    with pytest.raises(TrainingError):
        Budget(kind, amount)
