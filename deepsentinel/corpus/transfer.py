"""Bringing a corpus, or the part of it that is wanted, to this machine: `download`."""

import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from deepsentinel.bands import Sensor
from deepsentinel.corpus.arrays import all_metadata, corpus_arrays, group_metadata, names_chunk
from deepsentinel.corpus.catalogue import named
from deepsentinel.corpus.copying import (
    CopyPlan,
    Piece,
    Place,
    ShardFile,
    bytes_words,
    damage_of,
    file_bytes,
    plan_copy,
)
from deepsentinel.corpus.facts import load_info
from deepsentinel.corpus.format import DATA_PATH, INDEX_PATH, INFO_PATH, CorpusInfo, dump_json
from deepsentinel.corpus.index import read_columns, same_schema, write_index
from deepsentinel.corpus.journal import write_at
from deepsentinel.corpus.parts import WORK, Workplace, damaged_places, opened
from deepsentinel.corpus.select import Box, Selection
from deepsentinel.corpus.shard import crc32c
from deepsentinel.corpus.transferred import RECORD_PATH, TransferPlan, TransferReport
from deepsentinel.corpus.verify import Damage
from deepsentinel.errors import (
    CorpusExistsError,
    CorruptCorpusError,
    DeepSentinelError,
    NotAuthorisedError,
    StoreError,
    TransferDeclinedError,
    TransientError,
)
from deepsentinel.store import Store, open_store
from deepsentinel.store.local import LocalStore, replacing, write_atomic

REQUESTS_AT_ONCE: Final = 16
_TRIES: Final = 3
"""How often a damaged patch is fetched before it counts as wrong."""


