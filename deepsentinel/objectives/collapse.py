"""Whether embeddings still tell patches apart: their spread, their rank, and a watch over a run."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from deepsentinel.errors import ShapeError


def embedding_std(embeddings: Tensor) -> Tensor:
    """Spread of directions: standard deviation over patches of L2-normalised embeddings, times sqrt(D).

    0 where all patches have one direction, about 1 where directions are uniform (Chen and He,
    "Exploring Simple Siamese Representation Learning", arXiv 2011.10566, figure 2).

    Args:
        embeddings: (N, D), N of 2 or more.

    Raises:
        ShapeError: fewer than two embeddings.

    Example:
        >>> round(embedding_std(torch.tensor([[1.0, 2.0], [2.0, 4.0]])).item(), 4)
        0.0
        >>> round(embedding_std(torch.eye(2)).item(), 4)
        1.0
    """
    directions = F.normalize(_several(embeddings), dim=1)
    scaled: Tensor = directions.std(dim=0).mean() * embeddings.shape[1] ** 0.5
    return scaled


def effective_rank(embeddings: Tensor) -> Tensor:
    """How many directions the embeddings fill: exp of the entropy of their singular values.

    Roy and Vetterli, "The effective rank", EUSIPCO 2007; used on embeddings by Garrido et al.,
    "RankMe", arXiv 2210.02885. Their mean is taken out first, for a common offset of all patches
    tells none of them apart. At most min(N - 1, D).

    Args:
        embeddings: (N, D), N of 2 or more.

    Raises:
        ShapeError: fewer than two embeddings.

    Example:
        >>> round(effective_rank(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).item(), 4)
        1.0
        >>> round(effective_rank(torch.cat([torch.eye(3), -torch.eye(3)])).item(), 4)
        3.0
    """
    values = _several(embeddings)
    singular = torch.linalg.svdvals(values - values.mean(dim=0))
    share = singular / singular.sum().clamp_min(1e-12)
    entropy: Tensor = -(share * share.clamp_min(1e-12).log()).sum()
    return entropy.exp()


def spread(embeddings: Tensor) -> dict[str, Tensor]:
    """Both measures of one batch of embeddings, for a log; no gradient.

    Example:
        >>> sorted(spread(torch.eye(4)))
        ['effective_rank', 'embedding_std']
    """
    with torch.no_grad():
        return {
            "embedding_std": embedding_std(embeddings),
            "effective_rank": effective_rank(embeddings),
        }


@dataclass(kw_only=True)
class CollapseWatch:
    """Says when the embeddings of a run have collapsed: to a point, or onto one line.

    A point is where the spread falls below `std_share` of its start; an absolute limit would not do,
    for rectified embeddings share a direction from the start, random weights too. A line is where
    they fill fewer than `least_rank` directions, as two poles do; that needs no start to compare
    with, for wide networks begin with many directions of which sound runs keep few. Either must
    hold `patience` looks in a row.

    Example:
        >>> watch = CollapseWatch(patience=1)
        >>> watch.look(torch.randn(64, 8)) is None
        True
        >>> print(watch.look(torch.ones(64, 8) + 1e-7 * torch.randn(64, 1)).split(":")[0])
        the embeddings have collapsed
    """

    std_share: float = 0.05
    least_rank: float = 2.0
    patience: int = 3
    first: dict[str, float] = field(default_factory=dict)
    """Measures at the first look."""
    last: dict[str, float] = field(default_factory=dict)
    """Measures at the latest look."""
    low: int = 0
    """Looks in a row at which they were too low."""

    def look(self, embeddings: Tensor) -> str | None:
        """What is wrong, or `None`; at each look, a few hundred embeddings of one batch or more.

        Args:
            embeddings: (N, D) of patches that differ.
        """
        self.last = {k: float(v) for k, v in spread(embeddings).items()}
        self.first = self.first or dict(self.last)
        line = self.last["effective_rank"] < self.least_rank
        point = self.last["embedding_std"] < self.std_share * self.first["embedding_std"]
        fallen = line or point
        self.low = self.low + 1 if fallen else 0
        if self.low < self.patience:
            return None
        return (
            f"the embeddings have collapsed: their spread went from "
            f"{self.first['embedding_std']:.3g} to {self.last['embedding_std']:.3g}, their "
            f"effective rank from {self.first['effective_rank']:.1f} to "
            f"{self.last['effective_rank']:.1f} of {embeddings.shape[1]}. Patches can hardly be told "
            "apart by them any more. Lower the learning rate, enlarge the batch, or take an "
            "objective with negatives or a variance term (simclr, vicreg)."
        )

    def state(self) -> dict[str, object]:
        """What a resumed run needs to go on watching."""
        return {"first": dict(self.first), "low": self.low}

    def resume(self, state: dict[str, object]) -> None:
        """Go on where `state()` was taken."""
        first, low = state["first"], state["low"]
        assert isinstance(first, dict)  # noqa: S101 - our own state
        assert isinstance(low, int)  # noqa: S101
        self.first, self.low = dict(first), low


def _several(embeddings: Tensor) -> Tensor:
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise ShapeError(
            f"spread is measured over two embeddings or more, (N, D); found shape "
            f"{tuple(embeddings.shape)}."
        )
    return embeddings.float()
