"""What every kind of source gives the converter: scenes (facts), and the pixels of a scene.

A scene here is whatever the source keeps together: a pair of S1 and S2, or one of them. Adding a
kind means one module with a class that fulfils `Source` and a row in `SOURCES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, cast, get_args

from affine import Affine
from numpy.typing import NDArray
from rasterio.warp import transform as transform_points

from deepsentinel.bands import Sensor
from deepsentinel.corpus.format import LabelSpec
from deepsentinel.corpus.patch import PatchRecord
from deepsentinel.corpus.resample import Method, reproject
from deepsentinel.errors import SourceError, UnknownNameError, nearest

S2Level = Literal["L1C", "L2A"]


def check_level(level: str) -> S2Level:
    """The processing level of that name; an unknown one is an error.

    Example:
        >>> check_level("L1C")
        'L1C'
    """
    for known in get_args(S2Level):
        if level == known:
            return cast("S2Level", known)
    raise UnknownNameError(f"unknown level {level!r}. {nearest(level, get_args(S2Level))}")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What a caller may choose about reading a source."""

    resampling: Method = "bilinear"
    """How 20 m and 60 m bands come to 10 m."""
    s2_level: S2Level = "L2A"
    """Which level to take where a source holds both."""
    s1_range: tuple[float, float] | None = None
    """dB that 0 and 255 stand for, where S1 was scaled to 8 bit."""
    s2_range: tuple[float, float] | None = None
    """Reflectance that 0 and 255 stand for, where S2 was scaled to 8 bit."""


@dataclass(frozen=True)
class Grid:
    """Pixel grid: rows and columns, where they lie, and in which coordinate system."""

    shape: tuple[int, int]
    """(H, W)."""
    transform: Affine | None = None
    crs: str | None = None
    """Such as `EPSG:32633`; WKT where there is no code."""

    def window(self, row: int, column: int, size: int) -> "Grid":
        """The square part of `size` pixels that begins at a row and column.

        Example:
            >>> Grid((8, 8), Affine(10, 0, 0, 0, -10, 80)).window(4, 2, 4).transform[2::3]
            (20.0, 40.0, 1.0)
        """
        if self.transform is None:
            return Grid((size, size), None, self.crs)
        a, b, _, d, e, _ = tuple(self.transform)[:6]
        x, y = _point(self.transform, row=row, column=column)
        return Grid((size, size), Affine(a, b, x, d, e, y), self.crs)

    def centre(self) -> tuple[float | None, float | None]:
        """Longitude and latitude of the centre; `None` where the grid has no position.

        Example:
            >>> Grid((2, 2), Affine(1, 0, 10, 0, -1, 50), "EPSG:4326").centre()
            (11.0, 49.0)
        """
        if self.transform is None or self.crs is None:
            return None, None
        x, y = _point(self.transform, row=self.shape[0] / 2, column=self.shape[1] / 2)
        if self.crs == "EPSG:4326":
            return float(x), float(y)
        (lon,), (lat,) = transform_points(self.crs, "EPSG:4326", [x], [y])
        return float(lon), float(lat)


@dataclass(frozen=True)
class Layer:
    """Digital numbers of one band on its own grid; 0 or NaN = no data."""

    dn: NDArray[Any]
    transform: Affine | None = None
    """`None`: the grid spans the same area as the scene's."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Facts of one scene of a source, without pixels."""

    record: PatchRecord
    """Facts shared by its patches; `id` is the source's own name of it, position is left out."""
    grid: Grid
    """The 10 m grid that its patches are cut from."""
    files: Mapping[str, Any] = field(default_factory=dict)
    """Where its pixels are; for the source alone."""


@dataclass(frozen=True, kw_only=True)
class ScenePixels:
    """Pixels of one scene."""

    s1: NDArray[Any] | None = None
    """(bands, H, W) dB on the scene's 10 m grid, NaN = not observed; `None` = absent."""
    s2: Mapping[str, Layer] | None = None
    """Bands by name, each at its own resolution; `None` = absent."""
    rasters: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Masks, `cloud` and `dem` (H, W) on the scene's 10 m grid, by name."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Something that a source holds and the corpus does not."""

    name: str
    reason: str
    remedy: str | None = None
    """Option that would include it, if there is one."""


@dataclass(frozen=True, kw_only=True)
class SourceFacts:
    """What is true of a source as a whole."""

    title: str
    licence: str | None
    citation: str | None
    bands: Mapping[Sensor, tuple[str, ...]]
    labels: tuple[LabelSpec, ...] = ()
    extras: tuple[str, ...] = ()


class Source(Protocol):
    """A folder (or file) of one kind."""

    KIND: ClassVar[str]
    LOOKS_FOR: ClassVar[str]
    """What must be there for a folder to count as this kind, for the error message."""

    def __init__(self, path: Path, options: SourceOptions) -> None: ...

    @staticmethod
    def detect(path: Path) -> bool:
        """Whether the folder looks like this kind."""

    @property
    def facts(self) -> SourceFacts:
        """What is true of all its scenes."""

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What it holds and cannot give."""

    def scenes(self) -> list[Scene]:
        """Its scenes, always in the same order."""

    def load(self, scene: Scene) -> ScenePixels:
        """Pixels of one scene.

        Raises:
            SourceError: a file is missing, broken or not what it should be.
        """


def onto(values: NDArray[Any], own: Grid, target: Grid, *, method: Method) -> NDArray[Any]:
    """Values (h, w) of one grid on another, NaN = not observed; both have a position.

    Raises:
        SourceError: one has none.
    """
    if own.transform is None or own.crs is None or target.transform is None or target.crs is None:
        raise SourceError("a grid without position cannot be brought onto another.")
    return reproject(
        values,
        own.transform,
        target.transform,
        target.shape,
        source_crs=own.crs,
        target_crs=target.crs,
        method=method,
    )


def _point(transform: Affine, *, row: float, column: float) -> tuple[float, float]:
    a, b, c, d, e, f = tuple(transform)[:6]
    return a * column + b * row + c, d * column + e * row + f
