"""What encoders with published weights share: the door, extra inputs, and the files."""

import hashlib
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn

from deepsentinel.bands import Sensor
from deepsentinel.encoders import door
from deepsentinel.encoders.card import Card
from deepsentinel.encoders.door import Check, Empty
from deepsentinel.encoders.pretrained import Pretrained
from deepsentinel.encoders.stems import place
from deepsentinel.encoders.transformer import month_index, unit_sphere
from deepsentinel.errors import (
    SampleError,
    UnknownNameError,
    UnusedInputError,
    WeightsError,
    nearest,
)
from deepsentinel.features import Features
from deepsentinel.sample import IMAGE_KEYS, Batch, batch_bands

Pyramid = tuple[Tensor, ...]
Values = dict[Sensor, Tensor]
"""Physical values (B, bands, H, W) in the encoder's band order, NaN where not observed."""

ADVICE = "Load the file that the row names, or build the encoder with its sizes."
"""What to do about weights that do not fit."""


@dataclass(frozen=True)
class Extras:
    """Extra inputs of a call, checked."""

    month: Tensor | None
    """int64 (B,), from 0."""
    lonlat: Tensor | None
    """(B, 2) degrees, longitude first."""


class PublishedEncoder(Pretrained):
    """An encoder with published weights.

    A subclass names its bands and the extra inputs that it knows, and turns placed values into an
    embedding and a pyramid; this class checks and orders what comes in, and treats patches in
    which nothing was observed.

    Args:
        width: D of the embedding and of the map.
        stride: of the map, in pixels.
        check: units are checked on `"first"` (every call on CPU, the first per device elsewhere),
            `"always"` or `"never"`.
        empty: a patch without an observed value is an `"error"`, or a `"nan"` embedding and map.
        card: facts that the architecture cannot tell.
    """

    INPUTS: ClassVar[frozenset[str]] = frozenset()
    """Extra inputs that the network knows, of `month` and `lonlat`."""
    BANDS: ClassVar[Mapping[Sensor, tuple[str, ...]]]
    """Bands that the weights use, in their order."""

    def __init__(
        self, *, width: int, stride: int, check: Check, empty: Empty, card: Card | None
    ) -> None:
        super().__init__()
        self.check = one_of(check, Check, "check")
        self.empty = one_of(empty, Empty, "empty")
        self._card = card or Card()
        self._width = width
        self._stride = stride
        self._checked: set[torch.device] = set()

    @property
    def card(self) -> Card:
        """Facts of the encoder; what the architecture tells is read from it, never stated twice."""
        return replace(
            self._card,
            sensors=self.sensors,
            bands=self.bands,
            min_size=door.MIN_SIZE,
            embed_dim=self.embed_dim,
            out_channels=self.out_channels,
            strides=self.strides,
            parameters=sum(p.numel() for p in self.parameters()),
        )

    @card.setter
    def card(self, card: Card) -> None:
        self._card = card

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """Sensors that the encoder can read."""
        return tuple(self.BANDS)

    @property
    def bands(self) -> dict[Sensor, tuple[str, ...]]:
        """Bands that the encoder uses, by sensor, in its own order."""
        return dict(self.BANDS)

    @property
    def embed_dim(self) -> int:
        """D of `Features.embedding`."""
        return self._width

    @property
    def out_channels(self) -> tuple[int, ...]:
        """C_i of `Features.maps`: one map."""
        return (self._width,)

    @property
    def strides(self) -> tuple[int, ...]:
        """s_i of `Features.maps`: one map."""
        return (self._stride,)

    def forward(
        self,
        s1: Tensor | None = None,
        s2: Tensor | None = None,
        *,
        s1_bands: Sequence[str] | None = None,
        s2_bands: Sequence[str] | None = None,
        month: int | Tensor | None = None,
        lonlat: Tensor | None = None,
        check: Check | None = None,
        empty: Empty | None = None,
    ) -> Features:
        """Features of one batch; either sensor may be `None`.

        Args:
            s1: (B, 2, H, W) backscatter in dB, NaN where not observed.
            s2: (B, 12, H, W) reflectance on the 0-1 scale, NaN where not observed.
            s1_bands: bands of `s1` in its order, where they are not VV, VH.
            s2_bands: bands of `s2` in its order, where they are not the 12 of Level-2A.
            month: calendar month 1-12, one int or integers (B,), where the card lists it.
            lonlat: (B, 2) degrees, longitude first, where the card lists it.
            check: instead of the encoder's own.
            empty: instead of the encoder's own.

        Raises:
            ShapeError: rank, size or pairing of the tensors; a month or place that cannot be.
            BandError: unknown bands, or none that the encoder uses.
            UnitsError: values that cannot be dB or reflectance.
            NothingObservedError: a patch without an observed value.
            UnusedInputError: `month` or `lonlat`, where the card does not list it.
        """
        self._refuse_unused(month=month, lonlat=lonlat)
        given: Values = {s: x for s, x in (("s1", s1), ("s2", s2)) if x is not None}  # type: ignore[misc]
        door.check_shapes(given)
        named = {"s1": s1_bands, "s2": s2_bands}
        names = {
            s: door.used_bands(s, x.shape[1], named[s], self.BANDS.get(s, ()))
            for s, x in given.items()
        }
        if not torch.compiler.is_compiling():
            self._check(given, one_of(check or self.check, Check, "check"))
        first = next(iter(given.values()))
        extras = _extras(month, lonlat, first)
        placed = {s: place(x, names[s], self.BANDS[s]) for s, x in given.items()}
        values = {s: x.masked_fill(~x.isfinite(), float("nan")) for s, x in placed.items()}
        nothing = ~torch.stack([present(x) for x in values.values()]).any(dim=0)
        embedding, maps = self._encode(values, extras)
        self._judge(nothing, one_of(empty or self.empty, Empty, "empty"))
        where = nothing[:, None, None, None]
        return Features(
            embedding.masked_fill(nothing[:, None], float("nan")),
            tuple(m.masked_fill(where, float("nan")) for m in maps),
            self.strides,
        )

    def encode(
        self, batch: Batch, *, month: int | Tensor | None = None, lonlat: Tensor | None = None
    ) -> Features:
        """Features of a batch as `deepsentinel.collate` makes it; sensors not read are left out.

        Raises:
            SampleError: the batch holds no sensor that the encoder reads.
        """
        read = {s: batch[IMAGE_KEYS[s]] for s in self.BANDS if IMAGE_KEYS[s] in batch}
        if not read:
            wanted = " or ".join(IMAGE_KEYS[s] for s in self.BANDS)
            raise SampleError(f"the batch has no {wanted}; it holds {sorted(batch)}.")
        features: Features = self(
            **read,
            **{f"{s}_bands": batch_bands(batch, s) for s in read},
            month=month,
            lonlat=lonlat,
        )
        return features

    @abstractmethod
    def _encode(self, values: Values, extras: Extras) -> tuple[Tensor, Pyramid]:
        """Embedding (B, D) and maps of placed values, NaN where not observed."""

    def _refuse_unused(self, **inputs: object) -> None:
        for name, value in inputs.items():
            if value is not None and name not in self.INPUTS:
                raise UnusedInputError(
                    f"{name} was given, but this encoder does not know it and will not ignore it "
                    "quietly. Leave it out, or choose an encoder whose card lists it."
                )

    def _check(self, given: Values, check: Check) -> None:
        device = next(iter(given.values())).device
        seen = device.type != "cpu" and device in self._checked
        if check == "never" or (check == "first" and seen):
            return
        self._checked.add(device)
        door.check_units(given)

    def _judge(self, nothing: Tensor, empty: Empty) -> None:
        if empty == "error" and not torch.compiler.is_compiling() and nothing.device.type == "cpu":
            door.check_observed(nothing)


