"""Panopticon: a DINOv2 transformer over any set of channels, each told by its wavelength.

Waldmann et al., "Panopticon: Advancing Any-Sensor Foundation Models for Earth Observation", arXiv
2503.10845; the network is torchgeo's. It reads 224 x 224 px: patches are resized to that inside,
and its map comes back at the caller's size, in cells of 14 px.

*Values.* The authors ask for standard scores. They publish no statistics of their own, as every
training set had its own; those of SSL4EO-S12 Level-2A and GRD are used.

*What was not observed.* Attention over channels leaves out a band that a patch lacks altogether;
a missing pixel of a band that is there is its training mean, 0.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from deepsentinel.bands import S1_BANDS, S2_BANDS, Sensor, band
from deepsentinel.encoders.card import Card
from deepsentinel.encoders.door import Check, Empty
from deepsentinel.encoders.public import (
    Constants,
    PublicEncoder,
    Weights,
    flat,
    regridded,
    tokens_to_map,
)
from deepsentinel.encoders.published import Extras, Pyramid, Values
from deepsentinel.encoders.transformer import attendable

IMAGE_SIZE = 224
PATCH_SIZE = 14
_PUBLISHED_GRID = 37  # 518 px of 14: what the published positions are for


class PanopticonEncoder(PublicEncoder):
    """Panopticon over the bands of both sensors at once.

    The embedding is the class token; the map holds the other tokens, all after the last norm.

    Args:
        attention_width: of the attention over channels, a multiple of 48.
        check: units are checked on `"first"` (every call on CPU, the first per device elsewhere),
            `"always"` or `"never"`.
        empty: a patch without an observed value is an `"error"`, or a `"nan"` embedding and map.
        card: facts that the architecture cannot tell.
        depth: transformer blocks.
    """

    BANDS: ClassVar[Mapping[Sensor, tuple[str, ...]]] = {"s1": S1_BANDS, "s2": S2_BANDS}

    def __init__(
        self,
        *,
        attention_width: int = 2304,
        depth: int = 12,
        check: Check = "first",
        empty: Empty = "error",
        card: Card | None = None,
    ) -> None:
        # Only here: torchgeo takes seconds to import.
        from torchgeo.models import Panopticon

        net: Any = Panopticon(attn_dim=attention_width, img_size=IMAGE_SIZE).model
        net.blocks = net.blocks[:depth]
        super().__init__(
            width=net.embed_dim,
            stride=PATCH_SIZE,
            scaling_name="standard",
            check=check,
            empty=empty,
            card=card,
        )
        self.config = {"attention_width": attention_width, "depth": depth}
        self.net = net
        nanometres = torch.tensor([float(int(band(b).wavelength_nm)) for b in self.BANDS["s2"]])
        self.constants = Constants({"s2": sine_cosine(nanometres, attention_width)})

    def _encode(self, values: Values, extras: Extras) -> tuple[Tensor, Pyramid]:
        H, W = next(iter(values.values())).shape[-2:]
        pixels = torch.cat([self._entered(s, x, IMAGE_SIZE) for s, x in values.items()], dim=1)
        channels = torch.cat([self._channels(s) for s in values])
        seen = torch.cat([x.isfinite().flatten(2).any(dim=2) for x in values.values()], dim=1)
        tokens = self._embedded(pixels, channels, seen)
        tokens = self.net.norm(self.net.blocks(self.net.norm_pre(self.net._pos_embed(tokens))))  # noqa: SLF001 - timm's forward_features, whose patches we make ourselves
        dense = tokens_to_map(tokens[:, 1:], IMAGE_SIZE // PATCH_SIZE)
        return tokens[:, 0], (regridded(dense, H, W, PATCH_SIZE),)

    def _embedded(self, pixels: Tensor, channels: Tensor, seen: Tensor) -> Tensor:
        """Tokens (B, N, D): each channel's squares, then attention over channels."""
        embed = self.net.patch_embed
        # Not through its module, whose squeeze of a wide axis no ONNX runtime takes.
        cut = embed.conv3d.conv3d(pixels[:, None])  # (B, attention_width, C, h, w)
        squares = cut.flatten(3).permute(0, 2, 3, 1) + channels[None, :, None]
        B, _, N, width = squares.shape
        sequences = squares.permute(0, 2, 1, 3).flatten(0, 1)
        keys = attendable(seen)
        hidden = None if keys is None else (~keys)[:, None].expand(-1, N, -1).flatten(0, 1)
        # A copy, because a view of a parameter as a layer's input upsets torch's FLOP counter.
        query = embed.chnfus.query.clone().expand(sequences.shape[0], -1, -1)
        mixed = embed.chnfus.xattn(query, sequences, sequences, key_padding_mask=hidden)
        tokens: Tensor = embed.proj(mixed.reshape(B, N, width))
        return tokens

    def _channels(self, sensor: Sensor) -> Tensor:
        """What tells the channels apart (C, attention_width): wavelength, or polarisation."""
        if sensor == "s2":
            return self.constants[sensor].to(self._dtype)
        table = self.net.patch_embed.chnfus.chnemb
        orbit = table.embed_orbit.mean(dim=0)  # ascending or descending is not known
        vertical, horizontal = table.embed_receive
        sent = table.embed_transmit[0]
        return torch.stack([torch.cat((sent, r, orbit)) for r in (vertical, horizontal)])

    def _renamed(self, published: Mapping[str, Weights]) -> dict[str, Tensor]:
        from torchgeo.models.copernicusfm import resize_abs_pos_embed

        found = {k: v for k, v in flat(published["both"]).items() if k != "mask_token"}
        if "pos_embed" in found and found["pos_embed"].shape[1] == 1 + _PUBLISHED_GRID**2:
            found["pos_embed"] = resize_abs_pos_embed(
                found["pos_embed"], IMAGE_SIZE // PATCH_SIZE, _PUBLISHED_GRID
            )
        return {f"net.{k}": v for k, v in found.items()}


def sine_cosine(positions: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding (N, width) of positions (N,), sines first (arXiv 1706.03762).

    Example:
        >>> sine_cosine(torch.zeros(1), 4)
        tensor([[0., 0., 1., 1.]])
    """
    steps = torch.arange(width // 2, dtype=torch.float32) / (width // 2)
    angles = positions[:, None] * (1.0 / 10_000**steps)
    return torch.cat((angles.sin(), angles.cos()), dim=1)
