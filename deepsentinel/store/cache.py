"""Ranges that were read, kept in a folder on this machine for any number of processes."""

import fcntl
import hashlib
import itertools
import os
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import google_crc32c

from deepsentinel.errors import CacheWarning, StoreError
from deepsentinel.store.protocol import Span, Store

SLACK = 16
"""A process looks at the size of the folder after each 1/16 of the limit that it added."""
_CRC_BYTES = 4
_STALE_S = 3600.0
"""Age after which a file that was not finished belongs to a process that is gone."""


class RangeCache:
    """Byte strings by key, in files of their own, each with a checksum.

    Processes share a folder without talking: files appear whole or not at all, one that is damaged
    counts as absent and is removed, and whoever finds the folder too large removes what was not
    used for longest. A disk that takes no more is a `CacheWarning`, once, and nothing is kept.

    Args:
        folder: it is made if need be.
        limit: bytes that it may hold. Several processes can exceed it for a moment, by a
            sixteenth each.

    Raises:
        StoreError: the folder cannot be made or is not writable.

    Example:
        >>> import tempfile
        >>> cache = RangeCache(tempfile.mkdtemp(), limit=1000)
        >>> cache.put("a", b"0123")
        >>> cache.get("a", 4), cache.get("b", 4)
        (b'0123', None)
    """

    def __init__(self, folder: str | Path, limit: int) -> None:
        if limit <= 0:
            raise StoreError(f"cache_bytes={limit}: a cache needs room for at least one byte.")
        self.folder = Path(folder).expanduser().absolute()
        self.limit = limit
        self._added = limit  # so that the first addition looks at what others left
        self._broken = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make cache_dir={str(folder)!r}: {error.strerror}.") from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise StoreError(f"cache_dir={str(folder)!r} is not writable.")

    def __repr__(self) -> str:
        return f"RangeCache({str(self.folder)!r}, limit={self.limit})"

    def get(self, key: str, size: int) -> bytes | None:
        """The bytes kept under a key, if they are there, as many as expected, and sound."""
        path = self._path(key)
        try:
            kept = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._give_up(error)
            return None
        data = kept[_CRC_BYTES:]
        if len(data) != size or kept[:_CRC_BYTES] != _checksum(key, data):
            path.unlink(missing_ok=True)
            return None
        self._touch(path)
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep bytes under a key, in place of what was there; not while another makes room."""
        size = len(data) + _CRC_BYTES
        if self._broken or size > self.limit:
            return
        try:
            if self._make_room(size):
                self._write(self._path(key), _checksum(key, data) + data)
        except OSError as error:
            self._give_up(error)

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        name = f".{os.getpid()}-{threading.get_ident()}-{next(_numbers)}"
        partial = path.with_name(name)
        try:
            partial.write_bytes(content)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _touch(self, path: Path) -> None:
        """Note that a file was used; another process may have removed it since."""
        try:
            os.utime(path)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                self._give_up(error)

    def _make_room(self, size: int) -> bool:
        """Whether there is room; where another process is at work on it, that may be stopped."""
        if self._added + size <= self.limit // SLACK:
            self._added += size
            return True
        with _only_one(self.folder / ".lock") as alone:
            if alone:
                _shrink(self.folder, self.limit - self.limit // SLACK - size)
                self._added = size
            return alone

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / name[2:]

    def _give_up(self, error: OSError) -> None:
        if not self._broken:
            self._broken = True
            warnings.warn(
                f"cache_dir={str(self.folder)!r} cannot be used: {error.strerror or error}. Bytes "
                "are read from where the corpus lies and not kept. Make room there or choose another "
                "folder.",
                CacheWarning,
                stacklevel=2,
            )


_numbers = itertools.count()


def _checksum(key: str, data: bytes) -> bytes:
    """Of key and data, so that a file under another's name is not taken for it."""
    value = google_crc32c.extend(google_crc32c.value(key.encode()), data)
    return int(value).to_bytes(_CRC_BYTES, "little")


