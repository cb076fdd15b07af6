"""Tile2Vec: neighbours on the ground lie near each other, distant patches far."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import ConfigError, SampleError
from deepsentinel.objectives.objective import Objective, detached, in_float32, needs
from deepsentinel.objectives.summary import Summary
from deepsentinel.objectives.views import View, encode, images_of, stacked
from deepsentinel.sample import IMAGE_KEYS, NEIGHBOUR_KEYS, Batch, PatchMeta

EARTH_KM = 6371.0
_VIEW = View(crop=1.0, looks=0.0, gain_s1=0.0, gain_s2=0.0)


class Tile2Vec(Objective):
    """Triplet loss on anchor, neighbour and distant patch.

    Jean et al., "Tile2Vec: Unsupervised representation learning for spatially distributed data",
    arXiv 1805.02855, equation 2: [|a - n| - |a - d| + margin]+, plus the mean length of the three
    embeddings times `decay`, the paper's penalty that keeps them from growing without end. The
    neighbour of each patch comes with the batch (`datasets.neighbours.WithNeighbours` finds it
    in the geography of the index); the distant one is drawn among the patches of the batch that lie
    more than `distant_km` away, and where none does, or no position is known, among all others.

    Args:
        encoder: whose embedding is trained.
        view: how each patch is looked at; by default turned, with parts hidden.
        margin: by which a neighbour must be nearer.
        decay: weight of the lengths.
        distant_km: least distance of a distant patch.

    Example:
        >>> encoder = FusionEncoder("resnet10t")
        >>> s1 = torch.randn(4, 2, 32, 32) - 12
        >>> batch = {"image_s1": s1, "neighbour_s1": s1 + 1}
        >>> sorted(Tile2Vec(encoder)(encoder, batch, torch.Generator().manual_seed(0)))
        ['length', 'loss', 'triplet', 'violated']
    """

    def __init__(
        self,
        encoder: FusionEncoder,
        *,
        view: View | None = None,
        margin: float = 0.1,
        decay: float = 0.01,
        distant_km: float = 20.0,
    ) -> None:
        super().__init__()
        if min(margin, decay, distant_km) < 0:
            raise ConfigError(
                f"margin={margin}, decay={decay}, distant_km={distant_km}: none may be negative."
            )
        self.view = view or _VIEW
        self.margin = margin
        self.decay = decay
        self.distant_km = distant_km
        self.summary = Summary(encoder)

    def forward(
        self, encoder: FusionEncoder, batch: Batch, generator: Generator
    ) -> dict[str, Tensor]:
        """`loss`; its parts `triplet` and `length`; `violated`, the share of triplets with a loss.

        Raises:
            SampleError: the batch holds no neighbours.
        """
        anchor = self.view(images_of(encoder, batch), generator)
        needs(next(iter(anchor.values())), 2, "the distant patch is another of the batch")
        neighbour = self.view(images_of(encoder, neighbours_of(batch)), generator)
        vectors = self.summary(encode(encoder, stacked(anchor, neighbour)))
        a, n = vectors.float().chunk(2)
        d = a[distant(batch.get("meta"), len(a), self.distant_km, generator).to(a.device)]
        hinge = in_float32(lambda *x: triplet(*x, margin=self.margin), a, n, d)
        length = torch.cat([a, n, d]).norm(dim=1).mean()
        return detached(
            {
                "loss": hinge.mean() + self.decay * length,
                "triplet": hinge.mean(),
                "length": length,
                "violated": (hinge > 0).float().mean(),
            }
        )


def triplet(anchor: Tensor, neighbour: Tensor, distant: Tensor, *, margin: float) -> Tensor:
    """[|a - n| - |a - d| + margin]+ of each row, (B,).

    Example:
        >>> a, n, d = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])
        >>> round(triplet(a, n, d, margin=0.5).item(), 3)
        3.5
    """
    near, far = F.pairwise_distance(anchor, neighbour), F.pairwise_distance(anchor, distant)
    return F.relu(near - far + margin)


def neighbours_of(batch: Batch) -> Batch:
    """The neighbours that a batch brings along, as a batch.

    Raises:
        SampleError: it brings none.
    """
    images = {IMAGE_KEYS[s]: batch[k] for s, k in NEIGHBOUR_KEYS.items() if k in batch}
    if not images:
        raise SampleError(
            f"Tile2Vec needs the neighbour of each patch under {' or '.join(NEIGHBOUR_KEYS.values())}; "
            f"the batch holds {sorted(batch)}. Wrap the dataset: "
            "deepsentinel.datasets.neighbours.WithNeighbours(dataset)."
        )
    return {"meta": batch["meta"], **images} if "meta" in batch else images


def distant(
    metas: list[PatchMeta] | None, count: int, least_km: float, generator: Generator
) -> Tensor:
    """For each patch of a batch one that lies far away, int64 (B,); never itself.

    Example:
        >>> distant(None, 2, 5.0, torch.Generator()).tolist()
        [1, 0]
    """
    chance = torch.ones(count, count).fill_diagonal_(0)
    if metas is not None:
        far = (distances_km(metas) >= least_km).float() * chance
        chance = torch.where(far.any(dim=1, keepdim=True), far, chance)
    return torch.multinomial(chance, 1, generator=generator)[:, 0]


def distances_km(metas: list[PatchMeta]) -> Tensor:
    """Great-circle distances between patches, (B, B); NaN where a position is not known.

    Example:
        >>> metas = [PatchMeta(id="a", lon=0.0, lat=0.0), PatchMeta(id="b", lon=1.0, lat=0.0)]
        >>> round(distances_km(metas)[0, 1].item(), 1)
        111.2
    """
    known = [
        (float("nan"),) * 2 if m.lon is None or m.lat is None else (m.lon, m.lat) for m in metas
    ]
    lon, lat = torch.deg2rad(torch.tensor(known, dtype=torch.float64)).unbind(dim=1)
    half = (
        torch.sin((lat[:, None] - lat) / 2).square()
        + lat.cos()[:, None] * lat.cos() * torch.sin((lon[:, None] - lon) / 2).square()
    )
    return 2 * EARTH_KM * half.clamp(0, 1).sqrt().asin()