def download(
    src: str | Path,
    dest: str | Path,
    *,
    split: str | None = None,
    where: str | None = None,
    bbox: Box | None = None,
    dates: str | None = None,
    sensors: Sequence[Sensor] | None = None,
    max_patches: int | None = None,
    requester_pays: str | bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    confirm: Callable[[TransferPlan], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TransferReport:
    """Copy a corpus, or the part of it that is asked for, into a folder of this machine.

    What to move is decided from the index alone. Patches travel as they are stored and are checked
    by their checksums; one that is damaged is fetched again, and left out and reported if it is
    damaged at its source. A run that was interrupted, by whatever, is continued by the same call:
    nothing that arrived is fetched twice. The copy is a corpus only when all of it is there.

    Args:
        src: folder or URL of the corpus.
        dest: folder of the copy; it must hold nothing, or what the same call left there.
        split: only this split.
        where: only patches for which this holds, such as `"cloud < 10 and split == 'train'"`; see
            `deepsentinel.corpus.where.where_mask`.
        bbox: only patches whose centre lies in (west, south, east, north), in degrees.
        dates: only patches that one of the sensors observed in `"FIRST/LAST"`, both included (UTC).
        sensors: only these sensors; masks, cloud and dem always come along.
        max_patches: only so many, the first ones of the index.
        requester_pays: who pays where the bucket asks that of its readers: on Google the project's
            id, on S3 `True`.
        storage_options: arguments of the storage client, such as credentials.
        confirm: called with the plan before anything but the index moves; false stops.
        progress: called with (bytes there, bytes in all) after every piece.

    Raises:
        CorpusNotFoundError, CorruptCorpusError: `src` is no corpus or no patch of it is sound.
        SelectionError, SplitError, UnknownNameError: what is asked for cannot be chosen, or is not
            there.
        CorpusExistsError: `dest` holds something else.
        TransferDeclinedError: `confirm` said no.
        StoreError: no access, no space, or a network that stays away; the same call continues.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from deepsentinel.corpus.patch import PatchPixels, PatchRecord
        >>> from deepsentinel.corpus.write import CorpusWriter
        >>> info = CorpusInfo(
        ...     name="tiny", sensors=("s1",), bands={"s1": ("VV",)}, patch_size=16, resolution_m=10
        ... )
        >>> folder = Path(tempfile.mkdtemp())
        >>> with CorpusWriter(folder / "tiny", info) as writer:
        ...     for name, cloud in (("a", 5.0), ("b", 50.0)):
        ...         pixels = PatchPixels(s1=np.zeros((1, 16, 16), np.int16))
        ...         writer.add(PatchRecord(id=name, cloud_percent=cloud), pixels)
        >>> report = download(folder / "tiny", folder / "clear", where="cloud < 10")
        >>> report.patches, report.skipped, report.ok
        (1, 1, True)
    """
    selection = Selection(
        split=split,
        where=where,
        bbox=bbox,
        dates=dates,
        sensors=None if sensors is None else tuple(sensors),
        max_patches=max_patches,
    )
    root = local_folder(dest)
    store = open_store(named(src), requester_pays=requester_pays, storage_options=storage_options)
    info = load_info(store)
    done = _done_before(root, store, selection)
    if done is not None:
        return done
    with _explained(root):
        run = _Download(store, root, info, selection, progress)
        try:
            return run.run(confirm, billed=bool(requester_pays))
        finally:
            run.work.leave()


def complete(
    root: str | Path,
    src: str | Path | None = None,
    *,
    requester_pays: str | bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> TransferReport:
    """See to it that a copy is all there: continue it, begin it, or find it complete.

    What is complete is taken as it is, without a look at where it came from.

    Args:
        root: folder of the copy. If it was begun or made from `src`, then with the choice of
            patches that was made then; else all of `src` is copied.
        src: where from; `None` for where it was begun from.
        requester_pays: as for `download`.
        storage_options: as for `download`.

    Raises:
        StoreError: nothing says where from.
        CorpusExistsError and others: as for `download`.
    """
    folder = local_folder(root)
    records = (folder / WORK / "request.json", folder / RECORD_PATH)
    record = next((json.loads(p.read_bytes()) for p in records if p.exists()), None)
    if src is None and record is None:
        raise StoreError(
            f"{folder} does not say where it is a copy from: give the URL or folder, as in "
            "download='gs://bucket/corpus'."
        )
    origin: str | Path = record["source"] if src is None and record else src or ""
    access: dict[str, Any] = {"requester_pays": requester_pays, "storage_options": storage_options}
    same = record is not None and record["source"] == open_store(named(origin), **access).url
    if same and record is not None and "index" in record and (folder / INDEX_PATH).exists():
        return _report_before(record, folder)  # without asking anybody
    return download(origin, folder, **(record["selection"] if record and same else {}), **access)


class _Download:
    """One run, from the index to the report."""

    def __init__(
        self,
        store: Store,
        root: Path,
        info: CorpusInfo,
        selection: Selection,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.store = store
        self.root = root
        self._began = time.monotonic()
        self._request = _request(store, selection)
        self.work = Workplace(root, self._request)
        try:
            self._source_table = self._index(info)
            self.plan: CopyPlan = plan_copy(self._source_table, info, selection)
        except BaseException:
            self.discard()
            raise
        self._ids: list[str] = self.plan.table["id"].to_pylist()
        self._progress = progress
        self._sealed = self.work.sealed()
        self._there = self._fetched = self._requests = 0

    def discard(self) -> None:
        """Leave no trace of a request that came to nothing, unless there is something to keep."""
        if not self.work.begun():
            self.work.clear()
            with suppress(OSError):  # somebody else's files
                self.root.rmdir()
        self.work.leave()

    def _index(self, info: CorpusInfo) -> pa.Table:
        """The source's index, from what a predecessor kept of it where it did."""
        path = self.work.index_path
        if path.exists():
            if path.stat().st_size != self.store.size(INDEX_PATH):
                raise _changed(self.root, self.store)
            return load_table_of(path.read_bytes(), info, self.store)
        data, table = read_whole_index(self.store, info)
        write_atomic(path, data)
        return table

    def run(
        self, confirm: Callable[[TransferPlan], bool] | None, *, billed: bool
    ) -> TransferReport:
        """Ask, fetch, publish, report."""
        plan = self._announce(billed=billed)
        self._there = already = plan.there
        if confirm is not None and not confirm(plan):
            self.discard()
            raise TransferDeclinedError(f"not begun: {plan}.")
        self._check_space(plan)
        shards = list(self.plan.shards())
        self._tell()
        retried = 0
        damages: dict[int, Damage] = {}
        missing = [f for shard, files in shards if shard not in self._sealed for f in files]
        with closing(self._fetching(missing)) as arriving:
            for shard, files in shards:
                entry = self._sealed.get(shard)
                if entry is None:
                    for _ in files:
                        next(arriving)
                    entry = self._seal(files)
                else:
                    self.work.publish(files)
                retried += entry["retried"]
                damages |= {int(k): Damage(*v) for k, v in entry["wrong"].items()}
        report = TransferReport(
            source=self.store.url,
            dest=str(self.root),
            patches=len(self._ids) - len(damages),
            skipped=self.plan.total - len(self._ids),
            fetched=self._fetched,
            already=already,
            requests=self._requests,
            retried=retried,
            repeated=self.store.repeated,
            wrong=tuple(damages.values()),
            seconds=time.monotonic() - self._began,
        )
        self._publish(report, set(damages))
        return report

    def _announce(self, *, billed: bool) -> TransferPlan:
        there = requests = 0
        for shard, files in self.plan.shards():
            for file in files:
                have = file.size if shard in self._sealed else self.work.have(file)
                there += have
                requests += sum(1 for _ in file.pieces(have))
        return TransferPlan(
            source=self.store.url,
            dest=str(self.root),
            name=self.plan.info.name,
            patches=len(self.plan.table),
            total=self.plan.total,
            size=self.plan.size,
            there=there,
            requests=requests,
            billed=billed,
        )

    def _check_space(self, plan: TransferPlan) -> None:
        needed = plan.left + sum(file_bytes(f) - f.size for f in self.plan.files)
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise StoreError(
                f"{self.root} has {bytes_words(free)} free, the copy needs {bytes_words(needed)} "
                "more. Make room or choose less; the same command continues."
            )

    # ---------------------------------------------------------------- bytes

    def _fetching(self, files: list[ShardFile]) -> Generator[ShardFile]:
        """Each file in turn, when all its bytes are here; those behind it are on their way."""
        asked = ((file, piece) for file in files for piece in self._missing(file))
        current = iter(files)
        waiting = next(current, None)
        with fetched(self.store, asked) as arrivals:
            for file, piece, answer in arrivals:
                while waiting is not None and waiting is not file:
                    yield waiting
                    waiting = next(current)
                self._requests += 1
                self._append(file, piece, answer)
        while waiting is not None:
            yield waiting
            waiting = next(current, None)

    def _missing(self, file: ShardFile) -> Iterator[Piece]:
        return file.pieces(self.work.have(file))

    def _append(self, file: ShardFile, piece: Piece, answer: bytes | StoreError) -> None:
        """Bytes that cannot be read become zeros, which no checksum fits: see `_heal`."""
        data = bytes(piece.size) if isinstance(answer, StoreError) else answer
        with opened(self.work.part(file)) as number:
            write_at(number, data, self.work.have(file))
        self._there += piece.size
        self._fetched += 0 if isinstance(answer, StoreError) else piece.size
        self._tell()

    def _seal(self, files: list[ShardFile]) -> dict[str, Any]:
        retried: set[int] = set()
        wrong: dict[int, Damage] = {}
        for file in files:
            for at, place, reason in list(damaged_places(self.work.part(file), file)):
                still = self._heal(file, at, place, reason)
                if still is None:
                    retried.add(place.number)
                else:
                    name = self._ids[place.number]
                    wrong.setdefault(place.number, Damage(name, place.path, still))
        entry = {
            "retried": len(retried - set(wrong)),
            "wrong": {str(k): v for k, v in wrong.items()},
        }
        self.work.seal(files, entry, set(wrong))
        return entry

    def _heal(self, file: ShardFile, at: int, place: Place, reason: str) -> str | None:
        """Fetch a damaged patch again; what is still wrong with it, or `None`."""
        for _ in range(_TRIES - 1):
            self._requests += 1
            answer = read_piece(self.store, Piece(place.path, place.start, place.size))
            if isinstance(answer, StoreError):
                return str(answer)
            self._fetched += place.size
            found = damage_of(file.spec, answer)
            if found is None:
                with opened(self.work.part(file)) as number:
                    write_at(number, answer, at)
                return None
            reason = found
        return reason

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._there, self.plan.size)

    # ---------------------------------------------------------------- publishing

    def _publish(self, report: TransferReport, without: set[int]) -> None:
        table, info = self.plan.index(without)
        if not len(table):
            raise CorruptCorpusError(
                f"not one of the {len(self._ids)} patches asked for is sound in {self.store.url}: "
                f"{report.wrong[0].id}: {report.wrong[0].reason}"
            )
        for path, data in metadata_files(table, info):
            write_atomic(self.root / path, data)
        kept = self.work.index_path.read_bytes()
        record = {**report.to_json(), **self._request, "index": fingerprint(kept)}
        write_atomic(self.root / RECORD_PATH, dump_json(record))
        write_atomic(self.root / INFO_PATH, dump_json(info.to_json()))
        if table.equals(self._source_table):
            write_atomic(self.root / INDEX_PATH, kept)
        else:
            with replacing(self.root / INDEX_PATH) as partial:
                write_index(table, str(partial))
        self.work.clear()


@contextmanager
def fetched(
    store: Store, asked: Iterable[tuple[ShardFile, Piece]]
) -> Iterator[Iterator[tuple[ShardFile, Piece, bytes | StoreError]]]:
    """Pieces in the order asked, some requests ahead of whoever takes them.

    What a store says of bytes that it does not have comes in their place; errors that concern
    every piece (no access, no network) are raised.
    """
    pool = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="deepsentinel-fetch")
    ahead: deque[tuple[ShardFile, Piece, Future[bytes | StoreError]]] = deque()

    def arrivals() -> Iterator[tuple[ShardFile, Piece, bytes | StoreError]]:
        for file, piece in asked:
            ahead.append((file, piece, pool.submit(read_piece, store, piece)))
            if len(ahead) > REQUESTS_AT_ONCE:
                yield _taken(ahead)
        while ahead:
            yield _taken(ahead)

    try:
        yield arrivals()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _taken(
    ahead: deque[tuple[ShardFile, Piece, Future[bytes | StoreError]]],
) -> tuple[ShardFile, Piece, bytes | StoreError]:
    file, piece, answer = ahead.popleft()
    return file, piece, answer.result()


def read_piece(store: Store, piece: Piece) -> bytes | StoreError:
    """Bytes of a piece, or what the store says of them.

    Raises:
        NotAuthorisedError, TransientError: nothing else would come either.
    """
    try:
        return store.read_range(piece.path, piece.start, piece.size)
    except (NotAuthorisedError, TransientError):
        raise
    except StoreError as error:
        return error


def metadata_files(table: pa.Table, info: CorpusInfo) -> Iterator[tuple[str, bytes]]:
    """Files of the Zarr group that hold no pixels."""
    rows = int(table["row"].to_numpy().max()) + 1
    for spec in corpus_arrays(info).values():
        if spec.channels is not None:
            yield f"{DATA_PATH}/{spec.channel_axis}/c/0", names_chunk(spec.channels)
    for name, metadata in all_metadata(info, rows).items():
        yield f"{DATA_PATH}/{name}/zarr.json", dump_json(metadata)
    yield f"{DATA_PATH}/zarr.json", dump_json(group_metadata(info, rows))


def read_whole_index(store: Store, info: CorpusInfo) -> tuple[bytes, pa.Table]:
    """Bytes of an index and what they hold; damaged on the way, they are asked for once more.

    Raises:
        CorruptCorpusError: they are no index of such a corpus.
    """
    data = store.read(INDEX_PATH)
    try:
        return data, load_table_of(data, info, store)
    except CorruptCorpusError:
        data = store.read(INDEX_PATH)
        return data, load_table_of(data, info, store)


def load_table_of(data: bytes, info: CorpusInfo, store: Store) -> pa.Table:
    """The index that these bytes of a store hold.

    Raises:
        CorruptCorpusError: they are no index of such a corpus.
    """
    try:
        return same_schema(read_columns(pa.BufferReader(data)), info)
    except (pa.ArrowException, KeyError, OSError) as error:
        raise CorruptCorpusError(
            f"the index {store.url}/{INDEX_PATH} cannot be read: {error}. Restore the file from "
            "where the corpus came from."
        ) from error


def fingerprint(data: bytes) -> str:
    """Length and checksum of a file, as one word."""
    return f"{len(data)}-{crc32c(data).hex()}"


def local_folder(dest: str | Path) -> Path:
    """The folder that a destination names.

    Raises:
        StoreError: it is not on this machine.
        CorpusExistsError: it is a file.
    """
    store = open_store(dest)
    if not isinstance(store, LocalStore):
        raise StoreError(
            f"cannot download to {store.url}: the copy is made in a folder of this machine. "
            "upload(SRC, DEST) (deepsentinel upload) publishes a corpus to a bucket."
        )
    path = store.root
    if path.exists() and not path.is_dir():
        raise CorpusExistsError(f"{path} is a file; a corpus is a folder. Choose another path.")
    return path


def _request(store: Store, selection: Selection) -> dict[str, Any]:
    asked: dict[str, Any] = json.loads(dump_json({"selection": selection.to_json()}))
    return {"source": store.url, **asked}


def _done_before(root: Path, store: Store, selection: Selection) -> TransferReport | None:
    """The report of the same request, where it was answered before."""
    if (root / WORK / "request.json").exists():
        return None
    there = [name for name in (INFO_PATH, INDEX_PATH, DATA_PATH) if (root / name).exists()]
    if not there:
        return None
    path = root / RECORD_PATH
    record = json.loads(path.read_bytes()) if path.exists() else {}
    request = _request(store, selection)
    if {k: record.get(k) for k in request} != request or len(there) < 3:
        found = f"{record['source']} with {record['selection']}" if record else "another corpus"
        raise CorpusExistsError(
            f"{root} already holds {found}, not {store.url} with {request['selection']}. Choose "
            "another folder, or delete this one."
        )
    if int(record["index"].split("-")[0]) != store.size(INDEX_PATH):
        raise _changed(root, store)
    return _report_before(record, root)


def _report_before(record: Mapping[str, Any], root: Path) -> TransferReport:
    """What a finished run reported, for one that finds its work done."""
    names = [f.name for f in fields(TransferReport)]
    facts = {name: record[name] for name in names if name in record}
    wrong = tuple(Damage(**d) for d in record["wrong"])
    before = replace(TransferReport(**facts), dest=str(root), wrong=wrong)
    moved = before.already + before.fetched
    return replace(before, fetched=0, already=moved, requests=0, retried=0, repeated=0, seconds=0.0)


def _changed(root: Path, store: Store) -> CorpusExistsError:
    return CorpusExistsError(
        f"the corpus {store.url} has changed since the copy in {root} was begun. Choose another "
        "folder, or delete this one."
    )


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    """Faults of the local disk as errors of ours."""
    try:
        yield
    except DeepSentinelError:
        raise
    except OSError as error:
        raise StoreError(
            f"cannot write to {root}: {error.strerror or error}. What arrived is kept; remove the "
            "cause and give the same command again: it continues there."
        ) from error
