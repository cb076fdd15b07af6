"""Publishing a corpus so that its readers never see a part of it: `upload`."""

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from deepsentinel.corpus.copying import CopyPlan, ShardFile, damage_of, file_bytes, plan_copy
from deepsentinel.corpus.facts import load_info
from deepsentinel.corpus.format import DATA_PATH, INDEX_PATH, INFO_PATH, WORK_PATH, dump_json
from deepsentinel.corpus.index import same_schema
from deepsentinel.corpus.select import Selection
from deepsentinel.corpus.shard import ChunkError, load_table, table_bytes
from deepsentinel.corpus.transfer import (
    fingerprint,
    load_table_of,
    metadata_files,
)
from deepsentinel.corpus.transferred import TransferPlan, TransferReport
from deepsentinel.errors import (
    CorpusError,
    CorpusExistsError,
    CorruptCorpusError,
    StoreError,
    StoreNotFoundError,
    TransferDeclinedError,
)
from deepsentinel.store import Store, open_store

MARK_PATH: Final = "upload.json"
"""Says whose upload was begun at a place."""
FILES_AT_ONCE: Final = 4
_FACTS = ("name", "sensors", "bands", "patch_size", "labels", "extras")


def upload(
    src: str | Path,
    dest: str | Path,
    *,
    requester_pays: str | bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    confirm: Callable[[TransferPlan], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TransferReport:
    """Publish a corpus: pixels first, then metadata, the index last.

    Until the index is there readers find no corpus, or the one that was published before. Every
    checksum is compared before a shard is sent. A run that was interrupted is continued by the same
    call, which sends no shard twice; a corpus that was appended to since it was published is
    brought up to date.

    Args:
        src: folder or URL of the corpus.
        dest: URL or folder to publish it in: one that is empty, or that holds an earlier state of
            this corpus.
        requester_pays: who pays at `dest`; see `deepsentinel.download`.
        storage_options: arguments of the storage client of `dest`.
        confirm: called with the plan before anything is sent; false stops.
        progress: called with (bytes there, bytes in all) after every shard.

    Raises:
        CorpusNotFoundError, CorruptCorpusError: `src` is no corpus, or is damaged.
        CorpusError: `src` is still being written.
        CorpusExistsError: something else is at `dest`.
        TransferDeclinedError: `confirm` said no.
        StoreError: no access, or a network that stays away; the same call continues.
    """
    source = open_store(src)
    if source.exists(WORK_PATH):
        raise CorpusError(
            f"the corpus {source.url} is not finished: its writer is at work or was stopped. Let it "
            "finish, or run it again, and publish then."
        )
    target = open_store(dest, requester_pays=requester_pays, storage_options=storage_options)
    run = _Upload(source, target, progress)
    return run.run(confirm, billed=bool(requester_pays))


class _Upload:
    """One run, from the look at what is there to the report."""

    def __init__(
        self, source: Store, target: Store, progress: Callable[[int, int], None] | None
    ) -> None:
        self.source = source
        self.target = target
        self._began = time.monotonic()
        self._info = load_info(source)
        self._index = source.read(INDEX_PATH)
        self._table = load_table_of(self._index, self._info, source)
        self._plan: CopyPlan = plan_copy(self._table, self._info, Selection())
        self._progress = progress
        self._sent = self._there = self._writes = 0

    def run(
        self, confirm: Callable[[TransferPlan], bool] | None, *, billed: bool
    ) -> TransferReport:
        """Look, ask, send, publish, report."""
        same = self._check_target()
        missing = [] if same else [f for f in self._plan.files if not self._is_there(f)]
        total = sum(file_bytes(f) for f in self._plan.files)
        self._there = already = total - sum(file_bytes(f) for f in missing)
        plan = TransferPlan(
            source=self.source.url,
            dest=self.target.url,
            name=self._info.name,
            patches=len(self._table),
            total=len(self._table),
            size=total,
            there=already,
            requests=len(missing),
            billed=billed,
        )
        if confirm is not None and not confirm(plan):
            raise TransferDeclinedError(f"not begun: {plan}.")
        if not same:
            self._mark("begun")
            self._send(missing, total)
            self._publish()
            self._mark("published")
        return TransferReport(
            source=self.source.url,
            dest=self.target.url,
            patches=len(self._table),
            skipped=0,
            fetched=self._sent,
            already=already,
            requests=self._writes,
            retried=0,
            repeated=self.source.repeated + self.target.repeated,
            wrong=(),
            seconds=time.monotonic() - self._began,
            compared=_compared(published=same, there=already),
        )

    # ---------------------------------------------------------------- what is there

    def _check_target(self) -> bool:
        """Whether the very same is published already.

        Raises:
            CorpusExistsError: something else is there.
        """
        if self.target.exists(INDEX_PATH):
            published = self.target.read(INDEX_PATH)
            self._check_earlier(published)
            return published == self._index
        if self.target.exists(MARK_PATH):
            mark = json.loads(self.target.read(MARK_PATH))
            if (mark.get("name"), mark.get("index")) != (self._info.name, fingerprint(self._index)):
                raise self._exists(f"the beginning of an upload of {mark.get('name')!r}, not this")
        elif self.target.exists(INFO_PATH) or self.target.exists(f"{DATA_PATH}/zarr.json"):
            raise self._exists("a corpus, or a part of one,")
        return False

    def _check_earlier(self, published: bytes) -> None:
        """Whether what is published is an earlier state of this corpus."""
        info = load_info(self.target)
        ours, theirs = self._info.to_json(), info.to_json()
        differing = [k for k in _FACTS if ours[k] != theirs[k]]
        if differing:
            raise self._exists(f"corpus {info.name!r} (differs in {', '.join(differing)})")
        table: pa.Table = load_table_of(published, info, self.target)
        if not same_schema(self._table.slice(0, len(table)), info).equals(table):
            raise self._exists(f"a corpus {info.name!r} with other patches")

    def _exists(self, what: str) -> CorpusExistsError:
        return CorpusExistsError(
            f"{self.target.url} already holds {what} and is not overwritten. Choose another place, "
            "or delete what is there."
        )

    def _is_there(self, file: ShardFile) -> bool:
        try:
            return self.target.size(file.path) == file_bytes(file)
        except StoreNotFoundError:
            return False

    # ---------------------------------------------------------------- sending

    def _send(self, files: list[ShardFile], total: int) -> None:
        pool = ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="deepsentinel-upload")
        try:
            for sent in pool.map(self._send_file, files):
                self._sent += sent
                self._there += sent
                self._writes += 1
                if self._progress is not None:
                    self._progress(self._there, total)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _send_file(self, file: ShardFile) -> int:
        data = self.source.read(file.path)
        self._check_sound(file, data)
        self.target.write(file.path, data)
        if self.target.size(file.path) != len(data):
            raise StoreError(
                f"{self.target.url}/{file.path} has another size than what was sent. Give the same "
                "command again: it sends this shard anew."
            )
        return len(data)

    def _check_sound(self, file: ShardFile, data: bytes) -> None:
        ids = self._table["id"]
        for place in file.places:
            reason = damage_of(file.spec, data[place.start : place.start + place.size])
            if reason is not None:
                raise self._damaged(file, f"patch {ids[place.number].as_py()!r}: {reason}")
        if len(data) != file_bytes(file):
            raise self._damaged(file, f"{len(data)} bytes, should have {file_bytes(file)}")
        try:
            load_table(file.spec, data[-table_bytes(file.spec) :])
        except ChunkError as error:
            raise self._damaged(file, str(error)) from error

    def _damaged(self, file: ShardFile, reason: str) -> CorruptCorpusError:
        return CorruptCorpusError(
            f"not published: {self.source.url}/{file.path} is damaged: {reason}. "
            "`deepsentinel verify` lists everything that is wrong."
        )

    def _publish(self) -> None:
        for path, data in metadata_files(self._table, self._info):
            self._write(path, data)
        self._write(INFO_PATH, dump_json(self._info.to_json()))
        self._write(INDEX_PATH, self._index)

    def _mark(self, state: str) -> None:
        mark = {"name": self._info.name, "index": fingerprint(self._index), "state": state}
        self._write(MARK_PATH, dump_json(mark))

    def _write(self, path: str, data: bytes) -> None:
        self.target.write(path, data)
        self._writes += 1


def _compared(*, published: bool, there: int) -> str:
    """What an upload has looked at, in words."""
    if published:
        return "published before: its index is the same, no shard was looked at"
    sent = "every checksum compared before it was sent"
    return f"{sent}; what was there has the right length" if there else sent
