"""How a patch is shown to an encoder that is trained: a crop, a turn, its bands; and batches of that."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepsentinel.bands import DEFAULT_BANDS, Sensor
from deepsentinel.errors import SampleError, ShapeError
from deepsentinel.sample import IMAGE_KEYS, NEIGHBOUR_KEYS, Batch, PatchMeta, Sample, collate

EMPTY_KEY = "empty"
"""Key of a batch: how many of its patches had nothing to show and were replaced by others."""
TRIES = 8
"""How often a crop is drawn that shows nothing."""


@dataclass(frozen=True)
class Look:
    """A window of a patch, laid in one of the eight ways.

    Example:
        >>> Look(slice(1, 3), slice(1, None, -1), transposed=True)(np.arange(9).reshape(3, 3))
        array([[4, 7],
               [3, 6]])
    """

    rows: slice
    columns: slice
    """Backwards, where it mirrors."""
    transposed: bool

    def __call__(self, planes: NDArray[Any]) -> NDArray[Any]:
        """A view of (..., H, W)."""
        cut = planes[..., self.rows, self.columns]
        return cut.swapaxes(-2, -1) if self.transposed else cut


class AsEncoder:
    """Give a sample exactly the bands that an encoder uses, both sensors, in its order.

    What the sample lacks is NaN; what the encoder does not use is left out; so are labels. Then
    patches of corpora that hold different bands fit into one batch, and an encoder in training sees
    the same inputs in every step.

    Args:
        bands: of the encoder.

    Raises:
        SampleError: the sample has no image.

    Example:
        >>> sample = {"image_s1": torch.zeros(2, 4, 4)}
        >>> out = AsEncoder({"s1": ("VV", "VH"), "s2": ("B04",)})(sample)
        >>> out["image_s2"].shape, bool(out["image_s2"].isnan().all())
        (torch.Size([1, 4, 4]), True)
    """

    def __init__(self, bands: Mapping[Sensor, Sequence[str]]) -> None:
        self.bands = {s: tuple(b) for s, b in bands.items()}

    def __call__(self, sample: Sample, *, moved: bool = False) -> Sample:
        """The sample with these bands, its `meta`, and whatever is neither image nor label.

        Args:
            sample: with one image or both.
            moved: whether its images lie elsewhere than `meta.transform` says.
        """
        like = next((sample[k] for k in IMAGE_KEYS.values() if k in sample), None)
        if like is None:
            raise SampleError(
                f"the sample has neither image_s1 nor image_s2; it holds {sorted(sample)}."
            )
        meta = sample.get("meta", PatchMeta(id=""))
        out = {k: v for k, v in sample.items() if k not in _LEFT_OUT}
        for sensor, names in self.bands.items():
            found = meta.bands(sensor) or DEFAULT_BANDS[sensor]
            for key in (IMAGE_KEYS[sensor], NEIGHBOUR_KEYS[sensor]):
                if key in sample or key in IMAGE_KEYS.values():
                    out[key] = _placed(sample.get(key), found, names, like)
        shown = replace(
            meta,
            bands_s1=self.bands.get("s1", ()),
            bands_s2=self.bands.get("s2", ()),
            transform=None if moved else meta.transform,
        )
        return {**out, "meta": shown}


_LEFT_OUT = {*IMAGE_KEYS.values(), "mask", "label", "bbox_xyxy", "target", "cloud", "dem", "meta"}


def _placed(
    image: Tensor | None, found: Sequence[str], wanted: Sequence[str], like: Tensor
) -> Tensor:
    if image is not None and tuple(found) == tuple(wanted):
        return image
    out = like.new_full((len(wanted), *like.shape[-2:]), float("nan"))
    if image is not None:
        for place, name in enumerate(wanted):
            if name in found:
                out[place] = image[found.index(name)]
    return out


class Framing:
    """How a patch of a corpus is shown: a crop, a turn, the bands of the encoder.

    What is drawn depends on seed, epoch, the id of the patch and how often it came up in the epoch
    already; not on who reads it. A crop that shows nothing is drawn again, a few times. As the
    patch may be cropped and turned, `meta.transform` is not known any more.

    Args:
        bands: of the encoder.
        crop: side of a square window; the whole patch if `None`.
        turn: mirror and turn by right angles.
        seed: decides the draws.

    Example:
        >>> framing = Framing({"s1": ("VV", "VH")}, crop=2, seed=1)
        >>> framing({"image_s1": torch.zeros(2, 8, 8)}, epoch=0)["image_s1"].shape
        torch.Size([2, 2, 2])
    """

    def __init__(
        self,
        bands: Mapping[Sensor, Sequence[str]],
        *,
        crop: int | None = None,
        turn: bool = True,
        seed: int = 0,
    ) -> None:
        self.prepare = AsEncoder(bands)
        self.crop, self.turn, self.seed = crop, turn, seed

    def __call__(
        self,
        sample: Sample,
        *,
        epoch: int,
        round: int = 0,  # noqa: A002 - what it is
        number: int = 0,
    ) -> Sample:
        """The sample as it is shown for the `round`-th time in an epoch.

        Args:
            sample: with one image or both.
            epoch: from 0.
            round: from 0.
            number: of the patch, where it has no id.

        Raises:
            SampleError: the sample has no image.
            ShapeError: it is smaller than the crop, or its images differ in size.
        """
        meta = sample.get("meta", PatchMeta(id=""))
        draws = self.draws(meta.id, epoch=epoch, round=round, number=number)
        shown = dict(sample)
        for keys in (IMAGE_KEYS, NEIGHBOUR_KEYS):
            shown |= self._moved({k: sample[k] for k in keys.values() if k in sample}, draws)
        return self.prepare(shown, moved=self.moves)

    @property
    def moves(self) -> bool:
        """Whether patches are not shown as they lie."""
        return self.turn or self.crop is not None

    def draws(
        self,
        name: str,
        *,
        epoch: int,
        round: int = 0,  # noqa: A002 - what it is
        number: int = 0,
    ) -> np.random.Generator:
        """What decides how a patch is shown; arguments as for a call, `name` being its id."""
        key = crc32(name.encode()) if name else number
        return np.random.default_rng([self.seed, epoch, round, key])

    def looks(self, size: tuple[int, int], draws: np.random.Generator) -> Iterator[Look]:
        """Ways to look at a patch of that size, of which the first that shows something is taken.

        Raises:
            ShapeError: the patch is smaller than the crop.
        """
        way = int(draws.integers(8)) if self.turn else 0
        mirrors, transposed = (bool(way & 1), bool(way & 2)), bool(way & 4)
        if self.crop is not None and min(size) < self.crop:
            raise ShapeError(
                f"a crop of {self.crop} px was asked from a patch of {size[0]}x{size[1]} px. Ask for "
                f"at most {min(size)} px."
            )
        height, width = size if self.crop is None else (self.crop, self.crop)
        for _ in range(TRIES if self.crop else 1):
            top, left = (
                int(draws.integers(size[0] - height + 1)),
                int(draws.integers(size[1] - width + 1)),
            )
            rows, columns = _run(top, height, mirrors[0]), _run(left, width, mirrors[1])
            yield Look(rows, columns, transposed)

    def _moved(self, images: dict[str, Tensor], draws: np.random.Generator) -> dict[str, Tensor]:
        """Images of one place, cut and turned alike."""
        if not images:
            return images
        sizes = {(image.shape[-2], image.shape[-1]) for image in images.values()}
        if len(sizes) > 1:
            raise ShapeError(f"images of one patch differ in size: {sorted(sizes)}.")
        cut: dict[str, NDArray[Any]] = {}
        for look in self.looks(next(iter(sizes)), draws):
            cut = {k: look(image.numpy()) for k, image in images.items()}
            if observed(cut.values()):
                break
        return {k: torch.from_numpy(np.ascontiguousarray(image)) for k, image in cut.items()}


def _run(first: int, length: int, backwards: bool) -> slice:  # noqa: FBT001 - it is mapped
    if not backwards:
        return slice(first, first + length)
    return slice(first + length - 1, first - 1 if first else None, -1)


def observed(images: Iterable[NDArray[Any]]) -> bool:
    """Whether one of some images has a finite value; a few pixels of each are asked before all.

    Example:
        >>> nothing = np.full((2, 9, 9), np.nan)
        >>> observed([nothing]), observed([nothing, np.zeros((2, 9, 9))])
        (False, True)
    """
    images = tuple(images)
    few = (image[..., ::8, ::8] for image in images)
    return any(bool(np.isfinite(part).any()) for part in (*few, *images))


def collate_observed(samples: Sequence[Sample]) -> Batch:
    """Collate; a patch of which nothing was observed is replaced by another of the batch.

    A run of days must not end at one crop that lies under a cloud. How many there were is counted
    under `"empty"`.

    Raises:
        SampleError: nothing was observed in the whole batch.
        CollateError: the samples do not fit together.

    Example:
        >>> samples = [{"image_s1": torch.full((2, 4, 4), v)} for v in (float("nan"), -9.0)]
        >>> batch = collate_observed(samples)
        >>> batch["image_s1"].isfinite().all().item(), batch["empty"]
        (True, 1)
    """
    batch = collate(samples)
    few = [batch[k][..., ::8, ::8] for k in IMAGE_KEYS.values() if k in batch]
    if bool(sum(x.isfinite().flatten(1).any(dim=1) for x in few).all()):
        return {**batch, EMPTY_KEY: 0}
    shown = [observed(s[k].numpy() for k in IMAGE_KEYS.values() if k in s) for s in samples]
    seen = [sample for sample, has in zip(samples, shown, strict=True) if has]
    if not seen:
        raise SampleError(
            f"nothing was observed in any of the {len(samples)} patches of a batch. Look at the "
            "corpus with `deepsentinel stats`; a larger crop, or other sensors, may show more."
        )
    others = cycle(seen)
    filled = [s if has else next(others) for s, has in zip(samples, shown, strict=True)]
    return {**collate(filled), EMPTY_KEY: len(samples) - len(seen)}
