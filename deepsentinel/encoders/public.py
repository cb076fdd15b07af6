"""What encoders around public networks share: entry of values, resizing, late fusion, loading."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepsentinel.bands import Sensor
from deepsentinel.encoders.card import Card
from deepsentinel.encoders.door import Check, Empty
from deepsentinel.encoders.fuse import combine, presence
from deepsentinel.encoders.published import (
    PublishedEncoder,
    Pyramid,
    Values,
    cells_along,
    one_of,
    pad_to,
    present,
)
from deepsentinel.encoders.scaling import GRD_GAIN, GRD_NOISE, Scaling, scaling
from deepsentinel.encoders.stems import Exact, Stem
from deepsentinel.encoders.weights import load_strictly
from deepsentinel.errors import WeightsError

Weights = Mapping[str, Any]
"""Tensors by name, possibly in named groups, as a published file holds them."""
Join = Literal["mean", "concat"]

ADVICE = "Load the file that the row names; its keys and shapes must be exactly these."


class Entry(Stem):
    """One sensor's values as published weights want to see them.

    Example:
        >>> entry = Entry(scaling("softcon")["s1"])
        >>> entry(torch.tensor([-12.59, float("nan")]).view(1, 2, 1, 1)).flatten().tolist()
        [0.5, 0.5]
    """

    fill: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, facts: Scaling) -> None:
        pairs = zip(facts.shift, facts.scale, strict=True)
        super().__init__(facts.bands, dict(zip(facts.bands, pairs, strict=True)))
        self.register_buffer("fill", torch.tensor(facts.fill)[:, None, None])
        self.amplitude = facts.rule == "amplitude"
        self.clipped = facts.limits is not None
        for name, limit in zip(("low", "high"), facts.limits or (), strict=False):
            self.register_buffer(name, torch.tensor(limit)[:, None, None])

    def forward(self, values: Tensor) -> Tensor:
        """(B, bands, H, W) without NaN; what was not observed is the scaled training mean."""
        observed = values.isfinite()
        if self.amplitude:
            values = digital_numbers(values.masked_fill(~observed, 0.0))
        scaled = (values - self.mean) / self.std
        if self.clipped:
            scaled = scaled.clamp(self.low, self.high)
        return torch.where(observed, scaled, self.fill)


def digital_numbers(decibels: Tensor) -> Tensor:
    """Calibrated backscatter in dB as the digital numbers of an uncalibrated IW GRD, mid-swath.

    Example:
        >>> digital_numbers(torch.tensor([-100.0, -12.0])).round().tolist()
        [48.0, 159.0]
    """
    return GRD_GAIN * (10 ** (decibels / 10) + GRD_NOISE).sqrt()


class Constants(Exact):
    """Tensors by name that a network computes with, in no file, float32 in any dtype.

    Example:
        >>> Constants({"s1": torch.ones(2)}).to(torch.bfloat16)["s1"].dtype
        torch.float32
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    def __getitem__(self, name: str) -> Tensor:
        return self.get_buffer(name)


