"""From features to a few numbers a patch: linear, with a hidden layer, or by attention over cells."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsentinel.errors import ShapeError, UnknownNameError, nearest
from deepsentinel.features import Features
from deepsentinel.heads.classes import check_share

HeadName = Literal["linear", "mlp", "attention"]
HEADS: tuple[HeadName, ...] = get_args(HeadName)


class Readout(nn.Module):
    """Features to `out` numbers a patch.

    Args:
        embed_dim: D of the embedding.
        out: how many numbers.
        head: `"linear"`, one linear layer on the embedding; `"mlp"`, with one hidden layer of D
            units; `"attention"`, one linear layer on the embedding and on the coarsest map's mean
            by learnt weights, for what fills only a part of the patch.
        in_channels: C_i of the encoder's maps; `"attention"` needs them.
        dropout: in front of the last layer.

    Raises:
        UnknownNameError: an unknown head.
        ShapeError: attention without a map.

    Example:
        >>> features = Features(torch.zeros(2, 16), (torch.zeros(2, 8, 4, 4),), (8,))
        >>> Readout(16, 5, head="attention", in_channels=(8,))(features).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        embed_dim: int,
        out: int,
        *,
        head: str = "linear",
        in_channels: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise UnknownNameError(f"unknown head {head!r} of a patch. {nearest(head, HEADS)}")
        if head == "attention" and not in_channels:
            raise ShapeError(
                "head='attention' weighs the cells of a map, but the encoder has none. Take "
                "head='linear' or 'mlp'."
            )
        # The norm makes one learning rate suit every encoder, whatever its embedding's scale.
        self.norm = nn.LayerNorm(embed_dim)
        self.pool = AttentionPool(in_channels[-1]) if head == "attention" else None
        width = embed_dim + (in_channels[-1] if head == "attention" else 0)
        layers: list[nn.Module] = []
        if head == "mlp":
            layers += [nn.Linear(width, width), nn.GELU()]
        layers += [nn.Dropout(check_share("dropout", dropout)), nn.Linear(width, out)]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Features) -> Tensor:
        """Numbers (B, out)."""
        vector = self.norm(features.embedding)
        if self.pool is not None:
            vector = torch.cat([vector, self.pool(features.maps[-1])], dim=1)
        numbers: Tensor = self.layers(vector)
        return numbers


class AttentionPool(nn.Module):
    """The mean of a map's cells by weights that are learnt, of several heads side by side.

    Each head scores every cell, and takes the mean of its share of the channels by the softmax of
    its scores (Ilse et al., Attention-based Deep Multiple Instance Learning, ICML 2018, arXiv
    1802.04712, without the gate).

    Args:
        channels: C of the map.
        heads: at most this many; fewer where they do not divide C.

    Example:
        >>> AttentionPool(8)(torch.ones(2, 8, 3, 5)).shape
        torch.Size([2, 8])
    """

    def __init__(self, channels: int, *, heads: int = 8) -> None:
        super().__init__()
        self.heads = max(h for h in range(1, heads + 1) if channels % h == 0)
        self.score = nn.Sequential(
            nn.Linear(channels, channels), nn.Tanh(), nn.Linear(channels, self.heads)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C)."""
        cells = maps.flatten(2).transpose(1, 2)  # (B, N, C)
        cells = F.layer_norm(cells, cells.shape[-1:])
        weights: Tensor = self.score(cells).softmax(1)  # (B, N, heads)
        B, N, C = cells.shape
        shares = cells.reshape(B, N, self.heads, C // self.heads)
        return (shares * weights.unsqueeze(-1)).sum(1).flatten(1)
