"""What `deepsentinel-nano` learns from: augmented crops of real patches, and what teachers say of them.

Teachers label any input, so that few places are made into many inputs: crops, rectangles and
mixtures of two places, one place with the spectra of another, other light, other speckle, and
radar that is no radar but has its range (marked as such, because it tells nothing of optics).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepsentinel.bands import S2_BANDS
from deepsentinel.corpus.convert import convert
from deepsentinel.corpus.opening import open_corpus
from deepsentinel.corpus.splits import assign_splits, block_of
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.encoders.galileo import GalileoEncoder
from deepsentinel.encoders.presto import PrestoEncoder
from deepsentinel.sample import IMAGE_KEYS, PatchMeta, Sample

CROP = 64
CELL = 8
"""Pixels a side of a cell of both teachers' maps."""
Image = NDArray[np.float32]
Pair = tuple[Image, Image]
"""Sentinel-1 (2, H, W) in dB and Sentinel-2 (12, H, W) as reflectance; NaN is not observed."""


@dataclass(frozen=True)
class Source:
    """One folder of real files, how it is converted and split, and how often its crops are drawn."""

    name: str
    folder: str
    share: float
    boa_offset: str | int = "auto"
    splits: tuple[tuple[str, float], ...] = (("train", 0.7), ("val", 0.15), ("test", 0.15))


SOURCES = (
    Source("scene", "bigearthnet/s2_scene", 0.45, splits=(("train", 0.5), ("test", 0.5))),
    Source("terramesh", "terramesh", 0.22, boa_offset="detect"),
    Source("majortom", "majortom", 0.13),
    Source("ssl4eo", "ssl4eo", 0.1),
    Source("pairs", "bigearthnet/pairs", 0.1),
)
HELD_OUT = Source("worldcereal", "worldcereal", 0.0)
"""A whole place that is only looked at to score."""


def corpus(source: Source, data: Path, work: Path) -> Path:
    """The source as a corpus, converted once."""
    path = work / source.name
    convert(data / source.folder, path, boa_offset=source.boa_offset, splits=dict(source.splits))
    return path


def training_pairs(root: Path) -> list[Pair]:
    """Patches of every split but `test`, whole; first those that are not for validation."""
    splits = open_corpus(root).info.splits
    found: list[tuple[bool, Pair]] = []
    for split in ("train", "val"):
        if split in splits:
            dataset = DeepSentinelDataset(root, split, labels=())
            samples = [dataset[i] for i in range(len(dataset))]
            held = validation([s["meta"] for s in samples], split)
            found += [(h, as_pair(s)) for h, s in zip(held, samples, strict=True)]
    return [pair for _, pair in sorted(found, key=lambda x: x[0])]


def validation(metas: Sequence[PatchMeta], split: str) -> list[bool]:
    """Which patches were looked at for choices: of the scene, half the training blocks."""
    if split == "val" or len(metas) < 100:
        return [split == "val"] * len(metas)
    blocks = [block_of(m.lon, m.lat, patch_id=m.id) for m in metas]
    names = assign_splits(blocks, {"train": 0.5, "val": 0.5}, seed=1)
    return [names[block] == "val" for block in blocks]


def as_pair(sample: Sample) -> Pair:
    """Both images with all bands, NaN for what the sample lacks."""
    images = [sample[k] for k in IMAGE_KEYS.values() if k in sample]
    shape = images[0].shape[-2:]
    s1 = np.full((2, *shape), np.nan, np.float32)
    s2 = np.full((12, *shape), np.nan, np.float32)
    if "image_s2" in sample:
        s2[[S2_BANDS.index(b) for b in sample["meta"].bands_s2]] = sample["image_s2"].numpy()
    if "image_s1" in sample:
        s1[:] = sample["image_s1"].numpy()
    return s1, s2


@dataclass(frozen=True)
class Crop:
    """One augmented crop."""

    s1: Image
    s2: Image
    plain: bool
    """Of the scene, and no other place in it."""
    imagined: bool
    """Its Sentinel-1 is made up: nothing of Sentinel-2 can be read from it, or the other way."""


