"""Faster R-CNN of torchvision's parts: proposals from the maps, then a second look at each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import (
    RegionProposalNetwork,
    RPNHead,
    concat_box_prediction_layers,
)
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from deepsentinel.features import Detection
from deepsentinel.heads.boxes import Selection, Target
from deepsentinel.heads.dense import RATIOS, SIDES, Found, floats, level_anchors

_POOLED: Final = 7
"""Cells of a side that a proposal is pooled to."""


@dataclass(frozen=True, eq=False)
class Proposed(Found):
    """What the first stage made of a batch."""

    maps: tuple[Tensor, ...]
    proposals: tuple[Tensor, ...]
    """(P, 4) of each patch."""


class FasterRcnn(nn.Module):
    """Faster R-CNN (Ren et al., arXiv 1506.01497): proposals, then a second look at each."""

    def __init__(
        self, channels: int, num_classes: int, strides: Sequence[int], selection: Selection
    ) -> None:
        super().__init__()
        self.strides, self.selection = tuple(strides), selection
        self.rpn = RegionProposalNetwork(
            None,  # anchors are ours
            RPNHead(channels, len(SIDES) * len(RATIOS)),
            fg_iou_thresh=0.6,
            bg_iou_thresh=0.3,
            batch_size_per_image=128,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 500, "testing": 500},
            post_nms_top_n={"training": 300, "testing": 300},
            nms_thresh=0.7,
        )
        self.roi = RoIHeads(
            _pool(self.strides),
            TwoMLPHead(channels * _POOLED**2, 4 * channels),
            FastRCNNPredictor(4 * channels, num_classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=128,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=selection.score_threshold,
            nms_thresh=selection.nms_threshold,
            detections_per_img=selection.max_detections,
        )

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Proposed:
        """Objectness and offsets of every anchor, and the proposals that come of them."""
        objectness, deltas = self.rpn.head(list(maps))
        anchors, per_level = level_anchors(maps, self.strides, SIDES, RATIOS)
        scores, offsets = concat_box_prediction_layers(objectness, deltas)
        outputs = floats({"objectness": scores, "deltas": offsets})
        B = len(maps[0])
        boxes = self.rpn.box_coder.decode(outputs["deltas"].detach(), [anchors] * B)
        proposals, _ = self.rpn.filter_proposals(
            boxes.view(B, -1, 4), outputs["objectness"], [size] * B, list(per_level)
        )
        return Proposed(
            outputs, anchors, per_level, size, tuple(m.float() for m in maps), tuple(proposals)
        )

    def loss(self, found: Proposed, targets: Sequence[Target]) -> dict[str, Tensor]:
        """`objectness`, `proposal_regression`, `classification` and `bbox_regression`."""
        anchors = [found.anchors] * len(targets)
        shifted = [t | {"labels": t["labels"] + 1} for t in targets]  # 0 is its background
        labels, matched = self.rpn.assign_targets_to_anchors(anchors, shifted)
        offsets = self.rpn.box_coder.encode(matched, anchors)
        objectness, proposal_regression = self.rpn.compute_loss(
            found.outputs["objectness"], found.outputs["deltas"], labels, offsets
        )
        proposals, _, classes, wanted = self.roi.select_training_samples(
            list(found.proposals), shifted
        )
        logits, moves = self._look(found, proposals)
        classification, bbox_regression = fastrcnn_loss(
            logits, moves, [c.long() for c in classes], wanted
        )
        return {
            "objectness": objectness,
            "proposal_regression": proposal_regression,
            "classification": classification,
            "bbox_regression": bbox_regression,
        }

    def decode(self, found: Proposed) -> Detection:
        """The best boxes."""
        logits, moves = self._look(found, found.proposals)
        counts = [len(p) for p in found.proposals]
        boxes = self.roi.box_coder.decode(moves, list(found.proposals))[:, 1:]
        scores = logits.softmax(-1)[:, 1:]
        best = []
        for patch_boxes, patch_scores in zip(
            torch.split(boxes, counts), torch.split(scores, counts), strict=True
        ):
            row, label = (patch_scores > self.selection.score_threshold).nonzero(as_tuple=True)
            best.append(
                self.selection.best(
                    patch_boxes[row, label], patch_scores[row, label], label, found.size
                )
            )
        return Detection(*(list(column) for column in zip(*best, strict=True)))

    def _look(self, found: Proposed, proposals: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits (P, K + 1) and offsets (P, 4 (K + 1)) of the proposals of all patches."""
        named = {str(i): m for i, m in enumerate(found.maps)}
        pooled = self.roi.box_roi_pool(named, list(proposals), [found.size] * len(proposals))
        logits, moves = self.roi.box_predictor(self.roi.box_head(pooled))
        return logits.float(), moves.float()


def _pool(strides: Sequence[int]) -> MultiScaleRoIAlign:
    """Pooling whose strides are told: left to itself it guesses them from the first batch, for good.

    A proposal of 4 strides of a level is pooled from that level.
    """
    levels = [s.bit_length() - 1 for s in strides]
    pool = MultiScaleRoIAlign(
        [str(i) for i in range(len(levels))], output_size=_POOLED, sampling_ratio=2
    )
    pool.scales = [1 / s for s in strides]
    pool.map_levels = initLevelMapper(
        levels[0], levels[-1], canonical_scale=8 * strides[0], canonical_level=levels[0] + 1
    )
    return pool
