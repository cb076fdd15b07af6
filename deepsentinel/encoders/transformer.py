"""Transformer parts that Galileo and Presto share: a pre-norm block, masked means, calendar, place.

Both follow the vision transformer (arXiv 2010.11929): layer norm before attention and before the
two-layer perceptron, exact GELU, no dropout at inference. A token that was not observed is left
out as a key of the attention; what comes out at its own place means nothing.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepsentinel.errors import ShapeError

DEFAULT_MONTH = 6
"""Calendar month where none is given: June, the default of Galileo's own input helper."""


class Attention(nn.Module):
    """Multi-head self-attention among the observed tokens of each sequence."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, observed: Tensor | None = None) -> Tensor:
        """Mixed tokens (B, N, D); `observed` bool (B, N), `None` where all are."""
        B, N, D = tokens.shape
        qkv = self.qkv(tokens).view(B, N, 3, self.heads, D // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, N, D / heads) each
        keys = None if observed is None else observed[:, None, None, :]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=keys)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(B, N, D))
        return out


class Perceptron(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (..., D) to tokens (..., D)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return out


class Block(nn.Module):
    """Attention, then perceptron, each on normalised tokens and added to what came in."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Perceptron(width, width * mlp_ratio)

    def forward(self, tokens: Tensor, observed: Tensor | None = None) -> Tensor:
        """Tokens (B, N, D) to tokens (B, N, D); `observed` bool (B, N), `None` where all are."""
        tokens = tokens + self.attn(self.norm1(tokens), observed)
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


def attendable(observed: Tensor) -> Tensor | None:
    """What attention may look at: `None` where every token is observed.

    A sequence without any observed token attends to all of itself, because a softmax over nothing
    is NaN; its output is thrown away by the masked mean. The shortcut is not taken while a graph
    is being traced, where it would depend on the data.

    Example:
        >>> attendable(torch.tensor([[True, False], [False, False]]))
        tensor([[ True, False],
                [ True,  True]])
        >>> attendable(torch.tensor([[True, True]])) is None
        True
    """
    if not torch.compiler.is_compiling() and bool(observed.all()):
        return None
    return observed | ~observed.any(dim=-1, keepdim=True)


def masked_mean(values: Tensor, observed: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Mean over the observed entries along `dim`; 0 where there is none.

    Args:
        values: any shape; summed in float32.
        observed: bool, of a shape that broadcasts to `values`.
        dim: what to average over.

    Example:
        >>> x = torch.tensor([[1.0, 5.0], [3.0, 7.0]])
        >>> masked_mean(x, torch.tensor([[True, True], [True, False]]), 1)
        tensor([3., 3.])
    """
    seen = observed.expand_as(values)
    total = torch.where(seen, values, torch.zeros_like(values)).sum(dim, dtype=torch.float32)
    return (total / seen.sum(dim).clamp_min(1)).to(values.dtype)


def month_index(month: int | Tensor | None, count: int, device: torch.device) -> Tensor:
    """Months counted from 0, int64 (B,), from calendar months 1-12.

    Raises:
        ShapeError: a month outside 1-12, or a tensor that is not of shape (B,).

    Example:
        >>> month_index(7, 2, torch.device("cpu"))
        tensor([6, 6])
    """
    if month is None:
        month = DEFAULT_MONTH
    months = torch.as_tensor(month, device=device)
    fits = months.ndim == 0 or (months.ndim == 1 and months.shape[0] == count)
    if months.is_floating_point() or not fits:
        raise ShapeError(
            f"month is {months.dtype} of shape {tuple(months.shape)}; expected a calendar month "
            f"1-12 as one int, or as an integer tensor of shape ({count},), one a patch."
        )
    if not torch.compiler.is_compiling() and bool(((months < 1) | (months > 12)).any()):
        raise ShapeError(f"month={months.tolist()}; expected calendar months from 1 to 12.")
    return (months.long() - 1).expand(count)


def month_circle(width: int) -> Tensor:
    """Fixed embedding of the 12 months (12, width): sine in one half, cosine in the other.

    Example:
        >>> month_circle(4)[3].round(decimals=3)
        tensor([1., 1., 0., 0.])
    """
    angle = torch.arange(12, dtype=torch.float64) * (2 * math.pi / 12)
    halves = (
        angle.sin()[:, None].expand(-1, width // 2),
        angle.cos()[:, None].expand(-1, width // 2),
    )
    return torch.cat(halves, dim=1).float()


def unit_sphere(lonlat: Tensor, count: int) -> Tensor:
    """Points on the unit sphere, (B, 3), from degrees (B, 2), longitude first.

    Raises:
        ShapeError: not of shape (B, 2), or outside -180 to 180 and -90 to 90 degrees.

    Example:
        >>> unit_sphere(torch.tensor([[90.0, 0.0]]), 1).round(decimals=3).abs()
        tensor([[0., 1., 0.]])
    """
    if lonlat.shape != (count, 2):
        raise ShapeError(
            f"lonlat has shape {tuple(lonlat.shape)}; expected ({count}, 2): degrees, longitude "
            "first, one row a patch."
        )
    limits = lonlat.new_tensor((180.0, 90.0))
    if not torch.compiler.is_compiling() and not bool((lonlat.abs() <= limits).all()):
        raise ShapeError(
            f"lonlat holds {lonlat.tolist()[:4]}; expected degrees, longitude first: -180 to 180 "
            "and -90 to 90, all finite."
        )
    lon, lat = lonlat.float().deg2rad().unbind(1)
    return torch.stack((lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()), dim=1)
