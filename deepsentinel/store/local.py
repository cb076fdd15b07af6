"""A folder on this machine as a store, and the small rules of writing files that last."""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepsentinel.errors import NotAuthorisedError, StoreError, StoreNotFoundError
from deepsentinel.store.protocol import Span

OPEN_FILES = 64
"""Files that one store keeps open for reading in one process."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write instead of `path`; it takes its place when the block ends without an error.

    A crash leaves the old file or the new one, never a part.
    """
    make_folder(path.parent)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        sync_path(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_path(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file so that a crash leaves the old one or the new one."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def make_folder(path: Path) -> None:
    """Make a folder and those above it so that they survive a power cut."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_path(folder.parent)


def sync_path(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, survive a power cut (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class LocalStore:
    """Files below a folder.

    Files are opened when first read and kept open, the most recent ones. The handles stay behind
    when the store is pickled; a forked process may go on using them, because reads carry their own
    position.

    Args:
        root: the folder; it need not exist yet.

    Example:
        >>> import tempfile
        >>> store = LocalStore(tempfile.mkdtemp())
        >>> store.write("a/b.bin", b"0123456789")
        >>> store.read_range("a/b.bin", 2, 3), store.list("a")
        (b'234', ['b.bin'])
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()
        self._files = _OpenFiles(self.root)

    def __repr__(self) -> str:
        return f"LocalStore({str(self.root)!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.root = state["root"]
        self._files = _OpenFiles(self.root)

    @property
    def url(self) -> str:
        """The folder."""
        return str(self.root)

    @property
    def repeated(self) -> int:
        """None ever: nothing here fails for a while."""
        return 0

    def read_range(self, path: str, start: int, size: int) -> bytes:
        """`size` bytes of a file from `start`.

        Raises:
            StoreError: there is no such file, it cannot be read, or it ends before.
        """
        try:
            file = self._files.get(path)
            data = os.pread(file.number, size, start)
            while 0 < len(data) < size:  # signals and some network file systems shorten a read
                more = os.pread(file.number, size - len(data), start + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise _failed("read", self.root / path, error) from error
        if len(data) != size:
            raise StoreError(
                f"{self.root / path} is truncated: asked for {size} bytes from {start}, "
                f"found {len(data)}; the file has {self.size(path)}."
            )
        return data

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several (start, size) ranges of one file, in the order asked."""
        return [self.read_range(path, start, size) for start, size in ranges]

    def read_spans(self, spans: Sequence[Span], *, fresh: bool = False) -> list[bytes]:
        """Ranges of any files, in the order asked; nothing is cached here, so all are fresh."""
        return [self.read_range(*span) for span in spans]

    def read(self, path: str) -> bytes:
        """A whole file."""
        try:
            return (self.root / path).read_bytes()
        except OSError as error:
            raise _failed("read", self.root / path, error) from error

    def size(self, path: str) -> int:
        """Bytes in a file as it is now, which ranges read afterwards come from.

        A file that is replaced keeps its old bytes for those who have it open: asking for the size
        opens the new one, and length and bytes then belong together.
        """
        try:
            return os.fstat(self._files.get(path, anew=True).number).st_size
        except OSError as error:
            raise _failed("find", self.root / path, error) from error

    def version(self, path: str) -> str:
        """A text that changes when the file is replaced."""
        try:
            found = (self.root / path).stat()
        except OSError as error:
            raise _failed("find", self.root / path, error) from error
        return f"{found.st_size} {found.st_mtime_ns} {found.st_ino}"

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        return (self.root / path).exists()

    def list(self, prefix: str = "") -> list[str]:
        """Names directly below a folder, sorted; folders end with `/`."""
        folder = self.root / prefix
        if not folder.is_dir():
            return []
        return sorted(f"{p.name}/" if p.is_dir() else p.name for p in folder.iterdir())

    def write(self, path: str, data: bytes) -> None:
        """Write a whole file: afterwards there is the new one or, on an error, what was there."""
        try:
            write_atomic(self.root / path, data)
        except OSError as error:
            raise _failed("write", self.root / path, error) from error


class _OpenFile:
    """A file descriptor that closes itself when nobody uses it any more."""

    def __init__(self, path: str) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


class _OpenFiles:
    """The most recently read files. A reader keeps its file alive even while it is dropped here."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: str, *, anew: bool = False) -> _OpenFile:
        if self._process != os.getpid():  # forked, perhaps while another thread held the lock
            self._begin()
        with self._lock:
            known = self._files.pop(path, None)
            file = _OpenFile(f"{self._root}/{path}") if anew or known is None else known
            self._files[path] = file
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)
            return file


def _failed(verb: str, path: Path, error: OSError) -> StoreError:
    kind = StoreError
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        kind = StoreNotFoundError
    elif isinstance(error, PermissionError):
        kind = NotAuthorisedError
    return kind(f"cannot {verb} {path}: {error.strerror or error}.")
