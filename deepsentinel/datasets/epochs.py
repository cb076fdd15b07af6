"""Which epoch an iteration is, agreed upon by the processes that read it together."""

from typing import Any
from zlib import crc32

import torch

_SLOTS = 256
_BITS = 32


class EpochCounter:
    """Counts the epochs of a stream in memory that worker processes share.

    Each rank has a cell of its own: the number of epochs begun and, above it, a tag of the
    iteration that began the last one. Workers of one iteration carry the same tag, so the first
    of them begins the epoch, and the others join it; when two begin at once, both write the same.

    Example:
        >>> counter = EpochCounter()
        >>> counter.begin(0), counter.begin(0), counter.begin(0, tag=5), counter.begin(0, tag=5)
        (0, 1, 2, 2)
    """

    def __init__(self) -> None:
        self._cells = torch.zeros(_SLOTS, dtype=torch.int64)
        self._cells.share_memory_()  # type: ignore[no-untyped-call]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy shares memory with its own workers too."""
        self.__dict__.update(state)
        self._cells.share_memory_()  # type: ignore[no-untyped-call]

    def following(self, rank: int) -> int:
        """The epoch that a new iteration would be."""
        return int(self._cells[rank % _SLOTS]) & (1 << _BITS) - 1

    def in_workers(self, rank: int) -> bool:
        """Whether the last epoch was begun by worker processes."""
        return int(self._cells[rank % _SLOTS]) >> _BITS > 0

    def begin(self, rank: int, *, tag: int = 0, epoch: int | None = None) -> int:
        """Begin an epoch, or join the one that was begun under the same tag.

        Args:
            rank: whose epochs are counted.
            tag: what the workers of one iteration have in common; 0 in the main process.
            epoch: which to begin; the following one for `None`.
        """
        if epoch is None:
            # One read: between two, another worker may begin the epoch that this one then skips.
            cell = int(self._cells[rank % _SLOTS])
            joins = tag > 0 and cell >> _BITS == tag
            epoch = (cell & (1 << _BITS) - 1) - joins
        self._cells[rank % _SLOTS] = tag << _BITS | epoch + 1
        return epoch

    def set(self, epoch: int) -> None:
        """Let the next iteration of every rank be this epoch."""
        self._cells.fill_(epoch)


def iteration_tag(base_seed: int, iteration: int) -> int:
    """What the workers of one iteration of a loader have in common, and no others.

    Args:
        base_seed: of the loader's workers; drawn anew unless they persist.
        iteration: how many a worker began before.

    Example:
        >>> iteration_tag(1, 0) == iteration_tag(1, 1)
        False
    """
    return (crc32(f"{base_seed}:{iteration}".encode()) >> 2) + 1
