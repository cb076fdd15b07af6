"""One contract for every place that bytes come from, against real servers."""

import json
import os
import pickle
import subprocess
import sys
import textwrap
import traceback
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepsentinel.corpus.read import Corpus
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.errors import (
    NotAuthorisedError,
    RequesterPaysError,
    StoreError,
    StoreNotFoundError,
)
from deepsentinel.store import Store, open_store
from tests.servers.cloud import Cloud
from tests.servers.fixtures import CLOUDS

# huggingface_hub uploads LFS files in a way that its HTTP client deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
REPOSITORY = Path(__file__).parents[2]
DATA = bytes(range(256)) * 40
HARD_NAME = "with space/é+%41&=1.bin"


@dataclass
class Place:
    """Somewhere that stores files."""

    name: str
    root: str
    options: Mapping[str, Any]
    put: Callable[[str, bytes], None]

    def open(self) -> Store:
        return open_store(self.root, storage_options=self.options)


@pytest.fixture(params=("local", "memory", *CLOUDS))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    folder = f"contract/{request.node.name.partition('[')[0]}"
    if request.param in {"local", "memory"}:
        root = str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"
        return Place(request.param, root, {}, open_store(root).write)
    cloud: Cloud = request.getfixturevalue(request.param)
    return Place(
        cloud.name,
        cloud.url(folder),
        cloud.storage_options,
        lambda path, data: cloud.put(f"{folder}/{path}", data),
    )


# ---------------------------------------------------------------- the store


def test_reading(place: Place) -> None:
    place.put("a/b.bin", DATA)
    store = place.open()
    assert isinstance(store, Store)
    assert store.read_range("a/b.bin", 10, 3) == b"\x0a\x0b\x0c"
    assert store.read_range("a/b.bin", len(DATA) - 1, 1) == DATA[-1:]
    assert store.read_range("a/b.bin", 5, 0) == b""
    ranges = [(300, 500), (0, 2), (300, 1), (len(DATA) - 7, 7)]
    assert store.read_ranges("a/b.bin", ranges) == [DATA[s : s + n] for s, n in ranges]
    assert store.read("a/b.bin") == DATA
    assert store.size("a/b.bin") == len(DATA)


def test_an_empty_file(place: Place) -> None:
    if place.name == "gcs":
        pytest.skip("the emulator of Google Cloud Storage drops the connection on an empty upload")
    place.put("empty", b"")
    store = place.open()
    assert (store.read("empty"), store.size("empty")) == (b"", 0)


def test_names_that_urls_must_quote(place: Place) -> None:
    place.put(HARD_NAME, DATA)
    store = place.open()
    assert store.read_range(HARD_NAME, 256, 4) == DATA[:4]
    assert store.size(HARD_NAME) == len(DATA)
    assert store.exists(HARD_NAME)
    assert store.list("with space") == [HARD_NAME.partition("/")[2]]


def test_ranges_beyond_the_end(place: Place) -> None:
    place.put("a.bin", DATA)
    store = place.open()
    for start, size in ((len(DATA) - 3, 10), (len(DATA) + 100, 4)):
        with pytest.raises(StoreError, match="truncated") as caught:
            store.read_range("a.bin", start, size)
        assert "a.bin" in str(caught.value)


def test_what_is_not_there(place: Place) -> None:
    place.put("a/b.bin", DATA)
    store = place.open()
    for read in (store.read, store.size, lambda path: store.read_range(path, 0, 1)):
        with pytest.raises(StoreNotFoundError, match=r"nope\.bin"):
            read("a/nope.bin")
    assert not store.exists("a/nope.bin")
    assert store.exists("a/b.bin")
    assert store.list("a/nope") == []


def test_listing(place: Place) -> None:
    for name in ("z.txt", "a/b.bin", "a/c/d", "a/c/e", "ab"):
        place.put(name, b"1")
    store = place.open()
    assert store.list() == ["a/", "ab", "z.txt"]
    assert store.list("a") == ["b.bin", "c/"]
    assert store.list("a/c") == ["d", "e"]


def test_writing(place: Place) -> None:
    place.put("a.bin", b"old")
    store = place.open()
    if place.name == "http":
        with pytest.raises(StoreError, match="only read"):
            store.write("a.bin", DATA)
        return
    assert store.read("a.bin") == b"old"
    store.write("a.bin", DATA)
    store.write("new/b.bin", b"x")
    assert store.read("a.bin") == DATA
    assert store.size("a.bin") == len(DATA)
    assert place.open().read_range("new/b.bin", 0, 1) == b"x"
    assert store.list("new") == ["b.bin"]


