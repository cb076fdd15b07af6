import multiprocessing
import os
import pickle
import threading
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from deepsentinel.corpus.codes import S1_NOT_OBSERVED
from deepsentinel.corpus.facts import load_info
from deepsentinel.corpus.format import CorpusInfo, dump_json
from deepsentinel.corpus.index import info_crc, stated_info_crc
from deepsentinel.corpus.opening import open_corpus
from deepsentinel.corpus.patch import PatchPixels, PatchRecord
from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.write import CorpusWriter
from deepsentinel.errors import (
    BandError,
    CorpusError,
    CorpusNotFoundError,
    CorruptCorpusError,
    SplitError,
    UnknownNameError,
)
from deepsentinel.store import open_store


def same(got, wanted):
    if got is None or wanted is None:
        return got is wanted
    return got.dtype == wanted.dtype and np.array_equal(
        got, wanted, equal_nan=got.dtype.kind == "f"
    )


@pytest.mark.parametrize("checksum", [False, True])
def test_every_patch_comes_back(tiny_corpus, make_patch, info, checksum):
    corpus = Corpus(tiny_corpus, checksum=checksum)
    assert len(corpus) == 12
    for k in range(12):
        record, pixels = make_patch(k)
        got = corpus.read(k, rasters=info.rasters)
        assert same(got.s1, pixels.s1)
        assert same(got.s2, pixels.s2)
        assert got.rasters.keys() == pixels.rasters.keys()
        assert all(same(got.rasters[n], pixels.rasters[n]) for n in pixels.rasters)
        found = corpus.record(k)
        assert replace(found, lon=None, lat=None) == record
        assert found.lon == pytest.approx(3.0, abs=0.1)
        assert corpus.find(record.id) == k


def test_info_tells_what_is_there(tiny_corpus, info):
    corpus = open_corpus(tiny_corpus)
    assert corpus.info == replace(info, count=12, splits={"train": 3, "val": 3, "test": 3})
    assert not corpus.unfinished
    assert corpus.rows("val").tolist() == [1, 5, 9]
    assert corpus.rows().tolist() == list(range(12))
    assert corpus.index.num_rows == 12


def test_bands_in_any_order(tiny_corpus, make_patch):
    corpus = Corpus(tiny_corpus)
    _, pixels = make_patch(0)
    got = corpus.read(0, sensors=("s2",), bands={"s2": ("nir-narrow", "B02")})
    assert got.s1 is None
    assert np.array_equal(got.s2, pixels.s2[[3, 0]])


def test_physical_values_equal_a_slow_loop(tiny_corpus, make_patch):
    corpus = Corpus(tiny_corpus)
    for k in range(12):
        _, pixels = make_patch(k)
        got = corpus.read_physical(k)
        for sensor in ("s1", "s2"):
            codes = pixels.sensor(sensor)
            assert (sensor in got) == (codes is not None)
            if codes is None:
                continue
            missing = codes == (S1_NOT_OBSERVED if sensor == "s1" else 0)
            wanted = codes / 100.0 if sensor == "s1" else (codes.astype(float) - 1000) / 10000
            wanted[missing] = np.nan
            assert got[sensor].dtype == np.float32
            np.testing.assert_allclose(got[sensor], wanted, rtol=0, atol=2e-6)


def test_rasters_come_as_stored_beside_physical_values(tiny_corpus, make_patch):
    got = Corpus(tiny_corpus).read_physical(0, sensors=("s1",), rasters=("cloud", "landcover"))
    assert list(got) == ["s1", "cloud", "landcover"]
    assert same(got["cloud"], make_patch(0)[1].rasters["cloud"])


def test_a_raster_alone(tiny_corpus, make_patch):
    got = Corpus(tiny_corpus).read(0, sensors=(), rasters=("dem",))
    assert got.s1 is None
    assert got.s2 is None
    assert same(got.rasters["dem"], make_patch(0)[1].rasters["dem"])


def test_a_corpus_that_grows_keeps_its_length_until_opened_again(tiny_corpus, write_corpus):
    before = Corpus(tiny_corpus)
    write_corpus(tiny_corpus, range(12, 14))
    assert len(before) == before.index.num_rows == before.info.count == 12
    with pytest.raises(IndexError):
        before.record(12)
    assert len(Corpus(tiny_corpus)) == 14


def test_results_are_fresh_and_independent(tiny_corpus, make_patch):
    corpus = Corpus(tiny_corpus)
    first = corpus.read_physical(0)["s2"]
    kept = first.copy()
    corpus.read_physical(1)
    corpus.read_physical(0)["s2"][:] = 7
    assert np.array_equal(first, kept)


