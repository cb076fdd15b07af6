"""Adversarial latent auto-encoder: an encoder that plays against a generator, in its own latent space."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import ConfigError
from deepsentinel.objectives.adversary import called_false, called_real, held
from deepsentinel.objectives.hiding import NAN, Hiding
from deepsentinel.objectives.objective import Objective, detached, on_device
from deepsentinel.objectives.pixels import VectorDecoder, apart, pictures, statistics, together
from deepsentinel.objectives.summary import Summary
from deepsentinel.objectives.views import encode, images_of
from deepsentinel.sample import Batch

_REACH = 5.0
"""Standard deviations of a band that generated values stay within, softly."""
_SEEN_SEED = 0


class AdversarialLatent(Objective):
    """ALAE: the encoder tells real from generated patches, and finds again what was generated.

    Pidhorskyi, Adjeroh and Doretto, "Adversarial Latent Autoencoders", arXiv 2004.04946. Noise is
    mapped to a latent (F), from which a patch is generated (G); the encoder (E) brings it back to
    the latent space, where a small network (D) judges. As in their algorithm 1, E and D minimise
    softplus(D(E(G(F(z))))) + softplus(-D(E(x))) + r1 / 2 |dD(E(x)) / dx|^2; F and G minimise
    softplus(-D(E(G(F(z))))); and E and G minimise |F(z) - E(G(F(z)))|^2, the target fixed. All step
    at once instead of in turn, and F takes part in the last. Generator and mapping are plain, not
    StyleGAN's.

    The latent space is the embedding. Generated patches lack what the real ones beside them lack,
    so that clouds and absent sensors give nothing away.

    Args:
        encoder: that is trained, as encoder and as the better part of the discriminator.
        noise: dimensions of z.
        r1: weight of the gradient penalty; it differentiates twice, so compiled encoders need 0.
        reciprocity: weight of the distance in the latent space.
        hiding: what the encoder is not shown of real and generated patches.
        width: of the generator.

    Example:
        >>> encoder = FusionEncoder("resnet10t")
        >>> batch = {"image_s1": torch.randn(4, 2, 32, 32) - 12, "image_s2": torch.rand(4, 12, 32, 32)}
        >>> sorted(AdversarialLatent(encoder)(encoder, batch, torch.Generator().manual_seed(0)))
        ['discriminator', 'fooling', 'loss', 'penalty', 'reciprocity']
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: FusionEncoder,
        *,
        noise: int = 64,
        r1: float = 10.0,
        reciprocity: float = 1.0,
        hiding: Hiding | None = None,
        width: int = 64,
    ) -> None:
        super().__init__()
        if noise < 1 or min(r1, reciprocity) < 0:
            raise ConfigError(
                f"noise={noise}, r1={r1}, reciprocity={reciprocity}: noise is 1 or more, the weights 0 "
                "or more."
            )
        self.noise = noise
        self.r1 = r1
        self.reciprocity = reciprocity
        self.hiding = hiding or Hiding()
        mean, std = statistics(encoder)
        latent = encoder.embed_dim
        self.summary = Summary(encoder)
        self.mapping = _perceptron(noise, latent)
        self.generator = VectorDecoder(latent, len(mean), width=width)
        self.discriminator = _perceptron(latent, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(
        self, encoder: FusionEncoder, batch: Batch, generator: Generator
    ) -> dict[str, Tensor]:
        """`loss` and its parts: `discriminator`, `fooling`, `penalty`, `reciprocity`."""
        images = self.hiding(images_of(encoder, batch), generator)
        real = ((together(images) - self.mean) / self.std).requires_grad_(self.r1 > 0)
        z = torch.randn(
            len(real), self.noise, generator=on_device(generator, real.device), device=real.device
        )
        latent = self.mapping(z)
        drawn = self._generated(latent, real)
        judged, penalty = self._real(encoder, real)
        found = self.summary(self._encoded(encoder, drawn.detach(), encoder))
        told = called_real(judged).mean() + called_false(self.discriminator(found)).mean()
        seen = held(self.summary)(self._encoded(held(encoder), drawn, encoder))
        fooling = called_real(held(self.discriminator)(seen)).mean()
        target = latent.detach()
        distance = ((found - target).square() + (seen - target).square()).sum(dim=1).mean()
        return detached(
            {
                "loss": told + fooling + self.r1 / 2 * penalty + self.reciprocity * distance,
                "discriminator": told,
                "fooling": fooling,
                "penalty": penalty,
                "reciprocity": distance / 2,
            }
        )

    def adversary(self) -> list[nn.Parameter]:
        """The mapping's and the generator's."""
        return [*self.mapping.parameters(), *self.generator.parameters()]

    @torch.no_grad()
    def images(self, encoder: FusionEncoder, batch: Batch) -> dict[str, Tensor]:
        """Patches, what is generated from their embeddings, and from noise."""
        images = images_of(encoder, batch)
        truth = together(images)
        whole = torch.zeros_like(truth)
        seed = torch.Generator().manual_seed(_SEEN_SEED)
        z = torch.randn(len(truth), self.noise, generator=seed).to(truth.device)
        latents = {"again": self.summary(encode(encoder, images)), "noise": self.mapping(z)}
        named = {k: self._generated(w, whole) * self.std + self.mean for k, w in latents.items()}
        return {
            f"{sensor}_{name}": picture
            for name, values in {"truth": truth, **named}.items()
            for sensor, picture in pictures(values, encoder).items()
        }

    def _generated(self, latent: Tensor, real: Tensor) -> Tensor:
        """Normalised patches, NaN where the real ones are."""
        drawn = self.generator(latent, (real.shape[2], real.shape[3])).float()
        bounded: Tensor = _REACH * (drawn / _REACH).tanh()
        return bounded.masked_fill(~real.detach().isfinite(), NAN)

    def _real(self, encoder: FusionEncoder, real: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of real patches (B, 1), and the mean squared length of their gradient."""
        with _twice_differentiable() if self.r1 else nullcontext():
            logits = self.discriminator(self.summary(self._encoded(encoder, real, encoder)))
            if not (self.r1 and torch.is_grad_enabled()):
                return logits, logits.new_zeros(())
            (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        return logits, slope.square().flatten(1).sum(dim=1).mean()

    def _encoded(self, call: Any, normalised: Tensor, encoder: FusionEncoder) -> Any:
        """Features of normalised patches by the encoder, or by the encoder as an opponent sees it."""
        parts = apart(normalised * self.std + self.mean, encoder)
        # Generated values may be what no sensor measures; units are not checked.
        return call(
            parts.get("s1"),
            parts.get("s2"),
            s1_bands=encoder.bands.get("s1"),
            s2_bands=encoder.bands.get("s2"),
            check="never",
        )


def _twice_differentiable() -> AbstractContextManager[None]:
    """Attention that can be differentiated twice; the fused kernels cannot."""
    context: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return context


def _perceptron(inputs: int, outputs: int) -> nn.Sequential:
    width = max(inputs, outputs)
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, outputs),
    )
