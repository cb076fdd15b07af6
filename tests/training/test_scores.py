"""Scores against slow loops and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    mean_absolute_error,
    r2_score,
    root_mean_squared_error,
)

from deepsentinel.errors import TrainingError
from deepsentinel.features import Classification, Regression, Segmentation
from deepsentinel.training.scoring.regression import RegressionScores
from deepsentinel.training.scoring.scores import (
    ClassificationScores,
    MultilabelScores,
    SegmentationScores,
    scores_for,
)

NAMES = ("a", "b", "c", "d")


def test_iou_is_the_slow_loop(rng) -> None:
    logits = torch.from_numpy(rng.normal(size=(4, 4, 7, 5)).astype("float32"))
    logits[:, 3] = -99  # never predicted
    mask = torch.from_numpy(rng.integers(-1, 3, (4, 7, 5)))  # never there either
    scores = SegmentationScores(NAMES)
    for half in (slice(0, 3), slice(3, 4)):
        predicted = Segmentation(logits[half], logits[half].softmax(1), logits[half].argmax(1))
        scores.update(predicted, {"mask": mask[half]})
    p, t = logits.argmax(1).numpy(), mask.numpy()
    known, ious = t >= 0, []
    for k in range(3):
        both = sum((p[i] == k) and (t[i] == k) for i in np.ndindex(*t.shape))
        either = sum(t[i] >= 0 and (p[i] == k or t[i] == k) for i in np.ndindex(*t.shape))
        ious.append(both / either)
    assert scores.compute() == pytest.approx(
        {"miou": np.mean(ious), "pixel_accuracy": (p == t)[known].mean()}
    )
    assert scores.per_class() == pytest.approx(dict(zip(NAMES, [*ious, None], strict=True)))


def test_classification_is_sklearns(rng) -> None:
    logits = torch.from_numpy(rng.normal(size=(30, 4)))
    label = torch.from_numpy(rng.integers(-1, 4, 30))
    scores = ClassificationScores(NAMES)
    scores.update(Classification(logits, logits.softmax(1), logits.argmax(1)), {"label": label})
    p, t = logits.argmax(1).numpy(), label.numpy()
    known = t >= 0
    found = scores.compute()
    assert found["accuracy"] == pytest.approx((p == t)[known].mean())
    assert found["macro_f1"] == pytest.approx(f1_score(t[known], p[known], average="macro"))


def test_multilabel_is_sklearns(rng) -> None:
    probabilities = torch.from_numpy(rng.random((40, 4)).astype("float32"))
    label = torch.from_numpy(rng.integers(-1, 2, (40, 4)))
    label[:, 3] = 0  # nowhere
    scores = MultilabelScores(NAMES)
    for half in (slice(0, 30), slice(30, 40)):
        p = probabilities[half]
        scores.update(Classification(p.logit(), p, p >= 0.5), {"label": label[half]})
    p, t = probabilities.numpy(), label.numpy()
    known = t >= 0
    by_class = [average_precision_score(t[known[:, k], k], p[known[:, k], k]) for k in range(3)]
    assert scores.compute() == pytest.approx(
        {
            "macro_map": np.mean(by_class),
            "micro_map": average_precision_score(t[known], p[known]),
        },
        rel=1e-5,
    )
    assert scores.per_class()["d"] is None


def test_nothing_labelled_is_an_error() -> None:
    logits = torch.zeros(2, 4)
    single = ClassificationScores(NAMES)
    single.update(
        Classification(logits, logits, logits.argmax(1)), {"label": torch.tensor([-1, -1])}
    )
    with pytest.raises(TrainingError, match="nothing is labelled"):
        single.compute()
    with pytest.raises(TrainingError, match="nothing is labelled"):
        MultilabelScores(NAMES).compute()


def test_each_model_has_its_scores(model) -> None:
    assert scores_for(model("linear")).headline == "miou"
    assert scores_for(model("classifier")).headline == "accuracy"


@pytest.mark.parametrize("shape", [(4, 5), ()])
def test_regression_is_sklearns(rng, shape) -> None:
    """Elevations far from 0, where sums of squares in float32 would have no digits left."""
    target = (rng.normal(size=(30, 3, *shape)) * 2 + 4000).astype("float32")
    values = (target + rng.normal(size=target.shape)).astype("float32")
    target[rng.random(target.shape) < 0.3] = np.nan
    target[:, 2] = np.nan
    scores = RegressionScores(("a", "b", "c"))
    for half in (slice(0, 11), slice(11, 30)):
        found = Regression(torch.from_numpy(values[half]))
        scores.update(found, {"target": torch.from_numpy(target[half])})
    wanted = {"r2": [], "rmse": [], "mae": [], "bias": []}
    for k in (0, 1):
        known = np.isfinite(target[:, k])
        t, v = target[:, k][known].astype("float64"), values[:, k][known].astype("float64")
        wanted["r2"].append(r2_score(t, v))
        wanted["rmse"].append(root_mean_squared_error(t, v))
        wanted["mae"].append(mean_absolute_error(t, v))
        wanted["bias"].append((v - t).mean())
    assert scores.compute() == pytest.approx({k: np.mean(v) for k, v in wanted.items()}, rel=1e-6)
    assert scores.per_class()["c"] is None
    drawn = scores.points()
    assert list(drawn) == ["a", "b"]
    known = np.isfinite(target[:, 0])
    np.testing.assert_array_equal(drawn["a"][0], target[:, 0][known])
    np.testing.assert_array_equal(drawn["a"][1], values[:, 0][known])
    assert scores.per_class()["a"] == pytest.approx(wanted["r2"][0])


def test_a_target_that_is_unknown_or_never_varies_is_an_error() -> None:
    scores = RegressionScores(("a",))
    scores.update(Regression(torch.zeros(2, 1)), {"target": torch.full((2, 1), torch.nan)})
    with pytest.raises(TrainingError, match="no target is known"):
        scores.compute()
    scores.update(Regression(torch.zeros(2, 1)), {"target": torch.full((2, 1), 5.0)})
    with pytest.raises(TrainingError, match="never varies"):
        scores.compute()
