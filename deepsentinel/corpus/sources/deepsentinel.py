"""The original DeepSentinel layout: one folder a sample, arrays as npz, facts as JSON.

    <idx>/<idx>_<GEE|DL>_<date>_<lon>_<lat>_{S2arr,S1arr}.npz    key `arr`, (H, W, C) float32
    <idx>/<idx>_<GEE|DL>_..._meta.json, _S2meta.json, _S1meta.json, _tile.json
    <idx>/<idx>_<LC|GEE|DL>_..._LCarr.npz                         CORINE grid codes, (H, W)
    <idx>/<idx>_OSMFC_<date>_<lon>_<lat>.geojson                  OpenStreetMap features

`GEE` samples hold 12 bands of S2 Level-2A and S1 in dB. `DL` samples (Descartes Labs) hold 13 bands
of surface reflectance and an alpha band, and S1 scaled to 0-255 by a mapping that was not published:
S1 is left not observed there unless `s1_range` says which dB 0 and 255 stand for. A sample with
both gives two patches. The layout was written in 2020 from products of 2018 to 2020, before the
baseline offset existed; a sample of 2022 or later says nothing about its offset.
(github.com/Lkruitwagen/deepsentinel, utils/downloaders.py and conf/DATA_CONFIG.yaml.)
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar
from zipfile import BadZipFile, ZipFile

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from deepsentinel.bands import S1_BANDS, S2_BANDS, S2_L1C_BANDS, Sensor
from deepsentinel.corpus.format import LabelSpec
from deepsentinel.corpus.offset import offset_of_product
from deepsentinel.corpus.patch import LabelValue, OffsetSource, PatchRecord
from deepsentinel.corpus.sources.base import (
    Grid,
    Layer,
    Scene,
    ScenePixels,
    Skipped,
    SourceFacts,
    SourceOptions,
)
from deepsentinel.corpus.sources.files import crs_name, read_json, subfolders, time_in_name
from deepsentinel.errors import LabelError, NotAuthorisedError, SourceError, TransientError
from deepsentinel.labels import scheme
from deepsentinel.labels.osm import osm_boxes, osm_mask, osm_multilabel

_NAME = re.compile(
    r"(?P<idx>[^_/]+)_(?P<origin>GEE|DL|LC|OSMFC)_(?P<date>\d{4}-\d{2}-\d{2})"
    r"_(?P<lon>-?\d+(?:\.\d+)?(?:e-?\d+)?)_(?P<lat>-?\d+(?:\.\d+)?(?:e-?\d+)?)"
    r"(?P<part>_[A-Za-z0-9]+)?\.(?:npz|json|geojson)"
)
_BANDS: Final = {"GEE": S2_BANDS, "DL": S2_L1C_BANDS}
_NO_CORINE: Final = (45, 46, 47)
"""Grid codes of the project's rasters for no data and unclassified; 0 and 48 are CORINE's own."""
_AT_ONCE: Final = 16
_T = TypeVar("_T")
_R = TypeVar("_R")
_OFFSET_SINCE: Final = datetime(2022, 1, 25, tzinfo=UTC)
BOX_CLASSES: Final = (
    "energy",
    "harbour",
    "airport",
    "extraction",
    "industry",
    "farmstead",
    "building",
)
"""OpenStreetMap classes that become boxes: what is compact. The mask holds all of them."""


@dataclass(frozen=True)
class _Sample:
    """Files of one sample from one origin, by their part of the name (`S2arr`, `tile`, ...)."""

    name: str
    origin: str
    date: datetime
    lon: float
    lat: float
    files: Mapping[str, Path]


class DeepSentinelLayout:
    """A folder of sample folders, or one of them."""

    KIND: ClassVar[str] = "deepsentinel"
    LOOKS_FOR: ClassVar[str] = (
        "folders with <idx>_<GEE|DL>_<date>_<lon>_<lat>_S2arr.npz or _S1arr.npz"
    )

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self._path = path
        self._s1_range = options.s1_range
        self._skipped: list[Skipped] = []

    @staticmethod
    def detect(path: Path) -> bool:
        """Whether a sample folder is there."""
        for folder in (path, *subfolders(path)):
            if folder.is_dir() and any(_parts(f) for f in folder.glob("*_S[12]arr.npz")):
                return True
        return False

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Samples whose files cannot be read, and S1 that cannot be converted."""
        return tuple(self._skipped)

    @cached_property
    def _samples(self) -> list[_Sample]:
        folders = (self._path, *subfolders(self._path))
        return [sample for found in self._each(_samples, folders) for sample in found]

    @cached_property
    def facts(self) -> SourceFacts:
        """13 S2 bands where a sample from Descartes Labs is there, else 12."""
        parts = {(s.origin, part) for s in self._samples for part in s.files}
        bands: dict[Sensor, tuple[str, ...]] = {}
        if ("GEE", "S1arr") in parts or (self._s1_range and ("DL", "S1arr") in parts):
            bands["s1"] = S1_BANDS
        if any(part == "S2arr" for _, part in parts):
            bands["s2"] = S2_L1C_BANDS if ("DL", "S2arr") in parts else S2_BANDS
        labels: list[LabelSpec] = []
        if any(part == "LCarr" for _, part in parts):
            labels.append(LabelSpec("corine", "mask", scheme("corine")))
        if any(part == "OSMFC" for _, part in parts):
            osm = scheme("osm")
            labels.append(LabelSpec("osm", "mask", osm))
            labels.append(LabelSpec("osm_boxes", "boxes", osm))
            labels.append(LabelSpec("osm_classes", "multilabel", osm))
        return SourceFacts(
            title="DeepSentinel, the original project's layout",
            licence=None,
            citation="Kruitwagen, DeepSentinel, 2020, github.com/Lkruitwagen/deepsentinel",
            bands=bands,
            labels=tuple(labels),
        )

    def scenes(self) -> list[Scene]:
        """One scene a sample and origin, by folder and name."""
        outcomes = self._each(self._try, self._samples)
        self._skipped = [skipped for _, left_out in outcomes for skipped in left_out]
        return [scene for scene, _ in outcomes if scene is not None]

    def _try(self, sample: _Sample) -> tuple[Scene | None, list[Skipped]]:
        left_out: list[Skipped] = []
        try:
            return self._scene(sample, left_out), left_out
        except SourceError as error:
            return None, [*left_out, Skipped(name=sample.name, reason=str(error))]

    def _each(self, function: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
        """The function of each, in order; many at once where each is a request or more."""
        if _is_local(self._path):
            return [function(item) for item in items]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(function, items))

    def load(self, scene: Scene) -> ScenePixels:
        """Pixels of one sample."""
        files, origin = scene.files, scene.files["origin"]
        s1 = s2 = None
        if "S2arr" in files:
            s2 = _optical(files["S2arr"], scene.grid, origin)
        if "S1arr" in files and (origin == "GEE" or self._s1_range is not None):
            s1 = _radar(files["S1arr"], scene.grid, origin, self._s1_range)
        rasters: dict[str, NDArray[Any]] = {}
        if "LCarr" in files:
            rasters["corine"] = _corine(files["LCarr"], scene.grid)
        if "OSMFC" in files and scene.grid.transform is not None and scene.grid.crs is not None:
            transform, crs = tuple(scene.grid.transform)[:6], scene.grid.crs
            with _naming(files["OSMFC"]):
                features = read_json(files["OSMFC"])
                rasters["osm"] = osm_mask(features, transform, scene.grid.shape, crs=crs)
        return ScenePixels(s1=s1, s2=s2, rasters=rasters)

    def _scene(self, sample: _Sample, left_out: list[Skipped]) -> Scene:
        files = sample.files
        shape = _shape(files.get("S2arr") or files["S1arr"])
        meta = {**_facts(files, "tile"), **_facts(files, "meta")}
        grid = _grid(meta, shape)
        record = PatchRecord(id=sample.name, lon=sample.lon, lat=sample.lat)
        if "S2arr" in files:
            record = _optical_facts(record, sample, meta)
        usable = sample.origin == "GEE" or self._s1_range is not None
        if "S1arr" in files and usable:
            record = _radar_facts(record, meta | _facts(files, "S1meta"))
        elif "S1arr" in files:
            left_out.append(
                Skipped(
                    name=f"{sample.name} S1",
                    reason="8-bit backscatter, and its mapping to dB is not published",
                    remedy="s1_range=(LO, HI) (--s1-range LO HI), the dB that 0 and 255 stand for",
                )
            )
            if "S2arr" not in files:
                raise SourceError(f"{sample.name} holds nothing but 8-bit S1.")
        if "OSMFC" in files:
            record = replace(record, labels=_osm_labels(files["OSMFC"], grid))
        return Scene(record=record, grid=grid, files={**files, "origin": sample.origin})


