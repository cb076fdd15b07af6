"""Where the pixels of SSL4EO-S12 v1 really lie.

Its files say EPSG:4326, but their pixels were never warped: Earth Engine's `sampleRectangle` cut
each band from the product's own UTM grid, as all pixels that touch the region's bounding box there,
and each band was then cropped about its middle. The files got the corners of the region in degrees,
cut by the crop of the *first* band and moved by half a pixel (`download_data/
ssl4eo_s12_downloader.py` in github.com/zhu-xlab/SSL4EO-S12: `get_patch_s2`, `center_crop`,
`adjust_coords`, `save_geotiff`; its issues 22 and 24 report the misplacement).

All of this can be undone: the stated corners give the region, the region and the product's grid
(`system:bands` in `metadata.json`) give the pixels. What comes out is checked by what must agree:
the number of pixels before the crop, and one region for S1 and S2. In place 0000200 it says that
the 60 m bands lie 40 m right and down of the 10 m bands, and correlation finds just that; S1, which
the stated corners put 4 by 3 px off, lies within half a pixel.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from affine import Affine
from rasterio.warp import transform_bounds

from deepsentinel.corpus.sources.base import Grid
from deepsentinel.corpus.sources.files import crs_name
from deepsentinel.errors import SourceError

REGION_M: Final = 2640.0
"""Side of the region: twice the radius that the downloader asked for."""
_METRES_PER_DEGREE: Final = 111_195.0
_EXTRA_PIXELS: Final = 16
"""The crop takes away at most so many pixels."""


@dataclass(frozen=True)
class Region:
    """The longitude-latitude rectangle that one place was cut from, in degrees."""

    west: float
    south: float
    east: float
    north: float

    def agrees(self, other: "Region") -> bool:
        """Whether two files were cut from the same region, to a hundredth of a pixel."""
        edges = zip(self.edges(), other.edges(), strict=True)
        return all(abs(a - b) < 1e-6 for a, b in edges)

    def edges(self) -> tuple[float, float, float, float]:
        """West, south, east and north."""
        return self.west, self.south, self.east, self.north


@dataclass(frozen=True)
class ProductBand:
    """Grid of one band of the whole product, as Earth Engine states it."""

    transform: Affine
    crs: str

    @classmethod
    def of(cls, metadata: Mapping[str, Any], band: str) -> "ProductBand":
        """The band's grid from `metadata.json`.

        Raises:
            SourceError: the metadata do not hold it.
        """
        try:
            facts = metadata["system:bands"][band]
            return cls(Affine(*facts["crs_transform"]), crs_name(facts["crs"]))
        except (KeyError, TypeError) as error:
            raise SourceError(
                f"metadata.json does not state the grid of band {band} (system:bands): where its "
                "pixels lie cannot be recovered."
            ) from error

    def window(self, region: Region) -> tuple[int, int, int, int]:
        """First column and row, and number of columns and rows, that a region touches."""
        west, south, east, north = transform_bounds(
            "EPSG:4326", self.crs, region.west, region.south, region.east, region.north
        )
        a, _, c, _, e, f = tuple(self.transform)[:6]
        left, right = (west - c) / a, (east - c) / a
        top, bottom = (north - f) / e, (south - f) / e
        first = math.floor(left), math.floor(top)
        return *first, math.ceil(right) - first[0], math.ceil(bottom) - first[1]


def recover_region(stated: Affine, size: int, band: ProductBand, known: Region | None) -> Region:
    """The region behind the stated transform of a file of `size` x `size` pixels.

    Args:
        stated: transform of the first band's file.
        size: its rows and columns.
        band: that band of the product.
        known: region of another file of the place, if there is one: it must come out again.

    Raises:
        SourceError: no number of pixels before the crop agrees with what is stated.
    """
    found = [
        region
        for columns in range(size, size + _EXTRA_PIXELS)
        for rows in range(size, size + _EXTRA_PIXELS)
        if _is_one(region := _region(stated, size, columns, rows), known)
        and band.window(region)[2:] == (columns, rows)
    ]
    if not found:
        raise SourceError(
            "the stated corners agree with no pixels of the product that metadata.json names: "
            "where its pixels lie cannot be recovered."
        )
    return min(found, key=_misfit)


def true_grid(region: Region, band: ProductBand, size: int) -> Grid:
    """Grid of the pixels of a band's file of `size` x `size` pixels."""
    column, row, columns, rows = band.window(region)
    a, _, c, _, e, f = tuple(band.transform)[:6]
    left, top = column + _crop(columns, size), row + _crop(rows, size)
    return Grid((size, size), Affine(a, 0, c + left * a, 0, e, f + top * e), band.crs)


def _region(stated: Affine, size: int, columns: int, rows: int) -> Region:
    """The region, if the band had so many columns and rows before its crop to `size`."""
    width, height = stated.a, -stated.e
    west = stated.c + width / 2 - _crop(columns, size) * width
    north = stated.f - height / 2 + _crop(rows, size) * height
    return Region(west, north - rows * height, west + columns * width, north)


def _crop(count: int, size: int) -> int:
    """First pixel that the downloader's `center_crop` keeps."""
    return int((count - size + 1) * 0.5)


def _is_one(region: Region, known: Region | None) -> bool:
    return _misfit(region) < REGION_M / 50 if known is None else region.agrees(known)


def _misfit(region: Region) -> float:
    """Metres by which the region's sides differ from what the downloader asked for."""
    scale = math.cos(math.radians((region.south + region.north) / 2))
    width = (region.east - region.west) * _METRES_PER_DEGREE * scale
    height = (region.north - region.south) * _METRES_PER_DEGREE
    return max(abs(width - REGION_M), abs(height - REGION_M))
