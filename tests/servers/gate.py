"""A reverse proxy that stands in front of each test server.

It demands what the emulators only store (requester pays), does to answers what networks and clouds
do on bad days, and remembers every request, so that a test can ask what was really sent.
"""

import http.client
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}
ANSWERS = ("401", "403", "404", "429", "500", "503")
"""Faults that answer with that status instead of asking the server."""
BODIES = ("short", "cut", "flip")
"""Faults that change the body: half of it with a matching length, half of it with the old length, one
wrong byte in the middle."""
FAULTS = (*ANSWERS, *BODIES, "reset", "hold")
PATIENCE_S = 600.0
"""Seconds that something which must come may take on a machine that is busy; none is ever asserted."""


@dataclass(frozen=True)
class Answer:
    """What goes back to the client."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Request:
    """One request as it arrived, and what it got."""

    method: str
    path: str
    """Decoded, without the query."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""
    target: str = ""
    """Path and query as they were sent."""
    sent: int = 0
    """Bytes of the request's body."""
    status: int = 0
    """0 where the connection was reset."""
    received: int = 0
    """Bytes of the answer's body."""
    fault: str | None = None

    @property
    def range(self) -> tuple[int, int] | None:
        """(start, size) of a range request."""
        text = self.headers.get("range") or self.headers.get("x-ms-range")
        if text is None:
            return None
        first, last = text.removeprefix("bytes=").split("-")
        return int(first), int(last) - int(first) + 1

    @property
    def payer(self) -> str | None:
        """Who is named to pay: Google's project, or Amazon's word."""
        headers = self.headers
        asked = self.query.get("userProject") or headers.get("x-goog-user-project")
        return asked or headers.get("x-amz-request-payer")


