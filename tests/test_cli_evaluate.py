"""`deepsentinel evaluate`: a report from the command line, and two of them compared."""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from deepsentinel.cli import main
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import LeakWarning
from deepsentinel.heads.detection import Detector
from deepsentinel.heads.segmentation import Segmenter
from deepsentinel.training.evaluate import evaluate_model
from deepsentinel.training.reports.report import read_report
from deepsentinel.training.scoring.run import Scoring, run_scoring


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


def test_a_fine_tuned_model_is_scored(cli: Callable, tmp_path: Path) -> None:
    """A detector, whose boxes encoders are not judged by."""
    corpus = write_synthetic_corpus(tmp_path / "corpus", patches=12, patch_size=32, objects=True)
    torch.manual_seed(0)
    encoder = FusionEncoder("resnet10t", levels=(1,), embed_dim=16)
    dataset = DeepSentinelDataset(corpus, "test", labels=("objects",))
    names = dataset.scheme("objects").names
    detector = Detector(encoder, len(names), class_names=names, channels=32, levels=(4, 8))
    detector.save_pretrained(tmp_path / "model")
    common = ("evaluate", corpus, "--model", tmp_path / "model")
    code, out, _ = cli(*common, "--out", tmp_path / "report")
    assert code == 0
    assert all(word in out for word in ("ap75", "By class", *names, "By size", "tiny"))
    table = read_report(tmp_path / "report").table("per_size")
    assert table.columns == ("size", "map", "ap50", "ap75", "objects")
    code, out, _ = cli(*common, "--set", "sensors=[s1]", "--out", tmp_path / "s1", "--json")
    assert code == 0
    wanted = evaluate_model(detector, dataset, sensors=("s1",))
    assert json.loads(out) == wanted
    assert "sensors: [s1]" in (tmp_path / "s1" / "scoring.yaml").read_text()
    code, out, _ = cli("evaluate", "--keys", "--model", tmp_path / "model")
    assert "`split`" in out
    assert "cloud_shares" not in out


@pytest.mark.parametrize("split", ["train", "null"])
def test_scoring_what_was_learnt_from_is_a_warning(
    cli: Callable, tmp_path: Path, split: str
) -> None:
    corpus = write_synthetic_corpus(tmp_path / "corpus", patches=12, patch_size=32)
    model = Segmenter(FusionEncoder("resnet10t", levels=(1,), embed_dim=16), 8, "linear")
    common = ("evaluate", corpus, "--model", model.save_pretrained(tmp_path / "model"))
    common += ("--out", tmp_path / "report", "--set", f"split={split}", "--json")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code, _, err = cli(*common)
    assert code == 0
    assert "LeakWarning: " in err
    assert "a model that learnt from it is asked what it knows" in err
    assert cli(*common, "--set", "train_split=null")[0] == 0  # where a warning is an error


def test_scoring_beside_what_was_learnt_from_is_a_warning(tmp_path: Path) -> None:
    corpus = write_synthetic_corpus(tmp_path / "corpus", patches=12, patch_size=32)
    index = corpus / "index.parquet"
    table = pq.read_table(index)
    for name in ("lon", "lat"):  # all patches on one place, whatever their split
        place = table.schema.get_field_index(name)
        same = pa.array([50.0] * len(table), table.schema.field(name).type)
        table = table.set_column(place, table.schema.field(name), same)
    pq.write_table(table, index)
    model = Segmenter(FusionEncoder("resnet10t", levels=(1,), embed_dim=16), 8, "linear")
    with pytest.warns(LeakWarning, match="patches of test lie on ground of train"):
        run_scoring(str(model.save_pretrained(tmp_path / "model")), str(corpus), Scoring())


def test_what_a_model_cannot_be_scored_on(cli: Callable, tmp_path: Path) -> None:
    corpus = write_synthetic_corpus(tmp_path / "corpus", patches=12, patch_size=32)
    model = Segmenter(FusionEncoder("resnet10t", levels=(1,), embed_dim=16), 3, "linear")
    folder = model.save_pretrained(tmp_path / "model")
    common = ("evaluate", corpus, "--out", tmp_path / "report", "--model")
    for words, said in (
        ((folder,), "has 8 classes"),
        ((folder, "--set", "folds=3"), "unknown key 'folds'"),
        ((folder, "--encoder", "deepsentinel-nano"), "give one"),
        ((tmp_path / "nowhere",), "holds no model"),
    ):
        code, _, err = cli(*common, *words)
        assert (code, said in err) == (1, True), err
    assert not (tmp_path / "report").exists()


def test_encoders_are_not_judged_by_boxes(cli: Callable, tmp_path: Path) -> None:
    corpus = write_synthetic_corpus(tmp_path / "corpus", patches=12, patch_size=32, objects=True)
    facts = corpus / "corpus.json"
    told = json.loads(facts.read_text())
    told["labels"] = [label for label in told["labels"] if label["kind"] == "boxes"]
    facts.write_text(json.dumps(told))
    code, _, err = cli("evaluate", corpus, "--out", tmp_path / "report")
    assert code == 1
    assert "only: objects (boxes)" in err
    assert "--model FOLDER" in err
