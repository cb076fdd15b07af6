"""Downloads and uploads: what arrives, what is refused, and what every interruption leaves."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from deepsentinel.corpus import copying, parts, transfer
from deepsentinel.corpus import upload as uploading
from deepsentinel.corpus.format import CorpusInfo
from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.transfer import download
from deepsentinel.corpus.transferred import TransferPlan
from deepsentinel.corpus.upload import upload
from deepsentinel.corpus.verify import verify
from deepsentinel.errors import (
    CorpusError,
    CorpusExistsError,
    CorpusNotFoundError,
    CorruptCorpusError,
    SelectionError,
    StoreError,
    TransferDeclinedError,
    TransientError,
)
from deepsentinel.store import LocalStore

RASTERS = ("landcover", "height", "cloud", "dem")


class Watched(LocalStore):
    """A folder that remembers what was asked of it, and can fail like a network."""

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self.asked: list[tuple[str, int, int]] = []
        self.written: list[str] = []
        self.flip_once: set[tuple[str, int]] = set()
        self.fail_after: int | None = None
        self._lock = threading.Lock()

    def read_range(self, path: str, start: int, size: int) -> bytes:
        data = super().read_range(path, start, size)
        with self._lock:
            self.asked.append((path, start, size))
            if self.fail_after is not None and len(self.asked) > self.fail_after:
                raise TransientError("the network went away")
            for place in sorted(self.flip_once):
                if place[0] == path and start <= place[1] < start + size:
                    self.flip_once.remove(place)
                    at = place[1] - start
                    data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        return data

    def write(self, path: str, data: bytes) -> None:
        with self._lock:
            if self.fail_after is not None and len(self.written) >= self.fail_after:
                raise TransientError("the network went away")
            self.written.append(path)
        super().write(path, data)


@pytest.fixture
def large(tmp_path: Path, write_corpus: Callable[[Path, range], Path]) -> Path:
    """Two shards of every array."""
    return write_corpus(tmp_path / "large", range(140))


@pytest.fixture
def watched(large: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """`large`, watched whenever it is opened by this room."""
    store = Watched(large)
    real = transfer.open_store
    monkeypatch.setattr(
        transfer,
        "open_store",
        lambda root, **options: store if str(root) == str(large) else real(root, **options),
    )
    return store


def tree(root: Path) -> dict[str, bytes]:
    files = (p for p in sorted(root.rglob("*")) if p.is_file())
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def same_patches(source: Path, copy: Path, sensors: tuple[str, ...] = ("s1", "s2")) -> None:
    """Every patch of the copy holds what its namesake at the source holds."""
    there, here = Corpus(source), Corpus(copy, checksum=True)
    for k in range(len(here)):
        record = here.record(k)
        place = there.find(record.id)
        assert record == there.record(place)
        ours = here.read(k, sensors=sensors, rasters=RASTERS)
        theirs = there.read(place, sensors=sensors, rasters=RASTERS)
        for sensor in sensors:
            np.testing.assert_array_equal(ours.sensor(sensor), theirs.sensor(sensor))
        assert ours.rasters.keys() == theirs.rasters.keys()
        for name, raster in ours.rasters.items():
            np.testing.assert_array_equal(raster, theirs.rasters[name])


# ---------------------------------------------------------------- what arrives


def test_a_whole_corpus_arrives_byte_for_byte(large: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = download(large, tmp_path / "copy", progress=lambda *p: seen.append(p))
    copied = tree(tmp_path / "copy")
    assert copied.pop("download.json")
    assert copied == tree(large)
    assert (report.patches, report.skipped, report.wrong, report.retried) == (140, 0, (), 0)
    assert seen[-1] == (report.fetched, report.fetched)


def test_only_what_is_asked_for_is_read(watched: Watched, large: Path, tmp_path: Path) -> None:
    report = download(large, tmp_path / "copy", where="cloud < 1", split="train", sensors=("s2",))
    corpus = Corpus(large)
    wanted = [
        k
        for k in range(140)
        if corpus.record(k).cloud_percent < 1  # type: ignore[operator]
        and corpus.record(k).split == "train"
        and corpus.index["s2_offset"][k].is_valid
    ]
    assert Corpus(tmp_path / "copy").index["id"].to_pylist() == [f"patch-{k:04d}" for k in wanted]
    sizes = {n: [corpus.index[f"{n}_size"][k].as_py() for k in wanted] for n in ("s2", *RASTERS)}
    pixels = [size for path, _, size in watched.asked if path.startswith("data.zarr")]
    assert (
        sum(pixels) == sum(size or 0 for each in sizes.values() for size in each) == report.fetched
    )
    assert not any(path.startswith("data.zarr/s1") for path, _, _ in watched.asked)
    assert len(pixels) == report.requests <= sum(s is not None for e in sizes.values() for s in e)


@pytest.mark.parametrize(
    "choice",
    [
        {"where": "cloud < 1.5 or cloud > 12.6"},
        {"split": "val"},
        {"sensors": ("s1",)},
        {"sensors": ("s2",), "max_patches": 130},
        {"max_patches": 1},
    ],
)
def test_a_part_is_a_sound_corpus_with_the_same_patches(
    choice: dict[str, Any], large: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    report = download(large, copy, **choice)
    checked = verify(copy)
    assert checked.ok, str(checked)
    assert checked.patches == report.patches == 140 - report.skipped
    same_patches(large, copy, choice.get("sensors", ("s1", "s2")))


def test_zarr_reads_a_part_too(large: Path, tmp_path: Path) -> None:
    download(large, tmp_path / "copy", split="test")
    corpus = Corpus(tmp_path / "copy")
    group = zarr.open_group(tmp_path / "copy" / "data.zarr", mode="r")
    for k in range(len(corpus)):
        s1 = corpus.read(k).s1
        row = corpus.index["row"][k].as_py()
        np.testing.assert_array_equal(group["s1"][row], -32768 if s1 is None else s1)


def test_neighbours_travel_in_one_request(watched: Watched, large: Path, tmp_path: Path) -> None:
    report = download(large, tmp_path / "copy")
    shards = [p for p, _, _ in watched.asked if "/c/" in p]
    assert len(shards) == len(set(shards)) == report.requests


def test_a_copy_of_a_corpus_with_holes_in_its_rows(
    tiny_corpus: Path, write_corpus: Callable[[Path, range], Path], tmp_path: Path
) -> None:
    write_corpus(tiny_corpus, range(12, 20))  # appended: a shard of its own
    download(tiny_corpus, tmp_path / "copy")
    copied = tree(tmp_path / "copy")
    copied.pop("download.json")
    assert copied == tree(tiny_corpus)
    download(tiny_corpus, tmp_path / "part", where="cloud >= 0.5")
    assert verify(tmp_path / "part").ok
    assert Corpus(tmp_path / "part").index["shard"].to_pylist() == [0] * 15
    same_patches(tiny_corpus, tmp_path / "part")


# ---------------------------------------------------------------- asking first


def test_nothing_is_left_of_what_was_declined(large: Path, tmp_path: Path) -> None:
    plans: list[TransferPlan] = []
    with pytest.raises(TransferDeclinedError, match="140 of 140 patches of tiny"):
        download(large, tmp_path / "copy", confirm=lambda p: bool(plans.append(p)))
    assert not (tmp_path / "copy").exists()
    assert plans[0].size == plans[0].left == sum(copying.corpus_bytes(*_facts(large)).values())
    assert not plans[0].billed
    assert not plans[0].large


def _facts(root: Path) -> tuple[Any, CorpusInfo]:
    corpus = Corpus(root)
    return corpus.index, corpus.info


def test_a_choice_of_nothing_leaves_nothing(large: Path, tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="none of the 140"):
        download(large, tmp_path / "copy", where="cloud > 99")
    assert not (tmp_path / "copy").exists()


def test_no_room_is_said_before_anything_moves(
    watched: Watched, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = transfer.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StoreError, match=r"has 1\.0 kB free"):
        download(large, tmp_path / "copy")
    assert not any("/c/" in path for path, _, _ in watched.asked)


@pytest.mark.parametrize("dest", ["memory://copy", "gs://bucket/copy"])
def test_a_copy_lies_on_this_machine(dest: str, large: Path) -> None:
    with pytest.raises(StoreError, match="upload"):
        download(large, dest)


# ---------------------------------------------------------------- going on


def test_a_network_that_goes_away_costs_nothing_twice(
    watched: Watched, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "PIECE_BYTES", 7001)
    monkeypatch.setattr(transfer, "REQUESTS_AT_ONCE", 2)
    copy = tmp_path / "copy"
    stops = 0
    while True:
        watched.asked.clear()
        watched.fail_after = 12
        try:
            report = download(large, copy)
        except TransientError:
            with pytest.raises(CorpusNotFoundError):
                Corpus(copy)
            stops += 1
            continue
        break
    assert stops > 3
    assert report.already > 0
    assert report.already + report.fetched == sum(copying.corpus_bytes(*_facts(large)).values())
    copied = tree(copy)
    copied.pop("download.json")
    assert copied == tree(large)


@pytest.mark.parametrize("choice", [{}, {"where": "cloud < 13.1", "sensors": ("s2",)}])
def test_every_moment_is_a_good_moment_to_be_stopped(
    choice: dict[str, Any], large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before each write, rename and removal in turn, it ends as without."""
    download(large, tmp_path / "calm", **choice)
    expected = tree(tmp_path / "calm")
    copy = tmp_path / "copy"
    steps = {"left": 0}

    def stopping(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            steps["left"] -= 1
            if steps["left"] < 0:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return step

    for module, names in (
        (transfer, ("write_at", "write_atomic", "write_index")),
        (parts, ("write_at", "write_atomic", "sync_path", "dump_table", "fill_table")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, stopping(getattr(module, name)))
    stops = 0
    while True:
        steps["left"] = 7 + 9 * stops
        try:
            download(large, copy, **choice)
        except KeyboardInterrupt:
            stops += 1
            continue
        break
    assert stops > 10
    found = tree(copy)
    assert found.pop("download.json")
    expected.pop("download.json")
    assert found == expected


KILLED = """
import os, signal, sys
from deepsentinel.corpus import copying
from deepsentinel.corpus.transfer import download

copying.PIECE_BYTES = 5000
calls = iter(range(10**6))

def step(*_):
    if next(calls) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

download(sys.argv[1], sys.argv[2], progress=step)
"""


def test_a_killed_download_goes_on(large: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for pieces in (11, 40):
        command = [sys.executable, "-c", KILLED, str(large), str(copy), str(pieces)]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
        assert done.returncode == -signal.SIGKILL
        assert not (copy / "index.parquet").exists()
    report = download(large, copy)
    assert report.already >= 40 * 5000 // 2
    copied = tree(copy)
    copied.pop("download.json")
    assert copied == tree(large)


def test_a_full_disk_is_said_and_the_same_command_goes_on(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = transfer.write_at
    room = iter([True] * 3 + [False])

    def full(file: int, data: bytes, start: int) -> None:
        if not next(room):
            real(file, data[:100], start)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file, data, start)

    monkeypatch.setattr(transfer, "write_at", full)
    with pytest.raises(StoreError, match=r"No space left on device.*same command"):
        download(large, tmp_path / "copy")
    monkeypatch.setattr(transfer, "write_at", real)
    assert download(large, tmp_path / "copy").already > 100
    assert verify(tmp_path / "copy").ok


def test_what_is_there_already_is_not_fetched(
    watched: Watched, large: Path, tmp_path: Path
) -> None:
    first = download(large, tmp_path / "copy", split="train")
    watched.asked.clear()
    again = download(large, tmp_path / "copy", split="train")
    assert (again.fetched, again.already, again.patches) == (0, first.fetched, first.patches)
    assert not any("/c/" in path for path, _, _ in watched.asked)


def test_other_requests_for_the_same_folder_are_refused(
    watched: Watched, large: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(CorpusExistsError, match="already holds another corpus"):
        download(large, tiny_corpus)
    download(large, tmp_path / "copy", split="train")
    with pytest.raises(CorpusExistsError, match="'split': 'val'"):
        download(large, tmp_path / "copy", split="val")
    watched.fail_after = len(watched.asked) + 3
    with pytest.raises(TransientError):
        download(large, tmp_path / "begun", split="train")
    with pytest.raises(CorpusExistsError, match="beginning of another download"):
        download(large, tmp_path / "begun", split="val")


def test_a_source_that_changed_is_not_mixed(
    watched: Watched, large: Path, tmp_path: Path, write_corpus: Callable[[Path, range], Path]
) -> None:
    download(large, tmp_path / "done")
    watched.fail_after = len(watched.asked) + 3
    with pytest.raises(TransientError):
        download(large, tmp_path / "begun")
    watched.fail_after = None
    write_corpus(large, range(140, 150))
    for copy in ("done", "begun"):
        with pytest.raises(CorpusExistsError, match="has changed"):
            download(large, tmp_path / copy)


# ---------------------------------------------------------------- damage


def _spot(root: Path, name: str, k: int) -> tuple[str, int]:
    """File and position of a byte in the middle of an array of a patch."""
    table = Corpus(root).index
    start, size = (table[f"{name}_{what}"][k].as_py() for what in ("offset", "size"))
    axes = "/0/0/0" if name in {"s1", "s2"} else "/0/0"
    return f"data.zarr/{name}/c/{table['shard'][k].as_py()}{axes}", start + size // 2


def test_damage_on_the_way_is_fetched_again(watched: Watched, large: Path, tmp_path: Path) -> None:
    watched.flip_once = {_spot(large, "s2", 7), _spot(large, "dem", 7), _spot(large, "s1", 130)}
    report = download(large, tmp_path / "copy")
    assert (report.retried, report.wrong) == (2, ())
    copied = tree(tmp_path / "copy")
    copied.pop("download.json")
    assert copied == tree(large)


@pytest.mark.parametrize("choice", [{}, {"where": "cloud < 13.5"}])
def test_damage_at_the_source_is_named_and_left_out(
    choice: dict[str, Any], large: Path, tmp_path: Path
) -> None:
    for name, k in (("s2", 7), ("dem", 131)):
        path, at = _spot(large, name, k)
        data = bytearray((large / path).read_bytes())
        data[at] ^= 1
        (large / path).write_bytes(data)
    report = download(large, tmp_path / "copy", **choice)
    assert not report.ok
    assert [d.id for d in report.wrong] == ["patch-0007", "patch-0131"]
    assert all(d.reason for d in report.wrong)
    assert "patch-0131" in str(report)
    checked = verify(tmp_path / "copy")
    assert checked.ok, str(checked)
    assert checked.patches == report.patches
    again = download(large, tmp_path / "copy", **choice)
    assert again.wrong == report.wrong


def test_a_shard_that_is_missing_costs_its_patches_only(large: Path, tmp_path: Path) -> None:
    (large / "data.zarr" / "dem" / "c" / "1" / "0" / "0").unlink()
    report = download(large, tmp_path / "copy")
    assert (report.patches, len(report.wrong)) == (128, 12)
    assert verify(tmp_path / "copy").ok


def test_a_source_without_a_sound_patch_is_an_error(tiny_corpus: Path, tmp_path: Path) -> None:
    (tiny_corpus / "data.zarr" / "dem" / "c" / "0" / "0" / "0").write_bytes(b"")
    with pytest.raises(CorruptCorpusError, match="not one of the 12 patches"):
        download(tiny_corpus, tmp_path / "copy")


# ---------------------------------------------------------------- publishing


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    store = Watched(tmp_path / "published")
    real = uploading.open_store
    monkeypatch.setattr(
        uploading,
        "open_store",
        lambda root, **options: store if str(root) == str(store.root) else real(root, **options),
    )
    return store


def test_a_published_corpus_is_the_same_and_its_index_comes_last(
    large: Path, target: Watched, tmp_path: Path
) -> None:
    report = upload(large, target.root)
    published = tree(target.root)
    assert published.pop("upload.json")
    assert published == tree(large)
    shards = [
        k for k, path in enumerate(target.written) if path.count("/c/") and "band_" not in path
    ]
    assert target.written[-3:] == ["corpus.json", "index.parquet", "upload.json"]
    assert max(shards) < min(k for k, p in enumerate(target.written) if p.endswith("zarr.json"))
    assert report.patches == 140
    assert upload(large, target.root).fetched == 0


def test_memory_and_back(large: Path, tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}/published"
    upload(large, url)
    download(url, tmp_path / "copy")
    copied = tree(tmp_path / "copy")
    copied.pop("download.json")
    assert copied == tree(large)


def test_readers_see_no_half_upload_and_none_is_sent_twice(large: Path, target: Watched) -> None:
    shards: list[str] = []
    for attempt in range(1, 60):
        target.written.clear()
        target.fail_after = 5
        try:
            upload(large, target.root)
        except TransientError:
            with pytest.raises(CorpusNotFoundError):
                Corpus(target.root)
            shards += [p for p in target.written if "/c/" in p and "band_" not in p]
            if attempt > 3:
                target.fail_after = None
                break
    target.fail_after = None
    upload(large, target.root)
    assert len(shards) == len(set(shards))
    assert verify(target.root).ok


def test_an_appended_corpus_is_brought_up_to_date(
    tiny_corpus: Path, target: Watched, write_corpus: Callable[[Path, range], Path]
) -> None:
    upload(tiny_corpus, target.root)
    target.written.clear()
    write_corpus(tiny_corpus, range(12, 20))
    upload(tiny_corpus, target.root)
    assert all("/c/1/" in p for p in target.written if "/c/" in p and "band_" not in p)
    assert len(Corpus(target.root)) == 20
    assert verify(target.root).ok


def test_another_corpus_is_not_overwritten(
    large: Path,
    tiny_corpus: Path,
    target: Watched,
    tmp_path: Path,
    write_corpus: Callable[[Path, range], Path],
) -> None:
    upload(large, target.root)
    before = tree(target.root)
    with pytest.raises(CorpusExistsError, match="with other patches"):
        upload(write_corpus(tmp_path / "other", range(5, 9)), target.root)
    (target.root / "index.parquet").unlink()
    with pytest.raises(CorpusExistsError, match="beginning of an upload"):
        upload(tiny_corpus, target.root)
    (target.root / "upload.json").unlink()
    with pytest.raises(CorpusExistsError, match="a part of one"):
        upload(tiny_corpus, target.root)
    assert {k: v for k, v in before.items() if k in tree(target.root)} == tree(target.root)


def test_damage_and_unfinished_work_are_not_published(large: Path, target: Watched) -> None:
    path, at = _spot(large, "s2", 7)
    data = bytearray((large / path).read_bytes())
    data[at] ^= 1
    (large / path).write_bytes(data)
    with pytest.raises(CorruptCorpusError, match="patch-0007"):
        upload(large, target.root)
    assert not (target.root / "index.parquet").exists()
    (large / ".writing").mkdir()
    with pytest.raises(CorpusError, match="not finished"):
        upload(large, target.root)