def test_other_sensors_are_not_touched(tiny_corpus):
    (tiny_corpus / "data.zarr" / "s1" / "c" / "0" / "0" / "0" / "0").unlink()
    corpus = Corpus(tiny_corpus)
    assert corpus.read(0, sensors=("s2",)).s2 is not None
    with pytest.raises(CorruptCorpusError, match=r"data.zarr/s1/c/0/0/0/0.*patch-0000"):
        corpus.read(0)


def test_numbers_count_from_both_ends_and_stop(tiny_corpus, make_patch):
    corpus = Corpus(tiny_corpus)
    assert corpus.record(-1).id == make_patch(11)[0].id
    assert corpus.record(np.int64(3)).id == make_patch(3)[0].id
    for i in (12, -13):
        with pytest.raises(IndexError, match=r"of a corpus of 12 patches"):
            corpus.read(i)


def test_names_that_do_not_exist(tiny_corpus):
    corpus = Corpus(tiny_corpus)
    with pytest.raises(SplitError, match=r"no split 'trian'.*Did you mean 'train'.*train val test"):
        corpus.rows("trian")
    with pytest.raises(BandError, match=r"B08.*Known: B02 B03 B04 B8A"):
        corpus.read(0, bands={"s2": ("B08",)})
    with pytest.raises(BandError, match=r"B77"):
        corpus.read(0, bands={"s2": ("B77",)})
    with pytest.raises(UnknownNameError, match=r"no raster 'clouds'.*landcover height cloud dem"):
        corpus.read(0, rasters=("clouds",))
    with pytest.raises(UnknownNameError, match=r"s3"):
        corpus.read(0, sensors=("s3",))
    with pytest.raises(UnknownNameError, match=r"no patch 'patch-0099'"):
        corpus.find("patch-0099")


def test_a_sensor_that_the_corpus_lacks(tmp_path):
    info = CorpusInfo(
        name="radar", sensors=("s1",), bands={"s1": ("VV",)}, patch_size=8, resolution_m=10
    )
    with CorpusWriter(tmp_path, info) as writer:
        writer.add(PatchRecord(id="a"), PatchPixels(s1=np.zeros((1, 8, 8), np.int16)))
    with pytest.raises(UnknownNameError, match=r"'radar' holds no 's2'.*Known: s1"):
        Corpus(tmp_path).read(0, sensors=("s1", "s2"))


def test_nowhere_says_what_is_there(tmp_path):
    with pytest.raises(
        CorpusNotFoundError, match=r"corpus.json is not there. It is empty or missing"
    ):
        Corpus(tmp_path / "nowhere")
    (tmp_path / "holiday.jpg").write_bytes(b"")
    (tmp_path / "more").mkdir()
    with pytest.raises(CorpusNotFoundError, match=r"It holds holiday.jpg more/\."):
        Corpus(tmp_path)
    with pytest.raises(UnknownNameError, match=r"no store for URLs of ftp://"):
        Corpus("ftp://host/corpus")


def test_another_format_version(tiny_corpus, info):
    value = info.to_json() | {"format_version": 99}
    (tiny_corpus / "corpus.json").write_bytes(dump_json(value))
    with pytest.raises(CorpusError, match=r"format version 99.*reads 1"):
        Corpus(tiny_corpus)


def test_files_that_are_not_what_they_should_be(tiny_corpus):
    index = tiny_corpus / "index.parquet"
    whole = index.read_bytes()
    index.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptCorpusError, match=r"index.parquet cannot be read"):
        Corpus(tiny_corpus)
    (tiny_corpus / "corpus.json").write_text("{")
    with pytest.raises(CorruptCorpusError, match=r"not JSON"):
        Corpus(tiny_corpus)


class Damaging:
    """A store that gives another `corpus.json` the first few times."""

    def __init__(self, store, times):
        self.store, self.times, self.url = store, times, store.url

    def read(self, path):
        data = self.store.read(path)
        if path == "corpus.json" and self.times:
            self.times -= 1
            return data.replace(b'"B03"', b'"B05"')
        return data

    def exists(self, path):
        return self.store.exists(path)


def test_facts_are_held_to_the_index(tiny_corpus, info):
    crc = stated_info_crc(pq.read_schema(tiny_corpus / "index.parquet"))
    assert crc == info_crc(info.to_json())
    here = load_info(open_store(tiny_corpus))
    once = Damaging(open_store(tiny_corpus), times=1)
    assert load_info(once, index_crc=lambda: crc) == here
    always = Damaging(open_store(tiny_corpus), times=2)
    with pytest.raises(CorruptCorpusError, match=r"corpus.json is not what the index was written"):
        load_info(always, index_crc=lambda: crc)
    path = tiny_corpus / "corpus.json"
    path.write_bytes(dump_json({**here.to_json(), "licence": "CC0-1.0"}))
    assert Corpus(tiny_corpus, checksum=True).info.licence == "CC0-1.0"
    path.write_bytes(dump_json({**here.to_json(), "resolution_m": 20}))
    with pytest.raises(CorruptCorpusError, match=r"the index states"):
        Corpus(tiny_corpus, checksum=True)