def _is_local(path: object) -> bool:
    return isinstance(path, Path)


def _parts(file: Path) -> re.Match[str] | None:
    return _NAME.fullmatch(file.name)


def _samples(folder: Path) -> list[_Sample]:
    """Samples of one folder; land cover and OpenStreetMap belong to each origin of their sample."""
    found = [
        (file, m) for file in sorted(folder.iterdir()) if file.is_file() and (m := _parts(file))
    ]
    shared: dict[str, dict[str, Path]] = {}
    own: dict[str, tuple[re.Match[str], dict[str, Path]]] = {}
    for file, m in found:
        part = (m["part"] or "").removeprefix("_")
        if m["origin"] in _BANDS:
            name = f"{m['idx']}_{m['origin']}_{m['date']}_{m['lon']}_{m['lat']}"
            own.setdefault(name, (m, {}))[1][part] = file
        elif part == "LCarr" or m["origin"] == "OSMFC":
            shared.setdefault(m["idx"], {})["LCarr" if part else "OSMFC"] = file
    return [
        _Sample(
            name=name,
            origin=m["origin"],
            date=datetime.fromisoformat(m["date"]).replace(tzinfo=UTC),
            lon=float(m["lon"]),
            lat=float(m["lat"]),
            files=shared.get(m["idx"], {}) | files,
        )
        for name, (m, files) in own.items()
        if "S2arr" in files or "S1arr" in files
    ]


