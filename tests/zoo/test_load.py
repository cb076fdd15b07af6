"""`load_encoder` and `list_encoders`, on rows and folders made here."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deepsentinel import FusionEncoder, list_encoders, load_encoder
from deepsentinel.encoders.card import Card
from deepsentinel.errors import EncoderNotFoundError, UnknownNameError, WeightsError
from deepsentinel.zoo import load
from deepsentinel.zoo.rows import ROWS, Shipped


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    encoder = FusionEncoder("mobilenetv4_conv_small_050")
    encoder.save_pretrained(tmp_path / "tiny", card=Card(name="tiny"))
    return tmp_path / "tiny"


@pytest.fixture
def row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Shipped:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    row = Shipped(name="tiny-nano", folder=folder, sha256=digest)
    monkeypatch.setattr(load, "ROWS", (row,))
    return row


def test_a_row_and_its_folder_load_the_same(row: Shipped) -> None:
    s2 = torch.rand(1, 12, 32, 32) * 0.3
    by_name, by_path = load_encoder("tiny-nano", empty="nan"), load_encoder(row.folder)
    assert torch.equal(by_name(s2=s2).embedding, by_path(s2=s2).embedding)
    assert torch.equal(load_encoder(str(row.folder))(s2=s2).embedding, by_path(s2=s2).embedding)
    assert (by_name.check, by_name.empty, by_name.training) == ("first", "nan", False)
    assert [card.name for card in list_encoders()] == ["tiny"]


def test_weights_must_be_those_of_the_row(row: Shipped) -> None:
    # A folder saved anew is whole in itself, but is not what the row promised.
    FusionEncoder("mobilenetv4_conv_small_050").save_pretrained(row.folder)
    load_encoder(row.folder)
    with pytest.raises(WeightsError, match=f"expected {row.sha256}"):
        load_encoder("tiny-nano")


def test_downloading_what_ships_verifies_it(row: Shipped) -> None:
    assert load.download_encoder("tiny-nano") == {"both": row.folder}
    weights = row.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(WeightsError, match=rf"expected {row.sha256}\. Reinstall"):
        load.download_encoder("tiny-nano")
    weights.unlink()
    with pytest.raises(WeightsError, match=r"is absent\. Reinstall"):
        load.download_encoder("tiny-nano")


def test_a_row_without_its_files_says_reinstall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Shipped(name="gone", folder=tmp_path / "gone", sha256="")
    monkeypatch.setattr(load, "ROWS", (row,))
    with pytest.raises(WeightsError, match="Reinstall"):
        load_encoder("gone")
    with pytest.raises(WeightsError, match="Reinstall"):
        list_encoders()


def test_unknown_names_list_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(EncoderNotFoundError, match="Did you mean 'deepsentinel-nano'"):
        load_encoder("deepsentinel-nan")
    with pytest.raises(EncoderNotFoundError, match="no such folder"):
        load_encoder(str(tmp_path / "nowhere"))
    with pytest.raises(EncoderNotFoundError, match="no such folder"):
        load_encoder(tmp_path / "nowhere")


def test_unknown_modes_are_refused(folder: Path) -> None:
    with pytest.raises(UnknownNameError, match="check='sometimes'"):
        load_encoder(folder, check="sometimes")  # type: ignore[arg-type]


def test_names_of_rows_are_unique() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_loading_imports_no_trainer_and_listing_no_torch(folder: Path) -> None:
    code = f"""
import sys
from deepsentinel.zoo import load
assert "torch" not in sys.modules, "listing encoders would import torch"
load.load_encoder({str(folder)!r})
heavy = [m for m in ("torchgeo", "lightning", "segmentation_models_pytorch") if m in sys.modules]
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
