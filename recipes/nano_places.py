"""Windows of one place for `deepsentinel-nano`, from which either sensor learns to find the other.

Few places have real radar. So that what is learned carries further, a share of the draws takes
optical patches without radar and imagines one: a mixture of their bands, the same for all windows
of a draw, so that partners share patterns and not values.
"""

from collections.abc import Sequence

import torch
from nano_crops import Pair
from torch import Generator, Tensor

SIZE = 32
STEP = 24
"""Pixels between windows of one patch: neighbours overlap by a quarter at most."""
COUNT = 32
REAL = 0.75
"""Share of draws with radar that was observed."""


class Places:
    """Windows of one place with both sensors, drawn again and again.

    Args:
        pairs: patches of each source, in the order of `SOURCES`.
    """

    def __init__(self, pairs: Sequence[Sequence[Pair]]) -> None:
        pools = [
            [(torch.from_numpy(s1), torch.from_numpy(s2)) for s1, s2 in pool] for pool in pairs
        ]
        self.real = [
            (s1, s2)
            for pool in pools
            for s1, s2 in pool
            if s1.isfinite().any() and s2.isfinite().any()
        ]
        clear = ([s2 for _, s2 in pool if s2.isfinite().all()] for pool in pools)
        self.optical = [pool for pool in clear if pool]

    def draw(self, g: Generator) -> tuple[Tensor, Tensor]:
        """Sentinel-1 (N, 2, 32, 32) and Sentinel-2 (N, 12, 32, 32) of up to 32 windows, other light."""
        if torch.rand((), generator=g) < REAL:
            s1, s2 = self._of_one(*self.real[_below(len(self.real), g)], g)
        else:
            pool = self.optical[_below(len(self.optical), g)]
            s2 = torch.stack([_cut(pool[_below(len(pool), g)], g) for _ in range(COUNT)])
            s1 = imagined(s2, g)
        way = _below(4, g)
        s1, s2 = torch.rot90(s1, way, (-2, -1)), torch.rot90(s2, way, (-2, -1))
        s1 = s1 + 1.5 * torch.randn((), generator=g) + 0.5 * torch.randn(2, 1, 1, generator=g)
        light = 0.3 * torch.randn((), generator=g) + 0.06 * torch.randn(12, 1, 1, generator=g)
        return s1.clamp(-50, 20), (s2 * light.exp()).clamp(0, 1.5)

    def _of_one(self, s1: Tensor, s2: Tensor, g: Generator) -> tuple[Tensor, Tensor]:
        """Windows of one patch on a grid that is shifted at random, those that both observed."""
        corners = torch.arange(0, s1.shape[-1] - SIZE + 1, STEP)
        room = s1.shape[-1] - SIZE - int(corners[-1]) + 1
        grid = torch.cartesian_prod(corners, corners) + torch.randint(room, (2,), generator=g)
        order = torch.randperm(len(grid), generator=g)
        cut = [
            tuple(x[:, top : top + SIZE, left : left + SIZE] for x in (s1, s2))
            for top, left in grid[order].tolist()
        ]
        seen = [(a, b) for a, b in cut if a.isfinite().any() and b.isfinite().any()][:COUNT]
        return torch.stack([a for a, _ in seen]), torch.stack([b for _, b in seen])


def imagined(s2: Tensor, g: Generator) -> Tensor:
    """Two mixtures of the optical bands (N, 12, h, w), in the range of backscatter, with noise."""
    bands = s2.clamp_min(1e-3).log()
    bands = bands - bands.mean((0, 2, 3), keepdim=True)
    bands = bands / (bands.std((0, 2, 3), keepdim=True) + 1e-4)
    weights = torch.randn(2, 12, generator=g)
    weights[1] = 0.7 * weights[0] + 0.5 * weights[1]
    texture = torch.einsum("ob,nbhw->nohw", weights, bands)
    texture = texture / (texture.std((0, 2, 3), keepdim=True) + 1e-6)
    vv = -11.5 + 3 * torch.randn((), generator=g)
    level = torch.stack((vv, vv - 7 + 2 * torch.randn((), generator=g)))[:, None, None]
    noise = 2 * torch.rand((), generator=g) * torch.randn(texture.shape, generator=g)
    return level + (1 + 3 * torch.rand((), generator=g)) * texture + noise


def _cut(image: Tensor, g: Generator) -> Tensor:
    top, left = torch.randint(image.shape[-1] - SIZE + 1, (2,), generator=g).tolist()
    return image[:, top : top + SIZE, left : left + SIZE]


def _below(count: int, g: Generator) -> int:
    return int(torch.randint(count, (), generator=g))
