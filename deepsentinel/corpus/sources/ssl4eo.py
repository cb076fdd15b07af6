"""SSL4EO-S12 v1 as published: one folder a place, with `s1`, `s2a` and `s2c` folders a date.

The positions that its files state are wrong by up to four pixels and differ between S1, the 60 m
bands and the rest; `ssl4eo_grid` recovers where the pixels really lie, in the UTM grid of the
product. The 20 m and 60 m bands and S1 are brought onto the true 10 m grid of S2, S1 as linear
power. What remains is the geolocation error of terrain in S1 GRD, about a pixel, with the opposite
sign in ascending and descending passes.

Dates are paired by the smallest gap, each S1 date once; the gap is what the two dates in the index
say. `metadata.json` is what Earth Engine knew of the product.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from deepsentinel.bands import S1_BANDS, S2_BANDS, S2_L1C_BANDS
from deepsentinel.corpus.offset import offset_of_baseline, offset_of_product
from deepsentinel.corpus.patch import OffsetSource, PatchRecord
from deepsentinel.corpus.sources.base import (
    Grid,
    Layer,
    Scene,
    ScenePixels,
    Skipped,
    SourceFacts,
    SourceOptions,
    onto,
)
from deepsentinel.corpus.sources.files import (
    read_band,
    read_header,
    read_json,
    read_raster,
    subfolders,
    time_in_name,
    unobserved_db,
)
from deepsentinel.corpus.sources.ssl4eo_grid import (
    ProductBand,
    Region,
    recover_region,
    true_grid,
)
from deepsentinel.errors import SourceError

_OPTICAL: Final = {"L2A": ("s2a", S2_BANDS), "L1C": ("s2c", S2_L1C_BANDS)}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Ssl4eo:
    """A folder of places, or one place."""

    KIND: ClassVar[str] = "ssl4eo"
    LOOKS_FOR: ClassVar[str] = (
        "places with folders s1 and s2a (or s2c) of dated folders with B2.tif, VV.tif"
    )

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self._path = path
        self._level = options.s2_level
        self._method = options.resampling
        self._folder, self._bands = _OPTICAL[options.s2_level]
        self._skipped: list[Skipped] = []

    @staticmethod
    def detect(path: Path) -> bool:
        """Whether there is a place with S2 dates."""
        return any(_is_place(p) for p in (path, *subfolders(path)))

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Dates whose files or metadata cannot be read."""
        return tuple(self._skipped)

    @cached_property
    def facts(self) -> SourceFacts:
        """S1 and the S2 level asked for."""
        return SourceFacts(
            title=f"SSL4EO-S12 v1, S1 GRD and S2 {self._level}",
            licence="CC-BY-4.0",
            citation="Wang et al., SSL4EO-S12, IEEE GRSM 2023, doi:10.1109/MGRS.2023.3281651",
            bands={"s1": S1_BANDS, "s2": self._bands},
        )

    def scenes(self) -> list[Scene]:
        """One scene an S2 date, by place and date, with its S1 date if there is one left."""
        self._skipped = []
        found: list[Scene] = []
        for place in _places(self._path):
            optical = subfolders(place / self._folder)
            for date, radar in _pair(optical, subfolders(place / "s1")).items():
                try:
                    found.append(self._scene(place, date, radar))
                except SourceError as error:
                    self._skipped.append(Skipped(name=_name(place, date), reason=str(error)))
        return found

    def load(self, scene: Scene) -> ScenePixels:
        """Pixels of one pair of dates."""
        folder, region = scene.files["s2"], scene.files["region"]
        facts = read_json(folder / "metadata.json")
        s2: dict[str, Layer] = {}
        for band in self._bands:
            dn, _ = read_band(folder / f"{_file_name(band)}.tif")
            own = true_grid(region, ProductBand.of(facts, _file_name(band)), len(dn))
            s2[band] = Layer(dn, own.transform)
        s1 = None
        if "s1" in scene.files:
            s1 = np.stack([self._db(scene.files["s1"], b, region, scene.grid) for b in S1_BANDS])
        return ScenePixels(s1=s1, s2=s2)

    def _db(self, folder: Path, band: str, region: Region, grid: Grid) -> NDArray[Any]:
        """One radar band on the optical grid, averaged as linear power."""
        raster = read_raster(folder / f"{band}.tif")
        facts = read_json(folder / "metadata.json")
        own = true_grid(region, ProductBand.of(facts, band), raster.values.shape[-1])
        power = 10 ** (unobserved_db(raster.values[0], nodata=raster.nodata) / 10)
        aligned = onto(power, own, grid, method=self._method)
        return 10 * np.log10(np.where(aligned > 0, aligned, np.nan))

    def _scene(self, place: Path, date: Path, radar: Path | None) -> Scene:
        region = _region(date, _file_name(self._bands[0]), None)
        stated, _ = read_header(date / f"{_file_name('B02')}.tif")
        band = ProductBand.of(read_json(date / "metadata.json"), _file_name("B02"))
        record = _optical_facts(PatchRecord(id=_name(place, date), level_s2=self._level), date)
        files: dict[str, Any] = {"s2": date, "region": region}
        if radar is not None:
            _region(radar, S1_BANDS[0], region)  # an error if S1 was not cut from the same region
            record, files["s1"] = _radar_facts(record, radar), radar
        grid = true_grid(region, band, stated.shape[0])
        return Scene(record=record, grid=grid, files=files)


