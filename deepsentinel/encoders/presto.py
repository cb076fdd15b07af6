"""Presto: a transformer over the bands of one pixel, of which we build the Sentinel-1 and -2 encoder.

Tseng et al., "Lightweight, Pre-trained Transformers for Remote Sensing Timeseries", arXiv
2304.14065; weights of Nasa Harvest under MIT. Each band group of a pixel is one token of one date;
the tokens of a pixel attend to each other, and pixels never see their neighbours.

*Units.* Weights saw (dB + 25) / 25 and reflectance of Level-1C, that is digital numbers before the
offset of baseline 04.00 divided by 10000. NDVI is a token of its own, made from B08 and B04, and 0
where their sum is not positive.

*What was not observed.* A token is left out where none of its bands was observed; a missing band
of an observed token takes its training mean. NDVI needs both of its bands. All other inputs of
Presto (Dynamic World, ERA5, elevation) are left out, as are B01 and B09.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepsentinel.bands import Sensor
from deepsentinel.encoders.card import Card
from deepsentinel.encoders.door import Check, Empty
from deepsentinel.encoders.galileo_card import STATISTICS
from deepsentinel.encoders.presto_card import CARD, GROUPS, SHA256
from deepsentinel.encoders.published import (
    ADVICE,
    Extras,
    PublishedEncoder,
    Pyramid,
    Values,
    month_and_place,
    pad_to,
    read_published,
    require,
)
from deepsentinel.encoders.transformer import Block, attendable, masked_mean, month_circle
from deepsentinel.encoders.weights import load_strictly
from deepsentinel.errors import ShapeError

_CHANNELS = dict(zip(GROUPS, (0, 1, 2, 3, 4, 5, 8), strict=True))
"""Rows of the authors' channel embedding; 6, 7 and 9 are ERA5, elevation and Dynamic World."""

CHUNK_CPU, CHUNK = 512, 65_536
"""Pixels that go through the transformer at once: bounds memory, changes nothing else. On a CPU
512 are a third faster than 8192, because they stay in its cache."""


