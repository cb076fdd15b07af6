"""Probes against scikit-learn, and splits that are spatial, nested and the same for all vectors."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deepsentinel.errors import LabelError, ShapeError, TrainingError
from deepsentinel.training.evaluation.probe import (
    fewshot_probe,
    probe,
    spatial_blocks,
    spatial_splits,
    standardise,
)


@pytest.fixture
def data(rng):
    x = rng.normal(size=(120, 6)) * [1, 10, 0.01, 1, 1, 1] + [0, 5, 0, 0, 0, 0]
    y = (x[:, 0] + 0.1 * x[:, 1] + 0.3 * rng.normal(size=120) > 0.5).astype(int) + (x[:, 3] > 0.8)
    return x, y


def reference(x, y, test) -> LogisticRegression:
    penalised = LogisticRegression(C=10 / x.shape[1], max_iter=1000)
    return make_pipeline(StandardScaler(), penalised).fit(x, y)


def test_single_label_is_sklearns(data) -> None:
    x, y = data
    predicted = reference(x[:80], y[:80], x).predict(x[80:])
    assert probe(x[:80], y[:80], x[80:], y[80:]) == pytest.approx(
        {
            "accuracy": accuracy_score(y[80:], predicted),
            "macro_f1": f1_score(y[80:], predicted, average="macro"),
        }
    )


def test_multilabel_is_sklearns(data) -> None:
    x, y = data
    hot = np.stack([y == 0, y >= 1, y == 9], axis=1).astype(int)  # the last occurs nowhere
    scores = np.zeros((40, 3))
    for k in (0, 1):
        scores[:, k] = reference(x[:80], hot[:80, k], x).predict_proba(x[80:])[:, 1]
    truth = hot[80:]
    assert probe(x[:80], hot[:80], x[80:], truth, multilabel=True) == pytest.approx(
        {
            "micro_map": average_precision_score(truth, scores, average="micro"),
            "macro_map": np.mean(
                [average_precision_score(truth[:, k], scores[:, k]) for k in (0, 1)]
            ),
        },
        rel=1e-3,
    )


def test_what_is_not_known_counts_nothing(data) -> None:
    x, y = data
    less = y.copy()
    less[[3, 90]] = -1
    train, test = np.flatnonzero(less[:80] >= 0), 80 + np.flatnonzero(less[80:] >= 0)
    assert probe(x[:80], less[:80], x[80:], less[80:]) == probe(
        x[train], y[train], x[test], y[test]
    )
    with pytest.raises(LabelError, match="train: nothing is labelled"):
        probe(x[:80], np.full(80, -1), x[80:], y[80:])


def test_nan_becomes_the_training_mean() -> None:
    train = np.array([[1.0, 5.0], [3.0, np.nan], [np.nan, 5.0]])
    a, b = standardise(train, np.array([[np.nan, 7.0]]))
    np.testing.assert_allclose(a, [[-1, 0], [1, 0], [0, 0]])
    np.testing.assert_allclose(b, [[0, 2]])  # a constant column is centred, not scaled


def test_one_class_in_training_is_predicted_everywhere() -> None:
    x = np.arange(6.0)[:, None]
    assert probe(x, np.zeros(6, int), x, np.array([0, 0, 0, 1, 1, 1]))["accuracy"] == 0.5


def test_shapes_are_refused(data) -> None:
    x, y = data
    with pytest.raises(ShapeError, match=r"train: vectors of shape \(120, 6\)"):
        probe(x, y[:5], x, y)
    with pytest.raises(ShapeError, match="multi-hot"):
        probe(x, y, x, y, multilabel=True)


def test_splits_share_no_block_and_repeat() -> None:
    blocks = np.arange(60) % 10
    splits = spatial_splits(blocks, most=20, splits=4, seed=3)
    again = spatial_splits(blocks, most=20, splits=4, seed=3)
    other = spatial_splits(blocks, most=20, splits=4, seed=4)
    for (train, test), (train2, test2) in zip(splits, again, strict=True):
        assert not set(blocks[train]) & set(blocks[test])
        assert sorted([*train, *test]) == list(range(60))
        assert (train == train2).all()
        assert (test == test2).all()
    assert any((a[0] != b[0]).any() for a, b in zip(splits, other, strict=True))
    assert len({tuple(test) for _, test in splits}) > 1


def test_few_shots_are_paired_and_see_only_their_share(data) -> None:
    x, y = data
    blocks = np.arange(120) % 12
    good = fewshot_probe(x, y, blocks, sizes=(10, 40), splits=5)
    assert {k: v.shape for k, v in good.items()} == {10: (5,), 40: (5,)}
    assert good[40].mean() > good[10].mean()
    same = fewshot_probe(x * 2 + 1, y, blocks, sizes=(40,), splits=5)
    np.testing.assert_allclose(same[40], good[40])  # the same splits and the same first 40
    train, test = spatial_splits(blocks, most=40, splits=5)[2]
    one = probe(x[train[:10]], y[train[:10]], x[test], y[test])["accuracy"]
    assert good[10][2] == one
    noise = np.random.default_rng(1).normal(size=x.shape)
    assert (good[40] - fewshot_probe(noise, y, blocks, sizes=(40,), splits=5)[40]).mean() > 0.1


def test_too_few_patches_or_blocks(data) -> None:
    x, y = data
    with pytest.raises(TrainingError, match="60 patches to train on, 200 are asked"):
        fewshot_probe(x, y, np.arange(120) % 4)
    with pytest.raises(TrainingError, match="1 blocks cannot be split"):
        fewshot_probe(x, y, np.zeros(120))


def test_blocks_are_squares_on_the_ground() -> None:
    degree = 5 / 111.2
    east = degree / np.cos(np.radians(60))
    lonlat = [[(i + 0.5) * east, 60 + (j + 0.5) * degree] for i in range(3) for j in (-1, 0)]
    assert len(set(spatial_blocks(lonlat, block_km=5))) == 6
    assert len(set(spatial_blocks(lonlat, block_km=500))) <= 4
    with pytest.raises(TrainingError, match="1 of 2 patches have no position"):
        spatial_blocks([[1.0, 2.0], [np.nan, 2.0]])
