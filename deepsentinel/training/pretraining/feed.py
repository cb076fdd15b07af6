"""Where the batches of a long run come from: endless, and to be resumed at any batch of any epoch.

Every batch follows from seed, epoch and number alone. Of a map-style dataset, one process that
gathers two batches a step sees what two processes with one batch each see: the global order of an
epoch is dealt out batch by batch. A stream is dealt out as `DeepSentinelStream` does it.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol, runtime_checkable
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data import get_worker_info as worker_info

from deepsentinel.bands import DEFAULT_BANDS, Sensor
from deepsentinel.datasets.order import share_size
from deepsentinel.datasets.stream import DeepSentinelStream, Place
from deepsentinel.errors import SampleError, ShapeError, TrainingError
from deepsentinel.sample import IMAGE_KEYS, NEIGHBOUR_KEYS, Batch, PatchMeta, Sample, collate
from deepsentinel.training.finetuning.loader import derive, tell_epoch

Samples = Dataset[Sample] | list[Sample]
EMPTY_KEY = "empty"
"""Key of a batch: how many of its patches had nothing to show and were replaced by others."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a run has read: complete epochs, and batches of each process in the one going on."""

    epoch: int = 0
    batch: int = 0


class Feed(Protocol):
    """Batches without end."""

    @property
    def batches_per_epoch(self) -> int:
        """Batches that each process gets in an epoch."""

    def batches(self, position: Position) -> Iterator[tuple[Position, Batch]]:
        """Batches from a position on, each with the position after it."""

    def look(self, count: int) -> Batch:
        """A few patches, spread evenly, the same at every call."""


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
            if any(observed(image) for image in cut.values()):
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


def observed(image: Tensor) -> bool:
    """Whether an image has a finite value; a few pixels are asked before all.

    Example:
        >>> observed(torch.full((2, 9, 9), float("nan"))), observed(torch.zeros(2, 9, 9))
        (False, True)
    """
    few = bool(image[..., ::8, ::8].isfinite().any())
    return few or bool(image.isfinite().any())


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
    seen = [s for s in samples if _observed(s)]
    if not seen:
        raise SampleError(
            f"nothing was observed in any of the {len(samples)} patches of a batch. Look at the "
            "corpus with `deepsentinel stats`; a larger crop, or other sensors, may show more."
        )
    chosen = iter(range(len(samples)))
    filled = [s if _observed(s) else seen[next(chosen) % len(seen)] for s in samples]
    return {**collate(filled), EMPTY_KEY: len(samples) - len(seen)}


def _observed(sample: Sample) -> bool:
    return any(observed(sample[k]) for k in IMAGE_KEYS.values() if k in sample)


@runtime_checkable
class _Sized(Protocol):
    def __len__(self) -> int: ...


class MapFeed:
    """Batches of map-style datasets; the last, smaller batch of an epoch is left out.

    Args:
        datasets: one or several.
        framing: how a patch is shown.
        shares: of each in what is drawn; by their sizes if `None`. An epoch is as long as all
            together, so that a small one with a large share comes up more than once.
        batch_size: patches a batch.
        seed: decides the order.
        rank: which of the processes this is.
        world_size: how many there are.
        num_workers: worker processes that read.
        pin: keep batches where a GPU fetches them fast.

    Raises:
        TrainingError: shares that make no sense, or fewer patches than a batch a process.

    Example:
        >>> samples = [{"image_s1": torch.full((2, 4, 4), -float(i))} for i in range(5)]
        >>> feed = MapFeed([samples], Framing({"s1": ("VV", "VH")}), batch_size=2, seed=0)
        >>> feed.batches_per_epoch, next(feed.batches(Position(epoch=3, batch=1)))[0]
        (2, Position(epoch=4, batch=0))
    """

    def __init__(
        self,
        datasets: Sequence[Samples],
        framing: Framing,
        *,
        shares: Sequence[float] | None = None,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        pin: bool = False,
    ) -> None:
        sizes = [_length(d) for d in datasets]
        self.datasets, self.seed = datasets, seed
        self.shown = _Shown(datasets, sizes, framing)
        self.order = _Order(sizes, _shares(shares, sizes), seed, batch_size, rank, world_size)
        if not self.order.batches:
            raise TrainingError(
                f"{sum(sizes)} patches do not fill a batch of {batch_size} in each of "
                f"{world_size} processes. Take a smaller batch_size."
            )
        self.loader: DataLoader[Batch] = DataLoader(
            self.shown,  # type: ignore[arg-type]  # its indices are not numbers
            batch_sampler=self.order,
            num_workers=num_workers,
            collate_fn=collate_observed,
            persistent_workers=num_workers > 0,
            pin_memory=pin,
            generator=torch.Generator(),
        )

    @property
    def batches_per_epoch(self) -> int:
        """Batches that each process gets in an epoch."""
        return self.order.batches

    def batches(self, position: Position) -> Iterator[tuple[Position, Batch]]:
        """Batches from a position on, each with the position after it."""
        assert self.loader.generator is not None  # noqa: S101 - made above
        while True:
            self.order.position = position
            for dataset in self.datasets:
                tell_epoch(dataset, position.epoch)
            self.loader.generator.manual_seed(derive(self.seed, position.epoch))
            for batch in self.loader:
                position = _after(position, self.batches_per_epoch)
                yield position, batch

    def look(self, count: int) -> Batch:
        """A few patches, spread evenly, the same at every call."""
        return collate_observed([self.shown[0, 0, i] for i in evenly(self.shown.ends[-1], count)])


