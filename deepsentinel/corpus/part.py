"""The shard in progress: one growing file an array, which becomes the shard when it is full."""

import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from deepsentinel.corpus.arrays import ArraySpec
from deepsentinel.corpus.format import PATCHES_PER_SHARD
from deepsentinel.corpus.journal import write_at
from deepsentinel.corpus.shard import (
    check_patch,
    dump_table,
    empty_table,
    encode_patch,
    fill_table,
)
from deepsentinel.store.local import make_folder, sync_path

Place = tuple[int, list[int]]
"""Where a patch lies in its shard: its start, and the size of each of its chunks."""


class ShardPart:
    """Chunks of one array that are being gathered into one shard.

    Nothing counts until the journal says so: what lies behind `end` is overwritten.

    Args:
        spec: the array.
        path: the growing file.
        final: where the finished shard goes.
    """

    def __init__(self, spec: ArraySpec, path: Path, final: Path) -> None:
        self.spec = spec
        self.path = path
        self.final = final
        self.end = 0
        self._table = empty_table(spec)
        self._file: int | None = None

    def write(self, pixels: NDArray[Any]) -> Place:
        """Write a patch behind the others; `keep` makes it count."""
        data, sizes = encode_patch(self.spec, pixels)
        write_at(self._open(), data, self.end)
        return self.end, sizes

    def keep(self, slot: int, place: Place) -> None:
        """Count a written patch in."""
        start, sizes = place
        fill_table(self._table, slot, start, sizes)
        self.end = start + sum(sizes)

    def holds(self, place: Place) -> bool:
        """Whether the file really holds a patch there, every checksum right."""
        start, sizes = place
        data = os.pread(self._open(), sum(sizes), start)
        return next(check_patch(self.spec, data), None) is None

    def seal(self) -> None:
        """Write the shard's index behind the last patch and make all of it durable."""
        table = dump_table(self._table)
        write_at(self._open(), table, self.end)
        os.ftruncate(self._open(), self.end + len(table))
        self.close()
        sync_path(self.path)

    def publish(self) -> None:
        """Move the sealed file to its place."""
        self.close()
        make_folder(self.final.parent)
        self.path.replace(self.final)
        sync_path(self.final.parent)

    def close(self) -> None:
        """Close the file, which stays."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        return self._file


def next_shard_row(row: int) -> int:
    """First row of the shard behind the one that holds row `row - 1`.

    Example:
        >>> next_shard_row(0), next_shard_row(1), next_shard_row(128)
        (0, 128, 128)
    """
    return -(-row // PATCHES_PER_SHARD) * PATCHES_PER_SHARD
