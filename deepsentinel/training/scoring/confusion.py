"""Counts of target class by predicted class, and what follows from them."""

from typing import Final

from torch import Tensor

from deepsentinel.errors import TrainingError
from deepsentinel.sample import IGNORE_INDEX

NOTHING_LABELLED: Final = (
    "nothing is labelled in the data to be scored: every target is -1, or no patch has a class. "
    "Look at the split with `deepsentinel stats`, or take other labels=...."
)


class Confusion:
    """Counts of target class (rows) by predicted class (columns).

    Example:
        >>> import torch
        >>> counts = Confusion(("a", "b"))
        >>> counts.add(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, -1]))
        >>> counts.matrix().tolist(), round(counts.iou().mean().item(), 3)
        ([[1, 1], [0, 1]], 0.5)
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        from torchmetrics.classification import MulticlassConfusionMatrix

        self.names = names
        self._metric = MulticlassConfusionMatrix(
            len(names),
            ignore_index=IGNORE_INDEX,
            validate_args=False,
            sync_on_compute=False,  # of several processes each counts everything
        )

    def add(self, classes: Tensor, target: Tensor) -> None:
        """Count int64 classes against targets of one shape; targets of -1 count nothing."""
        self._metric.update(classes.cpu(), target.long().cpu())

    def matrix(self) -> Tensor:
        """int64 (K, K).

        Raises:
            TrainingError: nothing labelled was added.
        """
        matrix: Tensor = self._metric.compute()
        if not bool(matrix.any()):
            raise TrainingError(NOTHING_LABELLED)
        return matrix

    def accuracy(self) -> float:
        """Share on the diagonal."""
        matrix = self.matrix().double()
        return float(matrix.trace() / matrix.sum())

    def iou(self) -> Tensor:
        """(K,) intersection over union; NaN for a class that occurs nowhere."""
        matrix = self.matrix().double()
        both = matrix.diagonal()
        return both / (matrix.sum(0) + matrix.sum(1) - both)

    def f1(self) -> Tensor:
        """(K,) harmonic mean of precision and recall; NaN for a class that occurs nowhere."""
        matrix = self.matrix().double()
        return 2 * matrix.diagonal() / (matrix.sum(0) + matrix.sum(1))
