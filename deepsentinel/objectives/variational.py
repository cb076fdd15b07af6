"""Variational auto-encoder: the embedding as the parameters of a Gaussian from which patches are drawn."""

import torch
from torch import Generator, Tensor, nn

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import ConfigError
from deepsentinel.objectives.hiding import Hiding
from deepsentinel.objectives.objective import Objective, detached, on_device
from deepsentinel.objectives.pixels import VectorDecoder, pictures, statistics, together
from deepsentinel.objectives.summary import Summary
from deepsentinel.objectives.views import encode, images_of
from deepsentinel.sample import Batch


class Variational(Objective):
    """Negative evidence lower bound of what was observed, per observed value.

    Kingma and Welling, "Auto-Encoding Variational Bayes", arXiv 1312.6114, equation 10, with unit
    variance of the normalised bands; `beta` weighs the divergence (Higgins et al., ICLR 2017). Values
    that were not observed have no likelihood (Nazabal et al., arXiv 1807.03653), and those that are
    hidden from the encoder count, so that one sensor draws the other.

    Args:
        encoder: whose embedding becomes mean and logarithm of the variance.
        latent: dimensions of the Gaussian.
        beta: weight of the divergence from the standard normal distribution.
        hiding: what the encoder is not shown.
        width: of the decoder.

    Example:
        >>> encoder = FusionEncoder("resnet10t")
        >>> batch = {"image_s1": torch.randn(4, 2, 32, 32) - 12, "image_s2": torch.rand(4, 12, 32, 32)}
        >>> sorted(Variational(encoder)(encoder, batch, torch.Generator().manual_seed(0)))
        ['divergence', 'error', 'loss']
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: FusionEncoder,
        *,
        latent: int = 128,
        beta: float = 1.0,
        hiding: Hiding | None = None,
        width: int = 64,
    ) -> None:
        super().__init__()
        if latent < 1 or beta < 0:
            raise ConfigError(f"latent={latent}, beta={beta}: latent is 1 or more, beta 0 or more.")
        self.beta = beta
        self.hiding = hiding or Hiding()
        mean, std = statistics(encoder)
        self.summary = Summary(encoder)
        self.gaussian = nn.Linear(encoder.embed_dim, 2 * latent)
        self.decoder = VectorDecoder(latent, len(mean), width=width)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(
        self, encoder: FusionEncoder, batch: Batch, generator: Generator
    ) -> dict[str, Tensor]:
        """`loss`; `error`, mean square in standard deviations; `divergence` in nats a patch."""
        images = images_of(encoder, batch)
        truth = (together(images) - self.mean) / self.std
        seen = encode(encoder, self.hiding(images, generator))
        centre, log_variance = self.gaussian(self.summary(seen)).float().chunk(2, dim=1)
        noise = torch.randn(
            centre.shape, generator=on_device(generator, centre.device), device=centre.device
        )
        latent = centre + noise * (0.5 * log_variance).exp()
        drawn = self.decoder(latent, (truth.shape[2], truth.shape[3])).float()
        error, divergence = bound_parts(truth, drawn, centre, log_variance)
        count = truth.isfinite().sum().clamp_min(1)
        return detached(
            {
                "loss": (0.5 * error.sum() + self.beta * divergence.sum()) / count,
                "error": error.sum() / count,
                "divergence": divergence.mean(),
            }
        )

    @torch.no_grad()
    def images(self, encoder: FusionEncoder, batch: Batch) -> dict[str, Tensor]:
        """What the means of the Gaussians draw, and the truth, of each sensor."""
        truth = together(images_of(encoder, batch))
        seen = encode(encoder, images_of(encoder, batch))
        centre = self.gaussian(self.summary(seen)).chunk(2, dim=1)[0]
        drawn = self.decoder(centre, (truth.shape[2], truth.shape[3])).float()
        named = {"drawn": drawn * self.std + self.mean, "truth": truth}
        return {
            f"{sensor}_{name}": picture
            for name, values in named.items()
            for sensor, picture in pictures(values, encoder).items()
        }


def bound_parts(
    truth: Tensor, drawn: Tensor, centre: Tensor, log_variance: Tensor
) -> tuple[Tensor, Tensor]:
    """Squared error summed over observed values, and divergence from N(0, 1), of each patch (B,).

    Example:
        >>> zero = torch.zeros(1, 1)
        >>> truth = torch.tensor([[[[2.0, float("nan")]]]])
        >>> error, divergence = bound_parts(truth, torch.zeros(1, 1, 1, 2), zero + 1, zero)
        >>> error.item(), divergence.item()
        (4.0, 0.5)
    """
    squares = torch.where(truth.isfinite(), drawn - truth, 0.0).square().flatten(1).sum(dim=1)
    terms = 1 + log_variance - centre.square() - log_variance.exp()
    return squares, -0.5 * terms.sum(dim=1)
