"""Two looks at one place: random windows, turns, speckle, light and hidden parts; and pairs of them."""

from dataclasses import dataclass, field
from typing import Literal, Self, get_args

import torch
from torch import Generator, Tensor

from deepsentinel.bands import SENSORS, channel_bands
from deepsentinel.encoders.door import MIN_SIZE, Check
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.encoders.pretrained import Pretrained
from deepsentinel.encoders.stems import place
from deepsentinel.errors import ConfigError, SampleError, nearest
from deepsentinel.features import Features
from deepsentinel.objectives.hiding import NAN, Hiding
from deepsentinel.objectives.objective import on_device
from deepsentinel.sample import IMAGE_KEYS, Batch, batch_bands

Between = Literal["views", "sensors", "both"]
"""What attracts: two views of a patch, its two sensors, or one or the other patch by patch."""


def images_of(encoder: Pretrained, batch: Batch) -> Batch:
    """What the encoder reads of a batch: its sensors and bands in its order, NaN for what is absent.

    Raises:
        SampleError: the batch holds no sensor that the encoder reads.

    Example:
        >>> encoder = FusionEncoder("resnet10t", s2_bands=("B08", "B04"))
        >>> found = images_of(encoder, {"image_s1": torch.zeros(1, 2, 16, 16)})
        >>> found["image_s2"].shape, found["image_s2"].isnan().all().item()
        (torch.Size([1, 2, 16, 16]), True)
    """
    keys = {s: IMAGE_KEYS[s] for s in encoder.sensors}
    present = [batch[k] for k in keys.values() if k in batch]
    if not present:
        raise SampleError(
            f"the batch has no {' or '.join(keys.values())}; it holds {sorted(batch)}."
        )
    like, images = present[0], {}
    for sensor, key in keys.items():
        bands = encoder.bands[sensor]
        if key in batch:
            names = channel_bands(batch[key].shape[1], batch_bands(batch, sensor), sensor)
            images[key] = place(batch[key], names, bands)
        else:
            shape = (len(like), len(bands), *like.shape[2:])
            images[key] = like.new_full(shape, NAN, dtype=torch.float32)
    return images


def encode(encoder: FusionEncoder, images: Batch, *, check: Check | None = None) -> Features:
    """Features of images that are in the bands and the order of the encoder.

    Args:
        encoder: that reads them.
        images: as `images_of` makes them.
        check: of units, instead of the encoder's own.

    Example:
        >>> encoder = FusionEncoder("resnet10t", s1_bands=("VH",))
        >>> encode(encoder, {"image_s1": torch.full((1, 1, 64, 64), -9.0)}).embedding.shape
        torch.Size([1, 512])
    """
    features: Features = encoder(
        s1=images.get(IMAGE_KEYS["s1"]),
        s2=images.get(IMAGE_KEYS["s2"]),
        s1_bands=encoder.bands.get("s1"),
        s2_bands=encoder.bands.get("s2"),
        check=check,
    )
    return features


def observed(image: Tensor) -> Tensor:
    """Patches with a finite value, bool (B,)."""
    return image.isfinite().flatten(1).any(dim=1)


def stacked(first: Batch, second: Batch) -> Batch:
    """Two batches of images as one of 2 B patches, so that an encoder is called once."""
    return {k: torch.cat([first[k], second[k]]) for k in first}


