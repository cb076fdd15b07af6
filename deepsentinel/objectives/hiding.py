"""Hide sensors, bands and places from a batch, so that an encoder learns to do without them."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from deepsentinel.errors import SampleError
from deepsentinel.sample import IMAGE_KEYS, Batch

NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Hiding:
    """What is hidden, patch by patch; never everything that a patch has.

    Called with a batch and a generator it returns a batch in which what is hidden is NaN; the
    given batch stays as it is.

    Raises:
        SampleError: a share is not a number from 0 to 1.

    Example:
        >>> batch = {"image_s1": torch.zeros(2, 2, 16, 16), "image_s2": torch.zeros(2, 12, 16, 16)}
        >>> hide = Hiding(s1=0.0, s2=1.0, bands=0.0, hole=0.0)
        >>> hidden = hide(batch, torch.Generator().manual_seed(0))
        >>> hidden["image_s2"].isnan().all().item(), hidden["image_s1"].isnan().any().item()
        (True, False)
    """

    s1: float = 0.25
    """Share of the patches with both sensors that lose Sentinel-1."""
    s2: float = 0.35
    """Share of the patches with both sensors that lose Sentinel-2."""
    bands: float = 0.5
    """Share of the patches that lose some bands of Sentinel-2, each with a chance drawn below 0.6."""
    hole: float = 0.3
    """Share of the patches that lose a rectangle of Sentinel-2, as under a cloud."""

    def __post_init__(self) -> None:
        shares = (self.s1, self.s2, self.bands, self.hole)
        if not all(0 <= share <= 1 for share in shares) or self.s1 + self.s2 > 1:
            raise SampleError(f"{self}: shares are from 0 to 1, and s1 + s2 at most 1.")

    def __call__(self, batch: Batch, generator: Generator) -> Batch:
        """The batch with NaN where something is hidden."""
        hidden = dict(batch)
        if IMAGE_KEYS["s2"] in batch:
            s2 = self._without_bands(batch[IMAGE_KEYS["s2"]], generator)
            hidden[IMAGE_KEYS["s2"]] = self._without_hole(s2, generator)
        if all(key in batch for key in IMAGE_KEYS.values()):
            self._without_sensor(hidden, generator)
        return with_something(hidden, batch)

    def _without_bands(self, s2: Tensor, generator: Generator) -> Tensor:
        count, bands = s2.shape[:2]
        chosen = torch.rand(count, 1, generator=generator) < self.bands
        chance = 0.6 * torch.rand(count, 1, generator=generator)
        lost = chosen & (torch.rand(count, bands, generator=generator) < chance)
        lost &= ~lost.all(1, keepdim=True)
        return s2.masked_fill(lost.to(s2.device)[:, :, None, None], NAN)

    def _without_hole(self, s2: Tensor, generator: Generator) -> Tensor:
        count, _, height, width = s2.shape
        chosen = torch.rand(count, generator=generator) < self.hole
        down = _spans(count, height, generator)
        across = _spans(count, width, generator)
        lost = chosen[:, None, None] & down[:, :, None] & across[:, None, :]
        return s2.masked_fill(lost.to(s2.device)[:, None], NAN)

    def _without_sensor(self, hidden: Batch, generator: Generator) -> None:
        observed = [_observed(hidden[key]).cpu() for key in IMAGE_KEYS.values()]
        both = observed[0] & observed[1]
        draw = torch.rand(len(both), generator=generator)
        lost = {"s1": both & (draw < self.s1), "s2": both & (draw >= 1 - self.s2)}
        for sensor, key in IMAGE_KEYS.items():
            image = hidden[key]
            hidden[key] = image.masked_fill(lost[sensor].to(image.device)[:, None, None, None], NAN)


def with_something(hidden: Batch, batch: Batch) -> Batch:
    """Patches of which nothing would be left come back as they were."""
    keys = [key for key in IMAGE_KEYS.values() if key in batch]
    if not keys:
        return hidden
    gone = ~torch.stack([_observed(hidden[key]) for key in keys]).any(0)
    shown = {k: torch.where(gone[:, None, None, None], batch[k], hidden[k]) for k in keys}
    return {**hidden, **shown}


def _observed(image: Tensor) -> Tensor:
    """Patches with a finite value, bool (B,)."""
    return image.isfinite().any(dim=(1, 2, 3))


def _spans(count: int, length: int, generator: Generator) -> Tensor:
    """One stretch of a quarter to three quarters of the length a row, bool (count, length)."""
    size = (0.25 + 0.5 * torch.rand(count, 1, generator=generator)) * length
    start = torch.rand(count, 1, generator=generator) * (length - size)
    place = torch.arange(length)[None]
    return (place >= start) & (place < start + size)
