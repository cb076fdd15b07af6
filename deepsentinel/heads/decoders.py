"""Decoders of segmentation-models-pytorch on any encoder's features, and the linear probe.

A decoder here is a module `(features, size) -> maps (B, out_channels, h, w)` of stride
`out_stride`, covering at least `size`. The library is imported when a decoder is built:
importing it takes seconds.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsentinel.errors import UnknownNameError, nearest
from deepsentinel.features import Features
from deepsentinel.heads.neck import Neck, cells, resample

DecoderName = Literal["unet", "unetplusplus", "fpn", "linear"]
DECODERS: tuple[DecoderName, ...] = get_args(DecoderName)

_STRIDES = (4, 8, 16, 32)


def build_decoder(
    name: str, in_channels: Sequence[int], strides: Sequence[int], *, channels: int = 128
) -> "Stack | Unet | Fpn":
    """A new decoder for maps of the given channels and strides.

    Args:
        name: one of `DECODERS`.
        in_channels: C_i of the encoder's maps.
        strides: s_i of the encoder's maps.
        channels: width of the decoder, a multiple of 32; the linear probe has none.

    Returns:
        A decoder as the module describes it.

    Raises:
        UnknownNameError: there is no such decoder.

    Example:
        >>> decoder = build_decoder("linear", (8, 16), (4, 8))
        >>> maps = (torch.zeros(1, 8, 4, 4), torch.zeros(1, 16, 2, 2))
        >>> decoder(Features(torch.zeros(1, 16), maps, (4, 8)), (16, 16)).shape
        torch.Size([1, 24, 4, 4])
    """
    if name == "linear":
        return Stack(in_channels, strides)
    if name in ("unet", "unetplusplus"):
        return Unet(in_channels, strides, channels=channels, nested=name == "unetplusplus")
    if name == "fpn":
        return Fpn(in_channels, strides, channels=channels)
    raise UnknownNameError(f"unknown decoder {name!r}. {nearest(name, DECODERS)}")


class Stack(nn.Module):
    """Every map at the finest stride, side by side: what a linear probe sees."""

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.out_stride: int = min(strides)
        self.out_channels: int = sum(in_channels)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Maps (B, sum C_i, h, w)."""
        height, width = (cells(n, self.out_stride) for n in size)
        resampled = [
            resample(m, s, self.out_stride, height, width)
            for m, s in zip(_even(features).maps, features.strides, strict=True)
        ]
        return torch.cat(resampled, dim=1)


class Unet(nn.Module):
    """U-Net decoder, or U-Net++ with `nested`, over strides 4 to 32, and 2 where a map is as fine."""

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        *,
        channels: int,
        nested: bool = False,
    ) -> None:
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
        from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder

        super().__init__()
        wanted = _strides(strides)
        self.neck = Neck(in_channels, strides, wanted, channels=channels)
        widths = [max(16, channels >> k) for k in (0, 1, 2, 3)]
        widths = [channels] * (len(wanted) - len(widths)) + widths
        self.decoder: nn.Module = (UnetPlusPlusDecoder if nested else UnetDecoder)(
            encoder_channels=(1, *self.neck.out_channels),
            decoder_channels=widths,
            n_blocks=len(wanted),
            interpolation_mode="bilinear",
        )
        self.out_channels: int = widths[-1]
        # U-Net goes on to the pixels, U-Net++ to half the finest stride.
        self.out_stride: int = wanted[0] // 2 if nested else 1

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Maps (B, out_channels, h, w)."""
        maps = self.neck(_even(features), size)
        height, width = (n * self.neck.wanted[0] for n in maps[0].shape[-2:])
        pixels = maps[0].new_zeros(1, 1, 1, 1).expand(1, 1, height, width)  # only its size is read
        decoded: Tensor = self.decoder([pixels, *maps])
        return decoded


class Fpn(nn.Module):
    """Feature pyramid decoder over strides 4 to 32."""

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], *, channels: int
    ) -> None:
        from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder

        super().__init__()
        self.neck = Neck(in_channels, strides, _STRIDES)
        self.decoder = FPNDecoder(
            encoder_channels=self.neck.out_channels,
            encoder_depth=len(_STRIDES),
            pyramid_channels=channels,
            segmentation_channels=channels,
        )
        self.out_channels: int = self.decoder.out_channels
        self.out_stride: int = _STRIDES[0]

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Maps (B, out_channels, h, w)."""
        decoded: Tensor = self.decoder(list(self.neck(_even(features), size)))
        return decoded


def _strides(of_encoder: Sequence[int]) -> tuple[int, ...]:
    return (2, *_STRIDES) if min(of_encoder) <= 2 else _STRIDES


def _even(features: Features) -> Features:
    """Features with each cell of each map normalised over its channels.

    Encoders differ by orders of magnitude in the scale of their maps; now one learning rate suits
    all of them.
    """
    last = (m.movedim(1, -1) for m in features.maps)
    even = tuple(F.layer_norm(m, m.shape[-1:]).movedim(-1, 1) for m in last)
    return Features(features.embedding, even, features.strides)
