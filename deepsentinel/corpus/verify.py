"""Checking a whole corpus: every checksum, every length, and the index against the bytes."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from deepsentinel.bands import SENSORS
from deepsentinel.corpus.arrays import ArraySpec, all_metadata, corpus_arrays, group_metadata
from deepsentinel.corpus.codes import NOT_OBSERVED
from deepsentinel.corpus.copying import damage_of
from deepsentinel.corpus.facts import load_info
from deepsentinel.corpus.fetch import Stored, fetch_spans
from deepsentinel.corpus.format import (
    DATA_PATH,
    INDEX_PATH,
    INFO_PATH,
    PATCHES_PER_SHARD,
    WORK_PATH,
    CorpusInfo,
)
from deepsentinel.corpus.index import stated_info_crc
from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.shard import (
    CRC_BYTES,
    MISSING,
    ChunkError,
    decode_frame,
    load_table,
    split_patch,
    table_bytes,
)
from deepsentinel.errors import CorruptCorpusError, NotAuthorisedError, StoreError, TransientError
from deepsentinel.store import LocalStore, Store, open_store

T = TypeVar("T")
_TOGETHER = 32
"""Patches that are fetched at once."""


class Damage(NamedTuple):
    """One thing that is wrong."""

    id: str
    """The patch; empty where it concerns the whole corpus or a whole shard."""
    shard: str
    """The file, relative to the corpus."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What `verify` found."""

    patches: int
    """Patches checked."""
    chunks: int
    """Chunks whose checksum was compared and that were decoded."""
    bad: tuple[Damage, ...]
    """Everything that is wrong; empty for a sound corpus."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.bad

    def __str__(self) -> str:
        head = f"{self.patches} patches, {self.chunks} chunks checked: "
        if self.ok:
            return head + "all sound"
        lines = [f"  {d.id or '(no patch)'}  {d.shard}  {d.reason}" for d in self.bad]
        return "\n".join([f"{head}{len(self.bad)} problems", *lines])


def verify(
    root: str | Path,
    *,
    requester_pays: str | bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Read and check every byte of a corpus, wherever it lies.

    A patch of a corpus that is not on this machine counts as bad when it came damaged twice.

    Args:
        root: folder or URL of the corpus.
        requester_pays: who pays where the bucket asks that of its readers: on Google the project's
            id, on S3 `True`. Every byte of the corpus is moved.
        storage_options: arguments of the storage client, such as credentials.
        progress: called with (patches checked, patches in all) now and then.

    Returns:
        A report; damage is listed in it and is not an error.

    Raises:
        CorpusNotFoundError, CorpusError, CorruptCorpusError: it cannot even be opened.
        StoreError: no access, or a network that stays away.

    Example:
        >>> import tempfile
        >>> from deepsentinel.corpus.patch import PatchPixels, PatchRecord
        >>> from deepsentinel.corpus.write import CorpusWriter
        >>> info = CorpusInfo(
        ...     name="tiny", sensors=("s1",), bands={"s1": ("VV",)}, patch_size=16, resolution_m=10
        ... )
        >>> root = Path(tempfile.mkdtemp())
        >>> with CorpusWriter(root, info) as writer:
        ...     writer.add(PatchRecord(id="a"), PatchPixels(s1=np.zeros((1, 16, 16), np.int16)))
        >>> print(verify(root))
        1 patches, 1 chunks checked: all sound
    """
    access: dict[str, Any] = {"requester_pays": requester_pays, "storage_options": storage_options}
    check = _Check(Corpus(root, **access), open_store(root, **access))
    bad = [*check.facts(), *check.metadata(), *check.index(), *check.shards(progress)]
    bad += check.pending()
    return VerifyReport(patches=len(check.corpus), chunks=check.chunks, bad=tuple(bad))


