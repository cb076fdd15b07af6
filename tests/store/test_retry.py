import time

import pytest

from deepsentinel.errors import (
    NotAuthorisedError,
    RequesterPaysError,
    StoreError,
    StoreNotFoundError,
    TransientError,
)
from deepsentinel.store import Options, Retry, open_store
from deepsentinel.store.families import family_of
from deepsentinel.store.faults import Place, explain

QUICK = Retry(attempts=3, deadline_s=5, attempt_s=1, backoff_s=0.01)


def test_a_large_transfer_has_more_time():
    assert Retry().clock(0).patience == pytest.approx(20, abs=0.1)
    assert Retry().clock(116 * 2**20).patience == pytest.approx(120, abs=0.1)


def test_it_ends_by_tries_and_by_deadline():
    clock = QUICK.clock()
    assert [clock.again() for _ in range(3)] == [True, True, False]
    assert clock.tries == 3
    late = Retry(attempts=100, deadline_s=0.05, backoff_s=0.02, jitter=0).clock()
    begun = time.monotonic()
    while late.again():
        pass
    assert time.monotonic() - begun < 0.06
    assert late.tries <= 3


def store_of(cloud):
    return open_store(cloud.url("retry"), storage_options=cloud.storage_options, retry=QUICK)


@pytest.mark.parametrize("kind", ["503", "429", "500", "reset", "short", "cut"])
def test_a_fault_that_passes(http_server, kind):
    http_server.put("retry/a.bin", bytes(range(100)))
    http_server.fault(kind, times=2)
    assert store_of(http_server).read_range("a.bin", 3, 50) == bytes(range(3, 53))


@pytest.mark.parametrize("kind", ["503", "reset"])
def test_a_fault_that_stays(http_server, kind):
    http_server.put("retry/a.bin", bytes(range(100)))
    http_server.fault(kind, times=None)
    with pytest.raises(TransientError, match=r"retry/a\.bin.* after 3 tries in \d s") as caught:
        store_of(http_server).read_range("a.bin", 3, 50)
    assert isinstance(caught.value, TimeoutError)


def test_a_body_that_stays_short_is_truncated(http_server):
    http_server.put("retry/a.bin", bytes(range(100)))
    http_server.fault("short", times=None)
    with pytest.raises(StoreError, match="truncated: asked for 50 bytes from 3, found 25"):
        store_of(http_server).read_range("a.bin", 3, 50)


def test_only_what_failed_is_asked_again(http_server):
    http_server.put("retry/a.bin", bytes(range(100)))
    http_server.put("retry/b.bin", bytes(range(100)))
    http_server.fault("503", times=1, match="b.bin")
    spans = [("a.bin", 0, 4), ("b.bin", 4, 4)]
    assert store_of(http_server).read_spans(spans) == [bytes(range(4)), bytes(range(4, 8))]
    assert sorted(r.path[-5:] for r in http_server.log) == ["a.bin", "b.bin", "b.bin"]


def test_a_server_that_never_answers(http_server):
    http_server.put("retry/a.bin", bytes(range(100)))
    http_server.fault("delay", times=None, seconds=3)
    retry = Retry(attempts=2, deadline_s=1, attempt_s=0.2, backoff_s=0.01)
    store = open_store(http_server.url("retry"), retry=retry)
    begun = time.monotonic()
    with pytest.raises(TransientError, match="TimeoutError"):
        store.read_range("a.bin", 0, 4)
    assert time.monotonic() - begun < 2


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
