"""Any timm feature backbone as a pyramid of channels-first maps, at any size."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import lcm
from typing import Any

import timm
import torch
from timm.models import model_entrypoint
from torch import Tensor, nn

from deepsentinel.errors import BackboneError


@dataclass(frozen=True, kw_only=True)
class Family:
    """Facts about one family of timm backbones."""

    title: str
    modules: tuple[str, ...]
    """Modules of `timm.models` that define it."""
    example: str
    """A small member."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What `timm.create_model` needs so that the size is free."""
    refused: str = ""
    """Why it cannot be used, where it cannot."""


_WINDOWS = "its windows or position tables fit one input size only"

FAMILIES: tuple[Family, ...] = (
    Family(title="ResNet", modules=("resnet",), example="resnet10t"),
    Family(title="ResNet with channel attention (SE)", modules=("resnet",), example="seresnet18"),
    Family(
        title="ResNet with channel attention (ECA)", modules=("resnet",), example="ecaresnet26t"
    ),
    Family(
        title="ResNet with attention variants (CBAM, GC)",
        modules=("byobnet",),
        example="gcresnet33ts",
    ),
    Family(title="DenseNet", modules=("densenet",), example="densenet121"),
    Family(title="HRNet", modules=("hrnet",), example="hrnet_w18_small"),
    Family(title="ConvNeXt", modules=("convnext",), example="convnext_atto"),
    Family(title="MobileNetV4", modules=("mobilenetv3",), example="mobilenetv4_conv_small_050"),
    Family(title="EfficientNet", modules=("efficientnet",), example="efficientnet_lite0"),
    Family(
        title="ViT",
        modules=("vision_transformer", "vision_transformer_hybrid", "deit", "eva"),
        example="vit_tiny_patch16_224",
        options={"dynamic_img_size": True},
    ),
    Family(
        title="Swin",
        modules=("swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr"),
        example="swin_tiny_patch4_window7_224",
        options={"strict_img_size": False},
    ),
    Family(title="MaxViT", modules=("maxxvit",), example="maxvit_pico_rw_256", refused=_WINDOWS),
    Family(title="CoAtNet", modules=("maxxvit",), example="coatnet_pico_rw_224", refused=_WINDOWS),
    Family(title="CaiT", modules=("cait",), example="cait_xxs24_224", refused=_WINDOWS),
    Family(title="MLP-Mixer", modules=("mlp_mixer",), example="mixer_s32_224", refused=_WINDOWS),
    Family(title="Hiera", modules=("hiera",), example="hiera_tiny_224", refused=_WINDOWS),
)
"""Families that the tests build. Others are accepted if they pass the same probe when built."""