class _Check:
    """One pass over a corpus."""

    def __init__(self, corpus: Corpus, store: Store) -> None:
        self.corpus = corpus
        self.store = store
        self.info: CorpusInfo = corpus.info
        self.table = corpus.index.slice(0, corpus.published)
        self.schema = self.table.schema
        self.arrays = corpus_arrays(corpus.info)
        names = [n for n in self.table.column_names if n.endswith(("_offset", "_size", "_gaps"))]
        self.columns = {n: _filled(self.table[n]) for n in names if n != "boa_offset"}
        self.rows = _filled(self.table["row"])
        self.ids: list[str] = self.table["id"].to_pylist()
        self.chunks = 0

    def facts(self) -> Iterator[Damage]:
        """Counts in `corpus.json` against the index; an unfinished corpus may lag behind."""
        try:
            stated = load_info(self.store, index_crc=lambda: stated_info_crc(self.schema))
        except CorruptCorpusError as error:
            yield Damage("", INFO_PATH, str(error))
            return
        if self.corpus.unfinished:
            return
        if (stated.count, dict(stated.splits)) != (self.info.count, dict(self.info.splits)):
            yield Damage(
                "",
                INFO_PATH,
                f"states {stated.count} patches {dict(stated.splits)}, the index has "
                f"{self.info.count} {dict(self.info.splits)}",
            )

    def metadata(self) -> Iterator[Damage]:
        """Every `zarr.json` against what the facts of the corpus ask for."""
        stored = replace(self.info, count=0, splits={})
        length = int(self.rows.max()) + 1 if len(self.rows) else 0
        wanted: dict[str, dict[str, Any]] = {
            f"{name}/zarr.json": value for name, value in all_metadata(stored, length).items()
        }
        wanted["zarr.json"] = group_metadata(stored, length)
        for path, value in wanted.items():
            yield from self._compare_metadata(f"{DATA_PATH}/{path}", value)

    def _compare_metadata(self, path: str, wanted: dict[str, Any]) -> Iterator[Damage]:
        found = self._twice(lambda: json.loads(self.store.read(path)))
        if isinstance(found, Exception):
            yield Damage("", path, f"cannot be read: {found}")
        elif found != json.loads(json.dumps(wanted)) and not self.corpus.unfinished:
            keys = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
            yield Damage("", path, f"differs from what {INFO_PATH} and the index ask for: {keys}")

    def _twice(self, read: Callable[[], T]) -> T | Exception:
        """What is read, or what is wrong with it; what is not on this machine is tried twice."""
        try:
            return read()
        except (NotAuthorisedError, TransientError):
            raise
        except (StoreError, ChunkError, ValueError) as error:
            if isinstance(self.store, LocalStore):
                return error
        try:
            return read()
        except (NotAuthorisedError, TransientError):
            raise
        except (StoreError, ChunkError, ValueError) as error:
            return error

    def index(self) -> Iterator[Damage]:
        """Ids and rows are unique, and the shard follows from the row."""
        for patch, count in Counter(self.ids).items():
            if count > 1:
                yield Damage(patch, INDEX_PATH, f"the id occurs {count} times")
        rows, counts = np.unique(self.rows, return_counts=True)
        for row in rows[counts > 1].tolist():
            yield Damage("", INDEX_PATH, f"row {row} is taken more than once")
        shards = _filled(self.table["shard"])
        for place in np.flatnonzero(shards != self.rows // PATCHES_PER_SHARD).tolist():
            yield Damage(self.ids[place], INDEX_PATH, f"shard {shards[place]} does not fit its row")

    def shards(self, progress: Callable[[int, int], None] | None) -> Iterator[Damage]:
        """Every shard of every array, patch by patch."""
        numbers = self.rows // PATCHES_PER_SHARD
        checked = 0
        for shard in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == shard)
            for spec in self.arrays.values():
                yield from self._shard(spec, shard, places)
            checked += len(places)
            if progress is not None:
                progress(checked, len(self.rows))

    def pending(self) -> Iterator[Damage]:
        """Patches of a shard that is being written, by their checksums."""
        for number in range(self.corpus.published, len(self.corpus)):
            [patch] = self.corpus.fetch([number], rasters=self.info.rasters)
            for name, data in patch.data.items():
                if data is not None:
                    self.chunks += self.arrays[name].chunks
                    reason = damage_of(self.arrays[name], data)
                    if reason is not None:
                        yield Damage(self.corpus.record(number).id, WORK_PATH, reason)

    def _shard(self, spec: ArraySpec, shard: int, places: NDArray[np.int64]) -> Iterator[Damage]:
        path = f"{DATA_PATH}/{spec.shard_path(shard)}"
        held = [p for p in places.tolist() if self.columns[f"{spec.name}_offset"][p] >= 0]
        if not held and not self.store.exists(path):
            return
        ending = self._twice(lambda: self._ending(spec, path))
        table = None
        if isinstance(ending, Exception):
            yield Damage("", path, str(ending))
        else:
            table, length = ending
            yield from self._unused(spec, path, table, held, length)
        for place, data in self._fetched(spec, path, held):
            for reason in self._patch(spec, path, table, place, data):
                yield Damage(self.ids[place], path, reason)

    def _ending(self, spec: ArraySpec, path: str) -> tuple[NDArray[np.uint64], int]:
        """The shard's own index, and the length of the file."""
        length = self.store.size(path)
        tail = min(length, table_bytes(spec))
        return load_table(spec, self.store.read_range(path, length - tail, tail)), length

    def _fetched(
        self, spec: ArraySpec, path: str, held: list[int]
    ) -> Iterator[tuple[int, bytes | StoreError]]:
        """Bytes of each patch, some patches in one request; or what the store says of them."""
        for batch in (held[k : k + _TOGETHER] for k in range(0, len(held), _TOGETHER)):
            try:
                found = fetch_spans(self.store, [self._span(spec, path, place) for place in batch])
            except (NotAuthorisedError, TransientError):
                raise
            except StoreError:
                yield from ((place, self._read(spec, path, place)) for place in batch)
            else:
                yield from zip(batch, (data or b"" for data in found), strict=True)

    def _read(self, spec: ArraySpec, path: str, place: int) -> bytes | StoreError:
        try:
            return self.store.read_range(*self._span(spec, path, place))
        except (NotAuthorisedError, TransientError):
            raise
        except StoreError as error:
            return error

    def _span(self, spec: ArraySpec, path: str, place: int) -> tuple[str, int, int]:
        start, size = (int(self.columns[f"{spec.name}_{w}"][place]) for w in ("offset", "size"))
        return path, start, size

    def _unused(
        self, spec: ArraySpec, path: str, table: NDArray[np.uint64], held: list[int], length: int
    ) -> Iterator[Damage]:
        slots = [int(self.rows[place]) % PATCHES_PER_SHARD for place in held]
        others = np.delete(table, slots, axis=0)
        if (others != np.uint64(MISSING)).any():
            yield Damage("", path, "holds patches that the index does not list")
        used = sum(int(self.columns[f"{spec.name}_size"][place]) for place in held)
        if used + table_bytes(spec) != length:
            yield Damage("", path, f"has {length} bytes, should have {used + table_bytes(spec)}")

    def _patch(
        self,
        spec: ArraySpec,
        path: str,
        table: NDArray[np.uint64] | None,
        place: int,
        data: Stored | StoreError,
    ) -> Iterator[str]:
        found = list(self._reasons(spec, table, place, data))
        if found and not isinstance(self.store, LocalStore):  # damaged where it lies or on the way?
            found = list(self._reasons(spec, table, place, self._read(spec, path, place)))
        self.chunks += spec.chunks
        yield from found

    def _reasons(
        self,
        spec: ArraySpec,
        table: NDArray[np.uint64] | None,
        place: int,
        data: Stored | StoreError,
    ) -> Iterator[str]:
        if isinstance(data, StoreError):
            yield str(data)
            return
        start = int(self.columns[f"{spec.name}_offset"][place])
        try:
            frames = split_patch(spec, data)
        except ChunkError as error:
            yield str(error)
            return
        if table is not None:
            spans = [(start + at, size + CRC_BYTES) for at, size in frames]
            if table[int(self.rows[place]) % PATCHES_PER_SHARD].tolist() != [
                list(s) for s in spans
            ]:
                yield "the shard's index and the corpus's index name different places"
        yield from self._planes(spec, data, frames, place)

    def _planes(
        self, spec: ArraySpec, data: Stored, frames: list[tuple[int, int]], place: int
    ) -> Iterator[str]:
        plane = np.empty((spec.size, spec.size), spec.dtype)
        for position, (start, size) in enumerate(frames):
            name = f"band {spec.channels[position]}: " if spec.channels else ""
            try:
                decode_frame(data, start, size, plane, checksum=True)
            except ChunkError as error:
                yield f"{name}{error}"
                continue
            for sensor in SENSORS:
                if spec.name == sensor:
                    gap = bool(int(self.columns[f"{sensor}_gaps"][place]) >> position & 1)
                    if gap != bool((plane == NOT_OBSERVED[sensor]).any()):
                        yield f"{name}the index is wrong about pixels that were not observed"


def _filled(column: Any) -> NDArray[np.int64]:
    return np.asarray(pc.fill_null(column, -1).to_numpy(), dtype=np.int64)
