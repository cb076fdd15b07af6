"""From any pyramid of feature maps to the strides and channels that a decoder wants.

Maps lie on the input from its upper left corner: cell (i, j) of stride s covers rows i s to
(i + 1) s. The neck keeps that true to the pixel: it resamples by the exact ratio of strides and
fills the right and lower border by repetition, and never stretches a map to a size.
"""

from collections.abc import Sequence
from math import log2

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsentinel.errors import ShapeError
from deepsentinel.features import Features


def cells(size: int, stride: int) -> int:
    """How many cells of `stride` cover `size` pixels.

    Example:
        >>> cells(61, 4), cells(64, 16)
        (16, 4)
    """
    return (size + stride - 1) // stride


def extend(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps (B, C, h, w) cut or continued, by repeating the border, to (B, C, height, width).

    Example:
        >>> import torch
        >>> extend(torch.arange(4.0).reshape(1, 1, 2, 2), 1, 3).tolist()
        [[[[0.0, 1.0, 1.0]]]]
    """
    if torch.compiler.is_compiling():  # a slice would put bounds on a symbolic size
        rows = torch.arange(height, device=maps.device).clamp_max(maps.shape[-2] - 1)
        columns = torch.arange(width, device=maps.device).clamp_max(maps.shape[-1] - 1)
        return maps.index_select(-2, rows).index_select(-1, columns)
    maps = maps[..., :height, :width]
    below, right = height - maps.shape[-2], width - maps.shape[-1]
    return F.pad(maps, (0, right, 0, below), mode="replicate") if below or right else maps


def resample(maps: Tensor, stride: int, wanted: int, height: int, width: int) -> Tensor:
    """Maps (B, C, h, w) of `stride` as (B, C, height, width) of stride `wanted`, in place on the ground.

    Coarser by a whole factor is the mean, anything else bilinear.

    Example:
        >>> import torch
        >>> resample(torch.ones(1, 3, 16, 16), 4, 8, 8, 8).shape
        torch.Size([1, 3, 8, 8])
    """
    maps = extend(maps, cells(height * wanted, stride), cells(width * wanted, stride))
    if wanted == stride:
        return maps
    if wanted % stride == 0:
        maps = F.avg_pool2d(maps, wanted // stride)
    else:
        maps = F.interpolate(maps, scale_factor=stride / wanted, mode="bilinear")
    return extend(maps, height, width)


def nearest_maps(strides: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...]:
    """Which map serves each wanted stride: the one of the nearest stride.

    Where several maps share that stride, as the blocks of a ViT do, they are dealt out in order,
    the earliest to the finest.

    Example:
        >>> nearest_maps((4, 8, 16, 32), (4, 8, 16, 32))
        (0, 1, 2, 3)
        >>> nearest_maps((16, 16, 16), (4, 8, 16, 32))
        (0, 0, 1, 2)
    """
    chosen = [min(strides, key=lambda s: (abs(log2(s / w)), s)) for w in wanted]
    result: list[int] = []
    for place, stride in enumerate(chosen):
        same = [i for i, s in enumerate(strides) if s == stride]
        rank, of = chosen[:place].count(stride), chosen.count(stride)
        result.append(same[max(0, len(same) - of + rank)])
    return tuple(result)


class Neck(nn.Module):
    """Turns `Features` of any encoder into maps of the wanted strides.

    Args:
        in_channels: C_i of the encoder's maps.
        strides: s_i of the encoder's maps.
        wanted: strides of the result, fine to coarse; the input is covered up to a multiple of
            the last.
        channels: channels of every result, by a 1 x 1 convolution; `None` leaves them as they are.

    Attributes:
        out_channels: channels of each result.

    Example:
        >>> import torch
        >>> neck = Neck((24, 48), (8, 14), (4, 8, 16), channels=32)
        >>> maps = (torch.zeros(2, 24, 8, 8), torch.zeros(2, 48, 5, 5))
        >>> [tuple(m.shape) for m in neck(Features(torch.zeros(2, 9), maps, (8, 14)), (61, 64))]
        [(2, 32, 16, 16), (2, 32, 8, 8), (2, 32, 4, 4)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        wanted: Sequence[int],
        *,
        channels: int | None = None,
    ) -> None:
        super().__init__()
        if not strides or len(strides) != len(in_channels):
            raise ShapeError(
                f"a neck needs the channels and the stride of each map, at least one: found "
                f"channels {tuple(in_channels)} and strides {tuple(strides)}."
            )
        self.strides = tuple(strides)
        self.wanted = tuple(wanted)
        self.sources = nearest_maps(self.strides, self.wanted)
        kept = [in_channels[i] for i in self.sources]
        self.out_channels: tuple[int, ...] = tuple(channels or c for c in kept)
        self.project = nn.ModuleList(
            nn.Identity() if channels is None else nn.Conv2d(c, channels, 1) for c in kept
        )

    def forward(self, features: Features, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Maps (B, C, P / s, Q / s) for each wanted stride s; P, Q: `size` rounded up to the last."""
        coarsest = self.wanted[-1]
        rows, columns = (cells(n, coarsest) * coarsest for n in size)
        results: list[Tensor] = []
        for index, wanted, project in zip(self.sources, self.wanted, self.project, strict=True):
            maps, stride = features.maps[index], self.strides[index]
            height, width = rows // wanted, columns // wanted
            if wanted < stride:  # at the coarser of both sizes the convolution is cheaper
                results.append(resample(project(maps), stride, wanted, height, width))
            else:
                results.append(project(resample(maps, stride, wanted, height, width)))
        return tuple(results)


def to_pixels(maps: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Maps (B, C, h, w) of `stride` as (B, C, H, W) pixels.

    Example:
        >>> import torch
        >>> to_pixels(torch.zeros(1, 5, 4, 4), 16, (61, 50)).shape
        torch.Size([1, 5, 61, 50])
    """
    return resample(maps, stride, 1, *size)


def even(features: Features) -> Features:
    """Features with each cell of each map normalised over its channels.

    Encoders differ by orders of magnitude in the scale of their maps; now one learning rate suits
    all of them.

    Example:
        >>> import torch
        >>> maps = (torch.tensor([100.0, 300.0]).reshape(1, 2, 1, 1),)
        >>> even(Features(torch.zeros(1, 2), maps, (4,))).maps[0].flatten().round().tolist()
        [-1.0, 1.0]
    """
    last = (m.movedim(1, -1) for m in features.maps)
    maps = tuple(F.layer_norm(m, m.shape[-1:]).movedim(-1, 1) for m in last)
    return Features(features.embedding, maps, features.strides)
