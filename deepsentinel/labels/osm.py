"""OpenStreetMap features of a patch as a mask, as boxes and as a multi-hot label.

Features are GeoJSON: a FeatureCollection or a sequence of features with points, lines, polygons,
their Multi kinds and GeometryCollections, in longitude and latitude or another CRS that you name. A
geometry may also be the hex string of an (E)WKB, which the files of the original DeepSentinel hold;
one that carries its SRID is taken in that CRS.

Points become discs and lines strips, as wide as `osm_table` says for their class, but at least 1.42
pixels, so that none falls between the pixel centres. Everything is then drawn in pixel coordinates:
x to the right, y down, the upper-left corner of the patch at (0, 0).

A pixel without a feature has no class (-1): OpenStreetMap is not complete, so nothing mapped does
not mean nothing there.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import CRSError
from rasterio.features import rasterize
from rasterio.transform import Affine
from shapely.errors import ShapelyError
from shapely.geometry import shape as shapely_shape
from shapely.geometry.base import BaseGeometry, BaseMultipartGeometry

from deepsentinel.errors import LabelError
from deepsentinel.labels.classes import IGNORE
from deepsentinel.labels.osm_table import OSM, OSM_CLASSES
from deepsentinel.labels.osm_tags import osm_class, osm_tags

Features = Mapping[str, Any] | Iterable[Mapping[str, Any]]
"""A GeoJSON FeatureCollection, or its features."""

LON_LAT = "EPSG:4326"

_MIN_WIDTH_PX = 1.42  # the diagonal of a pixel


def osm_mask(
    features: Features,
    transform: Sequence[float],
    shape: tuple[int, int],
    *,
    crs: str,
    features_crs: str = LON_LAT,
) -> NDArray[np.int16]:
    """Class of every pixel centre, in the scheme `osm`.

    Args:
        features: a GeoJSON FeatureCollection, or its features.
        transform: affine (a, b, c, d, e, f) of the patch's pixel grid.
        shape: height and width of the patch in pixels.
        crs: CRS of the patch, such as `EPSG:32633` or WKT.
        features_crs: CRS of the coordinates, x (longitude) first.

    Returns:
        Ids (H, W); -1 where no feature lies. Where features overlap, the class that comes first in
        the scheme is on top.

    Raises:
        LabelError: a feature, CRS, transform or shape that cannot be used; features are named by
            their position and id.

    Example:
        >>> pond = {"type": "Polygon", "coordinates": [[[0, 0], [20, 0], [20, 10], [0, 10], [0, 0]]]}
        >>> feature = {"type": "Feature", "geometry": pond, "properties": {"natural": "water"}}
        >>> grid = (10.0, 0.0, 0.0, 0.0, -10.0, 20.0)
        >>> osm_mask([feature], grid, (2, 3), crs="EPSG:32633", features_crs="EPSG:32633")
        array([[-1, -1, -1],
               [11, 11, -1]], dtype=int16)
    """
    parts = _parts(features, _Grid.build(transform, shape, crs), features_crs)
    ordered = sorted(parts, key=lambda part: -part.class_id)  # the last one drawn is on top
    mask: NDArray[np.int16] = np.full(shape, IGNORE, dtype=np.int16)
    if ordered:
        drawn = [(part.outline, part.class_id) for part in ordered]
        rasterize(drawn, out=mask)
    return mask


def osm_boxes(
    features: Features,
    transform: Sequence[float],
    shape: tuple[int, int],
    *,
    crs: str,
    features_crs: str = LON_LAT,
    classes: Sequence[str] | None = None,
    min_size: float = 2.0,
) -> NDArray[np.float32]:
    """Boxes around features, for detection.

    Each polygon, line or point is one object; those of a Multi geometry are separate ones.

    Args:
        features: a GeoJSON FeatureCollection, or its features.
        transform: affine (a, b, c, d, e, f) of the patch's pixel grid.
        shape: height and width of the patch in pixels.
        crs: CRS of the patch.
        features_crs: CRS of the coordinates, x (longitude) first.
        classes: names of the classes to box; by default all of the scheme `osm`. A road or river
            has a box as large as the patch, so name the compact ones.
        min_size: pixels; a box that is narrower or lower than this inside the patch is left out.

    Returns:
        Rows x0, y0, x1, y1 in pixels, clipped at the patch's border, and class id: (N, 5), in
        the order of the features.

    Raises:
        LabelError: as `osm_mask`.
        UnknownNameError: a name in `classes` is not in the scheme.

    Example:
        >>> mast = {"type": "Point", "coordinates": [55, 45]}
        >>> feature = {"type": "Feature", "geometry": mast, "properties": {"power": "tower"}}
        >>> grid = (10.0, 0.0, 0.0, 0.0, -10.0, 100.0)
        >>> osm_boxes([feature], grid, (10, 10), crs="EPSG:32633", features_crs="EPSG:32633").shape
        (1, 5)
    """
    wanted = {OSM.find(name).id for name in (OSM.names if classes is None else classes)}
    parts = _parts(features, _Grid.build(transform, shape, crs), features_crs)
    boxes = [(*part.outline.bounds, part.class_id) for part in parts if part.class_id in wanted]
    rows = np.array(boxes, dtype=np.float32).reshape(-1, 5)
    sides = rows[:, 2:4] - rows[:, 0:2]
    return rows[(sides >= min_size).all(axis=1)]


def osm_multilabel(
    features: Features,
    transform: Sequence[float],
    shape: tuple[int, int],
    *,
    crs: str,
    features_crs: str = LON_LAT,
    min_area: float = 1.0,
) -> NDArray[np.int64]:
    """Which classes occur in the patch, as a multi-hot vector.

    Args:
        features: a GeoJSON FeatureCollection, or its features.
        transform: affine (a, b, c, d, e, f) of the patch's pixel grid.
        shape: height and width of the patch in pixels.
        crs: CRS of the patch.
        features_crs: CRS of the coordinates, x (longitude) first.
        min_area: pixels; a class counts if its features cover at least this much of the patch,
            whether or not others lie on top.

    Returns:
        0 or 1 per class of the scheme `osm`: (classes,).

    Raises:
        LabelError: as `osm_mask`.

    Example:
        >>> int(osm_multilabel([], (10, 0, 0, 0, -10, 0), (4, 4), crs="EPSG:32633").sum())
        0
    """
    area = np.zeros(len(OSM))
    for part in _parts(features, _Grid.build(transform, shape, crs), features_crs):
        area[part.class_id] += part.outline.area
    return ((area > 0) & (area >= min_area)).astype(np.int64)


@dataclass(frozen=True)
class _Part:
    """One polygon, line or point inside the patch."""

    class_id: int
    outline: BaseGeometry
    """Its area in pixel coordinates, clipped at the patch's border."""


