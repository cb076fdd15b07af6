"""Batches whose order and draws depend on the seed and the epoch alone, so that a run can resume."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from deepsentinel.sample import Batch, Sample, collate


def derive(seed: int, epoch: int) -> int:
    """A seed of its own for each epoch.

    Example:
        >>> derive(0, 1) != derive(0, 2) != derive(1, 2)
        True
    """
    return (seed * 1_000_003 + epoch) % 2**63


class EpochSampler(Sampler[int]):
    """A fresh order of all indices in each epoch; Lightning calls `set_epoch`.

    Example:
        >>> order = EpochSampler(5, seed=1, start=3)
        >>> sorted(order), list(order) == list(order)
        ([0, 1, 2, 3, 4], True)
    """

    def __init__(self, size: int, *, seed: int, start: int = 0) -> None:
        self.size = size
        self.seed = seed
        self.start = start
        """Epochs that earlier sessions of the run have done."""
        self.epoch = start

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch of this session, counted from 0."""
        self.epoch = self.start + epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derive(self.seed, self.epoch))
        yield from torch.randperm(self.size, generator=generator).tolist()


class EpochLoader(DataLoader[Batch]):
    """Shuffled batches of a map-style dataset; the last, smaller one is kept.

    Random transforms with a `set_epoch`, such as `datasets.transforms.Compose`, are told the epoch;
    worker processes are seeded by it.

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
    ) -> None:
        self.order = EpochSampler(len(dataset), seed=seed, start=start)  # type: ignore[arg-type]
        super().__init__(
            dataset,  # type: ignore[arg-type]
            batch_size=batch_size,
            sampler=self.order,
            num_workers=num_workers,
            collate_fn=collate,
            generator=torch.Generator(),
        )

    def __iter__(self) -> Any:
        tell_epoch(self.dataset, self.order.epoch)
        assert self.generator is not None  # noqa: S101 - made above
        self.generator.manual_seed(derive(self.order.seed, self.order.epoch))  # seeds the workers
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
