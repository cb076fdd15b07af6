"""DOFA and Copernicus-FM: transformers whose patch kernels are generated from wavelengths.

Xiong et al., "Neural Plasticity-Inspired Foundation Model for Observing the Earth Crossing
Modalities", arXiv 2403.15356; Wang et al., "Towards a Unified Copernicus Foundation Model for Earth
Vision", arXiv 2503.11849. The networks are torchgeo's. They read 224 x 224 px: patches are resized
to that inside, and the map comes back at the caller's size, in cells of 16 px.

They saw one sensor at a time, so each sensor goes through the one network on its own, and vectors
and maps are averaged over the sensors that saw something. What was not observed is its training
mean. The kernels are always those of all bands, so that a band that a patch lacks and a band that
nobody named are the same.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from deepsentinel.bands import S1_BANDS, S2_L1C_BANDS, Sensor
from deepsentinel.encoders.card import Card
from deepsentinel.encoders.door import Check, Empty
from deepsentinel.encoders.public import (
    Constants,
    LateFusion,
    PublicEncoder,
    Weights,
    flat,
    regridded,
    tokens_to_map,
    without_head,
)
from deepsentinel.encoders.published import Extras, Pyramid, Values, present

IMAGE_SIZE = 224
PATCH_SIZE = 16
HYPER_WIDTH = 128
_KERNEL_SCALE = 0.01


class HyperEncoder(PublicEncoder):
    """What both networks share; a subclass says what its waves are and what positions gain."""

    net: Any
    waves: Constants

    @abstractmethod
    def _embed(self) -> Any:
        """The part that generates kernels."""

    @abstractmethod
    def _positions(self, extras: Extras) -> Tensor:
        """What is added to the tokens, the class token first, (1 or B, 1 + N, D)."""

    def _encode(self, values: Values, extras: Extras) -> tuple[Tensor, Pyramid]:
        H, W = next(iter(values.values())).shape[-2:]
        join = LateFusion("mean")
        positions = self._positions(extras)
        vectors: dict[Sensor, Tensor] = {}
        maps: dict[Sensor, Pyramid] = {}
        for sensor, x in values.items():
            tokens = self._tokens(sensor, self._entered(sensor, x, IMAGE_SIZE), positions)
            vectors[sensor] = self.net.fc_norm(tokens.mean(dim=1))
            dense = tokens_to_map(self.net.fc_norm(tokens), IMAGE_SIZE // PATCH_SIZE)
            maps[sensor] = (regridded(dense, H, W, PATCH_SIZE),)
        seen = {s: present(x) for s, x in values.items()}
        return join.vector(vectors, seen), join.maps(maps, values, self.strides)

    def _tokens(self, sensor: Sensor, pixels: Tensor, positions: Tensor) -> Tensor:
        """Tokens (B, N, D) after the last block, without the class token."""
        kernel, bias = self._kernel(sensor)
        patches = F.conv2d(pixels, kernel, bias, stride=PATCH_SIZE, padding=1)
        tokens = patches.flatten(2).transpose(1, 2) + positions[:, 1:]
        first = (self.net.cls_token + positions[:, :1]).expand(tokens.shape[0], -1, -1)
        tokens = torch.cat((first, tokens), dim=1)
        for block in self.net.blocks:
            tokens = block(tokens)
        return tokens[:, 1:]

    def _kernel(self, sensor: Sensor) -> tuple[Tensor, Tensor]:
        """Weight and bias of the patch convolution that the sensor's wavelengths generate."""
        embed, waves = self._embed(), self.waves[sensor]
        weight, bias = embed.weight_generator(embed.fclayer(waves.to(self._dtype)))
        kernel = weight.view(len(waves), PATCH_SIZE, PATCH_SIZE, self._width).permute(3, 0, 1, 2)
        return kernel * _KERNEL_SCALE, bias.view(self._width) * _KERNEL_SCALE

    def _renamed(self, published: Mapping[str, Weights]) -> dict[str, Tensor]:
        kept = without_head(flat(published["both"]), self._width, heads=("head",), norm="fc_norm")
        return {f"net.{k}": v for k, v in kept.items()}