@dataclass(frozen=True)
class _Grid:
    """The pixel grid of a patch, and a local CRS in metres for widths."""

    to_pixels: Affine
    shape: tuple[int, int]
    crs: str
    local_crs: str
    pixel_m: float

    @classmethod
    def build(cls, transform: Sequence[float], shape: tuple[int, int], crs: str) -> "_Grid":
        to_map = _affine(transform)
        height, width = shape
        if height < 1 or width < 1:
            raise LabelError(f"shape={shape} must be height and width in pixels, both positive.")
        steps = np.array([[0, 0], [1, 0], [0, 1]])  # the centre, one pixel right, one down
        xy = _applied(to_map, np.array([width / 2, height / 2]) + steps)
        lon, lat = _reproject(xy, crs, LON_LAT)[0]
        local = f"+proj=aeqd +lat_0={lat:.9f} +lon_0={lon:.9f} +datum=WGS84 +units=m"
        centre, right, down = _reproject(xy, crs, local)
        step = max(np.hypot(*(right - centre)), np.hypot(*(down - centre)))
        return cls(~to_map, (height, width), crs, local, float(step))

    def outline(self, part: BaseGeometry, crs: str, class_id: int) -> BaseGeometry:
        """A part as an area in pixel coordinates, clipped at the border of the patch."""
        if part.geom_type != "Polygon":
            row = OSM_CLASSES[class_id]
            width = row.point_m if part.geom_type == "Point" else row.line_m
            part = _projected(part, crs, self.local_crs)
            part = part.buffer(max(width, _MIN_WIDTH_PX * self.pixel_m) / 2)
            crs = self.local_crs
        pixels = shapely.transform(_projected(part, crs, self.crs), self._pixels)
        valid = pixels if pixels.is_valid else shapely.make_valid(pixels)
        return valid.intersection(shapely.box(0, 0, self.shape[1], self.shape[0]))

    def _pixels(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return _applied(self.to_pixels, xy)


def _parts(features: Features, grid: _Grid, features_crs: str) -> list[_Part]:
    parts = []
    for name, feature in _listed(features):
        class_id = osm_class(osm_tags(feature.get("properties") or {}))
        geometry = None if class_id is None else _geometry(feature, name)
        if class_id is None or geometry is None:
            continue
        srid = shapely.get_srid(geometry)
        crs = f"EPSG:{srid}" if srid else features_crs
        for part in _simple(geometry):
            outline = grid.outline(part, crs, class_id)
            if outline.area > 0:
                parts.append(_Part(class_id, outline))
    return parts


def _listed(features: Features) -> Iterator[tuple[str, Mapping[str, Any]]]:
    listed = features.get("features") if isinstance(features, Mapping) else features
    if listed is None or isinstance(listed, str | bytes):
        raise LabelError(
            f"features must be a GeoJSON FeatureCollection or a sequence of features, not "
            f"{type(features).__name__}. To read a file, pass json.loads(path.read_text())."
        )
    for position, feature in enumerate(listed):
        name = f"feature {position}"
        if not isinstance(feature, Mapping) or "geometry" not in feature:
            raise LabelError(f"{name} is not a GeoJSON feature: {str(feature)[:80]!r}.")
        osm_id = feature.get("id", (feature.get("properties") or {}).get("osm_id"))
        yield (name if osm_id is None else f"{name} (id {osm_id})"), feature


def _geometry(feature: Mapping[str, Any], name: str) -> BaseGeometry | None:
    """The geometry; `None` where the feature has none, which GeoJSON allows."""
    value = feature["geometry"]
    if value is None:
        return None
    try:
        geometry = shapely.from_wkb(value) if isinstance(value, str) else shapely_shape(value)
    except (ShapelyError, AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise LabelError(
            f"{name}: its geometry cannot be read: {error}. It must be a GeoJSON geometry or the "
            f"hex string of a WKB, not {str(value)[:80]!r}."
        ) from error
    if not np.isfinite(shapely.get_coordinates(geometry)).all():
        raise LabelError(f"{name}: its coordinates are not all finite numbers.")
    return geometry


def _simple(geometry: BaseGeometry) -> Iterator[BaseGeometry]:
    if isinstance(geometry, BaseMultipartGeometry):
        for part in geometry.geoms:
            yield from _simple(part)
    elif not geometry.is_empty:
        yield geometry


def _projected(geometry: BaseGeometry, source: str, target: str) -> BaseGeometry:
    return shapely.transform(geometry, lambda xy: _reproject(xy, source, target))


def _reproject(xy: NDArray[np.float64], source: str, target: str) -> NDArray[np.float64]:
    if source == target:
        return xy
    moved = np.stack(_transformer(source, target).transform(xy[:, 0], xy[:, 1]), axis=1)
    if not np.isfinite(moved).all():
        raise LabelError(
            f"coordinates around {xy[0].tolist()} cannot be brought from {source} to {target}. "
            "Are they really in that CRS, x or longitude first? features_crs names another."
        )
    return moved


@lru_cache(maxsize=64)  # one local CRS a patch: do not keep them all
def _transformer(source: str, target: str) -> pyproj.Transformer:
    try:
        return pyproj.Transformer.from_crs(source, target, always_xy=True)
    except CRSError as error:
        raise LabelError(
            f"no way from CRS {source!r} to {target!r}: {error}. Give CRSs like 'EPSG:32633'."
        ) from error


def _applied(affine: Affine, xy: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y = xy[:, 0], xy[:, 1]
    columns = affine.a * x + affine.b * y + affine.c
    return np.stack([columns, affine.d * x + affine.e * y + affine.f], axis=1)


def _affine(transform: Sequence[float]) -> Affine:
    affine = Affine(*[float(value) for value in tuple(transform)[:6]])
    if affine.is_degenerate:
        raise LabelError(f"transform={tuple(transform)} maps pixels onto a line: not a pixel grid.")
    return affine
