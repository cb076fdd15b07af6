"""What a corpus is: its name, sensors, bands and labels, as `corpus.json` states them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self, get_args

from deepsentinel.bands import SENSORS, Sensor, check_sensors, resolve_bands
from deepsentinel.errors import BandError, CorpusError, LabelError, nearest
from deepsentinel.labels import Scheme

FORMAT_VERSION: Final = 1
"""Raised when an older reader could no longer read what is written."""
PATCHES_PER_SHARD: Final = 128
INFO_PATH: Final = "corpus.json"
INDEX_PATH: Final = "index.parquet"
DATA_PATH: Final = "data.zarr"
WORK_PATH: Final = ".writing"
JOURNAL_PATH: Final = f"{WORK_PATH}/journal.jsonl"
"""Folder of a corpus that is being written: lock, journal and the shard in progress."""

LabelKind = Literal["mask", "label", "multilabel", "boxes", "target"]
EXTRAS: Final = ("cloud", "dem")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_RESERVED = {*SENSORS, *EXTRAS, "patch", "x", "y"}


@dataclass(frozen=True)
class LabelSpec:
    """One label of a corpus: what kind it is and which classes or channels it has.

    Raises:
        LabelError: a name that no array could have, an unknown kind, or channels where the kind
            has none.

    Example:
        >>> LabelSpec("height", "target", channels=("canopy",)).is_raster
        True
    """

    name: str
    kind: LabelKind
    scheme: Scheme | None = None
    """Classes; `None` for targets, and where ids have no names."""
    channels: tuple[str, ...] = ()
    """Names of what a `target` holds, in order."""
    per_pixel: bool = True
    """Whether a `target` is a raster; else it is one row of values a patch."""

    def __post_init__(self) -> None:
        taken = self.name in _RESERVED or self.name.startswith("band_")
        if taken or not _NAME.fullmatch(self.name):
            raise LabelError(
                f"a label cannot be called {self.name!r}: use letters, digits, - and _, begin with "
                f"a letter but not with band_, and none of {' '.join(sorted(_RESERVED))}."
            )
        if self.kind not in get_args(LabelKind):
            raise LabelError(
                f"label {self.name!r} has kind {self.kind!r}. "
                f"{nearest(str(self.kind), get_args(LabelKind))}"
            )
        if (self.kind == "target") != bool(self.channels):
            raise LabelError(
                f"label {self.name!r} of kind {self.kind!r} has channels={self.channels!r}: "
                "a target names its channels, other kinds have none."
            )

    @property
    def is_raster(self) -> bool:
        """Whether it lies in the Zarr group (else in the index)."""
        return self.kind == "mask" or (self.kind == "target" and self.per_pixel)

    def to_json(self) -> dict[str, Any]:
        """The label as a value that `json` can write."""
        value: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.kind == "target":
            value |= {"channels": list(self.channels), "per_pixel": self.per_pixel}
        else:
            value["scheme"] = None if self.scheme is None else self.scheme.to_json()
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The label that `to_json` wrote."""
        scheme = value.get("scheme")
        return cls(
            name=value["name"],
            kind=value["kind"],
            scheme=None if scheme is None else Scheme.from_json(scheme),
            channels=tuple(value.get("channels", ())),
            per_pixel=value.get("per_pixel", True),
        )


