"""Where a patch lies on Earth: its outline in longitude and latitude."""

from functools import lru_cache

import pyproj
import shapely
from pyproj.exceptions import CRSError, ProjError

from deepsentinel.corpus.patch import PatchRecord
from deepsentinel.errors import CorpusError


def locate(record: PatchRecord, size: int) -> tuple[float | None, float | None, bytes | None]:
    """Longitude and latitude of a patch's centre, and its outline as well-known binary.

    The outline is the patch's own square where grid and CRS are known, else the point, else
    `None`. One that crosses the antimeridian is cut there, as GeoJSON asks for.

    Args:
        record: what is known of the patch.
        size: its rows and columns.

    Raises:
        CorpusError: a CRS that PROJ does not know, or coordinates that are none.

    Example:
        >>> grid = PatchRecord(id="a", crs="EPSG:32631", transform=(10, 0, 500000, 0, -10, 5000000))
        >>> lon, lat, outline = locate(grid, 256)
        >>> round(lon, 3), round(lat, 3)
        (3.016, 45.142)
    """
    lon, lat = record.lon, record.lat
    if record.transform is None or record.crs is None:
        shape = None if lon is None or lat is None else shapely.Point(_checked(record, lon, lat))
        return lon, lat, None if shape is None else bytes(shapely.to_wkb(shape))
    corners = [(0, 0), (size, 0), (size, size), (0, size), (size / 2, size / 2)]
    *ring, centre = _to_lonlat(record, corners)
    if lon is None or lat is None:
        lon, lat = centre
    _checked(record, lon, lat)
    return lon, lat, bytes(shapely.to_wkb(_outline(ring)))


def _to_lonlat(record: PatchRecord, pixels: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if record.transform is None or record.crs is None:
        return []
    a, b, c, d, e, f = record.transform
    xs = [a * col + b * row + c for col, row in pixels]
    ys = [d * col + e * row + f for col, row in pixels]
    try:
        lons, lats = _transformer(record.crs).transform(xs, ys, errcheck=True)
    except (CRSError, ProjError) as error:
        raise CorpusError(
            f"patch {record.id!r}: its grid {record.transform} in crs {record.crs!r} has no place "
            f"on Earth ({error}). Give an EPSG code or WKT that PROJ knows, or crs=None."
        ) from error
    return [_checked(record, lon, lat) for lon, lat in zip(lons, lats, strict=True)]


@lru_cache(maxsize=256)
def _transformer(crs: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)


def _outline(ring: list[tuple[float, float]]) -> shapely.Geometry:
    lons = [lon for lon, _ in ring]
    if max(lons) - min(lons) < 180:
        return shapely.Polygon(ring)
    eastern = shapely.Polygon([(lon % 360, lat) for lon, lat in ring])
    west = shapely.intersection(eastern, shapely.box(0, -90, 180, 90))
    east = shapely.intersection(eastern, shapely.box(180, -90, 360, 90))
    moved = shapely.transform(east, lambda xy: xy - [360, 0])
    return shapely.MultiPolygon([west, moved])


def _checked(record: PatchRecord, lon: float, lat: float) -> tuple[float, float]:
    if not (-180 <= lon <= 180 and -90 <= lat <= 90):
        raise CorpusError(
            f"patch {record.id!r} lies at longitude {lon!r}, latitude {lat!r}; longitudes run from "
            "-180 to 180 and latitudes from -90 to 90."
        )
    return lon, lat
