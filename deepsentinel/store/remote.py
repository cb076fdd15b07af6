"""Files in a bucket or on a web server as a store."""

import asyncio
import builtins
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from fsspec.asyn import sync

from deepsentinel.errors import (
    DeepSentinelError,
    StoreError,
    StoreNotFoundError,
    TransientError,
)
from deepsentinel.store.families import Family, Pays, check_payer, family_of
from deepsentinel.store.faults import Place, ShortReadError, explain
from deepsentinel.store.options import Options, redact, starting_process
from deepsentinel.store.protocol import Span
from deepsentinel.store.retry import Clock, Retry

T = TypeVar("T")
Job = Callable[[Any], Awaitable[T]]

AT_ONCE = 32
"""Requests that one store has on the way at the same time."""
PIECE = 8 * 2**20
"""Bytes of one request when a whole file is read."""
_VERSION_KEYS = ("generation", "etag", "ETag", "Last-Modified", "LastModified", "last_modified")
_left_behind: list[Any] = []
"""Clients of a parent process: closing them in a fork could hang, so they are kept instead."""


class RemoteStore:
    """Files below a URL, through one of fsspec's clients.

    The client is made by the process that uses it, when it first does: a store may be forked and
    pickled. Every call is tried again after a short or failed answer, within the limits of
    `retry`, and ends in the library's own errors. Secrets are in no message and no repr; see
    `Options` for pickles.

    Args:
        url: root, such as `gs://bucket/folder`.
        family: who serves it.
        requester_pays: who is billed.
        options: arguments of the client.
        retry: how often and how long a call is tried.

    Raises:
        StoreError: nobody can be billed there as asked.
    """

    def __init__(
        self,
        url: str,
        family: Family,
        *,
        requester_pays: Pays = None,
        options: Options | None = None,
        retry: Retry | None = None,
    ) -> None:
        root, mark, query = url.partition("?") if family.name == "HTTP" else (url, "", "")
        self._root = root.rstrip("/")
        self._query = mark + query
        self._family = family
        self._options = options or Options(None)
        self._retry = retry or Retry()
        if not self._root.partition("://")[2]:
            raise StoreError(
                f"{url} names no place: give the rest of it too, as in gs://bucket/corpus or "
                "hf://datasets/user/name."
            )
        if redact(self._root) != self._root:
            raise StoreError(
                f"{self.url} carries credentials. Pass them as storage_options, which stay hidden: "
                f"{family.login}."
            )
        self._pays = check_payer(family, self.url, requester_pays)
        self._begin()

    def _begin(self) -> None:
        self._client = _Client(self._open)
        self._moving: dict[object, int] = {}
        self.repeated = 0

    def __repr__(self) -> str:
        return f"RemoteStore({self.url!r}, requester_pays={self._pays!r}, options={self._options})"

    def __getstate__(self) -> dict[str, Any]:
        state = {
            k: v for k, v in self.__dict__.items() if k not in {"_client", "_family", "_moving"}
        }
        query = self._query if starting_process() else ""  # the signature of a signed URL
        return {**state, "_scheme": self._family.schemes[0], "_query": query}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._family = family_of(state.pop("_scheme"))
        self._begin()

    @property
    def url(self) -> str:
        """The root, for messages; free of secrets."""
        return redact(self._root)

    def read_range(self, path: str, start: int, size: int) -> bytes:
        """`size` bytes of a file from `start`.

        Raises:
            StoreError: see `Store`; also where the file ends before.
        """
        return self.read_spans([(path, start, size)])[0]

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several (start, size) ranges of one file, in the order asked, fetched together."""
        return self.read_spans([(path, start, size) for start, size in ranges])

    def read_spans(self, spans: Sequence[Span], *, fresh: bool = False) -> list[bytes]:
        """Ranges of any files, in the order asked, fetched together."""
        jobs = [(path, self._range_job(path, start, size)) for path, start, size in spans]
        return self._run(jobs, moved=sum(size for _, _, size in spans))

    def read(self, path: str) -> bytes:
        """A whole file, in pieces where it is large."""
        size = self.size(path)
        pieces = [(start, min(PIECE, size - start)) for start in range(0, size, PIECE)]
        return b"".join(self.read_ranges(path, pieces))

    def size(self, path: str) -> int:
        """Bytes in a file as it is now."""
        size = self._info(path).get("size")
        if size is None:
            raise StoreError(f"{self._name(path)} has no length that its server would tell.")
        return int(size)

    def version(self, path: str) -> str:
        """A text that changes when the file is replaced, as far as its server tells."""
        info = self._info(path)
        return " ".join(str(info[k]) for k in ("size", *_VERSION_KEYS) if info.get(k) is not None)

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        try:
            self._info(path)
        except StoreNotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> builtins.list[str]:
        """Names directly below a folder, sorted; folders end with `/`.

        A web server is asked for its own page of the folder; one that shows none lists nothing.
        """
        folder = self._join(prefix).rstrip("/")
        try:
            [found] = self._run([(prefix, lambda fs: fs._ls(f"{folder}/", detail=True))])  # noqa: SLF001
        except StoreNotFoundError:
            return []
        return names_below(folder, found, quoted=self._family.quoted)

    def write(self, path: str, data: bytes) -> None:
        """Write a whole file: afterwards there is the new one or, on an error, what was there."""
        if self._family.name == "HTTP":
            raise StoreError(f"cannot write {self._name(path)}: web servers are only read here.")
        where = self._join(path)
        self._run([(path, lambda fs: fs._pipe_file(where, data))], moved=len(data))  # noqa: SLF001

    # ---------------------------------------------------------------- calls

    def _info(self, path: str) -> dict[str, Any]:
        where = self._join(path)
        [info] = self._run([(path, lambda fs: fs._info(where))])  # noqa: SLF001 - the coroutine
        found: dict[str, Any] = info
        return found

    def _range_job(self, path: str, start: int, size: int) -> Job[bytes]:
        where = self._join(path)

        async def read(fs: Any) -> bytes:
            if size == 0:
                return b""
            data: bytes = await fs._cat_file(where, start=start, end=start + size)  # noqa: SLF001
            if len(data) == size:
                return data
            there = await _length(fs, where)
            short = f"asked for {size} bytes from {start}, found {len(data)}"
            if there is not None and there < start + size:  # no try will bring more
                raise StoreError(f"{self._name(path)} is truncated: {short}; the file has {there}.")
            raise ShortReadError(short)

        return read

    def _run(self, jobs: Sequence[tuple[str, Job[T]]], *, moved: int = 0) -> builtins.list[T]:
        """Every job, all at once, those that fail for now again until the policy's limits."""
        call = object()
        self._moving[call] = moved
        try:
            return self._until_done(jobs, self._retry.clock(lambda: sum([*self._moving.values()])))
        finally:
            del self._moving[call]

    def _until_done(self, jobs: Sequence[tuple[str, Job[T]]], clock: Clock) -> builtins.list[T]:
        done: dict[int, T] = {}
        while True:
            left = [k for k in range(len(jobs)) if k not in done]
            failed: dict[int, BaseException] = {}
            for k, outcome in zip(left, self._try([jobs[k][1] for k in left], clock), strict=True):
                if isinstance(outcome, BaseException):
                    failed[k] = outcome
                else:
                    done[k] = outcome
            if not failed:
                return [done[k] for k in range(len(jobs))]
            errors = [(self._error(jobs[k][0], e), e) for k, e in failed.items()]
            lasting = [e for e, _ in errors if not isinstance(e, TransientError)]
            if lasting:
                raise lasting[0]
            if not clock.again():
                raise _given_up(*errors[0], clock)
            self.repeated += len(failed)

    def _try(self, jobs: Sequence[Job[T]], clock: Clock) -> "builtins.list[T | BaseException]":
        """One try of each; what went wrong comes back as a value, so that nothing is chained."""
        try:
            fs = self._client.get()
            # The loop's own limit is a little longer: each job then reports its own time-out.
            outcomes: builtins.list[T | BaseException] = sync(
                fs.loop, together, jobs, fs, clock, timeout=max(0, clock.left) + 5
            )
        except DeepSentinelError:
            raise  # the client could not be made, and what to do is said already
        except Exception as error:  # noqa: BLE001 - whatever a client raises is explained by `_error`
            return [error] * len(jobs)
        return outcomes

    def _error(self, path: str, error: BaseException) -> StoreError:
        if isinstance(error, StoreError):
            return error
        place = Place(self._name(path), self._family, self._options, self._pays)
        return explain(error, place)

    # ---------------------------------------------------------------- names and clients

    def _name(self, path: str) -> str:
        return f"{self.url}/{path}" if path else self.url

    def _join(self, path: str) -> str:
        root = self._family.address(self._root, self._options)
        place = quote(path) if self._family.quoted else path
        return f"{root}/{place}{self._query}" if path else f"{root}{self._query}"

    def _open(self) -> Any:
        return self._family.open(self._root, self._options, self._pays)