def test_an_index_of_an_earlier_writer_states_nothing(tiny_corpus):
    path = tiny_corpus / "index.parquet"
    table = pq.read_table(path)
    geo = {b"geo": table.schema.metadata[b"geo"]}
    pq.write_table(table.replace_schema_metadata(geo), path)
    assert len(Corpus(tiny_corpus, checksum=True)) == len(table)


def damage(path, place, bit=0x10):
    data = bytearray(path.read_bytes())
    data[place] ^= bit
    path.write_bytes(data)


def test_every_flipped_byte_of_a_patch_is_found(tiny_corpus):
    """Header, stream, checksum: each byte of one patch in turn, and the neighbour stays readable."""
    path = tiny_corpus / "data.zarr" / "s1" / "c" / "0" / "0" / "0" / "0"
    corpus = Corpus(tiny_corpus, checksum=True)
    row = corpus.index.slice(1, 1).to_pylist()[0]
    whole = path.read_bytes()
    for place in range(row["s1_offset"], row["s1_offset"] + row["s1_size"], 7):
        damage(path, place)
        with pytest.raises(CorruptCorpusError, match=r"s1/c/0/0/0/0.*'patch-0001'"):
            Corpus(tiny_corpus, checksum=True).read_physical(1, sensors=("s1",))
        Corpus(tiny_corpus, checksum=True).read(0)
        path.write_bytes(whole)


def test_without_checksum_a_broken_frame_is_an_error_all_the_same(tiny_corpus):
    path = tiny_corpus / "data.zarr" / "s2" / "c" / "0" / "0" / "0" / "0"
    row = Corpus(tiny_corpus).index.slice(2, 1).to_pylist()[0]
    whole = path.read_bytes()
    for header_byte in (0, 3, 4, 6, 12, 13, 15):  # version, item size, length, stored length
        damage(path, row["s2_offset"] + header_byte, 0x55)
        with pytest.raises(CorruptCorpusError, match=r"s2/c/0/0/0/0.*'patch-0002'"):
            Corpus(tiny_corpus).read(2)
        path.write_bytes(whole)


def test_a_truncated_shard_names_shard_and_patch(tiny_corpus):
    path = tiny_corpus / "data.zarr" / "s2" / "c" / "0" / "0" / "0" / "0"
    row = Corpus(tiny_corpus).index.slice(3, 1).to_pylist()[0]
    os.truncate(path, row["s2_offset"] + row["s2_size"] - 1)
    corpus = Corpus(tiny_corpus)
    corpus.read(2)
    with pytest.raises(CorruptCorpusError, match=r"s2/c/0/0/0/0.*'patch-0003'.*truncated"):
        corpus.read(3)


def test_pickles_small_and_reads_on(tiny_corpus, make_patch):
    corpus = Corpus(tiny_corpus, checksum=True)
    corpus.read(0)
    corpus.record(0)
    data = pickle.dumps(corpus)
    assert len(data) < 20_000
    again = pickle.loads(data)  # noqa: S301 - written one line above
    assert same(again.read(1).s2, make_patch(1)[1].s2)
    assert "checksum=True" in repr(again)


def _child(corpus, answer):
    answer.send(float(np.nansum(corpus.read_physical(3)["s1"])))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on fork
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_reads_in_another_process(tiny_corpus, method):
    corpus = Corpus(tiny_corpus)
    wanted = float(np.nansum(corpus.read_physical(3)["s1"]))
    if method == "fork":  # the plain system call: multiprocessing would warn of torch's threads
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(into, repr(float(np.nansum(corpus.read_physical(3)["s1"]))).encode())
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert float(os.read(out, 100)) == wanted
        os.close(out)
        os.close(into)
        return
    context = multiprocessing.get_context(method)
    found, answer = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(corpus, answer))
    process.start()
    answer.close()  # the child's is the last: if it dies, nothing is waited for
    assert found.recv() == wanted
    found.close()
    process.join()


def test_threads_do_not_disturb_each_other(tiny_corpus, make_patch):
    corpus = Corpus(tiny_corpus)
    wrong = []

    def work(offset):
        for n in range(60):
            k = (n + offset) % 12
            got = corpus.read_physical(k, sensors=("s2",)).get("s2")
            codes = make_patch(k)[1].s2
            if codes is not None and not np.allclose(
                np.nan_to_num(got, nan=-0.1), (codes / 1.0 - 1000) / 10000, atol=1e-6
            ):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
