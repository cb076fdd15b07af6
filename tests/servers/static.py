"""A static file server that knows byte ranges, as the gate asks it."""

import html
import os
import re
from pathlib import Path
from urllib.parse import quote

from tests.servers.gate import Answer, Request


class StaticFiles:
    """Files below a folder: GET, HEAD, one range a request, an index page of each folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def answer(self, request: Request, _: bytes) -> Answer:
        """What a static server says."""
        path = self._folder / request.path.lstrip("/")
        if request.method not in {"GET", "HEAD"}:
            return Answer(405, {"Content-Type": "text/plain"}, b"read only")
        if path.is_dir():
            return Answer(200, {"Content-Type": "text/html"}, _index(path))
        if not path.is_file():
            return Answer(404, {"Content-Type": "text/plain"}, b"not found")
        stat = path.stat()
        headers = {
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
            "ETag": f'"{stat.st_mtime_ns:x}-{stat.st_size:x}-{stat.st_ino:x}"',
        }
        with path.open("rb") as file:
            return ranged(
                request.headers.get("range"),
                stat.st_size,
                lambda start, size: os.pread(file.fileno(), size, start),
                headers,
            )

    def put(self, path: str, data: bytes) -> None:
        """Store a file."""
        file = self._folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f"{file.name}.new")  # another inode: the clock of files ticks slowly
        new.write_bytes(data)
        new.replace(file)

    def get(self, path: str) -> bytes:
        """The bytes of a file."""
        return (self._folder / path).read_bytes()

    def names(self, prefix: str = "") -> list[str]:
        """Every file whose path starts so, sorted."""
        files = (p for p in self._folder.rglob("*") if p.is_file())
        paths = (file.relative_to(self._folder).as_posix() for file in files)
        return sorted(path for path in paths if path.startswith(prefix))

    def delete(self, path: str) -> None:
        """Remove a file."""
        (self._folder / path).unlink()


def ranged(wanted, size, read, headers) -> Answer:
    """The whole of a file, the part that a Range header asks for, or 416."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    if not found:
        return Answer(200, headers, read(0, size))
    first, last = found.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        return Answer(416, headers | {"Content-Range": f"bytes */{size}"}, b"")
    answer = headers | {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
    return Answer(206, answer, read(start, stop - start))


def _index(folder: Path) -> bytes:
    names = sorted(f"{p.name}/" if p.is_dir() else p.name for p in folder.iterdir())
    links = "\n".join(f'<a href="{quote(name)}">{html.escape(name)}</a>' for name in names)
    return f"<html><body>\n{links}\n</body></html>".encode()
