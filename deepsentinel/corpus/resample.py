"""Rasters from one pixel grid to another: exact where the grids agree, blind to what is NaN.

`resample` serves the usual case, 20 m and 60 m bands of a patch onto its 10 m grid: same axes, so
two small weight matrices do it. Pixel centres are aligned by the transforms: the value of a 20 m
pixel belongs to its centre, the common corner of its four 10 m pixels. `reproject` serves grids of
another coordinate system or rotation.
"""

from typing import Any, Final, Literal, get_args

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.warp import Resampling
from rasterio.warp import reproject as warp

from deepsentinel.errors import ShapeError, UnknownNameError, nearest

Method = Literal["nearest", "bilinear", "cubic"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
_REACH: Final[dict[Method, int]] = {"nearest": 0, "bilinear": 1, "cubic": 2}
_CUBIC_A: Final = -0.5  # Keys (1981): third-order accurate; GDAL's "cubic" too


def check_method(method: str) -> Method:
    """The method of that name; an unknown one is an error.

    Example:
        >>> check_method("bilinear")
        'bilinear'
    """
    for known in METHODS:
        if method == known:
            return known
    raise UnknownNameError(f"unknown resampling {method!r}. {nearest(method, METHODS)}")


def resample(
    values: NDArray[Any],
    source: Affine,
    target: Affine,
    shape: tuple[int, int],
    *,
    method: Method = "bilinear",
) -> NDArray[np.float64]:
    """Values of one band at the pixel centres of another grid with parallel axes.

    A target pixel is NaN where its nearest source pixel is NaN or where it lies outside the
    source; other NaN neighbours are left out of the average. Equal grids return equal values.

    Args:
        values: (h, w); NaN = not observed.
        source: transform of `values`.
        target: transform of the result, in the same coordinate system.
        shape: (H, W) of the result.
        method: `nearest`, `bilinear` or `cubic`.

    Raises:
        ShapeError: a grid is rotated; use `reproject`.

    Example:
        >>> coarse = np.array([[1.0, 5.0]])
        >>> resample(coarse, Affine.scale(20), Affine.scale(10), (2, 4))[0].tolist()
        [1.0, 2.0, 4.0, 5.0]
        >>> resample(coarse, Affine.scale(20), Affine.scale(10), (2, 4), method="nearest")[0].tolist()
        [1.0, 1.0, 5.0, 5.0]
    """
    for grid in (source, target):
        if grid.b or grid.d:
            raise ShapeError(f"the grid {tuple(grid)[:6]} is rotated; use reproject instead.")
    rows = _positions(target.e, target.f, source.e, source.f, shape[0])
    columns = _positions(target.a, target.c, source.a, source.c, shape[1])
    observed = np.isfinite(values)
    filled = np.where(observed, values, 0.0).astype(np.float64)
    near = _apply(np.where(observed, values, np.nan), rows, columns)
    if method == "nearest":
        return near
    result = _average(filled, observed, rows, columns, method)
    return np.where(np.isfinite(near), result, np.nan)


def reproject(
    values: NDArray[Any],
    source: Affine,
    target: Affine,
    shape: tuple[int, int],
    *,
    source_crs: str,
    target_crs: str,
    method: Method = "bilinear",
) -> NDArray[np.float64]:
    """Values of one band (h, w) on any other grid, through GDAL's warper; NaN = not observed.

    Example:
        >>> image = np.arange(16.0).reshape(4, 4)
        >>> moved = reproject(
        ...     image, Affine(1, 0, 0, 0, -1, 4), Affine(1, 0, 1, 0, -1, 4), (4, 3),
        ...     source_crs="EPSG:32633", target_crs="EPSG:32633", method="nearest",
        ... )
        >>> bool((moved == image[:, 1:]).all())
        True
    """
    result = np.full(shape, np.nan)
    with rasterio.Env():
        warp(
            values.astype(np.float64),
            result,
            src_transform=source,
            src_crs=source_crs,
            src_nodata=np.nan,
            dst_transform=target,
            dst_crs=target_crs,
            dst_nodata=np.nan,
            init_dest_nodata=True,
            resampling=Resampling[method],
        )
    return result


def _positions(step: float, start: float, src_step: float, src_start: float, n: int) -> Any:
    """Fractional source index of each target pixel centre along one axis."""
    centres = start + (np.arange(n) + 0.5) * step
    return np.round((centres - src_start) / src_step - 0.5, 8)  # so that equal grids stay exact


def _apply(values: NDArray[Any], rows: Any, columns: Any) -> NDArray[np.float64]:
    """Nearest source pixel of each target pixel; NaN outside."""
    result = values.astype(np.float64)
    for axis, position in enumerate((rows, columns)):
        size = values.shape[axis]
        inside = (position >= -0.5) & (position <= size - 0.5)
        index = np.clip(np.floor(position + 0.5).astype(int), 0, size - 1)
        result = np.take(result, index, axis=axis)
        result = np.where(inside[:, None] if axis == 0 else inside[None, :], result, np.nan)
    return result


def _average(
    filled: NDArray[Any], observed: NDArray[np.bool_], rows: Any, columns: Any, method: Method
) -> NDArray[np.float64]:
    across, along = (
        _weights(p, s, method) for p, s in zip((rows, columns), filled.shape, strict=True)
    )
    result: NDArray[np.float64] = across @ filled @ along.T
    if observed.all():
        return result
    if method == "cubic":  # its negative weights cannot be renormalised: bilinear near NaN
        weight = abs(across) @ ~observed @ abs(along).T
        return np.where(weight > 0, _average(filled, observed, rows, columns, "bilinear"), result)
    weight = across @ observed @ along.T
    return np.divide(result, weight, out=np.full_like(result, np.nan), where=weight > 0)


def _weights(position: Any, size: int, method: Method) -> NDArray[np.float64]:
    """(n, size) weights of the source pixels along one axis; the edge pixel is repeated outside."""
    weights = np.zeros((len(position), size))
    first = np.floor(position).astype(int)
    reach = _REACH[method]
    for shift in range(1 - reach, 1 + reach):
        distance = np.abs(position - (first + shift))
        index = np.clip(first + shift, 0, size - 1)
        np.add.at(weights, (np.arange(len(position)), index), _kernel(distance, method))
    return weights


def _kernel(distance: Any, method: Method) -> Any:
    if method == "bilinear":
        return np.maximum(1 - distance, 0)
    a, d = _CUBIC_A, distance
    inner = (a + 2) * d**3 - (a + 3) * d**2 + 1
    outer = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, inner, np.where(d < 2, outer, 0.0))
