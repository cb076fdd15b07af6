"""Moves are exact: coordinate images, boxes and the geotransform stay together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from deepsentinel.datasets import geometry
from deepsentinel.errors import SampleError, ShapeError
from deepsentinel.sample import PatchMeta, Sample

HEIGHT, WIDTH = 12, 9
TRANSFORM = (10.0, 0.5, 500_000.0, -0.25, -10.0, 5_500_000.0)


def world(transform, height, width):
    """(2, H, W) coordinates of pixel centres, computed from the transform alone."""
    a, b, c, d, e, f = transform
    rows, columns = np.indices((height, width)) + 0.5
    x = a * columns + b * rows + c
    y = d * columns + e * rows + f
    return torch.from_numpy(np.stack((x, y)))


def coordinate_sample() -> Sample:
    boxes = torch.tensor([[2.0, 3.0, 5.0, 7.0], [0.0, 10.0, 9.0, 12.0], [8.0, 0.0, 9.0, 1.0]])
    painted = torch.zeros(3, HEIGHT, WIDTH)
    for i, (x0, y0, x1, y1) in enumerate(boxes.int().tolist()):
        painted[i, y0:y1, x0:x1] = 1
    return {
        "meta": PatchMeta(id="a", crs="EPSG:32633", transform=TRANSFORM, lon=15.0, lat=49.6),
        "image_s1": world(TRANSFORM, HEIGHT, WIDTH),
        "target": painted,
        "mask": torch.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH),
        "bbox_xyxy": boxes,
        "label": torch.arange(3),
    }


def crop_some(sample: Sample) -> Sample:
    rows, columns = geometry.size(sample)
    return geometry.crop(sample, rows // 4, columns // 5, rows - rows // 3, columns - columns // 3)


MOVES = {
    "hflip": geometry.hflip,
    "vflip": geometry.vflip,
    "rot90": geometry.rot90,
    "crop": crop_some,
}


@settings(max_examples=60)
@given(st.lists(st.sampled_from(sorted(MOVES)), max_size=5))
def test_every_chain_of_moves_keeps_pixels_boxes_and_grid_together(names):
    sample = coordinate_sample()
    for name in names:
        sample = MOVES[name](sample)
    rows, columns = geometry.size(sample)
    assert torch.allclose(sample["image_s1"], world(sample["meta"].transform, rows, columns))
    seen = []
    for i, painted in enumerate(sample["target"]):
        where = painted.nonzero()
        if len(where):
            low, high = where.min(0).values, where.max(0).values + 1
            seen.append((i, [low[1].item(), low[0].item(), high[1].item(), high[0].item()]))
    assert sample["label"].tolist() == [i for i, _ in seen]
    assert sample["bbox_xyxy"].tolist() == [box for _, box in seen]


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_the_given_sample_is_left_as_it_was(move):
    sample = coordinate_sample()
    before = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in sample.items()}
    move(sample)
    assert list(sample) == list(before)
    assert all(
        torch.equal(sample[k], v) if isinstance(v, torch.Tensor) else sample[k] == v
        for k, v in before.items()
    )


def test_moves_undo_themselves():
    sample = coordinate_sample()
    for again in (
        geometry.hflip(geometry.hflip(sample)),
        geometry.vflip(geometry.vflip(sample)),
        geometry.rot90(geometry.rot90(sample, 3), 1),
        geometry.rot90(sample, -4),
    ):
        assert torch.equal(again["mask"], sample["mask"])
        assert again["meta"].transform == pytest.approx(TRANSFORM)


def test_rot90_is_numpys():
    mask = np.arange(12).reshape(3, 4)
    for turns in range(-1, 5):
        turned = geometry.rot90({"mask": torch.from_numpy(mask)}, turns)["mask"]
        assert np.array_equal(turned.numpy(), np.rot90(mask, turns))


def test_nan_and_values_survive_to_the_last_bit():
    image = torch.rand(2, 6, 6)
    image[0, 1, 2] = float("nan")
    moved = geometry.rot90(geometry.hflip({"image_s2": image}))["image_s2"]
    assert moved.isnan().sum() == 1
    assert torch.equal(moved[moved.isfinite()].sort().values, image[image.isfinite()].sort().values)


def test_crop_moves_the_centre():
    sample = coordinate_sample()
    meta = geometry.crop(sample, 2, 0, 4, 4)["meta"]
    middle = world(TRANSFORM, HEIGHT, WIDTH)[:, 2:6, 0:4].mean((1, 2)).tolist()
    expected = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True).transform(*middle)
    assert (meta.lon, meta.lat) == pytest.approx(expected, abs=1e-9)


def test_crop_to_the_whole_changes_nothing():
    sample = coordinate_sample()
    assert geometry.crop(sample, 0, 0, HEIGHT, WIDTH)["meta"] == sample["meta"]


@pytest.mark.parametrize("window", [(0, 0, 13, 4), (-1, 0, 4, 4), (0, 6, 4, 4), (0, 0, 0, 4)])
def test_a_window_outside_is_refused(window):
    with pytest.raises(ShapeError, match="does not lie within the sample of 12x9"):
        geometry.crop(coordinate_sample(), *window)


def test_errors_name_what_is_wrong():
    with pytest.raises(SampleError, match=r"\['label'\]"):
        geometry.hflip({"label": torch.tensor(1)})
    with pytest.raises(ShapeError, match="differ in size"):
        geometry.hflip({"mask": torch.zeros(4, 4), "image_s1": torch.zeros(2, 8, 8)})


def test_a_target_of_the_patch_is_not_a_raster():
    out = geometry.hflip({"mask": torch.zeros(2, 2), "target": torch.tensor([1.0, 2.0])})
    assert out["target"].tolist() == [1.0, 2.0]
