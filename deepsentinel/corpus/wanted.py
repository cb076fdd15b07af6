"""What is asked for of each patch, as names, and where it stands in the arrays of a corpus."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deepsentinel.bands import Sensor, check_sensors, resolve_bands
from deepsentinel.corpus.format import CorpusInfo
from deepsentinel.corpus.protocol import Bands
from deepsentinel.errors import BandError, UnknownNameError, nearest


@dataclass(frozen=True)
class Wanted:
    """What to read of each patch: positions of bands by sensor, and names of rasters.

    Example:
        >>> Wanted({"s2": (3, 2, 1)}, ("dem",)).names
        ('s2', 'dem')
    """

    bands: dict[Sensor, tuple[int, ...]]
    rasters: tuple[str, ...]

    @property
    def names(self) -> tuple[Any, ...]:
        """Arrays to read."""
        return (*self.bands, *self.rasters)


class Wishes:
    """Resolves names against the facts of a corpus; the same names only once.

    Args:
        info: facts of the corpus.
    """

    def __init__(self, info: CorpusInfo) -> None:
        self._info = info
        self._known: dict[Any, Wanted] = {}

    def resolve(
        self, sensors: Sequence[Sensor] | None, bands: Bands | None, rasters: Sequence[str]
    ) -> Wanted:
        """What these names stand for; all sensors and all of their bands for `None`.

        Raises:
            BandError, UnknownNameError: a name that the corpus does not have.
        """
        key = (
            sensors if sensors is None or isinstance(sensors, str) else tuple(sensors),
            None if bands is None else tuple((s, _hashable(names)) for s, names in bands.items()),
            _hashable(rasters),
        )
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._resolve(sensors, bands, rasters)
        return found

    def _resolve(
        self, sensors: Sequence[Sensor] | None, bands: Bands | None, rasters: Sequence[str]
    ) -> Wanted:
        info = self._info
        asked = info.sensors if sensors is None else sensors and check_sensors(sensors)
        for sensor in {*asked, *(bands or ())}:
            if sensor not in info.sensors:
                raise UnknownNameError(
                    f"corpus {info.name!r} holds no {sensor!r}. {nearest(sensor, info.sensors)}"
                )
        for name in rasters:
            if name not in info.rasters:
                raise UnknownNameError(
                    f"corpus {info.name!r} holds no raster {name!r}. {nearest(name, info.rasters)}"
                )
        positions = {s: self._positions(s, (bands or {}).get(s)) for s in asked}
        return Wanted(positions, tuple(rasters))

    def _positions(self, sensor: Sensor, names: Sequence[str] | None) -> tuple[int, ...]:
        stored = self._info.bands[sensor]
        if names is None:
            return tuple(range(len(stored)))
        resolved = resolve_bands(names, sensor)
        for name in resolved:
            if name not in stored:
                raise BandError(
                    f"corpus {self._info.name!r} does not hold band {name} of {sensor}. "
                    f"{nearest(name, stored)}"
                )
        return tuple(stored.index(name) for name in resolved)


def _hashable(names: Sequence[str]) -> Any:
    return names if isinstance(names, str) else tuple(names)
