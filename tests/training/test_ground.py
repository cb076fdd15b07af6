"""What a report says of test patches near training patches."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.errors import LeakWarning
from deepsentinel.sample import PatchMeta
from deepsentinel.training.evaluate import evaluate
from deepsentinel.training.evaluation.bench import Bench
from deepsentinel.training.evaluation.ground import ground_notes
from deepsentinel.training.evaluation.protocol import Protocol
from deepsentinel.training.evaluation.units import patch_units

SIDE = 320.0
DEGREE = 111_195.0  # metres of latitude
PROTOCOL = Protocol(methods=("knn",), shots=(1,), shares=(), folds=3, seeds=1)


def bench(lats_m, *, blocks=None, splits=None, folds=3):
    samples = [
        {
            "image_s1": torch.zeros(2, 16, 16),
            "label": torch.tensor(i % 2),
            "meta": PatchMeta(id=f"p{i}", lon=10.0, lat=50 + m / DEGREE),
        }
        for i, m in enumerate(lats_m)
    ]
    protocol = replace(PROTOCOL, folds=folds)
    return Bench(samples, patch_units(samples, "ab"), protocol, blocks=blocks, splits=splits)


def test_neighbours_across_the_edges_of_blocks_are_counted() -> None:
    """A line of touching patches in blocks of six: both ends of each inner edge are neighbours."""
    line = np.arange(18) * SIDE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [note] = ground_notes(bench(line, blocks=np.arange(18) // 6), side_m=SIDE)
    # Of the three folds one tests, one chooses, one trains: an edge counts for the fold that
    # trains on its other side.
    lonely = bench(line, blocks=np.arange(18) // 6)
    wanted = 0
    for fold in lonely.folds(0):
        wanted += sum(any(abs(t - o) == 1 for o in fold.train) for t in fold.test)
    assert wanted > 0
    assert note.startswith(f"Of 18 test patches 0 lie on ground that was learnt from and {wanted} ")
    assert "blocks of yours that touch" in note


def test_blocks_that_lie_apart_have_nothing_to_say() -> None:
    far = np.concatenate([k * 10_000 + np.arange(6) * SIDE for k in range(3)])
    assert ground_notes(bench(far, blocks=np.arange(18) // 6), side_m=SIDE) == ()
    unknown = bench([np.nan] * 18, blocks=np.arange(18) // 6)
    assert ground_notes(unknown, side_m=SIDE) == ()


def test_shared_ground_is_a_warning() -> None:
    twice = np.repeat(np.arange(9) * 5_000.0, 2)
    with pytest.warns(LeakWarning, match=r"Of 18 test patches \d+ lie on ground"):
        [note] = ground_notes(bench(twice, blocks=np.arange(18)), side_m=SIDE)
    assert int(note.split()[4]) > 0


def test_random_splits_of_a_corpus_are_a_warning() -> None:
    line = np.arange(60) * SIDE
    splits = [("train", "test", "train", "val")[i % 4] for i in range(60)]
    with pytest.warns(LeakWarning, match="0 lie on ground that was learnt from and 15 beside"):
        ground_notes(bench(line, splits=splits, folds=None), side_m=SIDE)


def test_the_report_of_a_corpus_says_it(model, tmp_path) -> None:
    corpus = write_synthetic_corpus(tmp_path / "corpus", patches=24, patch_size=32, seed=1)
    protocol = replace(PROTOCOL, block_km=None)
    found = evaluate({"mine": model().encoder.eval()}, corpus, protocol)
    assert any("beside it, which may flatter" in note for note in found.report.notes)
