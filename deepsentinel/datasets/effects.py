"""Random changes of what is seen: missing bands and sensors, clouds, speckle, brightness.

None of them leaves a patch without any observed value that had one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deepsentinel.bands import SENSORS
from deepsentinel.datasets.fields import gaussian_response
from deepsentinel.datasets.randomness import (
    NAN,
    RandomTransform,
    images,
    observed_bands,
    observed_patches,
    share,
)
from deepsentinel.errors import SampleError
from deepsentinel.sample import Batch


@dataclass(frozen=True)
class BandDropout(RandomTransform):
    """Make bands not observed (NaN), each with `probability`; one observed band always stays.

    Example:
        >>> import numpy as np
        >>> sample = {"image_s1": torch.zeros(2, 4, 4), "image_s2": torch.zeros(12, 4, 4)}
        >>> out = BandDropout(1.0)(sample, np.random.default_rng(0))
        >>> sum(int(out[k].isfinite().any(-1).any(-1).sum()) for k in ("image_s1", "image_s2"))
        1
    """

    probability: float = 0.2

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with fewer bands observed."""
        present = images(batch)
        if not present:
            return dict(batch)
        seen = torch.cat([observed_bands(x) for x in present.values()], 1).to(generator.device)
        dropped = share(len(seen), generator, seen.shape[1]) < self.probability
        gone = (seen & ~dropped).sum(1) == 0
        spared = torch.multinomial(seen.float() + 1e-12, 1, generator=generator)
        dropped &= ~torch.zeros_like(dropped).scatter(1, spared, gone[:, None])
        parts = torch.split(dropped, [x.shape[1] for x in present.values()], 1)
        return {
            **batch,
            **{
                k: x.masked_fill(part.to(x.device)[:, :, None, None], NAN)
                for (k, x), part in zip(present.items(), parts, strict=True)
            },
        }


@dataclass(frozen=True)
class SensorDropout(RandomTransform):
    """Make a whole sensor not observed (NaN); never the only one that is observed.

    At most one sensor goes: S1 with probability `s1`, S2 with probability `s2`. The tensor stays,
    so that batches keep their keys.

    Example:
        >>> import numpy as np
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

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch, some of its patches with one sensor less."""
        present = images(batch)
        if len(present) < len(SENSORS):
            return dict(batch)
        draw = share(len(next(iter(present.values()))), generator)
        both = torch.stack([observed_bands(x).any(1) for x in present.values()]).all(0)
        lost = (draw < self.s1, (draw >= self.s1) & (draw < self.s1 + self.s2))
        return {
            **batch,
            **{
                k: x.masked_fill((both & gone.to(x.device))[:, None, None, None], NAN)
                for (k, x), gone in zip(present.items(), lost, strict=True)
            },
        }