def test_a_file_that_was_replaced_is_another_version(place: Place) -> None:
    place.put("a.bin", b"one")
    store = place.open()
    before = store.version("a.bin")
    assert store.version("a.bin") == before
    place.put("a.bin", b"two")
    assert store.version("a.bin") != before
    assert store.read("a.bin") == b"two"


def test_a_store_travels(place: Place) -> None:
    place.put("a.bin", DATA)
    store = place.open()
    assert store.read_range("a.bin", 1, 1) == b"\x01"
    if place.name in {"local", "memory", "gcs", "http"}:  # no secret to be left behind
        assert pickle.loads(pickle.dumps(store)).read_range("a.bin", 1, 1) == b"\x01"  # noqa: S301


# ---------------------------------------------------------------- corpora


@pytest.fixture(scope="module")
def local_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 patches of 32 px: 8 train, 2 val, 2 test."""
    folder = tmp_path_factory.mktemp("clouds") / "corpus"
    return write_synthetic_corpus(folder, patches=12, patch_size=32, seed=5)


def published(cloud: Cloud, local_root: Path) -> str:
    """The URL of the corpus in a cloud, put there once."""
    if not cloud.names("corpora-of-clouds/"):
        cloud.put_folder(local_root, "corpora-of-clouds/one")
    return cloud.url("corpora-of-clouds/one")


def same(left: Any, right: Any) -> bool:
    if hasattr(left, "numpy"):
        return bool(np.array_equal(left.numpy(), right.numpy(), equal_nan=left.is_floating_point()))
    return bool(left == right)


def test_samples_are_those_of_the_local_corpus(cloud: Cloud, local_root: Path) -> None:
    url = published(cloud, local_root)
    for split in ("train", "val"):
        here = DeepSentinelDataset(local_root, split)
        there = DeepSentinelDataset(url, split, storage_options=cloud.storage_options)
        assert len(here) == len(there) > 1
        for k in (*range(len(here)), -1):
            left, right = here[k], there[k]
            assert list(left) == list(right)
            for key, value in left.items():
                assert same(value, right[key]), (split, k, key)
    with pytest.raises(IndexError):
        there[len(there)]


def test_one_request_a_sensor_and_sample_and_nothing_twice(cloud: Cloud, local_root: Path) -> None:
    url = published(cloud, local_root)
    data = DeepSentinelDataset(url, "train", labels=(), storage_options=cloud.storage_options)
    _ = data.index  # the facts of all patches are fetched when first needed, once
    assert not [r for r in cloud.log if "data.zarr" in r.path], (
        "no pixel moves before it is asked for"
    )
    cloud.forget()
    for k in range(len(data)):
        _ = data[k]
    seen = [r for r in cloud.log if "data.zarr" in r.path]
    assert len(seen) == 2 * len(data)
    assert all(r.method == "GET" and r.range and r.status == 206 for r in seen)
    assert len({(r.path, r.range) for r in seen}) == len(seen)
    index = Corpus(local_root).index.to_pylist()
    train = [row for row in index if row["split"] == "train"]
    wanted = {(row[f"{s}_offset"], row[f"{s}_size"]) for row in train for s in ("s1", "s2")}
    assert {r.range for r in seen} == wanted
    assert sum(r.received for r in seen) == sum(row["s1_size"] + row["s2_size"] for row in train)


def test_a_batch_costs_no_request_more_and_nothing_twice(cloud: Cloud, local_root: Path) -> None:
    url = published(cloud, local_root)
    here = DeepSentinelDataset(local_root, None, labels=())
    there = DeepSentinelDataset(url, None, labels=(), storage_options=cloud.storage_options)
    order = [9, 0, 3, 1]
    _ = there.index
    cloud.forget()
    batch = there.__getitems__(order)
    seen = [r for r in cloud.log if "data.zarr" in r.path]
    assert len(seen) <= 2 * len(order)  # neighbours come in one
    rows = here.index.iloc[order]
    wanted = sum(int(rows[f"{s}_size"].sum()) for s in ("s1", "s2"))
    assert sum(r.received for r in seen) == wanted
    for sample, k in zip(batch, order, strict=True):
        assert all(same(value, here[k][key]) for key, value in sample.items())


def test_one_sensor_costs_one_request(cloud: Cloud, local_root: Path) -> None:
    url = published(cloud, local_root)
    options = {"storage_options": cloud.storage_options}
    data = DeepSentinelDataset(
        url, "val", sensors=("s2",), bands={"s2": ("B04",)}, labels=(), **options
    )
    cloud.forget()
    _ = data[1]
    assert len([r for r in cloud.log if "data.zarr" in r.path]) == 1
    _ = data[0]
    assert cloud.log[-1].range
    cloud.forget()
    _ = data[1]
    assert len(cloud.log) == 1


# ---------------------------------------------------------------- who pays


@pytest.mark.parametrize("cloud", ["gcs", "s3"], indirect=True)
def test_the_payer_is_named_in_every_request_or_in_none(cloud: Cloud, local_root: Path) -> None:
    url = published(cloud, local_root)
    options = {"storage_options": cloud.storage_options}
    _ = DeepSentinelDataset(url, "train", **options)[0]
    store = open_store(url, **options)
    store.write("written.bin", b"1")
    store.list("")
    assert len(cloud.log) > 6
    assert {r.payer for r in cloud.log} == {None}

    cloud.forget()
    cloud.require_requester_pays()
    payer = cloud.payer
    _ = DeepSentinelDataset(url, "train", requester_pays=payer, **options)[0]
    store = open_store(url, requester_pays=payer, **options)
    store.write("written.bin", b"2")
    assert store.exists("written.bin")
    assert not store.exists("nothing.bin")
    assert store.read("written.bin") == b"2"
    assert "written.bin" in store.list("")
    assert len(cloud.log) > 8
    assert {r.payer for r in cloud.log} == {"requester" if payer is True else payer}
    cloud.delete("corpora-of-clouds/one/written.bin")


@pytest.mark.parametrize("call", ["read", "size", "exists", "list", "write", "read_range"])
@pytest.mark.parametrize("cloud", ["gcs", "s3"], indirect=True)
def test_nobody_reads_for_nothing(cloud: Cloud, call: str) -> None:
    cloud.put("pays/a.bin", DATA)
    cloud.require_requester_pays()
    store = open_store(cloud.url("pays"), storage_options=cloud.storage_options)
    arguments = {"list": ("",), "write": ("a.bin", b"1"), "read_range": ("a.bin", 0, 4)}
    expected = RequesterPaysError if cloud.name == "gcs" else NotAuthorisedError
    with pytest.raises(expected, match="requester_pays=") as caught:
        getattr(store, call)(*arguments.get(call, ("a.bin",)))
    assert cloud.url("pays") in str(caught.value)
    assert isinstance(caught.value, PermissionError)


def test_a_corpus_whose_readers_pay(gcs: Cloud, local_root: Path) -> None:
    url = published(gcs, local_root)
    gcs.require_requester_pays()
    with pytest.raises(RequesterPaysError, match="requester_pays='my-billing-project'"):
        DeepSentinelDataset(url, storage_options=gcs.storage_options)


@pytest.mark.parametrize("cloud", ["azure", "http_server", "hub_server"], indirect=True)
def test_where_nobody_can_be_billed(cloud: Cloud) -> None:
    with pytest.raises(StoreError, match="requester_pays='me' does not go with"):
        open_store(cloud.url("x"), requester_pays="me", storage_options=cloud.storage_options)
    assert cloud.log == []


# ---------------------------------------------------------------- credentials


@pytest.mark.parametrize("cloud", ["azure", "s3", "hub_server"], indirect=True)
@pytest.mark.parametrize("kind", ["401", "403", "503"])
def test_secrets_stay_secret(cloud: Cloud, kind: str) -> None:
    store = open_store(cloud.url("x"), storage_options=cloud.storage_options)
    secrets = [v for k, v in cloud.storage_options.items() if k in {"key", "secret", "token"}]
    text = str(cloud.storage_options.get("connection_string", ""))
    secrets += [p.partition("=")[2] for p in text.split(";") if p.startswith("AccountKey")]
    secrets = [s for s in secrets if len(s) > 3]
    assert secrets
    cloud.fault(kind, times=None)
    with pytest.raises(StoreError) as caught:
        store.read_range("a.bin", 0, 4)
    told = "".join(traceback.format_exception(caught.value))
    for secret in secrets:
        assert secret not in told
        assert secret not in repr(store)
        assert secret.encode() not in pickle.dumps(store)


def test_azure_over_tls(azure_tls: Cloud, certificate: Any, local_root: Path) -> None:
    from tests.servers import microsoft

    url = published(azure_tls, local_root)
    token = microsoft.read_token("corpora")
    logins = ({"account_key": microsoft.KEY}, {"sas_token": token}, {"sas_token": "?sig=wrong"})
    logins = ({**azure_tls.storage_options, **login} for login in logins)
    script = """
        import json, sys, zlib
        from deepsentinel.corpus.read import Corpus
        from deepsentinel.errors import NotAuthorisedError
        for options in json.loads(sys.argv[2]):
            try:
                print(zlib.crc32(Corpus(sys.argv[1], storage_options=options).read(3).s2.tobytes()))
            except NotAuthorisedError as error:
                print(error)
    """
    told = run(script, url, json.dumps(list(logins)), SSL_CERT_FILE=str(certificate[1]))
    right = str(zlib.crc32(Corpus(local_root).read(3).s2.tobytes()))
    key, sas, wrong = told.splitlines()
    assert (key, sas) == (right, right)
    assert "sas_token" in wrong
    assert "sig=wrong" not in wrong
    assert {bool(r.query.get("sig")) for r in azure_tls.gets} == {True, False}


# ---------------------------------------------------------------- processes


def run(script: str, *arguments: str, **environment: str) -> str:
    """What a Python program of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("cloud", ["gcs", "http_server"], indirect=True)
