"""Objectives by name, with options as a config gives them."""

import inspect
import re

import pytest
import torch

from deepsentinel.errors import ConfigError, UnknownNameError
from deepsentinel.objectives.objective import Objective
from deepsentinel.objectives.registry import OBJECTIVES, ROWS, make_objective, option_types
from deepsentinel.objectives.summary import Summary, unread_levels
from tests.objectives.conftest import BACKBONES, make_encoder


def test_rows_name_what_there_is():
    assert len(set(OBJECTIVES)) == len(ROWS)
    for row in ROWS:
        module = __import__(f"deepsentinel.objectives.{row.module}", fromlist=[row.kind])
        kind = getattr(module, row.kind)
        assert issubclass(kind, Objective)
        assert not inspect.isabstract(kind)
        documented = kind.__doc__
        assert "arXiv" in documented
        for option in option_types(row.name):
            assert re.search(rf"^ +{option}: ", documented, re.M), option


def test_options_come_as_yaml_gives_them():
    options = {"temperature": 1, "view": {"crop": 1, "hiding": {"hole": 0.5}}, "between": "views"}
    objective = make_objective("simclr", make_encoder(), options)
    assert objective.criterion.temperature == 1.0
    assert objective.pairs.view.crop == 1.0
    assert objective.pairs.view.hiding.hole == 0.5
    assert make_objective("simclr", make_encoder(), {"view": None}).pairs.view.crop == 0.75


def test_teachers_come_as_a_list_of_names_or_encoders(tmp_path):
    teacher = make_encoder()
    teacher.save_pretrained(tmp_path / "teacher")
    options = {"teachers": [str(tmp_path / "teacher"), teacher]}
    objective = make_objective("distillation", make_encoder(), options)
    assert len(objective.teachers) == 2
    batch = {"image_s1": torch.full((2, 2, 32, 32), -9.0)}
    losses = objective(make_encoder(), batch, torch.Generator().manual_seed(0))
    assert losses["dense_0"].item() > 0


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("simclear", {}, UnknownNameError, "no objective 'simclear'. Did you mean 'simclr'"),
        ("simclr", {"temprature": 1.0}, ConfigError, "no option 'temprature'. Did you mean"),
        (
            "simclr",
            {"temperature": "hot"},
            ConfigError,
            r"simclr.temperature='hot' is a str; expected",
        ),
        ("simclr", {"hidden": 8.5}, ConfigError, r"simclr.hidden=8.5 is a float; expected int"),
        ("moco", {"queue": True}, ConfigError, r"moco.queue=True is a bool; expected int"),
        ("byol", {"between": "sensor"}, ConfigError, "Did you mean 'sensors'"),
        (
            "byol",
            {"view": {"crap": 1}},
            ConfigError,
            "byol.view has no 'crap'. Did you mean 'crop'",
        ),
        ("byol", {"view": 3}, ConfigError, "byol.view=3 is a int; expected View"),
        ("distillation", {"teachers": [3]}, ConfigError, "distillation.teachers=3 is a int"),
        ("distillation", {"teachers": []}, ConfigError, "one teacher or more"),
        ("distillation", {"teachers": ["nobody"]}, LookupError, "no encoder 'nobody'"),
        ("simclr", {"temperature": 0.0}, ConfigError, "must be above 0"),
        ("moco", {"momentum": 1.5}, ConfigError, "momentum from 0 to 1"),
        ("masked", {"ratio": 1.5}, ConfigError, "shares are from 0 to 1"),
        ("vicreg", {"variance": -1.0}, ConfigError, "none may be negative"),
        ("tile2vec", {"margin": -1.0}, ConfigError, "none may be negative"),
        ("vae", {"latent": 0}, ConfigError, "latent is 1 or more"),
        ("alae", {"r1": -1.0}, ConfigError, "weights 0 or more"),
        ("pix2pix", {"target": "ndvi"}, ConfigError, "Known: rgb evi"),
    ],
)
def test_wrong_names_and_values_are_refused(name, options, error, message):
    with pytest.raises(error, match=message):
        make_objective(name, make_encoder(), options)


def test_a_summary_adds_what_the_embedding_does_not_read():
    assert unread_levels(make_encoder(fusion="early")) == ()
    assert unread_levels(make_encoder(fusion="late")) == ()
    assert unread_levels(make_encoder(fusion="mid")) == (0, 1, 2)
    assert unread_levels(make_encoder(fusion="mid", pool_levels=(0, 1, 2, 3))) == ()
    encoder = make_encoder(fusion="mid").train()
    summary = Summary(encoder)
    assert encoder.training
    features = encoder(s1=torch.full((2, 2, 32, 32), -9.0) + torch.randn(2, 2, 32, 32))
    wanted = features.embedding.clone()
    for level, join in zip((0, 1, 2), summary.joins, strict=True):
        wanted = wanted + features.maps[level].mean((2, 3)) @ join.weight.T
    torch.testing.assert_close(summary(features), wanted)


def test_a_summary_of_a_frozen_encoder_is_its_embedding():
    encoder = make_encoder(fusion="mid").requires_grad_(False)
    assert Summary(encoder).levels == ()
    assert set(BACKBONES) == {"convnext_atto", "vit_tiny_patch16_224"}
