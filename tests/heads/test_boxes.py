"""Anchors, targets and the choice among candidates, each against torchvision or a slow loop."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from deepsentinel.errors import LabelError, SampleError, ShapeError
from deepsentinel.heads.boxes import Selection, box_targets, grid_anchors
from deepsentinel.sample import PatchMeta

LIKE = torch.zeros(1)


def test_anchors_are_torchvisions_moved_to_the_middle_of_the_cell():
    sides, ratios, stride = (8.0, 16.0), (0.25, 1.0, 4.0), 8
    ours = grid_anchors((3, 5), stride, sides, ratios, like=LIKE)
    generator = AnchorGenerator((sides,), (ratios,))  # these sides survive its rounding
    images = ImageList(torch.zeros(1, 3, 24, 40), [(24, 40)])
    theirs = generator(images, [torch.zeros(1, 1, 3, 5)])[0] + stride / 2
    assert torch.allclose(ours, theirs)


def test_small_anchors_keep_their_area():
    anchors = grid_anchors((1, 1), 2, (3.0,), (0.5, 1.0, 2.0), like=LIKE)
    size = anchors[:, 2:] - anchors[:, :2]
    assert torch.allclose(size.prod(1), torch.full((3,), 9.0))
    assert torch.allclose(size[:, 1] / size[:, 0], torch.tensor([0.5, 1.0, 2.0]))


def _slow_nms(boxes, scores, labels, threshold):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -float(scores[i])):
        rivals = [j for j in kept if labels[j] == labels[i]]
        if all(float(box_iou(boxes[i : i + 1], boxes[j : j + 1])) <= threshold for j in rivals):
            kept.append(i)
    return kept


def test_the_best_are_those_of_a_slow_loop():
    g = torch.Generator().manual_seed(0)
    corner = torch.rand(60, 2, generator=g) * 30
    boxes = torch.cat((corner, corner + 1 + 6 * torch.rand(60, 2, generator=g)), 1)
    scores, labels = torch.rand(60, generator=g), torch.randint(0, 3, (60,), generator=g)
    found = Selection(score_threshold=0.2).best(boxes, scores, labels, (64, 64))
    sure = scores > 0.2
    kept = _slow_nms(boxes[sure], scores[sure], labels[sure], 0.5)
    assert torch.equal(found[0], boxes[sure][kept])
    assert torch.equal(found[1], scores[sure][kept])
    assert torch.equal(found[2], labels[sure][kept])
    few = Selection(score_threshold=0.2, max_detections=5).best(boxes, scores, labels, (64, 64))
    assert torch.equal(few[0], found[0][:5])


def test_boxes_are_cut_to_the_patch_and_what_is_outside_goes():
    boxes = torch.tensor([[-3.0, 2, 5, 6], [30, 30, 40, 40], [14, 0, 15.9, 9], [-4, -4, 0.2, 5]])
    kept, _, _ = Selection().best(
        boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), LIKE.long().expand(4), (16, 16)
    )
    assert kept.tolist() == [[0, 2, 5, 6], [14, 0, pytest.approx(15.9), 9]]


def _batch(boxes, labels, **more):
    return {"bbox_xyxy": [torch.tensor(boxes)], "label": [torch.tensor(labels)], **more}


def test_targets_of_empty_patches_and_borders():
    batch = {
        "bbox_xyxy": [torch.zeros(0, 4), torch.tensor([[0.0, 0.0, 16.0, 12.0]])],
        "label": [torch.zeros(0, dtype=torch.int64), torch.tensor([1])],
    }
    first, second = box_targets(batch, 2, (12, 16), like=LIKE)
    assert first["boxes"].shape == (0, 4)
    assert second["labels"].tolist() == [1]


@pytest.mark.parametrize(
    ("boxes", "labels", "error", "words"),
    [
        ([[1.0, 1, 5, 99]], [0], LabelError, r"no boxes in its 16x16 px, the first is \[1.0, 1.0"),
        ([[-2.0, 1, 5, 9]], [0], LabelError, "cut boxes to the patch"),
        ([[5.0, 1, 5, 9]], [0], LabelError, "x0 < x1"),
        ([[1.0, 1, float("nan"), 9]], [0], LabelError, "1 of 1 boxes of patch 'p7'"),
        ([[1.0, 1, 5, 9]], [3], LabelError, "have classes 3, but the model has 3: ids 0 to 2"),
        ([[1.0, 1, 5, 9]], [-1], LabelError, "no class for the background"),
        ([[1.0, 1, 5, 9]], [0.0], LabelError, "int64 expected"),
        ([[1.0, 1, 5]], [0], ShapeError, r"shape \(1, 3\)"),
        ([[1.0, 1, 5, 9]], [0, 1], ShapeError, r"labels \(2,\)"),
    ],
)
def test_targets_that_do_not_fit_are_refused(boxes, labels, error, words):
    with pytest.raises(error, match=words):
        box_targets(_batch(boxes, labels, meta=[PatchMeta(id="p7")]), 3, (16, 16), like=LIKE)


def test_a_batch_without_boxes_is_refused():
    with pytest.raises(SampleError, match=r"no list of tensors under 'bbox_xyxy' and 'label'"):
        box_targets({"label": torch.tensor([1])}, 3, (16, 16), like=LIKE)
