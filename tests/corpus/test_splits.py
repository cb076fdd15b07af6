"""Splits by block: whole blocks, shares kept, nothing moves when patches are added."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.warp import transform

from deepsentinel.corpus.splits import DEFAULT_SPLITS, assign_splits, block_of
from deepsentinel.errors import SplitError


def test_one_place_is_one_block_in_any_projection():
    """The same point from two UTM zones: the block depends on the ground alone."""
    (x33,), (y33,) = transform("EPSG:4326", "EPSG:32633", [12.0], [50.0])
    places = [(12.0, 50.0)]
    for crs in ("EPSG:32632", "EPSG:3857", "EPSG:3035"):
        (x,), (y,) = transform("EPSG:32633", crs, [x33], [y33])
        (lon,), (lat,) = transform(crs, "EPSG:4326", [x], [y])
        places.append((round(lon, 9), round(lat, 9)))
    assert len({block_of(lon, lat, patch_id="p") for lon, lat in places}) == 1


@settings(max_examples=60)
@given(
    lat=st.floats(-84, 84), lon=st.floats(-179, 179), block_m=st.sampled_from([2000.0, 10_000.0])
)
def test_blocks_are_as_large_as_asked(lat, lon, block_m):
    """Two points farther apart than a block's diagonal never share one."""
    north = lat + 1.5 * block_m / 111_000
    east = lon + 1.5 * block_m / (111_000 * np.cos(np.radians(lat)))
    here = block_of(lon, lat, patch_id="p", block_m=block_m)
    assert block_of(lon, min(north, 90), patch_id="p", block_m=block_m) != here
    assert block_of(east, lat, patch_id="p", block_m=block_m) != here


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=3, max_size=120),
    seed=st.integers(0, 99),
)
def test_shares_are_kept_and_no_split_is_empty(sizes, seed):
    blocks = [f"b{i}" for i, n in enumerate(sizes) for _ in range(n)]
    split = assign_splits(blocks, DEFAULT_SPLITS, seed=seed)
    patches = Counter(split[b] for b in blocks)
    assert set(patches) == set(DEFAULT_SPLITS)
    if len(sizes) > 30:
        for name, share in DEFAULT_SPLITS.items():
            assert patches[name] == pytest.approx(share * len(blocks), abs=max(sizes) + 1)


def test_same_seed_same_splits_whatever_the_order():
    blocks = [f"b{i}" for i in range(50)]
    assert assign_splits(blocks, DEFAULT_SPLITS, seed=3) == assign_splits(
        blocks[::-1], DEFAULT_SPLITS, seed=3
    )
    assert assign_splits(blocks, DEFAULT_SPLITS, seed=3) != assign_splits(
        blocks, DEFAULT_SPLITS, seed=4
    )


def test_blocks_keep_their_split_when_others_come():
    old = [f"b{i}" for i in range(20)]
    first = assign_splits(old, DEFAULT_SPLITS, seed=0)
    both = assign_splits([*old, *(f"c{i}" for i in range(60))], DEFAULT_SPLITS, existing=first)
    assert {b: both[b] for b in old} == first
    patches = Counter(both.values())
    assert patches["train"] == pytest.approx(56, abs=1)


def test_a_share_of_zero_gets_nothing():
    split = assign_splits([f"b{i}" for i in range(9)], {"train": 1, "test": 0})
    assert set(split.values()) == {"train"}


@pytest.mark.parametrize("splits", [{}, {"train": 0}, {"train": 1, "val": -0.1}])
def test_shares_that_are_none(splits):
    with pytest.raises(SplitError, match="share"):
        assign_splits(["a"], splits)
