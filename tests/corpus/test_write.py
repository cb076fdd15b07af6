import hashlib
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from deepsentinel.corpus.format import CorpusInfo, LabelSpec
from deepsentinel.corpus.patch import PatchPixels, PatchRecord
from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.verify import verify
from deepsentinel.corpus.write import CorpusWriter
from deepsentinel.errors import CorpusError, CorpusExistsError, LabelError, ShapeError, StoreError

SMALL = CorpusInfo(
    name="small", sensors=("s1",), bands={"s1": ("VV",)}, patch_size=8, resolution_m=10
)


def small(k):
    plane = np.random.default_rng(k).integers(-3000, 0, (1, 8, 8)).astype(np.int16)
    return PatchRecord(id=f"p{k}", split="train"), PatchPixels(s1=plane)


def write_and_stop(root, count):
    with CorpusWriter(root, SMALL) as writer:
        for k in range(count):
            writer.add(*small(k))
        raise KeyboardInterrupt


def digests(root):
    files = [p for p in sorted(root.rglob("*")) if p.is_file()]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def python(*arguments, **options):
    repository = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": repository}
    return subprocess.Popen([sys.executable, *map(str, arguments)], env=environment, **options)


def test_the_same_patches_give_the_same_bytes(tmp_path, write_corpus):
    first = write_corpus(tmp_path / "a", range(7))
    assert digests(first) == digests(write_corpus(tmp_path / "b", range(7)))
    names = {name.split("/")[0] for name in digests(first)}
    assert names == {"corpus.json", "index.parquet", "data.zarr"}


@pytest.mark.slow
def test_a_crash_at_any_call_changes_nothing_in_the_end(tmp_path):
    """Killed in the middle of a write, disk full, Ctrl-C: at every call that changes the disk."""
    driver = python(Path(__file__).with_name("crash_driver.py"), tmp_path, stdout=subprocess.PIPE)
    out, _ = driver.communicate()
    assert driver.returncode == 0
    survived = re.fullmatch(rb"survived a crash at each of (\d+) calls\n", out)
    assert survived
    assert int(survived[1]) > 120


WRITE_200 = """
import sys
from deepsentinel.corpus.write import CorpusWriter
sys.path.insert(0, sys.argv[2])
from test_write import SMALL, small
with CorpusWriter(sys.argv[1], SMALL) as writer:
    done = writer.done
    print(len(done), flush=True)
    for k in range(200):
        if f"p{k}" not in done:
            writer.add(*small(k))
"""


