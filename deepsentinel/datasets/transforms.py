"""Atomic transforms of a sample, and `Compose`, which gives the random ones their generator.

A deterministic transform is called with the sample. A random one holds no state: it is called
with the sample *and* a generator. `Compose(..., seed=0)` makes that generator afresh for every
sample from its seed, the epoch and the id of the patch, so what a patch looks like in an epoch
depends neither on the order of reading nor on the number of workers, and a resumed run sees what
an undisturbed one would have seen.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from deepsentinel.bands import SENSORS, Sensor
from deepsentinel.datasets import geometry
from deepsentinel.datasets.fields import Generator, cloud_field
from deepsentinel.errors import SampleError, ShapeError
from deepsentinel.sample import IMAGE_KEYS, PatchMeta, Sample

NAN = float("nan")


class RandomTransform(ABC):
    """A transform that receives its generator; put it into `Compose` to call it with a sample."""

    @abstractmethod
    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """The changed sample; the given one is left as it was."""


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


@dataclass(frozen=True)
class RandomFlip(RandomTransform):
    """Mirror left to right and top to bottom, each with its probability.

    Example:
        >>> sample = {"mask": torch.tensor([[1, 2]])}
        >>> RandomFlip(horizontal=1, vertical=0)(sample, np.random.default_rng(0))["mask"].tolist()
        [[2, 1]]
    """

    horizontal: float = 0.5
    vertical: float = 0.5

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """The sample, perhaps mirrored."""
        if generator.random() < self.horizontal:
            sample = geometry.hflip(sample)
        if generator.random() < self.vertical:
            sample = geometry.vflip(sample)
        return sample


@dataclass(frozen=True)
class RandomRot90(RandomTransform):
    """Turn by 0, 1, 2 or 3 right angles, each as likely.

    SAR layover and shadow have a direction, which turning hides from a model: leave it out where
    that matters.

    Example:
        >>> sample = {"mask": torch.zeros(4, 2)}
        >>> RandomRot90()(sample, np.random.default_rng(0))["mask"].numel()
        8
    """

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """The turned sample."""
        return geometry.rot90(sample, int(generator.integers(4)))


@dataclass(frozen=True)
class RandomCrop(RandomTransform):
    """A square window of `size` pixels somewhere in the sample.

    Example:
        >>> sample = {"mask": torch.zeros(8, 8)}
        >>> RandomCrop(4)(sample, np.random.default_rng(0))["mask"].shape
        torch.Size([4, 4])
    """

    size: int

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """The window; a sample smaller than it is a `ShapeError`."""
        rows, columns = _at_least(sample, self.size)
        top = int(generator.integers(rows - self.size + 1))
        left = int(generator.integers(columns - self.size + 1))
        return geometry.crop(sample, top, left, self.size, self.size)


@dataclass(frozen=True)
class CenterCrop:
    """The square window of `size` pixels in the middle of the sample.

    Example:
        >>> CenterCrop(2)({"mask": torch.arange(16).reshape(4, 4)})["mask"].tolist()
        [[5, 6], [9, 10]]
    """

    size: int

    def __call__(self, sample: Sample) -> Sample:
        """The window; a sample smaller than it is a `ShapeError`."""
        rows, columns = _at_least(sample, self.size)
        top, left = (rows - self.size) // 2, (columns - self.size) // 2
        return geometry.crop(sample, top, left, self.size, self.size)


@dataclass(frozen=True)
class BandDropout(RandomTransform):
    """Make bands not observed (NaN), each with `probability`; one observed band always stays.

    Example:
        >>> sample = {"image_s1": torch.zeros(2, 4, 4), "image_s2": torch.zeros(12, 4, 4)}
        >>> out = BandDropout(1.0)(sample, np.random.default_rng(0))
        >>> sum(int(out[k].isfinite().any(-1).any(-1).sum()) for k in ("image_s1", "image_s2"))
        1
    """

    probability: float = 0.2

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """The sample with fewer bands observed."""
        present = _images(sample)
        observed = {k: image.isfinite().flatten(-2).any(-1) for k, image in present.items()}
        dropped = {
            k: torch.from_numpy(generator.random(len(image)) < self.probability)
            for k, image in present.items()
        }
        if not any(bool((observed[k] & ~dropped[k]).any()) for k in present):
            candidates = [(k, int(b)) for k in present for b in observed[k].nonzero().flatten()]
            if not candidates:
                return sample
            key, band = candidates[int(generator.integers(len(candidates)))]
            dropped[key][band] = False
        return {
            **sample,
            **{
                k: image.masked_fill(dropped[k][:, None, None], NAN)
                for k, image in present.items()
                if bool(dropped[k].any())
            },
        }


@dataclass(frozen=True)
class SensorDropout(RandomTransform):
    """Make a whole sensor not observed (NaN); never the only one that is observed.

    At most one sensor goes: S1 with probability `s1`, S2 with probability `s2`. The tensor stays,
    so that batches keep their keys.

    Example:
        >>> sample = {"image_s1": torch.zeros(2, 4, 4), "image_s2": torch.zeros(12, 4, 4)}
        >>> out = SensorDropout(s1=1.0, s2=0.0)(sample, np.random.default_rng(0))
        >>> bool(out["image_s1"].isnan().all()), bool(out["image_s2"].isnan().any())
        (True, False)
    """

    s1: float = 0.2
    s2: float = 0.2

    def __post_init__(self) -> None:
        if min(self.s1, self.s2) < 0 or self.s1 + self.s2 > 1:
            raise SampleError(
                f"SensorDropout(s1={self.s1}, s2={self.s2}): both are probabilities of leaving out "
                "that sensor and at most one goes, so their sum must lie within 0 to 1."
            )

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """The sample, perhaps with one sensor less."""
        draw = generator.random()
        chosen: Sensor | None = "s1" if draw < self.s1 else "s2"
        if draw >= self.s1 + self.s2:
            return sample
        observed = [s for s in SENSORS if _observed(sample, s)]
        if chosen not in observed or len(observed) < 2:
            return sample
        key = IMAGE_KEYS[chosen]
        return {**sample, key: torch.full_like(sample[key], NAN)}


@dataclass(frozen=True)
class Speckle(RandomTransform):
    """Multiply S1 power with gamma-distributed speckle of mean 1 and `looks` looks.

    The shape parameter of the gamma distribution of multi-look intensity is the number of looks
    (Oliver and Quegan, *Understanding Synthetic Aperture Radar Images*, 2004, chapter 4).

    Example:
        >>> sample = {"image_s1": torch.full((2, 64, 64), -10.0)}
        >>> out = Speckle(looks=100)(sample, np.random.default_rng(0))["image_s1"]
        >>> bool((10 ** (out / 10)).mean().sub(0.1).abs() < 0.005)
        True
    """

    looks: float = 20.0

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """The sample with noisier S1."""
        image: Tensor | None = sample.get("image_s1")
        if image is None:
            return sample
        draws = generator.standard_gamma(self.looks, tuple(image.shape), dtype=np.float32)
        speckle = torch.from_numpy(draws / np.float32(self.looks)).clamp_min(1e-6)
        return {**sample, "image_s1": image + 10 * speckle.log10()}


@dataclass(frozen=True)
class Brightness(RandomTransform):
    """Multiply S2 reflectance with a random gain near 1, as sun, haze and season do.

    Example:
        >>> sample = {"image_s2": torch.ones(3, 4, 4)}
        >>> gain = Brightness(overall=0.1, band=0.0)(sample, np.random.default_rng(0))["image_s2"]
        >>> bool((gain == gain[0, 0, 0]).all()), bool((gain[0, 0, 0] - 1).abs() < 0.4)
        (True, True)
    """

    overall: float = 0.1
    """Standard deviation of the logarithm of the gain that all bands share."""
    band: float = 0.02
    """Standard deviation of the logarithm of each band's own gain."""

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """The sample with brighter or darker S2."""
        image: Tensor | None = sample.get("image_s2")
        if image is None:
            return sample
        shared = generator.normal(0, self.overall)
        gains = np.exp(shared + generator.normal(0, self.band, len(image))).astype(np.float32)
        return {**sample, "image_s2": image * torch.from_numpy(gains)[:, None, None]}


