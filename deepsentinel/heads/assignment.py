"""Which cells of a map are to find which boxes: what detectors without anchors are trained on."""

from collections.abc import Sequence

import torch
from torch import Tensor


def cover_cell(boxes: Tensor, cells: Tensor) -> Tensor:
    """Boxes (N, 4), each grown just so far that the middle of a cell (h w, 4) lies within it.

    FCOS learns nothing of a box between the middles of cells, and of one that has them on its
    border it learns to be unsure. A quarter of a cell is left around the nearest.

    Example:
        >>> from deepsentinel.heads.boxes import grid_anchors
        >>> cells = grid_anchors((4, 4), 2, (2.0,), like=torch.zeros(1))
        >>> cover_cell(torch.tensor([[3.5, 1.0, 4.75, 6.0]]), cells).tolist()
        [[3.5, 1.0, 5.5, 6.0]]
    """
    middles = (cells[:, :2] + cells[:, 2:]) / 2
    own = (boxes[:, :2] + boxes[:, 2:]) / 2
    nearest = middles[torch.cdist(own, middles).argmin(1)] if len(boxes) else own
    room = (cells[0, 2] - cells[0, 0]) / 4
    low, high = boxes[:, :2].minimum(nearest - room), boxes[:, 2:].maximum(nearest + room)
    return torch.cat((low, high), 1)


def match_cells(boxes: Tensor, anchors: Tensor, per_level: Sequence[int]) -> Tensor:
    """The box (its place in `boxes`) that each cell is to find, -1 for none: int64 (A,).

    As FCOS has it, a cell whose middle lies in a box and within 1.5 strides of its centre has the
    smallest such box, if the farthest side is 4 to 8 strides away (any nearer on the finest level,
    any farther on the coarsest). A box that no cell would have then, as long thin ones, gets the
    nearest cell of the finest level.

    Args:
        boxes: (N, 4), each holding the middle of a cell of the finest level: see `cover_cell`.
        anchors: (A, 4) cells of all levels, finest first.
        per_level: how many of them belong to each.

    Example:
        >>> from deepsentinel.heads.boxes import grid_anchors
        >>> cells = grid_anchors((2, 2), 4, (4.0,), like=torch.zeros(1))
        >>> match_cells(torch.tensor([[1.0, 1.0, 4.0, 4.0]]), cells, (4,)).tolist()
        [0, -1, -1, -1]
    """
    if not len(boxes):
        return torch.full_like(anchors[:, 0], -1, dtype=torch.int64)
    middles, own = (anchors[:, :2] + anchors[:, 2:]) / 2, (boxes[:, :2] + boxes[:, 2:]) / 2
    stride = anchors[:, 2] - anchors[:, 0]
    to_sides = torch.cat((middles[:, None] - boxes[:, :2], boxes[:, 2:] - middles[:, None]), 2)
    least, most = 4 * stride, 8 * stride
    least[: per_level[0]] = 0
    most[-per_level[-1] :] = torch.inf
    farthest = to_sides.amax(2)
    fits = to_sides.amin(2) > 0
    fits &= (middles[:, None] - own).abs().amax(2) < 1.5 * stride[:, None]
    fits &= (farthest > least[:, None]) & (farthest < most[:, None])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    smallest, matched = torch.where(fits, area, torch.inf).min(1)
    matched[smallest == torch.inf] = -1
    nearest = torch.cdist(own, middles[: per_level[0]]).argmin(1)
    for lost in (~fits.any(0)).nonzero().flatten().tolist():
        matched[nearest[lost]] = lost
    return matched


def peaks(middles: Tensor, lengths: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(N, h, w): for each box 1 at the cell of its centre, and less around it.

    The slope is a Gaussian whose deviation is a sixth of the side (as in TTFNet, arXiv 1909.00700),
    but a third of a cell at least.

    Args:
        middles: (N, 2) x, y in cells.
        lengths: (N, 2) width, height in cells.
        shape: (h, w).

    Example:
        >>> one = torch.ones(1, 2)
        >>> peaks(1.5 * one, one, (3, 3))[0, 1].round(decimals=3)
        tensor([0.0110, 1.0000, 0.0110])
    """
    column, row = middles.long().unbind(1)
    column, row = column.clamp(max=shape[1] - 1), row.clamp(max=shape[0] - 1)
    spread = (lengths / 6).clamp(min=1 / 3)
    y, x = (torch.arange(n, device=middles.device) for n in shape)
    across = torch.exp(-(((x - column[:, None]) / spread[:, :1]) ** 2) / 2)
    down = torch.exp(-(((y - row[:, None]) / spread[:, 1:]) ** 2) / 2)
    return down[:, :, None] * across[:, None]
