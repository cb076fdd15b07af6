"""Files in the memory of this process as a store, for tests and trials."""

from collections.abc import Sequence

from fsspec.implementations.memory import MemoryFileSystem

from deepsentinel.errors import StoreError, StoreNotFoundError
from deepsentinel.store.protocol import Span


class MemoryStore:
    """Files below a `memory://` URL: those of fsspec, shared by all stores of one process.

    A forked process starts with a copy; a spawned one starts with nothing.

    Example:
        >>> MemoryStore("memory://demo").write("a/b.bin", b"0123456789")
        >>> MemoryStore("memory://demo/a").read_range("b.bin", 2, 3)
        b'234'
    """

    def __init__(self, url: str) -> None:
        self._root = MemoryFileSystem._strip_protocol(url)  # noqa: SLF001 - fsspec's own way

    def __repr__(self) -> str:
        return f"MemoryStore({self.url!r})"

    @property
    def url(self) -> str:
        """The root."""
        return f"memory:/{self._root}"

    @property
    def repeated(self) -> int:
        """None ever: nothing here fails for a while."""
        return 0

    def read_range(self, path: str, start: int, size: int) -> bytes:
        """`size` bytes of a file from `start`.

        Raises:
            StoreNotFoundError, StoreError: there is no such file; it ends before.
        """
        data = self.read(path)
        part = data[start : start + size]
        if len(part) != size:
            raise StoreError(
                f"{self._name(path)} is truncated: asked for {size} bytes from {start}, found "
                f"{len(part)}; the file has {len(data)}."
            )
        return part

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several (start, size) ranges of one file, in the order asked."""
        return [self.read_range(path, start, size) for start, size in ranges]

    def read_spans(self, spans: Sequence[Span], *, fresh: bool = False) -> list[bytes]:
        """Ranges of any files, in the order asked; nothing is cached here, so all are fresh."""
        return [self.read_range(*span) for span in spans]

    def read(self, path: str) -> bytes:
        """A whole file."""
        file = MemoryFileSystem.store.get(f"{self._root}/{path}")
        if file is None:
            raise StoreNotFoundError(f"there is nothing at {self._name(path)}. Check the URL.")
        data: bytes = file.getvalue()
        return data

    def size(self, path: str) -> int:
        """Bytes in a file."""
        return len(self.read(path))

    def version(self, path: str) -> str:
        """A text that changes when the file is replaced."""
        self.read(path)
        file = MemoryFileSystem.store[f"{self._root}/{path}"]
        return f"{len(file.getvalue())} {file.modified.isoformat()}"

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        return bool(_filesystem().exists(f"{self._root}/{path}"))

    def list(self, prefix: str = "") -> list[str]:
        """Names directly below a folder, sorted; folders end with `/`."""
        folder = f"{self._root}/{prefix}".rstrip("/") + "/"
        below = [name[len(folder) :] for name in MemoryFileSystem.store if name.startswith(folder)]
        return sorted({f"{n.partition('/')[0]}/" if "/" in n else n for n in below})

    def write(self, path: str, data: bytes) -> None:
        """Write a whole file."""
        _filesystem().pipe_file(f"{self._root}/{path}", bytes(data))

    def _name(self, path: str) -> str:
        return f"{self.url}/{path}"


def _filesystem() -> MemoryFileSystem:
    return MemoryFileSystem(skip_instance_cache=True)
