"""Galileo: a masked multi-sensor transformer, of which we build the Sentinel-1 and -2 encoder.

Tseng et al., "Galileo: Learning Global and Local Features in Pretrained Remote Sensing Models",
arXiv 2502.09356; weights of Nasa Harvest under MIT. Each band group of each square of
`patch_size` pixels is one token; all tokens of a patch attend to each other.

*Units.* Weights saw dB and digital numbers of Level-1C before the offset of baseline 04.00.
Ours come as dB and reflectance, and reflectance times 10000 is such a number. Values are then
normalised as in pretraining: (x - (mean - 2 std)) / (4 std), nothing clipped.

*What was not observed.* A token is left out where none of its values was observed. Within an
observed token, a missing pixel takes the mean of the token's observed pixels, and a missing band
its training mean. NDVI and all other inputs of Galileo are left out, as are B01 and B09.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepsentinel.bands import Sensor
from deepsentinel.encoders.card import Card
from deepsentinel.encoders.door import Check, Empty
from deepsentinel.encoders.galileo_card import GROUPS, NANO, NANO_SHA256, STATISTICS
from deepsentinel.encoders.published import (
    ADVICE,
    Extras,
    PublishedEncoder,
    Pyramid,
    Values,
    cells_along,
    fuse_qkv,
    month_and_place,
    pad_to,
    read_published,
    require,
)
from deepsentinel.encoders.stems import Stem, entered
from deepsentinel.encoders.transformer import Block, attendable, month_circle
from deepsentinel.encoders.weights import load_strictly
from deepsentinel.errors import ShapeError

BASE_PATCH_SIZE = 8
"""Pixels a side of the published patch kernels; smaller ones are made from them."""


class GalileoEncoder(PublishedEncoder):
    """Galileo's encoder of Sentinel-1 and Sentinel-2 patches at 10 m.

    With `window=None` (the authors' mode, exact) every token attends to every other, which costs
    memory and time in the fourth power of the patch's side. Pretraining saw 4 to 12 tokens a
    side. With `window`, squares of that many pixels are encoded on their own, positions counted
    from each one's corner, and put together again; the embedding is the mean over the observed
    tokens of all of them. That is for scenes, and not what the authors publish; an exported graph
    then takes multiples of the window only.

    The map holds at each place the mean over its observed tokens, and over the location token
    where `lonlat` is given; a place where nothing was observed holds the embedding.

    Args:
        patch_size: pixels a side of one token, 1 to 8; the stride of the map.
        window: pixels a side of what is encoded at once, a multiple of `patch_size`; all if `None`.
        width: D of tokens and embedding, a multiple of 16.
        depth: transformer blocks.
        heads: of the attention.
        mlp_ratio: hidden size of the blocks' perceptrons, by width.
        check: units are checked on `"first"` (every call on CPU, the first per device elsewhere),
            `"always"` or `"never"`.
        empty: a patch without an observed value is an `"error"`, or a `"nan"` embedding and map.
        card: facts that the architecture cannot tell.

    Raises:
        ShapeError: `patch_size` outside 1 to 8, or a `window` that it does not divide.

    Example:
        >>> encoder = GalileoEncoder(width=32, depth=1, heads=2).eval()
        >>> features = encoder(s1=torch.full((1, 2, 33, 17), -12.0), month=7)
        >>> features.embedding.shape, features.maps[0].shape, features.strides
        (torch.Size([1, 32]), torch.Size([1, 32, 5, 3]), (8,))
    """

    INPUTS: ClassVar[frozenset[str]] = frozenset({"month", "lonlat"})
    BANDS: ClassVar[Mapping[Sensor, tuple[str, ...]]] = {
        "s1": GROUPS["S1"],
        "s2": tuple(b for name, bands in GROUPS.items() if name != "S1" for b in bands),
    }

    month_embed: Tensor
    time_embed: Tensor
    shrink: Tensor

    def __init__(
        self,
        *,
        patch_size: int = 8,
        window: int | None = None,
        width: int = 128,
        depth: int = 4,
        heads: int = 8,
        mlp_ratio: int = 4,
        check: Check = "first",
        empty: Empty = "error",
        card: Card | None = None,
    ) -> None:
        _check_sizes(patch_size, window)
        super().__init__(width=width, stride=patch_size, check=check, empty=empty, card=card)
        self.config = {
            "patch_size": patch_size,
            "window": window,
            "width": width,
            "depth": depth,
            "heads": heads,
            "mlp_ratio": mlp_ratio,
        }
        self.patch_size = patch_size
        self.window = window
        self.stems = nn.ModuleDict({s: Stem(b, STATISTICS) for s, b in self.BANDS.items()})
        self.patch_embed = nn.ModuleDict(
            {name: nn.Conv2d(len(b), width, BASE_PATCH_SIZE) for name, b in GROUPS.items()}
        )
        self.location_embed = nn.Linear(3, width)
        self.group_embed = nn.Parameter(torch.randn(len(GROUPS), width // 4) * 0.02)
        self.location_group = nn.Parameter(torch.randn(width // 4) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.register_buffer("month_embed", month_circle(width // 4))
        self.register_buffer("time_embed", sine_cosine(torch.zeros(1), width // 4)[0])
        self.register_buffer("shrink", kernel_shrink(patch_size), persistent=False)

    @classmethod
    def from_weights(
        cls,
        path: str | Path,
        *,
        sha256: str | None = NANO_SHA256,
        heads: int = 8,
        patch_size: int = 8,
        window: int | None = None,
        check: Check = "first",
        empty: Empty = "error",
        card: Card | None = None,
    ) -> Self:
        """The encoder with the authors' weights, from their `encoder.pt`.

        Width and depth are read from the file. Its parts for other inputs (NDVI, elevation,
        Dynamic World, WorldCereal, ERA5, TerraClimate, VIIRS, LandScan) are not loaded.

        Args:
            path: of `encoder.pt`.
            sha256: of the file; `None` takes any.
            heads: of the attention, which the file does not tell: 8 in nano, 3 in tiny, 12 in base.
            patch_size: as of the class.
            window: as of the class.
            check: as of the class.
            empty: as of the class.
            card: facts of the file; those of nano for nano's hash if `None`.

        Raises:
            WeightsError: no such file, another hash, or names and shapes that differ.
        """
        published = read_published(path, sha256)
        require(published, ("norm.weight", "blocks.0.mlp.fc1.weight"))
        width = len(published["norm.weight"])
        encoder = cls(
            patch_size=patch_size,
            window=window,
            width=width,
            depth=len({name.split(".")[1] for name in published if name.startswith("blocks.")}),
            heads=heads,
            mlp_ratio=len(published["blocks.0.mlp.fc1.weight"]) // width,
            check=check,
            empty=empty,
            card=_card(
                card or (NANO if sha256 == NANO_SHA256 else None),
                patch_size=patch_size,
                whole=window is None,
            ),
        )
        own = _renamed(published) | encoder.stems.state_dict(prefix="stems.")
        load_strictly(encoder, own, origin=str(path), advice=ADVICE)
        return encoder.eval()

    def _encode(self, values: Values, extras: Extras) -> tuple[Tensor, Pyramid]:
        months, place = month_and_place(extras, values)
        H, W = next(iter(values.values())).shape[-2:]
        padded = {s: pad_to(x, self.window or self.patch_size) for s, x in values.items()}
        B, _, height, width = next(iter(padded.values())).shape
        rows, columns = (height // self.window, width // self.window) if self.window else (1, 1)
        if self.window is not None:
            padded = {s: split(x, rows, columns) for s, x in padded.items()}
            months = repeated(months, rows * columns)
            place = None if place is None else repeated(place, rows * columns)
        total, count, location = self._sums(padded, months, place)
        embedding = _means(total, count, location, B)
        if location is not None:
            total, count = total + location[:, None, None], count + (count > 0)
        elsewhere = repeated(embedding, rows * columns)[:, None, None]
        cells = torch.where(count > 0, total / count.clamp_min(1), elsewhere).permute(0, 3, 1, 2)
        if self.window is not None:
            cells = join(cells, rows, columns)
        dense = cells[..., : cells_along(H, self.patch_size), : cells_along(W, self.patch_size)]
        return embedding.to(self._dtype), (dense.to(self._dtype),)

    def _sums(
        self, tiles: Values, months: Tensor, place: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Sum of the observed tokens at each place (B, h, w, D), their number, the location token."""
        tokens, observed = self._embed(tiles, months)  # (B, h, w, G, D), (B, h, w, G)
        sequence, seen = tokens.flatten(1, 3), observed.flatten(1, 3)
        if place is not None:
            sequence = torch.cat((sequence, self._location(place)[:, None]), dim=1)
            seen = torch.cat((seen, seen.new_ones(seen.shape[0], 1)), dim=1)
        keys = attendable(seen)
        for block in self.blocks:
            sequence = block(sequence, keys)
        sequence = self.norm(sequence).float()  # a sum of many tokens needs more than bfloat16
        location = None if place is None else sequence[:, -1]
        weights = observed[..., None].float()
        mixed = sequence[:, : sequence.shape[1] - (place is not None)].reshape(*observed.shape, -1)
        return (mixed * weights).sum(dim=3), weights.sum(dim=3), location

    def _embed(self, tiles: Values, months: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, h, w, G, D) of the groups of the given sensors, and which were observed."""
        tokens: list[Tensor] = []
        observed: list[Tensor] = []
        for sensor, values in tiles.items():
            pixels, bands_seen = self._pixels(sensor, values)
            for place, (name, bands) in enumerate(GROUPS.items()):
                if not set(bands) <= set(self.BANDS[sensor]):
                    continue
                columns = [self.BANDS[sensor].index(b) for b in bands]
                patches = self._patches(name, pixels[:, columns])
                tokens.append(patches + self._encodings(place, months, *patches.shape[1:3]))
                observed.append(bands_seen[:, columns].any(dim=1))
        kept = self._kept(observed)
        return (
            torch.stack([tokens[i] for i in kept], dim=3),
            torch.stack([observed[i] for i in kept], dim=3),
        )

    def _kept(self, observed: list[Tensor]) -> list[int]:
        """Groups worth computing: at inference, those that some patch of the batch observed."""
        everything = list(range(len(observed)))
        if self.training or torch.compiler.is_compiling():
            return everything
        return [i for i in everything if bool(observed[i].any())] or everything

    def _pixels(self, sensor: Sensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values as the weights know them (B, C, H, W), and which bands each token observed."""
        stem: Any = self.stems[sensor]
        standard, observed = entered([stem], [values]).chunk(2, dim=1)
        filled, seen = fill(standard, observed, self.patch_size)
        return (filled / 4 + 0.5).to(self._dtype), seen

    def _patches(self, name: str, pixels: Tensor) -> Tensor:
        """Linear projection of each square of `patch_size` pixels, (B, h, w, D)."""
        embed: Any = self.patch_embed[name]
        kernel: Tensor = embed.weight
        if self.patch_size != BASE_PATCH_SIZE:
            small = kernel.flatten(2) @ self.shrink.to(kernel.dtype)
            kernel = small.view(*small.shape[:2], self.patch_size, self.patch_size)
        return F.conv2d(pixels, kernel, embed.bias, stride=self.patch_size).permute(0, 2, 3, 1)

    def _encodings(self, group: int, months: Tensor, rows: int, columns: int) -> Tensor:
        """What is added to a token: band group, time, month and place, a quarter of D each."""
        quarter = self.group_embed.shape[1]
        shape = (months.shape[0], rows, columns, quarter)
        # Positions count in pixels of 10 m, x before y.
        y = sine_cosine(self._positions(rows), quarter // 2)[:, None].expand(-1, columns, -1)
        x = sine_cosine(self._positions(columns), quarter // 2)[None].expand(rows, -1, -1)
        parts = (
            self.group_embed[group].expand(shape),
            self.time_embed.expand(shape),
            self.month_embed[months][:, None, None].expand(shape),
            torch.cat((x, y), dim=2).to(self.group_embed.dtype).expand(shape),
        )
        return torch.cat(parts, dim=3)

    def _positions(self, count: int) -> Tensor:
        places = torch.arange(count, device=self.group_embed.device, dtype=torch.float32)
        return places * self.patch_size

    def _location(self, place: Tensor) -> Tensor:
        """Location token (B, D) of points on the unit sphere (B, 3)."""
        width = self.embed_dim
        encoding = F.pad(self.location_group, (0, width - len(self.location_group)))
        embedded: Tensor = self.location_embed(place.to(encoding.dtype)) + encoding
        return embedded

    @property
    def _dtype(self) -> torch.dtype:
        return self.norm.weight.dtype


def _means(total: Tensor, count: Tensor, location: Tensor | None, patches: int) -> Tensor:
    """Mean token (B, D) over all windows of each patch; a window that saw nothing counts nothing."""
    totals, counts = total.sum(dim=(1, 2)), count.sum(dim=(1, 2))
    if location is not None:
        totals, counts = totals + location * (counts > 0), counts + (counts > 0)
    of_patch = counts.view(patches, -1, 1).sum(dim=1).clamp_min(1)
    return totals.view(patches, -1, totals.shape[1]).sum(dim=1) / of_patch


def fill(values: Tensor, observed: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Missing pixels of each square as the mean of its observed ones, band by band.

    Args:
        values: (B, C, H, W), 0 where not observed.
        observed: (B, C, H, W), 1 where observed, else 0.
        size: pixels a side of a square.

    Returns:
        Values, 0 in squares without an observed pixel; and bool (B, C, h, w), which squares have one.

    Example:
        >>> values, observed = torch.tensor([[[[4.0, 0.0]] * 2]]), torch.tensor([[[[1.0, 0.0]] * 2]])
        >>> fill(values, observed, 2)
        (tensor([[[[4., 4.],
                  [4., 4.]]]]), tensor([[[[True]]]]))
    """
    share = F.avg_pool2d(observed, size)
    mean = F.avg_pool2d(values, size) / share.clamp_min(1e-6)
    spread = F.interpolate(mean, scale_factor=float(size), mode="nearest")
    return torch.where(observed > 0, values, spread), share > 0


def sine_cosine(positions: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding (N, width) of positions (N,), as Galileo defines it.

    Frequencies are 10000 ** -(i / (2 width)), i from 0 to width / 2. The usual exponent is four
    times that; the weights were trained with this one.

    Example:
        >>> sine_cosine(torch.zeros(1), 4)
        tensor([[0., 0., 1., 1.]])
    """
    steps = torch.arange(width // 2, device=positions.device, dtype=torch.float32)
    angles = positions[:, None] * 10000 ** -(steps / (2 * width))
    return torch.cat((angles.sin(), angles.cos()), dim=1)


def kernel_shrink(size: int) -> Tensor:
    """Matrix (64, size * size) that turns a flat 8 x 8 kernel into one for smaller patches.

    It is the pseudo-inverse of the bicubic, antialiased resize of an 8 x 8 image (FlexiViT, arXiv
    2212.08013): a resized image under the resized kernel gives what the original pair gave.

    Example:
        >>> kernel_shrink(4).shape
        torch.Size([64, 16])
    """
    basis = torch.eye(BASE_PATCH_SIZE**2).view(-1, 1, BASE_PATCH_SIZE, BASE_PATCH_SIZE)
    resized = F.interpolate(basis, (size, size), mode="bicubic", antialias=True)
    shrink: Tensor = torch.linalg.pinv(resized.flatten(1)).T.contiguous()
    return shrink


def repeated(values: Tensor, times: int) -> Tensor:
    """Each row of (B, ...) this many times in a row, (B * times, ...).

    Example:
        >>> repeated(torch.tensor([1, 2]), 3)
        tensor([1, 1, 1, 2, 2, 2])
    """
    return values[:, None].expand(-1, times, *values.shape[1:]).flatten(0, 1)


def split(values: Tensor, rows: int, columns: int) -> Tensor:
    """Windows (B * rows * columns, C, h, w) of values (B, C, H, W), row by row.

    Example:
        >>> split(torch.zeros(2, 3, 32, 64), 1, 2).shape
        torch.Size([4, 3, 32, 32])
    """
    B, C, H, W = values.shape
    grid = values.view(B, C, rows, H // rows, columns, W // columns)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def join(windows: Tensor, rows: int, columns: int) -> Tensor:
    """Values (B, C, H, W) of their windows (B * rows * columns, C, h, w): `split`, undone.

    Example:
        >>> x = torch.randn(2, 3, 32, 64)
        >>> torch.equal(join(split(x, 2, 4), 2, 4), x)
        True
    """
    _, C, h, w = windows.shape
    grid = windows.reshape(-1, rows, columns, C, h, w).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(-1, C, rows * h, columns * w)


def _card(card: Card | None, *, patch_size: int, whole: bool) -> Card | None:
    """Facts of a published file; its cost was measured on whole patches at patch size 8."""
    if card is None or (whole and patch_size == BASE_PATCH_SIZE):
        return card
    return replace(card, macs_per_px=None, proved_on=card.proved_on if whole else "another mode")


def _check_sizes(patch_size: int, window: int | None) -> None:
    if not 1 <= patch_size <= BASE_PATCH_SIZE:
        raise ShapeError(f"patch_size={patch_size}; Galileo knows 1 to {BASE_PATCH_SIZE} pixels.")
    if window is not None and (window < patch_size or window % patch_size):
        raise ShapeError(
            f"window={window} px is no multiple of patch_size={patch_size}; pass a multiple such as "
            f"{8 * patch_size}, or None to encode patches whole."
        )


_OTHER_INPUTS = re.compile(
    r"(space_embed|time_embed)\.|static_embed\.(LS|DW_static|WC_static)\.|space_time_embed\.NDVI\."
    r"|(sp|t)_channel_embed$"
)


def _renamed(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' tensors under our names, without those of inputs that we do not have."""
    own = fuse_qkv({k: v for k, v in published.items() if not _OTHER_INPUTS.match(k)})
    parts: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
        "s_t_channel_embed": ("group_embed", lambda rows: rows[: len(GROUPS)]),  # the last is NDVI
        "st_channel_embed": ("location_group", lambda rows: rows[1]),  # after LandScan
        "pos_embed": ("time_embed", lambda rows: rows[0]),  # one date
        "month_embed.weight": ("month_embed", lambda rows: rows),
    }
    renamed: dict[str, Tensor] = {}
    for name, tensor in own.items():
        to, part = parts.get(name, (name, lambda rows: rows))
        to = re.sub(r"^space_time_embed\.(\w+)\.proj\.", r"patch_embed.\1.", to)
        renamed[to.replace("static_embed.location.", "location_embed.")] = part(tensor)
    return renamed