def _facts(files: Mapping[str, Path], part: str) -> dict[str, Any]:
    return read_json(files[part]) if part in files else {}


def _grid(meta: Mapping[str, Any], shape: tuple[int, int]) -> Grid:
    """Grid from `_meta.json` (x_off, y_off, crs_code) or a tile (geotrans, cs_code)."""
    tile = meta.get("tile") or meta
    properties = tile.get("properties") or {}
    if "geotrans" in properties and "cs_code" in properties:
        transform = Affine.from_gdal(*properties["geotrans"])
        return Grid(shape, transform, crs_name(properties["cs_code"]))
    if {"x_off", "y_off", "crs_code"} <= set(meta):
        transform = Affine(10, 0, float(meta["x_off"]), 0, -10, float(meta["y_off"]))
        return Grid(shape, transform, crs_name(meta["crs_code"]))
    return Grid(shape)


def _optical_facts(record: PatchRecord, sample: _Sample, meta: Mapping[str, Any]) -> PatchRecord:
    name = meta.get("S2_name") or _facts(sample.files, "S2meta").get("id")
    product = None if name is None else str(name).rsplit("/", 1)[-1]
    stated = None if product is None else offset_of_product(product)
    early = sample.date < _OFFSET_SINCE
    offset = stated if stated is not None else (0 if early else None)
    return replace(
        record,
        date_s2=time_in_name(product or "") or sample.date,
        product_s2=product,
        level_s2="L2A",
        boa_offset=offset,
        boa_offset_source=_how_known(stated, early=early),
    )


def _how_known(stated: int | None, *, early: bool) -> OffsetSource | None:
    if stated is not None:
        return "product-name"
    return "source" if early else None