def pad_to(values: Tensor, divisor: int) -> Tensor:
    """Values (B, C, H, W) with NaN to the right and below, up to multiples of `divisor`.

    Example:
        >>> pad_to(torch.zeros(1, 1, 5, 8), 4).shape
        torch.Size([1, 1, 8, 8])
    """
    H, W = values.shape[-2:]
    below = cells_along(H, divisor) * divisor - H
    right = cells_along(W, divisor) * divisor - W
    if torch.compiler.is_compiling() or below or right:
        return nn.functional.pad(values, (0, right, 0, below), value=float("nan"))
    return values


def cells_along(size: int, stride: int) -> int:
    """Cells of `stride` pixels that cover `size` pixels.

    Example:
        >>> cells_along(17, 8)
        3
    """
    return (size + stride - 1) // stride


def read_published(path: str | Path, sha256: str | None) -> dict[str, Tensor]:
    """Tensors of a `.pt` file, after its hash was verified; nothing in it is executed.

    Raises:
        WeightsError: there is no such file, its hash is another, or it holds more than tensors.
    """
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"no weights at {file}; pass the path of the published file.")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if sha256 is not None and found != sha256:
        raise WeightsError(
            f"{file} has sha256 {found}; expected {sha256}. Download it again, or pass sha256= of "
            "the version that you trust."
        )
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except (UnpicklingError, EOFError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise WeightsError(f"{file} is no file of tensors that can be trusted: {reason}") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(x, Tensor) for x in tensors.values()):
        raise WeightsError(f"{file} holds a {type(tensors).__name__}; expected tensors by name.")
    return dict(tensors)


