"""The demo: every file it promises, scores in range, pictures that show something."""

import csv
import json
import math
from pathlib import Path

import matplotlib.image as mpl_image
import numpy as np
import pytest
import torch

import deepsentinel
from deepsentinel import demo as room
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.demo import COLUMNS, demo, with_dominant_class
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import ConfigError, LabelError, SplitError

ROWS = ["s1", "s2", "both", "band_stats", "random"]


def tiny_encoder() -> FusionEncoder:
    """In place of the one in the package, for speed."""
    torch.manual_seed(0)
    return FusionEncoder("resnet10t", levels=(1, 2), embed_dim=16).eval()


def check_files(out: Path) -> None:
    """Scores as JSON and as a table, embeddings, pictures, models."""
    metrics = json.loads((out / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert list(metrics["rows"]) == ROWS
    assert metrics["scored_on"] == "test"
    with (out / "metrics.csv").open() as file:
        table = {row.pop("row"): row for row in csv.DictReader(file)}
    for name, scores in metrics["rows"].items():
        assert tuple(scores) == COLUMNS
        for column, value in scores.items():
            assert 0 <= value <= 1
            assert float(table[name][column]) == pytest.approx(value, abs=1e-4)
    stored = np.load(out / "embeddings.npz")
    assert len(stored["embedding"]) == len(set(stored["id"])) == sum(metrics["splits"].values())
    assert np.isfinite(stored["embedding"]).all()
    for name in ("sheet.png", "embeddings.png"):
        picture = mpl_image.imread(out / name)[..., :3]
        assert min(picture.shape[:2]) > 200
        assert picture.std() > 0.05, f"{name} is blank"
    for task in ("segmentation", "classification"):
        model = deepsentinel.load_model(out / f"both-{task}")
        assert model.class_names


def test_synthetic_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "load_encoder", tiny_encoder)
    lines: list[str] = []
    result = demo(None, tmp_path / "demo", patches=24, epochs=1, say=lines.append)
    check_files(tmp_path / "demo")
    assert result.synthetic
    assert list(result.rows) == ROWS
    assert all(path.exists() for path in result.files.values())
    assert any("not observed" in line for line in lines), "it says that nothing was measured"
    again = demo(None, tmp_path / "demo", patches=24, epochs=1, say=lines.append)
    for name in ROWS:
        assert again.rows[name] == pytest.approx(result.rows[name], abs=1e-6)


# Bright ground looks like an offset left in, and these few real places have some.
@pytest.mark.filterwarnings("ignore:most patches:deepsentinel.errors.UnitsWarning")
def test_real_pairs_with_the_encoder_of_the_package(shared_data, tmp_path):
    lines: list[str] = []
    result = demo(shared_data / "terramesh", tmp_path / "demo", epochs=2, say=lines.append)
    check_files(tmp_path / "demo")
    assert not result.synthetic
    assert all(result.splits.get(split, 0) > 0 for split in ("train", "val", "test"))
    assert any("judged from the pixels" in line for line in lines)


def test_a_corpus_is_taken_as_it_is(tmp_path, monkeypatch):
    """And one without a mask is refused before anything is trained."""
    from deepsentinel.corpus.format import CorpusInfo
    from deepsentinel.corpus.patch import PatchPixels, PatchRecord
    from deepsentinel.corpus.write import CorpusWriter

    monkeypatch.setattr(room, "load_encoder", tiny_encoder)
    info = CorpusInfo(
        name="bare", sensors=("s1",), bands={"s1": ("VV",)}, patch_size=16, resolution_m=10
    )
    with CorpusWriter(tmp_path / "bare", info) as writer:
        writer.add(PatchRecord(id="a"), PatchPixels(s1=np.zeros((1, 16, 16), np.int16)))
    with pytest.raises(LabelError, match=r"'bare' has these labels for segmentation: \(none\)"):
        demo(tmp_path / "bare", tmp_path / "demo", say=lambda _: None)
    with pytest.raises(LabelError, match="'crops' was asked for"):
        demo(tmp_path / "bare", tmp_path / "demo", label="crops", say=lambda _: None)
    assert not list((tmp_path / "demo").iterdir())


def test_no_epochs_are_an_error_and_not_the_default(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "load_encoder", tiny_encoder)
    with pytest.raises(ConfigError, match="epochs"):
        demo(None, tmp_path / "demo", patches=16, epochs=0, say=lambda _: None)


@pytest.mark.parametrize(
    ("mask", "label"), [([[2, 2, -1, 0]], 2), ([[-1, -1]], -1), ([[-1, 1]], 1), ([[0, 3, 3, 0]], 0)]
)
def test_the_class_of_most_labelled_pixels(mask, label):
    sample = {"mask": torch.tensor(mask)}
    found = with_dominant_class(sample)["label"]
    assert found.dtype == torch.int64
    assert int(found) == label
    assert "label" not in sample
    assert math.prod(found.shape) == 1


def test_places_in_one_block_are_said_to_be_too_few(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "load_encoder", tiny_encoder)
    root = write_synthetic_corpus(tmp_path / "corpus", patches=4, patch_size=32, seed=0)
    facts = json.loads((root / "corpus.json").read_text())
    assert facts["splits"].keys() != {"train", "val", "test"}
    with pytest.raises(SplitError, match=r"no patch in .*--block-m"):
        demo(root, tmp_path / "demo", epochs=1, say=lambda _: None)