class Backbone(nn.Module):
    """A timm network that returns its maps fine to coarse, channels first.

    Args:
        name: timm model name, such as `convnext_atto`.
        in_channels: channels of the input.
        levels: which of the network's maps to return, as timm's `out_indices`; all by default.
        options: arguments of the timm model, such as `{"drop_path_rate": 0.1}`.
        pretrained: start from timm's ImageNet weights (downloads; timm repeats the first
            convolution over `in_channels`).

    Raises:
        BackboneError: unknown name, no feature maps, or fixed to one input size.

    Example:
        >>> backbone = Backbone("resnet10t", in_channels=4, levels=(1, 4))
        >>> backbone.channels, backbone.strides, backbone.divisor
        ((64, 512), (4, 32), 32)
        >>> [tuple(m.shape) for m in backbone(torch.zeros(1, 4, 32, 64))]
        [(1, 64, 8, 16), (1, 512, 1, 2)]
    """

    def __init__(
        self,
        name: str,
        *,
        in_channels: int,
        levels: tuple[int, ...] | None = None,
        options: Mapping[str, Any] | None = None,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        family = _family(name)
        arguments = {**(family.options if family else {}), **(options or {})}
        if levels is not None:
            arguments["out_indices"] = levels
        self.name = name
        self.net = _create(name, in_channels, pretrained, arguments)
        _wake(self.net)
        self.channels: tuple[int, ...] = tuple(self.net.feature_info.channels())
        self.strides: tuple[int, ...] = tuple(self.net.feature_info.reduction())
        self.divisor = lcm(*self.strides)
        self._channels_last = self._probe(in_channels)
        _hasten(self.net)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, C_i, H / s_i, W / s_i) of (B, in_channels, H, W), H and W multiples of `divisor`."""
        maps = self.net(x)
        return tuple(
            m.permute(0, 3, 1, 2) if last else m
            for m, last in zip(maps, self._channels_last, strict=True)
        )

    @torch.no_grad()
    def _probe(self, in_channels: int) -> tuple[bool, ...]:
        """Whether each map comes channels last; an oblong patch shows fixed sizes at once."""
        size = (self.divisor, 2 * self.divisor)
        weight = next(self.net.parameters())
        training = self.net.training
        try:
            maps = self.net.eval()(weight.new_zeros(1, in_channels, *size))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise _refusal(
                self.name,
                f"it fails at {size[0]} x {size[1]} px ({str(error) or type(error).__name__})",
            ) from error
        finally:
            self.net.train(training)
        return tuple(
            self._is_last(m, c, (size[0] // s, size[1] // s))
            for m, c, s in zip(maps, self.channels, self.strides, strict=True)
        )

    def _is_last(self, found: Tensor, channels: int, size: tuple[int, int]) -> bool:
        if tuple(found.shape[1:]) == (channels, *size):
            return False
        if tuple(found.shape[1:]) == (*size, channels):
            return True
        raise _refusal(
            self.name,
            f"a map is {tuple(found.shape[1:])} where {(channels, *size)} was announced",
        )


def _hasten(net: nn.Module) -> None:
    """Let torch compute pointwise convolutions of small batches fast on one thread of a CPU.

    Below 16 patches it takes a slow path for kernels of one pixel that are not dilated. Dilation
    moves nothing in such a kernel, so the results are the same.
    """
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
            layer.dilation = (2, 2)


@torch.no_grad()
def _wake(net: nn.Module) -> None:
    """Give the first convolution a small bias where it has one of 0.

    Where nothing was observed its input is 0, and so would be its output: the LayerNorm behind it,
    as in ConvNeXt and Swin, then divides by the root of its epsilon, and gradients of a hundred
    thousand times the usual size drown all others in the first steps. Always the same numbers, so
    that seeds mean what they meant.
    """
    first = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first.bias is None or bool(first.bias.any()):
        return
    noise = torch.randn(len(first.bias), generator=torch.Generator().manual_seed(0))
    first.bias.copy_(0.02 * noise)


def _create(name: str, in_channels: int, pretrained: bool, arguments: dict[str, Any]) -> Any:  # noqa: FBT001
    try:
        return timm.create_model(
            name, features_only=True, in_chans=in_channels, pretrained=pretrained, **arguments
        )
    except (AttributeError, NotImplementedError, AssertionError) as error:
        raise _refusal(name, f"timm cannot make feature maps of it ({error})") from error


def _family(name: str) -> Family | None:
    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=5, cutoff=0.4)
        raise BackboneError(
            f"timm has no model {name!r}. Nearest: {' '.join(close) or '(none)'}. "
            "timm.list_models() lists all; tested families are in "
            "deepsentinel.encoders.backbones.FAMILIES."
        )
    module = model_entrypoint(name.partition(".")[0]).__module__.rpartition(".")[2]
    family = next((f for f in FAMILIES if module in f.modules), None)
    if family and family.refused:
        raise _refusal(name, family.refused)
    return family


def _refusal(name: str, reason: str) -> BackboneError:
    titles = ", ".join(f.title for f in FAMILIES if not f.refused)
    return BackboneError(
        f"backbone {name!r} cannot take patches of any size: {reason}. Choose one of another "
        f"family; tested: {titles}."
    )