def _region(folder: Path, band: str, known: Region | None) -> Region:
    """The region that a date's files were cut from, by its first band."""
    stated, _ = read_header(folder / f"{band}.tif")
    if stated.transform is None:
        raise SourceError(f"{folder / band}.tif states no position.")
    product = ProductBand.of(read_json(folder / "metadata.json"), band)
    try:
        return recover_region(stated.transform, stated.shape[0], product, known)
    except SourceError as error:
        raise SourceError(f"{folder}: {error}") from error


def _places(path: Path) -> list[Path]:
    return [p for p in (path, *subfolders(path)) if _is_place(p)]


def _is_place(folder: Path) -> bool:
    return any(_dated(folder / name) for name, _ in _OPTICAL.values())


def _dated(folder: Path) -> bool:
    return any((p / f"{_file_name('B02')}.tif").is_file() for p in subfolders(folder))


def _name(place: Path, date: Path) -> str:
    return f"{place.name}_{date.name}"


def _file_name(band: str) -> str:
    """SSL4EO calls B02 `B2`."""
    return f"B{band[1:].lstrip('0')}"


def _pair(optical: Sequence[Path], radar: Sequence[Path]) -> dict[Path, Path | None]:
    """The S1 folder of each S2 folder: smallest gaps first, each S1 folder once."""
    gaps = sorted(
        (abs(s2_time - s1_time), i, j)
        for i, s2 in enumerate(optical)
        for j, s1 in enumerate(radar)
        if (s2_time := time_in_name(s2.name)) and (s1_time := time_in_name(s1.name))
    )
    pairs: dict[Path, Path | None] = dict.fromkeys(optical)
    used: set[Path] = set()
    for _, i, j in gaps:
        if pairs[optical[i]] is None and radar[j] not in used:
            pairs[optical[i]] = radar[j]
            used.add(radar[j])
    return pairs


def _optical_facts(record: PatchRecord, date: Path) -> PatchRecord:
    path = date / "metadata.json"
    facts = read_json(path) if path.is_file() else {}
    product = facts.get("PRODUCT_ID")
    named = None if product is None else offset_of_product(product)
    baseline = facts.get("PROCESSING_BASELINE")
    offset = named
    if offset is None and baseline is not None:
        offset = offset_of_baseline(round(float(baseline) * 100))
    known: OffsetSource = "product-name" if named is not None else "metadata"
    return replace(
        record,
        date_s2=_time(facts) or time_in_name(date.name),
        product_s2=product,
        cloud_percent=facts.get("CLOUDY_PIXEL_PERCENTAGE"),
        boa_offset=offset,
        boa_offset_source=None if offset is None else known,
    )


def _radar_facts(record: PatchRecord, folder: Path) -> PatchRecord:
    path = folder / "metadata.json"
    facts = read_json(path) if path.is_file() else {}
    orbit = facts.get("orbitProperties_pass")
    return replace(
        record,
        date_s1=_time(facts) or time_in_name(folder.name),
        orbit_s1=None if orbit is None else str(orbit).lower(),
        product_s1=facts.get("system:index", folder.name),
        level_s1="GRD",
    )


def _time(facts: dict[str, Any]) -> datetime | None:
    """Earth Engine's acquisition time, milliseconds since 1970."""
    start = facts.get("system:time_start")
    return None if start is None else _EPOCH + timedelta(milliseconds=int(start))
