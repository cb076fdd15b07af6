"""One backbone for both sensors, or one each, and how their maps become one pyramid."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from deepsentinel.bands import Sensor
from deepsentinel.encoders.backbones import Backbone
from deepsentinel.encoders.fuse import GatedFusion, Pool, combine, pooled, presence
from deepsentinel.errors import BackboneError

Fusion = Literal["early", "mid", "late"]
Pyramid = tuple[Tensor, ...]


class Towed(NamedTuple):
    """What towers made of one batch."""

    vectors: list[Tensor]
    """(B, width) float32, of each tower in late fusion, else one."""
    shares: list[Tensor]
    """(B, 1) each: the share of the patch that was observed."""
    maps: Pyramid
    """(B, C_i, H / s_i, W / s_i) each."""
    seen: Tensor
    """(B, 1, H, W), 1 where any sensor was observed."""


class Towers(nn.Module):
    """Normalised channels of the sensors to pooled vectors and one pyramid of maps.

    Args:
        backbone: timm model name.
        fusion: where the sensors meet; see `FusionEncoder`.
        bands: number of bands of each sensor.
        pool: how maps are pooled.
        pool_levels: which maps are pooled.
        levels: which maps the backbone returns, all if `None`.
        options: arguments of the timm model; by sensor, where sensors have towers of their own.
        pretrained: start from timm's ImageNet weights.

    Raises:
        BackboneError: the backbone cannot be used, lacks a pooled level, or has maps of other sizes
            for one sensor than for the other.
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
    ) -> None:
        super().__init__()
        each: dict[str, int] = {str(sensor): count for sensor, count in bands.items()}
        widths = {"both": sum(bands.values())} if fusion == "early" else each
        towers = {
            name: Backbone(
                backbone,
                in_channels=2 * count,  # values and observed channels
                levels=None if levels is None else tuple(levels),
                options=_options_of(name, options, towers=widths),
                pretrained=pretrained,
            )
            for name, count in widths.items()
        }
        for name, tower in towers.items():
            self.add_module(name, tower)
        self.names = tuple(towers)
        first = next(iter(towers.values()))
        _check_alike(backbone, towers)
        self.channels, self.strides, self.divisor = first.channels, first.strides, first.divisor
        if fusion == "mid":
            self.gates = nn.ModuleList(GatedFusion(c) for c in self.channels)
        self.fusion = fusion
        self.pool: Pool = pool
        self.pool_levels = _pool_levels(pool_levels, backbone, self.strides)
        self.width = sum(self.channels[i] for i in self.pool_levels) * (1 + (pool == "mean_std"))

    def forward(self, channels: Mapping[str, Tensor], *, dtype: torch.dtype) -> Towed:
        """What the towers make of their channels.

        Args:
            channels: by tower (B, 2 * bands, H, W): normalised bands, then their observed channels;
                H and W multiples of `divisor`. Late fusion can do without one.
            dtype: that the backbones compute in.
        """
        seen = [x[:, x.shape[1] // 2 :].amax(dim=1, keepdim=True) for x in channels.values()]
        pyramids = [self.get_submodule(n)(x.to(dtype)) for n, x in channels.items()]
        present = [presence(s, self.strides) for s in seen]
        shares = [s.mean(dim=(2, 3)) for s in seen]
        either = torch.stack(seen).amax(dim=0)
        if self.fusion == "early":
            return Towed([self._pooled(pyramids[0], present[0])], shares, pyramids[0], either)
        if torch.compiler.is_compiling():  # symbolic strides of permuted maps would be compared
            pyramids = [tuple(m.contiguous() for m in maps) for maps in pyramids]
        levels = list(zip(zip(*pyramids, strict=True), zip(*present, strict=True), strict=True))
        if self.fusion == "late":
            vectors = [self._pooled(m, p) for m, p in zip(pyramids, present, strict=True)]
            return Towed(vectors, shares, tuple(combine(*level) for level in levels), either)
        maps = tuple(gate(*level) for gate, level in zip(self.gates, levels, strict=True))
        vector = self._pooled(maps, presence(either, self.strides))
        return Towed([vector], [either.mean(dim=(2, 3))], maps, either)

    def _pooled(self, maps: Pyramid, present: Sequence[Tensor]) -> Tensor:
        at = self.pool_levels
        return pooled([maps[i] for i in at], [present[i] for i in at], self.pool)


def _options_of(
    tower: str, options: Mapping[str, Any] | None, *, towers: Mapping[str, int]
) -> Mapping[str, Any]:
    """The options of one tower, which may be given by tower."""
    if options and len(towers) > 1 and set(options) <= set(towers):
        own: Mapping[str, Any] = options.get(tower, {})
        return own
    return options or {}


def _check_alike(backbone: str, towers: Mapping[str, Backbone]) -> None:
    shapes = {name: (tower.channels, tower.strides) for name, tower in towers.items()}
    if len(set(shapes.values())) > 1:
        raise BackboneError(
            f"the towers of {backbone} have maps that cannot be joined (channels, strides): {shapes}. "
            "Options by sensor may differ in depth, not in the width of maps."
        )


def _pool_levels(asked: Sequence[int], backbone: str, strides: Sequence[int]) -> tuple[int, ...]:
    count = len(strides)
    if not asked or any(not -count <= level < count for level in asked):
        raise BackboneError(
            f"pool_levels={tuple(asked)}: {backbone} has {count} maps, at strides {tuple(strides)}. "
            f"Name some of {tuple(range(count))}, or count from the end."
        )
    return tuple(level % count for level in asked)
