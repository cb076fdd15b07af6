"""A copy in the making: growing files, a journal, and what a successor needs to go on.

Every growing file holds what was fetched, in order, so its length says how far it came. A shard
counts once the journal says so; then its files move to their places, which a successor repeats.
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from deepsentinel.corpus.copying import Place, ShardFile, damage_of
from deepsentinel.corpus.format import dump_json
from deepsentinel.corpus.journal import Journal, write_at
from deepsentinel.corpus.lock import WriterLock
from deepsentinel.corpus.shard import CRC_BYTES, dump_table, empty_table, fill_table, split_patch
from deepsentinel.errors import CorpusExistsError
from deepsentinel.store.local import make_folder, sync_path, write_atomic

WORK = ".transfer"
"""Folder of a corpus that is being downloaded."""


class Workplace:
    """The folder of work of one copy; one process at a time.

    Args:
        root: the corpus to be.
        request: what was asked for; a successor must ask for the same.

    Raises:
        CorpusExistsError: another process is at work, or something else was begun here.
    """

    def __init__(self, root: Path, request: Mapping[str, Any]) -> None:
        self.root = root
        self._folder = root / WORK
        self._lock = WriterLock(self._folder / "lock")
        try:
            self._check(request)
            self._journal = Journal(self._folder / "journal.jsonl")
        except BaseException:
            self._lock.release(remove=False)
            raise

    def _check(self, request: Mapping[str, Any]) -> None:
        path = self._folder / "request.json"
        if not path.exists():
            for left in self._folder.glob("*.part"):  # of a copy that was deleted since
                left.unlink()
            write_atomic(path, dump_json(request))
            return
        begun = json.loads(path.read_bytes())
        if begun != request:
            differing = sorted(k for k in {*begun, *request} if begun.get(k) != request.get(k))
            found = "; ".join(
                f"{k}: there {begun.get(k)!r}, asked {request.get(k)!r}" for k in differing
            )
            raise CorpusExistsError(
                f"{self.root} holds the beginning of another download ({found}). Give the same "
                "command as then to finish it, choose another folder, or delete this one."
            )

    @property
    def index_path(self) -> Path:
        """The source's index as it was when the copy began."""
        return self._folder / "index.parquet"

    def begun(self) -> bool:
        """Whether any pixels are here already."""
        return bool(self._journal.entries) or any(self._folder.glob("*.part"))

    def sealed(self) -> dict[int, dict[str, Any]]:
        """Shards that are complete, with what the journal says of each."""
        return {entry["shard"]: entry for entry in self._journal.entries}

    def part(self, file: ShardFile) -> Path:
        """The growing file."""
        return self._folder / f"{file.spec.name}.{file.shard}.part"

    def have(self, file: ShardFile) -> int:
        """Bytes of it that are there."""
        path = self.part(file)
        return min(path.stat().st_size, file.size) if path.exists() else 0

    def seal(self, files: list[ShardFile], entry: Mapping[str, Any], without: set[int]) -> None:
        """Give each file of a shard its table, leave some patches out, and let the shard count."""
        for file in files:
            if without & set(file.numbers.tolist()):
                self._rewrite(file, without)
            else:
                self._finish(file)
        self._journal.append({"shard": files[0].shard, **entry})
        self.publish(files)

    def _finish(self, file: ShardFile) -> None:
        table = empty_table(file.spec)
        with opened(self.part(file)) as number:
            end = 0
            for place, data in read_places(number, file):
                fill_table(table, place.slot, end, _sizes(file, data))
                end += place.size
            tail = dump_table(table)
            write_at(number, tail, end)
            os.ftruncate(number, end + len(tail))
        sync_path(self.part(file))

    def _rewrite(self, file: ShardFile, without: Collection[int]) -> None:
        """The same without some patches, in place of the growing file."""
        table = empty_table(file.spec)
        kept = self.part(file).with_suffix(".kept")
        with opened(self.part(file)) as number, kept.open("wb") as out:
            for place, data in read_places(number, file):
                if place.number not in without:
                    fill_table(table, place.slot, out.tell(), _sizes(file, data))
                    out.write(data)
            if out.tell():
                out.write(dump_table(table))
        sync_path(kept)
        kept.replace(self.part(file))

    def publish(self, files: list[ShardFile]) -> None:
        """Move the files of a shard that counts to their places; harmless when repeated."""
        for file in files:
            part, final = self.part(file), self.root / file.path
            if not part.exists():
                continue
            if not part.stat().st_size:  # a shard of which nothing was sound is no file
                part.unlink()
                continue
            make_folder(final.parent)
            part.replace(final)
            sync_path(final.parent)

    def leave(self) -> None:
        """Let go, for a successor."""
        self._journal.close()
        self._lock.release(remove=False)

    def clear(self) -> None:
        """Everything is in its place: remove the folder."""
        self._journal.clear()
        for path in self._folder.iterdir():
            if path.name != "lock":
                path.unlink()
        self._lock.release(remove=True)
        with suppress(OSError):  # a successor may have begun at once
            self._folder.rmdir()


def read_places(number: int, file: ShardFile) -> Iterator[tuple[Place, bytes]]:
    """Bytes of each patch of a growing file, in order."""
    start = 0
    for place in file.places:
        yield place, os.pread(number, place.size, start)
        start += place.size


def damaged_places(path: Path, file: ShardFile) -> Iterator[tuple[int, Place, str]]:
    """Patches of a growing file whose checksums differ: where, which, why."""
    with opened(path) as number:
        start = 0
        for place, data in read_places(number, file):
            reason = damage_of(file.spec, data)
            if reason is not None:
                yield start, place, reason
            start += place.size


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A growing file, open for reading and writing; made where it is not there."""
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield number
    finally:
        os.close(number)


def _sizes(file: ShardFile, data: bytes) -> list[int]:
    return [size + CRC_BYTES for _, size in split_patch(file.spec, data)]
