import fcntl
import os
import pickle
import subprocess
import sys
import textwrap
import warnings

import pytest

from deepsentinel.errors import CacheWarning, StoreError
from deepsentinel.store import CachedStore, RangeCache, open_store, pinned

DATA = bytes(range(200))


class Counting:
    """A store in memory that remembers what was asked of it."""

    def __init__(self, url):
        self.store = open_store(url)
        self.asked = []

    def __getattr__(self, name):
        return getattr(self.store, name)

    def read_spans(self, spans, *, fresh=False):
        self.asked += spans
        return self.store.read_spans(spans)

    def version(self, path):
        self.asked.append(("version", path))
        return self.store.version(path)


@pytest.fixture
def origin(tmp_path):
    origin = Counting(f"memory://{tmp_path.name}")
    origin.write("a.bin", DATA)
    origin.write("b.bin", DATA[::-1])
    return origin


def files_of(folder):
    return [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]


def test_what_was_read_is_kept(origin, tmp_path):
    store = CachedStore(origin, RangeCache(tmp_path, 10_000))
    spans = [("a.bin", 5, 10), ("b.bin", 0, 3)]
    assert store.read_spans(spans) == [DATA[5:15], DATA[::-1][:3]]
    assert origin.asked == [("version", "a.bin"), ("version", "b.bin"), *spans]
    origin.asked.clear()
    other = ("a.bin", 0, 1)
    assert store.read_spans([spans[1], other, spans[0]])[2] == DATA[5:15]
    assert origin.asked == [other]
    again = CachedStore(origin, RangeCache(tmp_path, 10_000))
    assert again.read_range("a.bin", 5, 10) == DATA[5:15]
    assert origin.asked == [other, ("version", "a.bin")]


def test_fresh_passes_over_it_and_replaces_it(origin, tmp_path):
    store = CachedStore(origin, RangeCache(tmp_path, 10_000)).under("one")
    store.read_range("a.bin", 0, 4)
    origin.store.write("a.bin", b"new and longer")
    assert store.read_range("a.bin", 0, 4) == DATA[:4]
    assert store.read_spans([("a.bin", 0, 4)], fresh=True) == [b"new "]
    assert store.read_range("a.bin", 0, 4) == b"new "


def test_a_replaced_file_is_read_again(origin, tmp_path):
    cache = RangeCache(tmp_path, 10_000)
    CachedStore(origin, cache).read_range("a.bin", 0, 4)
    origin.store.write("a.bin", b"new and longer")
    assert CachedStore(origin, cache).read_range("a.bin", 0, 4) == b"new "
    store = CachedStore(origin, cache)
    store.write("a.bin", b"newer!")
    assert store.read_range("a.bin", 0, 4) == b"newe"


def test_one_version_for_all_files(origin, tmp_path):
    store = pinned(CachedStore(origin, RangeCache(tmp_path, 10_000)), "b.bin")
    store.read_spans([("a.bin", 0, 1), ("b.bin", 0, 1)])
    assert [a for a in origin.asked if a[0] == "version"] == [("version", "b.bin")]
    assert pinned(origin, "b.bin") is origin


def test_accounts_of_the_same_url_are_kept_apart(tmp_path):
    cache = RangeCache(tmp_path, 10_000)
    keys = {
        CachedStore(open_store("az://c/x"), cache, identity=who, generation="1")._key(("a", 0, 1))
        for who in ("account_name=one", "account_name=two")
    }
    assert len(keys) == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "empty", "other"])
