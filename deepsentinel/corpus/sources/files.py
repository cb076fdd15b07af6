"""Reading the files of a source: rasters and JSON, with every fault an error that names the file."""

import json
import re
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from deepsentinel.corpus.sources.base import Grid
from deepsentinel.errors import NotAuthorisedError, SourceError, TransientError

_COMPACT_TIME = re.compile(r"(\d{8})T(\d{6})")


@dataclass(frozen=True)
class Raster:
    """All bands of one raster file."""

    values: NDArray[Any]
    """(bands, h, w), as stored."""
    grid: Grid
    nodata: float | None
    tags: dict[str, str]


def read_raster(path: Path) -> Raster:
    """Read a raster file whole.

    Raises:
        SourceError: the file is missing, truncated or no raster.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                return Raster(file.read(), grid_of(file), file.nodata, file.tags())
    except (RasterioError, OSError) as error:
        raise SourceError(
            f"{path} cannot be read ({_first_line(error)}): is it truncated or still being written?"
        ) from error


def read_header(path: Path) -> tuple[Grid, dict[str, str]]:
    """Grid and tags of a raster file, without its pixels.

    Raises:
        SourceError: the file is missing or no raster.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                return grid_of(file), file.tags()
    except (RasterioError, OSError) as error:
        raise SourceError(f"{path} cannot be opened ({_first_line(error)}).") from error


def read_band(path: Path) -> tuple[NDArray[Any], Affine | None]:
    """The one band of a single-band file, and its transform.

    Raises:
        SourceError: the file cannot be read or holds several bands.
    """
    raster = read_raster(path)
    if raster.values.shape[0] != 1:
        raise SourceError(f"{path} holds {raster.values.shape[0]} bands; expected one.")
    return raster.values[0], raster.grid.transform


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        SourceError: the file is missing or no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (NotAuthorisedError, TransientError):
        raise  # that says nothing about the file
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} is no readable JSON ({_first_line(error)}).") from error
    if not isinstance(value, dict):
        raise SourceError(f"{path} holds a JSON {type(value).__name__}; expected an object.")
    return value


def grid_of(file: Any) -> Grid:
    """Grid of an open rasterio file; no transform where it carries no CRS."""
    if file.crs is None:
        return Grid((file.height, file.width))
    return Grid((file.height, file.width), file.transform, crs_name(file.crs))


def crs_name(crs: Any) -> str:
    """`EPSG:<code>` of a coordinate system, WKT where it has no code.

    Example:
        >>> crs_name("EPSG:32633")
        'EPSG:32633'
    """
    known = CRS.from_user_input(crs)
    code = known.to_epsg()
    return f"EPSG:{code}" if code is not None else str(known.to_wkt())


def utc_time(text: str) -> datetime:
    """UTC time of an ISO 8601 string; parts of a second beyond microseconds are dropped.

    Example:
        >>> utc_time("2021-07-21T08:40:10.000000000").isoformat()
        '2021-07-21T08:40:10+00:00'
    """
    time = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def time_in_name(name: str) -> datetime | None:
    """First time of the form `20170617T064724` in a product name, as UTC.

    Example:
        >>> time_in_name("S2A_MSIL2A_20220706T085611_N0400").isoformat()
        '2022-07-06T08:56:11+00:00'
    """
    found = _COMPACT_TIME.search(name)
    if found is None:
        return None
    return datetime.strptime(found[1] + found[2], "%Y%m%d%H%M%S").replace(tzinfo=UTC)


def subfolders(path: Path) -> list[Path]:
    """Folders in a folder, sorted by name, hidden ones left out."""
    if not path.is_dir():
        return []
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def same_shape(values: NDArray[Any], grid: Grid, path: Path) -> NDArray[Any]:
    """The values, after a check that they fill the grid.

    Raises:
        SourceError: they do not.
    """
    if values.shape[-2:] != grid.shape:
        raise SourceError(
            f"{path} is {values.shape[-2]} x {values.shape[-1]} px; its scene is "
            f"{grid.shape[0]} x {grid.shape[1]} px."
        )
    return values


def unobserved_db(values: NDArray[Any], *, nodata: float | None = None) -> NDArray[np.float64]:
    """Backscatter as float64 with NaN for no data and for what is not finite."""
    db = values.astype(np.float64)
    missing = ~np.isfinite(db)
    if nodata is not None and np.isfinite(nodata):
        missing |= values == nodata
    return np.where(missing, np.nan, db)


def _first_line(error: Exception) -> str:
    text = str(error.__cause__ or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
