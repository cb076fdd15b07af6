"""Controls that every score is compared with: what band statistics alone can do."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deepsentinel.bands import SENSORS
from deepsentinel.errors import TrainingError
from deepsentinel.sample import IGNORE_INDEX, IMAGE_KEYS, Sample

WINDOW = 9
"""Pixels of a side of the neighbourhood whose mean and spread a pixel is described by."""


class Samples(Protocol):
    """A map-style dataset of samples."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """One sample."""


def pixel_statistics(sample: Sample) -> NDArray[np.float32]:
    """Each pixel's bands, and their mean and standard deviation around it.

    Args:
        sample: with one or both images; what was not observed counts as the patch's mean.

    Returns:
        (H * W, 3 C) for the C bands of all sensors present.

    Example:
        >>> import torch
        >>> pixel_statistics({"image_s1": torch.zeros(2, 4, 4)}).shape
        (16, 6)
    """
    from scipy.ndimage import uniform_filter

    images = [np.asarray(sample[IMAGE_KEYS[s]]) for s in SENSORS if IMAGE_KEYS[s] in sample]
    bands = np.concatenate(images).astype(np.float64)  # (C, H, W)
    observed = np.isfinite(bands)
    count = observed.sum((1, 2), keepdims=True)
    total = np.where(observed, bands, 0).sum((1, 2), keepdims=True)
    filled = np.where(observed, bands, total / np.maximum(count, 1))
    size = (1, WINDOW, WINDOW)
    mean = uniform_filter(filled, size)
    spread = np.sqrt(np.maximum(uniform_filter(filled**2, size) - mean**2, 0))
    features = np.concatenate((filled, mean, spread))  # (3 C, H, W)
    return features.reshape(len(features), -1).T.astype(np.float32)


class PixelControl:
    """Segmentation by logistic regression on `pixel_statistics`: no network, no training beyond it.

    Args:
        train: samples with `mask`.
        pixels: how many labelled pixels of `train` to learn from, drawn by the seed.
        seed: of that draw.

    Raises:
        TrainingError: no labelled pixel, or only one class.
    """

    def __init__(self, train: Samples, *, pixels: int = 20_000, seed: int = 0) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        each = max(1, pixels // max(1, len(train)))
        generator = np.random.default_rng(seed)
        drawn = [self._draw(train[i], each, generator) for i in range(len(train))]
        features = np.concatenate([x for x, _ in drawn])
        targets = np.concatenate([y for _, y in drawn])
        if len(np.unique(targets)) < 2:
            raise TrainingError(
                f"the training split has {len(np.unique(targets))} labelled classes; two are needed."
            )
        self._model: Any = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        self._model.fit(features, targets)

    def predict(self, sample: Sample) -> NDArray[np.int64]:
        """Class ids (H, W) of one sample."""
        size = next(sample[k] for k in IMAGE_KEYS.values() if k in sample).shape[-2:]
        classes: NDArray[np.int64] = self._model.predict(pixel_statistics(sample))
        return classes.reshape(tuple(size))

    @staticmethod
    def _draw(
        sample: Sample, count: int, generator: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        mask = np.asarray(sample["mask"]).reshape(-1)
        labelled = np.flatnonzero(mask != IGNORE_INDEX)
        chosen = generator.permutation(labelled)[:count]
        return pixel_statistics(sample)[chosen], mask[chosen]