@dataclass(frozen=True, kw_only=True)
class CorpusInfo:
    """Facts of a whole corpus.

    A writer takes it as the description of what is to come (`count` and `splits` are then
    ignored); a reader returns it with what is there.

    Raises:
        BandError, UnknownNameError, LabelError, CorpusError: contradicting or unknown facts.

    Example:
        >>> info = CorpusInfo(
        ...     name="coast",
        ...     sensors=("s1",),
        ...     bands={"s1": ("VV", "VH")},
        ...     patch_size=64,
        ...     resolution_m=10,
        ... )
        >>> CorpusInfo.from_json(info.to_json()) == info
        True
    """

    name: str
    version: str = "1"
    licence: str | None = None
    citation: str | None = None
    sensors: tuple[Sensor, ...]
    bands: Mapping[Sensor, tuple[str, ...]]
    """Bands of each sensor in the order in which they are stored."""
    labels: tuple[LabelSpec, ...] = ()
    patch_size: int
    """Rows and columns of every patch."""
    resolution_m: float
    """Pixel spacing in metres."""
    splits: Mapping[str, int] = field(default_factory=dict)
    """Patches in each split."""
    count: int = 0
    """Patches."""
    synthetic: bool = False
    """Whether the pixels were computed and not observed."""
    description: str = ""
    extras: tuple[str, ...] = ()
    """Which of `cloud` and `dem` there are."""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        object.__setattr__(self, "sensors", check_sensors(self.sensors))
        if set(self.bands) != set(self.sensors):
            raise BandError(
                f"bands name {sorted(self.bands)}, sensors are {self.sensors}: name the bands of "
                "each sensor of the corpus, and of no other."
            )
        bands = {s: resolve_bands(self.bands[s], s) for s in self.sensors}
        object.__setattr__(self, "bands", bands)
        names = [spec.name for spec in self.labels]
        if len(set(names)) != len(names):
            raise LabelError(f"two labels of one corpus have the same name: {names}.")
        for extra in self.extras:
            if extra not in EXTRAS:
                raise CorpusError(f"unknown extra raster {extra!r}. {nearest(extra, EXTRAS)}")
        if self.patch_size < 1 or not self.resolution_m > 0:
            raise CorpusError(
                f"patch_size={self.patch_size} and resolution_m={self.resolution_m} must be "
                "positive."
            )

    @property
    def rasters(self) -> tuple[str, ...]:
        """Names of every raster beside the sensors: masks, pixel targets, `cloud`, `dem`."""
        return (*(spec.name for spec in self.labels if spec.is_raster), *self.extras)

    def label(self, name: str) -> LabelSpec:
        """The label of that name.

        Raises:
            LabelError: there is none; those that exist are listed.
        """
        for spec in self.labels:
            if spec.name == name:
                return spec
        known = nearest(name, [spec.name for spec in self.labels])
        raise LabelError(f"corpus {self.name!r} has no label {name!r}. {known}")

    def to_json(self) -> dict[str, Any]:
        """The facts as a value that `json` can write."""
        return {
            "format": "deepsentinel corpus",
            "format_version": self.format_version,
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "licence": self.licence,
            "citation": self.citation,
            "synthetic": self.synthetic,
            "sensors": list(self.sensors),
            "bands": {sensor: list(self.bands[sensor]) for sensor in self.sensors},
            "patch_size": self.patch_size,
            "resolution_m": self.resolution_m,
            "count": self.count,
            "splits": dict(self.splits),
            "extras": list(self.extras),
            "labels": [spec.to_json() for spec in self.labels],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The facts that `to_json` wrote.

        Raises:
            CorpusError: another format or version, or a fact that is missing.
        """
        version = value.get("format_version")
        if version != FORMAT_VERSION:
            raise CorpusError(
                f"corpus {value.get('name')!r} has format version {version!r}; this version of "
                f"deepsentinel reads {FORMAT_VERSION}. Install a newer deepsentinel, or write the "
                "corpus again."
            )
        try:
            return cls(
                name=value["name"],
                version=value["version"],
                licence=value["licence"],
                citation=value["citation"],
                sensors=tuple(value["sensors"]),
                bands={s: tuple(names) for s, names in value["bands"].items()},
                labels=tuple(LabelSpec.from_json(label) for label in value["labels"]),
                patch_size=value["patch_size"],
                resolution_m=value["resolution_m"],
                splits=dict(value["splits"]),
                count=value["count"],
                synthetic=value["synthetic"],
                description=value["description"],
                extras=tuple(value["extras"]),
            )
        except (KeyError, TypeError) as error:
            raise CorpusError(
                f"{INFO_PATH} of corpus {value.get('name')!r} is not complete: {error!r}."
            ) from error


def dump_json(value: Mapping[str, Any]) -> bytes:
    """JSON as every file of a corpus holds it: indented, keys sorted, so that it never wavers."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()
