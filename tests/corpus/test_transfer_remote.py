"""Downloads, uploads and checks over real servers: requests, bills and faults."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepsentinel.corpus import copying
from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.transfer import download
from deepsentinel.corpus.upload import upload
from deepsentinel.corpus.verify import verify
from deepsentinel.errors import (
    CorpusNotFoundError,
    NotAuthorisedError,
    RequesterPaysError,
    StoreError,
)

SERVERS = ("http_server", "gcs", "s3", "azure", "hub_server")


def access(cloud: Any, *, pays: bool = False) -> dict[str, Any]:
    return {
        "storage_options": cloud.storage_options,
        "requester_pays": cloud.payer if pays else None,
    }


def tree(root: Path) -> dict[str, bytes]:
    files = (p for p in sorted(root.rglob("*")) if p.is_file())
    found = {str(p.relative_to(root)): p.read_bytes() for p in files}
    found.pop("download.json", None)
    return found


@pytest.fixture(params=SERVERS)
def cloud(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def url(cloud: Any, tiny_corpus: Path, tmp_path: Path) -> str:
    return str(cloud.put_folder(tiny_corpus, tmp_path.name))


def test_it_arrives_and_nothing_was_asked_twice(
    cloud: Any, url: str, tiny_corpus: Path, tmp_path: Path
) -> None:
    report = download(url, tmp_path / "copy", **access(cloud))
    assert tree(tmp_path / "copy") == tree(tiny_corpus)
    pixels = [r for r in cloud.gets if "/c/0/0" in r.path or "%2Fc%2F0%2F0" in r.path]
    assert len(pixels) == report.requests == 6
    cloud.forget()
    assert download(url, tmp_path / "copy", **access(cloud)).fetched == 0
    assert not [r for r in cloud.gets if "data.zarr" in r.path]


def test_faults_on_the_way_do_not_show(
    cloud: Any, url: str, tiny_corpus: Path, tmp_path: Path
) -> None:
    for kind in ("503", "flip", "short", "reset"):
        cloud.fault(kind, match="data.zarr")
    report = download(url, tmp_path / "copy", **access(cloud))
    assert report.ok
    assert report.retried >= 1
    assert report.repeated >= 1
    assert f"made again: {report.repeated} requests" in str(report)
    assert tree(tmp_path / "copy") == tree(tiny_corpus)


def test_verify_names_what_is_bad_there_and_not_on_the_way(
    cloud: Any, url: str, tmp_path: Path
) -> None:
    cloud.fault("flip", match="data.zarr/s2/c")
    report = verify(url, **access(cloud))
    assert report.ok, str(report)
    path = f"{tmp_path.name}/data.zarr/s1/c/0/0/0/0"
    start = Corpus(url, **access(cloud)).index["s1_offset"][3].as_py()
    data = bytearray(cloud.get(path))
    data[start + 30] ^= 1
    cloud.put(path, bytes(data))
    assert [d.id for d in verify(url, **access(cloud)).bad] == ["patch-0003"]
    copied = download(url, tmp_path / "copy", **access(cloud))
    assert [d.id for d in copied.wrong] == ["patch-0003"]
    assert verify(tmp_path / "copy").ok


@pytest.mark.parametrize("server", ["gcs", "s3", "azure"])
def test_a_corpus_is_published(
    server: str, tiny_corpus: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    cloud = request.getfixturevalue(server)
    url = cloud.url(f"{tmp_path.name}-published")
    cloud.fault("503", methods=("PUT", "POST"))
    report = upload(tiny_corpus, url, **access(cloud))
    assert (report.patches, report.repeated) == (12, 1)
    assert "every checksum compared before it was sent" in str(report)
    assert verify(url, **access(cloud)).ok
    again = upload(tiny_corpus, url, **access(cloud))
    assert again.fetched == 0
    assert "no shard was looked at" in str(again)
    download(url, tmp_path / "copy", **access(cloud))
    assert tree(tmp_path / "copy") == tree(tiny_corpus)


def test_a_web_server_is_not_written_to(http_server: Any, tiny_corpus: Path) -> None:
    with pytest.raises(StoreError, match="only read"):
        upload(tiny_corpus, http_server.url("new"))


@pytest.mark.parametrize(
    ("server", "error"), [("gcs", RequesterPaysError), ("s3", NotAuthorisedError)]
)
def test_who_pays_is_said_with_every_request_or_none(
    server: str,
    error: type[Exception],
    tiny_corpus: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    cloud = request.getfixturevalue(server)
    url = cloud.put_folder(tiny_corpus, tmp_path.name)
    cloud.require_requester_pays(True)
    asked: list[Any] = []
    report = download(
        url,
        tmp_path / "copy",
        confirm=lambda plan: asked.append(plan) is None,
        **access(cloud, pays=True),
    )
    assert report.ok
    assert asked[0].billed
    assert "billed" in str(asked[0])
    assert all(says_who_pays(entry) for entry in cloud.log)
    cloud.forget()
    with pytest.raises(error, match="requester_pays="):
        download(url, tmp_path / "unpaid", **access(cloud))
    assert not (tmp_path / "unpaid").exists()
    assert not any(says_who_pays(entry) for entry in cloud.log)


def says_who_pays(entry: Any) -> bool:
    said = {*entry.query, *(name.lower() for name in entry.headers)}
    return bool({"userProject", "x-goog-user-project", "x-amz-request-payer"} & said)


def test_a_server_that_goes_away_leaves_a_beginning_that_goes_on(
    http_server: Any,
    write_corpus: Callable[[Path, range], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copying, "PIECE_BYTES", 9000)
    large = write_corpus(tmp_path / "large", range(130))
    url = http_server.put_folder(large, "going")
    with (
        http_server.fault("404", times=None, match="data.zarr/dem/c/1"),
        http_server.fault("403", times=None, match="data.zarr/dem/c/0"),
        pytest.raises(StoreError),
    ):
        download(url, tmp_path / "copy", **access(http_server))
    with pytest.raises(CorpusNotFoundError):
        Corpus(tmp_path / "copy")
    report = download(url, tmp_path / "copy", **access(http_server))
    assert report.already > 0
    ranges = [(r.path, r.headers.get("Range") or r.headers.get("range")) for r in http_server.gets]
    taken = [r for r in ranges if r[1] and "/dem/" not in r[0]]
    assert len(taken) <= len(set(taken)) + 16  # those in flight at the break may come again
    assert tree(tmp_path / "copy") == tree(large)
