"""Average precision against a slow loop that follows COCO's definition step by step."""

import numpy as np
import pytest
import torch

from deepsentinel.errors import TrainingError
from deepsentinel.features import Detection
from deepsentinel.training.scoring.detection import SIZES, THRESHOLDS, DetectionScores

NAMES = ("a", "b", "c")


def _boxes(generator, count, size=64):
    corner = generator.uniform(0, size - 20, (count, 2))
    return np.concatenate((corner, corner + generator.uniform(1.5, 20, (count, 2))), 1)


def _patches(seed, patches=12):
    """Objects, and detections that are near them, far from them, or missing."""
    g = np.random.default_rng(seed)
    made = []
    for i in range(patches):
        count = 0 if i == 3 else int(g.integers(1, 9))
        objects = _boxes(g, count)
        near = objects[g.random(count) < 0.8] + g.normal(0, 0.6, (1, 4))
        classes = g.integers(0, 2, count)  # class c never occurs
        boxes = np.concatenate((near, near + g.normal(0, 1, near.shape), _boxes(g, 3)))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 0.5)
        labels = g.integers(0, 3, len(boxes))
        scores = np.round(g.random(len(boxes)), 3)
        made.append((boxes, scores, labels, objects, classes))
    return made


def _add(scores, patches):
    tensors = [[torch.from_numpy(np.asarray(v)) for v in patch] for patch in patches]
    boxes, sure, labels, objects, classes = (list(c) for c in zip(*tensors, strict=True))
    scores.update(Detection(boxes, sure, labels), {"bbox_xyxy": objects, "label": classes})


def _iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def _side(box):
    return ((box[2] - box[0]) * (box[3] - box[1])) ** 0.5


def _slow(patches, label, threshold, low=0.0, high=1e9):
    """Average precision of one class at one threshold and size, loop by loop."""
    rows, total = [], 0
    for boxes, scores, labels, objects, classes in patches:
        wanted = [o for o, c in zip(objects, classes, strict=True) if c == label]
        total += sum(low <= _side(o) < high for o in wanted)
        taken = set()
        order = sorted(
            (i for i in range(len(boxes)) if labels[i] == label), key=lambda i: -scores[i]
        )
        for i in order:
            best = None
            for counts in (True, False):  # an object of this size is preferred
                for j, o in enumerate(wanted):
                    if j in taken or (low <= _side(o) < high) != counts:
                        continue
                    iou = _iou(boxes[i], o)
                    if iou >= threshold - 1e-10 and (best is None or iou > best[0]):
                        best = (iou, j, counts)
                if best is not None:
                    break
            if best is not None:
                taken.add(best[1])
                if best[2]:
                    rows.append((scores[i], 1))
            elif low <= _side(boxes[i]) < high:
                rows.append((scores[i], 0))
    if not total:
        return float("nan")
    rows.sort(key=lambda r: -r[0])
    points, hits = [], 0
    for n, (_, hit) in enumerate(rows, 1):
        hits += hit
        points.append((hits / total, hits / n))
    return float(
        np.mean(
            [
                max((p for r, p in points if r >= recall - 1e-12), default=0.0)
                for recall in np.linspace(0, 1, 101)
            ]
        )
    )


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_the_slow_loop(seed):
    patches = _patches(seed)
    scores = DetectionScores(NAMES)
    _add(scores, patches[:5])
    _add(scores, patches[5:])
    slow = np.array([[_slow(patches, k, t) for t in THRESHOLDS] for k in range(3)])
    assert np.isnan(slow[2]).all()
    computed = scores.compute()
    assert computed["map"] == pytest.approx(np.nanmean(slow))
    assert computed["ap50"] == pytest.approx(np.nanmean(slow[:, 0]))
    assert computed["ap75"] == pytest.approx(np.nanmean(slow[:, 5]))
    assert 0.05 < computed["map"] < computed["ap50"] < 0.95
    per_class = scores.per_class()
    assert per_class["c"] is None
    assert per_class["a"] == pytest.approx(slow[0].mean())


def test_sizes_are_those_of_the_slow_loop():
    patches = _patches(7, 30)
    scores = DetectionScores(NAMES)
    _add(scores, patches)
    table = scores.per_size()
    objects = sum(len(p[3]) for p in patches)
    assert sum(row["objects"] for row in table.values()) == objects
    for size, (low, high) in SIZES.items():
        slow = np.array([[_slow(patches, k, t, low, high) for t in THRESHOLDS] for k in range(2)])
        assert table[size]["map"] == pytest.approx(np.nanmean(slow)), size
        assert table[size]["ap50"] == pytest.approx(np.nanmean(slow[:, 0])), size


def test_a_second_detection_of_an_object_is_a_false_alarm_and_order_decides():
    box, label = torch.tensor([[2.0, 2, 8, 8]]), torch.tensor([0])
    twice = Detection(
        [box.repeat(3, 1)], [torch.tensor([0.3, 0.9, 0.5])], [torch.tensor([0, 1, 0])]
    )
    scores = DetectionScores(("a", "b"))
    scores.update(twice, {"bbox_xyxy": [box], "label": [label]})
    assert scores.compute()["map"] == 1.0  # the surest of class a is right; b occurs nowhere
    missed = Detection([box[:0]], [torch.zeros(0)], [label[:0]])
    scores.update(missed, {"bbox_xyxy": [box], "label": [label]})
    assert scores.compute()["map"] == pytest.approx(51 / 101)


def test_patches_without_objects_cost_only_false_alarms():
    box, label = torch.tensor([[2.0, 2, 8, 8]]), torch.tensor([0])
    scores = DetectionScores(("a",))
    scores.update(
        Detection([box], [torch.tensor([0.9])], [label]),
        {"bbox_xyxy": [box[:0]], "label": [label[:0]]},
    )
    with pytest.raises(TrainingError, match="no patch to be scored has an object"):
        scores.compute()
    scores.update(
        Detection([box], [torch.tensor([0.8])], [label]), {"bbox_xyxy": [box], "label": [label]}
    )
    assert scores.compute()["map"] == pytest.approx(0.5)
    assert scores.per_size()["large"] == {"map": None, "ap50": None, "ap75": None, "objects": 0}
