"""What the labels of a training set are like: weights for rare classes, mean and spread of targets."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepsentinel.errors import LabelError, SampleError, TrainingError
from deepsentinel.heads.targets import check_ids
from deepsentinel.sample import IGNORE_INDEX, Sample
from deepsentinel.training.evaluation.embed import Samples

LABEL_KEYS = ("mask", "label")


def class_weights(
    dataset: Samples, num_classes: int, *, power: float = 1.0, most: int = 2000
) -> tuple[float, ...]:
    """Weights that make rare classes count as much as frequent ones in a loss.

    The weight of a class is (N / (K n)) ** power for its n of N labels, as scikit-learn's
    `compute_class_weight("balanced")` has it with power 1. A class that does not occur weighs 1.

    Args:
        dataset: map-style dataset of samples with `mask` or `label`; of a multi-hot label the
            patches that have the class are counted.
        num_classes: K.
        power: 1 makes all classes count alike, 0.5 is half way there, 0 leaves them as they are.
        most: patches that are looked at, evenly spread.

    Returns:
        K weights for `class_weights=` of a `Segmenter` or `Classifier`.

    Raises:
        SampleError: the samples have neither `mask` nor `label`.
        LabelError: ids from `num_classes` on.
        TrainingError: nothing is labelled.

    Example:
        >>> samples = [{"label": torch.tensor(i)} for i in (0, 0, 0, 1)]
        >>> class_weights(samples, 2)
        (0.666..., 2.0)
    """
    counts = np.zeros(num_classes, dtype=np.int64)
    for sample in _spread(dataset, most):
        counts += _counted(sample, num_classes)
    held = counts > 0
    if not held.any():
        raise TrainingError(
            "nothing is labelled in the patches that were looked at, so classes have no weights. "
            "Look at the split with `deepsentinel stats`, or take other labels=...."
        )
    share = counts[held] * num_classes / counts.sum()
    weights = np.ones(num_classes)
    weights[held] = share**-power
    return tuple(weights.tolist())


def target_statistics(
    dataset: Samples, *, most: int = 2000
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each quantity of a training set, over what is known.

    Args:
        dataset: map-style dataset of samples with `target`.
        most: patches that are looked at, evenly spread.

    Returns:
        `target_mean` and `target_std` of a `Regressor`; a quantity that never varies has 1.

    Raises:
        SampleError: the samples have no `target`.
        TrainingError: a quantity of which nothing is known.

    Example:
        >>> target_statistics([{"target": torch.tensor([0.0, 5.0])}, {"target": torch.tensor([4.0, 5.0])}])
        ((2.0, 5.0), (2.0, 1.0))
    """
    parts = [_known(sample) for sample in _spread(dataset, most)]
    counts, means, variances = (np.stack(column) for column in zip(*parts, strict=True))
    count = counts.sum(axis=0)
    if not np.all(count):
        raise TrainingError(
            f"of quantity {int(np.argmin(count))} nothing is known in the patches that were looked "
            "at: every value of target is NaN."
        )
    mean = (counts * means).sum(axis=0) / count
    variance = (counts * (variances + (means - mean) ** 2)).sum(axis=0) / count
    spread = np.where(variance > 0, np.sqrt(variance), 1.0)
    return tuple(mean.tolist()), tuple(spread.tolist())


def _spread(dataset: Samples, most: int) -> Iterator[Sample]:
    size = len(dataset)  # type: ignore[arg-type]
    if not size:
        raise TrainingError("the dataset holds no sample. Look at the splits: `deepsentinel info`.")
    for place in np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(int)).tolist():
        yield dataset[place]


def _counted(sample: Sample, num_classes: int) -> NDArray[np.int64]:
    """Labels of each class in one sample."""
    key = next((k for k in LABEL_KEYS if k in sample), None)
    if key is None:
        raise SampleError(
            f"the samples have neither {' nor '.join(LABEL_KEYS)}, only {sorted(sample)}. Read the "
            "corpus with labels=[...]."
        )
    ids: Tensor = sample[key]
    if key == "label" and ids.ndim == 1 and "bbox_xyxy" not in sample:
        if len(ids) != num_classes:
            raise LabelError(
                f"label is multi-hot over {len(ids)} classes; num_classes={num_classes} was given."
            )
        return (ids == 1).long().numpy()
    check_ids(ids, num_classes, key)
    return torch.bincount(ids[ids != IGNORE_INDEX].flatten(), minlength=num_classes).numpy()


def _known(sample: Sample) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Count, mean and variance of each quantity of one sample; 0 where nothing is known."""
    if "target" not in sample:
        raise SampleError(
            f"the samples have no target, only {sorted(sample)}. Read the corpus with labels=[...] "
            "naming one of kind target, or compute one, as EviTarget does."
        )
    target: Tensor = sample["target"].double()
    values = target.reshape(len(target), -1)
    seen = torch.isfinite(values)
    count = seen.sum(1)
    mean = torch.where(seen, values, 0).sum(1) / count.clamp(min=1)
    variance = torch.where(seen, values - mean[:, None], 0).square().sum(1) / count.clamp(min=1)
    return count.double().numpy(), mean.numpy(), variance.numpy()
