"""Decoders of segmentation-models-pytorch on any encoder's features, and the linear probe.

A decoder here is a module `(features, size) -> maps (B, out_channels, h, w)` of stride
`out_stride`, covering at least `size`. The library is imported when a decoder is built:
importing it takes seconds.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsentinel.errors import ShapeError, UnknownNameError, nearest
from deepsentinel.features import Features
from deepsentinel.heads.neck import Neck, cells, even, resample

DecoderName = Literal[
    "unet", "unetplusplus", "fpn", "deeplabv3plus", "upernet", "segformer", "dpt", "linear"
]
DECODERS: tuple[DecoderName, ...] = get_args(DecoderName)

_STRIDES = (4, 8, 16, 32)
_ATROUS_RATES = (3, 6, 9)
"""Steps of DeepLabV3+'s kernels. Its own 6, 12 and 18 are for the 33 cells of 513 px; a patch of
256 px has 16, and steps beyond those see nothing but padding."""


def build_decoder(
    name: str, in_channels: Sequence[int], strides: Sequence[int], *, channels: int = 128
) -> "Stack | Unet | Fpn | DeepLab | UperNet | Segformer | Dpt":
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
        ShapeError: `channels` is not a multiple of 32.

    Example:
        >>> decoder = build_decoder("linear", (8, 16), (4, 8))
        >>> maps = (torch.zeros(1, 8, 4, 4), torch.zeros(1, 16, 2, 2))
        >>> decoder(Features(torch.zeros(1, 16), maps, (4, 8)), (16, 16)).shape
        torch.Size([1, 24, 4, 4])
    """
    if name not in DECODERS:
        raise UnknownNameError(f"unknown decoder {name!r}. {nearest(name, DECODERS)}")
    if name == "linear":
        return Stack(in_channels, strides)
    if channels < 32 or channels % 32:
        raise ShapeError(f"channels={channels} of the decoder: a multiple of 32 is expected.")
    if name in ("unet", "unetplusplus"):
        return Unet(in_channels, strides, channels=channels, nested=name == "unetplusplus")
    others: dict[str, Any] = {
        "fpn": Fpn,
        "deeplabv3plus": DeepLab,
        "upernet": UperNet,
        "segformer": Segformer,
        "dpt": Dpt,
    }
    decoder: Fpn | DeepLab | UperNet | Segformer | Dpt = others[name](
        in_channels, strides, channels=channels
    )
    return decoder


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
            for m, s in zip(even(features).maps, features.strides, strict=True)
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
        maps = self.neck(even(features), size)
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
        self.decoder = _for_one_cell(
            FPNDecoder(
                encoder_channels=self.neck.out_channels,
                encoder_depth=len(_STRIDES),
                pyramid_channels=channels,
                segmentation_channels=channels,
            )
        )
        self.out_channels: int = channels
        self.out_stride: int = _STRIDES[0]

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Maps (B, out_channels, h, w)."""
        decoded: Tensor = self.decoder(list(self.neck(even(features), size)))
        return decoded


class DeepLab(nn.Module):
    """DeepLabV3+ decoder over strides 4 and 16: kernels with holes see far, fine maps say where."""

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], *, channels: int
    ) -> None:
        from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder

        super().__init__()
        self.neck = Neck(in_channels, strides, (4, 16))
        decoder = DeepLabV3PlusDecoder(
            encoder_channels=(1, 1, *self.neck.out_channels),  # it reads the third and the last
            encoder_depth=len(_STRIDES),
            out_channels=channels,
            atrous_rates=_ATROUS_RATES,
            output_stride=16,
            aspp_separable=True,
            aspp_dropout=0.1,
        )
        # As it comes it aligns the corners, which moves every cell but the middle one.
        decoder.up = nn.Upsample(scale_factor=4, mode="bilinear")
        self.decoder = _for_one_cell(decoder)
        self.out_channels: int = channels
        self.out_stride: int = 4

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Maps (B, out_channels, h, w)."""
        fine, coarse = self.neck(even(features), size)
        decoded: Tensor = self.decoder([fine, fine, fine, coarse])
        return decoded