Turn = tuple[int, int, int]
"""An epoch, how often the patch came up in it before, and the patch's number."""


class _Shown:
    """Datasets laid end to end, each patch as it is framed in its turn."""

    def __init__(self, datasets: Sequence[Samples], sizes: Sequence[int], framing: Framing) -> None:
        self.datasets, self.framing = datasets, framing
        self.ends = list(accumulate(sizes))

    def __getitem__(self, turn: Turn) -> Sample:
        epoch, round_, number = turn
        which = bisect_right(self.ends, number)
        first = self.ends[which - 1] if which else 0
        sample = self.datasets[which][number - first]
        return self.framing(sample, epoch=epoch, round=round_, number=number)


class _Order:
    """Turns batch by batch, of one process, in one epoch, from one batch on."""

    def __init__(
        self,
        sizes: Sequence[int],
        shares: Sequence[float],
        seed: int,
        batch_size: int,
        *place: int,
    ) -> None:
        self.sizes, self.shares, self.seed = sizes, shares, seed
        self.batch_size = batch_size
        self.rank, self.world_size = place
        self.batches = sum(sizes) // (batch_size * self.world_size)
        self.position = Position()

    def __len__(self) -> int:
        return self.batches - self.position.batch

    def __iter__(self) -> Iterator[list[Turn]]:
        epoch = self.position.epoch
        turns = epoch_order(self.sizes, self.shares, seed=self.seed, epoch=epoch).tolist()
        for batch in range(self.position.batch, self.batches):
            first = (batch * self.world_size + self.rank) * self.batch_size
            yield [(epoch, *turn) for turn in turns[first : first + self.batch_size]]


