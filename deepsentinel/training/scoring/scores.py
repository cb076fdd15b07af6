"""Scores of a model on labelled batches, from torchmetrics, under the names that reports use."""

from typing import Any, Final, Protocol

import torch
from torch import Tensor

from deepsentinel.errors import TrainingError
from deepsentinel.features import Prediction
from deepsentinel.heads.model import Model
from deepsentinel.sample import IGNORE_INDEX, Batch
from deepsentinel.training.scoring.confusion import NOTHING_LABELLED, Confusion
from deepsentinel.training.scoring.detection import DetectionScores
from deepsentinel.training.scoring.matching import MatchingScores
from deepsentinel.training.scoring.regression import RegressionScores

__all__ = [
    "TITLES",
    "ClassificationScores",
    "Confusion",
    "MultilabelScores",
    "Scores",
    "SegmentationScores",
    "average_precision",
    "scores_for",
]

TITLES: Final[dict[str, str]] = {
    "miou": "mean IoU over the classes that occur in target or prediction",
    "pixel_accuracy": "share of labelled pixels with the right class",
    "accuracy": "share of labelled patches with the right class",
    "macro_f1": "mean F1 over the classes that occur in target or prediction",
    "macro_map": "mean average precision over the classes that occur in the target",
    "micro_map": "average precision over all pairs of patch and class",
    "map": "mean average precision of boxes over classes that occur and overlaps of 0.50 to 0.95",
    "ap50": "average precision of boxes that overlap by half, mean over the classes that occur",
    "ap75": "average precision of boxes that overlap by three quarters, mean over those classes",
    "r2": "share of the variance of the target that is explained; 1 is all, 0 as good as its mean",
    "rmse": "root of the mean squared error, in the units of the target",
    "mae": "mean absolute error, in the units of the target",
    "bias": "mean error, in the units of the target",
    "match_accuracy": "share of pairs told apart, right ones and as many wrong ones",
    "recall@1": "share of S1 patches whose own S2 patch is the nearest of all patches",
    "recall@5": "share of S1 patches whose own S2 patch is among the five nearest",
    "recall@10": "share of S1 patches whose own S2 patch is among the ten nearest",
    "median_rank": "median rank of an S1 patch's own S2 patch among those of all patches",
}


class Scores(Protocol):
    """Collects predictions of batches and scores them all at once."""

    headline: str
    """Name of the score that decides; higher is better."""

    def update(self, prediction: Prediction, batch: Batch) -> None:
        """Add a batch."""

    def compute(self) -> dict[str, float]:
        """Scores by name."""

    def per_class(self) -> dict[str, float | None]:
        """The headline score of each class by name; `None` where the class does not occur."""


def scores_for(model: Model[Any]) -> Scores:
    """The scores that a model is judged by: IoU, accuracy, mean average precision, R2.

    Example:
        >>> from deepsentinel import Classifier, FusionEncoder
        >>> from deepsentinel.features import Classification
        >>> scores = scores_for(Classifier(FusionEncoder("resnet10t", levels=(1,)), 2))
        >>> logits = torch.tensor([[2.0, 0.0], [3.0, 0.0]])
        >>> predicted = Classification(logits, logits.softmax(1), logits.argmax(1))
        >>> scores.update(predicted, {"label": torch.tensor([0, 1])})
        >>> scores.headline, scores.compute()["accuracy"]
        ('accuracy', 0.5)
    """
    if model.task == "segmentation":
        return SegmentationScores(model.class_names)
    if model.task == "detection":
        return DetectionScores(model.class_names)
    if model.task == "regression":
        return RegressionScores(model.class_names)
    if model.task == "matching":
        return MatchingScores(model.head)
    if getattr(model, "multilabel", False):
        return MultilabelScores(model.class_names)
    return ClassificationScores(model.class_names)


class SegmentationScores:
    """`miou` and `pixel_accuracy`."""

    headline = "miou"

    def __init__(self, names: tuple[str, ...]) -> None:
        self.confusion = Confusion(names)

    def update(self, prediction: Any, batch: Batch) -> None:
        """Add a batch with its `mask`."""
        self.confusion.add(prediction.classes, batch["mask"])

    def compute(self) -> dict[str, float]:
        """Scores by name."""
        iou = self.confusion.iou()
        return {"miou": float(iou.nanmean()), "pixel_accuracy": self.confusion.accuracy()}

    def per_class(self) -> dict[str, float | None]:
        """IoU of each class."""
        return _named(self.confusion.names, self.confusion.iou())


class ClassificationScores:
    """`accuracy` and `macro_f1`."""

    headline = "accuracy"

    def __init__(self, names: tuple[str, ...]) -> None:
        self.confusion = Confusion(names)

    def update(self, prediction: Any, batch: Batch) -> None:
        """Add a batch with its `label`."""
        self.confusion.add(prediction.classes, batch["label"])

    def compute(self) -> dict[str, float]:
        """Scores by name."""
        f1 = self.confusion.f1()
        return {"accuracy": self.confusion.accuracy(), "macro_f1": float(f1.nanmean())}

    def per_class(self) -> dict[str, float | None]:
        """F1 of each class."""
        return _named(self.confusion.names, self.confusion.f1())


class MultilabelScores:
    """`macro_map` and `micro_map`."""

    headline = "macro_map"

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._probabilities: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, prediction: Any, batch: Batch) -> None:
        """Add a batch with its multi-hot `label`."""
        self._probabilities.append(prediction.probabilities.float().cpu())
        self._targets.append(batch["label"].long().cpu())

    def compute(self) -> dict[str, float]:
        """Scores by name."""
        macro = float(self._average_precision().nanmean())
        target = torch.cat(self._targets)
        known = target != IGNORE_INDEX
        return {
            "macro_map": macro,
            "micro_map": average_precision(torch.cat(self._probabilities)[known], target[known]),
        }

    def per_class(self) -> dict[str, float | None]:
        """Average precision of each class."""
        return _named(self.names, self._average_precision())

    def _average_precision(self) -> Tensor:
        target = torch.cat(self._targets) if self._targets else torch.zeros(0, len(self.names))
        if not bool((target == 1).any()):
            raise TrainingError(NOTHING_LABELLED)
        scores, values = torch.cat(self._probabilities), []
        for k in range(len(self.names)):
            known = target[:, k] != IGNORE_INDEX
            values.append(average_precision(scores[known, k], target[known, k]))
        return torch.tensor(values, dtype=torch.float64)


def average_precision(scores: Tensor, target: Tensor) -> float:
    """Average precision of scores (N,) against 0 and 1; NaN where nothing is 1.

    Example:
        >>> average_precision(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([1, 0, 1]))
        0.833...
    """
    from torchmetrics.functional.classification import binary_average_precision

    if not bool((target == 1).any()):
        return float("nan")
    return float(binary_average_precision(scores, target, validate_args=False))


def _named(names: tuple[str, ...], values: Tensor) -> dict[str, float | None]:
    floats = values.tolist()
    return {n: None if v != v else v for n, v in zip(names, floats, strict=True)}  # noqa: PLR0124
