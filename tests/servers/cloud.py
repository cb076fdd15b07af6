"""What a test holds of a running server: a place to put files, and the gate in front of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.servers.gate import Fault, Gate, Request


class Shelf(Protocol):
    """Files behind the gate, reached directly: nothing of it is seen in the log."""

    def put(self, path: str, data: bytes) -> None:
        """Store a file."""

    def get(self, path: str) -> bytes:
        """The bytes of a file."""

    def names(self, prefix: str = "") -> list[str]:
        """Every file whose path starts so, sorted."""

    def delete(self, path: str) -> None:
        """Remove a file."""


@dataclass
class Cloud:
    """A server with a bucket of this session.

    Args:
        name: gcs, azure, s3, http or hub.
        root: the URL of the bucket.
        storage_options: what a client needs to find it.
        shelf: its files, past the gate.
        gate: what clients talk to.
        payer: what a client passes as `requester_pays`, where there is such a thing.
    """

    name: str
    root: str
    storage_options: Mapping[str, Any]
    shelf: Shelf
    gate: Gate
    payer: str | bool | None = None

    def url(self, path: str = "") -> str:
        """The URL of a path."""
        return f"{self.root}/{path}" if path else self.root

    def put(self, path: str, data: bytes) -> None:
        """Store a file, past the gate."""
        self.shelf.put(path, data)

    def put_folder(self, folder: Path, path: str = "") -> str:
        """Store every file below a folder, and give the URL of where they are."""
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = file.relative_to(folder).as_posix()
            self.put(f"{path}/{name}" if path else name, file.read_bytes())
        return self.url(path)

    def get(self, path: str) -> bytes:
        """The bytes of a file, past the gate."""
        return self.shelf.get(path)

    def names(self, prefix: str = "") -> list[str]:
        """Every file whose path starts so, past the gate."""
        return self.shelf.names(prefix)

    def delete(self, path: str) -> None:
        """Remove a file, past the gate."""
        self.shelf.delete(path)

    @property
    def log(self) -> list[Request]:
        """Requests that arrived since the test began or `forget`, as a copy."""
        return list(self.gate.log)

    @property
    def gets(self) -> list[Request]:
        """Requests for the content of files: no listings, no metadata."""
        return [r for r in self.log if r.method == "GET" and self._is_content(r)]

    def _is_content(self, request: Request) -> bool:
        match self.name:
            case "gcs":
                return request.query.get("alt") == "media" or request.path.startswith("/download")
            case "azure":
                return "comp" not in request.query and "restype" not in request.query
            case "s3":
                return "list-type" not in request.query
            case "hub":
                return "/resolve/" in request.path
            case _:
                return not request.path.endswith("/")

    def forget(self) -> None:
        """Empty the log."""
        self.gate.log.clear()

    def fault(
        self,
        kind: str,
        *,
        times: int | None = 1,
        match: str = "",
        methods: tuple[str, ...] = ("GET",),
        ranges_only: bool = False,
    ) -> Fault:
        """Something goes wrong from now on, with matching requests, until the end of the test.

        Args:
            kind: a status of 401, 403, 404, 429, 500, 503; `reset`; `short` (half the body, the length
                says so), `cut` (half the body, the length does not), `flip` (one byte), or `hold` (no
                answer until the fault ends).
            times: how often; None for ever.
            match: part of the decoded path.
            methods: of which requests.
            ranges_only: only requests with a Range header.

        Returns:
            The fault; as a context manager it ends with the block.
        """
        fault = Fault(kind, times, match, methods, ranges_only)
        self.gate.faults.append(fault)
        return fault

    def require_requester_pays(self, required: bool = True) -> None:
        """Refuse requests that do not say who pays."""
        self.gate.demanding = required
