"""What a dataset was asked to read, checked once against what its corpus holds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from deepsentinel.bands import SENSORS, Sensor, band, check_sensors, resolve_bands
from deepsentinel.corpus.format import EXTRAS, CorpusInfo, LabelSpec
from deepsentinel.errors import BandError, LabelError, UnknownNameError, nearest

BandsLike: TypeAlias = Mapping[Sensor, Sequence[str]] | Sequence[str] | None
Clouds = Literal["nan", "keep"]

LABEL_KEYS: dict[str, str] = {
    "mask": "mask",
    "label": "label",
    "multilabel": "label",
    "boxes": "label",
    "target": "target",
}
"""Key of the sample that each kind of label fills; boxes fill `bbox_xyxy` too."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to read of every patch."""

    bands: Mapping[Sensor, tuple[str, ...]]
    """Bands to read, by sensor, in the order of the tensors; its keys are the sensors."""
    labels: tuple[LabelSpec, ...]
    extras: tuple[str, ...]
    """Which of `cloud` and `dem` become part of the sample."""
    hide_clouds: bool
    """Whether S2 is NaN under clouds and shadows."""

    @property
    def rasters(self) -> tuple[str, ...]:
        """Rasters to read beside the sensors."""
        names = [spec.name for spec in self.labels if spec.is_raster] + list(self.extras)
        hidden = ["cloud"] if self.hide_clouds and "cloud" not in names else []
        return (*names, *hidden)


def check_request(
    info: CorpusInfo,
    *,
    sensors: Iterable[str] = SENSORS,
    bands: BandsLike = None,
    labels: Sequence[str] | None = None,
    clouds: str = "nan",
) -> Request:
    """The request that a dataset's arguments make of a corpus.

    Raises:
        UnknownNameError: an unknown sensor or way with clouds.
        BandError: a band that the corpus does not hold; those that it holds are listed.
        LabelError: a label that does not exist or two that would fill the same key.

    Example:
        >>> info = CorpusInfo(
        ...     name="coast", sensors=("s1",), bands={"s1": ("VV", "VH")}, patch_size=64, resolution_m=10
        ... )
        >>> check_request(info, bands=("VH",)).bands
        {'s1': ('VH',)}
    """
    if clouds not in {"nan", "keep"}:
        raise UnknownNameError(
            f"unknown clouds={clouds!r}. {nearest(str(clouds), ('nan', 'keep'))}"
        )
    chosen, extras = _labels(info, labels)
    has_clouds = "cloud" in info.extras
    if clouds == "keep" and has_clouds and "cloud" not in extras:
        extras = (*extras, "cloud")
    chosen_bands = _bands(info, sensors, bands)
    return Request(
        bands=chosen_bands,
        labels=chosen,
        extras=extras,
        hide_clouds=clouds == "nan" and has_clouds and "s2" in chosen_bands,
    )


def _bands(
    info: CorpusInfo, sensors: Iterable[str], bands: BandsLike
) -> dict[Sensor, tuple[str, ...]]:
    asked = check_sensors(sensors)
    present = [s for s in asked if s in info.sensors]
    if not present:
        raise UnknownNameError(
            f"sensors={asked!r}, but corpus {info.name!r} holds only {' '.join(info.sensors)}."
        )
    wanted = _by_sensor(bands, present)
    for sensor in wanted:
        if sensor not in info.sensors or sensor not in asked:
            where = f"sensors={asked!r}" if sensor not in asked else f"corpus {info.name!r}"
            raise BandError(
                f"bands={bands!r} names bands of {sensor}, which {where} leaves out. "
                "Leave them out of bands, or let sensors name that sensor."
            )
    return {s: _known(info, s, wanted[s]) for s in present if s in wanted}


def _by_sensor(bands: BandsLike, present: Sequence[Sensor]) -> dict[Sensor, tuple[str, ...] | None]:
    """Bands asked for, by sensor; `None` = all. A flat sequence names all that is read."""
    if bands is None:
        return dict.fromkeys(present)
    if isinstance(bands, Mapping):
        for sensor in bands:
            check_sensors((sensor,))
        named = {s: resolve_bands(bands[s], s) for s in SENSORS if s in bands}
        return {**dict.fromkeys(present), **named}
    names = (bands,) if isinstance(bands, str) else tuple(bands)
    if not names:
        raise BandError("bands=() asks for nothing; name bands, or pass None for all.")
    owners = [band(name).sensor for name in names]
    return {
        s: resolve_bands([n for n, o in zip(names, owners, strict=True) if o == s], s)
        for s in SENSORS
        if s in owners
    }


def _known(info: CorpusInfo, sensor: Sensor, names: tuple[str, ...] | None) -> tuple[str, ...]:
    stored = info.bands[sensor]
    if names is None:
        return stored
    missing = [n for n in names if n not in stored]
    if missing:
        raise BandError(
            f"corpus {info.name!r} holds no {' '.join(missing)} of {sensor}. "
            f"{nearest(missing[0], stored)}"
        )
    return names


def _labels(
    info: CorpusInfo, names: Sequence[str] | None
) -> tuple[tuple[LabelSpec, ...], tuple[str, ...]]:
    """Labels and extras asked for, in the order of the corpus."""
    existing = [spec.name for spec in info.labels]
    if names is None:
        _check_keys(info, info.labels, asked="labels=None asks for all labels")
        return info.labels, ()
    wanted = (names,) if isinstance(names, str) else tuple(names)
    for name in wanted:
        if name not in (*existing, *info.extras):
            absent = " It has no such raster." if name in EXTRAS else ""
            raise LabelError(
                f"corpus {info.name!r} has no label {name!r}.{absent} "
                f"{nearest(name, (*existing, *info.extras))}"
            )
    chosen = tuple(spec for spec in info.labels if spec.name in wanted)
    _check_keys(info, chosen, asked=f"labels={wanted!r}")
    return chosen, tuple(e for e in info.extras if e in wanted)


def _check_keys(info: CorpusInfo, labels: Sequence[LabelSpec], *, asked: str) -> None:
    for key in dict.fromkeys(LABEL_KEYS.values()):
        rivals = [spec.name for spec in labels if LABEL_KEYS[spec.kind] == key]
        if len(rivals) > 1:
            listed = ", ".join(f"{spec.name!r} ({spec.kind})" for spec in info.labels)
            raise LabelError(
                f"{asked}, but {' and '.join(map(repr, rivals))} of corpus {info.name!r} would "
                f"all be the sample's {key!r}. Choose with labels=(...) from {listed}."
            )
