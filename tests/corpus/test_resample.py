"""Resampling against slow loops over pixel centres and against GDAL."""

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.warp import Resampling
from rasterio.warp import reproject as gdal

from deepsentinel.corpus.resample import METHODS, check_method, reproject, resample
from deepsentinel.errors import ShapeError, UnknownNameError

TWENTY = Affine(20, 0, 500, 0, -20, 900)
TEN = Affine(10, 0, 500, 0, -10, 900)


@pytest.mark.parametrize("method", METHODS)
def test_equal_grids_are_untouched(rng, method):
    values = rng.normal(size=(7, 5))
    values[2, 3] = np.nan
    np.testing.assert_array_equal(resample(values, TEN, TEN, (7, 5), method=method), values)


def slow_bilinear(values, y, x):
    """Bilinear at fractional pixel-centre indices, edges repeated, NaN neighbours left out."""
    total = weights = 0.0
    h, w = values.shape
    for i in (int(np.floor(y)), int(np.floor(y)) + 1):
        for j in (int(np.floor(x)), int(np.floor(x)) + 1):
            weight = (1 - abs(y - i)) * (1 - abs(x - j))
            value = values[min(max(i, 0), h - 1), min(max(j, 0), w - 1)]
            if np.isfinite(value) and weight > 0:
                total += weight * value
                weights += weight
    return total / weights if weights > 0 else np.nan


@settings(max_examples=25)
@given(seed=st.integers(0, 9999), scale=st.sampled_from([2, 6]), holes=st.floats(0, 0.5))
def test_bilinear_is_the_slow_loop(seed, scale, holes):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(6, 5))
    values[rng.random((6, 5)) < holes] = np.nan
    found = resample(values, Affine.scale(scale), Affine.identity(), (6 * scale, 5 * scale))
    for i in range(6 * scale):
        for j in range(5 * scale):
            y, x = (i + 0.5) / scale - 0.5, (j + 0.5) / scale - 0.5
            near = values[i // scale, j // scale]
            wanted = slow_bilinear(values, y, x) if np.isfinite(near) else np.nan
            assert found[i, j] == pytest.approx(wanted, abs=1e-6, nan_ok=True)


def test_nearest_repeats_each_pixel(rng):
    values = rng.normal(size=(4, 3))
    found = resample(values, TWENTY, TEN, (8, 6), method="nearest")
    np.testing.assert_array_equal(found, np.repeat(np.repeat(values, 2, 0), 2, 1))


@pytest.mark.parametrize("method", ["bilinear", "cubic"])
@pytest.mark.parametrize("step", [20, 60])
def test_inside_it_is_gdal(rng, method, step):
    values = rng.normal(size=(12, 12))
    source = Affine(step, 0, 500, 0, -step, 900)
    n = 12 * step // 10
    found = resample(values, source, TEN, (n, n), method=method)
    wanted = np.zeros((n, n))
    gdal(
        values, wanted, src_transform=source, dst_transform=TEN, src_crs="EPSG:32633",
        dst_crs="EPSG:32633", resampling=Resampling[method],
    )  # fmt: skip
    edge = 3 * step // 10
    np.testing.assert_allclose(
        found[edge:-edge, edge:-edge], wanted[edge:-edge, edge:-edge], atol=1e-6
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_plane_stays_a_plane(method):
    """Pixel centres are aligned: a linear field comes out as itself, off by none of half a pixel."""
    centres = 20 * np.arange(10) + 10.0
    plane = centres[:, None] * 3 + centres[None, :]
    found = resample(plane, Affine.scale(20), Affine.scale(10), (20, 20), method=method)
    fine = 10 * np.arange(20) + 5.0
    wanted = fine[:, None] * 3 + fine[None, :]
    tolerance = 21 if method == "nearest" else 1e-9
    np.testing.assert_allclose(found[4:-4, 4:-4], wanted[4:-4, 4:-4], atol=tolerance)


def test_outside_the_source_is_not_observed():
    found = resample(np.ones((2, 2)), Affine(20, 0, 40, 0, 20, 0), Affine.scale(10), (4, 8))
    assert np.isnan(found[:, :4]).all()
    assert (found[:, 4:] == 1).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_hole_stays_a_hole_of_its_size(method):
    values = np.ones((6, 6))
    values[2, 3] = np.nan
    found = resample(values, TWENTY, TEN, (12, 12), method=method)
    hole = np.zeros((12, 12), bool)
    hole[4:6, 6:8] = True
    np.testing.assert_array_equal(np.isnan(found), hole)
    np.testing.assert_allclose(found[~hole], 1)


def test_reproject_moves_to_another_zone(rng):
    """There and back is the same image, up to interpolation."""
    image = np.add.outer(np.arange(40.0), 2 * np.arange(40.0))
    there = Affine(10, 0, 499_800, 0, -10, 5_000_200)
    back = Affine(10, 0, 499_900, 0, -10, 5_000_100)
    first = reproject(
        image, there, Affine(10, 0, 27_000, 0, -10, 5_019_000), (400, 400),
        source_crs="EPSG:32633", target_crs="EPSG:32634",
    )  # fmt: skip
    again = reproject(
        first, Affine(10, 0, 27_000, 0, -10, 5_019_000), back, (20, 20),
        source_crs="EPSG:32634", target_crs="EPSG:32633",
    )  # fmt: skip
    assert np.isnan(first).any()
    np.testing.assert_allclose(again, image[10:30, 10:30], atol=0.2)


def test_errors():
    with pytest.raises(ShapeError, match="reproject"):
        resample(np.ones((2, 2)), Affine.rotation(10), TEN, (2, 2))
    with pytest.raises(UnknownNameError, match="bilinear"):
        check_method("bilinaer")
