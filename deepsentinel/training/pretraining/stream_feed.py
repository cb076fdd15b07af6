"""Batches of a stream, to be resumed at any batch of any epoch without asking its workers."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import get_worker_info as worker_info

from deepsentinel.datasets.order import share_size
from deepsentinel.datasets.stream import DeepSentinelStream, Place
from deepsentinel.errors import TrainingError
from deepsentinel.sample import Batch, Sample
from deepsentinel.training.pretraining.feed import Position, evenly
from deepsentinel.training.pretraining.framing import Framing, collate_observed
from deepsentinel.training.pretraining.windows import Windows, one_ahead


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
        plain = type(stream) is DeepSentinelStream
        self.windows = Windows.of(stream.dataset, framing) if plain else None
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
        batches = self._batches(position)
        on_thread = self.num_workers == 0 and self.windows is not None
        return one_ahead(batches) if on_thread else batches

    def _batches(self, position: Position) -> Iterator[tuple[Position, Batch]]:
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
                position = position.after(self.batches_per_epoch)
                yield position, batch

    def look(self, count: int) -> Batch:
        """A few patches, spread evenly, the same at every call."""
        dataset = self.stream.dataset
        samples = [dataset[i] for i in evenly(len(dataset), count)]
        return collate_observed([self.framing(s, epoch=0) for s in samples])


class _Rest(IterableDataset[Sample]):
    """What the workers of a stream have not yet read of an epoch."""

    def __init__(self, feed: StreamFeed, epoch: int, first: int, starts: Sequence[int]) -> None:
        self.stream, self.framing, self.windows = feed.stream, feed.framing, feed.windows
        self.rank, self.world_size = feed.rank, feed.world_size
        self.epoch, self.first, self.starts = epoch, first, tuple(starts)

    def __iter__(self) -> Iterator[Sample]:
        worker = worker_info()
        readers = len(self.starts)
        # Loaders ask worker 0 first: it stands in for the one whose turn it is.
        number = 0 if worker is None else (worker.id + self.first) % readers
        place = Place(rank=self.rank, world_size=self.world_size, worker=number, workers=readers)
        start = self.starts[number]
        if self.windows is not None:
            yield from self.windows.stream(self.stream, self.epoch, place, start=start)
            return
        for sample in self.stream.read(self.epoch, place, start=start):
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
