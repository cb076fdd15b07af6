"""Scores of a matcher: right and wrong pairs told apart, and places found among all patches."""

from typing import Any, Final

import torch
from torch import Tensor

from deepsentinel.errors import TrainingError
from deepsentinel.heads.classes import MATCHES
from deepsentinel.heads.matching import MatchingHead, places_of, wrong_partners
from deepsentinel.sample import Batch, PatchMeta
from deepsentinel.training.scoring.confusion import Confusion
from deepsentinel.training.scoring.retrieval import retrieval_scores

SEED: Final = 0
"""Of the wrong pairs, so that every model and every epoch is asked the same."""


class MatchingScores:
    """`match_accuracy` on right pairs and as many wrong ones, `recall@1` and so on, `median_rank`.

    The wrong pairs are drawn when all patches are there: each Sentinel-1 patch with the Sentinel-2
    patch of another place. Ranks are those of each Sentinel-1 patch's own Sentinel-2 patch among
    those of all patches.

    Example:
        >>> from deepsentinel.features import Features
        >>> head = MatchingHead(4, dim=4)
        >>> vectors = torch.eye(4).unsqueeze(1).repeat(1, 2, 1)
        >>> scores = MatchingScores(head)
        >>> scores.update(head.decode(vectors), {})
        >>> scores.compute()["recall@1"], scores.confusion.matrix().sum().item()
        (1.0, 8)
    """

    headline = "match_accuracy"

    def __init__(self, head: MatchingHead) -> None:
        self.head = head
        self._vectors: list[Tensor] = []
        self._metas: list[PatchMeta] = []

    def update(self, prediction: Any, batch: Batch) -> None:
        """Add the pairs of a batch; those that lack a sensor count nothing."""
        known = torch.isfinite(prediction.vectors).all(dim=(1, 2)).cpu()
        self._vectors.append(prediction.vectors.detach().float().cpu()[known])
        self._metas += [m for m, k in zip(batch.get("meta", ()), known, strict=False) if k]

    @property
    def confusion(self) -> Confusion:
        """Counts of right and wrong pairs by what they were taken for.

        Raises:
            TrainingError: fewer than two places have both sensors.
        """
        vectors = self._all()
        partner = wrong_partners(len(vectors), torch.Generator().manual_seed(SEED))
        places = torch.tensor(places_of(self._metas, len(vectors)))
        wrong = places != places[partner]
        if not bool(wrong.any()):
            raise TrainingError(_NO_PAIR)
        swapped = torch.stack([vectors[:, 0], vectors[partner, 1]], dim=1)[wrong]
        counts = Confusion(MATCHES)
        for pairs, truth in ((vectors, 1), (swapped, 0)):
            found = self.head.decode(pairs.to(self.head.bias.device)).classes
            counts.add(found, torch.full((len(pairs),), truth))
        return counts

    def compute(self) -> dict[str, float]:
        """Scores by name."""
        vectors = self._all().numpy()
        places = places_of(self._metas, len(vectors))
        accuracy = float(_shares(self.confusion).mean())
        found = retrieval_scores(vectors[:, 0], vectors[:, 1], places=places)
        return {"match_accuracy": accuracy, **found}

    def per_class(self) -> dict[str, float | None]:
        """Share of the wrong pairs and of the right ones that were seen as such."""
        shares = _shares(self.confusion).tolist()
        return dict(zip(MATCHES, shares, strict=True))

    def _all(self) -> Tensor:
        if sum(len(v) for v in self._vectors) < 2:
            raise TrainingError(_NO_PAIR)
        return torch.cat(self._vectors)


def _shares(confusion: Confusion) -> Tensor:
    matrix = confusion.matrix().double()
    return matrix.diagonal() / matrix.sum(1)


_NO_PAIR: Final = (
    "no wrong pair can be made of the data to be scored: fewer than two places in it have both "
    "sensors. Score more patches, with both sensors."
)
