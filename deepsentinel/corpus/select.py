"""Which patches of a corpus are wanted, decided from its index alone."""

import math
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deepsentinel.bands import Sensor, check_sensors
from deepsentinel.corpus.format import CorpusInfo
from deepsentinel.corpus.where import where_mask
from deepsentinel.errors import SelectionError, SplitError, UnknownNameError, nearest

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A choice of patches and sensors; by default everything.

    Raises:
        SelectionError: a box, dates or a count that cannot be meant.

    Example:
        >>> Selection(bbox=(5, 47, 15, 55), dates="2020-06-01/2020-08-31").days
        (datetime.date(2020, 6, 1), datetime.date(2020, 8, 31))
    """

    split: str | None = None
    where: str | None = None
    """A condition on columns of the index; see `deepsentinel.corpus.where`."""
    bbox: Box | None = None
    """West, south, east, north in degrees; the centre of a patch must lie inside. West may exceed
    east, across the antimeridian."""
    dates: str | None = None
    """`FIRST/LAST`, both included, in UTC: a patch is taken if either of the chosen sensors
    observed it then. One side may be empty or `..`."""
    sensors: tuple[Sensor, ...] | None = None
    """Which sensors to take; `None` for all."""
    max_patches: int | None = None
    """At most so many, the first ones of the index."""

    def __post_init__(self) -> None:
        if self.sensors is not None:
            object.__setattr__(self, "sensors", check_sensors(self.sensors))
        if self.bbox is not None:
            object.__setattr__(self, "bbox", _check_box(self.bbox))
        if self.max_patches is not None and self.max_patches < 1:
            raise SelectionError(f"max_patches={self.max_patches}; ask for one patch or more.")
        _ = self.days

    @property
    def days(self) -> tuple[date, date] | None:
        """First and last day; `None` where dates do not matter."""
        if self.dates is None:
            return None
        first, found, last = self.dates.partition("/")
        try:
            begin = date.min if first in {"", ".."} else date.fromisoformat(first)
            end = date.max if last in {"", ".."} else date.fromisoformat(last)
        except ValueError:
            found = ""
        if not found or end < begin:
            raise SelectionError(
                f"dates={self.dates!r} are not understood; give the first and the last day, such as "
                "2020-06-01/2020-08-31."
            )
        return begin, end

    def to_json(self) -> dict[str, Any]:
        """What was chosen, without what was left open."""
        return {k: v for k, v in asdict(self).items() if v is not None}

    def sensors_of(self, info: CorpusInfo) -> tuple[Sensor, ...]:
        """The sensors to take from a corpus.

        Raises:
            UnknownNameError: the corpus has not all of them.
        """
        for sensor in self.sensors or ():
            if sensor not in info.sensors:
                known = nearest(sensor, info.sensors)
                raise UnknownNameError(f"corpus {info.name!r} holds no {sensor!r}. {known}")
        return info.sensors if self.sensors is None else self.sensors

    def rows(self, table: pa.Table, info: CorpusInfo) -> NDArray[np.int64]:
        """Numbers of the chosen patches of an index, ascending.

        Raises:
            SelectionError, SplitError, UnknownNameError: it cannot be applied, or nothing is left.
        """
        sensors = self.sensors_of(info)
        keep = np.zeros(len(table), np.bool_)
        for sensor in sensors:
            keep |= _known(table[f"{sensor}_offset"])
        if self.split is not None:
            keep &= _in_split(table["split"], self.split, info)
        if self.bbox is not None:
            keep &= _in_box(table, self.bbox)
        if self.days is not None:
            keep &= _in_days(table, self.days, sensors)
        if self.where is not None:
            keep &= where_mask(table, self.where, info)
        found = np.flatnonzero(keep)[: self.max_patches].astype(np.int64)
        if not len(found):
            raise SelectionError(
                f"none of the {len(table)} patches of corpus {info.name!r} answers to "
                f"{self.to_json() or 'this'}; nothing was moved. Choose less narrowly."
            )
        return found


def _check_box(box: Box) -> Box:
    values = tuple(float(v) for v in box)
    usable = len(values) == 4 and all(math.isfinite(v) for v in values)
    if not usable or not -90 <= values[1] < values[3] <= 90 or max(map(abs, values[::2])) > 180:
        raise SelectionError(
            f"bbox={tuple(box)} is not understood; give west, south, east, north in degrees, such "
            "as 5 47 15 55."
        )
    return values[0], values[1], values[2], values[3]


def _known(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(pc.is_valid(column).to_numpy(), dtype=np.bool_)


def _in_split(column: pa.ChunkedArray, split: str, info: CorpusInfo) -> NDArray[np.bool_]:
    names = sorted(name for name in pc.unique(column).to_pylist() if name is not None)
    if split not in names:
        known = nearest(split, names)
        raise SplitError(f"corpus {info.name!r} has no split {split!r}. {known}")
    return _truth(pc.equal(column, split))


def _in_box(table: pa.Table, box: Box) -> NDArray[np.bool_]:
    west, south, east, north = box
    lon, lat = table["lon"], table["lat"]
    join = pc.and_kleene if west <= east else pc.or_kleene
    across = join(pc.greater_equal(lon, west), pc.less_equal(lon, east))
    along = pc.and_kleene(pc.greater_equal(lat, south), pc.less_equal(lat, north))
    return _truth(pc.and_kleene(across, along))


def _in_days(
    table: pa.Table, days: tuple[date, date], sensors: tuple[Sensor, ...]
) -> NDArray[np.bool_]:
    kind = table.schema.field("date_s1").type
    begin = pa.scalar(_midnight(days[0]), type=kind)
    last = days[1] if days[1] == date.max else days[1] + timedelta(days=1)
    end = pa.scalar(_midnight(last), type=kind)
    keep = np.zeros(len(table), np.bool_)
    for sensor in sensors:
        seen = table[f"date_{sensor}"]
        within = pc.and_kleene(pc.greater_equal(seen, begin), pc.less(seen, end))
        keep |= _truth(within) & _known(table[f"{sensor}_offset"])
    return keep


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, tzinfo=UTC)


def _truth(mask: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(
        pc.fill_null(mask, fill_value=False).to_numpy(zero_copy_only=False), dtype=np.bool_
    )
