"""Conditional GAN from Sentinel-1 to what Sentinel-2 would show: true colour or a vegetation index."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from deepsentinel.bands import channel_bands
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import BandError, ConfigError, nearest
from deepsentinel.objectives.adversary import (
    PatchDiscriminator,
    called_false,
    called_real,
    held,
    weighted,
)
from deepsentinel.objectives.hiding import NAN
from deepsentinel.objectives.objective import Objective, detached
from deepsentinel.objectives.pixels import (
    RGB,
    RGB_TOP,
    PixelDecoder,
    mean_over,
    pictures,
    together,
)
from deepsentinel.objectives.views import encode, images_of, observed
from deepsentinel.sample import IMAGE_KEYS, Batch, batch_bands
from deepsentinel.units import evi

Wanted = Literal["rgb", "evi"]
EVI_BANDS = ("B08", "B04", "B02")
RANGE: dict[str, tuple[float, float]] = {"rgb": (0.0, RGB_TOP), "evi": (-0.2, 1.0)}
"""Reflectance or index between which targets are clipped; PSNR and SSIM are of this range."""
_SSIM_WINDOW = 11


class Translation(Objective):
    """pix2pix: draw B04, B03, B02 or EVI from Sentinel-1 alone, so that a discriminator believes it.

    Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", arXiv
    1611.07004, equation 4: cross-entropy of a patch discriminator that sees Sentinel-1 too, plus
    `l1` times the mean absolute error; the discriminator's objective is halved, as there. Their
    U-Net is the encoder and a decoder of its maps; their noise, which they found to be
    ignored, is left out. Both sides step at once instead of in turn.

    Patches that lack a sensor take part in the forward pass and in no loss; pixels of the
    target that were not observed are blanked in what is drawn too, before the discriminator sees it.
    Of Sentinel-2 the encoder is shown nothing, so that only its Sentinel-1 side learns.

    Args:
        encoder: that reads Sentinel-1.
        target: `"rgb"` or `"evi"`, clipped to `RANGE` and scaled to -1 to 1.
        l1: weight of the absolute error.
        width: of the decoder.
        layers: of stride 2 in the discriminator; three need patches of 32 px.

    Example:
        >>> encoder = FusionEncoder("resnet10t")
        >>> batch = {"image_s1": torch.randn(2, 2, 32, 32) - 12, "image_s2": torch.rand(2, 12, 32, 32)}
        >>> objective = Translation(encoder)
        >>> sorted(objective(encoder, batch, torch.Generator().manual_seed(0)))
        ['discriminator', 'fooling', 'l1', 'loss']
        >>> sorted(objective.scores(encoder, batch)), sorted(objective.images(encoder, batch))
        (['psnr', 'ssim'], ['drawn', 's1_shown', 'truth'])
    """

    def __init__(
        self,
        encoder: FusionEncoder,
        *,
        target: Wanted = "rgb",
        l1: float = 100.0,
        width: int = 64,
        layers: int = 3,
    ) -> None:
        super().__init__()
        if target not in get_args(Wanted):
            raise ConfigError(f"target={target!r}. {nearest(target, get_args(Wanted))}")
        if "s1" not in encoder.sensors or l1 < 0 or layers < 1:
            raise ConfigError(
                f"the encoder reads {' '.join(encoder.sensors)}, l1={l1}, layers={layers}: the encoder "
                "must read s1, l1 be 0 or more, layers 1 or more."
            )
        self.wanted: Wanted = target
        self.l1 = l1
        channels = len(RGB) if target == "rgb" else 1
        self.decoder = PixelDecoder(encoder, channels, width=width)
        seen = 2 * len(encoder.bands["s1"])
        self.discriminator = PatchDiscriminator(seen + channels, layers=layers)

    def forward(
        self, encoder: FusionEncoder, batch: Batch, generator: Generator
    ) -> dict[str, Tensor]:
        """`loss`; `l1`, from 0 to 2; `fooling` and `discriminator`, cross-entropies.

        Raises:
            BandError: the batch lacks a band of the target.
        """
        images = images_of(encoder, batch)
        truth, usable = self._target(batch, images)
        drawn, known = self._drawn(encoder, images), truth.isfinite()
        real = truth.nan_to_num(0.0)
        counted = known & (usable > 0)[:, None, None, None]
        error = mean_over((drawn - real).abs(), counted)
        condition = self._condition(encoder, images[IMAGE_KEYS["s1"]])
        real, false = (torch.cat([condition, x * known], dim=1) for x in (real, drawn))
        fooling = weighted(called_real(held(self.discriminator)(false)), usable)
        told = weighted(called_real(self.discriminator(real)), usable) + weighted(
            called_false(self.discriminator(false.detach())), usable
        )
        return detached(
            {
                "loss": fooling + self.l1 * error + 0.5 * told,
                "l1": error,
                "fooling": fooling,
                "discriminator": 0.5 * told,
            }
        )

    def adversary(self) -> list[torch.nn.Parameter]:
        """The discriminator's."""
        return list(self.discriminator.parameters())

    @torch.no_grad()
    def scores(self, encoder: FusionEncoder, batch: Batch) -> dict[str, Tensor]:
        """`psnr` in dB and `ssim` against what was observed, means over patches with both sensors."""
        images = images_of(encoder, batch)
        truth, usable = self._target(batch, images)
        drawn = self._drawn(encoder, images)
        chosen = usable > 0
        truth, drawn = ((1 + x[chosen]) / 2 for x in (truth, drawn))
        return {"psnr": psnr(drawn, truth), "ssim": ssim(drawn, truth)}

    @torch.no_grad()
    def images(self, encoder: FusionEncoder, batch: Batch) -> dict[str, Tensor]:
        """What Sentinel-1 shows, `drawn` from it, and `truth`, the last two in colour or in grey."""
        images = images_of(encoder, batch)
        named = {"drawn": self._drawn(encoder, images), "truth": self._target(batch, images)[0]}
        radar = pictures(together(images), encoder)["s1"]
        return {"s1_shown": radar} | {
            k: ((1 + x) / 2).nan_to_num(0.5).clamp(0, 1).expand(-1, 3, -1, -1)
            for k, x in named.items()
        }

    def _drawn(self, encoder: FusionEncoder, images: Batch) -> Tensor:
        """What is drawn from Sentinel-1, from -1 to 1; a patch without it is read as it is."""
        s1 = images[IMAGE_KEYS["s1"]]
        shown = dict(images)
        if IMAGE_KEYS["s2"] in images:
            blind = observed(s1)[:, None, None, None]
            shown[IMAGE_KEYS["s2"]] = images[IMAGE_KEYS["s2"]].masked_fill(blind, NAN)
        size = (s1.shape[2], s1.shape[3])
        drawn: Tensor = self.decoder(encode(encoder, shown), size).float().tanh()
        return drawn

    def _target(self, batch: Batch, images: Batch) -> tuple[Tensor, Tensor]:
        """The target from -1 to 1, NaN where not known, and float (B,): 1 where a patch has both."""
        s1 = images[IMAGE_KEYS["s1"]]
        key = IMAGE_KEYS["s2"]
        if key not in batch:
            channels = len(RGB) if self.wanted == "rgb" else 1
            absent_target = s1.new_full((len(s1), channels, *s1.shape[2:]), NAN)
            return absent_target, s1.new_zeros(len(s1))
        names = channel_bands(batch[key].shape[1], batch_bands(batch, "s2"), "s2")
        bands = RGB if self.wanted == "rgb" else EVI_BANDS
        absent = [b for b in bands if b not in names]
        if absent:
            raise BandError(
                f"target={self.wanted!r} needs {' '.join(absent)}, but the batch holds "
                f"{' '.join(names)}. Read these bands too."
            )
        values = batch[key][:, [names.index(b) for b in bands]].float()
        if self.wanted == "evi":
            values = evi(values[:, :1], values[:, 1:2], values[:, 2:3])
        values = values.masked_fill(~values.isfinite(), NAN)
        low, high = RANGE[self.wanted]
        scaled = (values.clamp(low, high) - low) / (high - low) * 2 - 1
        return scaled, (observed(s1) & observed(scaled)).float()

    def _condition(self, encoder: FusionEncoder, s1: Tensor) -> Tensor:
        """Normalised Sentinel-1 and where it was observed, without NaN."""
        known = encoder.card.normalisation
        pairs = torch.tensor([known[b] for b in encoder.bands["s1"]], device=s1.device)
        normal = (s1 - pairs[:, 0, None, None]) / pairs[:, 1, None, None]
        return torch.cat([normal.nan_to_num(0.0, 0.0, 0.0), s1.isfinite().float()], dim=1)


