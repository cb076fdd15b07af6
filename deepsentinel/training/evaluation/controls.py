"""Controls that every score is compared with: what band statistics alone can do."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deepsentinel.bands import SENSORS
from deepsentinel.errors import SampleError, TrainingError
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
        sample: with one or both images; what was not observed counts as the mean of its band in
            the patch, and is NaN where the patch has nothing of that band.

    Returns:
        (H * W, 3 C) for the C bands of all sensors present.

    Raises:
        SampleError: the sample has no image.

    Example:
        >>> import torch
        >>> pixel_statistics({"image_s1": torch.zeros(2, 4, 4)}).shape
        (16, 6)
    """
    from scipy.ndimage import uniform_filter

    images = [np.asarray(sample[IMAGE_KEYS[s]]) for s in SENSORS if IMAGE_KEYS[s] in sample]
    if not images:
        raise SampleError(f"the sample has neither image_s1 nor image_s2; it holds {list(sample)}.")
    bands = np.concatenate(images).astype(np.float64)  # (C, H, W)
    observed = np.isfinite(bands)
    count = observed.sum((1, 2), keepdims=True)
    total = np.where(observed, bands, 0).sum((1, 2), keepdims=True)
    overall = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    filled = np.where(observed, bands, overall)
    size = (1, WINDOW, WINDOW)
    mean = uniform_filter(filled, size)
    spread = np.sqrt(np.maximum(uniform_filter(filled**2, size) - mean**2, 0))
    features = np.concatenate((filled, mean, spread))  # (3 C, H, W)
    return features.reshape(len(features), -1).T.astype(np.float32)


class PixelControl:
    """Segmentation by logistic regression on `pixel_statistics`: no network, no training beyond it.

    Args:
        train: samples with `mask`; a sensor that some of them lack counts as the mean of the others.
        pixels: how many labelled pixels of `train` to learn from, drawn by the seed.
        seed: of that draw.

    Raises:
        TrainingError: no labelled pixel, only one class, or samples that differ in their bands.
    """

    def __init__(self, train: Samples, *, pixels: int = 20_000, seed: int = 0) -> None:
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self._channels = _channels(train)
        each = max(1, pixels // max(1, len(train)))
        generator = np.random.default_rng(seed)
        drawn = [self._draw(train[i], each, generator) for i in range(len(train))]
        features = np.concatenate([x for x, _ in drawn])
        targets = np.concatenate([y for _, y in drawn])
        if len(np.unique(targets)) < 2:
            raise TrainingError(
                f"the training split has {len(np.unique(targets))} labelled classes; two are needed."
            )
        self._model: Any = make_pipeline(
            SimpleImputer(keep_empty_features=True),
            StandardScaler(),
            LogisticRegression(max_iter=2000),
        )
        self._model.fit(features, targets)

    def predict(self, sample: Sample) -> NDArray[np.int64]:
        """Class ids (H, W) of one sample."""
        classes: NDArray[np.int64] = self._model.predict(self._statistics(sample))
        return classes.reshape(_size(sample))

    def _draw(
        self, sample: Sample, count: int, generator: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        mask = np.asarray(sample["mask"]).reshape(-1)
        labelled = np.flatnonzero(mask != IGNORE_INDEX)
        chosen = generator.permutation(labelled)[:count]
        return self._statistics(sample)[chosen], mask[chosen]

    def _statistics(self, sample: Sample) -> NDArray[np.float32]:
        """Of the bands of `train`; those of an absent sensor are NaN."""
        images: Sample = {}
        for key, count in self._channels.items():
            images[key] = sample.get(key, np.full((count, *_size(sample)), np.nan))
            if len(images[key]) != count:
                raise TrainingError(
                    f"{key} of one patch has {len(images[key])} bands, of others {count}. Read all "
                    "patches with the same bands=...."
                )
        return pixel_statistics(images)


def _size(sample: Sample) -> tuple[int, int]:
    height, width = next(sample[k] for k in (*IMAGE_KEYS.values(), "mask") if k in sample).shape[
        -2:
    ]
    return int(height), int(width)


def _channels(samples: Samples) -> dict[str, int]:
    """Bands of each image that any sample has."""
    found: dict[str, int] = {}
    for i in range(len(samples)):
        sample = samples[i]
        found |= {k: len(sample[k]) for k in IMAGE_KEYS.values() if k in sample and k not in found}
        if len(found) == len(IMAGE_KEYS):
            break
    return {k: found[k] for k in IMAGE_KEYS.values() if k in found}
