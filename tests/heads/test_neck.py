"""The neck keeps every map in its place on the ground, over any pyramid and any size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepsentinel.errors import ShapeError
from deepsentinel.features import Features
from deepsentinel.heads.neck import Neck, cells, extend, nearest_maps, resample, to_pixels

PYRAMIDS = [(1,), (4,), (8, 16), (14,), (16, 16, 16), (4, 8, 16, 32), (1, 2, 4), (8, 14, 32), (32,)]
WANTED = [(4, 8, 16, 32), (2, 4, 8, 16, 32), (1,), (16,)]


def ramp(stride: int, size: tuple[int, int]) -> torch.Tensor:
    """Each cell holds the coordinates of its own centre, in pixels of the input."""
    y = (torch.arange(cells(size[0], stride)) + 0.5) * stride
    x = (torch.arange(cells(size[1], stride)) + 0.5) * stride
    return torch.stack(torch.meshgrid(y, x, indexing="ij"))[None]


def features(strides: tuple[int, ...], size: tuple[int, int], channels: int = 3) -> Features:
    maps = tuple(torch.randn(2, channels, *(cells(n, s) for n in size)) for s in strides)
    return Features(torch.zeros(2, channels), maps, strides)


@pytest.mark.parametrize("size", [(16, 16), (61, 47), (64, 120), (33, 128)])
@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("strides", PYRAMIDS)
def test_every_pyramid_gives_the_wanted_strides(strides, wanted, size) -> None:
    neck = Neck([3] * len(strides), strides, wanted, channels=5)
    maps = neck(features(strides, size), size)
    P, Q = (-(-n // wanted[-1]) * wanted[-1] for n in size)
    assert [tuple(m.shape) for m in maps] == [(2, 5, P // w, Q // w) for w in wanted]


@settings(max_examples=60)
@given(
    stride=st.sampled_from([1, 2, 4, 8, 14, 16, 32]),
    wanted=st.sampled_from([1, 2, 4, 8, 16, 32]),
    size=st.tuples(st.integers(16, 130), st.integers(16, 130)),
)
def test_a_cell_stays_where_it_is_on_the_ground(stride, wanted, size) -> None:
    result = resample(ramp(stride, size), stride, wanted, *(cells(n, wanted) for n in size))
    truth = ramp(wanted, size)
    # Bilinear and mean keep a linear ramp exactly, but for half a cell at the borders.
    margin = -(-max(stride, wanted) // wanted)
    inner = (..., slice(margin, -margin - 1), slice(margin, -margin - 1))
    assert torch.allclose(result[inner], truth[inner], atol=1e-3)
    assert (result - truth).abs().max() <= max(stride, wanted)


def test_coarser_by_a_whole_factor_is_the_mean() -> None:
    x = torch.randn(1, 2, 8, 12)
    slow = np.array(
        [
            [
                [x[0, c, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean() for j in range(3)]
                for i in (0, 1)
            ]
            for c in (0, 1)
        ]
    )
    np.testing.assert_allclose(resample(x, 4, 16, 2, 3)[0], slow, rtol=1e-5, atol=1e-6)


def test_equal_strides_pass_through_untouched() -> None:
    f = features((4, 8), (32, 32))
    for given_map, kept in zip(f.maps, Neck((3, 3), (4, 8), (4, 8))(f, (32, 32)), strict=True):
        assert torch.equal(given_map, kept)


def test_the_border_is_continued_not_stretched() -> None:
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert extend(x, 3, 5)[0, 0].tolist() == [[0, 1, 2, 2, 2], [3, 4, 5, 5, 5], [3, 4, 5, 5, 5]]


def test_to_pixels_cuts_what_lies_beyond_the_input() -> None:
    assert to_pixels(torch.zeros(1, 2, 4, 4), 14, (50, 56)).shape == (1, 2, 50, 56)


def test_blocks_of_one_stride_are_dealt_out_in_order() -> None:
    assert nearest_maps((16, 16), (4, 8, 16, 32)) == (0, 0, 0, 1)
    assert nearest_maps((16, 16, 16, 16, 16), (8, 16)) == (3, 4)
    assert nearest_maps((4, 16, 16), (4, 16, 32)) == (0, 1, 2)


def test_a_pyramid_without_maps_is_refused() -> None:
    with pytest.raises(ShapeError, match="at least one"):
        Neck((), (), (4,))


def test_gradients_reach_every_map_that_is_used() -> None:
    f = features((16, 16, 16), (64, 64))
    maps = tuple(m.requires_grad_() for m in f.maps)
    out = Neck((3, 3, 3), (16, 16, 16), (4, 8, 16, 32), channels=2)(
        Features(f.embedding, maps, f.strides), (64, 64)
    )
    sum(m.sum() for m in out).backward()
    assert all(m.grad is not None and m.grad.abs().sum() > 0 for m in maps)
