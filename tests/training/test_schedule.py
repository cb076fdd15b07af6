"""Learning rates: by step, by depth, by part; compared with timm's."""

import inspect
from dataclasses import fields

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import ConfigError
from deepsentinel.heads.classification import Classifier
from deepsentinel.training.finetune import finetune
from deepsentinel.training.finetuning.options import FinetuneConfig
from deepsentinel.training.finetuning.schedule import (
    Schedule,
    factors,
    layer_depths,
    layer_scales,
    parameter_groups,
)


def test_depths_of_a_vision_transformer_are_timms() -> None:
    options = {"embed_dim": 32, "depth": 5, "num_heads": 2}
    encoder = FusionEncoder("vit_tiny_patch16_224", backbone_options=options)
    scales = layer_scales(encoder, 0.5)
    net = timm.create_model("vit_tiny_patch16_224", **options, num_classes=0, img_size=32)
    scale_of = {
        id(p): group["lr_scale"]
        for group in param_groups_layer_decay(net, layer_decay=0.5)
        for p in group["params"]
    }
    theirs = {f"towers.both.net.model.{n}": scale_of[id(p)] for n, p in net.named_parameters()}
    shared = scales.keys() & theirs.keys()
    assert len(shared) > 5 * 10
    assert {n: scales[n] for n in shared} == {n: theirs[n] for n in shared}


@pytest.mark.parametrize("backbone", ["resnet10t", "convnext_atto", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize("fusion", ["early", "late"])
def test_depth_rises_from_stem_to_projection_in_every_tower(backbone, fusion) -> None:
    encoder = FusionEncoder(backbone, fusion=fusion, embed_dim=16)
    depths = layer_depths(encoder)
    towers = [""] if fusion == "early" else ["s1", "s2"]
    for tower in towers:
        own = [d for n, d in depths.items() if n.startswith("towers") and f".{tower}" in n]
        assert own == sorted(own)
        assert own[0] == 0
        assert own[-1] == max(depths.values()) >= 4
    assert depths["project.1.weight"] == max(depths.values())


def test_decay_needs_blocks() -> None:
    with pytest.raises(ConfigError, match=r"layer_decay=0.5: this Linear has no blocks"):
        layer_scales(torch.nn.Linear(2, 2), 0.5)


def test_groups_hold_every_parameter_once_at_its_rate() -> None:
    encoder = FusionEncoder("resnet10t", levels=(1, 2), embed_dim=16)
    model = Classifier(encoder, 3)
    config = FinetuneConfig(lr=1.0, encoder_lr=0.1, layer_decay=0.5, weight_decay=0.3)
    groups = parameter_groups(model, config)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, model.parameters()))
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {rate[id(p)] for p in model.head.parameters()} == {1.0}
    scales = layer_scales(encoder, 0.5)
    for name, parameter in encoder.named_parameters():
        assert rate[id(parameter)] == pytest.approx(0.1 * scales[name])
        assert decay[id(parameter)] == (0.3 if parameter.ndim > 1 else 0.0)


def test_a_late_encoder_warms_up_when_its_turn_comes() -> None:
    config = FinetuneConfig(epochs=10, freeze_encoder=True, unfreeze_epoch=4, warmup=0.04)
    groups = [{"part": "head"}, {"part": "encoder"}]
    head, encoder = factors(config, 10, groups)
    assert [encoder(step) for step in (0, 29)] == [0.0, 0.0]
    assert 0 < encoder(30) < encoder(31) < encoder(33) < head(33)
    assert [encoder(step) for step in range(34, 101)] == [head(step) for step in range(34, 101)]
    assert Schedule(100, 4).factor(100) == pytest.approx(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_decay": 0.0}, "out of range: layer_decay=0.0"),
        ({"layer_decay": 1.1}, "out of range: layer_decay"),
        ({"grad_clip": 0, "lr": -1}, "out of range: lr=-1, grad_clip=0"),
        ({"unfreeze_epoch": 2}, "for a frozen encoder"),
        ({"freeze_encoder": True, "unfreeze_epoch": 30}, r"never comes in epochs=20"),
    ],
)
def test_choices_that_contradict_each_other(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        FinetuneConfig(**options)


def test_the_call_and_the_config_have_the_same_defaults() -> None:
    """One is for calls, one for files; neither may know more than the other."""
    of_call = {n: p.default for n, p in inspect.signature(finetune).parameters.items()}
    of_config = {f.name: f.default for f in fields(FinetuneConfig)}
    assert {n: of_call[n] for n in of_config} == of_config
    rest = {"model", "train", "val", "out_dir", "augment", "resume", "progress", "logger"}
    assert of_call.keys() - of_config.keys() <= rest | {"report"}


def test_a_frozen_encoder_begins_to_learn_when_asked(tmp_path, model, samples) -> None:
    ours = model("linear")
    before = {k: v.clone() for k, v in ours.encoder.state_dict().items()}
    options = {"freeze_encoder": True, "unfreeze_epoch": 2, "epochs": 2, "batch_size": 4}
    train, val = samples(4), samples(2, seed=1)
    seen = []

    class Watching(list):
        def __getitem__(self, index):
            same = (torch.equal(v, before[k]) for k, v in ours.encoder.state_dict().items())
            seen.append(all(same))
            return super().__getitem__(index)

    finetune(
        ours,
        train,
        Watching(val),
        out_dir=tmp_path,
        lr=1e-2,
        progress=False,
        report=False,
        accelerator="cpu",
        **options,
    )
    assert seen[:-2] == [True] * (len(seen) - 2)
    assert seen[-2:] == [False, False]
    card = ours.encoder.card
    assert "fine-tuned" in card.training
