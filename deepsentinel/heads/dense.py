"""Detectors that read boxes off the maps in one step: FCOS, RetinaNet and centre points.

The first two are made of torchvision's parts. Each is a module with `forward(maps, size)`, whose
result is what `loss(found, targets)` and `decode(found)` both start from. None looks at `training`:
what is trained and what is used see the same tensors, and a loss can be had in evaluation mode.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.fcos import (
    FCOSClassificationHead,
    FCOSHead,
    FCOSRegressionHead,
)
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou, generalized_box_iou_loss

from deepsentinel.features import Detection
from deepsentinel.heads.assignment import cover_cell, match_cells, peaks
from deepsentinel.heads.boxes import Selection, Target, grid_anchors

SIDES: Final = (2.0, 2.0 * 2**0.5)
"""Roots of the anchors' areas in strides of their level; the next level goes on with twice these."""
RATIOS: Final = (0.5, 1.0, 2.0)
_NEAR: Final = 0.1
"""A cell learns the sides of a box where the slope of the box's peak is above this."""
_BOX_WEIGHT: Final = 2.0
"""Of the sides beside the peaks, in the loss of centre points."""
_CONVS: Final = 2
"""Convolutions of a tower."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a detector made of a batch, before losses and boxes."""

    outputs: dict[str, Tensor]
    anchors: Tensor
    """(A, 4) in pixels, the same for every patch."""
    per_level: tuple[int, ...]
    """How many of them belong to each map."""
    size: tuple[int, int]
    """(H, W) of the patches."""


class Fcos(nn.Module):
    """FCOS (Tian et al., arXiv 1904.01355): every cell may be the middle part of one box."""

    def __init__(
        self, channels: int, num_classes: int, strides: Sequence[int], selection: Selection
    ) -> None:
        super().__init__()
        self.strides, self.selection = tuple(strides), selection
        self.head = FCOSHead(channels, 1, num_classes, _CONVS)
        self.head.classification_head = FCOSClassificationHead(
            channels, 1, num_classes, _CONVS, norm_layer=_groups
        )
        self.head.regression_head = FCOSRegressionHead(channels, 1, _CONVS, norm_layer=_groups)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Found:
        """Class, distances and centredness of every cell; anchors are the cells."""
        outputs = floats(self.head(list(maps)))
        return Found(outputs, *level_anchors(maps, self.strides, (1.0,), (1.0,)), size)

    def loss(self, found: Found, targets: Sequence[Target]) -> dict[str, Tensor]:
        """`classification`, `bbox_regression` and `bbox_ctrness`."""
        covering = [
            t | {"boxes": cover_cell(t["boxes"], found.anchors[: found.per_level[0]])}
            for t in targets
        ]
        matched = [match_cells(t["boxes"], found.anchors, found.per_level) for t in covering]
        anchors = [found.anchors] * len(covering)
        losses: dict[str, Tensor] = self.head.compute_loss(
            covering, found.outputs, anchors, matched
        )
        return losses

    def decode(self, found: Found) -> Detection:
        """The best boxes."""
        out = found.outputs
        scores = (out["cls_logits"].sigmoid() * out["bbox_ctrness"].sigmoid()).sqrt()
        anchors = found.anchors.expand_as(out["bbox_regression"])
        boxes = self.head.box_coder.decode(out["bbox_regression"], anchors)
        return self.selection.detections(list(boxes), list(scores), found.size)


class Retina(nn.Module):
    """RetinaNet (Lin et al., arXiv 1708.02002): anchors and the focal loss."""

    def __init__(
        self, channels: int, num_classes: int, strides: Sequence[int], selection: Selection
    ) -> None:
        super().__init__()
        self.strides, self.selection = tuple(strides), selection
        self.head = RetinaNetHead(
            channels, len(SIDES) * len(RATIOS), num_classes, norm_layer=_groups
        )
        self.matcher = _matcher(0.5, 0.4)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Found:
        """Class and offsets of every anchor."""
        outputs = floats(self.head(list(maps)))
        return Found(outputs, *level_anchors(maps, self.strides, SIDES, RATIOS), size)

    def loss(self, found: Found, targets: Sequence[Target]) -> dict[str, Tensor]:
        """`classification` and `bbox_regression`."""
        matched = [
            self.matcher(box_iou(t["boxes"], found.anchors))
            if len(t["boxes"])
            else torch.full_like(found.anchors[:, 0], -1, dtype=torch.int64)
            for t in targets
        ]
        losses: dict[str, Tensor] = self.head.compute_loss(
            list(targets), found.outputs, [found.anchors] * len(matched), matched
        )
        return losses

    def decode(self, found: Found) -> Detection:
        """The best boxes."""
        coder = self.head.regression_head.box_coder
        boxes = [coder.decode_single(d, found.anchors) for d in found.outputs["bbox_regression"]]
        scores = found.outputs["cls_logits"].sigmoid()
        return self.selection.detections(boxes, list(scores), found.size)


