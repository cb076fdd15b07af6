"""Two public networks, one a sensor, joined by late fusion: ResNet50 and ViT of SSL4EO-S12 and kin.

The networks are timm's; published files hold their weights under timm's names. A ResNet reads
patches at their own size, padded to multiples of 32 px with what is not observed. A ViT reads
224 x 224 px: patches are resized to that inside, and its map comes back at the caller's size, in
cells of its patch size.

Both towers were trained on 13 bands of Level-1C. What was not observed - a NaN, a missing band,
B10 of Level-2A - enters as its training mean.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import timm
from torch import Tensor, nn

from deepsentinel.bands import S1_BANDS, S2_L1C_BANDS, Sensor
from deepsentinel.encoders.card import Card
from deepsentinel.encoders.door import Check, Empty
from deepsentinel.encoders.public import (
    Join,
    LateFusion,
    PublicEncoder,
    Weights,
    cropped,
    flat,
    regridded,
    tokens_to_map,
    without_head,
)
from deepsentinel.encoders.published import Extras, Pyramid, Values, cells_along, pad_to, present
from deepsentinel.errors import BackboneError

IMAGE_SIZE = 224
"""Side in pixels that the vision transformers were trained on."""


class ResNetTower(nn.Module):
    """A ResNet: five maps at strides 2 to 32, and the mean of the last one as its vector.

    Example:
        >>> import torch
        >>> tower = ResNetTower("resnet10t", in_channels=2).eval()
        >>> vector, maps = tower(torch.zeros(1, 2, 64, 64), (33, 64))
        >>> vector.shape, maps[0].shape, tower.strides
        (torch.Size([1, 512]), torch.Size([1, 64, 17, 32]), (2, 4, 8, 16, 32))
    """

    size: None = None
    divisor: int = 32

    def __init__(self, backbone: str, *, in_channels: int) -> None:
        super().__init__()
        self.net: Any = timm.create_model(backbone, features_only=True, in_chans=in_channels)
        self.channels: tuple[int, ...] = tuple(self.net.feature_info.channels())
        self.strides: tuple[int, ...] = tuple(self.net.feature_info.reduction())

    def forward(self, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, Pyramid]:
        """Vector (B, D) and maps of (B, C, H', W'), of which the first `size` pixels are no padding."""
        maps = tuple(
            cropped(m, cells_along(size[0], s), cells_along(size[1], s))
            for m, s in zip(self.net(x), self.strides, strict=True)
        )
        return maps[-1].mean(dim=(2, 3)), maps

    def renamed(self, published: Weights) -> dict[str, Tensor]:
        """Published tensors under the tower's names, without the classifier."""
        return {f"net.{k}": v for k, v in flat(published).items() if not k.startswith("fc.")}