@dataclass(frozen=True, kw_only=True)
class View:
    """One random look at each patch of a batch; every patch gets its own.

    The scale stays: a pixel is 10 m in each view, so windows are cut and not resized.

    Raises:
        ConfigError: a number is out of range.

    Example:
        >>> batch = {"image_s1": torch.full((2, 2, 32, 32), -9.0)}
        >>> View(crop=0.5)(batch, torch.Generator().manual_seed(0))["image_s1"].shape
        torch.Size([2, 2, 16, 16])
    """

    crop: float = 0.75
    """Side of the window as a share of the patch's, never below 16 pixels."""
    turn: bool = True
    """Flips and right angles."""
    looks: float = 20.0
    """Looks of the speckle that multiplies the power of S1; 0 for none."""
    gain_s1: float = 0.5
    """Standard deviation in dB of a shift of S1."""
    gain_s2: float = 0.1
    """Standard deviation of the logarithm of a gain of S2."""
    hiding: Hiding = field(default_factory=lambda: Hiding(bands=0.3, hole=0.2))
    """Sensors, bands and places that a view lacks."""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1 or min(self.looks, self.gain_s1, self.gain_s2) < 0:
            raise ConfigError(
                f"{self}: crop is a share above 0 up to 1, looks and gains are 0 or more."
            )

    def __call__(self, images: Batch, generator: Generator) -> Batch:
        """The view of each patch; a patch with something observed keeps something."""
        seen = self._windows(images, generator)
        s1, s2 = (seen.get(IMAGE_KEYS[s]) for s in SENSORS)
        if s1 is not None:
            seen[IMAGE_KEYS["s1"]] = speckled(s1, self.looks, self.gain_s1, generator)
        if s2 is not None:
            gain = self.gain_s2 * torch.randn(len(s2), 1, 1, 1, generator=generator)
            seen[IMAGE_KEYS["s2"]] = s2 * gain.exp().to(s2.device)
        return self.hiding(seen, generator)

    def _windows(self, images: Batch, generator: Generator) -> Batch:
        """One window of each patch, turned, the same for both sensors."""
        first = next(iter(images.values()))
        count, (height, width) = len(first), first.shape[2:]
        sides = [max(min(MIN_SIZE, n), round(self.crop * n)) for n in (height, width)]
        anywhere = torch.stack([x.isfinite().any(dim=1) for x in images.values()]).any(dim=0)
        corners = [
            (torch.rand(count, generator=generator) * (n - side + 1)).long().to(first.device)
            for n, side in zip((height, width), sides, strict=True)
        ]
        corners = _onto_something(corners, sides, anywhere)
        flips = [self.turn & (torch.rand(count, generator=generator) < 0.5) for _ in range(3)]
        flips = [flip.to(first.device) for flip in flips]
        rows, columns = (
            corner[:, None] + _stretch(side, flip)
            for corner, side, flip in zip(corners, sides, flips, strict=False)
        )
        swap = flips[2] & (sides[0] == sides[1])
        return {k: _window(image, rows, columns, swap) for k, image in images.items()}