class CentrePoint(nn.Module):
    """Centre points (Zhou et al., *Objects as Points*, arXiv 1904.07850) on the finest map.

    A box is a peak in the map of its class, and there the distances to its four sides, which the
    cells around the peak learn too. Every box has a cell, however small it is.
    """

    def __init__(
        self, channels: int, num_classes: int, strides: Sequence[int], selection: Selection
    ) -> None:
        super().__init__()
        self.stride, self.selection = strides[0], selection
        self.heat_tower, self.box_tower = _tower(channels), _tower(channels)
        self.heat = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.box = nn.Conv2d(channels, 4, 3, padding=1)
        nn.init.constant_(self.heat.bias, -4.6)  # type: ignore[arg-type]  # a hundredth, as RetinaNet

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Found:
        """Heat (B, K, h, w) and sides (B, 4, h, w) of the finest map; anchors are its cells."""
        outputs = {
            "heat": self.heat(self.heat_tower(maps[0])),
            "box": self.box(self.box_tower(maps[0])),
        }
        anchors = level_anchors(maps[:1], (self.stride,), (1.0,), (1.0,))
        return Found(floats(outputs), *anchors, size)

    def loss(self, found: Found, targets: Sequence[Target]) -> dict[str, Tensor]:
        """`classification` (penalty-reduced focal loss) and `bbox_regression` (GIoU)."""
        heat, boxes = found.outputs["heat"], self._boxes(found)
        wanted, count = torch.zeros_like(heat), sum(len(t["boxes"]) for t in targets)
        regression = boxes.sum() * 0
        for i, target in enumerate(targets):
            if not len(target["boxes"]):
                continue
            middle, lengths = _middles(target["boxes"] / self.stride)
            slopes = peaks(middle, lengths, heat.shape[-2:])  # (N, h, w)
            for label in set(target["labels"].tolist()):
                wanted[i, label] = slopes[target["labels"] == label].amax(0)
            weight, owner = slopes.flatten(1).max(0)
            near = (weight > _NEAR).nonzero()[:, 0]
            weight, owner = weight[near], owner[near]
            shares = weight.new_zeros(len(slopes)).index_add_(0, owner, weight)
            loss = generalized_box_iou_loss(boxes[i, near], target["boxes"][owner])
            regression = regression + (loss * weight / shares[owner]).sum()
        return {
            "classification": focal(heat, wanted) / max(1, count),
            "bbox_regression": _BOX_WEIGHT * regression / max(1, count),
        }

    def decode(self, found: Found) -> Detection:
        """Boxes at the peaks."""
        heat = found.outputs["heat"].sigmoid()
        peak = F.max_pool2d(heat, 3, 1, 1) == heat
        scores = (heat * peak).flatten(2).transpose(1, 2)  # (B, h w, K)
        return self.selection.detections(list(self._boxes(found)), list(scores), found.size)

    def _boxes(self, found: Found) -> Tensor:
        """Boxes (B, h w, 4) in pixels that every cell stands for.

        Their sides lie around the middle of the cell, 0.7 cells away as long as nothing is known.
        """
        sides = self.stride * F.softplus(found.outputs["box"].flatten(2).transpose(1, 2))
        middle = (found.anchors[:, :2] + found.anchors[:, 2:]) / 2
        return torch.cat((middle - sides[..., :2], middle + sides[..., 2:]), -1)


def level_anchors(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    sides: Sequence[float],
    ratios: Sequence[float],
) -> tuple[Tensor, tuple[int, ...]]:
    """Anchors of all maps, finest first, and how many of them belong to each; sides in strides."""
    levels = [
        grid_anchors(
            (m.shape[-2], m.shape[-1]), stride, [s * stride for s in sides], ratios, like=m
        )
        for m, stride in zip(maps, strides, strict=True)
    ]
    return torch.cat(levels), tuple(map(len, levels))


def floats(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs in float32, whatever the precision of the maps."""
    return {k: v.float() for k, v in outputs.items()}


def focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Sum of the focal loss of CornerNet (arXiv 1808.01244): near a peak a miss costs less.

    Args:
        logits: any shape.
        wanted: the same shape; 1 at a peak, below 1 elsewhere.

    Example:
        >>> round(focal(torch.zeros(2), torch.tensor([1.0, 0.0])).item(), 4)  # 2 x log(2) / 4
        0.3466
    """
    p, at_peak = logits.sigmoid(), wanted == 1
    hit = (1 - p) ** 2 * F.logsigmoid(logits)
    miss = (1 - wanted) ** 4 * p**2 * F.logsigmoid(-logits)
    return -torch.where(at_peak, hit, miss).sum()


def _tower(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(_CONVS):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), _groups(channels), nn.ReLU()]
    return nn.Sequential(*layers)


def _groups(channels: int) -> nn.GroupNorm:
    """Eight channels a group: of groups of two, as of 32 a layer, a map of one cell keeps a sign."""
    return nn.GroupNorm(max(1, channels // 8), channels)


def _middles(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and sides (N, 2) of boxes."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]


def _matcher(foreground: float, background: float) -> Any:
    from torchvision.models.detection._utils import Matcher

    return Matcher(foreground, background, allow_low_quality_matches=True)