class _Client:
    """A filesystem that every process makes for itself, when it first needs it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._filesystem: Any = None

    def get(self) -> Any:
        if self._process != os.getpid():  # forked, perhaps while another thread held the lock
            _left_behind.append(self._filesystem)
            self._begin()
        with self._lock:
            if self._filesystem is None:
                self._filesystem = self._make()
            return self._filesystem


async def together(
    jobs: Sequence[Job[T]], fs: Any, clock: Clock
) -> "builtins.list[T | BaseException]":
    """One try of each job, `AT_ONCE` at a time; the time of each begins when its turn comes."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(job: Job[T]) -> T:
        async with gate:
            return await asyncio.wait_for(job(fs), clock.patience)

    return await asyncio.gather(*(one(job) for job in jobs), return_exceptions=True)


async def _length(fs: Any, where: str) -> int | None:
    """Length of a file, if its server tells it now: the caller knows that something is wrong."""
    try:
        found: int | None = (await fs._info(where)).get("size")  # noqa: SLF001
    except Exception:  # noqa: BLE001 - of any client's class; the caller tries again anyway
        return None
    return found


def _given_up(ours: StoreError, theirs: BaseException, clock: Clock) -> StoreError:
    tries = "1 try" if clock.tries == 1 else f"{clock.tries} tries"
    tried = f"after {tries} in {clock.elapsed:.0f} s"
    text = str(ours).rstrip(".")
    if isinstance(theirs, ShortReadError):
        where = text.partition(" could not be reached")[0]
        return StoreError(f"{where} is truncated: {theirs}, {tried}.")
    return TransientError(f"{text}, {tried}. Try again later, or with a longer deadline.")


def names_below(folder: str, found: Sequence[Any], *, quoted: bool = False) -> "builtins.list[str]":
    """Names in a listing of fsspec's, as `Store.list` gives them."""
    names = set()
    here = folder.partition("://")[2] or folder
    for entry in found:
        whole = str(entry["name"]).partition("?")[0].rstrip("/")
        name = whole.rpartition("/")[2]
        if name and here != (whole.partition("://")[2] or whole):
            name = unquote(name) if quoted else name
            names.add(f"{name}/" if entry["type"] == "directory" else name)
    return sorted(names)
