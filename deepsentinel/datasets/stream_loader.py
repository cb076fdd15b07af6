"""`StreamLoader`: batches of a stream, each epoch in its own order."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader

from deepsentinel.datasets.order import share_size
from deepsentinel.datasets.stream import DeepSentinelStream
from deepsentinel.errors import SampleError
from deepsentinel.sample import Batch, collate


class StreamLoader(DataLoader[Batch]):
    """Batches of a stream; the last, smaller ones are kept.

    Their order is that of the stream: it follows from the stream's seed, the epoch, and how many
    processes and workers read. Each worker makes batches of its own.

    Args:
        stream: what is read.
        batch_size: patches a batch of this process.
        num_workers: worker processes that read.
        seed: what torch's generators in the workers follow from, with the epoch.
        epoch: tells which epoch the next iteration is; `None` from it lets the stream count.
        world_size: number of processes that share the stream.

    Raises:
        SampleError: processes would get different numbers of batches.

    Example:
        >>> import tempfile
        >>> from deepsentinel.datasets.synthetic import write_synthetic_corpus
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_synthetic_corpus(f"{folder}/demo", patches=10, patch_size=32)
        ...     loader = StreamLoader(DeepSentinelStream(root, None), batch_size=4, seed=0)
        ...     len(loader), [len(batch["meta"]) for batch in loader]
        (3, [4, 4, 2])
    """

    def __init__(
        self,
        stream: DeepSentinelStream,
        *,
        batch_size: int,
        num_workers: int = 0,
        seed: int = 0,
        epoch: Callable[[], int | None] = lambda: None,
        world_size: int = 1,
    ) -> None:
        if world_size > 1 and stream.remainder == "keep":
            raise SampleError(
                f"{world_size} processes train on a stream with remainder='keep', which may give "
                "some of them one patch more. Make it with remainder='pad' or 'drop'."
            )
        self.stream = stream
        self.seed = seed
        self.epoch = epoch
        super().__init__(
            stream,
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=collate,
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        workers, size = max(1, self.num_workers), self.batch_size or 1
        shares = (share_size(len(self.stream), k, workers) for k in range(workers))
        return sum(-(-share // size) for share in shares)

    def __iter__(self) -> Any:
        epoch = self.epoch()
        if epoch is not None:
            self.stream.set_epoch(epoch)
        assert self.generator is not None  # noqa: S101 - made above
        self.generator.manual_seed((self.seed * 1_000_003 + self.stream.epoch + 1) % 2**63)
        return super().__iter__()
