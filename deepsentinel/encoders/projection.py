"""From pooled maps to an embedding: one linear layer, and what makes it a better pupil."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Projection(nn.Module):
    """LayerNorm and a linear layer; beside it a hidden layer, and moments of the input.

    Args:
        width: of the pooled maps.
        embed_dim: of the embedding.
        hidden: width of a hidden layer whose output is added to the linear one; none if `None`.
        bands: of how many bands `moments` are read; 0 for none.

    Example:
        >>> Projection(8, 4, hidden=16, bands=2)(torch.ones(3, 8), torch.ones(3, 6)).shape
        torch.Size([3, 4])
    """

    def __init__(self, width: int, embed_dim: int, *, hidden: int | None, bands: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        entering = width + MOMENTS * bands
        self.linear = nn.Linear(entering, embed_dim)
        self.hidden: nn.Module | None = None
        if hidden:
            self.hidden = nn.Sequential(
                nn.Linear(entering, hidden), nn.GELU(), nn.Linear(hidden, embed_dim)
            )

    def forward(self, pooled: Tensor, moments: Tensor | None) -> Tensor:
        """Embedding (B, embed_dim) of pooled maps (B, width) and moments (B, 3 * bands)."""
        x = self.norm(pooled)
        if moments is not None:
            x = torch.cat((x, moments), dim=1)
        found: Tensor = self.linear(x)
        return found if self.hidden is None else found + self.hidden(x)


MOMENTS = 3
"""Numbers a band that `moments` gives."""


def moments(channels: Sequence[Tensor], *, area: int) -> Tensor:
    """Mean, spread and observed share of every band, over what was observed.

    Args:
        channels: of each tower (B, 2 * bands, H, W): normalised bands, 0 where not observed, then
            their observed channels.
        area: pixels of the patch, without the padding that `channels` may have.

    Returns:
        (B, 3 * all bands) float32, tower by tower; a band that was not observed has 0, 0 and 0.

    Example:
        >>> band, seen = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
        >>> moments([torch.stack((band, seen))[None]], area=4).tolist()
        [[2.0, 1.0, 0.5]]
    """
    return torch.cat([_moments(x.float(), area) for x in channels], dim=1)


def _moments(channels: Tensor, area: int) -> Tensor:
    pixels = channels.flatten(2)
    total, count = pixels.sum(dim=2).chunk(2, dim=1)
    values = pixels.chunk(2, dim=1)[0]
    squares = torch.linalg.vector_norm(values, dim=2).square()
    least = count.clamp_min(1)
    mean = total / least
    variance = squares / least - mean.square()  # one pass: a second one costs as much as a layer
    spread = variance.clamp_min(_TINY).sqrt() * (count > 0)  # the root of 0 has no slope
    return torch.cat((mean, spread, count / area), dim=1)


_TINY = 1e-12
