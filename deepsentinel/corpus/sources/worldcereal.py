"""WorldCereal reference sites: NetCDF series of S1 and S2 with land-cover and crop-type maps.

A site is four files: S1 GRD at 20 m (dB x 10^4), S2 L2A bands at 10 m and at 20 m (reflectance x
10^4, with the scene classification SCL), and the maps at 10 m. One patch a date pair: each S2 date
with the S1 date nearest to it, if that is within 3 days. S1 and the 20 m bands come to 10 m; S1 is
averaged as linear power. The series are of 2017 to 2019 as Earth Engine then held them: no offset.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from deepsentinel.bands import S1_BANDS
from deepsentinel.corpus.codes import CLOUD_UNKNOWN
from deepsentinel.corpus.format import LabelSpec
from deepsentinel.corpus.patch import PatchRecord
from deepsentinel.corpus.resample import resample
from deepsentinel.corpus.sources.base import (
    Grid,
    Layer,
    Scene,
    ScenePixels,
    Skipped,
    SourceFacts,
    SourceOptions,
)
from deepsentinel.errors import MissingExtraError, SourceError
from deepsentinel.labels import scheme

MAX_GAP: Final = timedelta(days=3)
_BANDS: Final = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
_FINE: Final = ("B02", "B03", "B04", "B08")
_S1_SCALE: Final = 1e-4
_SITE = re.compile(r"_([0-9A-Za-z]{8,})_(\d{4,5})_\d{4}-\d{2}-\d{2}_\d{4}-\d{2}-\d{2}\.nc$")
_MAPS: Final = {
    "landcover": ("LC", "worldcereal-landcover"),
    "croptype": ("CT", "worldcereal-croptype"),
}
_CLOUD_OF_SCL: Final = {0: CLOUD_UNKNOWN, 1: CLOUD_UNKNOWN, 3: 3, 8: 1, 9: 1, 10: 2}
"""Scene classes of Level-2A to cloud classes; every other class is clear."""


@dataclass(frozen=True)
class _Series:
    """One NetCDF file: raw arrays by variable, times and grid."""

    arrays: Mapping[str, NDArray[Any]]
    times: tuple[datetime, ...]
    grid: Grid


class WorldCereal:
    """A folder with the NetCDF files of one or more sites."""

    KIND: ClassVar[str] = "worldcereal"
    LOOKS_FOR: ClassVar[str] = (
        "S1_GRD-*_20m_<site>.nc, S2_L2A_10m_<site>.nc and S2_L2A_20m_<site>.nc"
    )

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self._path = path
        self._method = options.resampling
        self._skipped: list[Skipped] = []

    @staticmethod
    def detect(path: Path) -> bool:
        """Whether a site with S1 and S2 series is there."""
        return bool(_sites(path))

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """S2 dates without an S1 date near enough."""
        return tuple(self._skipped)

    @cached_property
    def facts(self) -> SourceFacts:
        """Ten S2 bands, S1 and two masks."""
        maps = any("maps" in files for files in _sites(self._path).values())
        labels = tuple(LabelSpec(n, "mask", scheme(s)) for n, (_, s) in _MAPS.items())
        return SourceFacts(
            title="ESA WorldCereal reference sites",
            licence="MIT",
            citation="Van Tricht et al., WorldCereal, ESSD 2023, doi:10.5194/essd-15-5491-2023",
            bands={"s1": S1_BANDS, "s2": _BANDS},
            labels=labels if maps else (),
            extras=("cloud",),
        )

    def scenes(self) -> list[Scene]:
        """One scene a date pair, by site and S2 date."""
        self._skipped = []
        return [s for site, files in _sites(self._path).items() for s in self._pairs(site, files)]

    def load(self, scene: Scene) -> ScenePixels:
        """Pixels of one date pair."""
        files, grid = scene.files, scene.grid
        radar, fine = _read(files["s1"]), _read(files["s2_10m"])
        coarse = _read(files["s2_20m"])
        s1 = np.stack([self._db(radar, b, files["row_s1"], grid) for b in S1_BANDS])
        row = files["row_s2"]
        series = {b: fine if b in _FINE else coarse for b in _BANDS}
        s2 = {b: Layer(v.arrays[b][row], v.grid.transform) for b, v in series.items()}
        clouds = _clouds(coarse.arrays["SCL"][row])
        rasters: dict[str, NDArray[Any]] = {"cloud": _doubled(clouds, grid)}
        if "maps" in files:
            maps = _read(files["maps"])
            for name, (variable, scheme_name) in _MAPS.items():
                rasters[name] = scheme(scheme_name).encode(maps.arrays[variable])
        return ScenePixels(s1=s1, s2=s2, rasters=rasters)

    def _db(self, radar: _Series, band: str, row: int, grid: Grid) -> NDArray[Any]:
        raw = radar.arrays[band][row]
        power = np.where(raw == 0, np.nan, 10 ** (raw * _S1_SCALE / 10))
        fine = resample(
            power, radar.grid.transform, grid.transform, grid.shape, method=self._method
        )
        return 10 * np.log10(np.where(fine > 0, fine, np.nan))

    def _pairs(self, site: str, files: dict[str, Path]) -> list[Scene]:
        radar, fine, coarse = (_read(files[k]) for k in ("s1", "s2_10m", "s2_20m"))
        if fine.times != coarse.times:
            raise SourceError(f"the 10 m and 20 m series of site {site} differ in their dates.")
        orbit = "ascending" if "ASCENDING" in files["s1"].name else None
        orbit = "descending" if "DESCENDING" in files["s1"].name else orbit
        found: list[Scene] = []
        for row, time in enumerate(fine.times):
            name = f"{site}_{time:%Y%m%dT%H%M%S}"
            near = min(range(len(radar.times)), key=lambda i: abs(radar.times[i] - time))
            if abs(radar.times[near] - time) > MAX_GAP:
                self._skipped.append(Skipped(name=name, reason="no S1 date within 3 days"))
                continue
            record = PatchRecord(
                id=name,
                date_s1=radar.times[near],
                date_s2=time,
                orbit_s1=orbit,
                level_s1="GRD",
                level_s2="L2A",
                boa_offset=0,
                boa_offset_source="source",
            )
            rows = {"row_s1": near, "row_s2": row}
            found.append(Scene(record=record, grid=fine.grid, files=files | rows))
        return found


def _sites(path: Path) -> dict[str, dict[str, Path]]:
    """Files of each site with S1 and S2, by what they hold."""
    kinds = {"S1_GRD": "s1", "S2_L2A_10m": "s2_10m", "S2_L2A_20m": "s2_20m", "OUTPUT": "maps"}
    sites: dict[str, dict[str, Path]] = {}
    for file in sorted(path.glob("*.nc")) if path.is_dir() else ():
        found = _SITE.search(file.name)
        kind = next((k for start, k in kinds.items() if file.name.startswith(start)), None)
        if found and kind:
            sites.setdefault(found[1], {})[kind] = file
    return {s: f for s, f in sites.items() if {"s1", "s2_10m", "s2_20m"} <= set(f)}


@lru_cache(maxsize=8)
def _read(path: Path) -> _Series:
    try:
        import netCDF4
    except ImportError as error:
        raise MissingExtraError(
            "reading WorldCereal sites needs netCDF4: pip install 'deepsentinel[netcdf]'."
        ) from error
    try:
        with netCDF4.Dataset(path) as file:
            file.set_auto_maskandscale(False)
            arrays = {n: np.asarray(v[...]) for n, v in file.variables.items() if v.ndim >= 2}
            x, y = (np.asarray(file[axis][...], dtype=np.float64) for axis in "xy")
            times = _times(file["timestamp"]) if "timestamp" in file.variables else ()
            return _Series(arrays, times, _grid(x, y, f"EPSG:{file.epsg}"))
    except (OSError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise SourceError(f"{path} is no readable WorldCereal NetCDF file ({error}).") from error


def _grid(x: NDArray[Any], y: NDArray[Any], crs: str) -> Grid:
    step_x, step_y = float(x[1] - x[0]), float(y[1] - y[0])
    corner = Affine(step_x, 0, float(x[0]) - step_x / 2, 0, step_y, float(y[0]) - step_y / 2)
    return Grid((len(y), len(x)), corner, crs)


def _times(variable: Any) -> tuple[datetime, ...]:
    """Times of a variable in `seconds since <time>`."""
    unit, _, start = str(variable.units).partition(" since ")
    if unit != "seconds":
        raise SourceError(f"times are in {variable.units!r}; expected seconds since a time.")
    origin = datetime.fromisoformat(start).replace(tzinfo=UTC)
    return tuple(origin + timedelta(seconds=int(s)) for s in variable[...])


def _clouds(scl: NDArray[Any]) -> NDArray[np.uint8]:
    table: NDArray[np.uint8] = np.zeros(256, dtype=np.uint8)
    for code, cloud in _CLOUD_OF_SCL.items():
        table[code] = cloud
    clouds: NDArray[np.uint8] = table[scl]
    return clouds


def _doubled(values: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """Classes at 20 m on the 10 m grid that covers the same area."""
    return np.repeat(np.repeat(values, 2, axis=0), 2, axis=1)[: grid.shape[0], : grid.shape[1]]
