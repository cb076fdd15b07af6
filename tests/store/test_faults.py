"""What clouds and networks do on bad days: the right bytes or the right error, after so many tries."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.verify import verify
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.errors import (
    CorruptCorpusError,
    NotAuthorisedError,
    RequesterPaysError,
    StoreError,
    StoreNotFoundError,
    TransientError,
)
from deepsentinel.store import Store, open_store
from deepsentinel.store.retry import Retry
from tests.servers.cloud import Cloud

FOUR = Retry(attempts=4, deadline_s=6000, attempt_s=600, backoff_s=0.01)
"""Ends by its tries alone, however busy the machine is that it runs on."""
DATA = bytes(range(256)) * 40
ALL = ("GET", "HEAD", "POST", "PUT")


def opened(cloud: Cloud) -> Store:
    """A store of one file, whose client has been made, with the policy of four tries."""
    cloud.put("faults/a.bin", DATA)
    store = open_store(cloud.url("faults"), storage_options=cloud.storage_options)
    assert store.read_range("a.bin", 0, 1) == DATA[:1]
    store._retry = FOUR
    cloud.forget()
    return store


# ---------------------------------------------------------------- once


@pytest.mark.parametrize("kind", ["503", "429", "500", "reset", "short", "cut"])
def test_once(cloud: Cloud, kind: str) -> None:
    store = opened(cloud)
    cloud.fault(kind, match="a.bin")
    assert store.read_range("a.bin", 100, 5000) == DATA[100:5100]
    assert [r.fault for r in cloud.gets] == [kind, None]


def test_a_late_answer_is_an_answer(cloud: Cloud) -> None:
    store = opened(cloud)
    with cloud.fault("hold", match="a.bin") as fault, ThreadPoolExecutor() as pool:
        reading = pool.submit(store.read_range, "a.bin", 100, 5000)
        assert fault.holds("a.bin")
        assert not reading.done()
        fault.end()
        assert reading.result() == DATA[100:5100]
    assert [r.fault for r in cloud.gets] == ["hold"]


def test_only_what_failed_is_fetched_again(cloud: Cloud) -> None:
    store = opened(cloud)
    cloud.fault("503", match="a.bin")
    ranges = [(k * 100, 100) for k in range(8)]
    assert store.read_ranges("a.bin", ranges) == [DATA[s : s + n] for s, n in ranges]
    assert len(cloud.gets) == 9


# A second upload of huggingface_hub's passes bytes to httpx in its old way.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.parametrize("call", ["size", "exists", "list", "read", "write"])
@pytest.mark.parametrize("kind", ["503", "reset", "short"])
def test_every_call_is_tried_again(cloud: Cloud, call: str, kind: str) -> None:
    if cloud.name == "http" and call == "write":
        pytest.skip("web servers are only read")
    if kind == "short" and (cloud.name, call) in {
        ("http", "list"),
        ("http", "size"),
        ("http", "exists"),
    }:
        pytest.skip("half a page of links is a page of links, and HEAD has no body")
    store = opened(cloud)
    cloud.fault(kind, methods=ALL)
    arguments = {"list": ("",), "write": ("b.bin", b"written")}
    found = getattr(store, call)(*arguments.get(call, ("a.bin",)))
    if call == "write":
        assert cloud.get("faults/b.bin") == b"written"
    elif call == "list":
        assert "a.bin" in found
    else:
        assert found == {"size": len(DATA), "exists": True, "read": DATA}[call]
    assert kind in {r.fault for r in cloud.log} or {r.method for r in cloud.log} == {"HEAD"}


# ---------------------------------------------------------------- for ever


@pytest.mark.parametrize("kind", ["503", "429", "reset", "cut", "short"])
def test_for_ever(cloud: Cloud, kind: str) -> None:
    store = opened(cloud)
    cloud.fault(kind, times=None, match="a.bin", ranges_only=True)
    with pytest.raises(StoreError) as caught:
        store.read_range("a.bin", 100, 5000)
    assert f"{cloud.url('faults')}/a.bin" in str(caught.value)
    assert isinstance(caught.value, TransientError) or kind == "short"
    if kind == "short":
        assert re.search(
            "truncated: asked for 5000 bytes from 100, found [0-9]+", str(caught.value)
        )
    # aiohttp asks once more by itself where a connection that it kept was closed, and azure's client
    # goes on twice from where a body broke off.
    assert "after 4 tries" in str(caught.value)
    assert len([r for r in cloud.gets if r.range]) <= 3 * FOUR.attempts


def test_a_server_that_never_answers(cloud: Cloud) -> None:
    store = opened(cloud)
    store._retry = replace(FOUR, attempt_s=0.3)
    cloud.fault("hold", times=None, match="a.bin")
    with pytest.raises(TransientError, match=r"a\.bin could not be reached.*after 4 tries"):
        store.read_range("a.bin", 0, 10)


@pytest.mark.parametrize("call", ["size", "exists", "list", "read", "write"])
@pytest.mark.parametrize(
    ("kind", "expected"), [("503", TransientError), ("403", NotAuthorisedError)]
)
def test_no_answer_is_never_taken_for_no(
    cloud: Cloud, call: str, kind: str, expected: type[StoreError]
) -> None:
    if cloud.name == "http" and call == "write":
        pytest.skip("web servers are only read")
    store = opened(cloud)
    cloud.fault(kind, times=None, methods=ALL)
    arguments = {"list": ("",), "write": ("a.bin", b"1")}
    with pytest.raises(expected):
        getattr(store, call)(*arguments.get(call, ("a.bin",)))
    assert cloud.get("faults/a.bin") == DATA


# ---------------------------------------------------------------- credentials


@pytest.mark.parametrize("kind", ["401", "403"])
def test_expired_credentials(cloud: Cloud, kind: str) -> None:
    store = opened(cloud)
    cloud.fault(kind, times=None, methods=ALL)
    with pytest.raises(NotAuthorisedError, match="storage_options") as caught:
        store.read_range("a.bin", 0, 10)
    assert not isinstance(caught.value, RequesterPaysError)
    assert f"{cloud.url('faults')}/a.bin" in str(caught.value)
    assert len(cloud.log) <= 2, "asking again does not make a credential valid"


def test_a_file_that_went_away(cloud: Cloud) -> None:
    store = opened(cloud)
    cloud.delete("faults/a.bin")
    with pytest.raises(StoreNotFoundError, match=r"a\.bin"):
        store.read_range("a.bin", 0, 10)


# ---------------------------------------------------------------- corpora


@pytest.fixture(scope="module")
def local_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 patches of 32 px."""
    folder = tmp_path_factory.mktemp("faults") / "corpus"
    return write_synthetic_corpus(folder, patches=6, patch_size=32, seed=6)


