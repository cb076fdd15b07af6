"""Where the batches of a long run come from: endless, and to be resumed at any batch of any epoch.

Every batch follows from seed, epoch and number alone. Of a map-style dataset, one process that
gathers two batches a step sees what two processes with one batch each see: the global order of an
epoch is dealt out batch by batch. Streams are in `stream_feed`.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from deepsentinel.errors import TrainingError
from deepsentinel.sample import Batch, Sample
from deepsentinel.training.finetuning.loader import derive, tell_epoch
from deepsentinel.training.pretraining.framing import Framing, collate_observed
from deepsentinel.training.pretraining.windows import Windows, draws_nothing, one_ahead

Samples = Dataset[Sample] | list[Sample]


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a run has read: complete epochs, and batches of each process in the one going on."""

    epoch: int = 0
    batch: int = 0

    def after(self, batches: int) -> "Position":
        """One batch on, where an epoch has so many.

        Example:
            >>> Position(epoch=2, batch=4).after(5)
            Position(epoch=3, batch=0)
        """
        if self.batch + 1 < batches:
            return replace(self, batch=self.batch + 1)
        return Position(epoch=self.epoch + 1)


class Feed(Protocol):
    """Batches without end."""

    @property
    def batches_per_epoch(self) -> int:
        """Batches that each process gets in an epoch."""

    def batches(self, position: Position) -> Iterator[tuple[Position, Batch]]:
        """Batches from a position on, each with the position after it."""

    def look(self, count: int) -> Batch:
        """A few patches, spread evenly, the same at every call."""


def evenly(count: int, most: int) -> list[int]:
    """At most `most` numbers below `count`, spread evenly.

    Example:
        >>> evenly(10, 4), evenly(2, 4)
        ([0, 2, 5, 7], [0, 1])
    """
    chosen = min(count, most)
    return [i * count // chosen for i in range(chosen)]


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
        num_workers: worker processes that read; without, a thread reads a batch ahead.
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
        self.on_thread = num_workers == 0 and all(map(draws_nothing, datasets))
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
        batches = self._batches(position)
        return one_ahead(batches) if self.on_thread else batches

    def _batches(self, position: Position) -> Iterator[tuple[Position, Batch]]:
        assert self.loader.generator is not None  # noqa: S101 - made above
        while True:
            self.order.position = position
            for dataset in self.datasets:
                tell_epoch(dataset, position.epoch)
            self.loader.generator.manual_seed(derive(self.seed, position.epoch))
            for batch in self.loader:
                position = position.after(self.batches_per_epoch)
                yield position, batch

    def look(self, count: int) -> Batch:
        """A few patches, spread evenly, the same at every call."""
        turns = [(0, 0, i) for i in evenly(self.shown.ends[-1], count)]
        return collate_observed(self.shown.__getitems__(turns))


Turn = tuple[int, int, int]
"""An epoch, how often the patch came up in it before, and the patch's number."""


class _Shown:
    """Datasets laid end to end, each patch as it is framed in its turn."""

    def __init__(self, datasets: Sequence[Samples], sizes: Sequence[int], framing: Framing) -> None:
        self.datasets, self.framing = datasets, framing
        self.windows = [Windows.of(dataset, framing) for dataset in datasets]
        self.ends = list(accumulate(sizes))

    def __getitems__(self, turns: Sequence[Turn]) -> Sequence[Sample]:
        """What a `DataLoader` asks for: a batch, of which a corpus reads its part at once."""
        of = [bisect_right(self.ends, number) for *_, number in turns]
        parts = [
            self._part(which, [turn for turn, o in zip(turns, of, strict=True) if o == which])
            for which in sorted(set(of))
        ]
        if len(parts) == 1:
            return parts[0]
        coming = dict(zip(sorted(set(of)), map(iter, parts), strict=True))
        return [next(coming[which]) for which in of]

    def _part(self, which: int, turns: Sequence[Turn]) -> Sequence[Sample]:
        """Patches of one dataset."""
        first = self.ends[which - 1] if which else 0
        places = [number - first for *_, number in turns]
        windows = self.windows[which]
        if windows is not None:
            epoch, rounds = turns[0][0], [round_ for _, round_, _ in turns]
            return windows.together(places, epoch=epoch, rounds=rounds)
        read = _together(self.datasets[which], places)
        return [
            self.framing(sample, epoch=epoch, round=round_, number=number)
            for sample, (epoch, round_, number) in zip(read, turns, strict=True)
        ]


@runtime_checkable
class _ReadsTogether(Protocol):
    def __getitems__(self, indices: list[int]) -> Sequence[Sample]: ...


def _together(dataset: Samples, places: list[int]) -> Sequence[Sample]:
    if isinstance(dataset, _ReadsTogether):
        return dataset.__getitems__(places)
    return [dataset[i] for i in places]


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
