"""What a corpus asks of the place that it lies in."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

Span = tuple[str, int, int]
"""Path, first byte and number of bytes."""


@runtime_checkable
class Store(Protocol):
    """Files below one root, addressed by relative paths with `/`.

    A store is a small value: it pickles, it holds no open handle that a fork would share in a
    harmful way, and every read returns exactly as many bytes as were asked for or raises
    `StoreError`: `StoreNotFoundError` where nothing is there, `NotAuthorisedError` and
    `RequesterPaysError` where a server refuses, `TransientError` where retries did not help.
    """

    @property
    def url(self) -> str:
        """The root, for messages; free of secrets."""

    @property
    def repeated(self) -> int:
        """Requests that failed for a while and were made again, by this process so far."""

    def read_range(self, path: str, start: int, size: int) -> bytes:
        """`size` bytes of a file from `start`."""

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several (start, size) ranges of one file, in the order asked, fetched together."""

    def read_spans(self, spans: Sequence[Span], *, fresh: bool = False) -> list[bytes]:
        """Ranges of any files, in the order asked, fetched together.

        Args:
            spans: path, start and size of each.
            fresh: read from the origin whatever a cache holds.
        """

    def read(self, path: str) -> bytes:
        """A whole file."""

    def size(self, path: str) -> int:
        """Bytes in a file as it is now, which ranges read afterwards come from."""

    def version(self, path: str) -> str:
        """A text that changes when the file is replaced, as far as its server tells."""

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""

    def list(self, prefix: str = "") -> list[str]:
        """Names directly below a folder, sorted; folders end with `/`."""

    def write(self, path: str, data: bytes) -> None:
        """Write a whole file: afterwards there is the new one or, on an error, what was there."""
