"""`RandomTransform`: one random change, of a batch on its device or of a single sample."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from deepsentinel.bands import SENSORS
from deepsentinel.datasets import geometry
from deepsentinel.errors import SampleError
from deepsentinel.sample import IMAGE_KEYS, Batch, Sample

NAN: Final = float("nan")
_LISTED: Final = ("bbox_xyxy", "label", "meta")
"""Keys that a batch may hold as lists and that move with the pixels."""


class RandomTransform(ABC):
    """A random change that is drawn anew for each patch.

    A subclass says what becomes of a batch; a sample is a batch of one.
    """

    @abstractmethod
    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The changed batch, on the device it is on; the given one is left as it was.

        Draws are made on the generator's device: the same on every device with one on the CPU.
        """

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        """The changed sample; the given one is left as it was."""
        own = torch.Generator().manual_seed(int(generator.integers(2**63 - 1)))
        batch = {k: v[None] if isinstance(v, Tensor) else [v] for k, v in sample.items()}
        for key in ("bbox_xyxy", "label") if "bbox_xyxy" in sample else ():
            if key in sample:
                batch[key] = [sample[key]]
        return {k: v[0] for k, v in self.augment(batch, own).items()}


def each_patch(batch: Batch, move: Callable[[int, Sample], Sample]) -> Batch:
    """The batch with its pixels, boxes and meta moved patch by patch.

    Args:
        batch: as `deepsentinel.collate` makes it.
        move: from place and sample to sample; all must come out in one size.

    Example:
        >>> batch = {"mask": torch.tensor([[[1, 2]], [[3, 4]]])}
        >>> each_patch(batch, lambda i, s: geometry.hflip(s) if i else s)["mask"].tolist()
        [[[1, 2]], [[4, 3]]]
    """
    rasters = geometry.raster_keys(batch)
    listed = [k for k in _LISTED if isinstance(batch.get(k), list)]
    samples = [
        move(i, {k: batch[k][i] for k in (*rasters, *listed)}) for i in range(patches(batch))
    ]
    stacked: dict[str, Any] = {k: torch.stack([s[k] for s in samples]) for k in rasters}
    return {**batch, **stacked, **{k: [s[k] for s in samples] for k in listed}}


def patches(batch: Batch) -> int:
    """How many patches a batch with at least one raster holds."""
    geometry.size(batch)  # an error where it holds none
    return len(batch[geometry.raster_keys(batch)[0]])


def images(batch: Batch) -> dict[str, Tensor]:
    """Images of the batch by key, S1 first."""
    return {IMAGE_KEYS[s]: batch[IMAGE_KEYS[s]] for s in SENSORS if IMAGE_KEYS[s] in batch}


def observed_bands(image: Tensor) -> Tensor:
    """Whether any pixel of a band was observed: bool (B, C)."""
    return image.isfinite().flatten(2).any(2)


def observed_patches(batch: Batch) -> Tensor:
    """Whether a patch has any observed value: bool (B,).

    Example:
        >>> observed_patches({"image_s1": torch.tensor([[[[0.0]]], [[[NAN]]]])}).tolist()
        [True, False]
    """
    seen = [observed_bands(image).any(1) for image in images(batch).values()]
    if not seen:
        raise SampleError(f"the batch holds neither image_s1 nor image_s2, only {sorted(batch)}.")
    return torch.stack(seen).any(0)


def share(count: int, generator: torch.Generator, *more: int) -> Tensor:
    """(count, *more) numbers even over 0 to 1."""
    return torch.rand(count, *more, generator=generator, device=generator.device)
