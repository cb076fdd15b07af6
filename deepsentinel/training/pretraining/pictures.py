"""Pictures of a run: what an objective draws, patch by patch."""

from collections.abc import Mapping
from typing import Final

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

GAP: Final = 2
"""White pixels between pictures."""


def sheet(pictures: Mapping[str, Tensor]) -> Figure:
    """Pictures of the same patches by name, a row each.

    Args:
        pictures: (B, 3, H, W) from 0 to 1 each.

    Example:
        >>> len(sheet({"truth": torch.zeros(2, 3, 8, 8), "drawn": torch.ones(2, 3, 8, 8)}).axes)
        2
    """
    count = len(next(iter(pictures.values())))
    figure = Figure(figsize=(1.4 * count, 1.5 * len(pictures)), layout="constrained")
    axes = figure.subplots(len(pictures), 1, squeeze=False)[:, 0]
    for axis, (name, images) in zip(axes, pictures.items(), strict=True):
        apart = F.pad(images.float().cpu().clamp(0, 1), (0, GAP), value=1.0)
        beside = torch.cat(list(apart), dim=-1)[..., :-GAP]  # (3, H, B (W + GAP))
        axis.imshow(beside.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set(xticks=[], yticks=[], ylabel=name.replace("_", " "))
    return figure
