"""The journal of completed patches that a writer leaves behind for its successor."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepsentinel.errors import StoreError


class Journal:
    """JSON lines, each of which says that one patch is complete.

    A line that a crash cut short does not count, and is overwritten by the next.

    Args:
        path: the file; made when the first line is appended.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "journal.jsonl"
        >>> journal = Journal(path)
        >>> journal.append({"row": 0})
        >>> journal.close()
        >>> Journal(path).entries
        [{'row': 0}]
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self.entries, self._end = _complete_lines(path)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add one line; on an error the journal is as before."""
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        if self._file is None:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.ftruncate(self._file, self._end)
        try:
            write_at(self._file, line, self._end)
        except BaseException:
            os.ftruncate(self._file, self._end)
            raise
        self._end += len(line)

    def clear(self) -> None:
        """Forget all lines: what they say is in the index now."""
        self.close()
        self._path.unlink(missing_ok=True)
        self.entries, self._end = [], 0

    def keep(self, count: int) -> None:
        """Forget all lines of `entries` but the first ones."""
        self.entries = self.entries[:count]
        text = self._path.read_bytes() if count else b""
        self._end = sum(len(line) for line in text.splitlines(keepends=True)[:count])

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def write_at(file: int, data: bytes, start: int) -> None:
    """Write all of the bytes at a place in a file."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, start)
        if written == 0:
            raise StoreError("the file system accepts no more bytes")
        view = view[written:]
        start += written


def _complete_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    entries: list[dict[str, Any]] = []
    end = 0
    if not path.exists():
        return entries, end
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            entries.append(json.loads(line))
        except ValueError:  # a power cut can leave blocks of zeros
            break
        end += len(line)
    return entries, end
