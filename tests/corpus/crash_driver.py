"""Writes a corpus while the ground gives way; run by test_write.py in a process of its own.

Every system call of the writer that changes the disk is counted. For each of them in turn, and for
each way of failing, a fresh corpus is written up to that call, in a forked process that is killed
there or in this one with an error; then what is left is opened, and a second writer continues.
Shards hold two patches here, so that a few patches reach every corner.
"""

import errno
import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepsentinel.corpus.format

if __name__ == "__main__":
    deepsentinel.corpus.format.PATCHES_PER_SHARD = 2

import numpy as np

from deepsentinel.corpus.format import CorpusInfo, LabelSpec
from deepsentinel.corpus.patch import PatchPixels, PatchRecord
from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.verify import verify
from deepsentinel.corpus.write import CorpusWriter

INFO = CorpusInfo(
    name="crash",
    sensors=("s1", "s2"),
    bands={"s1": ("VV",), "s2": ("B02", "B03")},
    labels=(LabelSpec("kind", "label"),),
    patch_size=8,
    resolution_m=10,
    extras=("dem",),
)
CALLS = ("pwrite", "ftruncate", "replace", "unlink", "fsync", "rmdir")
REAL = {name: getattr(os, name) for name in CALLS}
PATCHES = 3
APPENDED_TO = 1  # patches of a finished corpus to which the others are appended


def patch(k: int) -> tuple[PatchRecord, PatchPixels]:
    rng = np.random.default_rng(k)
    pixels = PatchPixels(
        s1=rng.integers(-3000, 0, (1, 8, 8)).astype(np.int16) if k % 4 else None,
        s2=rng.integers(0, 9000, (2, 8, 8)).astype(np.uint16),
        rasters={"dem": rng.normal(size=(8, 8)).astype(np.float32)},
    )
    return PatchRecord(id=f"p{k}", lon=0.1 * k, lat=50.0, split="train", labels={"kind": k}), pixels


def write(root: Path, count: int = PATCHES) -> frozenset[str]:
    """Write what is missing; the ids that were there."""
    with CorpusWriter(root, INFO) as writer:
        there = writer.done
        for k in range(count):
            if f"p{k}" not in writer.done:
                writer.add(*patch(k))
    return there


class Trap:
    """Counts the calls, and springs at one of them."""

    def __init__(self, spring_at: int, spring: Callable[[str, Any], None]) -> None:
        self.count = 0
        self.spring_at = spring_at
        self.spring = spring

    def call(self, name: str) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.spring_at:
                self.spring(name, args)
            if name == "fsync":  # slow, and of no effect while the machine stands
                return None
            return REAL[name](*args, **options)

        return wrapped

    def __enter__(self) -> "Trap":
        for name in CALLS:
            setattr(os, name, self.call(name))
        return self

    def __exit__(self, *_: object) -> None:
        for name in CALLS:
            setattr(os, name, REAL[name])


def tear(name: str, args: Any) -> None:
    """Half of a write reaches the disk, then the process dies."""
    if name == "pwrite":
        file, data, start = args
        REAL[name](file, bytes(data)[: len(data) // 2], start)
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk(name: str, args: Any) -> None:
    if name == "pwrite":
        file, data, start = args
        REAL[name](file, bytes(data)[: len(data) // 2], start)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupt(name: str, args: Any) -> None:
    raise KeyboardInterrupt


def crash(root: Path, spring_at: int, spring: Callable[[str, Any], None]) -> None:
    if spring is tear:
        child = os.fork()
        if child == 0:
            with Trap(spring_at, spring):
                write(root)
            os._exit(0)
        os.waitpid(child, 0)
        return
    try:
        with Trap(spring_at, spring):
            write(root)
    except (OSError, KeyboardInterrupt) as error:
        if isinstance(error, OSError) and "run the same again" not in str(error):
            raise


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def check_what_is_left(root: Path) -> set[str]:
    """It opens (if it was a corpus at all), every patch in it is right, and no shard is broken."""
    if not (root / "corpus.json").exists():
        return set()
    corpus = Corpus(root, checksum=True)
    assert corpus.info.count == len(corpus)
    for i in range(len(corpus)):
        k = int(corpus.record(i).id[1:])
        assert np.array_equal(corpus.read(i).s2, patch(k)[1].s2), k
    report = verify(root)
    assert report.ok, report
    assert report.patches == len(corpus)
    assert corpus.info.splits == ({"train": len(corpus)} if len(corpus) else {})
    return set(corpus.index["id"].to_pylist())


def survive(folder: Path, start: Path | None) -> int:
    """Try every crash of a writer that begins at nothing, or appends to a finished corpus."""

    def begin(root: Path) -> None:
        if start is not None:
            shutil.copytree(start, root)

    begin(folder / "undisturbed")
    with Trap(0, tear) as trap:
        write(folder / "undisturbed")
    wanted = digests(folder / "undisturbed")
    assert len(Corpus(folder / "undisturbed")) == PATCHES
    for spring_at in range(1, trap.count + 1):
        root, spring = folder / "crashed", (tear, fill_disk, tear, interrupt)[spring_at % 4]
        begin(root)
        crash(root, spring_at, spring)
        left = check_what_is_left(root)
        if spring_at % 5 == 0:  # the successor may die as well
            crash(root, spring_at // 2 + 1, spring)
            left = check_what_is_left(root)
        with Trap(0, tear):
            assert write(root) == left  # what the successor counts as completed, readers had seen
        assert digests(root) == wanted, (spring.__name__, spring_at)
        shutil.rmtree(root)
    return trap.count


def main(folder: Path) -> None:
    finished = folder / "finished"
    write(finished, APPENDED_TO)
    calls = survive(folder / "new", None)
    calls += survive(folder / "append", finished)
    sys.stdout.write(f"survived a crash at each of {calls} calls\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