class Augmented:
    """Crops, drawn by the shares of their sources.

    Args:
        pairs: patches of each source, in the order of `SOURCES`.
        seed: decides every draw.
    """

    def __init__(self, pairs: Sequence[Sequence[Pair]], seed: int) -> None:
        self.pairs = pairs
        self.rng = np.random.default_rng(seed)
        self.shares = np.array([s.share for s in SOURCES])

    def draw(self) -> Crop:
        """The next crop."""
        rng = self.rng
        s1, s2, source = self._cut()
        plain = source == 0
        way = rng.random()
        if way < 0.25:
            self._patch_in(s1, s2)
            plain = False
        elif way < 0.4:
            s1, s2 = self._mixed(s1, s2)
            plain = False
        elif way < 0.6 and np.isfinite(s2).any():
            other = self._cut()[1]
            if np.isfinite(other).any():
                s2 = respectred(s2, other, rng.uniform(0.3, 1))
                plain = False
        imagine = not np.isfinite(s1).any() and bool(np.isfinite(s2).all()) and rng.random() < 0.3
        if imagine:
            s1 = self._imagined(s2)
        if rng.random() < 0.08:
            s2 = s2 * rng.uniform(1.5, 4)
            plain = False
        if rng.random() < 0.6:
            s2 = s2 * np.exp(rng.normal(0, 0.3)) * np.exp(rng.normal(0, 0.06, (12, 1, 1)))
            s1 = s1 + rng.normal(0, 1.5) + rng.normal(0, 0.5, (2, 1, 1))
        if rng.random() < 0.2:
            s1 = s1 + speckle(rng, rng.uniform(4, 20), s1.shape)
        return Crop(
            s1=np.clip(s1, -50, 20).astype(np.float32),
            s2=np.clip(s2, 0, 1.5).astype(np.float32),
            plain=plain,
            imagined=imagine,
        )

    def _cut(self) -> tuple[Image, Image, int]:
        """A crop, turned, and its source."""
        source = int(self.rng.choice(len(self.shares), p=self.shares))
        pool = self.pairs[source]
        pair = pool[self.rng.integers(len(pool))]
        top, left = self.rng.integers(pair[0].shape[-1] - CROP + 1, size=2)
        way = int(self.rng.integers(8))
        s1, s2 = (
            turned(image[:, top : top + CROP, left : left + CROP], way).copy() for image in pair
        )
        return s1, s2, source

    def _patch_in(self, s1: Image, s2: Image) -> None:
        """A rectangle of another place (CutMix, arXiv 1905.04899), on the grid of cells."""
        other_s1, other_s2, _ = self._cut()
        h, w = self.rng.integers(2, 7, size=2) * CELL
        top = self.rng.integers((CROP - h) // CELL + 1) * CELL
        left = self.rng.integers((CROP - w) // CELL + 1) * CELL
        window = (slice(None), slice(top, top + h), slice(left, left + w))
        s1[window], s2[window] = other_s1[window], other_s2[window]

    def _mixed(self, s1: Image, s2: Image) -> Pair:
        """A mixture with another place, sensor by sensor."""
        other_s1, other_s2, _ = self._cut()
        a = self.rng.uniform(0.2, 0.8)
        if np.isfinite(other_s2).any() and np.isfinite(s2).any():
            s2 = a * s2 + (1 - a) * other_s2
        if np.isfinite(other_s1).any() and np.isfinite(s1).any():
            s1 = a * s1 + (1 - a) * other_s1
        return s1, s2

    def _imagined(self, s2: Image) -> Image:
        """Two random mixtures of the optical bands in the range of backscatter, with speckle."""
        rng = self.rng
        weights = rng.normal(size=(2, 12))
        weights[1] = 0.7 * weights[0] + 0.5 * weights[1]
        spread = s2.std((1, 2), keepdims=True) + 1e-4
        texture = np.tensordot(weights, (s2 - s2.mean((1, 2), keepdims=True)) / spread, 1)
        texture = texture / (texture.std((1, 2), keepdims=True) + 1e-6)
        vv = rng.normal(-11.5, 3.5)
        level = np.array([vv, vv - rng.normal(7, 2)])[:, None, None]
        looks = rng.uniform(3, 15)
        contrast = rng.uniform(0.3, 4)
        return (level + texture * contrast + speckle(rng, looks, texture.shape)).astype(np.float32)


def turned(image: Image, way: int) -> Image:
    """One of the eight ways to lay a square."""
    around = np.rot90(image, way % 4, (1, 2))
    return around[:, :, ::-1] if way >= 4 else around


def speckle(rng: np.random.Generator, looks: float, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Multiplicative speckle of so many looks, in dB."""
    return 10 * np.log10(rng.standard_gamma(looks, shape) / looks + 1e-6)


def respectred(image: Image, other: Image, share: float) -> Image:
    """The image with means and spreads of its bands moved towards those of another."""
    axes = (1, 2)
    mean, spread = np.nanmean(image, axes, keepdims=True), np.nanstd(image, axes, keepdims=True)
    to, by = np.nanmean(other, axes, keepdims=True), np.nanstd(other, axes, keepdims=True)
    spread, by = spread + 1e-6, by + 1e-6
    moved = (image - mean) / spread * (spread + (by - spread) * share) + mean + (to - mean) * share
    return np.clip(moved, 1e-4, None)


@dataclass(frozen=True)
class Labelled:
    """Crops and what the teachers say of them, one after the other in D: Galileo, Presto."""

    s1: torch.Tensor
    """float16 (N, 2, 64, 64)."""
    s2: torch.Tensor
    """float16 (N, 12, 64, 64)."""
    optical: torch.Tensor
    """float32 (N, 256): embeddings of Sentinel-2 alone; NaN where there is none."""
    radar: torch.Tensor
    """float32 (N, 256): embeddings of Sentinel-1 alone; NaN where there is none."""
    dense: torch.Tensor
    """float16 (N, 256, 8, 8): maps of Sentinel-2 alone; NaN where there is none."""
    echo: torch.Tensor
    """float16 (N, 256, 8, 8): maps of Sentinel-1 alone; NaN where there is none."""
    plain: torch.Tensor
    """bool (N,), as in `Crop`."""
    imagined: torch.Tensor
    """bool (N,), as in `Crop`."""

    def __len__(self) -> int:
        return len(self.s1)


FIELDS = ("s1", "s2", "optical", "radar", "dense", "echo", "plain", "imagined")


class Teachers:
    """Galileo nano at patch 8 and Presto on cells of the same size, in the month of both's default."""

    def __init__(self, data: Path) -> None:
        weights = data / "weights"
        self.presto = weights / "presto/default_model.pt"
        self.encoders: list[Any] = [
            GalileoEncoder.from_weights(weights / "galileo-nano/encoder.pt", patch_size=CELL),
            PrestoEncoder.from_weights(self.presto, stride=CELL),
        ]

    @torch.inference_mode()
    def label(self, crops: Sequence[Crop]) -> Labelled:
        """What both say of each sensor of each crop."""
        s1 = torch.from_numpy(np.stack([c.s1 for c in crops])).half()
        s2 = torch.from_numpy(np.stack([c.s2 for c in crops])).half()
        optical, dense = self._said("s2", s2)
        radar, echo = self._said("s1", s1)
        return Labelled(
            s1=s1,
            s2=s2,
            optical=optical,
            radar=radar,
            dense=dense,
            echo=echo,
            plain=torch.tensor([c.plain for c in crops]) & s2.isfinite().flatten(1).any(1),
            imagined=torch.tensor([c.imagined for c in crops]),
        )

    def _said(self, sensor: str, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        width = sum(e.embed_dim for e in self.encoders)
        vectors = torch.full((len(images), width), float("nan"))
        side = CROP // CELL
        maps = torch.full((len(images), width, side, side), float("nan"), dtype=torch.float16)
        there = torch.nonzero(images.isfinite().flatten(1).any(1)).flatten()
        for some in there.split(32):
            found = [e(**{sensor: images[some].float()}) for e in self.encoders]
            vectors[some] = torch.cat([f.embedding for f in found], 1)
            maps[some] = torch.cat([f.maps[0] for f in found], 1).half()
        return vectors, maps


def labelled(
    pairs: Sequence[Sequence[Pair]], teachers: Teachers, work: Path, *, seed: int, count: int
) -> Labelled:
    """So many crops with what the teachers say, kept in `work` for a later run."""
    path = work / f"crops-{seed}-{count}.npz"
    if not path.is_file():
        augmented = Augmented(pairs, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # means of bands that a place lacks
            found = teachers.label([augmented.draw() for _ in range(count)])
        part = path.with_suffix(".part.npz")
        np.savez(part, **{k: getattr(found, k).numpy() for k in FIELDS})
        part.rename(path)
    with np.load(path) as stored:
        return Labelled(**{k: torch.from_numpy(stored[k]) for k in FIELDS})


def joined(parts: Sequence[Labelled]) -> Labelled:
    """All crops of several seeds."""
    return Labelled(**{k: torch.cat([getattr(p, k) for p in parts]) for k in FIELDS})
