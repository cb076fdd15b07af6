"""What a copy of (a part of) a corpus consists of, worked out from the index before a byte moves.

Patches are copied as they are stored, compressed and with their checksums; only the shards that
they are gathered into, and so their places, may be new. Where all patches are copied they keep
their rows, and every shard comes out byte for byte as it was.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deepsentinel.corpus.arrays import ArraySpec, corpus_arrays
from deepsentinel.corpus.format import DATA_PATH, PATCHES_PER_SHARD, CorpusInfo
from deepsentinel.corpus.index import index_schema, same_schema
from deepsentinel.corpus.places import count_splits
from deepsentinel.corpus.select import Selection
from deepsentinel.corpus.shard import CRC_BYTES, ChunkError, crc32c, split_patch, table_bytes

PIECE_BYTES = 4 * 2**20
"""Most that one request asks for, so that memory and what an interruption costs stay small."""


@dataclass(frozen=True)
class Place:
    """Bytes of one array of one patch."""

    number: int
    """Row of the copy's index."""
    slot: int
    """Place in the copy's shard."""
    path: str
    """The source's shard."""
    start: int
    size: int


@dataclass(frozen=True)
class Piece:
    """One request."""

    path: str
    start: int
    size: int


@dataclass(frozen=True, eq=False)
class ShardFile:
    """One shard of one array of the copy: which bytes, in order."""

    spec: ArraySpec
    shard: int
    numbers: NDArray[np.int64]
    """Rows of the copy's index."""
    slots: NDArray[np.int64]
    shards: NDArray[np.int64]
    """Shards of the source."""
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @property
    def size(self) -> int:
        """Bytes of its patches."""
        return int(self.sizes.sum())

    @property
    def places(self) -> Iterator[Place]:
        """Its patches in the order in which they lie in it."""
        columns = (self.numbers, self.slots, self.shards, self.starts, self.sizes)
        for number, slot, shard, start, size in zip(*(c.tolist() for c in columns), strict=True):
            yield Place(number, slot, f"{DATA_PATH}/{self.spec.shard_path(shard)}", start, size)

    @property
    def path(self) -> str:
        """Where it lies in the copy."""
        return f"{DATA_PATH}/{self.spec.shard_path(self.shard)}"

    def pieces(self, have: int = 0) -> Iterator[Piece]:
        """Requests for what lies behind the first `have` bytes; neighbours are asked for as one."""
        path, start, size = "", 0, 0
        for place in self.places:
            skip = min(have, place.size)
            have -= skip
            if skip == place.size:
                continue
            if size and (place.path, place.start + skip) == (path, start + size):
                size += place.size - skip
                continue
            yield from _cut(path, start, size)
            path, start, size = place.path, place.start + skip, place.size - skip
        yield from _cut(path, start, size)


@dataclass(frozen=True, kw_only=True)
class CopyPlan:
    """A whole copy."""

    info: CorpusInfo
    """Facts of the copy."""
    table: pa.Table
    """Index of the copy; offsets are those of the source."""
    files: tuple[ShardFile, ...]
    """By shard, then by array."""
    total: int
    """Patches of the source."""

    @property
    def size(self) -> int:
        """Bytes of all patches."""
        return sum(file.size for file in self.files)

    @property
    def requests(self) -> int:
        """Requests for them."""
        return sum(1 for file in self.files for _ in file.pieces())

    def shards(self) -> Iterator[tuple[int, list[ShardFile]]]:
        """Files of each shard of the copy."""
        found: dict[int, list[ShardFile]] = {}
        for file in self.files:
            found.setdefault(file.shard, []).append(file)
        yield from found.items()

    def index(self, without: Collection[int] = ()) -> tuple[pa.Table, CorpusInfo]:
        """Index and facts of the finished copy, without some of its patches."""
        table = self.table
        for name in corpus_arrays(self.info):
            offsets = np.full(len(table), -1, np.int64)
            for file in self.files:
                if file.spec.name == name:
                    kept = ~np.isin(file.numbers, list(without))
                    sizes = file.sizes[kept]
                    offsets[file.numbers[kept]] = np.cumsum(sizes) - sizes
            column = pa.array(offsets, mask=offsets < 0, type=pa.int64())
            table = table.set_column(
                table.schema.get_field_index(f"{name}_offset"), f"{name}_offset", column
            )
        if without:
            table = table.filter(~np.isin(np.arange(len(table)), list(without)))
        table = same_schema(table, self.info)
        return table, replace(self.info, count=len(table), splits=count_splits(table))


