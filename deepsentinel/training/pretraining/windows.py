"""Patches of a corpus as they are shown in training: of each only its window is decoded."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Self, TypeVar

from deepsentinel.corpus.fetch import FetchedPatch
from deepsentinel.corpus.protocol import Room
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.neighbours import WithNeighbours
from deepsentinel.datasets.samples import SampleReader
from deepsentinel.datasets.stream import DeepSentinelStream, Place
from deepsentinel.sample import IMAGE_KEYS, Sample, SampleList
from deepsentinel.training.pretraining.framing import Framing, observed

T = TypeVar("T")


class Windows:
    """What a framing makes of the patches of a dataset; the same as of its samples, for less.

    Bands are decompressed one by one, and of each only the window becomes physical values, turned
    on its way into the memory of the batch. Labels are not read.

    Args:
        dataset: without transforms, which would want to see whole patches.
        framing: how a patch is shown.

    Example:
        >>> import tempfile
        >>> from deepsentinel.datasets.synthetic import write_synthetic_corpus
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_synthetic_corpus(f"{folder}/demo", patches=4, patch_size=32)
        ...     windows = Windows(DeepSentinelDataset(root, None), Framing({"s1": ("VV",)}, crop=8))
        ...     [sample] = windows.together([2], epoch=0, rounds=[0])
        >>> sample["image_s1"].shape
        torch.Size([1, 8, 8])
    """

    def __init__(self, dataset: DeepSentinelDataset, framing: Framing) -> None:
        images = replace(dataset.request, labels=(), extras=())
        self.reader = SampleReader(dataset.corpus, images)
        self.rows, self.framing = dataset.rows, framing
        self.size = dataset.corpus.info.patch_size

    @classmethod
    def of(cls, dataset: Any, framing: Framing) -> Self | None:
        """Of a dataset that is read as it is stored; `None` of any other."""
        return cls(dataset, framing) if _is_plain(dataset) else None

    def together(self, places: Sequence[int], *, epoch: int, rounds: Sequence[int]) -> SampleList:
        """Several patches, read at once into the memory of a batch.

        Args:
            places: in the dataset.
            epoch: from 0.
            rounds: how often each came up in the epoch before.
        """
        turns = iter(rounds)

        def decode(patch: FetchedPatch, room: Room) -> Sample:
            return self._shown(patch, epoch, next(turns), room)

        numbers = [int(self.rows[place]) for place in places]
        return self.reader.read_together(numbers, decode=decode, size=self.framing.crop)

    def stream(
        self, stream: DeepSentinelStream, epoch: int, place: Place, *, start: int
    ) -> Iterator[Sample]:
        """The patches of a stream of the dataset; arguments as for its `read`."""
        for patch in stream.fetched(self.reader, epoch, place, start=start):
            yield self._shown(patch, epoch, 0, None)

    def _shown(self, patch: FetchedPatch, epoch: int, round_: int, room: Room | None) -> Sample:
        record = self.reader.corpus.record(patch.number)
        draws = self.framing.draws(record.id, epoch=epoch, round=round_, number=patch.number)
        sample: Sample = {}
        for look in self.framing.looks((self.size, self.size), draws):
            sample = self.reader.decode(patch, room=room, view=look, record=record)
            if observed(sample[k].numpy() for k in IMAGE_KEYS.values() if k in sample):
                break
        return self.framing.prepare(sample, moved=self.framing.moves)


def draws_nothing(dataset: Any) -> bool:
    """Whether reading a dataset leaves torch's and NumPy's own generators alone, as ours do.

    Of transforms and classes by others that is not known.
    """
    inner = dataset.dataset if isinstance(dataset, WithNeighbours) else dataset
    return isinstance(inner, list) or _is_plain(inner)


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Endless items, each made on a thread while the one before it is used.

    Example:
        >>> from itertools import count
        >>> ahead = one_ahead(count())
        >>> next(ahead), next(ahead)
        (0, 1)
    """
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items)
        while True:
            item = coming.result()
            coming = thread.submit(next, items)
            yield item


def _is_plain(dataset: Any) -> bool:
    return type(dataset) is DeepSentinelDataset and dataset.transforms is None