def _radar_facts(record: PatchRecord, meta: Mapping[str, Any]) -> PatchRecord:
    name = meta.get("S1_name") or meta.get("id")
    product = None if name is None else str(name).rsplit("/", 1)[-1]
    date = None if product is None else time_in_name(product)
    return replace(record, date_s1=date, product_s1=product, level_s1="GRD")


def _array(path: Path) -> NDArray[Any]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:  # one request
            return np.asarray(file["arr"])
    except (NotAuthorisedError, TransientError):
        raise  # that says nothing about the sample
    except (OSError, ValueError, KeyError, BadZipFile, EOFError) as error:
        raise SourceError(f"{path} is no readable array `arr` ({error}).") from error


def _shape(path: Path) -> tuple[int, int]:
    """(H, W) of an array, from its header."""
    try:
        with path.open("rb") as raw, ZipFile(raw) as archive, archive.open("arr.npy") as file:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
    except (NotAuthorisedError, TransientError):
        raise
    except (OSError, ValueError, KeyError, BadZipFile, EOFError) as error:
        if isinstance(error.__context__, NotAuthorisedError | TransientError):
            raise error.__context__ from None  # zipfile takes every fault for a broken file
        raise SourceError(f"{path} is no readable array `arr` ({error}).") from error
    if len(shape) != 3:
        raise SourceError(f"{path} has shape {shape}; expected (H, W, bands).")
    return shape[0], shape[1]


def _stack(path: Path, grid: Grid, counts: tuple[int, ...]) -> NDArray[Any]:
    """(bands, H, W) of an array as the project wrote it."""
    array = _array(path)
    if array.ndim != 3 or array.shape[:2] != grid.shape or array.shape[2] not in counts:
        wanted = " or ".join(str((*grid.shape, n)) for n in counts)
        raise SourceError(f"{path} has shape {array.shape}; expected {wanted}.")
    return array.transpose(2, 0, 1)


def _optical(path: Path, grid: Grid, origin: str) -> dict[str, Layer]:
    bands = _BANDS[origin]
    values = _stack(path, grid, (len(bands), len(bands) + (origin == "DL")))
    dn = np.nan_to_num(values[: len(bands)].astype(np.float64), nan=0.0)
    if len(values) > len(bands):
        dn = np.where(values[-1] > 0, dn, 0)  # alpha
    return {band: Layer(dn[i], grid.transform) for i, band in enumerate(bands)}


def _radar(
    path: Path, grid: Grid, origin: str, s1_range: tuple[float, float] | None
) -> NDArray[np.float64]:
    """dB; where both polarisations are 0, the archives had nothing."""
    values = _stack(path, grid, (len(S1_BANDS),)).astype(np.float64)
    observed = np.isfinite(values) & (values != 0).any(axis=0)
    if origin == "DL" and s1_range is not None:
        low, high = s1_range
        values = low + values / 255 * (high - low)
    return np.where(observed, values, np.nan)


def _corine(path: Path, grid: Grid) -> NDArray[np.int16]:
    codes = _array(path)
    codes = codes[..., 0] if codes.ndim == 3 else codes
    if codes.shape != grid.shape:
        raise SourceError(f"{path} has shape {codes.shape}; expected {grid.shape}.")
    with _naming(path):
        return scheme("corine").encode(np.where(np.isin(codes, _NO_CORINE), 0, codes))


def _osm_labels(path: Path, grid: Grid) -> dict[str, LabelValue]:
    if grid.transform is None or grid.crs is None:
        return {}
    transform, crs = tuple(grid.transform)[:6], grid.crs
    with _naming(path):
        features = read_json(path)
        boxes = osm_boxes(features, transform, grid.shape, crs=crs, classes=BOX_CLASSES)
        hot = osm_multilabel(features, transform, grid.shape, crs=crs)
    return {
        "osm_boxes": tuple(tuple(float(v) for v in box) for box in boxes),
        "osm_classes": tuple(int(i) for i in np.flatnonzero(hot)),
    }


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn label errors into source errors that name the file."""
    try:
        yield
    except LabelError as error:
        raise SourceError(f"{path}: {error}") from error