@pytest.mark.parametrize("seconds", [0.004, 0.03])
def test_a_writer_killed_from_outside_is_continued(tmp_path, seconds):
    """With shards of full length, at a moment that nobody chose."""
    root = tmp_path / "killed"
    with python("-c", WRITE_200, root, Path(__file__).parent, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"0\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
    left = Corpus(root)
    numbers = [int(left.record(i).id[1:]) for i in range(len(left))]
    assert numbers == list(range(len(left)))
    with CorpusWriter(root, SMALL) as writer:
        assert len(writer.done) == len(left)
        for k in range(200):
            if f"p{k}" not in writer.done:
                writer.add(*small(k))
    with CorpusWriter(tmp_path / "undisturbed", SMALL) as writer:
        for k in range(200):
            writer.add(*small(k))
    assert digests(root) == digests(tmp_path / "undisturbed")
    assert verify(root).ok


def test_an_error_in_the_block_keeps_what_was_completed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_and_stop(tmp_path, 130)
    corpus = Corpus(tmp_path)
    assert corpus.unfinished
    assert (corpus.published, len(corpus)) == (128, 130)
    assert np.array_equal(corpus.read(129).s1, small(129)[1].s1)
    here = pickle.loads(pickle.dumps(corpus))  # noqa: S301 - our own
    with CorpusWriter(tmp_path, SMALL) as writer:
        assert len(writer.done) == 130
    assert len(here) == 130  # opened before, read after: the numbers stay
    assert np.array_equal(here.read(129).s1, small(129)[1].s1)
    assert np.array_equal(corpus.read(128).s1, small(128)[1].s1)
    assert len(Corpus(tmp_path)) == 130
    assert not Corpus(tmp_path).unfinished


def test_a_damaged_tail_of_the_shard_in_progress_is_written_again(tmp_path):
    """After a power cut the journal may say more than the disk holds."""
    with pytest.raises(KeyboardInterrupt):
        write_and_stop(tmp_path, 10)
    part = tmp_path / ".writing" / "s1.0.part"
    data = bytearray(part.read_bytes())
    data[len(data) * 3 // 4 :] = bytes(len(data) - len(data) * 3 // 4)
    part.write_bytes(data)
    with CorpusWriter(tmp_path, SMALL) as writer:
        assert len(writer.done) in {7, 8}
        for k in range(len(writer.done), 10):
            writer.add(*small(k))
    assert verify(tmp_path).ok
    assert len(Corpus(tmp_path)) == 10


def test_append_begins_a_new_shard_and_leaves_the_old_one(tmp_path, write_corpus, make_patch):
    root = write_corpus(tmp_path / "grow", range(5))
    before = {p: p.read_bytes() for p in (root / "data.zarr").rglob("c/0/**/*") if p.is_file()}
    write_corpus(root, range(5, 8))
    corpus = Corpus(root)
    assert corpus.index["row"].to_pylist() == [0, 1, 2, 3, 4, 128, 129, 130]
    assert all(path.read_bytes() == data for path, data in before.items())
    for k in range(8):
        got, wanted = corpus.read(k).s2, make_patch(k)[1].s2
        assert (got is None) == (wanted is None)
        assert wanted is None or np.array_equal(got, wanted)
    import zarr

    array = zarr.open_group(root / "data.zarr", mode="r")["s1"]
    assert array.shape[0] == 131
    assert (array[5:128] == -32768).all()
    assert verify(root).ok


def test_a_finished_corpus_opened_for_nothing_stays_as_it_is(tiny_corpus, info):
    before = digests(tiny_corpus)
    with CorpusWriter(tiny_corpus, replace(info, description="another")) as writer:
        assert len(writer.done) == 12
    assert digests(tiny_corpus) == before


def test_what_is_there_is_not_overwritten(tiny_corpus, info, tmp_path):
    with pytest.raises(CorpusExistsError, match="already holds a corpus"):
        CorpusWriter(tiny_corpus, info, resume=False)
    with pytest.raises(CorpusExistsError, match=r"patch_size: there 16, asked 32"):
        CorpusWriter(tiny_corpus, replace(info, patch_size=32))
    with CorpusWriter(tiny_corpus, info):
        pass  # the refusal let go of the lock
    (tmp_path / "other" / "data.zarr").mkdir(parents=True)
    with pytest.raises(CorpusExistsError, match="not a corpus and will not be overwritten"):
        CorpusWriter(tmp_path / "other", info)
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusExistsError, match="is a file"):
        CorpusWriter(tmp_path / "file", info)


def _try_to_write(root, answer):
    try:
        CorpusWriter(root, SMALL)
        answer.send("no error")
    except CorpusExistsError as error:
        answer.send(str(error))


def test_a_second_writer_is_refused(tmp_path):
    writer = CorpusWriter(tmp_path, SMALL)
    with pytest.raises(CorpusExistsError, match=f"by process {os.getpid()} at this moment"):
        CorpusWriter(tmp_path, SMALL)
    context = multiprocessing.get_context("spawn")
    told, answer = context.Pipe(duplex=False)
    process = context.Process(target=_try_to_write, args=(tmp_path, answer))
    process.start()
    answer.close()  # the child's is the last: if it dies, nothing is waited for
    assert f"being written by process {os.getpid()}" in told.recv()
    told.close()
    process.join()
    writer.add(*small(0))
    writer.close()
    writer.close()
    assert len(Corpus(tmp_path)) == 1
    with pytest.raises(CorpusError, match="closed or has failed"):
        writer.add(*small(1))


def test_a_lock_left_by_a_dead_process_holds_nobody_up(tmp_path):
    (tmp_path / ".writing").mkdir(parents=True)
    (tmp_path / ".writing" / "lock").write_text("4194304\n")
    with CorpusWriter(tmp_path, SMALL) as writer:
        writer.add(*small(0))
    assert len(Corpus(tmp_path)) == 1


def test_remains_of_a_deleted_corpus_are_not_taken_over(tmp_path):
    """`rm -r corpus/*` leaves the hidden folder of an interrupted writer."""
    with pytest.raises(KeyboardInterrupt):
        write_and_stop(tmp_path, 3)
    for name in ("corpus.json", "index.parquet"):
        (tmp_path / name).unlink()
    shutil.rmtree(tmp_path / "data.zarr")
    with CorpusWriter(tmp_path, SMALL) as writer:
        assert not writer.done
        writer.add(*small(7))
    assert Corpus(tmp_path).record(0).id == "p7"
    assert not (tmp_path / ".writing").exists()


FULL = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from test_write import SMALL, small
from deepsentinel.corpus.write import CorpusWriter
writer = CorpusWriter(sys.argv[1], SMALL)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
for k in range(100):
    writer.add(*small(k))
"""


def test_a_file_that_may_not_grow_gives_a_clear_error(tmp_path):
    """A real refusal of the operating system, half-way through a write."""
    with python("-c", FULL, tmp_path, Path(__file__).parent, stderr=subprocess.PIPE) as process:
        _, message = process.communicate()
    assert b"StoreError: cannot write to" in message
    assert b"Every completed patch is safe" in message
    with CorpusWriter(tmp_path, SMALL) as writer:
        done = len(writer.done)
        assert 5 < done < 60
        for k in range(done, 100):
            writer.add(*small(k))
    assert verify(tmp_path).patches == 100


def test_a_place_where_no_folder_can_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write to .*: Not a directory"):
        CorpusWriter(tmp_path / "file" / "corpus", SMALL)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"s1": np.zeros((2, 8, 8), np.int16)},
            ShapeError,
            r"s1 .* int16 \(2, 8, 8\); .* \(1, 8, 8\)",
        ),
        ({"s1": np.zeros((1, 8, 8), np.int32)}, ShapeError, "int32"),
        ({"s1": None}, CorpusError, "no pixels of any sensor"),
        ({"s2": np.zeros((12, 8, 8), np.uint16)}, CorpusError, "brings 's2'"),
        ({"rasters": {"dme": np.zeros((8, 8), np.float32)}}, CorpusError, "brings 'dme'"),
    ],
)
def test_pixels_that_do_not_fit(tmp_path, change, error, message):
    record, pixels = small(0)
    with CorpusWriter(tmp_path, SMALL) as writer:
        with pytest.raises(error, match=message):
            writer.add(record, replace(pixels, **change))
        writer.add(record, pixels)
        with pytest.raises(CorpusError, match="already in"):
            writer.add(record, pixels)
    assert len(Corpus(tmp_path)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "not empty"),
        ({"date_s1": datetime(2021, 1, 1)}, "no time zone"),
        ({"lon": 270.0, "lat": 10.0}, "longitude 270.0"),
        ({"crs": "EPSG:1", "transform": (1, 0, 0, 0, 1, 0)}, "no place on Earth"),
    ],
)
def test_records_that_cannot_be(tmp_path, change, message):
    record, pixels = small(0)
    with CorpusWriter(tmp_path, SMALL) as writer, pytest.raises(CorpusError, match=message):
        writer.add(replace(record, **change), pixels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"dominant": 3}, r"class ids \[3\]; ids run from 0 to 2"),
        ({"present": (0, -1)}, r"class ids \[-1\]"),
        ({"things": ((0, 0, 1, 1, 9),)}, r"class ids \[9\]"),
        ({"yield": (1.0, 2.0)}, "2 values for the 1 channels"),
        ({"landcover": 1}, "is a raster"),
        ({"dominnat": 1}, "Did you mean 'dominant'"),
    ],
)
def test_labels_outside_their_scheme(tmp_path, info, make_patch, labels, message):
    record, pixels = make_patch(0)
    with CorpusWriter(tmp_path, info) as writer, pytest.raises(LabelError, match=message):
        writer.add(replace(record, labels=labels), pixels)


def test_a_mask_with_codes_where_ids_belong(tmp_path, info, make_patch):
    record, pixels = make_patch(0)
    codes = {"landcover": np.full((16, 16), 80, np.int16)}
    with (
        CorpusWriter(tmp_path, info) as writer,
        pytest.raises(LabelError, match=r"values from 80 to 80.*Scheme.encode"),
    ):
        writer.add(record, replace(pixels, rasters=codes))


def test_many_shards_write_the_index_now_and_then(tmp_path, monkeypatch):
    """The index is rewritten as a whole: not after each of thousands of shards."""
    import deepsentinel.corpus.write as module

    monkeypatch.setattr(module, "PATCHES_PER_SHARD", 1)
    monkeypatch.setattr(module, "_EVERY_SHARD_UNTIL", 4)
    monkeypatch.setattr("deepsentinel.corpus.part.PATCHES_PER_SHARD", 1)
    written = []
    real = module.write_index
    monkeypatch.setattr(
        module, "write_index", lambda table, path: (written.append(len(table)), real(table, path))
    )
    with CorpusWriter(tmp_path, SMALL) as writer:
        for k in range(20):
            writer.add(*small(k))
    assert written == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 16, 20]


def test_done_is_a_snapshot(tmp_path):
    with CorpusWriter(tmp_path, SMALL) as writer:
        before = writer.done
        writer.add(*small(0))
        assert writer.done == {"p0"}
        assert before == frozenset()
        assert writer.done is writer.done


def test_labels_without_a_scheme_take_any_id(tmp_path):
    info = replace(SMALL, labels=(LabelSpec("kind", "label"),))
    record, pixels = small(0)
    with CorpusWriter(tmp_path, info) as writer:
        writer.add(replace(record, labels={"kind": 1234}), pixels)
    assert Corpus(tmp_path).record(0).labels == {"kind": 1234}
