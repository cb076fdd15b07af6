"""`FusionEncoder`: patches of either or both sensors to one embedding and a pyramid of maps."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from deepsentinel.bands import S1_BANDS, S2_BANDS, SENSORS, Sensor, resolve_bands
from deepsentinel.encoders import door
from deepsentinel.encoders.card import Card
from deepsentinel.encoders.door import Check, Empty
from deepsentinel.encoders.fuse import Pool, combine
from deepsentinel.encoders.pretrained import Pretrained
from deepsentinel.encoders.projection import Projection, moments
from deepsentinel.encoders.stems import STATISTICS, Statistics, Stem, entered, place
from deepsentinel.encoders.towers import Fusion, Pyramid, Towed, Towers
from deepsentinel.errors import (
    BackboneError,
    SampleError,
    UnitsWarning,
    UnknownNameError,
    UnusedInputError,
    nearest,
)
from deepsentinel.features import Features
from deepsentinel.sample import IMAGE_KEYS, Batch, batch_bands
from deepsentinel.units import HAZE_FLOOR

WHOLE = 0.25
"""Observed share of a patch from which a sensor counts whole, with `project_sensors`."""


class FusionEncoder(Pretrained):
    """An encoder of Sentinel-1 and Sentinel-2 patches on any timm feature backbone.

    A band or sensor that was not observed is part of the forward pass: it enters as the training
    mean with an observed channel of 0, whichever way it came to be absent (NaN, a band not named,
    a sensor not passed).

    Args:
        backbone: timm model name; `encoders.backbones.FAMILIES` lists the tested families.
        fusion: `"early"`: both sensors in one backbone, the cheapest. `"mid"`: a backbone a
            sensor, maps fused at every level by learned gates that know what was observed.
            `"late"`: a backbone a sensor, maps and embeddings averaged with the observed share as
            weight, so that an absent sensor contributes exactly nothing.
        s1_bands: bands of Sentinel-1 to use, in this order; empty for none (early fusion only).
        s2_bands: bands of Sentinel-2 to use, in this order; empty for none (early fusion only).
        statistics: mean and standard deviation of each band in dB and reflectance.
        embed_dim: project the pooled maps to this size (LayerNorm and Linear); unprojected if
            `None`.
        pool: `"mean"` over observed pixels, or `"mean_std"`, which adds the standard deviation.
        pool_levels: maps that are pooled and concatenated, counted as in a tuple.
        hidden: width of a hidden layer beside the linear projection; none if `None`. Needs
            `embed_dim`.
        moments: project the mean, spread and observed share of every input band too. Needs
            `embed_dim`.
        project_sensors: project what each sensor says on its own and average the embeddings. A
            sensor of which a quarter of the patch or more was observed counts whole, so that
            clouds over a part move nothing but what Sentinel-2 itself says; one that is not passed
            costs nothing. Late fusion only; needs `embed_dim`.
        levels: which maps of the backbone to return, as timm's `out_indices`; all if `None`.
        backbone_options: arguments of the timm model, such as `{"drop_path_rate": 0.1}`; for a
            backbone a sensor also by sensor, `{"s1": {...}, "s2": {...}}`.
        pretrained: start from timm's ImageNet weights, which timm downloads; its first
            convolution is repeated over the channels.
        check: units are checked on `"first"`: every call on CPU, the first per device elsewhere;
            `"always"`; or `"never"`. Never in compiled or exported graphs.
        empty: a patch without an observed value is an `"error"`, or a `"nan"` embedding. Where
            looking would stall, it is NaN too: in compiled and exported graphs, and on an
            accelerator in calls that check nothing.
        card: facts that the architecture cannot tell: name, licence, training, scores.

    Raises:
        BackboneError: the backbone is unknown or fixed to one size, or lacks a pooled level; the
            sensors' backbones do not fit together; or `project_sensors` without late fusion.
        BandError: a band is unknown or has no statistics.
        UnknownNameError: unknown `fusion`, `pool`, `check` or `empty`.

    Example:
        >>> encoder = FusionEncoder("resnet10t", levels=(1, 2, 3)).eval()
        >>> features = encoder(s1=torch.full((1, 2, 33, 17), -12.0))
        >>> features.embedding.shape, [tuple(m.shape) for m in features.maps]
        (torch.Size([1, 256]), [(1, 64, 9, 5), (1, 128, 5, 3), (1, 256, 3, 2)])
    """

    LATER = frozenset({"hidden", "moments", "project_sensors"})

    def __init__(
        self,
        backbone: str,
        *,
        fusion: Fusion = "early",
        s1_bands: Sequence[str] = S1_BANDS,
        s2_bands: Sequence[str] = S2_BANDS,
        statistics: Statistics = STATISTICS,
        embed_dim: int | None = None,
        pool: Pool = "mean",
        pool_levels: Sequence[int] = (-1,),
        hidden: int | None = None,
        moments: bool = False,
        project_sensors: bool = False,
        levels: Sequence[int] | None = None,
        backbone_options: Mapping[str, Any] | None = None,
        pretrained: bool = False,
        check: Check = "first",
        empty: Empty = "error",
        card: Card | None = None,
    ) -> None:
        super().__init__()
        self.fusion: Fusion = _known(fusion, Fusion, "fusion")
        self.pool: Pool = _known(pool, Pool, "pool")
        self.check: Check = _known(check, Check, "check")
        self.empty: Empty = _known(empty, Empty, "empty")
        self._bands = _bands(s1_bands, s2_bands, fusion)
        if project_sensors and fusion != "late":
            raise BackboneError(
                f"project_sensors=True with fusion={fusion!r}: only late fusion has an embedding of "
                'each sensor; pass fusion="late" or leave it out.'
            )
        if project_sensors and embed_dim is None:
            raise BackboneError(
                "project_sensors=True without a projection; pass embed_dim with it."
            )
        self.stems = nn.ModuleDict({s: Stem(b, statistics) for s, b in self._bands.items()})
        self.config: dict[str, Any] = {
            "backbone": backbone,
            "fusion": fusion,
            "s1_bands": list(self._bands.get("s1", ())),
            "s2_bands": list(self._bands.get("s2", ())),
            "statistics": {b: list(map(float, statistics[b])) for b in self._used()},
            "embed_dim": embed_dim,
            "pool": pool,
            "pool_levels": list(pool_levels),
            "hidden": hidden,
            "moments": moments,
            "project_sensors": project_sensors,
            "levels": None if levels is None else list(levels),
            "backbone_options": _plain(backbone_options or {}),
        }
        self._card = card or Card()
        self._checked: set[torch.device] = set()
        self._warned = False
        self.towers = Towers(
            backbone,
            fusion=self.fusion,
            bands={s: len(b) for s, b in self._bands.items()},
            pool=self.pool,
            pool_levels=pool_levels,
            levels=levels,
            options=self.config["backbone_options"],
            pretrained=pretrained,
        )
        width = self.towers.width
        self._embed_dim = embed_dim or width
        self.moments = moments
        read = [[s] for s in self._bands] if project_sensors else [list(self._bands)]
        counts = [sum(len(self._bands[s]) for s in group) for group in read]
        projections = [_projection(width, embed_dim, hidden, n if moments else 0) for n in counts]
        self.project = (
            nn.ModuleDict(dict(zip(self._bands, projections, strict=True)))
            if project_sensors
            else projections[0]
        )

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """Sensors that the encoder can read."""
        return tuple(self._bands)

    @property
    def bands(self) -> dict[Sensor, tuple[str, ...]]:
        """Bands that the encoder uses, by sensor, in its own order."""
        return dict(self._bands)

    @property
    def embed_dim(self) -> int:
        """D of `Features.embedding`."""
        return self._embed_dim

    @property
    def card(self) -> Card:
        """Facts of the encoder; what the architecture tells is read from it, never stated twice."""
        return replace(
            self._card,
            sensors=self.sensors,
            bands=self.bands,
            normalisation={b: _pair(self.config["statistics"][b]) for b in self._used()},
            min_size=door.MIN_SIZE,
            backbone=self.config["backbone"],
            fusion=self.fusion,
            embed_dim=self.embed_dim,
            out_channels=self.out_channels,
            strides=self.strides,
            parameters=sum(p.numel() for p in self.parameters()),
        )

    @card.setter
    def card(self, card: Card) -> None:
        self._card = card

    @property
    def out_channels(self) -> tuple[int, ...]:
        """C_i of `Features.maps`."""
        return self.towers.channels

    @property
    def strides(self) -> tuple[int, ...]:
        """s_i of `Features.maps`."""
        return self.towers.strides

    def forward(
        self,
        s1: Tensor | None = None,
        s2: Tensor | None = None,
        *,
        s1_bands: Sequence[str] | None = None,
        s2_bands: Sequence[str] | None = None,
        month: object = None,
        lonlat: object = None,
        check: Check | None = None,
        empty: Empty | None = None,
    ) -> Features:
        """Features of one batch; either sensor may be `None`.

        Args:
            s1: (B, 2, H, W) backscatter in dB, NaN where not observed.
            s2: (B, 12, H, W) surface reflectance on the 0-1 scale, NaN where not observed.
            s1_bands: bands of `s1` in its order, where they are not VV, VH.
            s2_bands: bands of `s2` in its order, where they are not the 12 of Level-2A.
            month: an error: this encoder has no use for it.
            lonlat: an error: this encoder has no use for it.
            check: instead of the encoder's own.
            empty: instead of the encoder's own.

        Raises:
            ShapeError: rank, size or pairing of the tensors.
            BandError: unknown bands, or none that the encoder uses.
            UnitsError: values that cannot be dB or reflectance.
            NothingObservedError: a patch without an observed value.
            UnusedInputError: `month` or `lonlat`.
        """
        _refuse_unused(month=month, lonlat=lonlat)
        given: dict[Sensor, Tensor] = {}
        if s1 is not None:
            given["s1"] = s1
        if s2 is not None:
            given["s2"] = s2
        door.check_shapes(given)
        wanted: dict[Sensor, Sequence[str] | None] = {"s1": s1_bands, "s2": s2_bands}
        names = {
            s: door.used_bands(s, x.shape[1], wanted[s], self._bands.get(s, ()))
            for s, x in given.items()
        }
        eager = not torch.compiler.is_compiling()
        due = eager and self._due(_known(check or self.check, Check, "check"), given)
        if due:
            self._check_units(given, names)
        embedding, maps, nothing = self._features(self._placed(given, names))
        if eager and (due or nothing.device.type == "cpu"):  # elsewhere a look stalls the device
            if _known(empty or self.empty, Empty, "empty") == "error":
                door.check_observed(nothing)
            if not bool(nothing.any()):
                return Features(embedding, maps, self.strides)
        return Features(*_blanked(embedding, maps, nothing), self.strides)

    def encode(self, batch: Batch) -> Features:
        """Features of a batch as `deepsentinel.collate` makes it.

        Raises:
            SampleError: the batch holds no sensor that the encoder reads.
        """
        images = {s: batch.get(IMAGE_KEYS[s]) for s in self.sensors}
        if all(x is None for x in images.values()):
            keys = " or ".join(IMAGE_KEYS[s] for s in self.sensors)
            raise SampleError(f"the batch has no {keys}; it holds {sorted(batch)}.")
        features: Features = self(
            s1=images.get("s1"),
            s2=images.get("s2"),
            s1_bands=batch_bands(batch, "s1") if images.get("s1") is not None else None,
            s2_bands=batch_bands(batch, "s2") if images.get("s2") is not None else None,
        )
        return features

    @property
    def export_min(self) -> int:
        """Pixels a side from which a graph of any size works."""
        return max(self.towers.divisor, 32) + 1  # layers below the deepest map count too

    def _due(self, check: Check, given: Mapping[Sensor, Tensor]) -> bool:
        device = next(iter(given.values())).device
        first = device.type == "cpu" or device not in self._checked
        due = check == "always" or (check == "first" and first)
        if due:
            self._checked.add(device)
        return due

    def _check_units(
        self, given: Mapping[Sensor, Tensor], names: Mapping[Sensor, tuple[str, ...]]
    ) -> None:
        door.check_units(given)
        if self._warned or "s2" not in given or not door.suspect_offset(given["s2"], names["s2"]):
            return
        self._warned = True
        warnings.warn(
            "most patches of this batch have no dark pixel in B02, B03, B04 (1st percentile above "
            f"{HAZE_FLOOR}): a baseline offset of +1000 may have been left in. Haze, snow and "
            "bright ground look the same. Read with deepsentinel.units.dn_to_reflectance(dn, "
            "offset=-1000) for processing baseline 04.00 and later. Said once per encoder.",
            UnitsWarning,
            stacklevel=4,
        )

    def _placed(
        self, given: Mapping[Sensor, Tensor], names: Mapping[Sensor, tuple[str, ...]]
    ) -> dict[Sensor, Tensor]:
        """Every sensor that the encoder reads, in its band order; an absent one is all NaN.

        Where sensors are projected apart, one that was not passed is left out: it would have no
        weight. In training it is there, so that every parameter has a gradient.
        """
        like = next(iter(given.values()))
        placed: dict[Sensor, Tensor] = {}
        for sensor, bands in self._bands.items():
            if sensor in given:
                placed[sensor] = place(given[sensor], names[sensor], bands)
            elif self.training or not isinstance(self.project, nn.ModuleDict):
                absent = like.new_full((1, 1, 1, 1), float("nan"), dtype=torch.float32)
                placed[sensor] = absent.expand(like.shape[0], len(bands), *like.shape[2:])
        return placed

    def _features(self, placed: Mapping[Sensor, Tensor]) -> tuple[Tensor, Pyramid, Tensor]:
        """Embedding, maps, and for each patch whether it was observed nowhere; tensors only."""
        height, width = next(iter(placed.values())).shape[2:]
        groups = {"both": list(placed)} if self.fusion == "early" else {s: [s] for s in placed}
        channels = {
            name: entered(
                [cast("Stem", self.stems[s]) for s in group],
                [placed[s] for s in group],
                divisor=self.towers.divisor,
            )
            for name, group in groups.items()
        }
        towed = self.towers(channels, dtype=self._dtype)
        embedding = self._embedded(towed, channels, area=height * width)
        return embedding, _cropped(towed.maps, self.strides, (height, width)), _none(towed.seen)

    def _embedded(self, towed: Towed, channels: Mapping[str, Tensor], *, area: int) -> Tensor:
        if isinstance(self.project, nn.ModuleDict):
            each = [
                self._projected(self.project[name], vector, [x], area=area)
                for vector, (name, x) in zip(towed.vectors, channels.items(), strict=True)
            ]
            padded = towed.seen.shape[2] * towed.seen.shape[3]
            weights = [(s * padded / (area * WHOLE)).clamp(max=1) for s in towed.shares]
            return combine(each, weights)
        late = len(towed.vectors) > 1
        vector = combine(towed.vectors, towed.shares) if late else towed.vectors[0]
        return self._projected(self.project, vector, list(channels.values()), area=area)

    def _projected(
        self, project: nn.Module, vector: Tensor, channels: Sequence[Tensor], *, area: int
    ) -> Tensor:
        vector = vector.to(self._dtype)
        extra: tuple[Tensor | None, ...] = ()
        if isinstance(project, Projection):
            extra = (moments(channels, area=area).to(self._dtype) if self.moments else None,)
        embedding: Tensor = project(vector, *extra)
        return embedding

    def _used(self) -> tuple[str, ...]:
        return tuple(name for bands in self._bands.values() for name in bands)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.towers.parameters()).dtype


def _projection(width: int, embed_dim: int | None, hidden: int | None, bands: int) -> nn.Module:
    if hidden is not None and hidden < 1:
        raise BackboneError(f"hidden={hidden}; pass at least 1, or None for a linear projection.")
    if embed_dim is None:
        if hidden or bands:
            raise BackboneError(
                "hidden and moments belong to the projection; pass embed_dim with them."
            )
        return nn.Identity()
    if hidden or bands:
        return Projection(width, embed_dim, hidden=hidden, bands=bands)
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, embed_dim))


def _pair(values: Sequence[float]) -> tuple[float, float]:
    return (values[0], values[1])


def _known(value: Any, choices: Any, argument: str) -> Any:
    if value not in get_args(choices):
        raise UnknownNameError(f"{argument}={value!r}. {nearest(str(value), get_args(choices))}")
    return value


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as `config.json` will give them back."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(options)))
    except TypeError as error:
        raise BackboneError(
            f"backbone_options={dict(options)!r} cannot be saved ({error}); use numbers, strings, "
            "lists and dicts."
        ) from error
    return plain


def _bands(s1: Sequence[str], s2: Sequence[str], fusion: Fusion) -> dict[Sensor, tuple[str, ...]]:
    asked: dict[Sensor, Sequence[str]] = {"s1": s1, "s2": s2}
    found = {s: resolve_bands(asked[s], s) for s in SENSORS if len(asked[s])}
    if not found or (len(found) < 2 and fusion != "early"):
        raise BackboneError(
            f"fusion={fusion!r} with s1_bands={tuple(s1)}, s2_bands={tuple(s2)}: name bands of "
            'both sensors; only fusion="early" can do with one.'
        )
    return found


def _refuse_unused(**inputs: object) -> None:
    for name, value in inputs.items():
        if value is not None:
            raise UnusedInputError(
                f"{name} was given, but this encoder does not know it and will not ignore it "
                "quietly. Leave it out, or choose an encoder whose card lists it."
            )


def _cropped(maps: Pyramid, strides: Sequence[int], size: tuple[int, int]) -> Pyramid:
    """The cells of each map that show the input, not its padding."""
    rows, columns = ([(n + s - 1) // s for s in strides] for n in size)
    if torch.compiler.is_compiling():  # a slice would put bounds on the symbolic size
        return tuple(
            m.index_select(2, torch.arange(h, device=m.device)).index_select(
                3, torch.arange(w, device=m.device)
            )
            for m, h, w in zip(maps, rows, columns, strict=True)
        )
    return tuple(m[:, :, :h, :w] for m, h, w in zip(maps, rows, columns, strict=True))


def _none(seen: Tensor) -> Tensor:
    return seen.amax(dim=(1, 2, 3)) == 0


def _blanked(embedding: Tensor, maps: Pyramid, nothing: Tensor) -> tuple[Tensor, Pyramid]:
    """NaN for patches that were observed nowhere."""
    where = nothing[:, None, None, None]
    blank = tuple(m.masked_fill(where, float("nan")) for m in maps)
    return embedding.masked_fill(nothing[:, None], float("nan")), blank
