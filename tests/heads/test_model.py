"""Saving and loading: the same outputs, the same names, and refusal of what does not fit."""

import hashlib
import json
import resource

import pytest
import torch
from safetensors.torch import load_file, save_file

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import (
    EncoderNotFoundError,
    SampleError,
    UnusedInputError,
    WeightsError,
)
from deepsentinel.heads.classification import Classifier
from deepsentinel.heads.matching import Matcher
from deepsentinel.heads.model import load_model
from deepsentinel.heads.regression import Regressor
from deepsentinel.heads.segmentation import Segmenter

NAMES, COLOURS = ("water", "land", "built"), ("#0000ff", "#00ff00", "#ff0000")


def small_encoder() -> FusionEncoder:
    return FusionEncoder("resnet10t", levels=(1, 2, 3), embed_dim=16)


@pytest.mark.parametrize(
    "build",
    [
        lambda e: Segmenter(
            e,
            3,
            "fpn",
            channels=32,
            class_names=NAMES,
            class_colours=COLOURS,
            class_weights=(1, 2, 3),
            loss={"cross_entropy": 1, "lovasz": 0.5},
        ),
        lambda e: Classifier(e, 3, multilabel=True, head="mlp", class_names=NAMES),
        lambda e: Classifier(e, 3, True, head="attention", loss="focal", focal_gamma=1.5),
        lambda e: Regressor(
            e,
            2,
            decoder="upernet",
            channels=32,
            target_names=("evi", "height"),
            target_mean=(0.3, 12.0),
            target_std=(0.2, 9.0),
            loss="huber",
            focus_classes=(1, 2),
        ),
        lambda e: Regressor(e, 3, per_pixel=False, head="attention", loss="l2"),
        lambda e: Matcher(e, dim=12, head="linear"),
    ],
)
def test_saved_and_loaded_is_the_same(tmp_path, batch, build) -> None:
    model = build(small_encoder())
    model(batch["image_s1"], batch["image_s2"])  # move the running statistics
    loaded = load_model(model.save_pretrained(tmp_path / "m"))
    assert not loaded.training
    for name in model.exported:
        assert torch.equal(*(getattr(m.predict(batch), name) for m in (loaded, model)))
    assert (loaded.class_names, loaded.class_colours) == (model.class_names, model.class_colours)
    assert loaded.config() == model.config()
    assert loaded.encoder.card == model.encoder.card
    batch["label"] = torch.ones(4, 3, dtype=torch.int64)
    batch["target"] = (
        torch.rand(4, 2, 32, 32) if getattr(model, "per_pixel", 0) else torch.rand(4, 3)
    )
    assert torch.equal(loaded.loss(batch)["loss"], model.eval().loss(batch)["loss"])
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    stated = json.loads((tmp_path / "m" / "config.json").read_text())["sha256"]
    data = (tmp_path / "m" / "model.safetensors").read_bytes()
    assert stated == hashlib.sha256(data).hexdigest()
    assert type(model).from_pretrained(tmp_path / "m").options == model.options


def test_an_encoder_of_ones_own_is_passed(tmp_path, encoder, make_encoder, batch) -> None:
    model = Segmenter(encoder, 3, "linear")
    model.save_pretrained(tmp_path)
    with pytest.raises(EncoderNotFoundError, match=r"TinyEncoder.*encoder="):
        load_model(tmp_path)
    loaded = load_model(tmp_path, encoder=make_encoder())
    assert torch.equal(loaded.predict(batch).logits, model.predict(batch).logits)
    with pytest.raises(WeightsError, match="of another shape"):
        load_model(tmp_path, encoder=make_encoder(channels=(8, 12)))


def test_the_wrong_class_is_named(tmp_path, encoder, make_encoder) -> None:
    Segmenter(encoder, 3, "linear").save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="segmentation, not for classification"):
        Classifier.from_pretrained(tmp_path, encoder=make_encoder())


def test_damage_is_named(tmp_path, encoder, make_encoder) -> None:
    with pytest.raises(WeightsError, match="no config"):
        load_model(tmp_path)
    Segmenter(encoder, 3, "linear").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "classify" not in k}, tmp_path / "model.safetensors"
    )
    with pytest.raises(WeightsError, match=r"has sha256 .* is expected"):
        load_model(tmp_path, encoder=make_encoder())
    unsealed = json.loads((tmp_path / "config.json").read_text())
    pinned = unsealed.pop("sha256")
    (tmp_path / "config.json").write_text(json.dumps(unsealed))
    with pytest.raises(WeightsError, match=r"missing \['head.classify.bias'"):
        load_model(tmp_path, encoder=make_encoder())
    with pytest.raises(WeightsError, match=f"{pinned} is expected"):
        load_model(tmp_path, encoder=make_encoder(), sha256=pinned)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_model(tmp_path, encoder=make_encoder())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"task": "poetry"}))
    with pytest.raises(WeightsError, match="'poetry'"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="not JSON"):
        load_model(tmp_path)


def test_no_image(encoder) -> None:
    with pytest.raises(SampleError, match=r"found \['label'\]"):
        Classifier(encoder, 3).loss({"label": torch.zeros(1, dtype=torch.int64)})


def test_a_failed_write_leaves_the_old_file(tmp_path, encoder) -> None:
    model = Segmenter(encoder, 3, "linear")
    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            model.save_pretrained(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_month_and_place_go_to_the_encoder_that_is_asked(batch) -> None:
    model = Classifier(small_encoder(), 3).eval()
    with pytest.raises(UnusedInputError, match="month"):
        model(s2=batch["image_s2"], month=7)
