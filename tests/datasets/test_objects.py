"""Objects in synthetic scenes: where they stand, what each sensor sees, their way into a batch."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from deepsentinel.bands import S2_BANDS
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.objects import MARGIN, OBJECTS, place_objects, window_boxes
from deepsentinel.datasets.synthetic import synthetic_scene, write_synthetic_corpus
from deepsentinel.sample import collate

ID = {name: i for i, name in enumerate(OBJECTS.names)}


@pytest.fixture(scope="module")
def pairs():
    """Scenes with and without objects on the same ground."""
    return [
        [synthetic_scene(128, seed=s, objects=planted) for planted in (True, False)]
        for s in range(8)
    ]


def _cells(box):
    x0, y0, x1, y1 = (int(v) for v in box[:4])
    return (..., slice(y0, y1), slice(x0, x1))


def test_the_ground_is_the_same_and_only_objects_differ(pairs):
    for planted, plain in pairs:
        assert np.array_equal(planted.landcover, plain.landcover)
        assert plain.objects.shape == (0, 5)
        changed = planted.s1 != plain.s1
        known = np.zeros(changed.shape[1:], bool)
        for box in planted.objects:
            known[_cells(box)] = True
        # in linear power and back, what holds no object moves by a rounding at most
        assert np.abs(planted.s1 - plain.s1)[:, ~known].max() < 1e-4
        assert changed[:, known].any()


def test_every_class_needs_what_it_is_said_to_need(pairs):
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in ID}
    for planted, plain in pairs:
        for box in planted.objects:
            cells = _cells(box)
            radar = float((planted.s1[cells] - plain.s1[cells]).mean())
            red = S2_BANDS.index("B04")
            light = float(np.abs(planted.s2[red][cells] - plain.s2[red][cells]).mean())
            seen[OBJECTS.names[int(box[4])]].append((radar, light))
            on_water = plain.landcover[cells] == 0
            assert on_water.all() if box[4] == ID["ship"] else not on_water.any()
    medians = {name: np.median(rows, axis=0) for name, rows in seen.items()}
    assert medians["wind turbine"][0] > 10
    assert medians["wind turbine"][1] < 1e-3
    assert abs(medians["solar farm"][0]) < 0.01
    assert medians["solar farm"][1] > 0.03
    assert min(medians["ship"]) > 0.05
    assert min(medians["greenhouse"]) > 0.1


def test_objects_keep_apart_and_inside():
    placed = place_objects(np.zeros((96, 96), bool), np.random.default_rng(5))
    taken = np.zeros((96, 96), int)
    assert len(placed) > 3
    assert placed[:, :2].min() >= 0
    assert placed[:, 2:4].max() <= 96
    for left, top, right, bottom, _ in placed:
        around = taken[
            max(0, top - MARGIN) : bottom + MARGIN, max(0, left - MARGIN) : right + MARGIN
        ]
        assert not around.any()
        taken[top:bottom, left:right] = 1


def test_boxes_are_cut_at_the_border_of_a_patch_and_not_lost():
    boxes = np.array([[6, 2, 12, 5, 0], [0, 0, 3, 3, 1], [8, 8, 10, 10, 2]], np.float32)
    assert window_boxes(boxes, 0, 0, 8) == ((6, 2, 8, 5, 0), (0, 0, 3, 3, 1))
    assert window_boxes(boxes, 0, 8, 8) == ((0, 2, 4, 5, 0),)
    assert window_boxes(boxes, 8, 0, 8) == ()


def test_boxes_flow_from_corpus_to_batch(tmp_path):
    root = write_synthetic_corpus(tmp_path / "c", patches=8, patch_size=64, seed=2, objects=True)
    dataset = DeepSentinelDataset(root, None)
    assert dataset.classes("objects") == OBJECTS.names
    batch = next(iter(DataLoader(dataset, batch_size=8, collate_fn=collate)))
    assert [len(b) for b in batch["bbox_xyxy"]] == [len(n) for n in batch["label"]]
    total = sum(len(b) for b in batch["bbox_xyxy"])
    assert total > 10
    corners = torch.cat(batch["bbox_xyxy"])
    assert corners.dtype == torch.float32
    assert bool((corners[:, 2:] > corners[:, :2]).all())
    assert float(corners.min()) >= 0
    assert float(corners.max()) <= 64
    # the pixels under a ship's box in the batch are bright in radar
    ships = [
        batch["image_s1"][i, 0, int(y0) : int(y1), int(x0) : int(x1)].mean()
        for i, (boxes, labels) in enumerate(zip(batch["bbox_xyxy"], batch["label"], strict=True))
        for (x0, y0, x1, y1), k in zip(boxes.tolist(), labels.tolist(), strict=True)
        if k == ID["ship"]
    ]
    assert len(ships) > 3
    assert min(ships) > -5