@dataclass(frozen=True)
class Speckle(RandomTransform):
    """Multiply S1 power with gamma-distributed speckle of mean 1 and `looks` looks.

    The shape parameter of the gamma distribution of multi-look intensity is the number of looks
    (Oliver and Quegan, *Understanding Synthetic Aperture Radar Images*, 2004, chapter 4).

    Example:
        >>> import numpy as np
        >>> sample = {"image_s1": torch.full((2, 64, 64), -10.0)}
        >>> out = Speckle(looks=100)(sample, np.random.default_rng(0))["image_s1"]
        >>> bool((10 ** (out / 10)).mean().sub(0.1).abs() < 0.005)
        True
    """

    looks: float = 20.0

    def __post_init__(self) -> None:
        if not self.looks > 0:
            raise SampleError(f"Speckle(looks={self.looks}): the number of looks is above 0.")

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with noisier S1."""
        image: Tensor | None = batch.get("image_s1")
        if image is None:
            return dict(batch)
        looks = torch.full(image.shape, float(self.looks), device=generator.device)
        power = torch._standard_gamma(looks, generator) / self.looks  # noqa: SLF001 - takes a generator
        decibels = 10 * power.clamp_min(1e-6).log10()
        return {**batch, "image_s1": image + decibels.to(image)}


@dataclass(frozen=True)
class Brightness(RandomTransform):
    """Multiply S2 reflectance with a random gain near 1, as sun, haze and season do.

    Example:
        >>> import numpy as np
        >>> sample = {"image_s2": torch.ones(3, 4, 4)}
        >>> gain = Brightness(overall=0.1, band=0.0)(sample, np.random.default_rng(0))["image_s2"]
        >>> bool((gain == gain[0, 0, 0]).all()), bool((gain[0, 0, 0] - 1).abs() < 0.4)
        (True, True)
    """

    overall: float = 0.1
    """Standard deviation of the logarithm of the gain that all bands share."""
    band: float = 0.02
    """Standard deviation of the logarithm of each band's own gain."""

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with brighter or darker S2."""
        image: Tensor | None = batch.get("image_s2")
        if image is None:
            return dict(batch)
        count, bands = image.shape[:2]
        normal = torch.randn(count, 1 + bands, generator=generator, device=generator.device)
        gains = (self.overall * normal[:, :1] + self.band * normal[:, 1:]).exp()
        return {**batch, "image_s2": image * gains.to(image)[:, :, None, None]}


@dataclass(frozen=True)
class SimulatedClouds(RandomTransform):
    """Make S2 not observed (NaN) under clouds of random shape.

    A patch of which nothing would stay observed is left as it was.

    Example:
        >>> import numpy as np
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
    """Also write 1 (thick cloud) into `cloud`, which is added where the batch lacks it."""

    def __post_init__(self) -> None:
        low, high = self.share
        if not 0 <= low <= high < 1:
            raise SampleError(f"share={self.share}: give (least, greatest) with 0 <= both < 1.")

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch, some of it clouded."""
        image: Tensor | None = batch.get("image_s2")
        if image is None:
            return dict(batch)
        covered = self._covered(image, generator)
        before = observed_patches(batch)
        after = observed_patches({**batch, "image_s2": image.masked_fill(covered[:, None], NAN)})
        covered &= (after | ~before)[:, None, None]
        out = {**batch, "image_s2": image.masked_fill(covered[:, None], NAN)}
        if self.mark:
            clear = torch.zeros(covered.shape, dtype=torch.uint8, device=image.device)
            out["cloud"] = batch.get("cloud", clear).masked_fill(covered, 1)
        return out

    def _covered(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Boolean (B, H, W)."""
        count, _, height, width = image.shape
        clouded, place = share(count, generator, 2).unbind(1)
        low, high = self.share
        shares = torch.where(clouded < self.probability, low + (high - low) * place, 0)
        noise = torch.randn(count, height, width, generator=generator, device=generator.device)
        return cloud_fields(noise.to(image.device), shares.to(image.device))


def cloud_fields(noise: Tensor, shares: Tensor) -> Tensor:
    """Where clouds lie: noise made smooth, cut so that a share of each patch is covered.

    Args:
        noise: (B, H, W), standard normal.
        shares: (B,), 0 to 1.

    Returns:
        bool (B, H, W).

    Example:
        >>> noise = torch.randn(2, 20, 20, generator=torch.Generator().manual_seed(0))
        >>> cloud_fields(noise, torch.tensor([0.25, 0.0])).sum((1, 2)).tolist()
        [100, 0]
    """
    size = (noise.shape[-2], noise.shape[-1])
    response = torch.from_numpy(gaussian_response(size, max(size) / 8)).to(noise)
    field = torch.fft.irfft2(torch.fft.rfft2(noise) * response, s=size).flatten(1)
    pixels = field.shape[1]
    number = (shares * pixels).round().long().clamp(0, pixels)
    ranked = field.sort(1, descending=True).values
    least = ranked.gather(1, (number - 1).clamp_min(0)[:, None])
    covered: Tensor = (field >= least) & (number > 0)[:, None]
    return covered.reshape(noise.shape)
