"""Atomic transforms of a sample, and `Compose`, which gives the random ones their generator.

A deterministic transform is called with the sample. A random one holds no state: it is called
with the sample *and* a generator. `Compose(..., seed=0)` makes that generator afresh for every
sample from its seed, the epoch and the id of the patch, so what a patch looks like in an epoch
depends neither on the order of reading nor on the number of workers, and a resumed run sees what
an undisturbed one would have seen.
"""

from collections.abc import Callable, Mapping
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from deepsentinel.bands import SENSORS, Sensor
from deepsentinel.datasets import geometry
from deepsentinel.datasets.augment import Augment
from deepsentinel.datasets.effects import (
    BandDropout,
    Brightness,
    SensorDropout,
    SimulatedClouds,
    Speckle,
)
from deepsentinel.datasets.fields import Generator
from deepsentinel.datasets.moves import CenterCrop, RandomCrop, RandomFlip, RandomRot90
from deepsentinel.datasets.randomness import RandomTransform
from deepsentinel.errors import SampleError
from deepsentinel.sample import IMAGE_KEYS, PatchMeta, Sample

__all__ = [
    "Augment",
    "BandDropout",
    "Brightness",
    "CenterCrop",
    "Compose",
    "RandomCrop",
    "RandomFlip",
    "RandomRot90",
    "RandomTransform",
    "SensorDropout",
    "SimulatedClouds",
    "Speckle",
    "ToTorchgeo",
]


class Compose:
    """Transforms one after the other, the random ones with a generator of their own.

    Args:
        transforms: deterministic ones (any callable from sample to sample) and random ones
            (`RandomTransform`), in the order of their use.
        seed: with the epoch and the patch id it decides every draw. The same patch read twice in
            one epoch comes out the same.

    Example:
        >>> sample = {"meta": PatchMeta(id="a"), "mask": torch.arange(4).reshape(2, 2)}
        >>> augment = Compose(RandomFlip(), RandomRot90(), seed=1)
        >>> bool((augment(sample)["mask"] == augment(sample)["mask"]).all())
        True
    """

    def __init__(
        self, *transforms: "RandomTransform | Callable[[Sample], Sample]", seed: int = 0
    ) -> None:
        self.transforms = transforms
        self.seed = seed
        # Shared memory, so that workers that outlive an epoch hear of the next one.
        self._epoch = torch.zeros(1, dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy shares memory with its own workers too."""
        self.__dict__.update(state)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def epoch(self) -> int:
        """The epoch that the draws belong to."""
        return int(self._epoch.item())

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; worker processes hear of it too, and so does a `Compose` inside."""
        self._epoch.fill_(epoch)
        for transform in self.transforms:
            if isinstance(transform, Compose):
                transform.set_epoch(epoch)

    def generator(self, sample: Sample) -> Generator:
        """The generator that a sample gets in this epoch.

        Raises:
            SampleError: the sample has no `meta`, whose id the draws depend on.
        """
        meta = sample.get("meta")
        if not isinstance(meta, PatchMeta):
            raise SampleError(
                f"random transforms draw by seed, epoch and patch id, but this sample has no "
                f"PatchMeta under 'meta'; found {sorted(sample)}. Transform single samples, "
                "before they are collated, and keep their meta."
            )
        return np.random.default_rng([self.seed, self.epoch, crc32(meta.id.encode())])

    def __call__(self, sample: Sample) -> Sample:
        """The transformed sample."""
        random = any(isinstance(t, RandomTransform) for t in self.transforms)
        generator = self.generator(sample) if random else np.random.default_rng(0)
        for transform in self.transforms:
            if isinstance(transform, RandomTransform):
                sample = transform(sample, generator)
            else:
                sample = transform(sample)
        return sample

    def __repr__(self) -> str:
        parts = ", ".join(repr(t) for t in self.transforms)
        return f"Compose({parts}, seed={self.seed})"


class ToTorchgeo:
    """Add `image` for torchgeo's trainers: S1 then S2, with NaN filled.

    It also takes a batch. Where some patches lack a sensor, use it there, after
    `deepsentinel.collate`, so that every image has the same channels.

    Args:
        fill: what stands for "not observed", one value or one a sensor, in dB and reflectance. It
            has no default, because networks without a mask input take it for an observation.

    Example:
        >>> sample = {"image_s1": torch.zeros(2, 4, 4), "image_s2": torch.full((12, 4, 4), torch.nan)}
        >>> out = ToTorchgeo(fill={"s1": -25.0, "s2": 0.0})(sample)["image"]
        >>> out.shape, bool(out.isnan().any())
        (torch.Size([14, 4, 4]), False)
    """

    def __init__(self, *, fill: float | Mapping[Sensor, float]) -> None:
        self.fill: dict[Sensor, float] = (
            {s: fill[s] for s in SENSORS if s in fill}
            if isinstance(fill, Mapping)
            else dict.fromkeys(SENSORS, float(fill))
        )

    def __call__(self, sample: Sample) -> Sample:
        """The sample or batch with `image`, float32 (C, H, W) or (B, C, H, W)."""
        geometry.size(sample)
        filled = [self._filled(sample, s) for s in SENSORS if IMAGE_KEYS[s] in sample]
        if not filled:
            raise SampleError(
                f"ToTorchgeo found neither image_s1 nor image_s2, only {sorted(sample)}."
            )
        return {**sample, "image": torch.cat(filled, dim=-3)}

    def _filled(self, sample: Sample, sensor: Sensor) -> Tensor:
        if sensor not in self.fill:
            raise SampleError(
                f"the sample holds {IMAGE_KEYS[sensor]} but fill names only {sorted(self.fill)}; "
                f"add a value for {sensor!r}."
            )
        image: Tensor = sample[IMAGE_KEYS[sensor]]
        return torch.where(image.isfinite(), image, self.fill[sensor])

    def __repr__(self) -> str:
        return f"ToTorchgeo(fill={self.fill})"
