import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from deepsentinel.errors import (
    NotAuthorisedError,
    RequesterPaysError,
    StoreError,
    StoreNotFoundError,
    TransientError,
)
from deepsentinel.store import Options, Retry, open_store, remote, retry
from deepsentinel.store.families import family_of
from deepsentinel.store.faults import Place, explain

THREE = Retry(attempts=3, deadline_s=6000, attempt_s=600, backoff_s=0.01)
"""Ends by its tries alone, however busy the machine is that it runs on."""
MIB = 2**20


class Watch:
    """A clock that nothing moves but pauses."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def watch(monkeypatch):
    watch = Watch()
    monkeypatch.setattr(retry, "time", watch)
    return watch


def test_what_shares_a_line_has_more_time(watch):
    moving = [0]
    clock = Retry().clock(lambda: sum(moving))
    assert (clock.patience, clock.left) == (20, 60)
    moving += 15 * [4 * MIB]  # other calls join
    assert (clock.patience, clock.left) == (140, 420)
    moving.clear()
    watch.now += 100
    assert (clock.patience, clock.left) == (140, 320)
    watch.now += 300
    assert (clock.patience, clock.left) == (20, 20)


def test_it_ends_by_tries(watch):
    clock = THREE.clock()
    assert [clock.again() for _ in range(3)] == [True, True, False]
    assert clock.tries == 3


def test_it_ends_by_the_deadline(watch):
    clock = Retry(attempts=100, deadline_s=10, attempt_s=6, backoff_s=1, jitter=0).clock()
    patience = [clock.patience]
    while clock.again():
        patience.append(clock.patience)
    assert patience == [6, 6, 6, 3]  # pauses of 1, 2 and 4 seconds; after 8 more it would be late
    assert (clock.tries, clock.elapsed) == (4, 7)


def test_each_job_has_its_own_time(monkeypatch):
    """One that hangs costs those that wait behind it neither their time nor their bytes."""
    monkeypatch.setattr(remote, "AT_ONCE", 1)

    left = [0.01, 600]

    class Clock:
        patience = property(lambda _: left.pop(0))

    async def never(_):
        await asyncio.Event().wait()

    async def answer(_):
        await asyncio.sleep(0)
        return b"1"

    failed, there = asyncio.run(remote.together([never, answer], None, Clock()))
    assert isinstance(failed, TimeoutError)
    assert there == b"1"


def test_calls_of_one_store_share_its_line(http_server, monkeypatch):
    http_server.put("retry/a.bin", bytes(100))
    store, moving, clock = store_of(http_server), [], Retry.clock

    def watched(policy, moved):
        moving.append(moved)
        return clock(policy, moved)

    monkeypatch.setattr(Retry, "clock", watched)
    with (
        http_server.fault("hold") as fault,
        ThreadPoolExecutor() as pool,
    ):
        reading = pool.submit(store.read_ranges, "a.bin", [(0, 20), (40, 30)])
        assert fault.holds("a.bin")
        assert [moved() for moved in moving] == [50]
        fault.end()
        assert reading.result() == [bytes(20), bytes(30)]
    assert moving[0]() == 0


def store_of(cloud):
    return open_store(cloud.url("retry"), storage_options=cloud.storage_options, retry=THREE)


@pytest.mark.parametrize("kind", ["503", "429", "500", "reset", "short", "cut"])
def test_a_fault_that_passes(http_server, kind):
    http_server.put("retry/a.bin", bytes(range(100)))
    http_server.fault(kind, times=2)
    assert store_of(http_server).read_range("a.bin", 3, 50) == bytes(range(3, 53))


@pytest.mark.parametrize("kind", ["503", "reset"])
def test_a_fault_that_stays(http_server, kind):
    http_server.put("retry/a.bin", bytes(range(100)))
    http_server.fault(kind, times=None)
    with pytest.raises(TransientError, match=r"retry/a\.bin.* after 3 tries in \d+ s") as caught:
        store_of(http_server).read_range("a.bin", 3, 50)
    assert isinstance(caught.value, TimeoutError)


def test_a_body_that_stays_short_is_truncated(http_server):
    http_server.put("retry/a.bin", bytes(range(100)))
    http_server.fault("short", times=None)
    with pytest.raises(StoreError, match=r"asked for 50 bytes from 3, found 25, after 3 tries"):
        store_of(http_server).read_range("a.bin", 3, 50)


def test_only_what_failed_is_asked_again(http_server):
    http_server.put("retry/a.bin", bytes(range(100)))
    http_server.put("retry/b.bin", bytes(range(100)))
    http_server.fault("503", times=1, match="b.bin")
    spans = [("a.bin", 0, 4), ("b.bin", 4, 4)]
    assert store_of(http_server).read_spans(spans) == [bytes(range(4)), bytes(range(4, 8))]
    assert sorted(r.path[-5:] for r in http_server.log) == ["a.bin", "b.bin", "b.bin"]


@pytest.mark.parametrize(
    ("limits", "tries"),
    [
        ({"attempts": 2, "deadline_s": 6000, "attempt_s": 0.2}, "2 tries"),
        ({"attempts": 100, "deadline_s": 0.2, "attempt_s": 600}, "1 try"),
    ],
)
def test_a_server_that_never_answers(http_server, limits, tries):
    http_server.put("retry/a.bin", bytes(range(100)))
    http_server.fault("hold", times=None)
    store = open_store(http_server.url("retry"), retry=Retry(backoff_s=0.01, **limits))
    with pytest.raises(TransientError, match=f"TimeoutError.*after {tries}"):
        store.read_range("a.bin", 0, 4)


class StatusError(Exception):
    def __init__(self, status, message=""):
        super().__init__(message)
        self.status = status


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (StatusError(404), StoreNotFoundError),
        (StatusError(401), NotAuthorisedError),
        (StatusError(403), NotAuthorisedError),
        (StatusError(503), TransientError),
        (StatusError(400), StoreError),
        (caused(FileNotFoundError("masked by the client"), StatusError(503)), TransientError),
        (caused(FileNotFoundError("masked by the client"), StatusError(403)), NotAuthorisedError),
        (FileNotFoundError("x"), StoreNotFoundError),
        (OSError("Forbidden: https://x"), NotAuthorisedError),
        (ConnectionResetError(), TransientError),
        (TimeoutError(), TransientError),
        (ValueError("Bucket is requester pays. Set `requester_pays=True`"), RequesterPaysError),
        (ValueError("something else"), StoreError),
    ],
)
def test_what_an_error_means(error, kind):
    found = explain(error, Place("gs://b/x", family_of("gs"), Options(None), None))
    assert type(found) is kind
    assert "gs://b/x" in str(found)


def test_a_refused_payer_is_not_asked_for_again():
    place = Place("gs://b/x", family_of("gs"), Options(None), "my-project")
    error = explain(StatusError(403, "requester pays: no access to my-project"), place)
    assert type(error) is NotAuthorisedError