def published(cloud: Cloud, local_root: Path) -> str:
    if not cloud.names("faulty-corpus/"):
        cloud.put_folder(local_root, "faulty-corpus")
    return cloud.url("faulty-corpus")


@pytest.mark.parametrize("kind", ["flip", "short", "cut", "503", "429", "reset"])
def test_a_sample_survives(cloud: Cloud, local_root: Path, kind: str) -> None:
    url = published(cloud, local_root)
    corpus = Corpus(url, storage_options=cloud.storage_options)
    here = Corpus(local_root).read(2)
    _ = corpus.record(2)
    cloud.forget()
    cloud.fault(kind, match="data.zarr/s2")
    patch = corpus.read(2)
    assert np.array_equal(patch.s1, here.s1)
    assert np.array_equal(patch.s2, here.s2)
    pixels = [r for r in cloud.gets if "data.zarr/s2" in r.path]
    assert [r.fault for r in pixels] == [kind, None]


def test_sensors_travel_together(cloud: Cloud, local_root: Path) -> None:
    corpus = Corpus(published(cloud, local_root), storage_options=cloud.storage_options)
    _ = corpus.read(0)
    with cloud.fault("hold", times=None, match="data.zarr") as fault, ThreadPoolExecutor() as pool:
        reading = pool.submit(corpus.read, 1)
        assert fault.holds("data.zarr/s1", "data.zarr/s2"), "neither waits for the other's answer"
        fault.end()
        assert np.array_equal(reading.result().s2, Corpus(local_root).read(1).s2)


@pytest.mark.parametrize(("array", "patch"), [("s1", 0), ("s2", 3), ("landcover", 1)])
def test_a_byte_that_stays_wrong_is_named(
    cloud: Cloud, local_root: Path, array: str, patch: int
) -> None:
    url = published(cloud, local_root)
    data = DeepSentinelDataset(url, "train", storage_options=cloud.storage_options)
    corpus = Corpus(url, storage_options=cloud.storage_options)
    number = int(corpus.rows("train")[patch % len(data)])
    name = corpus.record(number).id
    cloud.fault("flip", times=None, match=f"data.zarr/{array}")
    with pytest.raises(CorruptCorpusError) as caught:
        _ = data[patch % len(data)]
    for part in (url, f"data.zarr/{array}", repr(name)):
        assert part in str(caught.value)


@pytest.mark.parametrize("kind", ["flip", "short", "cut"])
@pytest.mark.parametrize("file", ["corpus.json", "index.parquet"])
def test_damage_on_opening(cloud: Cloud, local_root: Path, file: str, kind: str) -> None:
    url = published(cloud, local_root)
    here = Corpus(local_root)
    cloud.fault(kind, match=file, ranges_only=True)
    corpus = Corpus(url, storage_options=cloud.storage_options)
    assert corpus.info == here.info
    assert corpus.index.equals(here.index)


def test_verify_names_what_is_wrong(cloud: Cloud, local_root: Path) -> None:
    url = published(cloud, local_root)
    names = cloud.names("faulty-corpus/data.zarr/s2/c/")
    whole = cloud.get(names[0])
    corpus = Corpus(local_root)
    start, size = (corpus.index[f"s2_{part}"][4].as_py() for part in ("offset", "size"))
    damaged = bytearray(whole)
    damaged[start + size // 2] ^= 1
    cloud.put(names[0], bytes(damaged))
    try:
        report = verify(url, storage_options=cloud.storage_options)
    finally:
        cloud.put(names[0], whole)
    assert [bad[0] for bad in report.bad] == [corpus.record(4).id]
