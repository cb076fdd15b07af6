"""Learners against scikit-learn and loops; what nothing was observed of gets the prior."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from deepsentinel.errors import TrainingError, UnknownNameError
from deepsentinel.training.evaluation import learners
from deepsentinel.training.evaluation.learners import class_prior, learn, reduced
from deepsentinel.training.evaluation.metrics import all_scores


@pytest.fixture
def blobs(rng):
    """Vectors of three classes, some values not observed."""
    y = np.repeat([0, 1, 2], 40)
    x = rng.normal(0, 1, (120, 6)) + 2 * np.eye(6)[y]
    x[rng.random((120, 6)) < 0.05] = np.nan
    order = rng.permutation(120)
    return x[order], y[order]


def test_linear_is_scikit_learns_regression(rng, monkeypatch, blobs) -> None:
    x, y = blobs
    x = np.nan_to_num(x)
    monkeypatch.setitem(learners.GRIDS, "linear", (10.0,))
    found = learn(
        "linear", (x[:60], y[:60]), (x[60:90], y[60:90]), [x[90:]], kind="single", count=3
    )
    mean, scale = x[:60].mean(axis=0), x[:60].std(axis=0)
    model = LogisticRegression(C=10 / 6, max_iter=1000).fit((x[:60] - mean) / scale, y[:60])
    want = model.predict_proba((x[90:] - mean) / scale)
    np.testing.assert_allclose(found.probabilities[0], want, atol=2e-3)


def test_reducing_features_changes_no_probability(rng) -> None:
    x, y, asked = rng.normal(size=(12, 50)), np.arange(12) % 3, rng.normal(size=(20, 50))
    x -= x.mean(axis=0)
    few, (turned,) = reduced(x, [asked])
    assert few.shape[1] < 12
    full = LogisticRegression(C=0.2, max_iter=5000, tol=1e-8).fit(x, y)
    small = LogisticRegression(C=0.2, max_iter=5000, tol=1e-8).fit(few, y)
    np.testing.assert_allclose(small.predict_proba(turned), full.predict_proba(asked), atol=1e-4)


def test_knn_is_a_loop_over_cosines(monkeypatch, blobs) -> None:
    x, y = (blobs[0][:, :4]), blobs[1]
    x = np.nan_to_num(x)
    monkeypatch.setitem(learners.GRIDS, "knn", (5,))
    found = learn("knn", (x[:60], y[:60]), (x[60:90], y[60:90]), [x[90:]], kind="single", count=3)
    a = (x - x[:60].mean(axis=0)) / x[:60].std(axis=0)
    prior = class_prior(y[:60], "single", 3)
    for i in range(30):
        q = a[90 + i]
        cosines = [q @ v / np.linalg.norm(q) / np.linalg.norm(v) for v in a[:60]]
        votes = np.bincount(y[:60][np.argsort(cosines)[-5:]], minlength=3)
        np.testing.assert_allclose(found.probabilities[0][i], (votes + prior) / 6)


@pytest.mark.parametrize("method", ["knn", "linear"])
def test_the_choice_is_the_best_on_validation(method, blobs, monkeypatch) -> None:
    x, y = blobs
    parts = (x[:40], y[:40]), (x[40:80], y[40:80])
    chosen = learn(method, *parts, [x[80:]], kind="single", count=3)
    alone = {}
    for option in learners.GRIDS[method]:
        monkeypatch.setitem(learners.GRIDS, method, (option,))
        alone[option] = learn(method, *parts, [x[40:80], x[80:]], kind="single", count=3)
    scores = {
        o: all_scores("single", a.probabilities[0], y[40:80])["accuracy"] for o, a in alone.items()
    }
    assert scores[chosen.chosen] == max(scores.values()) == pytest.approx(chosen.val_score)
    np.testing.assert_array_equal(chosen.probabilities[0], alone[chosen.chosen].probabilities[1])


@pytest.mark.parametrize("method", ["knn", "linear"])
def test_what_nothing_was_observed_of_gets_the_prior(method, blobs) -> None:
    x, y = blobs
    asked = x[80:].copy()
    asked[[2, 5]] = np.nan
    train = x[:80].copy()
    train[:10] = np.nan
    found = learn(method, (train, y[:80]), (x[:80], y[:80]), [asked], kind="single", count=3)
    prior = np.bincount(y[10:80], minlength=3) / 70
    np.testing.assert_allclose(found.probabilities[0][[2, 5]], [prior, prior])
    assert found.empty == (2,)
    np.testing.assert_allclose(found.probabilities[0].sum(axis=1), 1)
    with pytest.raises(TrainingError, match="none of 80 training units"):
        learn(method, (train * np.nan, y[:80]), (x, y), [asked], kind="single", count=3)


@pytest.mark.parametrize("method", ["knn", "linear"])
def test_many_labels_with_holes_and_constant_classes(method, rng) -> None:
    x = rng.normal(size=(90, 4))
    y = np.stack([x[:, 0] > 0, x[:, 1] > 0, np.zeros(90), np.ones(90)], axis=1).astype(int)
    y[:8, 0] = -1
    y[8] = -1
    found = learn(method, (x[:50], y[:50]), (x[50:70], y[50:70]), [x[70:]], kind="multi", count=4)
    p = found.probabilities[0]
    assert p.shape == (20, 4)
    assert np.isfinite(p).all()
    assert all_scores("multi", p[:, :2], y[70:, :2])["macro_map"] > 0.9
    assert (p[:, 2] == 0).all()
    assert (p[:, 3] == 1).all()


def test_one_class_alone_and_an_unknown_method(blobs) -> None:
    x, y = blobs
    only = x[y == 1], y[y == 1]
    for method in ("knn", "linear"):
        found = learn(method, only, (x, y), [x[:5]], kind="single", count=3)
        assert found.probabilities[0].argmax(axis=1).tolist() == [1] * 5
    with pytest.raises(UnknownNameError, match="linear"):
        learn("liner", only, (x, y), [x], kind="single", count=3)
