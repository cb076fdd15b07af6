"""One backbone for both sensors, or one each, and how their maps become one pyramid."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deepsentinel.bands import Sensor
from deepsentinel.encoders.backbones import Backbone
from deepsentinel.encoders.fuse import GatedFusion, Pool, combine, pooled, presence
from deepsentinel.errors import BackboneError

Fusion = Literal["early", "mid", "late"]
Pyramid = tuple[Tensor, ...]


class Towers(nn.Module):
    """Normalised channels of the sensors to a pooled vector and one pyramid of maps.

    Args:
        backbone: timm model name.
        fusion: where the sensors meet; see `FusionEncoder`.
        bands: number of bands of each sensor.
        pool: how maps are pooled.
        pool_levels: which maps are pooled.
        levels: which maps the backbone returns, all if `None`.
        options: arguments of the timm model.
        pretrained: start from timm's ImageNet weights.
        pool_sensors: pool each map once for each sensor, over what that observed.

    Raises:
        BackboneError: the backbone cannot be used, or lacks a pooled level.
    """

    def __init__(
        self,
        backbone: str,
        *,
        fusion: Fusion,
        bands: Mapping[Sensor, int],
        pool: Pool,
        pool_levels: Sequence[int],
        levels: Sequence[int] | None,
        options: Mapping[str, Any] | None,
        pretrained: bool,
        pool_sensors: bool = False,
    ) -> None:
        super().__init__()
        widths = {"both": sum(bands.values())} if fusion == "early" else dict(bands)
        towers = {
            name: Backbone(
                backbone,
                in_channels=2 * count,  # values and observed channels
                levels=None if levels is None else tuple(levels),
                options=options,
                pretrained=pretrained,
            )
            for name, count in widths.items()
        }
        for name, tower in towers.items():
            self.add_module(str(name), tower)
        self.names = tuple(str(name) for name in towers)
        first = next(iter(towers.values()))
        self.channels, self.strides, self.divisor = first.channels, first.strides, first.divisor
        if fusion == "mid":
            self.gates = nn.ModuleList(GatedFusion(c) for c in self.channels)
        self.fusion = fusion
        self.pool: Pool = pool
        self.pool_levels = _pool_levels(pool_levels, backbone, self.strides)
        self.counts = tuple(bands.values()) if pool_sensors else ()
        times = (1 + (pool == "mean_std")) * max(1, len(self.counts))
        self.width = sum(self.channels[i] for i in self.pool_levels) * times

    def forward(
        self, channels: Sequence[Tensor], *, dtype: torch.dtype
    ) -> tuple[Tensor, Pyramid, Tensor]:
        """Pooled vector, maps, and where any sensor was observed.

        Args:
            channels: for each tower (B, 2 * bands, H, W): normalised bands, then their observed
                channels; H and W multiples of `divisor`.
            dtype: that the backbones compute in.

        Returns:
            (B, width) float32; (B, C_i, H / s_i, W / s_i) each; (B, 1, H, W), 1 where observed.
        """
        seen = [x[:, x.shape[1] // 2 :].amax(dim=1, keepdim=True) for x in channels]
        pyramids = [
            self.get_submodule(name)(x.to(dtype))
            for name, x in zip(self.names, channels, strict=True)
        ]
        if self.fusion == "early":
            weights = self._observed(channels[0]) if self.counts else seen[0]
            return self._pooled(pyramids[0], weights), pyramids[0], seen[0]
        present = [presence(s, self.strides) for s in seen]
        levels = list(zip(zip(*pyramids, strict=True), zip(*present, strict=True), strict=True))
        either = torch.maximum(*seen)
        if self.fusion == "mid":
            pairs = zip(self.gates, levels, strict=True)
            maps = tuple(gate(parts, weights) for gate, (parts, weights) in pairs)
            return self._pooled(maps, either), maps, either
        vectors = [self._pooled(p, s) for p, s in zip(pyramids, seen, strict=True)]
        vector = combine(vectors, [s.mean(dim=(2, 3)) for s in seen])
        return vector, tuple(combine(parts, weights) for parts, weights in levels), either

    def _observed(self, channels: Tensor) -> Tensor:
        """Where each sensor was observed in any band, (B, sensors, H, W)."""
        observed = torch.split(channels[:, channels.shape[1] // 2 :], list(self.counts), dim=1)
        return torch.cat([o.amax(dim=1, keepdim=True) for o in observed], dim=1)

    def _pooled(self, maps: Pyramid, seen: Tensor) -> Tensor:
        present = presence(seen, [self.strides[i] for i in self.pool_levels])
        return pooled([maps[i] for i in self.pool_levels], present, self.pool)


def _pool_levels(asked: Sequence[int], backbone: str, strides: Sequence[int]) -> tuple[int, ...]:
    count = len(strides)
    if not asked or any(not -count <= level < count for level in asked):
        raise BackboneError(
            f"pool_levels={tuple(asked)}: {backbone} has {count} maps, at strides {tuple(strides)}. "
            f"Name some of {tuple(range(count))}, or count from the end."
        )
    return tuple(level % count for level in asked)