class UperNet(nn.Module):
    """UPerNet decoder over strides 4 to 32: a pyramid of means of the coarsest map, then an FPN."""

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], *, channels: int
    ) -> None:
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

        super().__init__()
        self.neck = Neck(in_channels, strides, _STRIDES)
        decoder = UPerNetDecoder(
            encoder_channels=(1, 1, *self.neck.out_channels),  # it leaves out the first two
            encoder_depth=len(_STRIDES) + 1,
            decoder_channels=channels,
        )
        for block in decoder.psp.blocks:
            block[0] = MeanPool(block[0].output_size)
        self.decoder = _for_one_cell(decoder)
        self.out_channels: int = channels
        self.out_stride: int = _STRIDES[0]

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Maps (B, out_channels, h, w)."""
        maps = self.neck(even(features), size)
        decoded: Tensor = self.decoder([maps[0], maps[0], *maps])
        return decoded


class Segformer(nn.Module):
    """Segformer's decoder over strides 4 to 32: one linear layer a map, one over all of them.

    Its parts are put together here, for its own sizes cannot be left free in a graph.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], *, channels: int
    ) -> None:
        from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder

        super().__init__()
        self.neck = Neck(in_channels, strides, _STRIDES)
        decoder = SegformerDecoder(
            encoder_channels=[1, *self.neck.out_channels],
            encoder_depth=len(_STRIDES),
            segmentation_channels=channels,
        )
        self.layers: Any = decoder.mlp_stage  # coarse to fine
        self.fuse: Any = _for_one_cell(decoder.fuse_stage)
        self.out_channels: int = channels
        self.out_stride: int = _STRIDES[0]

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Maps (B, out_channels, h, w)."""
        maps = self.neck(even(features), size)
        height, width = maps[0].shape[-2:]
        coarse_first = zip(self.layers, reversed(maps), reversed(_STRIDES), strict=True)
        resampled = [
            resample(layer(m), s, self.out_stride, height, width) for layer, m, s in coarse_first
        ]
        fused: Tensor = self.fuse(torch.cat(resampled, dim=1))
        return fused


class Dpt(nn.Module):
    """Decoder of dense prediction transformers: maps of strides 4 to 32, refined and added up.

    The neck does what its reassembling does for a transformer. Its parts are put together here,
    for it doubles maps with aligned corners, which moves every cell but the middle one.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], *, channels: int
    ) -> None:
        from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder

        super().__init__()
        self.neck = Neck(in_channels, strides, _STRIDES)
        decoder = _for_one_cell(
            DPTDecoder(
                encoder_out_channels=self.neck.out_channels,
                encoder_output_strides=_STRIDES,
                encoder_has_prefix_tokens=False,
                readout="ignore",
                intermediate_channels=self.neck.out_channels,
                fusion_channels=channels,
            )
        )
        self.reassemble: Any = decoder.reassemble_blocks
        self.fuse: Any = decoder.fusion_blocks
        self.out_channels: int = channels
        self.out_stride: int = _STRIDES[0] // 2

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Maps (B, out_channels, h, w)."""
        maps = self.neck(even(features), size)
        total: Tensor | None = None
        for block, reassemble, level in zip(
            self.fuse, reversed(self.reassemble), reversed(maps), strict=True
        ):
            refined = block.residual_conv_block1(reassemble(level))
            total = block.residual_conv_block2(refined if total is None else refined + total)
            total = block.project(F.interpolate(total, scale_factor=2.0, mode="bilinear"))
        assert total is not None  # noqa: S101 - there are four maps
        return total


class MeanPool(nn.Module):
    """`nn.AdaptiveAvgPool2d` as two weighted sums.

    That one has no deterministic backward pass on a GPU, and no graph of free size.

    Example:
        >>> MeanPool(2)(torch.arange(9.0).reshape(1, 1, 3, 3)).tolist()
        [[[[2.0, 3.0], [5.0, 6.0]]]]
    """

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, C, h, w) as (B, C, output_size, output_size), which may overlap."""
        rows, columns = (self._shares(n, maps) for n in maps.shape[-2:])
        of_rows = (maps.unsqueeze(2) * rows.unsqueeze(-1)).sum(3)  # (B, C, output_size, w)
        return (of_rows.unsqueeze(3) * columns).sum(4)

    def _shares(self, cells_given: int, like: Tensor) -> Tensor:
        """(output_size, n): the share of each cell in each mean."""
        place = torch.arange(cells_given, device=like.device)
        number = torch.arange(self.output_size, device=like.device).unsqueeze(1)
        first = number * cells_given // self.output_size
        end = ((number + 1) * cells_given + self.output_size - 1) // self.output_size
        inside = ((place >= first) & (place < end)).to(like.dtype)
        return inside / inside.sum(1, keepdim=True)


class OneCellNorm(nn.BatchNorm2d):
    """A batch norm that takes its running statistics where a batch is one cell.

    The last batch of an epoch may be one small patch, whose coarsest map is one cell; torch refuses
    to normalise a single value by itself.

    Example:
        >>> OneCellNorm(4)(torch.ones(1, 4, 1, 1)).flatten().tolist()  # the mean is still 0
        [0.99..., 0.99..., 0.99..., 0.99...]
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalised maps (B, C, h, w)."""
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def _for_one_cell(decoder: nn.Module) -> nn.Module:
    """A decoder whose norms take a batch of one patch with one cell."""
    for part in list(decoder.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(part, name, OneCellNorm(child.num_features))
            elif isinstance(child, nn.GroupNorm):  # smp's are of 32 groups
                groups = min(child.num_groups, child.num_channels // 2)
                setattr(part, name, nn.GroupNorm(groups, child.num_channels))
    return decoder


def _strides(of_encoder: Sequence[int]) -> tuple[int, ...]:
    return (2, *_STRIDES) if min(of_encoder) <= 2 else _STRIDES
