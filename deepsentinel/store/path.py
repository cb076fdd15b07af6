"""Files of a store, looked at the way `pathlib` looks at files: for readers of foreign layouts."""

import fnmatch
import io
from collections.abc import Iterator
from typing import Any, Self

from deepsentinel.store.protocol import Store

BLOCK = 2**16
"""Bytes that are asked for ahead, where a file is read from its beginning or its end."""


class StorePath:
    """A file or folder of a store, with the part of `pathlib.Path` that reading needs.

    Listings are remembered by a path for those below it. A bucket is taken as it is when it is
    first looked at.

    Example:
        >>> from deepsentinel.store.memory import MemoryStore
        >>> store = MemoryStore("memory://demo-path")
        >>> store.write("7/7_meta.json", b"{}")
        >>> [str(path) for path in (StorePath(store) / "7").glob("*.json")]
        ['memory://demo-path/7/7_meta.json']
    """

    def __init__(
        self, store: Store, place: str = "", *, listed: dict[str, dict[str, None]] | None = None
    ) -> None:
        self._store = store
        self._place = place.strip("/")
        self._listed = {} if listed is None else listed

    def __getstate__(self) -> dict[str, Any]:
        return {"_store": self._store, "_place": self._place, "_listed": {}}

    def __str__(self) -> str:
        return "/".join(part for part in (self._store.url, self._place) if part)

    def __repr__(self) -> str:
        return f"StorePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: "StorePath") -> bool:
        return str(self) < str(other)

    def __truediv__(self, name: str) -> Self:
        return type(self)(self._store, f"{self._place}/{name}", listed=self._listed)

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return str(self).rstrip("/").rsplit("/", 1)[-1]

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return self.name.rsplit(".", 1)[0]

    def resolve(self) -> Self:
        """The same: a URL is whole."""
        return self

    def iterdir(self) -> Iterator[Self]:
        """What lies directly in the folder."""
        for name in self._names(self._place):
            yield self / name.rstrip("/")

    def glob(self, pattern: str) -> Iterator[Self]:
        """Those whose name fits a pattern without `/`."""
        return (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))

    def is_dir(self) -> bool:
        """Whether it is a folder with something in it."""
        if not self._place:
            return bool(self._names(self._place))
        return f"{self.name}/" in self._siblings()

    def is_file(self) -> bool:
        """Whether it is a file."""
        return bool(self._place) and self.name in self._siblings()

    def exists(self) -> bool:
        """Whether there is anything."""
        return self.is_file() or self.is_dir()

    def read_bytes(self) -> bytes:
        """The whole file."""
        return self._store.read(self._place)

    def read_text(self, encoding: str = "utf-8") -> str:
        """The whole file as text."""
        return self.read_bytes().decode(encoding)

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """The file as a seekable stream, of which only what is read is fetched.

        Raises:
            ValueError: any other mode than reading bytes.
        """
        if mode != "rb":
            raise ValueError(f"{self} opens for reading bytes only, not {mode!r}")
        return io.BufferedReader(_Ranges(self._store, self._place), BLOCK)

    def _siblings(self) -> dict[str, None]:
        return self._names(self._place.rpartition("/")[0])

    def _names(self, folder: str) -> dict[str, None]:
        """Names in a folder, in order, quick to look one up in."""
        if folder not in self._listed:
            self._listed[folder] = dict.fromkeys(self._store.list(folder))
        return self._listed[folder]


class _Ranges(io.RawIOBase):
    """A file of a store, read by ranges."""

    def __init__(self, store: Store, path: str) -> None:
        super().__init__()
        self._store = store
        self._path = path
        self._length = store.size(path)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {0: 0, 1: self._at, 2: self._length}[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._length - self._at))
        if count:
            buffer[:count] = self._store.read_range(self._path, self._at, count)
            self._at += count
        return count