class PrestoEncoder(PublishedEncoder):
    """Presto's encoder of single pixels, for one date of Sentinel-1 and Sentinel-2.

    The map holds a vector for every pixel, the mean over its observed tokens and over the location
    token where `lonlat` is given; the embedding is the mean over observed pixels. A pixel of which
    nothing was observed holds the embedding.

    With `stride` above 1, squares of that many pixels are averaged first (dB and reflectance, over
    what was observed) and each goes through the transformer once: faster by the square of it,
    and no longer what the authors publish, whose pixels are of 10 m.

    Args:
        stride: pixels a side that share one vector; the stride of the map.
        width: D of tokens and embedding, a multiple of 8.
        depth: transformer blocks.
        heads: of the attention.
        mlp_ratio: hidden size of the blocks' perceptrons, by width.
        check: units are checked on `"first"` (every call on CPU, the first per device elsewhere),
            `"always"` or `"never"`.
        empty: a patch without an observed value is an `"error"`, or a `"nan"` embedding and map.
        card: facts that the architecture cannot tell.

    Raises:
        ShapeError: `stride` below 1.

    Example:
        >>> encoder = PrestoEncoder(width=32, depth=1, heads=2, stride=4).eval()
        >>> features = encoder(s1=torch.full((1, 2, 33, 17), -12.0), month=7)
        >>> features.embedding.shape, features.maps[0].shape, features.strides
        (torch.Size([1, 32]), torch.Size([1, 32, 9, 5]), (4,))
    """

    INPUTS: ClassVar[frozenset[str]] = frozenset({"month", "lonlat"})
    BANDS: ClassVar[Mapping[Sensor, tuple[str, ...]]] = {
        "s1": GROUPS["S1"],
        "s2": tuple(b for name in list(GROUPS)[1:-1] for b in GROUPS[name]),
    }

    month_embed: Tensor
    time_embed: Tensor

    def __init__(
        self,
        *,
        stride: int = 1,
        width: int = 128,
        depth: int = 2,
        heads: int = 8,
        mlp_ratio: int = 4,
        check: Check = "first",
        empty: Empty = "error",
        card: Card | None = None,
    ) -> None:
        if stride < 1:
            raise ShapeError(f"stride={stride}; pass 1 for every pixel, or more to average first.")
        super().__init__(width=width, stride=stride, check=check, empty=empty, card=card)
        self.config = {
            "stride": stride,
            "width": width,
            "depth": depth,
            "heads": heads,
            "mlp_ratio": mlp_ratio,
        }
        self.stride = stride
        self.band_embed = nn.ModuleDict({n: nn.Linear(len(b), width) for n, b in GROUPS.items()})
        self.location_embed = nn.Linear(3, width)
        self.group_embed = nn.Parameter(torch.randn(len(GROUPS), width // 4) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.register_buffer("month_embed", month_circle(width // 4))
        self.register_buffer("time_embed", torch.tensor([0.0, 1.0]).repeat(width // 4))

    @classmethod
    def from_weights(
        cls,
        path: str | Path,
        *,
        sha256: str | None = SHA256,
        heads: int = 8,
        stride: int = 1,
        check: Check = "first",
        empty: Empty = "error",
    ) -> Self:
        """The encoder with the authors' weights, from their `default_model.pt`.

        Width and depth are read from the file. Its decoder and its encoder's parts for other
        inputs (Dynamic World, ERA5, elevation) are not loaded.

        Args:
            path: of `default_model.pt`.
            sha256: of the file; `None` takes any.
            heads: of the attention, which the file does not tell: 8.
            stride: as of the class.
            check: as of the class.
            empty: as of the class.

        Raises:
            WeightsError: no such file, another hash, or names and shapes that differ.
        """
        published = read_published(path, sha256)
        require(published, ("encoder.norm.weight", "encoder.blocks.0.mlp.fc1.weight"))
        width = len(published["encoder.norm.weight"])
        blocks = {n.split(".")[2] for n in published if n.startswith("encoder.blocks.")}
        encoder = cls(
            stride=stride,
            width=width,
            depth=len(blocks),
            heads=heads,
            mlp_ratio=len(published["encoder.blocks.0.mlp.fc1.weight"]) // width,
            check=check,
            empty=empty,
            card=_card(sha256, exact=stride == 1),
        )
        own = _renamed(published)
        load_strictly(encoder, own, origin=str(path), advice=ADVICE)
        return encoder.eval()

    def _encode(self, values: Values, extras: Extras) -> tuple[Tensor, Pyramid]:
        months, place = month_and_place(extras, values)
        cells = {s: cell_means(x, self.stride) for s, x in values.items()}
        B, _, h, w = next(iter(cells.values())).shape
        tokens, observed = self._inputs(cells)
        patch = torch.arange(B, device=months.device)[:, None].expand(B, h * w).flatten()
        added = self._month(months)
        location = None if place is None else self.location_embed(place.to(added.dtype))
        vectors = torch.cat(
            [
                self._vectors(
                    {n: x[some] for n, x in tokens.items()},
                    observed[some],
                    added[patch[some]],
                    None if location is None else location[patch[some]],
                )
                for some in _chunks(patch)
            ]
        ).view(B, h, w, -1)
        seen = observed.any(dim=1).view(B, h, w, 1)
        embedding = masked_mean(vectors, seen, (1, 2))
        dense = torch.where(seen, vectors, embedding[:, None, None])
        return embedding, (dense.permute(0, 3, 1, 2),)

    def _inputs(self, cells: Values) -> tuple[dict[str, Tensor], Tensor]:
        """What each group's layer reads, (N, bands), and which groups each pixel observed (N, G)."""
        channels: dict[str, Tensor] = {}
        for sensor, values in cells.items():
            pixels = values.permute(0, 2, 3, 1).flatten(0, 2)
            channels |= dict(zip(self.BANDS[sensor], pixels.unbind(1), strict=True))
        if "B08" in channels:
            channels["NDVI"] = ndvi(channels["B08"], channels["B04"])
        groups = {n: b for n, b in GROUPS.items() if b[0] in channels}
        seen = {
            n: torch.stack([channels[b].isfinite() for b in bands]).any(0)
            for n, bands in groups.items()
        }
        if not self.training and not torch.compiler.is_compiling():
            groups = {n: b for n, b in groups.items() if bool(seen[n].any())} or groups
        inputs = {
            n: torch.stack([standard(channels[b], b) for b in bands], dim=1)
            for n, bands in groups.items()
        }
        return inputs, torch.stack([seen[n] for n in groups], dim=1)

    def _vectors(
        self, inputs: dict[str, Tensor], observed: Tensor, added: Tensor, location: Tensor | None
    ) -> Tensor:
        """One vector a pixel (N, D); what it is where nothing was observed means nothing."""
        embedded = [self.band_embed[n](x.to(added.dtype)) for n, x in inputs.items()]
        tokens = torch.stack(embedded, dim=1) + self._group(list(inputs)) + added[:, None]
        if location is not None:
            tokens = torch.cat((location[:, None], tokens), dim=1)
            observed = torch.cat((observed.new_ones(observed.shape[0], 1), observed), dim=1)
        keys = attendable(observed)
        for block in self.blocks:
            tokens = block(tokens, keys)
        mean = tokens.mean(1) if keys is None else masked_mean(tokens, keys[..., None], 1)
        vectors: Tensor = self.norm(mean)
        return vectors

    def _group(self, names: list[str]) -> Tensor:
        """What is added to the tokens of each group (G, D): band group and date."""
        rows = self.group_embed[[list(GROUPS).index(n) for n in names]]
        date = self.time_embed.to(rows.dtype).expand(len(names), -1)
        return torch.cat((torch.zeros_like(rows), rows, date), dim=1)

    def _month(self, months: Tensor) -> Tensor:
        """What is added to every token of a patch (B, D): its month, in the first quarter."""
        circle = self.month_embed[months].to(self.norm.weight.dtype)
        return F.pad(circle, (0, self.embed_dim - circle.shape[1]))


def _card(sha256: str | None, *, exact: bool) -> Card | None:
    """Facts of the published file; its cost was measured for every pixel."""
    if sha256 != SHA256:
        return None
    return CARD if exact else replace(CARD, macs_per_px=None, proved_on="another mode")


def _chunks(pixels: Tensor) -> list[slice]:
    if torch.compiler.is_compiling():  # a graph cannot loop as often as the size asks for
        return [slice(None)]
    step = CHUNK_CPU if pixels.device.type == "cpu" else CHUNK
    return [slice(i, i + step) for i in range(0, pixels.shape[0], step)]


def standard(values: Tensor, band: str) -> Tensor:
    """dB, reflectance or NDVI as the weights know them; what is missing as its training mean.

    The authors publish no means for Presto; those of Galileo, from the same group and the same
    products, stand in.

    Example:
        >>> standard(torch.tensor([-25.0, 0.0]), "VV"), standard(torch.tensor([0.3]), "B02")
        (tensor([0., 1.]), tensor([0.3000]))
    """
    mean = STATISTICS[band][0] if band in STATISTICS else 0.0
    filled = torch.where(values.isfinite(), values, mean)
    return (filled + 25) / 25 if band in GROUPS["S1"] else filled


def ndvi(nir: Tensor, red: Tensor) -> Tensor:
    """Vegetation index of B08 and B04, 0 where their sum is not positive; NaN where one is missing.

    Example:
        >>> ndvi(torch.tensor([0.3, 0.0, float("nan")]), torch.tensor([0.1, 0.0, 0.1]))
        tensor([0.5000, 0.0000,    nan])
    """
    total = nir + red
    index = (nir - red) / torch.where(total > 0, total, 1.0)
    return torch.where(total <= 0, 0.0, index)


def cell_means(values: Tensor, size: int) -> Tensor:
    """Mean over the finite values of each square of `size` pixels; NaN where there is none.

    Args:
        values: (B, C, H, W).
        size: pixels a side; squares that reach over the edge average what is there.

    Returns:
        (B, C, ceil(H / size), ceil(W / size)).

    Example:
        >>> x = torch.tensor([[[[1.0, 3.0, 5.0], [float("nan"), 2.0, 7.0]]]])
        >>> cell_means(x, 2)
        tensor([[[[2., 6.]]]])
    """
    if size == 1:
        return values
    padded = pad_to(values, size)
    finite = padded.isfinite()
    share = F.avg_pool2d(finite.to(padded.dtype), size)
    mean = F.avg_pool2d(torch.where(finite, padded, 0.0), size) / share.clamp_min(1e-9)
    return mean.masked_fill(share == 0, float("nan"))


_OTHER_INPUTS = re.compile(r"decoder\.|encoder\.(dw_embed|eo_patch_embed\.(ERA5|SRTM))\.")


def _renamed(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' tensors under our names, without the decoder and inputs that we do not have."""
    parts: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
        "channel_embed.weight": ("group_embed", lambda rows: rows[list(_CHANNELS.values())]),
        "pos_embed": ("time_embed", lambda rows: rows[0, 0]),  # one date
        "month_embed.weight": ("month_embed", lambda rows: rows),
    }
    renamed: dict[str, Tensor] = {}
    for full, tensor in published.items():
        if _OTHER_INPUTS.match(full):
            continue
        name = full.removeprefix("encoder.")
        to, part = parts.get(name, (name, lambda rows: rows))
        to = to.replace("eo_patch_embed.", "band_embed.").replace(
            "latlon_embed.", "location_embed."
        )
        renamed[to] = part(tensor)
    return renamed