def test_workers_of_every_start_method(cloud: Cloud, local_root: Path) -> None:
    script = """
        import json, sys
        import torch
        from torch.utils.data import DataLoader
        from deepsentinel.datasets.dataset import DeepSentinelDataset

        def main():
            torch.set_num_threads(1)
            options = json.loads(sys.argv[2])
            here = DeepSentinelDataset(sys.argv[3], "train")
            there = DeepSentinelDataset(sys.argv[1], "train", storage_options=options)
            right = [here[k] for k in range(len(here))]
            _ = there[0]  # the parent has used its client before it forks
            for method, workers in (("fork", 2), ("forkserver", 1), ("spawn", 1)):
                loader = DataLoader(
                    there, batch_size=None, num_workers=workers, multiprocessing_context=method
                )
                got = list(loader)
                assert len(got) == len(right)
                for left, sample in zip(right, got):
                    for key in ("image_s1", "image_s2", "mask"):
                        assert torch.equal(left[key].nan_to_num(-9), sample[key].nan_to_num(-9))
                    assert left["meta"] == sample["meta"]
                _ = there[1]  # and goes on using it afterwards
                print(method)

        if __name__ == "__main__":
            main()
    """
    url = published(cloud, local_root)
    # Workers that are not forked import the main program: it must be a file.
    file = local_root.parent / "workers.py"
    file.write_text(textwrap.dedent(script))
    done = subprocess.run(
        [sys.executable, str(file), url, json.dumps(dict(cloud.storage_options)), str(local_root)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["fork", "forkserver", "spawn"]


@pytest.mark.parametrize("cloud", ["s3", "http_server"], indirect=True)
def test_two_processes_share_a_cache(cloud: Cloud, local_root: Path, tmp_path: Path) -> None:
    script = """
        import json, sys, zlib
        from deepsentinel.corpus.read import Corpus
        corpus = Corpus(sys.argv[1], storage_options=json.loads(sys.argv[2]), cache_dir=sys.argv[3])
        total = 0
        for i in range(len(corpus)):
            patch = corpus.read(i)
            total = zlib.crc32(patch.s1.tobytes() + patch.s2.tobytes(), total)
        print(total)
    """
    url = published(cloud, local_root)
    options = json.dumps(dict(cloud.storage_options))
    command = [sys.executable, "-c", textwrap.dedent(script), url, options, str(tmp_path / "kept")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = {process.communicate()[0].strip() for process in both}
    assert len(told) == 1

    def pixels() -> int:
        return sum("data.zarr" in r.path for r in cloud.gets)

    patches = len(Corpus(local_root))
    assert 2 * patches <= pixels() <= 4 * patches
    cloud.forget()
    assert run(script, *command[3:]).strip() in told
    assert pixels() == 0, "everything came out of the cache"

    files = [p for p in (tmp_path / "kept").rglob("*") if p.is_file() and p.stat().st_size > 100]
    for file in files[:3]:
        kept = bytearray(file.read_bytes())
        kept[len(kept) // 2] ^= 1
        file.write_bytes(kept)
    assert run(script, *command[3:]).strip() in told
    assert pixels() == 3, "what was damaged was fetched again, and only that"
