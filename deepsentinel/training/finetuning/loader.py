"""Batches whose order and draws depend on the seed and the epoch alone, so that a run can resume."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from deepsentinel.errors import TrainingError
from deepsentinel.sample import Batch, Sample, collate


def derive(seed: int, epoch: int, rank: int = 0) -> int:
    """A seed of its own for each epoch and process.

    Example:
        >>> derive(0, 1) != derive(0, 2) != derive(1, 2)
        True
    """
    return (seed * 1_000_003 + epoch + rank * 7_919_000_027) % 2**63


class EpochSampler(Sampler[int]):
    """A fresh order of all indices in each epoch; Lightning calls `set_epoch`.

    Several processes share each batch: all have equally many of it, so that of the last, smaller
    one a few may come twice.

    Args:
        size: number of indices.
        seed: decides the orders.
        start: epochs that earlier sessions of the run have done.
        batch_size: of all processes together, a multiple of `world_size`.
        rank: which process this is.
        world_size: number of processes.

    Example:
        >>> order = EpochSampler(5, seed=1, start=3)
        >>> sorted(order), list(order) == list(order)
        ([0, 1, 2, 3, 4], True)
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        start: int = 0,
        batch_size: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % world_size:
            raise TrainingError(shared_badly(batch_size, world_size))
        self.size = size
        self.seed = seed
        self.batch_size = batch_size
        self.rank, self.world_size = rank, world_size
        self.start = start
        """Epochs that earlier sessions of the run have done."""
        self.epoch = start

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch of this session, counted from 0."""
        self.epoch = self.start + epoch

    def __len__(self) -> int:
        return (self.size + self.world_size - 1) // self.world_size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derive(self.seed, self.epoch))
        order = torch.randperm(self.size, generator=generator).tolist()
        while len(order) % self.world_size:
            order.append(order[len(order) - self.size])
        for begin in range(0, len(order), self.batch_size):
            yield from order[begin : begin + self.batch_size][self.rank :: self.world_size]


def shared_badly(batch_size: int, world_size: int) -> str:
    """What to say of a batch that the processes cannot share."""
    return (
        f"batch_size={batch_size} cannot be shared evenly by {world_size} processes; give a "
        f"multiple of {world_size}, such as {max(1, batch_size // world_size) * world_size}."
    )


class EpochLoader(DataLoader[Batch]):
    """Shuffled batches of a map-style dataset; the last, smaller one is kept.

    Random transforms with a `set_epoch`, such as `datasets.transforms.Compose`, are told the epoch;
    worker processes are seeded by it. `batch_size` is that of all processes together.

    Example:
        >>> data = [{"label": torch.tensor(i)} for i in range(5)]
        >>> [len(batch["label"]) for batch in EpochLoader(data, batch_size=2, seed=0)]
        [2, 2, 1]
    """

    def __init__(
        self,
        dataset: "Dataset[Sample] | list[Sample]",
        *,
        batch_size: int,
        num_workers: int = 0,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.order = EpochSampler(
            len(dataset),  # type: ignore[arg-type]
            seed=seed,
            start=start,
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
        )
        super().__init__(
            dataset,  # type: ignore[arg-type]
            batch_size=batch_size // world_size,
            sampler=self.order,
            num_workers=num_workers,
            collate_fn=collate,
            generator=torch.Generator(),
        )

    def __iter__(self) -> Any:
        tell_epoch(self.dataset, self.order.epoch)
        assert self.generator is not None  # noqa: S101 - made above
        # Seeds the workers.
        self.generator.manual_seed(derive(self.order.seed, self.order.epoch, self.order.rank))
        return super().__iter__()


@runtime_checkable
class _HasEpoch(Protocol):
    def set_epoch(self, epoch: int) -> None: ...


def tell_epoch(dataset: object, epoch: int) -> None:
    """Call `set_epoch` on a dataset, on its transforms, and on the datasets that it wraps."""
    for part in (dataset, getattr(dataset, "transforms", None)):
        if isinstance(part, _HasEpoch):
            part.set_epoch(epoch)
    wrapped = getattr(dataset, "dataset", None)
    for inner in getattr(dataset, "datasets", [wrapped] if wrapped is not None else []):
        tell_epoch(inner, epoch)


def in_order(
    dataset: "Dataset[Sample] | list[Sample]", *, batch_size: int, num_workers: int = 0
) -> DataLoader[Batch]:
    """Batches in the order of the dataset.

    Example:
        >>> data = [{"label": torch.tensor(i)} for i in range(3)]
        >>> [batch["label"].tolist() for batch in in_order(data, batch_size=2)]
        [[0, 1], [2]]
    """
    loader: DataLoader[Batch] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=collate,
        generator=torch.Generator(),  # or starting workers would draw from the caller's
    )
    return loader