def psnr(drawn: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of values from 0 to 1, over what is known, mean over patches.

    Args:
        drawn: (B, C, H, W).
        truth: (B, C, H, W), NaN where not known.

    Returns:
        A scalar; NaN where no patch has a known value.

    Example:
        >>> truth = torch.tensor([[[[0.5, float("nan")]]]])
        >>> round(psnr(torch.tensor([[[[0.6, 0.0]]]]), truth).item(), 3)
        20.0
    """
    known = truth.isfinite()
    squares = torch.where(known, drawn - truth, 0.0).square().flatten(1).sum(dim=1)
    count = known.flatten(1).sum(dim=1)
    error = (squares / count).clamp_min(1e-10)
    return (-10 * error[count > 0].log10()).mean()


def ssim(drawn: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of values from 0 to 1, over windows that are known throughout.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004;
    torchmetrics' map of it.

    Args:
        drawn: (B, C, H, W).
        truth: (B, C, H, W), NaN where not known.

    Returns:
        A scalar; NaN where no window is known.

    Example:
        >>> ssim(torch.ones(1, 1, 16, 16), torch.ones(1, 1, 16, 16)).item()
        1.0
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    if len(truth) == 0:
        return truth.new_full((), NAN)
    known = truth.isfinite().all(dim=1, keepdim=True)
    _, found = structural_similarity_index_measure(
        torch.where(known, drawn, 0.0),
        torch.where(known, truth, 0.0),
        data_range=1.0,
        reduction="none",
        return_full_image=True,
    )
    unknown = F.max_pool2d((~known).float(), _SSIM_WINDOW, 1, _SSIM_WINDOW // 2) > 0
    values: Tensor = found.mean(dim=1, keepdim=True)[~unknown]
    return values.mean()
