"""Boxes in pixels: anchors on a grid of cells, targets of a batch, the best of many candidates.

Cell (i, j) of stride s covers rows i s to (i + 1) s, as in `deepsentinel.heads.neck`; anchors stand
on the middle of their cell. torchvision's own generator puts them on its upper left corner, rounds
their sides to even pixels and guesses the stride from sizes, none of which suits boxes of 3 pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from deepsentinel.errors import LabelError, SampleError, ShapeError
from deepsentinel.features import Detection
from deepsentinel.sample import Batch

Target: TypeAlias = dict[str, Tensor]
"""`boxes` float32 (N, 4) and `labels` int64 (N,) of one patch, as torchvision's parts take them."""


def grid_anchors(
    shape: tuple[int, int],
    stride: int,
    sides: Sequence[float],
    ratios: Sequence[float] = (1.0,),
    *,
    like: Tensor,
) -> Tensor:
    """Anchors (h w A, 4) in pixels on the middle of every cell, row by row, A a cell.

    Args:
        shape: (h, w) of the map.
        stride: of the map.
        sides: root of an anchor's area in pixels, one or more.
        ratios: height over width, one or more; A = sides x ratios.
        like: tensor whose device the anchors get.

    Example:
        >>> grid_anchors((1, 2), 4, (2.0,), like=torch.zeros(1)).tolist()
        [[1.0, 1.0, 3.0, 3.0], [5.0, 1.0, 7.0, 3.0]]
    """
    root = torch.tensor(ratios, device=like.device).sqrt()[:, None]
    half = torch.tensor(sides, device=like.device)[None] / 2
    width, height = (half / root).flatten(), (half * root).flatten()
    around = torch.stack((-width, -height, width, height), 1)  # (A, 4)
    y, x = ((torch.arange(n, device=like.device) + 0.5) * stride for n in shape)
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    middles = torch.stack((columns, rows, columns, rows), -1).reshape(-1, 1, 4)
    return (middles + around).reshape(-1, 4)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which of many candidates become detections.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5], [8, 8, 99, 12]])
        >>> scores, labels = torch.tensor([0.9, 0.8, 0.3]), torch.tensor([1, 1, 1])
        >>> Selection().best(boxes, scores, labels, (16, 16))[0].tolist()
        [[0.0, 0.0, 4.0, 4.0], [8.0, 8.0, 16.0, 12.0]]
    """

    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    """Overlap (IoU) from which the less sure of two boxes of a class is dropped."""
    max_detections: int = 300
    """Most boxes of a patch."""
    candidates: int = 1000
    """Most candidates of a patch that are compared with one another."""
    least_side: float = 0.5
    """Pixels; what remains thinner once it is cut to the patch is dropped."""

    def best(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (N, 4) cut to the patch of `size`, scores and labels of the best, surest first."""
        boxes = clip_boxes_to_image(boxes, size)
        sides = (boxes[:, 2:] - boxes[:, :2]).amin(1)
        kept = (scores > self.score_threshold) & (sides >= self.least_side)
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        top = scores.sort(descending=True, stable=True).indices[: self.candidates]
        boxes, scores, labels = boxes[top], scores[top], labels[top]
        chosen = batched_nms(boxes, scores, labels, self.nms_threshold)[: self.max_detections]
        return boxes[chosen], scores[chosen], labels[chosen]

    def detections(
        self, boxes: Sequence[Tensor], scores: Sequence[Tensor], size: tuple[int, int]
    ) -> Detection:
        """The best of each patch, from boxes (A, 4) and the scores (A, K) of every class."""
        found = []
        for patch_boxes, patch_scores in zip(boxes, scores, strict=True):
            likely, labels = (patch_scores > self.score_threshold).nonzero(as_tuple=True)
            found.append(self.best(patch_boxes[likely], patch_scores[likely, labels], labels, size))
        columns = [list(column) for column in zip(*found, strict=True)]
        return Detection(*columns)


def box_targets(
    batch: Batch, num_classes: int, size: tuple[int, int], *, like: Tensor
) -> list[Target]:
    """`bbox_xyxy` and `label` of a batch, checked, on the device of `like`.

    Args:
        batch: both are lists of B tensors, (N, 4) corners in pixels and (N,) class ids.
        num_classes: K.
        size: (H, W) of the images; boxes lie within.
        like: tensor whose device the targets get.

    Raises:
        SampleError: the batch has no boxes.
        ShapeError: they are not (N, 4) and (N,).
        LabelError: corners that are not finite, in the wrong order or outside the image, or class
            ids that the model lacks.

    Example:
        >>> batch = {"bbox_xyxy": [torch.tensor([[1.0, 1, 3, 4]])], "label": [torch.tensor([0])]}
        >>> box_targets(batch, 2, (8, 8), like=torch.zeros(1))[0]["labels"]
        tensor([0])
    """
    missing = [k for k in ("bbox_xyxy", "label") if not isinstance(batch.get(k), list | tuple)]
    if missing:
        raise SampleError(
            f"the batch holds no list of tensors under {' and '.join(map(repr, missing))}, only "
            f"{sorted(batch)}. A detector is trained on boxes: read the corpus with labels=[...] "
            'naming one that is stored as "boxes" (`deepsentinel info CORPUS` lists them) and '
            "batch with deepsentinel.collate."
        )
    targets = []
    for place, (boxes, labels) in enumerate(zip(batch["bbox_xyxy"], batch["label"], strict=True)):
        name = _name(batch, place)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
            raise ShapeError(
                f"boxes of {name} have shape {tuple(boxes.shape)} and labels "
                f"{tuple(labels.shape)}; (N, 4) and (N,) are expected, N = 0 where there are none."
            )
        _check_boxes(boxes, size, name)
        _check_labels(labels, num_classes, name)
        targets.append({"boxes": boxes.to(like.device).float(), "labels": labels.to(like.device)})
    return targets


def _check_boxes(boxes: Tensor, size: tuple[int, int], name: str) -> None:
    height, width = size
    limits = boxes.new_tensor((width, height))
    low, high = boxes[:, :2], boxes[:, 2:]
    right = torch.isfinite(boxes).all(1) & (high > low).all(1)
    right &= (low >= -_SLACK).all(1) & (high <= limits + _SLACK).all(1)
    if not bool(right.all()):
        wrong = [round(v, 2) for v in boxes[~right][0].tolist()]
        raise LabelError(
            f"{int((~right).sum())} of {len(boxes)} boxes of {name} are no boxes in its "
            f"{height}x{width} px, the first is {wrong}. Corners are x0 < x1 and y0 < y1 in pixels, "
            "columns first; cut boxes to the patch, as deepsentinel.datasets.geometry.crop does."
        )


def _check_labels(labels: Tensor, num_classes: int, name: str) -> None:
    if labels.dtype != torch.int64:
        raise LabelError(
            f"labels of the boxes of {name} have dtype {labels.dtype}; int64 expected."
        )
    wrong = sorted({i for i in labels.tolist() if not 0 <= i < num_classes})
    if wrong:
        raise LabelError(
            f"boxes of {name} have classes {' '.join(map(str, wrong[:8]))}, but the model has "
            f"{num_classes}: ids 0 to {num_classes - 1}, with no class for the background. Leave out "
            "boxes that are to count for nothing."
        )


_SLACK = 1e-3
"""Pixels that a corner may lie outside by, for what sums of floats come to."""


def _name(batch: Batch, place: int) -> str:
    metas = batch.get("meta", ())
    return f"patch {metas[place].id!r}" if place < len(metas) else f"patch {place} of the batch"
