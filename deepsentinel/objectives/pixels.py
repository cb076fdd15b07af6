"""What objectives that draw pixels share: normalised targets, decoders, losses over observed values."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepsentinel.bands import SENSORS, Sensor
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.features import Features
from deepsentinel.heads.neck import cells, resample
from deepsentinel.sample import IMAGE_KEYS, Batch

RGB = ("B04", "B03", "B02")
RGB_TOP = 0.3
"""Reflectance that is drawn white."""
DB_SHOWN = (-25.0, 0.0)
"""Backscatter that is drawn black and white."""


def statistics(encoder: FusionEncoder) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of all bands that an encoder reads, (C, 1, 1) each, S1 first.

    Example:
        >>> mean, std = statistics(FusionEncoder("resnet10t", s1_bands=("VV",), s2_bands=("B02",)))
        >>> mean.flatten().tolist(), std.shape
        ([-12.548..., 0.0883...], torch.Size([2, 1, 1]))
    """
    known = encoder.card.normalisation
    pairs = torch.tensor([known[b] for s in encoder.sensors for b in encoder.bands[s]])
    return pairs[:, 0, None, None], pairs[:, 1, None, None]


def together(images: Batch) -> Tensor:
    """Images of all sensors as one, (B, C, H, W), S1 first.

    Example:
        >>> together({"image_s2": torch.zeros(1, 12, 4, 4), "image_s1": torch.zeros(1, 2, 4, 4)}).shape
        torch.Size([1, 14, 4, 4])
    """
    return torch.cat([images[IMAGE_KEYS[s]] for s in SENSORS if IMAGE_KEYS[s] in images], dim=1)


def apart(values: Tensor, encoder: FusionEncoder) -> dict[Sensor, Tensor]:
    """The other way: channels by sensor."""
    counts = [len(encoder.bands[s]) for s in encoder.sensors]
    return dict(zip(encoder.sensors, torch.split(values, counts, dim=1), strict=True))


def mean_over(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of the values where `counted`; 0 where nothing is.

    Example:
        >>> mean_over(torch.tensor([1.0, 9.0, 5.0]), torch.tensor([True, False, True])).item()
        3.0
    """
    return torch.where(counted, values, 0.0).sum() / counted.sum().clamp_min(1)


class PixelDecoder(nn.Module):
    """The maps of an encoder, fine and coarse, and its embedding to an image of the same size.

    From the coarsest stride to the finest, maps of a stride are projected, added to what comes
    from below and mixed by a 3 x 3 convolution, as in U-Nets and feature pyramids; the last stride is
    undone by a pixel shuffle. Works for any strides, so for ConvNets and for plain ViTs.

    Args:
        encoder: whose features come in.
        channels: of the image.
        width: of the layers between.

    Example:
        >>> encoder = FusionEncoder("resnet10t")
        >>> decoder = PixelDecoder(encoder, 3)
        >>> decoder(encoder(s1=torch.full((2, 2, 61, 50), -9.0)), (61, 50)).shape
        torch.Size([2, 3, 61, 50])
    """

    def __init__(self, encoder: FusionEncoder, channels: int, *, width: int = 64) -> None:
        super().__init__()
        self.strides = tuple(sorted(set(encoder.strides), reverse=True))
        self.of = encoder.strides
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in encoder.out_channels)
        self.context = nn.Linear(encoder.embed_dim, width)
        self.mix = nn.ModuleList(_mixer(width) for _ in self.strides)
        self.out = nn.Conv2d(width, channels * self.strides[-1] ** 2, 1)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """(B, channels, H, W) of features of patches of `size` = (H, W)."""
        laterals = [f(m) for f, m in zip(self.laterals, features.maps, strict=True)]
        below, last = self.context(features.embedding)[:, :, None, None], 0
        for stride, mix in zip(self.strides, self.mix, strict=True):
            here = torch.stack(
                [m for m, s in zip(laterals, self.of, strict=True) if s == stride]
            ).sum(dim=0)
            if last:
                below = resample(below, last, stride, *here.shape[-2:])
            below, last = mix(here + below), stride
        return F.pixel_shuffle(self.out(below), last)[..., : size[0], : size[1]]


class VectorDecoder(nn.Module):
    """One vector to an image of any size: a learned grid, stretched, convolved, shuffled to pixels.

    Args:
        inputs: D of the vector.
        channels: of the image.
        width: of the layers between.

    Example:
        >>> VectorDecoder(16, 3)(torch.zeros(2, 16), (40, 33)).shape
        torch.Size([2, 3, 40, 33])
    """

    GRID = 8
    STRIDE = 4

    def __init__(self, inputs: int, channels: int, *, width: int = 64) -> None:
        super().__init__()
        self.width = width
        self.grid = nn.Linear(inputs, width * self.GRID**2)
        self.coarse, self.fine = _mixer(width), _mixer(width)
        self.out = nn.Conv2d(width, channels * self.STRIDE**2, 1)

    def forward(self, vectors: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, channels, H, W) of (B, D)."""
        grid = self.grid(vectors).reshape(-1, self.width, self.GRID, self.GRID)
        maps = grid
        for stride, mix in ((2 * self.STRIDE, self.coarse), (self.STRIDE, self.fine)):
            wanted = [cells(n, stride) for n in size]
            maps = mix(F.interpolate(maps, size=wanted, mode="bilinear", align_corners=False))
        return F.pixel_shuffle(self.out(maps), self.STRIDE)[..., : size[0], : size[1]]


def pictures(values: Tensor, encoder: FusionEncoder) -> dict[str, Tensor]:
    """Physical values of all bands as pictures: `s2` in true colour, `s1` as VV, VH, VV.

    Args:
        values: (B, C, H, W), bands of the encoder, S1 first; NaN is drawn grey.
        encoder: whose bands they are.

    Returns:
        float (B, 3, H, W) from 0 to 1, for each sensor that has the bands.
    """
    shown: dict[str, Tensor] = {}
    for sensor, part in apart(values, encoder).items():
        bands = encoder.bands[sensor]
        wanted: Sequence[str] = RGB if sensor == "s2" else (bands[0], bands[-1], bands[0])
        if not set(wanted) <= set(bands):
            continue
        low, high = (0.0, RGB_TOP) if sensor == "s2" else DB_SHOWN
        scaled = (part[:, [bands.index(b) for b in wanted]] - low) / (high - low)
        shown[sensor] = scaled.detach().float().nan_to_num(0.5).clamp(0, 1)
    return shown


def _mixer(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.GroupNorm(8 if width % 8 == 0 else 1, width),
        nn.Conv2d(width, width, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.GELU(),
    )
