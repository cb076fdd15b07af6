"""Whole models on the Hub: classes, colours and the encoder's provenance survive."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from deepsentinel import Classifier, FusionEncoder, Segmenter, load_encoder, load_model
from deepsentinel.encoders.card import Card
from deepsentinel.encoders.galileo import GalileoEncoder
from deepsentinel.errors import HubError, WeightsError
from tests.servers.cloud import Cloud
from tests.servers.hub import Hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAMES, COLOURS = ("water", "land"), ("#0000ff", "#00ff00")
CARD = Card(name="origin", licence="MIT", repository="lab/origin", revision="a" * 40)


def segmenter() -> Segmenter:
    encoder = FusionEncoder("resnet10t", levels=(1, 2), card=CARD)
    return Segmenter(encoder, 2, "linear", class_names=NAMES, class_colours=COLOURS).eval()


def test_publish_and_open_a_model(site: Cloud, login: None, hub: Hub) -> None:
    model = segmenter()
    commit = model.push_to_hub("user/coast")
    s1 = torch.full((1, 2, 32, 32), -12.0)
    for name in ("user/coast", f"hf://user/coast@{commit}"):
        opened = load_model(name)
        assert isinstance(opened, Segmenter)
        assert torch.equal(opened(s1).logits, model(s1).logits)
        assert (opened.class_names, opened.class_colours) == (NAMES, COLOURS)
        card = opened.encoder.card
        assert (card.name, card.repository, card.revision) == ("origin", "lab/origin", "a" * 40)
    assert Segmenter.from_pretrained("user/coast", revision=commit).class_names == NAMES
    with pytest.raises(WeightsError, match="holds a model for segmentation"):
        Classifier.from_pretrained("user/coast")
    with pytest.raises(WeightsError, match="whole model for segmentation"):
        load_encoder("user/coast")
    text = hub.repositories["models", "user/coast"].commits[commit]["README.md"].decode()
    assert "| 0 | water | #0000ff |" in text
    assert 'load_model("user/coast")' in text


def test_a_damaged_model_heals_and_a_private_one_needs_a_token(site: Cloud, login: None) -> None:
    model = segmenter()
    model.push_to_hub("user/coast", private=True)
    site.fault("flip", match="model.safetensors")
    s1 = torch.full((1, 2, 32, 32), -12.0)
    assert torch.equal(load_model("user/coast")(s1).logits, model(s1).logits)
    with pytest.raises(HubError, match="private"):
        load_model("user/coast", revision="next", token=False)


def test_a_pickle_in_place_of_safetensors_is_refused(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Code:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (ran,)

    segmenter().save_pretrained(tmp_path)
    torch.save({"a": Code()}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="has sha256"):
        load_model(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    del content["sha256"]  # as whoever put the pickle there would
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="cannot be read"):
        load_model(tmp_path)
    FusionEncoder("resnet10t", levels=(1,)).save_pretrained(tmp_path / "e")
    torch.save({"a": Code()}, tmp_path / "e" / "model.safetensors")
    with pytest.raises(WeightsError, match="has sha256"):
        load_encoder(tmp_path / "e")
    content = json.loads((tmp_path / "e" / "config.json").read_text())
    data = (tmp_path / "e" / "model.safetensors").read_bytes()
    content["card"]["sha256"] = hashlib.sha256(data).hexdigest()
    (tmp_path / "e" / "config.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="Save it anew"):
        load_encoder(tmp_path / "e")
    assert not ran.exists()


def test_a_model_on_another_encoder_of_ours_is_saved_whole(tmp_path: Path) -> None:
    encoder = GalileoEncoder(width=32, depth=1, heads=2)
    model = Classifier(encoder, 2, class_names=NAMES).eval()
    opened = load_model(model.save_pretrained(tmp_path))
    s1 = torch.full((1, 2, 32, 32), -12.0)
    assert isinstance(opened.encoder, GalileoEncoder)
    assert torch.equal(opened(s1, month=3).logits, model(s1, month=3).logits)
