"""`Augment`: random changes of whole batches on their device, from one generator."""

from dataclasses import dataclass
from typing import Annotated

import torch

from deepsentinel.datasets.effects import (
    BandDropout,
    Brightness,
    SensorDropout,
    SimulatedClouds,
    Speckle,
)
from deepsentinel.datasets.moves import RandomCrop, RandomFlip, RandomRot90
from deepsentinel.datasets.randomness import RandomTransform
from deepsentinel.errors import SampleError
from deepsentinel.sample import Batch


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Changes of a batch, drawn anew for each patch, for the loop that trains.

    Images, masks, clouds, elevation, targets, boxes and the geotransform in `meta` move together,
    without resampling: a NaN stays one NaN and a value keeps its last bit. What is made not
    observed becomes NaN, and never all of a patch. Draws come from the generator alone; those of
    a generator on the CPU are the same for every device that the batch is on.

    The changes are those of `deepsentinel.datasets.transforms`, which act on single samples in the
    workers; use the one or the other.

    Raises:
        SampleError: a setting is out of range.

    Example:
        >>> batch = {"image_s1": torch.zeros(2, 2, 8, 8), "mask": torch.zeros(2, 8, 8)}
        >>> augment = Augment(crop=6, speckle=20.0)
        >>> out = augment(batch, torch.Generator().manual_seed(0))
        >>> out["image_s1"].shape, out["mask"].shape
        (torch.Size([2, 2, 6, 6]), torch.Size([2, 6, 6]))
    """

    crop: Annotated[int | None, "Side of a random square window in pixels; null for whole."] = None
    flip: Annotated[bool, "Mirror left to right and top to bottom, each with probability 0.5."] = (
        True
    )
    rot90: Annotated[bool, "Turn by 0 to 3 right angles (0 or 2 where not square)."] = True
    speckle: Annotated[
        float | None, "Looks of gamma speckle multiplied onto Sentinel-1's power; null for none."
    ] = None
    brightness: Annotated[
        float, "Standard deviation of the logarithm of a gain on all Sentinel-2 bands."
    ] = 0.0
    band_brightness: Annotated[float, "The same for a gain of each Sentinel-2 band."] = 0.0
    clouds: Annotated[float, "Probability of a simulated cloud over Sentinel-2."] = 0.0
    cloud_share: Annotated[
        tuple[float, float], "Least and greatest share of the patch that it covers."
    ] = (0.05, 0.6)
    drop_s1: Annotated[float, "Probability of leaving out Sentinel-1, where both are there."] = 0.0
    drop_s2: Annotated[float, "Probability of leaving out Sentinel-2, where both are there."] = 0.0
    drop_bands: Annotated[float, "Probability of leaving out each band."] = 0.0

    def __post_init__(self) -> None:
        shares = ("clouds", "drop_s1", "drop_s2", "drop_bands")
        wrong = [name for name in shares if not 0 <= getattr(self, name) <= 1]
        wrong += [n for n in ("brightness", "band_brightness") if not getattr(self, n) >= 0]
        wrong += ["crop"] if self.crop is not None and self.crop < 1 else []
        if wrong:
            said = ", ".join(f"{name}={getattr(self, name)}" for name in wrong)
            raise SampleError(
                f"Augment: {said} out of range. Probabilities are from 0 to 1, deviations not "
                "below 0, crop at least 1 pixel."
            )
        _ = self.transforms  # they check the rest

    @property
    def transforms(self) -> tuple[RandomTransform, ...]:
        """The changes in the order of their use, left out where they change nothing."""
        found: list[RandomTransform | None] = [
            None if self.crop is None else RandomCrop(self.crop),
            RandomFlip() if self.flip else None,
            RandomRot90() if self.rot90 else None,
            None if self.speckle is None else Speckle(self.speckle),
            Brightness(self.brightness, self.band_brightness)
            if self.brightness or self.band_brightness
            else None,
            SimulatedClouds(self.clouds, self.cloud_share) if self.clouds else None,
            SensorDropout(self.drop_s1, self.drop_s2) if self.drop_s1 or self.drop_s2 else None,
            BandDropout(self.drop_bands) if self.drop_bands else None,
        ]
        return tuple(t for t in found if t is not None)

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The changed batch; the given one is left as it was.

        Args:
            batch: as `deepsentinel.collate` makes it, on any device.
            generator: decides every draw.

        Raises:
            ShapeError: the patches are smaller than `crop`.
            SampleError: the batch holds no raster.
        """
        for transform in self.transforms:
            batch = transform.augment(batch, generator)
        return dict(batch)