class CopernicusFMEncoder(HyperEncoder):
    """Copernicus-FM for Sentinel-1 and Sentinel-2, with location and month where given.

    Without `lonlat` or `month` the learned token for what is not known stands in, as the authors
    do it. A month is the 15th of it in 2021: the network knows days since 1970, in waves of up to a
    year. The area of a token is that of 16 x 16 pixels of 10 m, as in the authors' benchmark,
    whatever size the patch is resized from.

    Args:
        width: D of tokens and embedding: 768.
        depth: transformer blocks: 12.
        heads: of the attention: 12.
        check: units are checked on `"first"` (every call on CPU, the first per device elsewhere),
            `"always"` or `"never"`.
        empty: a patch without an observed value is an `"error"`, or a `"nan"` embedding and map.
        card: facts that the architecture cannot tell.
    """

    BANDS: ClassVar[Mapping[Sensor, tuple[str, ...]]] = {"s1": S1_BANDS, "s2": S2_L1C_BANDS}
    INPUTS: ClassVar[frozenset[str]] = frozenset({"month", "lonlat"})
    WAVELENGTHS_NM: ClassVar[Mapping[Sensor, tuple[float, ...]]] = {
        "s1": (5e7, 5e7),
        "s2": (440, 490, 560, 665, 705, 740, 783, 842, 860, 940, 1370, 1610, 2190),
    }
    """As pretraining gave them, in the order of the bands."""
    WIDTHS_NM: ClassVar[Mapping[Sensor, tuple[float, ...]]] = {
        "s1": (1e9, 1e9),
        "s2": (20, 65, 35, 30, 15, 15, 20, 115, 20, 20, 30, 90, 180),
    }
    """Bandwidths, as pretraining gave them."""
    TOKEN_KM2: ClassVar[float] = (PATCH_SIZE * 10 / 1000) ** 2

    def __init__(
        self,
        *,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        check: Check = "first",
        empty: Empty = "error",
        card: Card | None = None,
    ) -> None:
        # Only here: torchgeo takes seconds to import.
        from torchgeo.models import CopernicusFM

        super().__init__(
            width=width,
            stride=PATCH_SIZE,
            scaling_name="copernicus-fm",
            check=check,
            empty=empty,
            card=card,
        )
        self.config = {"width": width, "depth": depth, "heads": heads}
        self.net = CopernicusFM(embed_dim=width, depth=depth, num_heads=heads, num_classes=0)
        del self.net.patch_embed_variable  # for products that are no bands
        self.waves = Constants({s: self._expanded(s) for s in self.BANDS})
        for expansion in (self.net.coord_expansion, self.net.scale_expansion):
            expansion.assert_range = False  # a look at the data, which no graph allows; we checked

    def _embed(self) -> Any:
        return self.net.patch_embed_spectral

    def _expanded(self, sensor: Sensor) -> Tensor:
        """Wavelengths and bandwidths of a sensor's bands as what generates kernels, (bands, 128)."""
        embed = self._embed()
        centres, widths = self.WAVELENGTHS_NM[sensor], self.WIDTHS_NM[sensor]
        waves: Tensor = embed.spectrum_central_expansion(
            torch.tensor(centres), HYPER_WIDTH
        ) + embed.spectrum_bandwidth_expansion(torch.tensor(widths), HYPER_WIDTH)
        return waves

    def _positions(self, extras: Extras) -> Tensor:
        net, like = self.net, self.net.pos_embed
        area = net.get_area_pos_embed(like.new_tensor([self.TOKEN_KM2]).float(), self._width)
        # Copies, because a bare parameter as the input of a layer upsets torch's FLOP counter.
        coordinates, time = net.coord_token.clone(), net.time_token.clone()
        if extras.lonlat is not None:
            lon, lat = extras.lonlat.float().unbind(1)
            coordinates = net.get_coord_pos_embed(lon, lat, self._width).to(like.dtype)
        if extras.month is not None:
            days = mid_month_days(extras.month.device)[extras.month]
            time = net.get_time_pos_embed(days, self._width).to(like.dtype)
        added = net.coord_fc(coordinates) + net.scale_fc(area.to(like.dtype)) + net.time_fc(time)
        positions: Tensor = like + added
        return positions

    def _renamed(self, published: Mapping[str, Weights]) -> dict[str, Tensor]:
        renamed = super()._renamed(published)
        return {k: v for k, v in renamed.items() if not k.startswith("net.patch_embed_variable.")}


class DOFAEncoder(HyperEncoder):
    """DOFA for Sentinel-1 and the nine bands of Sentinel-2 that it was trained on.

    The authors give statistics of SatlasPretrain's 8-bit pictures. How those come from reflectance
    is documented. Those of radar hold uncalibrated digital numbers, cut at 255: dB lead back to
    them but for the calibration of the product, for which the middle of the swath stands (up to
    1 dB off at its edges).

    Args:
        width: D of tokens and embedding: 768 (base) or 1024 (large).
        depth: transformer blocks: 12 or 24.
        heads: of the attention: 12 or 16.
        check: units are checked on `"first"` (every call on CPU, the first per device elsewhere),
            `"always"` or `"never"`.
        empty: a patch without an observed value is an `"error"`, or a `"nan"` embedding and map.
        card: facts that the architecture cannot tell.
    """

    BANDS: ClassVar[Mapping[Sensor, tuple[str, ...]]] = {
        "s1": S1_BANDS,
        "s2": ("B04", "B03", "B02", "B05", "B06", "B07", "B08", "B11", "B12"),
    }
    WAVELENGTHS_UM: ClassVar[Mapping[Sensor, tuple[float, ...]]] = {
        "s1": (3.75, 3.75),
        "s2": (0.665, 0.56, 0.49, 0.705, 0.74, 0.783, 0.842, 1.61, 2.19),
    }
    """As pretraining gave them, in the order of the bands; radar's is a placeholder. (The 5.405 of
    later examples belongs to the authors' second version.)"""

    def __init__(
        self,
        *,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        check: Check = "first",
        empty: Empty = "error",
        card: Card | None = None,
    ) -> None:
        # Only here: torchgeo takes seconds to import.
        from torchgeo.models import DOFA
        from torchgeo.models.dofa import position_embedding

        super().__init__(
            width=width,
            stride=PATCH_SIZE,
            scaling_name="dofa",
            check=check,
            empty=empty,
            card=card,
        )
        self.config = {"width": width, "depth": depth, "heads": heads}
        self.net = DOFA(embed_dim=width, depth=depth, num_heads=heads, num_classes=0)
        self.waves = Constants(
            {
                s: position_embedding(HYPER_WIDTH, torch.tensor(micrometres) * 1000)
                for s, micrometres in self.WAVELENGTHS_UM.items()
            }
        )

    def _embed(self) -> Any:
        return self.net.patch_embed

    def _positions(self, extras: Extras) -> Tensor:
        positions: Tensor = self.net.pos_embed
        return positions


def mid_month_days(device: torch.device) -> Tensor:
    """Days from 1970-01-01 to the 15th of each month of 2021, (12,).

    Example:
        >>> mid_month_days(torch.device("cpu"))[0].item()
        18642.0
    """
    before = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
    return torch.tensor(before, device=device).float() + 18_642
