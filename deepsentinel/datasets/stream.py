"""`DeepSentinelStream`: a corpus as a stream of samples, shuffled, shared out and resumable."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch.distributed
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from deepsentinel.bands import SENSORS
from deepsentinel.corpus.fetch import FetchedPatch
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.epochs import EpochCounter, iteration_tag
from deepsentinel.datasets.order import (
    REMAINDERS,
    Remainder,
    share,
    share_size,
    shuffled_shards,
    through_buffer,
)
from deepsentinel.datasets.prefetch import LOCAL_THREADS, THREADS, plan_runs, prefetched
from deepsentinel.datasets.request import BandsLike, Clouds
from deepsentinel.datasets.samples import SampleReader
from deepsentinel.datasets.transforms import Compose
from deepsentinel.errors import CheckpointError, SampleError, UnknownNameError, nearest
from deepsentinel.sample import Sample
from deepsentinel.store import is_local


@dataclass(frozen=True, kw_only=True)
class Place:
    """One of those who read a stream together."""

    rank: int = 0
    world_size: int = 1
    worker: int = 0
    workers: int = 1


@dataclass(frozen=True, kw_only=True)
class _Cursor:
    """Where in which epoch a reader is."""

    epoch: int
    position: int = 0
    done: bool = False
    """Whether the end of the epoch was seen."""


class DeepSentinelStream(IterableDataset[Sample]):
    """Samples of a corpus one after the other: the iterable twin of `DeepSentinelDataset`.

    The samples are the same, each exactly once an epoch over all ranks and workers. Shards come
    in shuffled order, their patches pass through a shuffle buffer, and both follow from seed,
    epoch and place alone. Bytes are fetched by threads before their turn comes, neighbouring
    patches in one request, and decoded when it comes.

    Every iteration is a new epoch. The order is planned without reading a pixel, so that going on
    in the middle of an epoch reads only what is still to come.

    Each reader (a worker, or a rank without workers) holds at most `buffer + prefetch + 16`
    patches at a time, as compressed bytes: 0.4 GB at the defaults where a patch takes 1.2 MB (both
    sensors, 256 px).

    Args:
        root: as `DeepSentinelDataset` takes it; so are `split`, `sensors`, `bands`, `labels`,
            `clouds`, `transforms`, `checksum`, `requester_pays`, `storage_options`, `cache_dir`.
        split: see there.
        sensors: see there.
        bands: see there.
        labels: see there.
        clouds: see there.
        transforms: see there; a `Compose` is told of each epoch.
        shuffle: whether the order is random; else it is that of the corpus, cut into one piece a
            reader.
        seed: decides the order, not negative.
        buffer: patches that a sample is drawn from, a reader. Twice a shard (256) mixes about
            three shards.
        prefetch: patches that are fetched ahead of their turn, a reader.
        rank: which of `world_size` processes this is; both are those of `torch.distributed` where
            they are not given and it is initialised, else 0 of 1.
        world_size: see `rank`.
        remainder: what happens where the samples do not divide among ranks. `"keep"`: some ranks
            have one more; `"drop"`: a few are left out, others each epoch if shuffled; `"pad"`: a
            few come twice. DDP without `join` needs `"drop"` or `"pad"`.
        checksum: see `DeepSentinelDataset`.
        requester_pays: see there.
        storage_options: see there.
        cache_dir: see there.

    Raises:
        SampleError: a number that makes no sense, or one of `rank` and `world_size` alone.
        CorpusNotFoundError, SplitError, UnknownNameError, BandError, LabelError, StoreError: as for
            `DeepSentinelDataset`.

    Example:
        >>> import tempfile
        >>> from deepsentinel.datasets.synthetic import write_synthetic_corpus
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_synthetic_corpus(f"{folder}/demo", patches=12, patch_size=32)
        ...     stream = DeepSentinelStream(root, None)
        ...     first = [sample["meta"].id for sample in stream]
        ...     second = [sample["meta"].id for sample in stream]
        >>> len(stream), sorted(first) == sorted(second), first == second
        (12, True, False)
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None = "train",
        *,
        sensors: Sequence[str] = SENSORS,
        bands: BandsLike = None,
        labels: Sequence[str] | None = None,
        clouds: Clouds = "nan",
        transforms: Callable[[Sample], Sample] | None = None,
        shuffle: bool = True,
        seed: int = 0,
        buffer: int = 256,
        prefetch: int = 64,
        rank: int | None = None,
        world_size: int | None = None,
        remainder: Remainder = "keep",
        checksum: bool = False,
        requester_pays: bool | str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        _check_numbers(seed=(seed, 0), buffer=(buffer, 1), prefetch=(prefetch, 0))
        _check_ranks(rank, world_size)
        if remainder not in REMAINDERS:
            raise UnknownNameError(
                f"unknown remainder={remainder!r}. {nearest(str(remainder), REMAINDERS)}"
            )
        self.dataset = DeepSentinelDataset(
            root,
            split,
            sensors=sensors,
            bands=bands,
            labels=labels,
            clouds=clouds,
            transforms=transforms,
            checksum=checksum,
            requester_pays=requester_pays,
            storage_options=storage_options,
            cache_dir=cache_dir,
        )
        self.shuffle = shuffle
        self.seed = seed
        self.buffer = buffer
        self.prefetch = prefetch
        self.remainder: Remainder = remainder
        self._ranks = None if rank is None or world_size is None else (rank, world_size)
        self._epochs = EpochCounter()
        self._iterations = 0
        self._cursor: _Cursor | None = None
        self._resumed: _Cursor | None = None
        self._resumed_place = Place()
        self._resumed_in = 0

    def __getstate__(self) -> dict[str, Any]:
        """What a spawned worker needs: it cannot ask `torch.distributed` for its rank."""
        asked = _distributed_ranks() if self._ranks is None else self._ranks
        return {**self.__dict__, "_ranks": asked}

    def __repr__(self) -> str:
        how = (
            f"shuffled with seed {self.seed}, buffer {self.buffer}" if self.shuffle else "in order"
        )
        return f"DeepSentinelStream({self.dataset!r}, {how})"

    def __str__(self) -> str:
        return repr(self)

    def __len__(self) -> int:
        """Samples of the split; with several ranks, those of this rank."""
        place = self._place()
        return share_size(len(self.dataset), place.rank, place.world_size, self.remainder)

    @property
    def epoch(self) -> int:
        """The epoch that was begun last, or is about to be resumed; -1 before the first."""
        if self._resumed is not None:
            return self._resumed.epoch
        return self._epochs.following(self._place().rank) - 1

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be this epoch; without it, each is one more than the last.

        Workers hear of it, persistent ones too. A state that was loaded stays in force if it lies
        within this epoch.
        """
        _check_numbers(epoch=(epoch, 0))
        resumed = self._resumed
        if resumed is not None and not resumed.done and resumed.epoch == epoch:
            return
        self._resumed = self._cursor = None
        self._epochs.set(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where this reader is: a few numbers, no pixels.

        Raises:
            CheckpointError: the samples are read by worker processes, which know where they are.
        """
        place = self._place()
        if self._resumed is not None:
            return self._facts(self._resumed, self._resumed_place)
        if get_worker_info() is None and self._epochs.in_workers(place.rank):
            raise CheckpointError(
                "the samples of this stream are read by worker processes, so it does not know how "
                "far they came. Use torchdata's StatefulDataLoader and save its state_dict(), "
                "which asks the workers."
            )
        cursor = self._cursor or _Cursor(epoch=self._epochs.following(place.rank))
        return self._facts(cursor, place)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the next iteration.

        The same samples in the same order follow as would have; after the end of an epoch, the
        next epoch follows.

        Raises:
            CheckpointError: the state is not of such a stream: other patches, seed or buffer.
        """
        known = {f.name for f in (*fields(_Cursor), *fields(Place))}
        ours = self._facts(_Cursor(epoch=0), Place())
        if set(state) != set(ours):
            raise CheckpointError(
                f"this is not the state of a DeepSentinelStream: it has {sorted(state)}, expected "
                f"{sorted(ours)}. Pass what state_dict() returned."
            )
        differing = [k for k in ours if k not in known and state[k] != ours[k]]
        if differing:
            found = "; ".join(f"{k}: saved {state[k]!r}, now {ours[k]!r}" for k in differing)
            raise CheckpointError(
                f"the state belongs to another stream ({found}). Make the stream as it was when "
                "the state was saved."
            )
        self._resumed = _Cursor(**{f.name: state[f.name] for f in fields(_Cursor)})
        self._resumed_place = Place(**{f.name: state[f.name] for f in fields(Place)})
        self._resumed_in = os.getpid()
        self._cursor = None

    def plan(self, epoch: int, place: Place | None = None) -> NDArray[np.int64]:
        """Numbers of the patches that a reader gives in an epoch, in order.

        Args:
            epoch: from 0.
            place: whose; that of this process for `None`.
        """
        place = self._place() if place is None else place
        order = self.dataset.rows
        if self.shuffle:
            shards = self.dataset.corpus.shards(order)
            order = order[shuffled_shards(shards, np.random.default_rng([self.seed, epoch]))]
        order = share(order, place.rank, place.world_size, self.remainder)
        order = share(order, place.worker, place.workers)
        if not self.shuffle:
            return order
        draws = np.random.default_rng([self.seed, epoch, place.rank, place.worker])
        return order[through_buffer(len(order), self.buffer, draws)]

    def __iter__(self) -> Iterator[Sample]:
        """The samples of the next epoch, or of the rest of the one that was resumed.

        Raises:
            CheckpointError: the loaded state was saved by another number of ranks or workers.
            CorruptCorpusError: stored bytes are damaged.
        """
        worker = get_worker_info()
        if worker is None:
            self._cursor = None
            return self._samples(None)  # its epoch begins with the first sample
        tag = iteration_tag(worker.seed - worker.id, self._iterations)
        self._iterations += 1
        return self._samples(self._begin(tag))

    def read(self, epoch: int, place: Place, *, start: int = 0) -> Iterator[Sample]:
        """The samples that a reader gives in an epoch, whoever asks; the stream itself stays put.

        For loops that keep their own account of how far they came, such as `pretrain`.

        Args:
            epoch: from 0.
            place: which of those who read together.
            start: how many samples to leave out, unread.

        Raises:
            CorruptCorpusError: stored bytes are damaged.
        """
        reader, transforms = self.dataset.reader, self.dataset.transforms
        if isinstance(transforms, Compose):
            transforms.set_epoch(epoch)
        for patch in self.fetched(reader, epoch, place, start=start):
            sample = reader.decode(patch)
            yield sample if transforms is None else transforms(sample)

    def fetched(
        self, reader: SampleReader, epoch: int, place: Place, *, start: int = 0
    ) -> Iterator[FetchedPatch]:
        """What `read` decodes, as it is stored.

        Args:
            reader: of the same corpus; it says what is fetched.
            epoch: as for `read`.
            place: as for `read`.
            start: as for `read`.
        """
        plan = self.plan(epoch, place)[start:]
        runs = plan_runs(plan, self.dataset.corpus.shards(plan), reader.stored_bytes(plan))
        threads = LOCAL_THREADS if is_local(self.dataset.corpus.url) else THREADS
        return prefetched(reader.fetch, plan, runs, ahead=self.prefetch, threads=threads)

    def _samples(self, cursor: _Cursor | None) -> Iterator[Sample]:
        cursor = self._begin(0) if cursor is None else cursor
        for sample in self.read(cursor.epoch, self._place(), start=cursor.position):
            cursor = self._cursor = replace(cursor, position=cursor.position + 1)
            yield sample
        self._cursor = replace(cursor, done=True)

    def _begin(self, tag: int) -> _Cursor:
        place, resumed = self._place(), self._resumed
        self._resumed = None
        if resumed is not None and self._resumed_in != os.getpid():
            raise CheckpointError(
                "a state was loaded into this stream, but worker processes read it, each with a "
                "place of its own. Use torchdata's StatefulDataLoader and give it the state that "
                "it returned."
            )
        if resumed is not None and self._resumed_place != place:
            raise CheckpointError(
                f"the state was saved by {self._resumed_place} and is loaded by {place}. Resume with "
                "the same number of ranks and workers, every reader with its own state."
            )
        if resumed is None or (resumed.done and tag == 0):
            following = None if resumed is None else resumed.epoch + 1
            cursor = _Cursor(epoch=self._epochs.begin(place.rank, tag=tag, epoch=following))
        else:
            cursor = replace(resumed, done=False)
            self._epochs.begin(place.rank, tag=tag, epoch=cursor.epoch)
        self._cursor = cursor
        return cursor

    def _place(self) -> Place:
        rank, world_size = self._ranks or _distributed_ranks() or (0, 1)
        worker = get_worker_info()
        if worker is None:
            return Place(rank=rank, world_size=world_size)
        return Place(rank=rank, world_size=world_size, worker=worker.id, workers=worker.num_workers)

    def _facts(self, cursor: _Cursor, place: Place) -> dict[str, Any]:
        return {
            "version": 1,
            **asdict(cursor),
            **asdict(place),
            "shuffle": self.shuffle,
            "seed": self.seed,
            "buffer": self.buffer,
            "remainder": self.remainder,
            "samples": len(self.dataset),
            "patches": crc32(self.dataset.rows.tobytes()),
        }


def _distributed_ranks() -> tuple[int, int] | None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return None


def _check_ranks(rank: int | None, world_size: int | None) -> None:
    if rank is None and world_size is None:
        return
    if rank is None or world_size is None or not 0 <= rank < world_size:
        raise SampleError(
            f"rank={rank!r} and world_size={world_size!r} do not name a process: give both, rank "
            "from 0 to world_size - 1, or neither."
        )


def _check_numbers(**given: tuple[int, int]) -> None:
    for name, (value, least) in given.items():
        if value < least:
            raise SampleError(f"{name}={value!r} is too small: give {least} or more.")