def epoch_order(
    sizes: Sequence[int], shares: Sequence[float], *, seed: int, epoch: int
) -> NDArray[np.int64]:
    """What comes when in an epoch: pairs of a round and a number into datasets laid end to end.

    Each dataset gives its share, drawn without repetition until it is used up, then anew in
    another round.

    Example:
        >>> order = epoch_order([2, 2], [0.75, 0.25], seed=0, epoch=0)
        >>> sorted(order.tolist())[:2], order[:, 0].tolist().count(1)
        ([[0, 0], [0, 1]], 1)
    """
    draws = np.random.default_rng([seed, epoch])
    total, starts = sum(sizes), np.cumsum([0, *sizes[:-1]])
    ends = np.rint(np.cumsum(shares) * total).astype(np.int64)
    parts = []
    for size, start, count in zip(sizes, starts, np.diff(ends, prepend=0).tolist(), strict=True):
        rounds = range(-(-count // size))
        numbers = [start + draws.permutation(size) for _ in rounds]
        turns = np.stack((np.repeat(rounds, size), np.concatenate([*numbers, _NONE])), axis=1)
        parts.append(turns[:count])
    return draws.permutation(np.concatenate(parts).astype(np.int64))


_NONE = np.empty(0, np.int64)


def _shares(shares: Sequence[float] | None, sizes: Sequence[int]) -> list[float]:
    if shares is None:
        return [n / sum(sizes) for n in sizes]
    if len(shares) != len(sizes) or min(shares) < 0 or not sum(shares) > 0:
        raise TrainingError(
            f"shares={list(shares)} for {len(sizes)} corpora: give one number a corpus, none "
            "below 0, not all 0."
        )
    return [share / sum(shares) for share in shares]


def _length(dataset: Samples) -> int:
    if not isinstance(dataset, _Sized) or not hasattr(dataset, "__getitem__"):
        raise TrainingError(
            f"a {type(dataset).__name__} was given to pretrain on; a map-style dataset of samples "
            "(with __len__ and __getitem__), a DeepSentinelStream, or the path or URL of a corpus "
            "is expected."
        )
    if not len(dataset):
        raise TrainingError(
            "a dataset to pretrain on is empty. See the splits: `deepsentinel info`."
        )
    return len(dataset)


class StreamFeed:
    """Batches of a `DeepSentinelStream`; each worker leaves out its last, smaller batch.

    Args:
        stream: whose ranks, seed and transforms hold.
        framing: how a patch is shown, after the stream's own transforms.
        batch_size: patches a batch.
        rank: which of the processes this is.
        world_size: how many there are.
        num_workers: worker processes that read. The order depends on their number.
        pin: keep batches where a GPU fetches them fast.

    Raises:
        TrainingError: fewer patches than a batch a reader, or ranks of unequal length.
    """

    def __init__(
        self,
        stream: DeepSentinelStream,
        framing: Framing,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        pin: bool = False,
    ) -> None:
        self.stream, self.framing = stream, framing
        self.batch_size, self.num_workers, self.pin = batch_size, num_workers, pin
        self.rank, self.world_size = rank, world_size
        if world_size > 1 and stream.remainder == "keep":
            raise TrainingError(
                'a stream with remainder="keep" gives some of several processes one sample more, '
                'and they would wait for each other for ever. Make it with remainder="drop".'
            )
        readers = max(1, num_workers)
        whole = share_size(len(stream.dataset), rank, world_size, stream.remainder)
        self.counts = [share_size(whole, w, readers) // batch_size for w in range(readers)]
        if not sum(self.counts):
            raise TrainingError(
                f"{len(stream.dataset)} patches do not fill a batch of {batch_size} for each of "
                f"{readers} workers of {world_size} processes. Take a smaller batch_size, or fewer "
                "workers."
            )

    @property
    def batches_per_epoch(self) -> int:
        """Batches that each process gets in an epoch."""
        return sum(self.counts)

    def batches(self, position: Position) -> Iterator[tuple[Position, Batch]]:
        """Batches from a position on, each with the position after it."""
        while True:
            first, given = progress(self.counts, position.batch)
            starts = [n * self.batch_size for n in given]
            rest = _Rest(self, position.epoch, first, starts)
            loader: DataLoader[Batch] = DataLoader(
                rest,
                batch_size=self.batch_size,
                drop_last=True,
                num_workers=self.num_workers,
                collate_fn=collate_observed,
                pin_memory=self.pin,
                generator=torch.Generator(),
            )
            for batch in loader:
                position = _after(position, self.batches_per_epoch)
                yield position, batch

    def look(self, count: int) -> Batch:
        """A few patches, spread evenly, the same at every call."""
        dataset = self.stream.dataset
        samples = [dataset[i] for i in evenly(len(dataset), count)]
        return collate_observed([self.framing(s, epoch=0) for s in samples])


class _Rest(IterableDataset[Sample]):
    """What the workers of a stream have not yet read of an epoch."""

    def __init__(self, feed: StreamFeed, epoch: int, first: int, starts: Sequence[int]) -> None:
        self.stream, self.framing = feed.stream, feed.framing
        self.rank, self.world_size = feed.rank, feed.world_size
        self.epoch, self.first, self.starts = epoch, first, tuple(starts)

    def __iter__(self) -> Iterator[Sample]:
        worker = worker_info()
        readers = len(self.starts)
        # Loaders ask worker 0 first: it stands in for the one whose turn it is.
        number = 0 if worker is None else (worker.id + self.first) % readers
        place = Place(rank=self.rank, world_size=self.world_size, worker=number, workers=readers)
        for sample in self.stream.read(self.epoch, place, start=self.starts[number]):
            yield self.framing(sample, epoch=self.epoch)


def progress(counts: Sequence[int], done: int) -> tuple[int, list[int]]:
    """Whose turn it is after `done` batches, and how many each worker has given.

    Workers give in turn; one that has given all is passed over.

    Args:
        counts: batches that each worker gives in an epoch; they differ by one at most.
        done: batches that were given.

    Example:
        >>> progress([2, 3, 3], 4), progress([2, 3, 3], 7)
        ((1, [2, 1, 1]), (2, [2, 3, 2]))
    """
    rounds = min(*counts, done // len(counts))
    left = done - rounds * len(counts)
    active = [w for w, count in enumerate(counts) if count > rounds]
    given = [rounds + (w in active[:left]) for w in range(len(counts))]
    return (active[left] if left < len(active) else 0), given


def evenly(count: int, most: int) -> list[int]:
    """At most `most` numbers below `count`, spread evenly.

    Example:
        >>> evenly(10, 4), evenly(2, 4)
        ([0, 2, 5, 7], [0, 1])
    """
    chosen = min(count, most)
    return [i * count // chosen for i in range(chosen)]


def _after(position: Position, batches: int) -> Position:
    if position.batch + 1 < batches:
        return replace(position, batch=position.batch + 1)
    return Position(epoch=position.epoch + 1)