class PublicEncoder(PublishedEncoder):
    """An encoder around a public network, with any number of maps.

    A subclass also keeps an `Entry` a sensor in `stems`, and renames published tensors.
    """

    stems: nn.ModuleDict

    def __init__(
        self,
        *,
        width: int,
        stride: int,
        scaling_name: str,
        check: Check,
        empty: Empty,
        card: Card | None,
    ) -> None:
        super().__init__(width=width, stride=stride, check=check, empty=empty, card=card)
        self.stems = nn.ModuleDict({s: Entry(x) for s, x in scaling(scaling_name).items()})

    def load_published(self, published: Mapping[str, Weights], *, origin: str) -> Self:
        """Fill the network with published tensors, every key accounted for; eval mode.

        Args:
            published: contents of the files: `s1` and `s2` of two towers, else `both`.
            origin: where they come from, for the message.

        Raises:
            WeightsError: keys or shapes differ; the message lists them.
        """
        own = self._renamed(published) | self.stems.state_dict(prefix="stems.")
        load_strictly(self, own, origin=origin, advice=ADVICE)
        return self.eval()

    @abstractmethod
    def _renamed(self, published: Mapping[str, Weights]) -> dict[str, Tensor]:
        """Published tensors under our names."""

    def _entered(self, sensor: Sensor, values: Tensor, size: int | None = None) -> Tensor:
        """What the network reads of one sensor, in its own dtype, resized to `size` if given."""
        scaled: Tensor = self.stems[sensor](values)
        return (scaled if size is None else resized(scaled, size)).to(self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


class LateFusion:
    """Vectors and maps of both sensors joined by what each one saw.

    `mean` takes the mean of the sensors that saw something in the patch; in a map, each place is
    weighted by how much of it was observed. `concat` puts both side by side, zeros for a sensor that
    saw nothing in the patch, then one flag a sensor, 1 where it saw something.

    Args:
        join: `"mean"` or `"concat"`.

    Raises:
        UnknownNameError: another `join`.

    Example:
        >>> join, seen = LateFusion("concat"), torch.tensor([True])
        >>> join.vector({"s2": torch.ones(1, 2)}, {"s2": seen})
        tensor([[0., 0., 1., 1., 0., 1.]])
    """

    def __init__(self, join: Join) -> None:
        self.join: Join = one_of(join, Join, "fusion")

    def width(self, channels: int) -> int:
        """Channels of what two parts of this many channels are joined to."""
        return channels if self.join == "mean" else 2 * channels + 2

    def vector(self, parts: Mapping[Sensor, Tensor], seen: Mapping[Sensor, Tensor]) -> Tensor:
        """(B, D) of each sensor, and bool (B,), to (B, width)."""
        weights = {s: seen[s][:, None].float() for s in parts}
        if self.join == "mean":
            return combine(list(parts.values()), list(weights.values()))
        return _side_by_side(parts, weights)

    def maps(
        self, parts: Mapping[Sensor, Pyramid], values: Values, strides: Sequence[int]
    ) -> Pyramid:
        """Pyramids of each sensor joined, level by level."""
        seen = {s: present(values[s])[:, None, None, None].float() for s in parts}
        levels = range(len(strides))
        if self.join == "concat":
            return tuple(_side_by_side({s: p[i] for s, p in parts.items()}, seen) for i in levels)
        shares = {s: cell_shares(values[s], strides) for s in parts}
        return tuple(
            combine(
                [p[i] for p in parts.values()],
                [shares[s][i] + _LEAST * seen[s] for s in parts],
            )
            for i in levels
        )


_LEAST = 1e-3  # where no sensor saw the place, all that saw the patch count alike


def _side_by_side(parts: Mapping[Sensor, Tensor], weights: Mapping[Sensor, Tensor]) -> Tensor:
    like, weight = next(iter(parts.values())), next(iter(weights.values()))
    sensors: tuple[Sensor, ...] = get_args(Sensor)
    halves = [
        parts[s] * weights[s].to(like.dtype) if s in parts else torch.zeros_like(like)
        for s in sensors
    ]
    flags = [weights[s] if s in parts else torch.zeros_like(weight) for s in sensors]
    return torch.cat([*halves, *(f.to(like.dtype).expand_as(like[:, :1]) for f in flags)], dim=1)


def cell_shares(values: Tensor, strides: Sequence[int]) -> Pyramid:
    """Share of pixels observed in any band, for the cells of maps with these strides.

    Example:
        >>> x = torch.tensor([[[[1.0, float("nan"), 2.0]]]])
        >>> cell_shares(x, (2,))[0]
        tensor([[[[0.2500, 0.2500]]]])
    """
    seen = values.isfinite().any(dim=1, keepdim=True).float()
    divisor = max(strides)
    padded = pad_to(seen, divisor).nan_to_num(0.0)
    H, W = values.shape[-2:]
    return tuple(
        cropped(share, cells_along(H, s), cells_along(W, s))
        for share, s in zip(presence(padded, strides), strides, strict=True)
    )


def cropped(values: Tensor, rows: int, columns: int) -> Tensor:
    """The first rows and columns of a map; by index while a graph is traced, which a slice bounds."""
    if torch.compiler.is_compiling():
        rows_at = torch.arange(rows, device=values.device)
        return values.index_select(2, rows_at).index_select(
            3, torch.arange(columns, device=values.device)
        )
    return values[:, :, :rows, :columns]


def resized(values: Tensor, size: int) -> Tensor:
    """(B, C, H, W) as (B, C, size, size): bilinear, smoothed where it shrinks.

    Example:
        >>> resized(torch.ones(1, 1, 3, 5), 4).shape
        torch.Size([1, 1, 4, 4])
    """
    if not torch.compiler.is_compiling() and values.shape[-2:] == (size, size):
        return values
    return F.interpolate(values, (size, size), mode="bilinear", antialias=True)


def regridded(values: Tensor, height: int, width: int, stride: int) -> Tensor:
    """A map of a resized patch at the caller's size: (B, C, ceil(height / stride), ...).

    Example:
        >>> regridded(torch.ones(1, 1, 14, 14), 33, 224, 16).shape
        torch.Size([1, 1, 3, 14])
    """
    size = (cells_along(height, stride), cells_along(width, stride))
    if not torch.compiler.is_compiling() and values.shape[-2:] == size:
        return values
    grid = F.interpolate(values.float(), size, mode="bilinear", antialias=True)
    return grid.to(values.dtype)


def tokens_to_map(tokens: Tensor, side: int) -> Tensor:
    """Tokens (B, side * side, D), row by row, as a map (B, D, side, side).

    Example:
        >>> tokens_to_map(torch.zeros(1, 4, 3), 2).shape
        torch.Size([1, 3, 2, 2])
    """
    channels_first = tokens.transpose(1, 2).contiguous()
    return channels_first.view(*channels_first.shape[:2], side, side)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a published file, groups flattened; nothing in it is executed.

    Raises:
        WeightsError: it is damaged, or holds more than tensors.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, EOFError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise WeightsError(
            f"{path.name} is no file of tensors that can be trusted: {reason}"
        ) from error
    tensors = flat(found) if isinstance(found, Mapping) else {}
    if not tensors or not all(isinstance(x, Tensor) for x in tensors.values()):
        raise WeightsError(f"{path.name} holds a {type(found).__name__}; expected tensors by name.")
    return tensors


def flat(weights: Weights, prefix: str = "") -> dict[str, Tensor]:
    """Tensors of named groups under one name each.

    Example:
        >>> list(flat({"a": {"b": torch.zeros(1)}, "c": torch.zeros(1)}))
        ['a.b', 'c']
    """
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        found |= (
            flat(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else {prefix + name: value}
        )
    return found


def without_head(
    tensors: Mapping[str, Tensor], width: int, *, heads: Sequence[str], norm: str
) -> dict[str, Tensor]:
    """Tensors without a classifier, and with the last norm where the file has none at all.

    Some files were published without their last layer norm, which then is plain: weight 1, bias 0,
    as torchgeo loads them too. Half of a norm is left for the strict comparison to find.

    Example:
        >>> found = without_head({"head.bias": torch.zeros(1)}, 2, heads=("head",), norm="norm")
        >>> sorted(found)
        ['norm.bias', 'norm.weight']
    """
    dropped = {f"{h}.{part}" for h in heads for part in ("weight", "bias")}
    kept = {k: v for k, v in tensors.items() if k not in dropped}
    if f"{norm}.weight" not in kept and f"{norm}.bias" not in kept:
        kept[f"{norm}.weight"], kept[f"{norm}.bias"] = torch.ones(width), torch.zeros(width)
    return kept