def test_a_damaged_entry_is_never_served(tmp_path, damage):
    cache = RangeCache(tmp_path, 10_000)
    cache.put("a", DATA)
    cache.put("b", DATA[::-1])
    path = cache._path("a")
    kept = bytearray(path.read_bytes())
    kept[len(kept) // 2] ^= 1
    contents = {
        "flip": bytes(kept),
        "cut": path.read_bytes()[:-1],
        "longer": path.read_bytes() + b"x",
        "empty": b"",
        "other": cache._path("b").read_bytes(),
    }
    path.write_bytes(contents[damage])
    assert cache.get("a", len(DATA)) is None
    assert not path.exists()
    assert cache.get("b", len(DATA)) == DATA[::-1]


def test_it_stays_within_its_limit_and_keeps_what_was_used(tmp_path):
    cache = RangeCache(tmp_path, 20_000)
    for k in range(200):
        cache.put(f"{k}", bytes([k]) * 500)
        assert sum(p.stat().st_size for p in files_of(tmp_path)) <= 20_000
        for path in files_of(tmp_path):  # time passes
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
        cache.get("0", 500)
    assert cache.get("0", 500) == bytes(500)
    assert cache.get("199", 500) is not None
    assert cache.get("1", 500) is None


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path):
    cache = RangeCache(tmp_path, 100)
    cache.put("a", bytes(97))
    assert files_of(tmp_path) == []


def test_what_a_killed_process_left_goes(tmp_path):
    cache = RangeCache(tmp_path, 1000)
    cache.put("a", b"1")
    left = cache._path("a").parent / ".1-2-3"
    left.write_bytes(bytes(5000))
    os.utime(left, (0, 0))
    cache.put("b", bytes(900))
    assert not left.exists()


def test_a_full_disk_is_one_warning_and_reading_goes_on(origin, tmp_path, monkeypatch):
    store = CachedStore(origin, RangeCache(tmp_path, 10_000))
    store.read_range("b.bin", 0, 4)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.warns(CacheWarning, match="No space left") as seen:
        assert store.read_range("a.bin", 0, 4) == DATA[:4]
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.read_range("a.bin", 4, 4) == DATA[4:8]
        assert store.read_range("b.bin", 0, 4) == DATA[::-1][:4]
    assert len(files_of(tmp_path)) == 1
    assert not list(tmp_path.rglob(".*-*"))


def test_a_folder_that_cannot_be_is_an_error_at_once(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot make cache_dir"):
        open_store("gs://b", cache_dir=tmp_path / "file" / "x")
    with pytest.raises(StoreError, match="cache_bytes=0"):
        open_store("gs://b", cache_dir=tmp_path, cache_bytes=0)


def test_it_pickles(origin, tmp_path):
    store = open_store(origin.url, cache_dir=tmp_path)
    assert store.read_range("a.bin", 1, 2) == DATA[1:3]
    again = pickle.loads(pickle.dumps(store))  # noqa: S301 - ours
    assert again.read_range("a.bin", 1, 2) == DATA[1:3]
    assert repr(again) == repr(store)


def test_while_another_process_makes_room_little_is_added(tmp_path):
    """However long that takes: it may be stopped."""
    cache = RangeCache(tmp_path, 16_000)
    for k in range(20):
        cache.put(f"{k}", bytes(900))
    with (tmp_path / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for k in range(20, 60):
            cache.put(f"{k}", bytes(90))
        assert sum(p.stat().st_size for p in files_of(tmp_path)) <= 16_000 * (1 + 1 / 16)
        assert cache.get("19", 900) == bytes(900)
    cache.put("60", bytes(900))
    assert cache.get("60", 900) == bytes(900)
    assert sum(p.stat().st_size for p in files_of(tmp_path)) <= 16_000


def test_many_processes_at_once(tmp_path):
    """Writing, reading and shrinking the same small cache: whatever is served is right."""
    script = """
        import random, sys
        from deepsentinel.store import RangeCache
        cache, found = RangeCache(sys.argv[1], 30_000), 0
        for _ in range(600):
            k = random.randrange(60)
            data = cache.get(f"{k}", 1000 + k)
            found += data is not None
            assert data in (None, bytes([k]) * (1000 + k)), k
            cache.put(f"{k}", bytes([k]) * (1000 + k))
        print(found)
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script), str(tmp_path)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = [int(run.communicate()[0]) for run in runs]
    assert all(run.returncode == 0 for run in runs)
    assert min(found) > 50
    assert sum(p.stat().st_size for p in files_of(tmp_path)) <= 30_000 * (1 + 3 / 16)
