"""Every score against scikit-learn or a loop."""

import numpy as np
import pytest
from sklearn import metrics as sk

from deepsentinel.errors import TrainingError
from deepsentinel.training.evaluation.metrics import HEADLINES, MEANINGS, all_scores, class_scores


@pytest.fixture
def single(rng):
    target = rng.choice(7, 300, p=[0.4, 0.2, 0.2, 0.1, 0.05, 0.05, 0.0])
    p = rng.dirichlet(np.ones(7), 300) + 0.3 * np.eye(7)[target]
    return p / p.sum(axis=1, keepdims=True), target


def area(target, scores):
    precision, recall, _ = sk.precision_recall_curve(target, scores)
    return sk.auc(recall, precision)


def expected_calibration_error(confidence, right, bins=15):
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return sum(
        (place == b).mean() * abs(confidence[place == b].mean() - right[place == b].mean())
        for b in range(bins)
        if (place == b).any()
    )


def test_scores_of_single_labels(single) -> None:
    p, target = single
    found, classes, hot = all_scores("single", p, target), p.argmax(axis=1), np.eye(7)[target]
    there = np.unique(target)
    weight = 1 / np.bincount(target, minlength=7)[target]
    want = {
        "accuracy": sk.accuracy_score(target, classes),
        "top_3": sk.top_k_accuracy_score(target, p, k=3, labels=range(7)),
        "top_5": sk.top_k_accuracy_score(target, p, k=5, labels=range(7)),
        "macro_f1": sk.f1_score(target, classes, average="macro"),
        "kappa": sk.cohen_kappa_score(target, classes),
        "micro_map": sk.average_precision_score(hot.ravel(), p.ravel()),
        "macro_map": np.mean([sk.average_precision_score(hot[:, k], p[:, k]) for k in there]),
        "auprc": np.mean([area(hot[:, k], p[:, k]) for k in there]),
        "weighted_log_loss": sk.log_loss(target, p, labels=range(7), sample_weight=weight),
        "calibration_error": expected_calibration_error(p.max(axis=1), classes == target),
    }
    assert found.keys() == want.keys()
    for name, value in want.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name


def test_scores_of_pixels(single) -> None:
    p, target = single
    found, classes = all_scores("pixels", p, target), p.argmax(axis=1)
    labels = np.union1d(target, classes)
    assert found["miou"] == pytest.approx(
        sk.jaccard_score(target, classes, labels=labels, average="macro")
    )
    assert found["pixel_accuracy"] == pytest.approx(sk.accuracy_score(target, classes))
    name, values = class_scores("pixels", p, target)
    assert name == "iou"
    want = sk.jaccard_score(target, classes, labels=range(7), average=None, zero_division=0)
    want[[k for k in range(7) if k not in labels]] = np.nan
    np.testing.assert_allclose(values, want)


def test_scores_of_many_labels(rng) -> None:
    target = (rng.random((200, 4)) < [0.5, 0.3, 0.1, 0.0]).astype(int)
    p = np.clip(rng.random((200, 4)) * 0.7 + 0.3 * target, 0, 1)
    found, there, hard = all_scores("multi", p, target), range(3), p > 0.5

    def balanced(k):
        weight = 1 / np.bincount(target[:, k])[target[:, k]]
        return sk.log_loss(target[:, k], p[:, k], sample_weight=weight)

    want = {
        "micro_map": sk.average_precision_score(target.ravel(), p.ravel()),
        "macro_map": np.mean([sk.average_precision_score(target[:, k], p[:, k]) for k in there]),
        "accuracy": (hard == target).mean(),
        "micro_f1": sk.f1_score(target, hard, average="micro"),
        "macro_f1": np.mean([sk.f1_score(target[:, k], hard[:, k]) for k in there]),
        "kappa": np.mean([sk.cohen_kappa_score(target[:, k], hard[:, k]) for k in there]),
        "auprc": np.mean([area(target[:, k], p[:, k]) for k in there]),
        "weighted_log_loss": np.mean([balanced(k) for k in there]),
        "calibration_error": expected_calibration_error(p.ravel(), target.ravel()),
    }
    assert found.keys() == want.keys()
    for name, value in want.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name
    assert np.isnan(class_scores("multi", p, target)[1][3])


def test_a_certain_error_costs_a_finite_loss() -> None:
    p = np.array([[1.0, 0.0], [0.0, 1.0]])
    loss = all_scores("single", p, np.array([1, 1]))["weighted_log_loss"]
    assert loss == pytest.approx(-np.log(1e-6) / 2, rel=1e-3)


def test_unknown_targets_are_left_out(single) -> None:
    p, target = single
    holed = target.copy()
    holed[:50] = -1
    for kind in ("single", "pixels"):
        assert all_scores(kind, p, holed) == all_scores(kind, p[50:], target[50:])
    with pytest.raises(TrainingError, match="nothing is labelled"):
        all_scores("single", p, np.full(300, -1))
    with pytest.raises(TrainingError, match="nothing is labelled"):
        all_scores("multi", p, np.zeros((300, 7), dtype=int))


def test_every_score_says_what_it_means(single) -> None:
    p, target = single
    names = set(all_scores("single", p, target)) | set(all_scores("pixels", p, target))
    names |= set(all_scores("multi", p, np.eye(7, dtype=int)[target]))
    assert names == set(MEANINGS)
    assert {n for pair in HEADLINES.values() for n in pair} <= names