@dataclass
class Fault:
    """Something that goes wrong with matching requests."""

    kind: str
    times: int | None = 1
    """How often still; None for ever."""
    match: str = ""
    """Part of the path."""
    methods: tuple[str, ...] = ("GET",)
    ranges_only: bool = False
    held: list[Request] = field(default_factory=list)
    """Requests that `hold` lets wait."""
    _ended: bool = False
    _turn: threading.Condition = field(default_factory=threading.Condition, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Happen no more, and let go of what is held."""
        with self._turn:
            self.times, self._ended = 0, True
            self._turn.notify_all()

    def hold(self, request: Request) -> None:
        """Return when the fault has ended."""
        with self._turn:
            self.held.append(request)
            self._turn.notify_all()
            self._turn.wait_for(lambda: self._ended)

    def holds(self, *paths: str) -> bool:
        """Wait until requests for all these paths are held at once; false where that never comes."""

        def here() -> bool:
            return all(any(path in request.path for request in self.held) for path in paths)

        with self._turn:
            return self._turn.wait_for(here, PATIENCE_S)

    def concerns(self, request: Request) -> bool:
        """Whether it happens to this request."""
        if self.kind in BODIES and request.method == "HEAD":
            return False
        left = self.times is None or self.times > 0
        wanted = self.match in request.path and request.method in self.methods
        return left and wanted and (not self.ranges_only or request.range is not None)


Upstream = Callable[[Request, bytes], Answer]
"""The server behind a gate: a request and its body to an answer."""
Refusal = Callable[[Request], Answer | None]
"""What a cloud says to a request that it does not serve, or None."""
Wording = Callable[[str], Answer]
"""The answer of a cloud to a fault of `ANSWERS`."""


def plain_wording(kind: str) -> Answer:
    """An answer with a status and its name."""
    return Answer(
        int(kind), {"Content-Type": "text/plain"}, http.client.responses[int(kind)].encode()
    )


def no_refusal(_: Request) -> Answer | None:
    """Everybody may read."""
    return None


@dataclass
class Gate:
    """A proxy on a free port of loopback.

    Args:
        upstream: gives the answer of the server behind it.
        wording: how this cloud words an error.
        refusal: what is demanded once `demanding` is set.
        tls: speak TLS to the client, with this context.
    """

    upstream: Upstream
    wording: Wording = plain_wording
    refusal: Refusal = no_refusal
    tls: ssl.SSLContext | None = None
    demanding: bool = False
    log: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self.test = 0
        """Which test since the beginning is running: what an earlier one began is not written down."""
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"gate": self}))
        if self.tls:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.server_address[1]

    @property
    def endpoint(self) -> str:
        """The URL that clients are given."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def clear(self) -> None:
        """Forget requests, faults and demands."""
        with self._lock:
            self.test += 1
            self.log.clear()
            for fault in self.faults:
                fault.end()
            self.faults.clear()
            self.demanding = False

    def answer(self, request: Request, body: bytes) -> tuple[Answer | None, str | None, int | None]:
        """The answer (None: reset), the fault that happened, and a stated length that is not true."""
        fault = self._happening(request)
        kind = fault.kind if fault else None
        if fault and kind == "hold":
            fault.hold(request)
        if kind == "reset":
            return None, kind, None
        if kind in ANSWERS:
            return self.wording(kind), kind, None
        refused = self.refusal(request) if self.demanding else None
        answer = refused or self.upstream(request, body)
        if kind in BODIES and answer.status < 300:
            return _damaged(answer, kind), kind, len(answer.body) if kind == "cut" else None
        return answer, None if kind in BODIES else kind, None

    def remember(self, request: Request, test: int) -> None:
        """Write a request into the log of the test that it arrived in."""
        with self._lock:
            if test == self.test:
                self.log.append(request)

    def _happening(self, request: Request) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.concerns(request):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None


@dataclass(frozen=True)
class Forward:
    """Asks a server that listens on loopback."""

    port: int

    def __call__(self, request: Request, body: bytes) -> Answer:
        """The server's answer, whole."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.putrequest(
                request.method, request.target, skip_host=True, skip_accept_encoding=True
            )
            for name, value in request.headers.items():
                if name not in HOP_BY_HOP:
                    connection.putheader(name, value)
            if body or request.method in {"PUT", "POST", "PATCH"}:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body or None)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()


def _damaged(answer: Answer, kind: str) -> Answer:
    body, half = answer.body, len(answer.body) // 2
    if kind == "flip" and body:
        body = body[:half] + bytes([body[half] ^ 0x40]) + body[half + 1 :]
    elif kind != "flip":
        body = body[:half]
    return Answer(answer.status, answer.headers, body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or that does not trust our certificate, is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    gate: Gate

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's word
        """Nothing on the terminal: the gate has its own log."""

    def handle_expect_100(self) -> bool:
        """S3's client waits for this before it sends a body."""
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        body = self._body()
        parts = urlsplit(self.path)
        request = Request(
            method=self.command,
            path=unquote(parts.path),
            query=dict(parse_qsl(parts.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in self.headers.items()},
            target=self.path,
            sent=len(body),
        )
        test = self.gate.test
        answer, fault, length = self.gate.answer(request, body)
        seen = replace(request, fault=fault)
        if answer is not None:
            seen = replace(seen, status=answer.status, received=len(answer.body))
        self.gate.remember(seen, test)
        if answer is None:
            self._reset()
        else:
            self._send(answer, len(answer.body) if length is None else length)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, answer: Answer, length: int) -> None:
        self.send_response_only(answer.status)
        stated = None
        for name, value in answer.headers.items():
            if name.lower() == "content-length":
                stated = value
            elif name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        headless = self.command == "HEAD"
        if answer.status not in {204, 304}:
            self.send_header("Content-Length", stated if headless and stated else str(length))
        if length != len(answer.body):
            self.close_connection = True
        self.end_headers()
        if not headless:
            self.wfile.write(answer.body)
        self.wfile.flush()

    def _reset(self) -> None:
        """Close so that the client sees ECONNRESET."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
