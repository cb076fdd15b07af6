"""Corpora by name, and the original layout read and converted where it lies."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepsentinel.corpus import catalogue
from deepsentinel.corpus.catalogue import catalogue_row, list_catalogue, named
from deepsentinel.corpus.convert import convert
from deepsentinel.corpus.opening import open_corpus
from deepsentinel.corpus.read import Corpus
from deepsentinel.errors import (
    CorpusNotFoundError,
    NotAuthorisedError,
    RequesterPaysError,
    SourceError,
    StoreError,
    UnknownNameError,
)
from deepsentinel.store import open_store
from deepsentinel.store.path import StorePath

SIZE = 32


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three samples as the original project wrote them."""
    root = tmp_path_factory.mktemp("original")
    for k in range(3):
        rng = np.random.default_rng(k)
        stem = root / str(k) / f"{k}_GEE_2019-07-05_3.{k}_45.{k}"
        stem.parent.mkdir()
        np.savez(f"{stem}_S2arr.npz", arr=rng.integers(1, 5000, (SIZE, SIZE, 12)).astype("float32"))
        np.savez(f"{stem}_S1arr.npz", arr=rng.normal(-14, 3, (SIZE, SIZE, 2)).astype("float32"))
        meta = f'{{"x_off": 500000, "y_off": {5000000 + 40000 * k}, "crs_code": "EPSG:32631"}}'
        Path(f"{stem}_meta.json").write_text(meta)
    return root


def files(samples: Path) -> dict[str, bytes]:
    found = (p for p in sorted(samples.rglob("*")) if p.is_file())
    return {str(p.relative_to(samples)): p.read_bytes() for p in found}


@pytest.fixture
def url(samples: Path, tmp_path: Path) -> str:
    root = f"memory://{tmp_path.name}/100k_unlabelled"
    for path, data in files(samples).items():
        open_store(root).write(path, data)
    return root


def same(one, other) -> None:
    assert len(one) == len(other) == 3
    for i in range(3):
        assert one.record(i) == other.record(i)
        ours, theirs = one.read(i), other.read(i)
        np.testing.assert_array_equal(ours.s1, theirs.s1)
        np.testing.assert_array_equal(ours.s2, theirs.s2)


def test_the_rows_say_what_is_known_and_what_is_not() -> None:
    assert [row.name for row in list_catalogue()] == [
        "DEMO_unlabelled",
        "DEMO_EU_labelled",
        "100k_unlabelled",
        "v_1k_256px_nolabels",
    ]
    for row in list_catalogue():
        assert row.locations == {
            "google": f"gs://deepsentinel/{row.name}",
            "azure": f"az://deepsentinel/{row.name}",
        }
        assert "not known" in row.state
        assert "requester_pays" in row.notes[0]
        assert row.licence is None
        first, last = row.dates.split("/")
        assert "2018" <= first < last < "2021"
    with pytest.raises(UnknownNameError, match="DEMO_unlabelled"):
        catalogue_row("DEMO_unlabeled")
    with pytest.raises(UnknownNameError, match="google azure"):
        catalogue_row("DEMO_unlabelled").location("amazon")


def test_the_guide_states_the_same_facts() -> None:
    page = Path(__file__).parents[2] / "docs" / "download.md"
    rows = [line for line in page.read_text("utf-8").splitlines() if line.startswith("| `")]
    for row in list_catalogue():
        cells = (f"`{row.name}`", row.patches, " ".join(row.labels), row.area, row.dates)
        assert "| " + " | ".join(map(str, cells)).replace("|  |", "| |") + " |" in rows


def test_a_folder_of_that_name_goes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert named("DEMO_unlabelled") == "gs://deepsentinel/DEMO_unlabelled"
    Path("DEMO_unlabelled").mkdir()
    assert named("DEMO_unlabelled") == "DEMO_unlabelled"


