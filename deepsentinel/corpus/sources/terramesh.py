"""Folders of GeoTIFF pairs as in TerraMesh: one folder a modality, one file a grid cell.

`S1RTC` holds VV then VH in dB, `S2L2A` 12 and `S2L1C` 13 bands of digital numbers in Copernicus
order, all at 10 m; `LULC` and `DEM` may be there. File names are the same in each folder. The
tag `datetime` of `S1RTC` is the radar's time. That of `LULC` is the optical scene's: its cloud and
snow classes were made from that scene (Blumenstiel et al. 2025, arXiv:2504.11172).
"""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from deepsentinel.bands import S1_BANDS, S2_BANDS, S2_L1C_BANDS, Sensor
from deepsentinel.corpus.format import LabelSpec
from deepsentinel.corpus.patch import PatchRecord
from deepsentinel.corpus.sources.base import (
    Grid,
    Layer,
    Scene,
    ScenePixels,
    Skipped,
    SourceFacts,
    SourceOptions,
)
from deepsentinel.corpus.sources.files import (
    read_header,
    read_raster,
    same_shape,
    unobserved_db,
    utc_time,
)
from deepsentinel.errors import SourceError
from deepsentinel.labels import scheme

_S1: Final = "S1RTC"
_S2: Final = {"L2A": ("S2L2A", S2_BANDS), "L1C": ("S2L1C", S2_L1C_BANDS)}
_MASK: Final = "LULC"
_DEM: Final = "DEM"
_NO_DATA: Final = -32768


class TerraMesh:
    """A folder with `S1RTC` and `S2L2A` or `S2L1C` of equally named GeoTIFFs."""

    KIND: ClassVar[str] = "terramesh"
    LOOKS_FOR: ClassVar[str] = "folders S1RTC and S2L2A (or S2L1C) of equally named .tif files"

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self._path = path
        self._level = options.s2_level
        self._optical, self._bands = _S2[options.s2_level]
        self._skipped: list[Skipped] = []

    @staticmethod
    def detect(path: Path) -> bool:
        """Whether the folder has radar and optical folders of that layout."""
        return any(_files(path / name) for name, _ in _S2.values()) or bool(_files(path / _S1))

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Cells whose files cannot be opened."""
        return tuple(self._skipped)

    @cached_property
    def facts(self) -> SourceFacts:
        """Bands and labels of the folders that are there."""
        bands: dict[Sensor, tuple[str, ...]] = {}
        if _files(self._path / _S1):
            bands["s1"] = S1_BANDS
        if _files(self._path / self._optical):
            bands["s2"] = self._bands
        mask = LabelSpec("lulc", "mask", scheme("terramesh-lulc"))
        return SourceFacts(
            title=f"TerraMesh-style pairs, S1 RTC and S2 {self._level}",
            licence="CC-BY-SA-4.0",
            citation="Blumenstiel et al., TerraMesh, arXiv:2504.11172",
            bands=bands,
            labels=(mask,) if _files(self._path / _MASK) else (),
            extras=("dem",) if _files(self._path / _DEM) else (),
        )

    def scenes(self) -> list[Scene]:
        """One scene a grid cell, by name."""
        self._skipped = []
        folders = (_S1, self._optical, _MASK, _DEM)
        listed = {name: _files(self._path / name) for name in folders}
        cells = sorted({*listed[_S1], *listed[self._optical]})
        found: list[Scene] = []
        for cell in cells:
            files = {name: paths[cell] for name, paths in listed.items() if cell in paths}
            try:
                found.append(self._scene(cell, files))
            except SourceError as error:
                self._skipped.append(Skipped(name=cell, reason=str(error)))
        return found

    def load(self, scene: Scene) -> ScenePixels:
        """Pixels of one grid cell."""
        files, grid = scene.files, scene.grid
        s1 = s2 = None
        if _S1 in files:
            s1 = _bands(files[_S1], grid, len(S1_BANDS), fill=_NO_DATA)
        if self._optical in files:
            values = _values(files[self._optical], grid, len(self._bands))
            dn = np.where(values == _NO_DATA, 0, values)  # negative values are observed
            s2 = {b: Layer(dn[i], grid.transform) for i, b in enumerate(self._bands)}
        rasters: dict[str, NDArray[Any]] = {}
        if _MASK in files:
            rasters["lulc"] = scheme("terramesh-lulc").encode(_values(files[_MASK], grid, 1)[0])
        if _DEM in files:
            rasters["dem"] = _bands(files[_DEM], grid, 1, fill=_NO_DATA)[0].astype(np.float32)
        return ScenePixels(s1=s1, s2=s2, rasters=rasters)

    def _scene(self, cell: str, files: dict[str, Path]) -> Scene:
        headers = {name: read_header(path) for name, path in files.items()}
        grid = headers[self._optical if self._optical in files else _S1][0]
        times = {n: utc_time(t["datetime"]) for n, (_, t) in headers.items() if "datetime" in t}
        record = PatchRecord(id=cell)
        if _S1 in files:
            record = replace(record, date_s1=times.get(_S1), level_s1="RTC")
        if self._optical in files:
            record = replace(record, date_s2=times.get(_MASK), level_s2=self._level)
        return Scene(record=record, grid=grid, files=files)


def _files(folder: Path) -> dict[str, Path]:
    """GeoTIFFs of a folder by their stem."""
    return {p.stem: p for p in sorted(folder.glob("*.tif"))} if folder.is_dir() else {}


def _values(path: Path, grid: Grid, count: int) -> NDArray[Any]:
    values = same_shape(read_raster(path).values, grid, path)
    if len(values) != count:
        raise SourceError(f"{path} holds {len(values)} bands; expected {count}.")
    return values


def _bands(path: Path, grid: Grid, count: int, *, fill: float) -> NDArray[np.float64]:
    raster = read_raster(path)
    values = same_shape(raster.values, grid, path)
    if len(values) != count:
        raise SourceError(f"{path} holds {len(values)} bands; expected {count}.")
    return unobserved_db(values, nodata=fill if raster.nodata is None else raster.nodata)
