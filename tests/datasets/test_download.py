"""`download=` of the dataset: the copy is made, continued or found, and then read."""

import shutil
from pathlib import Path

import pytest
import torch

from deepsentinel.corpus import copying, transfer
from deepsentinel.corpus.transfer import download
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.errors import StoreError, TransientError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    return write_synthetic_corpus(folder / "demo", patches=6, patch_size=32)


def test_the_copy_gives_the_same_samples(corpus: Path, tmp_path: Path) -> None:
    dataset = DeepSentinelDataset(tmp_path / "copy", None, download=str(corpus))
    whole = DeepSentinelDataset(corpus, None)
    assert len(dataset) == len(whole) == 6
    for ours, theirs in zip(dataset, whole, strict=True):
        torch.testing.assert_close(ours["image_s2"], theirs["image_s2"], equal_nan=True)


def test_a_complete_copy_needs_its_origin_no_more(corpus: Path, tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    shutil.copytree(corpus, origin)
    download(origin, tmp_path / "copy", max_patches=4)
    shutil.rmtree(origin)
    for asked in (True, str(origin), False):
        assert len(DeepSentinelDataset(tmp_path / "copy", None, download=asked)) == 4


def test_true_continues_what_was_begun(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "PIECE_BYTES", 3000)

    def away(*_: int) -> None:
        raise TransientError("the network went away")

    with pytest.raises(TransientError):
        transfer.download(corpus, tmp_path / "copy", max_patches=3, progress=away)
    assert len(DeepSentinelDataset(tmp_path / "copy", None, download=True)) == 3


def test_nothing_says_where_from(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="give the URL"):
        DeepSentinelDataset(tmp_path / "copy", download=True)
