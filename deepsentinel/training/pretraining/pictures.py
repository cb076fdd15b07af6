"""Pictures of a run: what an objective draws, patch by patch."""

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor


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
        beside = torch.cat(list(images.float().cpu().clamp(0, 1)), dim=-1)  # (3, H, B W)
        axis.imshow(beside.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set(xticks=[], yticks=[], ylabel=name)
    return figure
