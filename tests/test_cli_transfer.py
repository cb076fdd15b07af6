"""`download`, `upload`, and `info` and `verify` of what is not a folder."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deepsentinel.cli import app
from deepsentinel.corpus import transferred
from deepsentinel.corpus.read import Corpus
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.errors import SelectionError, StoreError, TransferDeclinedError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    return write_synthetic_corpus(folder / "demo", patches=6, patch_size=32)


def run(*words: object, asked: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=asked)


def test_a_part_comes_with_a_report(corpus: Path, tmp_path: Path) -> None:
    done = run("download", corpus, tmp_path / "copy", "--split", "train", "--sensors", "s2")
    assert done.exit_code == 0, done.output
    copy = Corpus(tmp_path / "copy")
    assert copy.info.sensors == ("s2",)
    assert set(copy.info.splits) == {"train"}
    assert f"{len(copy)} of 6 patches" in done.stderr
    assert "every checksum compared" in done.stdout


def test_json_says_what_moved(corpus: Path, tmp_path: Path) -> None:
    words = ("--where", "lat > -90", "--bbox", "-180", "-90", "180", "90", "--max-patches", "2")
    done = run("download", corpus, tmp_path / "copy", *words, "--json")
    facts = json.loads(done.stdout)
    assert (facts["patches"], facts["skipped"], facts["ok"]) == (2, 4, True)
    sizes = json.loads(run("info", tmp_path / "copy", "--json").stdout)["bytes"]
    assert sum(sizes.values()) == facts["fetched"]


def test_upload_verify_and_info_take_urls(corpus: Path, tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}/published"
    assert run("upload", corpus, url).exit_code == 0
    assert "all sound" in run("verify", url).stdout
    assert "bytes in all" in run("info", url).stdout
    assert run("download", url, tmp_path / "copy").exit_code == 0
    assert run("stats", url, "--json").stdout == run("stats", corpus, "--json").stdout
    assert run("plot", url, 0, "--out", tmp_path / "patch.png").exit_code == 0


def test_billed_and_large_transfers_are_asked_about(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transferred, "LARGE_BYTES", 1000)
    refused = run("download", corpus, tmp_path / "copy")
    assert isinstance(refused.exception, TransferDeclinedError)
    assert "--yes" in refused.stderr
    assert not (tmp_path / "copy").exists()
    assert run("download", corpus, tmp_path / "copy", "--yes").exit_code == 0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--where", "cloud <"), SelectionError),
        (("--dates", "soon"), SelectionError),
        (("--storage-option", "anon"), StoreError),
        (("--requester-pays", "my-project"), StoreError),
    ],
)
def test_what_cannot_be_meant_is_an_error(
    words: tuple[str, ...], error: type[Exception], corpus: Path, tmp_path: Path
) -> None:
    done = run("download", corpus, tmp_path / "copy", *words)
    assert isinstance(done.exception, error)


def test_damage_is_the_exit_code(corpus: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    run("download", corpus, whole)
    shard = whole / "data.zarr" / "s1" / "c" / "0" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    done = run("download", whole, tmp_path / "copy")
    assert done.exit_code == 1
    assert "WRONG at the source, left out: 1 patches" in done.stdout