@contextmanager
def _only_one(lock: Path) -> Iterator[bool]:
    """Whether this process is the only one in the block; it does not wait for others."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(handle)


def _shrink(folder: Path, limit: int) -> None:
    """Remove what was unfinished and left, and what was not used for longest, down to a limit."""
    now = time.time()
    files: list[tuple[float, int, str]] = []
    for entry in _entries(folder):
        try:
            found = entry.stat()
        except FileNotFoundError:
            continue
        if entry.name.startswith("."):
            if now - found.st_mtime > _STALE_S:
                Path(entry.path).unlink(missing_ok=True)
            continue
        files.append((found.st_mtime, found.st_size, entry.path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            return
        Path(path).unlink(missing_ok=True)
        total -= size


def _entries(folder: Path) -> Iterator["os.DirEntry[str]"]:
    for group in os.scandir(folder):
        if group.is_dir():
            yield from os.scandir(group.path)


class CachedStore:
    """A store whose ranges are kept in a `RangeCache`.

    What is kept belongs to a version of a file: the version is asked for once a file, or once for
    all files with `under`. Whole files, listings and facts are never kept.

    Args:
        base: where bytes come from.
        cache: where they are kept.
        identity: tells apart places of the same URL, such as those of two accounts.
    """

    def __init__(
        self, base: Store, cache: RangeCache, *, identity: str = "", generation: str | None = None
    ) -> None:
        self._base = base
        self._cache = cache
        self._identity = identity
        self._generation = generation
        self._versions: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"CachedStore({self._base!r}, {self._cache!r})"

    @property
    def url(self) -> str:
        """The root of the store behind it."""
        return self._base.url

    @property
    def repeated(self) -> int:
        """Requests that were made again."""
        return self._base.repeated

    def under(self, generation: str) -> "CachedStore":
        """The same, with every file at one version: it must change when any file is replaced."""
        return CachedStore(self._base, self._cache, identity=self._identity, generation=generation)

    def read_range(self, path: str, start: int, size: int) -> bytes:
        """`size` bytes of a file from `start`."""
        return self.read_spans([(path, start, size)])[0]

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several (start, size) ranges of one file, in the order asked, fetched together."""
        return self.read_spans([(path, start, size) for start, size in ranges])

    def read_spans(self, spans: Sequence[Span], *, fresh: bool = False) -> list[bytes]:
        """Ranges of any files, in the order asked: those that are kept, the others fetched together."""
        keys = [self._key(span) for span in spans]
        sizes = [size for _, _, size in spans]
        found = [
            None if fresh else self._cache.get(key, size)
            for key, size in zip(keys, sizes, strict=True)
        ]
        absent = [k for k, data in enumerate(found) if data is None]
        for k, data in zip(absent, self._base.read_spans([spans[k] for k in absent]), strict=True):
            self._cache.put(keys[k], data)
            found[k] = data
        return [data for data in found if data is not None]

    def read(self, path: str) -> bytes:
        """A whole file."""
        return self._base.read(path)

    def size(self, path: str) -> int:
        """Bytes in a file as it is now, which ranges read afterwards come from."""
        self._versions.pop(path, None)
        return self._base.size(path)

    def version(self, path: str) -> str:
        """A text that changes when the file is replaced."""
        return self._base.version(path)

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        return self._base.exists(path)

    def list(self, prefix: str = "") -> list[str]:
        """Names directly below a folder, sorted; folders end with `/`."""
        return self._base.list(prefix)

    def write(self, path: str, data: bytes) -> None:
        """Write a whole file."""
        self._versions.pop(path, None)
        self._base.write(path, data)

    def _key(self, span: Span) -> str:
        path, start, size = span
        version = self._generation
        if version is None:
            version = self._versions.get(path)
        if version is None:
            version = self._versions[path] = self._base.version(path)
        return "\n".join((self.url, self._identity, version, path, f"{start} {size}"))