def require(published: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Raise unless these tensors, which tell the sizes of the network, are in the file.

    Raises:
        WeightsError: naming those that are missing.
    """
    missing = [name for name in names if name not in published]
    if missing:
        raise WeightsError(
            f"the weights lack {', '.join(missing)}; they hold {len(published)} tensors such as "
            f"{', '.join(sorted(published)[:3])}. Load the file that the row names."
        )


def fuse_qkv(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Separate query, key and value layers as the one `qkv` layer that `Attention` has.

    Example:
        >>> one = torch.ones(2)
        >>> fuse_qkv({"attn.q.bias": one, "attn.k.bias": one * 2, "attn.v.bias": one * 3})
        {'attn.qkv.bias': tensor([1., 1., 2., 2., 3., 3.])}
    """
    fused = {k: v for k, v in published.items() if not re.search(r"attn\.[qkv]\.", k)}
    for name in published:
        if "attn.q." in name:
            require(published, names := [name.replace("attn.q.", f"attn.{x}.") for x in "qkv"])
            fused[name.replace("attn.q.", "attn.qkv.")] = torch.cat([published[n] for n in names])
    return fused


def present(values: Tensor) -> Tensor:
    """Whether each patch of (B, C, H, W) holds a finite value, bool (B,).

    Example:
        >>> present(torch.tensor([1.0, float("nan")]).view(2, 1, 1, 1)).tolist()
        [True, False]
    """
    return values.isfinite().flatten(1).any(dim=1)


def _extras(month: int | Tensor | None, lonlat: Tensor | None, like: Tensor) -> Extras:
    count, device = like.shape[0], like.device
    months = None if month is None else month_index(month, count, device)
    if lonlat is not None:
        lonlat = torch.as_tensor(lonlat, device=device)  # a list of pairs does too
        unit_sphere(lonlat, count)  # raises where it is no place on earth
    return Extras(months, lonlat)


def month_and_place(extras: Extras, values: Values) -> tuple[Tensor, Tensor | None]:
    """Months (B,) from 0, June where none was given, and places on the unit sphere (B, 3)."""
    first = next(iter(values.values()))
    months = extras.month
    if months is None:
        months = month_index(None, first.shape[0], first.device)
    lonlat = extras.lonlat
    return months, None if lonlat is None else unit_sphere(lonlat, first.shape[0])


def one_of(value: Any, choices: Any, argument: str) -> Any:
    """The value of an argument, which must be one of a `Literal`'s.

    Raises:
        UnknownNameError: it is not; the choices are listed.
    """
    if value not in get_args(choices):
        raise UnknownNameError(f"{argument}={value!r}. {nearest(str(value), get_args(choices))}")
    return value
