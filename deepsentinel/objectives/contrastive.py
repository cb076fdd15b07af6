"""Contrastive objectives: looks at one place attract, all others repel."""

import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import MoCoProjectionHead, SimCLRProjectionHead
from lightly.models.utils import concat_all_gather
from lightly.utils.scheduler import cosine_schedule
from torch import Generator, Tensor, nn

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import ConfigError
from deepsentinel.objectives.momentum import Target, rank, world_size
from deepsentinel.objectives.objective import Objective, detached, in_float32, needs
from deepsentinel.objectives.summary import Summary
from deepsentinel.objectives.views import Between, Pairs, View, encode, images_of, stacked
from deepsentinel.sample import Batch


class SimCLR(Objective):
    """NT-Xent between two looks at a patch; all other looks of the batch, on all ranks, repel.

    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", arXiv
    2002.05709. Loss and projection head are lightly's. Between sensors it is the loss with which
    Sentinel-1 and Sentinel-2 of a place attract.

    Args:
        encoder: whose embedding is projected.
        between: what attracts: `"views"`, `"sensors"`, or `"both"`, half of the patches each.
        view: how a look is taken.
        temperature: of the softmax.
        hidden: width of the projection head.
        out: dimensions in which the loss is taken.

    Example:
        >>> encoder = FusionEncoder("resnet10t")
        >>> objective = SimCLR(encoder, hidden=64, out=32)
        >>> batch = {"image_s1": torch.randn(4, 2, 32, 32) - 12, "image_s2": torch.rand(4, 12, 32, 32)}
        >>> sorted(objective(encoder, batch, torch.Generator().manual_seed(0)))
        ['across', 'agreement', 'loss']
    """

    def __init__(
        self,
        encoder: FusionEncoder,
        *,
        between: Between = "both",
        view: View | None = None,
        temperature: float = 0.1,
        hidden: int = 512,
        out: int = 128,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ConfigError(f"temperature={temperature}; it must be above 0.")
        self.pairs = Pairs(between=between, view=view or View()).for_encoder(encoder)
        self.summary = Summary(encoder)
        self.head = SimCLRProjectionHead(encoder.embed_dim, hidden, out)
        self.criterion = NTXentLoss(temperature)

    def forward(
        self, encoder: FusionEncoder, batch: Batch, generator: Generator
    ) -> dict[str, Tensor]:
        """`loss`; `agreement`, the mean cosine of a pair; `across`, the share of pairs of sensors."""
        one, other, across = self.pairs(images_of(encoder, batch), generator)
        needs(across, 2, "the other patches of a batch repel")
        projected = self.head(self.summary(encode(encoder, stacked(one, other))))
        first, second = projected.chunk(2)
        # Asked at each step: processes may be joined after the objective is built.
        self.criterion.gather_distributed = world_size() > 1
        return detached(
            {
                "loss": in_float32(self.criterion, first, second),
                "agreement": F.cosine_similarity(first, second).mean(),
                "across": across.float().mean(),
            }
        )


class MoCo(Objective):
    """InfoNCE of a look against the same patch under a momentum encoder and a queue of others.

    He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", arXiv
    1911.05722, with the projection of version 2 (arXiv 2003.04297), lightly's head. Keys of the
    other patches of the batch repel beside those of the queue, as in version 3 (arXiv 2104.02057):
    against the queue alone, patches of now are told from patches of then by the drift of the
    momentum encoder, and small encoders collapse.

    The queue is ours, because lightly's is not saved with a checkpoint and begins with noise from
    torch's global generator; ours begins empty. Batches are not shuffled between ranks for the batch
    norms of the momentum encoder.

    Args:
        encoder: whose embedding is projected.
        between: what attracts: `"views"`, `"sensors"`, or `"both"`, half of the patches each.
        view: how a look is taken.
        temperature: of the softmax.
        hidden: width of the projection head.
        out: dimensions in which the loss is taken.
        queue: embeddings of earlier batches that repel.
        momentum: of the second encoder at the start; it rises to 1 along a cosine.

    Example:
        >>> encoder = FusionEncoder("resnet10t")
        >>> objective = MoCo(encoder, hidden=64, out=32, queue=64)
        >>> batch = {"image_s1": torch.randn(4, 2, 32, 32) - 12, "image_s2": torch.rand(4, 12, 32, 32)}
        >>> sorted(objective(encoder, batch, torch.Generator().manual_seed(0)))
        ['across', 'agreement', 'loss']
    """

    queue: Tensor
    seen: Tensor

    def __init__(
        self,
        encoder: FusionEncoder,
        *,
        between: Between = "both",
        view: View | None = None,
        temperature: float = 0.2,
        hidden: int = 512,
        out: int = 128,
        queue: int = 4096,
        momentum: float = 0.99,
    ) -> None:
        super().__init__()
        if temperature <= 0 or queue < 1 or not 0 <= momentum <= 1:
            raise ConfigError(
                f"temperature={temperature}, queue={queue}, momentum={momentum}: temperature must "
                "be above 0, queue 1 or more, momentum from 0 to 1."
            )
        self.pairs = Pairs(between=between, view=view or View()).for_encoder(encoder)
        self.temperature = temperature
        self.momentum = momentum
        head = MoCoProjectionHead(encoder.embed_dim, hidden, out)
        self.online = nn.Sequential(Summary(encoder), head)
        self.target = Target(encoder, self.online)
        self.register_buffer("queue", torch.zeros(queue, out))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(
        self, encoder: FusionEncoder, batch: Batch, generator: Generator
    ) -> dict[str, Tensor]:
        """`loss`; `agreement`, the mean cosine of a pair; `across`, the share of pairs of sensors."""
        one, other, across = self.pairs(images_of(encoder, batch), generator)
        needs(across, 2, "the other patches of a batch repel")
        query = self.online(encode(encoder, one))
        key = self.target(other)
        keys = concat_all_gather(key) if world_size() > 1 else key
        losses = {
            "loss": in_float32(self.criterion, query, keys),
            "agreement": F.cosine_similarity(query, key).mean(),
            "across": across.float().mean(),
        }
        if self.training and torch.is_grad_enabled():
            self._enqueue(keys)
        return detached(losses)

    def criterion(self, query: Tensor, keys: Tensor) -> Tensor:
        """InfoNCE of queries (B, C) among the keys of all ranks and the queue; equation 1 of the paper."""
        query, keys = F.normalize(query, dim=1), F.normalize(keys, dim=1)
        old = query @ self.queue.clone().T
        empty = torch.arange(len(self.queue), device=query.device) >= self.seen
        logits = torch.cat([query @ keys.T, old.masked_fill(empty, -torch.inf)], dim=1)
        own = torch.arange(len(query), device=query.device) + rank() * len(query)
        return F.cross_entropy(logits / self.temperature, own)

    def after_step(self, encoder: FusionEncoder, step: int, total: int) -> None:
        """The momentum encoder follows."""
        momentum = cosine_schedule(step, max(total, step + 1), self.momentum, 1.0)
        self.target.follow(encoder, self.online, momentum)

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        """The keys of all ranks take the places of the oldest."""
        newest = F.normalize(keys.float(), dim=1)[-len(self.queue) :]
        places = (self.seen + torch.arange(len(newest), device=keys.device)) % len(self.queue)
        self.queue[places] = newest
        self.seen.add_(len(newest))
