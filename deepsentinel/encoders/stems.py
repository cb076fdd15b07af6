"""The door of an encoder: physical values in named bands to normalised channels that know NaN."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepsentinel.errors import BandError

Statistics = Mapping[str, tuple[float, float]]
"""Mean and standard deviation of each band in physical units: dB or reflectance."""

STATISTICS: dict[str, tuple[float, float]] = {
    "VV": (-12.5485, 5.2570),
    "VH": (-20.1924, 5.9115),
    "B01": (0.0752, 0.1108),
    "B02": (0.0884, 0.1155),
    "B03": (0.1144, 0.1184),
    "B04": (0.1297, 0.1368),
    "B05": (0.1625, 0.1370),
    "B06": (0.2194, 0.1356),
    "B07": (0.2422, 0.1417),
    "B08": (0.2518, 0.1475),
    "B8A": (0.2582, 0.1439),
    "B09": (0.2646, 0.1582),
    "B11": (0.2369, 0.1456),
    "B12": (0.1805, 0.1343),
}
"""Global statistics of 50,000 patches of SSL4EO-S12 v1.0 (GRD and Level-2A, no baseline offset),
from its repository (github.com/zhu-xlab/SSL4EO-S12, `ssl4eo_dataset.py`), DN divided by 10000."""


class Exact(nn.Module):
    """A module whose own buffers follow to a device, and stay in the dtype they were made in."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001, FBT002 - nn.Module's signature
        # A mean of -12.55 dB in bfloat16 is -12.56: statistics follow to a device, never to a dtype.
        exact = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        module: Any = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in exact.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        return module  # type: ignore[no-any-return]


class Stem(Exact):
    """Mean and standard deviation of one sensor's bands, with which values enter a backbone.

    Both are buffers, saved with the weights, and stay float32 whatever dtype the encoder is moved
    to. `entered` applies them.

    Args:
        bands: Copernicus names in the order of the channels.
        statistics: mean and standard deviation of at least these bands.

    Raises:
        BandError: a band has no statistics, or a standard deviation is not positive.

    Example:
        >>> Stem(("VH",), {"VV": (-12.0, 4.0), "VH": (-20.0, 5.0)}).mean.flatten().tolist()
        [-20.0]
    """

    mean: Tensor
    std: Tensor

    def __init__(self, bands: Sequence[str], statistics: Statistics) -> None:
        super().__init__()
        self.bands = tuple(bands)
        pairs = [_pair(name, statistics) for name in self.bands]
        self.register_buffer("mean", torch.tensor([m for m, _ in pairs])[:, None, None])
        self.register_buffer("std", torch.tensor([s for _, s in pairs])[:, None, None])


def entered(stems: Sequence[Stem], values: Sequence[Tensor], *, divisor: int = 1) -> Tensor:
    """Physical values to what a backbone reads: normalised channels that know NaN.

    What was not observed (NaN or infinite) is 0 after normalisation, that is the training mean,
    and 0 in its observed channel; so is the padding to multiples of `divisor`, right and below.

    Args:
        stems: of the sensors that enter together.
        values: (B, bands, H, W) of each, in physical units, float32.
        divisor: of the backbone.

    Returns:
        (B, 2 * all bands, H', W') float32: the normalised bands of all sensors, then one observed
        channel for each, 1 or 0.

    Example:
        >>> stem = Stem(("VV", "VH"), {"VV": (-12.0, 4.0), "VH": (-20.0, 4.0)})
        >>> pixel = torch.tensor([float("nan"), -16.0]).view(1, 2, 1, 1)
        >>> entered([stem], [pixel]).flatten().tolist()
        [0.0, 1.0, 0.0, 1.0]
    """
    std = torch.cat([stem.std for stem in stems])
    mean = torch.cat([stem.mean for stem in stems])
    scale = torch.cat([1 / std, torch.zeros_like(std)])
    shift = torch.cat([-mean / std, torch.ones_like(mean)])
    # The observed channels are 0 * value + 1: NaN where the value is NaN or infinite, then 0. In
    # place, because at full resolution every new tensor costs more than the arithmetic.
    channels = _padded(torch.cat([*values, *values], dim=1), divisor)
    return channels.mul_(scale).add_(shift).nan_to_num_(0.0, 0.0, 0.0)


def _padded(x: Tensor, divisor: int) -> Tensor:
    height, width = x.shape[2:]
    below = (height + divisor - 1) // divisor * divisor - height
    right = (width + divisor - 1) // divisor * divisor - width
    if torch.compiler.is_compiling() or below or right:  # no branch on a symbolic size
        return F.pad(x, (0, right, 0, below), value=float("nan"))
    return x


def place(values: Tensor, names: Sequence[str], bands: Sequence[str]) -> Tensor:
    """Values (B, len(names), H, W) in another band order, float32; bands not named are NaN.

    Example:
        >>> place(torch.ones(1, 1, 1, 2), ("B03",), ("B02", "B03"))[0, :, 0].tolist()
        [[nan, nan], [1.0, 1.0]]
    """
    if tuple(names) == tuple(bands):
        return values.float()
    absent = torch.full_like(values[:, :1], float("nan"), dtype=torch.float32)
    where = {name: i for i, name in enumerate(names)}
    planes = [values[:, where[b]].unsqueeze(1).float() if b in where else absent for b in bands]
    return torch.cat(planes, dim=1)


def _pair(name: str, statistics: Statistics) -> tuple[float, float]:
    if name not in statistics:
        raise BandError(
            f"no statistics for band {name}; known: {' '.join(statistics)}. Pass "
            "statistics={band: (mean, std), ...} in dB and reflectance, as `deepsentinel stats` "
            "prints them for your corpus."
        )
    mean, std = statistics[name]
    if not std > 0:
        raise BandError(
            f"statistics[{name!r}] has standard deviation {std!r}; it must be positive."
        )
    return float(mean), float(std)