@dataclass(frozen=True)
class SimulatedClouds(RandomTransform):
    """Make S2 not observed (NaN) under clouds of random shape.

    A patch of which nothing would stay observed is left as it was.

    Example:
        >>> sample = {"image_s2": torch.zeros(12, 32, 32)}
        >>> clouds = SimulatedClouds(1.0, share=(0.3, 0.3))
        >>> out = clouds(sample, np.random.default_rng(0))
        >>> bool((out["image_s2"].isnan().float().mean() - 0.3).abs() < 0.01)
        True
    """

    probability: float = 0.5
    share: tuple[float, float] = (0.05, 0.6)
    """Least and greatest share of the patch that is covered."""
    mark: bool = False
    """Also write 1 (thick cloud) into `cloud`, which is added where the sample lacks it."""

    def __post_init__(self) -> None:
        low, high = self.share
        if not 0 <= low <= high < 1:
            raise SampleError(f"share={self.share}: give (least, greatest) with 0 <= both < 1.")

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """The sample, perhaps clouded."""
        image: Tensor | None = sample.get("image_s2")
        if image is None:
            return sample
        height, width = image.shape[-2:]
        covered = torch.zeros(height, width, dtype=torch.bool)
        if generator.random() < self.probability:
            share = generator.uniform(*self.share)
            covered = torch.from_numpy(cloud_field(height, width, share, generator))
        out = {**sample, "image_s2": image.masked_fill(covered, NAN)}
        if not any(_observed(out, s) for s in SENSORS):
            out, covered = dict(sample), torch.zeros_like(covered)
        if self.mark:
            cloud = sample.get("cloud", torch.zeros(height, width, dtype=torch.uint8))
            out["cloud"] = cloud.masked_fill(covered, 1)
        return out


class ToTorchgeo:
    """Add `image` for torchgeo's trainers: S1 then S2, with NaN filled.

    It also takes a batch. Where some patches lack a sensor, use it there, after
    `deepsentinel.collate`, so that every image has the same channels.

    Args:
        fill: what stands for "not observed", one value or one a sensor, in dB and reflectance. It
            has no default, because networks without a mask input take it for an observation.

    Example:
        >>> sample = {"image_s1": torch.zeros(2, 4, 4), "image_s2": torch.full((12, 4, 4), NAN)}
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


def _at_least(sample: Sample, wanted: int) -> tuple[int, int]:
    rows, columns = geometry.size(sample)
    if min(rows, columns) < wanted:
        raise ShapeError(
            f"a crop of {wanted} px was asked from a sample of {rows}x{columns} px. "
            f"Ask for at most {min(rows, columns)} px."
        )
    return rows, columns


def _images(sample: Sample) -> dict[str, Tensor]:
    return {IMAGE_KEYS[s]: sample[IMAGE_KEYS[s]] for s in SENSORS if IMAGE_KEYS[s] in sample}


def _observed(sample: Sample, sensor: Sensor) -> bool:
    image: Tensor | None = sample.get(IMAGE_KEYS[sensor])
    return image is not None and bool(image.isfinite().any())
