"""How a patch is shown to an encoder that is trained: a crop, a turn, its bands; and batches of that."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import compress, cycle
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from deepsentinel.bands import DEFAULT_BANDS, Sensor
from deepsentinel.errors import SampleError, ShapeError
from deepsentinel.sample import IMAGE_KEYS, NEIGHBOUR_KEYS, Batch, PatchMeta, Sample, collate

EMPTY_KEY = "empty"
"""Key of a batch: how many of its patches had nothing to show and were replaced by others."""


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

    def __call__(self, sample: Sample) -> Sample:
        """The sample with these bands, its `meta`, and whatever is neither image nor label."""
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
        bands = {f"bands_{s}": self.bands.get(s, ()) for s in IMAGE_KEYS}
        return {**out, "meta": replace(meta, **bands)}


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
        name = crc32(meta.id.encode()) if meta.id else number
        draws = np.random.default_rng([self.seed, epoch, round, name])
        shown = dict(sample)
        for keys in (IMAGE_KEYS, NEIGHBOUR_KEYS):
            shown |= self._moved({k: sample[k] for k in keys.values() if k in sample}, draws)
        moved = self.turn or self.crop is not None
        shown["meta"] = replace(meta, transform=None) if moved else meta
        return self.prepare(shown)

    def _moved(self, images: dict[str, Tensor], draws: np.random.Generator) -> dict[str, Tensor]:
        """Images of one place, cut and turned alike."""
        if not images:
            return images
        sizes = {tuple(image.shape[-2:]) for image in images.values()}
        if len(sizes) > 1:
            raise ShapeError(f"images of one patch differ in size: {sorted(sizes)}.")
        cut = images
        for _ in range(TRIES if self.crop else 0):
            cut = self._cut(images, next(iter(sizes)), draws)
            if observed(cut.values()):
                break
        way = int(draws.integers(8)) if self.turn else 0
        return {k: _turned(image, way) for k, image in cut.items()}

    def _cut(
        self, images: dict[str, Tensor], size: tuple[int, ...], draws: np.random.Generator
    ) -> dict[str, Tensor]:
        side = self.crop or 0
        if min(size) < side:
            raise ShapeError(
                f"a crop of {side} px was asked from a patch of {size[0]}x{size[1]} px. Ask for at "
                f"most {min(size)} px."
            )
        top, left = (int(draws.integers(n - side + 1)) for n in size)
        return {k: x[..., top : top + side, left : left + side] for k, x in images.items()}


TRIES = 8
"""How often a crop is drawn that shows nothing."""


def _turned(image: Tensor, way: int) -> Tensor:
    """One of the eight ways to lay a patch."""
    if way >= 4:
        image = image.flip(-1)
    return torch.rot90(image, way % 4, (-2, -1)) if way % 4 else image


def observed(images: Iterable[Tensor]) -> bool:
    """Whether one of some images has a finite value; a few pixels of each are asked before all.

    Example:
        >>> nothing = torch.full((2, 9, 9), float("nan"))
        >>> observed([nothing]), observed([nothing, torch.zeros(2, 9, 9)])
        (False, True)
    """
    images = tuple(images)
    few = (image[..., ::8, ::8] for image in images)
    return any(bool(part.isfinite().any()) for part in (*few, *images))


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
    shown = [observed(s[k] for k in IMAGE_KEYS.values() if k in s) for s in samples]
    seen = list(compress(samples, shown))
    if not seen:
        raise SampleError(
            f"nothing was observed in any of the {len(samples)} patches of a batch. Look at the "
            "corpus with `deepsentinel stats`; a larger crop, or other sensors, may show more."
        )
    others = cycle(seen)
    filled = [s if has else next(others) for s, has in zip(samples, shown, strict=True)]
    return {**collate(filled), EMPTY_KEY: len(samples) - len(seen)}
