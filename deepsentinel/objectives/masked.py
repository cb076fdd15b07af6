"""Masked reconstruction: draw what was hidden, of one sensor from the other too."""

import torch
from torch import Generator, Tensor

from deepsentinel.bands import SENSORS
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import ConfigError, ShapeError
from deepsentinel.heads.neck import cells
from deepsentinel.objectives.hiding import NAN, Hiding, with_something
from deepsentinel.objectives.objective import Objective, detached
from deepsentinel.objectives.pixels import (
    PixelDecoder,
    apart,
    mean_over,
    pictures,
    statistics,
    together,
)
from deepsentinel.objectives.views import encode, images_of, observed
from deepsentinel.sample import IMAGE_KEYS, Batch

_SEEN_SEED = 0
"""Of what is hidden for pictures and scores, so that they compare over a run."""


class Masked(Objective):
    """Mean absolute error, in standard deviations of the band, of what was observed and hidden.

    He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv 2111.06377, in the form
    of Xie et al., "SimMIM", arXiv 2111.09886, which serves ConvNets, Swin and ViTs alike: what is
    hidden stays in the input as "not observed" (NaN), which these encoders know, and a light
    decoder draws it. What a ViT would save by leaving hidden tokens out is given up for one
    objective on every backbone.

    Squares of `block` pixels are hidden, of each sensor others, so that one sensor helps with the
    other. In the share `cross` of the patches with both sensors one of them is hidden whole and
    drawn from the other. Values that were not observed are no targets.

    Args:
        encoder: that is trained.
        ratio: share of the squares that is hidden.
        block: side of a square in pixels; of ViTs a multiple of their patch size.
        cross: share of the patches that lose a whole sensor instead.
        bands: share of the patches that lose some bands of S2, which are drawn too.
        width: of the decoder.

    Example:
        >>> encoder = FusionEncoder("resnet10t")
        >>> batch = {"image_s1": torch.randn(4, 2, 32, 32) - 12, "image_s2": torch.rand(4, 12, 32, 32)}
        >>> losses = Masked(encoder)(encoder, batch, torch.Generator().manual_seed(0))
        >>> sorted(losses)
        ['hidden', 'loss', 's1', 's2']
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: FusionEncoder,
        *,
        ratio: float = 0.6,
        block: int = 16,
        cross: float = 0.3,
        bands: float = 0.2,
        width: int = 64,
    ) -> None:
        super().__init__()
        shares = {"ratio": ratio, "cross": cross, "bands": bands}
        if block < 1 or not all(0 <= share <= 1 for share in shares.values()):
            raise ConfigError(f"{shares}, block={block}: shares are from 0 to 1, block 1 or more.")
        self.ratio = ratio
        self.block = block
        self.cross = cross
        self.hiding = Hiding(s1=0, s2=0, bands=bands, hole=0)
        mean, std = statistics(encoder)
        self.decoder = PixelDecoder(encoder, len(mean), width=width)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(
        self, encoder: FusionEncoder, batch: Batch, generator: Generator
    ) -> dict[str, Tensor]:
        """`loss`, the sum of its parts `s1` and `s2`; `hidden`, the share of observed values.

        Raises:
            ShapeError: a patch is not larger than one square.
        """
        images = images_of(encoder, batch)
        shown = self.hide(images, generator)
        truth, left = together(images), together(shown)
        drawn = self._drawn(encoder, shown)
        hidden = truth.isfinite() & ~left.isfinite()
        # Filled before any arithmetic: a gradient of 0 times NaN is NaN.
        target = ((truth - self.mean) / self.std).nan_to_num(0.0, 0.0, 0.0)
        error = (drawn - target).abs()
        counted = apart(hidden, encoder)
        parts = {str(s): mean_over(part, counted[s]) for s, part in apart(error, encoder).items()}
        loss = torch.stack(list(parts.values())).sum()
        return detached(
            {"loss": loss, **parts, "hidden": hidden.sum() / truth.isfinite().sum().clamp_min(1)}
        )

    def hide(self, images: Batch, generator: Generator) -> Batch:
        """The images with NaN where something is hidden; never all of a patch."""
        shown = self.hiding(images, generator)
        count = len(next(iter(images.values())))
        whole = torch.rand(count, generator=generator) < self.cross
        keeps = torch.rand(count, generator=generator) < 0.5
        for sensor, kept in zip(SENSORS, (keeps, ~keeps), strict=True):
            key = IMAGE_KEYS[sensor]
            if key not in shown:
                continue
            image = shown[key]
            squares = self._squares(image, generator).to(image.device)
            if len(shown) < len(SENSORS):
                shown[key] = image.masked_fill(squares, NAN)
                continue
            both = torch.stack([observed(x) for x in images.values()]).all(dim=0)
            alone = (whole.to(image.device) & both)[:, None, None, None]
            lost = ~kept.to(image.device)[:, None, None, None]
            shown[key] = image.masked_fill(torch.where(alone, lost, squares), NAN)
        return with_something(shown, images)

    def _squares(self, image: Tensor, generator: Generator) -> Tensor:
        """Hidden squares, bool (B, 1, H, W) on the CPU, the same number in each patch."""
        height, width = image.shape[2:]
        down, across = (cells(n, self.block) for n in (height, width))
        count = min(round(self.ratio * down * across), down * across - 1)
        if count == 0 and self.ratio > 0:
            raise ShapeError(
                f"patches of {height} x {width} px in squares of {self.block} px: {down * across} "
                f"squares, of which {self.ratio:.0%} is none that can be hidden. Take a smaller block."
            )
        order = torch.rand(len(image), down * across, generator=generator).argsort(dim=1)
        grid = (order < count).reshape(-1, 1, down, across)
        tall = grid.repeat_interleave(self.block, 2).repeat_interleave(self.block, 3)
        return tall[..., :height, :width]

    def _drawn(self, encoder: FusionEncoder, shown: Batch) -> Tensor:
        size = next(iter(shown.values())).shape[2:]
        drawn: Tensor = self.decoder(encode(encoder, shown), (size[0], size[1])).float()
        return drawn

    @torch.no_grad()
    def images(self, encoder: FusionEncoder, batch: Batch) -> dict[str, Tensor]:
        """What was shown, what was drawn and the truth, of each sensor."""
        images = images_of(encoder, batch)
        shown = self.hide(images, torch.Generator().manual_seed(_SEEN_SEED))
        drawn = self._drawn(encoder, shown) * self.std + self.mean
        named = {"shown": together(shown), "drawn": drawn, "truth": together(images)}
        return {
            f"{sensor}_{name}": picture
            for name, values in named.items()
            for sensor, picture in pictures(values, encoder).items()
        }