class ViTTower(nn.Module):
    """A vision transformer: its tokens as one map, its class token as its vector, both normalised.

    Example:
        >>> import torch
        >>> tower = ViTTower("vit_tiny_patch16_224", in_channels=2).eval()
        >>> vector, maps = tower(torch.zeros(1, 2, 224, 224), (224, 224))
        >>> vector.shape, maps[0].shape, tower.strides
        (torch.Size([1, 192]), torch.Size([1, 192, 14, 14]), (16,))
    """

    size: int = IMAGE_SIZE
    divisor: int = 1

    def __init__(self, backbone: str, *, in_channels: int) -> None:
        super().__init__()
        self.net: Any = timm.create_model(
            backbone, in_chans=in_channels, num_classes=0, img_size=IMAGE_SIZE
        )
        self.channels: tuple[int, ...] = (int(self.net.embed_dim),)
        self.strides: tuple[int, ...] = (int(self.net.patch_embed.patch_size[0]),)

    def forward(self, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, Pyramid]:
        """Vector (B, D) and map of (B, C, 224, 224) that were `size` pixels."""
        tokens: Tensor = self.net.forward_features(x)
        dense = tokens_to_map(tokens[:, 1:], IMAGE_SIZE // self.strides[0])
        return tokens[:, 0], (regridded(dense, *size, self.strides[0]),)

    def renamed(self, published: Weights) -> dict[str, Tensor]:
        """Published tensors under the tower's names, without the classifier."""
        kept = without_head(flat(published), self.channels[0], heads=("head",), norm="norm")
        return {f"net.{k}": v for k, v in kept.items()}


class TwoTowerEncoder(PublicEncoder):
    """A network for Sentinel-1 and one of the same kind for Sentinel-2, joined by late fusion.

    Towers that were trained apart share no space, so `"concat"` is the default: both vectors side
    by side, zeros for a sensor that saw nothing in the patch, then one flag a sensor. `"mean"` is
    the mean of the sensors that saw something. Maps are joined likewise.

    Args:
        backbone: timm model name, a ResNet or a ViT of fixed size.
        scaling: name in `encoders.scaling.SCALINGS`.
        fusion: `"concat"` or `"mean"`.
        check: units are checked on `"first"` (every call on CPU, the first per device elsewhere),
            `"always"` or `"never"`.
        empty: a patch without an observed value is an `"error"`, or a `"nan"` embedding and maps.
        card: facts that the architecture cannot tell.

    Raises:
        BackboneError: neither a ResNet nor a ViT.

    Example:
        >>> import torch
        >>> encoder = TwoTowerEncoder("resnet10t").eval()
        >>> features = encoder(s1=torch.full((1, 2, 32, 40), -12.0))
        >>> features.embedding.shape, features.embedding[0, -2:].tolist()
        (torch.Size([1, 1026]), [1.0, 0.0])
    """

    BANDS: ClassVar[Mapping[Sensor, tuple[str, ...]]] = {"s1": S1_BANDS, "s2": S2_L1C_BANDS}

    def __init__(
        self,
        backbone: str = "resnet50",
        *,
        scaling: str = "ssl4eo",
        fusion: Join = "concat",
        check: Check = "first",
        empty: Empty = "error",
        card: Card | None = None,
    ) -> None:
        kind = _kind(backbone)
        towers = {s: kind(backbone, in_channels=len(bands)) for s, bands in self.BANDS.items()}
        tower = towers["s1"]
        super().__init__(
            width=tower.channels[-1],
            stride=tower.strides[-1],
            scaling_name=scaling,
            check=check,
            empty=empty,
            card=card,
        )
        self.config = {"backbone": backbone, "scaling": scaling, "fusion": fusion}
        self.towers = nn.ModuleDict({str(s): tower for s, tower in towers.items()})
        self.fusion = LateFusion(fusion)
        self._size, self._divisor = tower.size, tower.divisor
        self._channels, self._strides = tower.channels, tower.strides

    @property
    def embed_dim(self) -> int:
        """D of `Features.embedding`."""
        return self.fusion.width(self._width)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """C_i of `Features.maps`."""
        return tuple(self.fusion.width(c) for c in self._channels)

    @property
    def strides(self) -> tuple[int, ...]:
        """s_i of `Features.maps`."""
        return self._strides

    def _encode(self, values: Values, extras: Extras) -> tuple[Tensor, Pyramid]:
        H, W = next(iter(values.values())).shape[-2:]
        vectors: dict[Sensor, Tensor] = {}
        pyramids: dict[Sensor, Pyramid] = {}
        for sensor, x in values.items():
            pixels = self._entered(sensor, pad_to(x, self._divisor), self._size)
            vectors[sensor], pyramids[sensor] = self._tower(sensor)(pixels, (H, W))
        seen = {s: present(x) for s, x in values.items()}
        return (
            self.fusion.vector(vectors, seen),
            self.fusion.maps(pyramids, values, self.strides),
        )

    def _renamed(self, published: Mapping[str, Weights]) -> dict[str, Tensor]:
        own: dict[str, Tensor] = {}
        for sensor in self.BANDS:
            renamed = self._tower(sensor).renamed(published[sensor])
            own |= {f"towers.{sensor}.{k}": v for k, v in renamed.items()}
        return own

    def _tower(self, sensor: Sensor) -> ResNetTower | ViTTower:
        return cast("ResNetTower | ViTTower", self.towers[sensor])


def _kind(backbone: str) -> type[ResNetTower] | type[ViTTower]:
    if backbone.startswith("resnet"):
        return ResNetTower
    if backbone.startswith("vit_"):
        return ViTTower
    raise BackboneError(
        f"backbone={backbone!r} is neither a ResNet nor a ViT, which public towers are. For any "
        "other backbone build a deepsentinel.FusionEncoder."
    )
