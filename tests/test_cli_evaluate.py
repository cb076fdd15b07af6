"""`deepsentinel evaluate`: a report from the command line, and two of them compared."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deepsentinel.cli import main
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.encoders.fusion import FusionEncoder


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable:
    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["deepsentinel", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        return (int(caught.value.code or 0), *capsys.readouterr())

    return run


def test_evaluate_and_compare(cli: Callable, tmp_path: Path) -> None:
    corpus = write_synthetic_corpus(tmp_path / "corpus", patches=24, patch_size=32)
    FusionEncoder("resnet10t", levels=(1,)).save_pretrained(tmp_path / "mine")
    config = tmp_path / "protocol.yaml"
    config.write_text("methods: [knn]\nshots: [1]\nshares: []\nfolds: 3\nreplicates: 50\n")
    common = ("evaluate", corpus, config, "--encoder", tmp_path / "mine")
    code, out, err = cli(*common, "--set", "seeds=1", "--out", tmp_path / "a")
    assert code == 0
    assert "band statistics" in out
    assert "mine, random weights" in out
    assert "scores | mine | knn | 1 per class" in err
    assert (tmp_path / "a" / "report.html").exists()
    assert "folds: 3" in (tmp_path / "a" / "protocol.yaml").read_text()
    code, out, _ = cli(*common, "--set", "seeds=1", "--out", tmp_path / "b", "--json")
    assert code == 0
    assert json.loads(out)["metrics"]["headline"] == "accuracy"
    code, out, _ = cli("evaluate", "--compare", tmp_path / "a", tmp_path / "b", "--json")
    assert code == 0
    assert [row["difference"] for row in json.loads(out)["metrics"]["rows"]] == [0.0] * 3
    code, _, err = cli(*common, "--set", "fold=3", "--out", tmp_path / "c")
    assert code == 1
    assert "'folds'" in err


def test_a_corpus_must_be_named(cli: Callable) -> None:
    code, _, err = cli("evaluate")
    assert code == 1
    assert "--compare" in err
    code, out, _ = cli("evaluate", "--keys")
    assert code == 0
    assert "cloud_shares" in out
