"""What fusion needs: how much each place was observed, gates, and pooling that leaves NaN out."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pool = Literal["mean", "mean_std"]

_TINY = 1e-12  # below any share of a patch that one observed pixel can have


def presence(seen: Tensor, strides: Sequence[int]) -> tuple[Tensor, ...]:
    """Share of observed pixels in every cell of maps with these strides.

    Args:
        seen: (B, 1, H, W), 1 where a pixel was observed in any band.
        strides: of the maps; H and W are multiples of each.

    Returns:
        (B, 1, H / s, W / s) for each stride, from 0 to 1.

    Example:
        >>> seen = torch.zeros(1, 1, 4, 4)
        >>> seen[:, :, :2, :1] = 1
        >>> presence(seen, (2,))[0][0, 0].tolist(), presence(seen, (4,))[0].item()
        ([[0.5, 0.0], [0.0, 0.0]], 0.125)
    """
    by_stride: dict[int, Tensor] = {}
    finer, at = seen, 1
    for s in sorted(set(strides)):  # of the next finer one where they nest: a third of the time
        finer = F.avg_pool2d(finer, s // at) if s % at == 0 else F.avg_pool2d(seen, s)
        by_stride[s], at = finer, s
    return tuple(by_stride[s] for s in strides)


def shares(weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Weights divided by their sum, so that a weight of 0 is a share of exactly 0."""
    total = torch.stack(list(weights)).sum(dim=0).clamp_min(_TINY)
    return tuple(w / total for w in weights)


def combine(parts: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Weighted mean of tensors in the dtype of the first; a part of weight 0 leaves no trace.

    Example:
        >>> a, b = torch.tensor([1.0]), torch.tensor([5.0])
        >>> combine((a, b), (torch.tensor([0.0]), torch.tensor([0.2]))).item()
        5.0
    """
    first, *others = zip(parts, shares(weights), strict=True)
    total = first[0].float() * first[1]
    for part, share in others:
        total = torch.addcmul(total, part.float(), share)
    return total.to(parts[0].dtype)


class GatedFusion(nn.Module):
    """One level of mid fusion: a learned share of each sensor, per channel and place.

    A small bottleneck sees both maps and how much of each was observed there; its gates are
    multiplied by that presence, so that what was not observed has a share of exactly 0.

    Example:
        >>> gate = GatedFusion(8)
        >>> a, b = torch.randn(1, 8, 4, 4), torch.randn(1, 8, 4, 4)
        >>> absent, present = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
        >>> torch.equal(gate((a, b), (absent, present)), b)
        True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Conv2d(2 * channels + 2, max(channels // 4, 8), kernel_size=1),
            nn.GELU(),
            nn.Conv2d(max(channels // 4, 8), 2 * channels, kernel_size=1),
        )

    def forward(self, maps: tuple[Tensor, Tensor], present: tuple[Tensor, Tensor]) -> Tensor:
        """The fused map (B, C, h, w) of two maps and their presence (B, 1, h, w)."""
        dense = [m.contiguous() for m in maps]
        seen = [p.to(dense[0].dtype) for p in present]
        gates = self.gate(torch.cat([*dense, *seen], dim=1)).float().sigmoid().chunk(2, dim=1)
        return combine(dense, [g * p for g, p in zip(gates, present, strict=True)])


def pooled(maps: Sequence[Tensor], present: Sequence[Tensor], pool: Pool) -> Tensor:
    """Observed-weighted mean, and with `"mean_std"` the standard deviation, over each map.

    Args:
        maps: (B, C_i, h_i, w_i).
        present: (B, S, h_i, w_i), the weight of each cell; of S kinds of weight each is pooled with.
        pool: `"mean"` or `"mean_std"`.

    Returns:
        (B, S * sum of C_i, or twice that), float32; 0 for a patch that was observed nowhere.

    Example:
        >>> m = torch.tensor([[[[1.0, 9.0]]]])
        >>> pooled([m], [torch.tensor([[[[1.0, 0.0]]]])], "mean").item()
        1.0
    """
    parts: list[Tensor] = []
    for level, weight in zip(maps, present, strict=True):
        share = (weight / weight.sum(dim=(2, 3), keepdim=True).clamp_min(_TINY)).flatten(2)
        values = level.float().flatten(2)
        mean = share @ values.mT
        parts.append(mean.flatten(1))
        if pool == "mean_std":  # one pass and products of matrices: a sixth of the time
            squares = share @ values.square().mT
            variance = (squares - mean.square()).clamp_min(0)
            parts.append((variance + 1e-6).sqrt().flatten(1))
    return torch.cat(parts, dim=1)
