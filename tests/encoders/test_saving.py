"""What `save_pretrained` writes, and what `from_pretrained` refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import deepsentinel
from deepsentinel.encoders.card import Card, Score
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.encoders.galileo import GalileoEncoder
from deepsentinel.errors import EncoderNotFoundError, WeightsError

BACKBONE = "mobilenetv4_conv_small_050"


@pytest.fixture(scope="module")
def encoder() -> FusionEncoder:
    torch.manual_seed(2)
    options: dict[str, Any] = {"backbone_options": {"drop_path_rate": 0.1}, "levels": (1, 2, 3)}
    statistics = {"VV": (-11.1, 4.3), "B04": (0.11, 0.07), "B08": (0.3, 0.1)}
    encoder = FusionEncoder(
        BACKBONE,
        s1_bands=("VV",),
        s2_bands=("B08", "B04"),
        statistics=statistics,
        embed_dim=20,
        **options,
    ).train()
    for _ in range(2):  # running statistics that are not the initial ones
        encoder(s1=torch.randn(4, 1, 32, 32) - 12, s1_bands=("VV",))
    return encoder.eval()


@pytest.fixture
def folder(encoder: FusionEncoder, tmp_path: Path) -> Path:
    encoder.save_pretrained(tmp_path / "saved", card=Card(name="tiny", limits="Use this in tests."))
    return tmp_path / "saved"


def embedded(encoder: FusionEncoder) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    s2 = torch.rand(2, 2, 33, 40, generator=generator) * 0.3
    with torch.no_grad():
        return encoder(s2=s2, s2_bands=("B04", "B08")).embedding


def test_the_public_class_opens_every_encoder(folder: Path, tmp_path: Path) -> None:
    other = GalileoEncoder(width=32, depth=1, heads=2).eval()
    other.save_pretrained(tmp_path / "other")
    for place, kind in ((folder, FusionEncoder), (tmp_path / "other", GalileoEncoder)):
        found = deepsentinel.Encoder.from_pretrained(place)
        assert type(found) is kind
        assert isinstance(found, deepsentinel.Encoder)
    with pytest.raises(WeightsError, match="holds a GalileoEncoder, not a FusionEncoder"):
        FusionEncoder.from_pretrained(tmp_path / "other")
    with pytest.raises(EncoderNotFoundError, match=r"are for deepsentinel\.load_encoder"):
        deepsentinel.Encoder.from_pretrained("galileo-nano")
    for name in ("save_pretrained", "push_to_hub", "export", "card", "encode"):
        assert hasattr(deepsentinel.Encoder, name)


def test_saved_and_loaded_are_equal(encoder: FusionEncoder, folder: Path) -> None:
    state = torch.random.get_rng_state()
    loaded = FusionEncoder.from_pretrained(folder, check="never", empty="nan")
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(embedded(loaded), embedded(encoder))
    assert loaded.config == encoder.config
    assert loaded.bands == {"s1": ("VV",), "s2": ("B08", "B04")}
    assert (loaded.check, loaded.empty, loaded.training) == ("never", "nan", False)
    assert loaded.card == encoder.card
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_half_precision_halves_the_file_and_loads_as_float32(
    encoder: FusionEncoder, folder: Path, tmp_path: Path
) -> None:
    encoder.save_pretrained(tmp_path / "half", dtype=torch.float16)
    whole, half = (d / "model.safetensors" for d in (folder, tmp_path / "half"))
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    assert load_file(half)["stems.s1.mean"].dtype == torch.float32
    loaded = FusionEncoder.from_pretrained(tmp_path / "half")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.stems["s2"].mean, encoder.stems["s2"].mean)
    torch.testing.assert_close(embedded(loaded), embedded(encoder), atol=1e-2, rtol=1e-2)


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    encoder = FusionEncoder(BACKBONE)
    with torch.no_grad():
        next(encoder.towers.parameters()).fill_(1e6)
    with pytest.raises(WeightsError, match=r"not finite in torch.float16"):
        encoder.save_pretrained(tmp_path, dtype=torch.float16)


def test_the_card_states_what_the_architecture_is(encoder: FusionEncoder, folder: Path) -> None:
    card = FusionEncoder.from_pretrained(folder).card
    assert (card.name, card.backbone, card.embed_dim) == ("tiny", BACKBONE, 20)
    assert card.normalisation == {"VV": (-11.1, 4.3), "B04": (0.11, 0.07), "B08": (0.3, 0.1)}
    assert card.parameters == sum(p.numel() for p in encoder.parameters())
    assert (card.out_channels, card.strides) == (encoder.out_channels, encoder.strides)
    assert card.macs_per_px is not None
    assert len(card.sha256) == 64


@pytest.mark.parametrize("damage", ["flip", "truncate", "append"])
def test_damaged_weights_are_refused(folder: Path, damage: str) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-5] ^= 1
    path.write_bytes({"flip": data, "truncate": data[:-1], "append": data + b"0"}[damage])
    with pytest.raises(WeightsError, match=r"sha256.*damaged or replaced"):
        FusionEncoder.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_absent_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=f"{name}.*cannot be read"):
        FusionEncoder.from_pretrained(folder)


def test_an_absent_folder_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(EncoderNotFoundError, match="no such folder"):
        FusionEncoder.from_pretrained(tmp_path / "nowhere")


def test_keys_and_shapes_must_fit(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["extra"] = torch.zeros(1)
    del tensors["stems.s1.mean"]
    tensors["project.1.bias"] = torch.zeros(7)
    save_file(tensors, folder / "model.safetensors")
    edit(folder, "card", sha256=sha256(folder))
    with pytest.raises(WeightsError) as raised:
        FusionEncoder.from_pretrained(folder)
    for part in (
        "1 absent (stems.s1.mean)",
        "1 unexpected (extra)",
        "project.1.bias (7,) for (20,)",
    ):
        assert part in str(raised.value)


def test_configs_of_another_version_are_refused(folder: Path) -> None:
    edit(folder, "encoder", magic=1)
    with pytest.raises(WeightsError, match=r"unexpected.*magic"):
        FusionEncoder.from_pretrained(folder)
    (folder / "config.json").write_text('{"format": 9}')
    with pytest.raises(WeightsError, match="format 9"):
        FusionEncoder.from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="not JSON"):
        FusionEncoder.from_pretrained(folder)


def test_configs_from_before_an_option_open_as_they_were(
    encoder: FusionEncoder, folder: Path
) -> None:
    content = json.loads((folder / "config.json").read_text())
    assert all(content["encoder"].pop(name) in (None, False) for name in FusionEncoder.LATER)
    (folder / "config.json").write_text(json.dumps(content))
    assert torch.equal(embedded(FusionEncoder.from_pretrained(folder)), embedded(encoder))
    del content["encoder"]["fusion"]  # an option that was always there is not guessed
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"lacks \['fusion'\]"):
        FusionEncoder.from_pretrained(folder)


def test_a_card_of_a_later_version_is_refused(folder: Path) -> None:
    edit(folder, "card", smell="fresh")
    with pytest.raises(WeightsError, match="smell"):
        FusionEncoder.from_pretrained(folder)


def test_a_card_reads_as_markdown(encoder: FusionEncoder) -> None:
    score = Score(
        task="tiny probe", metric="mAP", value=0.5, controls={"random": 0.25, "band_stats": 0.4}
    )
    encoder.card = Card(
        name="tiny", licence="MIT", scores=(score,), training={"seed": "0"}, citation="None yet."
    )
    text = encoder.card.to_markdown()
    assert text.startswith("---\nlibrary_name: deepsentinel\nlicense: mit\n")
    assert "| tiny probe | mAP | both | 0.500 | 0.400 | 0.250 |" in text
    assert "| Sentinel-2 | B04 | 0.11 | 0.07 |" in text
    assert "| seed | 0 |" in text
    assert Card.from_json(json.loads(json.dumps(encoder.card.to_json()))) == encoder.card


def edit(folder: Path, section: str, **values: Any) -> None:
    content = json.loads((folder / "config.json").read_text())
    content[section].update(values)
    (folder / "config.json").write_text(json.dumps(content))


def sha256(folder: Path) -> str:
    import hashlib

    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