def plan_copy(table: pa.Table, info: CorpusInfo, selection: Selection) -> CopyPlan:
    """Plan of copying the chosen part of a corpus.

    Raises:
        SelectionError, SplitError, UnknownNameError: as `Selection.rows`.
    """
    chosen = selection.rows(table, info)
    sensors = selection.sensors_of(info)
    kept = replace(info, sensors=sensors, bands={s: info.bands[s] for s in sensors})
    schema = index_schema(kept)
    part = table.take(pa.array(chosen)).select(schema.names)
    rows = part["row"].to_numpy()
    numbers = rows if len(chosen) == len(table) else np.argsort(np.argsort(rows))
    for name, values in (("row", numbers), ("shard", numbers // PATCHES_PER_SHARD)):
        at = schema.get_field_index(name)
        part = part.set_column(at, name, pa.array(values).cast(schema.field(name).type))
    files = [
        file
        for spec in corpus_arrays(kept).values()
        for file in _files(spec, part, rows // PATCHES_PER_SHARD, numbers)
    ]
    kept = replace(kept, count=len(part), splits=count_splits(part))
    files.sort(key=lambda file: file.shard)  # stable: arrays stay in their order
    return CopyPlan(info=kept, table=part, files=tuple(files), total=len(table))


def _files(
    spec: ArraySpec, part: pa.Table, shards: NDArray[np.int64], rows: NDArray[np.int64]
) -> Iterator[ShardFile]:
    """Shards of one array of the copy; `shards` are those of the source."""
    starts, sizes = (
        pc.fill_null(part[f"{spec.name}_{what}"], -1).to_numpy() for what in ("offset", "size")
    )
    held = np.flatnonzero(starts >= 0)
    order = held[np.lexsort((starts[held], shards[held], rows[held] // PATCHES_PER_SHARD))]
    targets = rows[order] // PATCHES_PER_SHARD
    for group in np.split(order, np.flatnonzero(np.diff(targets)) + 1):
        if len(group):
            yield ShardFile(
                spec,
                int(rows[group[0]]) // PATCHES_PER_SHARD,
                numbers=group,
                slots=rows[group] % PATCHES_PER_SHARD,
                shards=shards[group],
                starts=starts[group],
                sizes=sizes[group],
            )


def corpus_bytes(table: pa.Table, info: CorpusInfo) -> dict[str, int]:
    """Stored bytes of each array of a corpus, from its index alone."""
    return {name: int(pc.sum(table[f"{name}_size"]).as_py() or 0) for name in corpus_arrays(info)}


def damage_of(spec: ArraySpec, data: bytes | memoryview) -> str | None:
    """What is wrong with the bytes of one patch by their checksums; `None` where all is well."""
    try:
        frames = split_patch(spec, data)
    except ChunkError as error:
        return str(error)
    for k, (start, size) in enumerate(frames):
        end = start + size
        if crc32c(np.frombuffer(data, np.uint8, size, start)) != data[end : end + CRC_BYTES]:
            band = f"band {spec.channels[k]}: " if spec.channels else ""
            return f"{band}its checksum (crc32c) differs"
    return None


def file_bytes(file: ShardFile) -> int:
    """Length of the finished shard."""
    return file.size + table_bytes(file.spec)


def bytes_words(count: float) -> str:
    """A number of bytes for people.

    Example:
        >>> bytes_words(999), bytes_words(1_250_000_000)
        ('999 B', '1.2 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _cut(path: str, start: int, size: int) -> Iterator[Piece]:
    while size > 0:
        yield Piece(path, start, min(size, PIECE_BYTES))
        start, size = start + PIECE_BYTES, size - PIECE_BYTES
