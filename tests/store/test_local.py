import os
import pickle
import threading

import pytest

from deepsentinel.errors import StoreError, StoreNotFoundError, UnknownNameError
from deepsentinel.store import LocalStore, Store, open_store
from deepsentinel.store.local import OPEN_FILES


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path)
    store.write("a/b.bin", bytes(range(100)))
    return store


def test_it_is_a_store(store):
    assert isinstance(store, Store)


def test_ranges(store):
    assert store.read_range("a/b.bin", 10, 3) == b"\x0a\x0b\x0c"
    assert store.read_ranges("a/b.bin", [(5, 1), (0, 2)]) == [b"\x05", b"\x00\x01"]
    assert store.read_range("a/b.bin", 100, 0) == b""
    assert store.read("a/b.bin") == bytes(range(100))
    assert store.size("a/b.bin") == 100


def test_a_short_read_is_an_error(store):
    with pytest.raises(StoreError, match="truncated: asked for 20 bytes from 90, found 10"):
        store.read_range("a/b.bin", 90, 20)
    with pytest.raises(StoreError, match="found 0; the file has 100"):
        store.read_range("a/b.bin", 200, 1)


def test_what_is_not_there(store):
    for read in (store.read, store.size, lambda path: store.read_range(path, 0, 1)):
        with pytest.raises(StoreNotFoundError, match=r"nope.bin: No such file or directory"):
            read("nope.bin")
    assert not store.exists("nope.bin")
    assert store.list("nope") == []


def test_names_are_sorted_and_folders_marked(store):
    store.write("z.txt", b"")
    store.write("a/c/d", b"")
    assert store.list() == ["a/", "z.txt"]
    assert store.list("a") == ["b.bin", "c/"]
    assert store.exists("a/c")


def test_a_failed_write_leaves_the_old_file(store, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreError, match=r"cannot write .*b.bin: No space left"):
        store.write("a/b.bin", b"new")
    assert store.read("a/b.bin") == bytes(range(100))
    assert store.list("a") == ["b.bin"]


def test_a_replaced_file_is_seen_when_its_size_is_asked(store):
    store.read_range("a/b.bin", 0, 1)
    store.write("a/b.bin", b"something else")
    assert store.size("a/b.bin") == 14
    assert store.read_range("a/b.bin", 0, 14) == b"something else"


def test_it_pickles_without_its_handles(store):
    store.read_range("a/b.bin", 0, 1)
    again = pickle.loads(pickle.dumps(store))  # noqa: S301 - written in this line
    assert again.read_range("a/b.bin", 1, 1) == b"\x01"
    assert again.url == store.url


def open_handles():
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 - pathlib opens one more


def test_handles_are_few_and_closed_in_the_end(tmp_path):
    store = LocalStore(tmp_path)
    for k in range(OPEN_FILES + 20):
        store.write(f"{k}", b"x")
    before = open_handles()
    for k in range(OPEN_FILES + 20):
        store.read_range(f"{k}", 0, 1)
    assert open_handles() == before + OPEN_FILES
    del store
    assert open_handles() == before


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on fork
def test_a_fork_while_another_thread_holds_the_lock(store):
    """A child never waits for a lock whose owner does not exist in it."""
    store.read_range("a/b.bin", 0, 1)
    with store._files._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if store.read_range("a/b.bin", 2, 1) == b"\x02" else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_threads_share_a_store(tmp_path):
    store = LocalStore(tmp_path)
    for k in range(100):
        store.write(f"{k}", bytes([k]))
    wrong = []

    def work():
        wrong.extend(k for k in range(100) if store.read_range(f"{k}", 0, 1) != bytes([k]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_urls():
    assert open_store("file:///a/b%20c").url == "/a/b c"
    assert open_store("~/x").url == os.path.expanduser("~/x")  # noqa: PTH111 - the reference
    with pytest.raises(UnknownNameError, match=r"ftp://.*gs"):
        open_store("ftp://host/a")