def test_the_layout_reads_alike_from_a_store(samples: Path, url: str) -> None:
    remote = open_corpus(url)
    same(remote, open_corpus(samples))
    same(pickle.loads(pickle.dumps(remote)), open_corpus(samples))  # noqa: S301
    assert remote.url == url


def test_the_layout_has_no_cache(samples: Path, url: str, tmp_path: Path) -> None:
    for root in (samples, url):
        with pytest.raises(StoreError, match=r"cache_dir=.*original DeepSentinel layout.*convert"):
            open_corpus(root, cache_dir=tmp_path / "cache")


def test_it_converts_from_a_store(samples: Path, url: str, tmp_path: Path) -> None:
    report = convert(url, tmp_path / "remote")
    assert report.converted == 3
    convert(samples, tmp_path / "local", name="100k_unlabelled")
    same(Corpus(tmp_path / "remote"), Corpus(tmp_path / "local"))
    assert Corpus(tmp_path / "remote").info == Corpus(tmp_path / "local").info
    with pytest.raises(SourceError, match="Copy the folder"):
        convert(url, tmp_path / "other", kind="terramesh")
    with pytest.raises(SourceError, match="no source"):
        convert(f"{url}-not", tmp_path / "other")
    with pytest.raises(CorpusNotFoundError):
        open_corpus(f"{url}-not")


def test_a_name_opens_the_bucket_and_who_pays_is_asked(
    gcs, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, data in files(samples).items():
        gcs.put(f"v_1k/{path}", data)
    row = catalogue_row("v_1k_256px_nolabels")
    here = replace(row, locations={"google": gcs.url("v_1k")})
    monkeypatch.setattr(catalogue, "CATALOGUE", (here,))
    gcs.require_requester_pays(True)
    with pytest.raises(RequesterPaysError, match="requester_pays="):
        open_corpus(row.name, storage_options=gcs.storage_options)
    access = {"requester_pays": "my-project", "storage_options": gcs.storage_options}
    same(open_corpus(row.name, **access), open_corpus(samples))
    assert convert(row.name, tmp_path / "corpus", **access).converted == 3


def test_a_network_that_fails_is_no_reason_to_leave_samples_out(
    http_server, samples: Path, tmp_path: Path
) -> None:
    root = http_server.put_folder(samples, tmp_path.name)
    same(open_corpus(root), open_corpus(samples))
    with http_server.fault("403", times=None, match="2_GEE"), pytest.raises(NotAuthorisedError):
        convert(root, tmp_path / "corpus")
    with http_server.fault("404", times=None, match="2_GEE", methods=("GET", "HEAD")):
        report = convert(root, tmp_path / "corpus")
    assert (report.converted, len(report.skipped)) == (2, 1)


def test_paths_of_a_store_are_like_those_of_a_disk(samples: Path, url: str) -> None:
    remote = StorePath(open_store(url))
    assert [p.name for p in remote.iterdir()] == sorted(p.name for p in samples.iterdir())
    folder, here = remote / "1", samples / "1"
    assert [p.name for p in folder.glob("*.npz")] == sorted(p.name for p in here.glob("*.npz"))
    file = next(folder.glob("*.json"))
    local = here / file.name
    assert (file.stem, file.read_text()) == (local.stem, local.read_text())
    assert [
        (p.is_dir(), p.is_file(), p.exists()) for p in (remote, folder, file, remote / "9")
    ] == [
        (True, False, True),
        (True, False, True),
        (False, True, True),
        (False, False, False),
    ]
    with (
        next(folder.glob("*S2arr*")).open("rb") as ours,
        next(here.glob("*S2arr*")).open("rb") as theirs,
    ):
        for at, whence, size in ((-22, 2, 22), (5, 0, 100_000), (-50, 1, 7)):
            assert (ours.seek(at, whence), ours.read(size)) == (
                theirs.seek(at, whence),
                theirs.read(size),
            )
    with pytest.raises(ValueError, match="reading"):
        file.open("w")