def speckled(s1: Tensor, looks: float, gain: float, generator: Generator) -> Tensor:
    """Backscatter in dB under other speckle and shifted by a number a patch.

    The power is multiplied by gamma noise of mean 1 whose shape is the number of looks (Oliver and
    Quegan, *Understanding Synthetic Aperture Radar Images*, 2004, chapter 4).

    Args:
        s1: (B, C, H, W) in dB.
        looks: of the speckle; 0 for none.
        gain: standard deviation of the shift in dB.
        generator: on the CPU.

    Example:
        >>> noisy = speckled(torch.full((1, 2, 64, 64), -10.0), 4, 0, torch.Generator().manual_seed(0))
        >>> bool((10 ** (noisy / 10)).mean().sub(0.1).abs() < 0.003)
        True
    """
    s1 = s1 + gain * torch.randn(len(s1), 1, 1, 1, generator=generator).to(s1.device)
    if not looks:
        return s1
    shape = torch.full_like(s1, looks, dtype=torch.float32)
    # torch.distributions.Gamma draws from torch's own generator only.
    power = torch._standard_gamma(shape, generator=on_device(generator, s1.device)) / looks  # noqa: SLF001
    return s1 + 10 * power.clamp_min(1e-6).log10()


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Two looks at each patch that shall have one embedding.

    Between sensors the first look has one sensor and the second the other, which of them by lot. A
    patch of which only one sensor was observed gives two views of that.

    Example:
        >>> images = {"image_s1": torch.zeros(2, 2, 32, 32), "image_s2": torch.zeros(2, 12, 32, 32)}
        >>> pairs = Pairs(between="sensors")
        >>> one, other, across = pairs(images, torch.Generator().manual_seed(0))
        >>> bool((one["image_s1"].isnan().all() == other["image_s2"].isnan().all()).all()), across
        (True, tensor([True, True]))
    """

    between: Between = "both"
    view: View = field(default_factory=View)

    def __post_init__(self) -> None:
        if self.between not in get_args(Between):
            raise ConfigError(
                f"between={self.between!r}. {nearest(self.between, get_args(Between))}"
            )

    def for_encoder(self, encoder: FusionEncoder) -> Self:
        """Itself, if the encoder reads both sensors where pairs of sensors are asked for.

        Raises:
            ConfigError: it reads one sensor only.
        """
        if self.between == "sensors" and len(encoder.sensors) < len(SENSORS):
            raise ConfigError(
                f"between='sensors', but the encoder reads {' '.join(encoder.sensors)} only. Build "
                "it with bands of both sensors, or pass between='views'."
            )
        return self

    def __call__(self, images: Batch, generator: Generator) -> tuple[Batch, Batch, Tensor]:
        """Both looks, and bool (B,): which patches show one sensor in each."""
        first = next(iter(images.values()))
        across = torch.zeros(len(first), dtype=torch.bool, device=first.device)
        if self.between != "views" and len(images) == len(SENSORS):
            across = torch.stack([observed(x) for x in images.values()]).all(dim=0)
        coins = torch.rand(2, len(first), generator=generator).to(first.device)
        if self.between == "both":
            across &= coins[0] < 0.5
        s1_first = coins[1] < 0.5
        looks = (_without(images, across, s1_first), _without(images, across, ~s1_first))
        one, other = (self.view(look, generator) for look in looks)
        return one, other, across


def _without(images: Batch, across: Tensor, keeps_s1: Tensor) -> Batch:
    """The images, where `across` with only one sensor."""
    kept = {IMAGE_KEYS["s1"]: keeps_s1, IMAGE_KEYS["s2"]: ~keeps_s1}
    return {
        k: x.masked_fill((across & ~kept[k])[:, None, None, None], NAN) for k, x in images.items()
    }


def _onto_something(corners: list[Tensor], sides: list[int], anywhere: Tensor) -> list[Tensor]:
    """Corners of windows, moved where a window saw nothing, so that it shows an observed pixel.

    Args:
        corners: rows and columns of the upper left corners, (B,) each.
        sides: height and width of the windows.
        anywhere: (B, H, W), what was observed.
    """
    rows, columns = (
        c[:, None] + _stretch(n).to(c.device) for c, n in zip(corners, sides, strict=True)
    )
    places = torch.arange(len(anywhere), device=anywhere.device)[:, None, None]
    empty = ~anywhere[places, rows[:, :, None], columns[:, None, :]].flatten(1).any(dim=1)
    pixel = anywhere.flatten(1).int().argmax(dim=1)
    width = anywhere.shape[2]
    moved = [
        torch.maximum(torch.minimum(corner, at), at - side + 1)
        for corner, side, at in zip(corners, sides, (pixel // width, pixel % width), strict=True)
    ]
    return [torch.where(empty, m, c) for m, c in zip(moved, corners, strict=True)]


def _stretch(side: int, flip: Tensor | None = None) -> Tensor:
    """0, 1, ... side - 1, for each patch forwards or backwards: (B, side) or (1, side)."""
    forwards = torch.arange(side)[None]
    if flip is None:
        return forwards
    forwards = forwards.to(flip.device)
    return torch.where(flip[:, None], side - 1 - forwards, forwards)


def _window(image: Tensor, rows: Tensor, columns: Tensor, swap: Tensor) -> Tensor:
    """(B, C, h, w) of (B, C, H, W): rows (B, h) and columns (B, w), transposed where `swap`."""
    places = torch.arange(len(image), device=image.device)[:, None, None, None]
    bands = torch.arange(image.shape[1], device=image.device)[None, :, None, None]
    cut = image[places, bands, rows[:, None, :, None], columns[:, None, None, :]]
    if cut.shape[2] != cut.shape[3]:
        return cut
    return torch.where(swap[:, None, None, None], cut.transpose(2, 3), cut)
