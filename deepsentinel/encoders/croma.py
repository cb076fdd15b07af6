"""CROMA: a radar and an optical transformer and a third that joins them.

Fuller et al., "CROMA: Remote Sensing Representations with Contrastive Radar-Optical Masked
Autoencoders", arXiv 2311.00566; the network is torchgeo's. It reads 120 x 120 px: patches are
resized to that inside, and its map comes back at the caller's size, in cells of 8 px.

*Values.* The authors' README maps every band to 0-1 by mean and two standard deviations of the
dataset and clips. Means over a batch would make a patch depend on its neighbours, so those of
SSL4EO-S12, which the weights were trained on, are used. What was not observed is their mean, 0.5.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from deepsentinel.bands import S1_BANDS, S2_BANDS, Sensor
from deepsentinel.encoders.card import Card
from deepsentinel.encoders.door import Check, Empty
from deepsentinel.encoders.public import PublicEncoder, Weights, flat, regridded, tokens_to_map
from deepsentinel.encoders.published import Extras, Pyramid, Values, present

IMAGE_SIZE = 120
PATCH_SIZE = 8


class CROMAEncoder(PublicEncoder):
    """CROMA's joint encoder where both sensors saw the patch, its radar or optical one elsewhere.

    The embedding is what the authors publish: the mean of the joint tokens for both sensors, the
    pooled and projected tokens of the one encoder for one sensor. The map holds the joint tokens,
    or those of the one encoder.

    Args:
        width: D of tokens and embedding, a multiple of 16: 768 (base) or 1024 (large).
        depth: blocks of the optical encoder, even; the other two have half: 12 or 24.
        check: units are checked on `"first"` (every call on CPU, the first per device elsewhere),
            `"always"` or `"never"`.
        empty: a patch without an observed value is an `"error"`, or a `"nan"` embedding and map.
        card: facts that the architecture cannot tell.

    Example:
        >>> encoder = CROMAEncoder(width=32, depth=2).eval()
        >>> features = encoder(s1=torch.full((1, 2, 33, 120), -12.0))
        >>> features.embedding.shape, features.maps[0].shape, features.strides
        (torch.Size([1, 32]), torch.Size([1, 32, 5, 15]), (8,))
    """

    BANDS: ClassVar[Mapping[Sensor, tuple[str, ...]]] = {"s1": S1_BANDS, "s2": S2_BANDS}

    def __init__(
        self,
        *,
        width: int = 768,
        depth: int = 12,
        check: Check = "first",
        empty: Empty = "error",
        card: Card | None = None,
    ) -> None:
        # Only here: torchgeo takes seconds to import.
        from torchgeo.models import CROMA

        super().__init__(
            width=width,
            stride=PATCH_SIZE,
            scaling_name="croma",
            check=check,
            empty=empty,
            card=card,
        )
        self.config = {"width": width, "depth": depth}
        self.net: Any = CROMA(encoder_dim=width, encoder_depth=depth, image_size=IMAGE_SIZE)

    def _encode(self, values: Values, extras: Extras) -> tuple[Tensor, Pyramid]:
        H, W = next(iter(values.values())).shape[-2:]
        tokens = {s: self._tokens(s, x) for s, x in values.items()}
        alone = {s: self._pooled(s, t) for s, t in tokens.items()}
        if len(values) == 1:
            (vector,), (mixed,) = alone.values(), tokens.values()
        else:
            vector, mixed = self._joined(tokens, alone, {s: present(x) for s, x in values.items()})
        dense = tokens_to_map(mixed, IMAGE_SIZE // PATCH_SIZE)
        return vector, (regridded(dense, H, W, PATCH_SIZE),)

    def _tokens(self, sensor: Sensor, values: Tensor) -> Tensor:
        encoder = self.net.s1_encoder if sensor == "s1" else self.net.s2_encoder
        pixels = self._entered(sensor, values, IMAGE_SIZE)
        tokens: Tensor = encoder(imgs=pixels, attn_bias=self.net.attn_bias)
        return tokens

    def _pooled(self, sensor: Sensor, tokens: Tensor) -> Tensor:
        head = self.net.s1_GAP_FFN if sensor == "s1" else self.net.s2_GAP_FFN
        pooled: Tensor = head(tokens.mean(dim=1))
        return pooled

    def _joined(
        self,
        tokens: Mapping[Sensor, Tensor],
        alone: Mapping[Sensor, Tensor],
        seen: Mapping[Sensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Vector and tokens of each patch, from the encoder that fits what was seen of it."""
        joint = self.net.joint_encoder(
            x=tokens["s1"], context=tokens["s2"], relative_position_bias=self.net.attn_bias
        )
        both, radar = seen["s1"] & seen["s2"], seen["s1"]
        vector = torch.where(radar[:, None], alone["s1"], alone["s2"])
        mixed = torch.where(radar[:, None, None], tokens["s1"], tokens["s2"])
        return (
            torch.where(both[:, None], joint.mean(dim=1), vector),
            torch.where(both[:, None, None], joint, mixed),
        )

    def _renamed(self, published: Mapping[str, Weights]) -> dict[str, Tensor]:
        own = {f"net.{k}": v for k, v in flat(published["both"]).items()}
        return own | {"net.attn_bias": self.net.attn_bias}  # a constant, in no file
