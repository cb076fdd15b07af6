"""Writing a corpus so that nothing completed is ever lost: `CorpusWriter`.

A patch counts once its line is in the journal; a shard once its files have their names; for readers
both count once the index says so, which is always the last thing written.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepsentinel.corpus.arrays import (
    all_metadata,
    corpus_arrays,
    group_metadata,
    names_chunk,
)
from deepsentinel.corpus.codes import IGNORE_CODE, NOT_OBSERVED
from deepsentinel.corpus.facts import load_info
from deepsentinel.corpus.footprint import locate
from deepsentinel.corpus.format import (
    DATA_PATH,
    INDEX_PATH,
    INFO_PATH,
    JOURNAL_PATH,
    PATCHES_PER_SHARD,
    WORK_PATH,
    CorpusInfo,
    dump_json,
)
from deepsentinel.corpus.index import (
    DESCRIPTIVE,
    read_index,
    record_row,
    rows_table,
    same_schema,
    write_index,
)
from deepsentinel.corpus.journal import Journal
from deepsentinel.corpus.lock import WriterLock
from deepsentinel.corpus.part import Place, ShardPart, next_shard_row
from deepsentinel.corpus.patch import PatchPixels, PatchRecord
from deepsentinel.corpus.places import count_splits
from deepsentinel.errors import CorpusError, CorpusExistsError, LabelError, ShapeError, StoreError
from deepsentinel.store import open_store
from deepsentinel.store.local import replacing, write_atomic

_EVERY_SHARD_UNTIL = 64
"""Up to so many shards the index is written after each, then after every further 1/64 of them."""


class CorpusWriter:
    """Writes patches into a new corpus, continues an interrupted one, or appends to a finished one.

    Leaving the `with` block without an error finishes the corpus. Leaving it with one (or being
    killed) leaves a corpus that opens with every completed patch; a new writer at the same place
    continues behind the last of them, and what comes out is the same, byte for byte, as without
    the interruption. What a finished corpus holds is never changed: patches that are
    appended begin a new shard.

    Args:
        root: folder of the corpus.
        info: what it holds; `count` and `splits` are counted by the writer.
        resume: whether a corpus that is already there may be continued.

    Raises:
        CorpusExistsError: something is there that cannot be continued with this `info`, or another
            writer is at work.

    Example:
        >>> import tempfile
        >>> info = CorpusInfo(
        ...     name="tiny",
        ...     sensors=("s1",),
        ...     bands={"s1": ("VV", "VH")},
        ...     patch_size=16,
        ...     resolution_m=10,
        ... )
        >>> root = Path(tempfile.mkdtemp()) / "tiny"
        >>> with CorpusWriter(root, info) as writer:
        ...     pixels = PatchPixels(s1=np.full((2, 16, 16), -1200, dtype=np.int16))
        ...     writer.add(PatchRecord(id="a", split="train"), pixels)
        >>> sorted(CorpusWriter(root, info).done)
        ['a']
    """

    def __init__(self, root: str | Path, info: CorpusInfo, *, resume: bool = True) -> None:
        self._root = _local_root(root)
        self._info = info
        self._arrays = corpus_arrays(info)
        self._check_place(resume=resume)
        with self._explained():
            self._lock = WriterLock(self._root / WORK_PATH / "lock")
            self._journal = Journal(self._root / JOURNAL_PATH)
        self._parts: dict[str, ShardPart] = {}
        self._pending: list[Mapping[str, Any]] = []
        self._snapshot: frozenset[str] | None = None
        self._open = True
        try:
            with self._explained():
                self._begin()
        except BaseException:
            self._abandon()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._abandon()

    @property
    def done(self) -> frozenset[str]:
        """Ids of the patches that are stored: skip them. A snapshot, made anew after an `add`."""
        if self._snapshot is None:
            self._snapshot = frozenset(self._done)
        return self._snapshot

    def add(self, record: PatchRecord, pixels: PatchPixels) -> None:
        """Store one patch; when this returns, no crash of the process loses it.

        Args:
            record: its facts and the labels that lie in the index.
            pixels: its codes; at least one sensor, all bands of it, in the corpus's order.

        Raises:
            ShapeError, LabelError, CorpusError: the patch does not fit the corpus.
            StoreError: it could not be written, such as on a full disk.
        """
        if not self._open:
            raise CorpusError(
                f"this writer of {self._root} is closed or has failed: make a new CorpusWriter at "
                "the same place, it continues behind the last completed patch."
            )
        planes = self._planes(record, pixels)
        self._check_record(record)
        row = self._row(record, planes)
        with self._stopping_on_error(), self._explained():
            places = {name: self._part(name).write(plane) for name, plane in planes.items()}
            _enter_places(row, places)
            self._journal.append({"places": places, "row": row})
            self._keep(row, places)
            if self._next % PATCHES_PER_SHARD == 0:
                self._finish_shard()

    def close(self) -> None:
        """Finish the corpus: the last shard, the metadata, the index. Harmless when repeated."""
        if not self._open:
            return
        with self._stopping_on_error(), self._explained():
            if self._parts:
                self._finish_shard()
            if self._pending:
                self._publish()
            self._clear_work()
            self._lock.release(remove=True)
        self._open = False
        with suppress(OSError):  # a successor may have begun at once
            (self._root / WORK_PATH).rmdir()

    # ---------------------------------------------------------------- beginning

    def _check_place(self, *, resume: bool) -> None:
        data, info = self._root / DATA_PATH, self._root / INFO_PATH
        if not resume and (data.exists() or info.exists()):
            raise CorpusExistsError(
                f"{self._root} already holds a corpus. Choose another folder, delete it, or pass "
                "resume=True to continue or append to it."
            )
        if data.exists() and not info.exists() and not (self._root / WORK_PATH).exists():
            raise CorpusExistsError(
                f"{self._root} holds a {DATA_PATH} but no {INFO_PATH}: this is not a corpus and "
                "will not be overwritten. Choose another folder."
            )

    def _begin(self) -> None:
        store = open_store(self._root)
        if store.exists(INFO_PATH):
            self._check_same(load_info(store))
            self._table = same_schema(read_index(store, INDEX_PATH), self._info)
        else:
            self._clear_work()  # left over from a corpus that was deleted since
            self._table = rows_table([], self._info)
            self._write_names()
            self._publish_files(rows=0)
        self._done = set(self._table["id"].to_pylist())
        rows = self._table["row"].to_numpy()
        self._next = next_shard_row(int(rows.max()) + 1 if len(rows) else 0)
        self._recover()

    def _check_same(self, there: CorpusInfo) -> None:
        ours, theirs = self._info.to_json(), there.to_json()
        differing = [k for k in ours if k not in DESCRIPTIVE and ours[k] != theirs[k]]
        if differing:
            found = "; ".join(f"{k}: there {theirs[k]!r}, asked {ours[k]!r}" for k in differing)
            raise CorpusExistsError(
                f"{self._root} holds corpus {there.name!r}, which cannot be continued with other "
                f"facts ({found[:600]}). Write to another folder."
            )

    def _recover(self) -> None:
        """Take over what a predecessor completed after it last wrote the index."""
        for place, entry in enumerate(self._journal.entries):
            row, places = entry["row"], entry["places"]
            if row["id"] in self._done:
                continue
            if self._parts and row["row"] // PATCHES_PER_SHARD != self._next // PATCHES_PER_SHARD:
                self._finish_shard(publish=False)  # a last shard that was not full
            self._next = row["row"]
            if not self._is_published(row["shard"], places) and not self._is_whole(places):
                self._journal.keep(place)
                break
            self._keep(row, places)
            if self._next % PATCHES_PER_SHARD == 0:
                self._finish_shard(publish=False)
        if self._parts and self._is_published(self._next // PATCHES_PER_SHARD, self._parts):
            self._finish_shard(publish=False)

    def _is_published(self, shard: int, names: Mapping[str, Any]) -> bool:
        """Whether a shard was sealed: renaming its files begins only when all of them are whole."""
        data = self._root / DATA_PATH
        return any((data / self._arrays[name].shard_path(shard)).exists() for name in names)

    def _is_whole(self, places: Mapping[str, Place]) -> bool:
        return all(self._part(name).holds(place) for name, place in places.items())

    # ---------------------------------------------------------------- one patch

    def _planes(self, record: PatchRecord, pixels: PatchPixels) -> dict[str, NDArray[Any]]:
        given = {s: pixels.sensor(s) for s in ("s1", "s2")} | dict(pixels.rasters)
        planes = {name: array for name, array in given.items() if array is not None}
        for name, array in planes.items():
            self._check_array(record, name, array)
        if not any(sensor in planes for sensor in self._info.sensors):
            raise CorpusError(f"patch {record.id!r} has no pixels of any sensor; leave it out.")
        return planes

    def _check_array(self, record: PatchRecord, name: str, array: NDArray[Any]) -> None:
        spec = self._arrays.get(name)
        if spec is None:
            raise CorpusError(
                f"patch {record.id!r} brings {name!r}, which corpus {self._info.name!r} does not "
                f"have. Its arrays: {' '.join(self._arrays)}. Name it in the CorpusInfo first."
            )
        if array.shape != spec.patch_shape or array.dtype != spec.dtype:
            raise ShapeError(
                f"{name} of patch {record.id!r} is {array.dtype} {array.shape}; the corpus stores "
                f"{spec.dtype} {spec.patch_shape}."
            )
        label = next((s for s in self._info.labels if s.name == name), None)
        if label is not None and label.kind == "mask":
            limit = 32768 if label.scheme is None else len(label.scheme.classes)
            _check_ids(record, name, array, limit)

    def _check_record(self, record: PatchRecord) -> None:
        if not record.id:
            raise CorpusError("a patch needs an id that is not empty.")
        if record.id in self._done:
            raise CorpusError(
                f"a patch with id {record.id!r} is already in {self._root}; ids are unique. Skip "
                "what CorpusWriter.done names."
            )
        for name in ("date_s1", "date_s2"):
            date = getattr(record, name)
            if date is not None and date.tzinfo is None:
                raise CorpusError(
                    f"{name}={date} of patch {record.id!r} has no time zone; give UTC, such as "
                    "datetime(2021, 7, 1, tzinfo=UTC)."
                )
        rasters = {s.name for s in self._info.labels if s.is_raster}
        for name, value in record.labels.items():
            if name in rasters:
                raise LabelError(
                    f"label {name!r} of patch {record.id!r} is a raster: pass it in "
                    "PatchPixels.rasters."
                )
            _check_label(record, self._info, name, value)

    def _row(self, record: PatchRecord, planes: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        row = record_row(record, self._info)
        lon, lat, outline = locate(record, self._info.patch_size)
        row |= {"lon": lon, "lat": lat, "geometry": None if outline is None else outline.hex()}
        row |= {"row": self._next, "shard": self._next // PATCHES_PER_SHARD}
        for sensor in self._info.sensors:
            if sensor in planes:
                missing = planes[sensor] == NOT_OBSERVED[sensor]
                gaps = missing.any(axis=(1, 2))
                row[f"{sensor}_gaps"] = sum(1 << k for k in np.flatnonzero(gaps).tolist())
        return row

    def _keep(self, row: Mapping[str, Any], places: Mapping[str, Place]) -> None:
        slot = self._next % PATCHES_PER_SHARD
        for name, place in places.items():
            self._part(name).keep(slot, place)
        self._pending.append(row)
        self._done.add(row["id"])
        self._snapshot = None
        self._next += 1

    # ---------------------------------------------------------------- one shard

    def _part(self, name: str) -> ShardPart:
        if name not in self._parts:
            spec = self._arrays[name]
            shard = self._next // PATCHES_PER_SHARD
            self._parts[name] = ShardPart(
                spec,
                self._root / spec.part_path(shard),
                self._root / DATA_PATH / spec.shard_path(shard),
            )
        return self._parts[name]

    def _finish_shard(self, *, publish: bool = True) -> None:
        parts = [part for part in self._parts.values() if not _is_moved(part)]
        if len(parts) == len(self._parts):  # else a predecessor sealed all and moved some
            for part in parts:
                part.seal()
        for part in parts:
            part.publish()
        self._parts = {}
        self._next = next_shard_row(self._next)
        shards = self._next // PATCHES_PER_SHARD
        if publish and shards % max(1, shards // _EVERY_SHARD_UNTIL) == 0:
            self._publish()

    def _publish(self) -> None:
        """Let readers see every finished shard."""
        new = rows_table(self._pending, self._info)
        self._table = pa.concat_tables([self._table, new])
        self._pending = []
        self._publish_files(rows=int(self._table["row"].to_numpy().max()) + 1)
        self._journal.clear()

    def _publish_files(self, *, rows: int) -> None:
        """Metadata, then `corpus.json`, then the index: the index decides what there is."""
        data = self._root / DATA_PATH
        for name, metadata in all_metadata(self._info, rows).items():
            _write_changed(data / name / "zarr.json", dump_json(metadata))
        write_atomic(data / "zarr.json", dump_json(group_metadata(self._info, rows)))
        splits = count_splits(self._table)
        info = replace(self._info, count=len(self._table), splits=splits)
        if rows:
            self._write_info(info)
        with replacing(self._root / INDEX_PATH) as path:
            write_index(self._table, str(path))
        if not rows:  # a new corpus is one only when all of it is there
            self._write_info(info)

    def _clear_work(self) -> None:
        self._journal.clear()
        for path in (self._root / WORK_PATH).iterdir():
            if path.name != self._lock.path.name:
                path.unlink()

    def _write_info(self, info: CorpusInfo) -> None:
        write_atomic(self._root / INFO_PATH, dump_json(info.to_json()))

    def _write_names(self) -> None:
        for spec in self._arrays.values():
            if spec.channels is not None:
                path = self._root / DATA_PATH / spec.channel_axis / "c" / "0"
                write_atomic(path, names_chunk(spec.channels))

    # ---------------------------------------------------------------- errors

    @contextmanager
    def _stopping_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._abandon()
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except CorpusError:
            raise
        except OSError as error:
            raise StoreError(
                f"cannot write to {self._root}: {error.strerror or error}. Every completed patch is "
                "safe; remove the cause and run the same again: it continues there."
            ) from error

    def _abandon(self) -> None:
        """Let go of everything and leave it as it is, for a successor."""
        self._open = False
        for part in self._parts.values():
            part.close()
        self._journal.close()
        self._lock.release(remove=False)


def _local_root(root: str | Path) -> Path:
    path = Path(open_store(root).url)
    if path.exists() and not path.is_dir():
        raise CorpusExistsError(f"{path} is a file; a corpus is a folder. Choose another path.")
    return path


def _is_moved(part: ShardPart) -> bool:
    return part.final.exists()


def _write_changed(path: Path, data: bytes) -> None:
    if not path.exists() or path.read_bytes() != data:
        write_atomic(path, data)


def _enter_places(row: dict[str, Any], places: Mapping[str, Place]) -> None:
    for name, (start, sizes) in places.items():
        row[f"{name}_offset"] = start
        row[f"{name}_size"] = sum(sizes)


def _check_label(record: PatchRecord, info: CorpusInfo, name: str, value: Any) -> None:
    spec = info.label(name)
    if spec.kind == "target":
        if len(value) != len(spec.channels):
            raise LabelError(
                f"target {name!r} of patch {record.id!r} has {len(value)} values for the "
                f"{len(spec.channels)} channels {' '.join(spec.channels)}."
            )
        return
    rows = {"label": lambda: [value], "multilabel": lambda: list(value)}
    ids = rows.get(spec.kind, lambda: [box[4] for box in value])()
    limit = None if spec.scheme is None else len(spec.scheme.classes)
    wrong = [v for v in ids if v < 0 or (limit is not None and v >= limit)]
    if wrong:
        raise LabelError(
            f"label {name!r} of patch {record.id!r} holds class ids {wrong[:8]}; ids run from 0"
            + ("." if limit is None else f" to {limit - 1}.")
            + " Leave the label out where it is not known."
        )


def _check_ids(record: PatchRecord, name: str, mask: NDArray[Any], limit: int) -> None:
    low, high = int(mask.min()), int(mask.max())
    if low < IGNORE_CODE or high >= limit:
        raise LabelError(
            f"mask {name!r} of patch {record.id!r} holds values from {low} to {high}; class ids run "
            f"from 0 to {limit - 1}, and {IGNORE_CODE} is ignored. Scheme.encode maps a raster's "
            "codes to ids."
        )
