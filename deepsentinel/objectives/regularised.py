"""Objectives without negatives: a momentum teacher (BYOL), or variance and covariance (VICReg)."""

from lightly.loss import NegativeCosineSimilarity
from lightly.loss.vicreg_loss import covariance_loss, invariance_loss, variance_loss
from lightly.models.modules.heads import (
    BYOLPredictionHead,
    BYOLProjectionHead,
    VICRegProjectionHead,
)
from lightly.utils.dist import gather
from lightly.utils.scheduler import cosine_schedule
from torch import Generator, Tensor, cat, nn, stack

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import ConfigError
from deepsentinel.objectives.momentum import Target, world_size
from deepsentinel.objectives.objective import Objective, detached, in_float32, needs
from deepsentinel.objectives.summary import Summary
from deepsentinel.objectives.views import Between, Pairs, View, encode, images_of, stacked
from deepsentinel.sample import Batch


class BYOL(Objective):
    """Predict what a momentum teacher makes of the other look at a patch; nothing repels.

    Grill et al., "Bootstrap your own latent", arXiv 2006.07733; equation 2 for both directions,
    less its constant: minus the mean cosine, from -1 to 1. Heads, loss and the schedule of the
    momentum are lightly's. The teacher sees both looks too, never a gradient.

    Args:
        encoder: whose embedding is projected and predicted.
        between: what attracts: `"views"`, `"sensors"`, or `"both"`, half of the patches each.
        view: how a look is taken.
        hidden: width of both heads.
        out: dimensions in which the prediction is made.
        momentum: of the teacher at the start; it rises to 1 along a cosine.

    Example:
        >>> import torch
        >>> encoder = FusionEncoder("resnet10t")
        >>> objective = BYOL(encoder, hidden=64, out=32)
        >>> batch = {"image_s1": torch.randn(4, 2, 32, 32) - 12, "image_s2": torch.rand(4, 12, 32, 32)}
        >>> sorted(objective(encoder, batch, torch.Generator().manual_seed(0)))
        ['across', 'loss']
    """

    def __init__(
        self,
        encoder: FusionEncoder,
        *,
        between: Between = "both",
        view: View | None = None,
        hidden: int = 1024,
        out: int = 256,
        momentum: float = 0.99,
    ) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ConfigError(f"momentum={momentum}; it must lie within 0 to 1.")
        self.pairs = Pairs(between=between, view=view or View()).for_encoder(encoder)
        self.momentum = momentum
        projection = BYOLProjectionHead(encoder.embed_dim, hidden, out)
        self.online = nn.Sequential(Summary(encoder), projection)
        self.target = Target(encoder, self.online)
        self.predict = BYOLPredictionHead(out, hidden, out)
        self.criterion = NegativeCosineSimilarity()

    def forward(
        self, encoder: FusionEncoder, batch: Batch, generator: Generator
    ) -> dict[str, Tensor]:
        """`loss`; `across`, the share of pairs of sensors."""
        one, other, across = self.pairs(images_of(encoder, batch), generator)
        needs(across, 2, "the heads normalise over the batch")
        predicted = self.predict(self.online(encode(encoder, stacked(one, other))))
        wanted = self.target(stacked(other, one))
        loss = in_float32(self.criterion, predicted, wanted)
        return detached({"loss": loss, "across": across.float().mean()})

    def after_step(self, encoder: FusionEncoder, step: int, total: int) -> None:
        """The teacher follows."""
        momentum = cosine_schedule(step, max(total, step + 1), self.momentum, 1.0)
        self.target.follow(encoder, self.online, momentum)


class VICReg(Objective):
    """Two looks agree, each dimension varies over the batch, and no two dimensions say the same.

    Bardes et al., "VICReg: Variance-Invariance-Covariance Regularization", arXiv 2105.04906,
    equation 6; terms and head are lightly's.

    Args:
        encoder: whose embedding is projected.
        between: what attracts: `"views"`, `"sensors"`, or `"both"`, half of the patches each.
        view: how a look is taken.
        invariance: weight of the distance between looks.
        variance: weight of the hinge on each standard deviation.
        covariance: weight of the squared covariances.
        hidden: width of the projection head.
        out: dimensions in which the loss is taken.

    Example:
        >>> import torch
        >>> encoder = FusionEncoder("resnet10t")
        >>> objective = VICReg(encoder, hidden=64, out=32)
        >>> batch = {"image_s1": torch.randn(4, 2, 32, 32) - 12, "image_s2": torch.rand(4, 12, 32, 32)}
        >>> sorted(objective(encoder, batch, torch.Generator().manual_seed(0)))
        ['across', 'covariance', 'invariance', 'loss', 'variance']
    """

    def __init__(
        self,
        encoder: FusionEncoder,
        *,
        between: Between = "both",
        view: View | None = None,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        hidden: int = 1024,
        out: int = 1024,
    ) -> None:
        super().__init__()
        weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
        if min(weights.values()) < 0:
            raise ConfigError(f"weights {weights}: none may be negative.")
        self.weights = weights
        self.pairs = Pairs(between=between, view=view or View()).for_encoder(encoder)
        self.summary = Summary(encoder)
        self.head = VICRegProjectionHead(encoder.embed_dim, hidden, out)

    def forward(
        self, encoder: FusionEncoder, batch: Batch, generator: Generator
    ) -> dict[str, Tensor]:
        """`loss` and its three parts, unweighted; `across`, the share of pairs of sensors."""
        one, other, across = self.pairs(images_of(encoder, batch), generator)
        needs(across, 2, "variance is taken over the batch")
        projected = self.head(self.summary(encode(encoder, stacked(one, other))))
        first, second = projected.chunk(2)
        parts = {"invariance": in_float32(invariance_loss, first, second)}
        if world_size() > 1:
            first, second = (cat(tuple(gather(part))) for part in (first, second))
        parts["variance"] = (
            in_float32(variance_loss, first) + in_float32(variance_loss, second)
        ) / 2
        parts["covariance"] = in_float32(covariance_loss, first) + in_float32(
            covariance_loss, second
        )
        loss = stack([self.weights[k] * v for k, v in parts.items()]).sum()
        return detached({"loss": loss, **parts, "across": across.float().mean()})
