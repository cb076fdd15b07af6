"""A static file server that knows byte ranges, which Python's own does not."""

import html
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit


class RangeServer:
    """Serves the files below a folder: GET, HEAD, one range a request, an index page of each folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        handler = type("Handler", (_Handler,), {"folder": folder})
        self._server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return ("127.0.0.1", self._server.server_address[1])

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    folder: Path

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's word
        """Nothing on the terminal."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.folder / unquote(urlsplit(self.path).path).lstrip("/")
        if path.is_dir():
            self._send(200, {"Content-Type": "text/html"}, _index(path))
        elif path.is_file():
            self._file(path)
        else:
            self._send(404, {"Content-Type": "text/plain"}, b"not found")

    def _file(self, path: Path) -> None:
        status = path.stat()
        size = status.st_size
        headers = {
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
            "ETag": f'"{status.st_mtime_ns:x}-{size:x}"',
        }
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not found:
            self._send(200, headers, path.read_bytes())
            return
        first, last = found.groups()
        start = int(first) if first else max(0, size - int(last))
        stop = min(size, int(last) + 1) if first and last else size
        if start >= stop:
            self._send(416, headers | {"Content-Range": f"bytes */{size}"}, b"")
            return
        with path.open("rb") as file:
            body = os.pread(file.fileno(), stop - start, start)
        self._send(206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}, body)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _index(folder: Path) -> bytes:
    names = sorted(f"{p.name}/" if p.is_dir() else p.name for p in folder.iterdir())
    links = "\n".join(f'<a href="{quote(name)}">{html.escape(name)}</a>' for name in names)
    return f"<html><body>\n{links}\n</body></html>".encode()
