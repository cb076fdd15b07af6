"""Every head is fine-tuned by the one call: score, report, and a folder that opens again."""

import json

import pytest
import torch

from deepsentinel import finetune, load_model
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.heads.matching import Matcher
from deepsentinel.heads.regression import Regressor
from deepsentinel.sample import collate
from deepsentinel.training.evaluate import evaluate_model


def encoder() -> FusionEncoder:
    return FusionEncoder("resnet10t", levels=(1, 2), embed_dim=16)


def pixels(sample):
    return sample | {"target": sample["image_s2"][:1].clone()}


def patches(sample):
    return sample | {"target": sample["image_s2"][:2].mean((1, 2))}


@pytest.mark.filterwarnings("ignore::deepsentinel.errors.UnitsWarning")  # made-up patches
@pytest.mark.parametrize(
    ("build", "change", "told"),
    [
        (
            lambda e: Regressor(e, decoder="linear", focus_classes=(1,)),
            pixels,
            ("r2", "scatter"),
        ),
        (lambda e: Regressor(e, 2, per_pixel=False), patches, ("r2", "scatter")),
        (lambda e: Matcher(e, dim=8), dict, ("match_accuracy", "confusion")),
    ],
)
def test_a_head_is_trained_scored_and_opened(samples, tmp_path, build, change, told) -> None:
    metric, picture = told
    torch.manual_seed(0)
    train, val = ([change(s) for s in samples(12, seed)] for seed in (1, 2))
    options = {"epochs": 3, "lr": 1e-2, "batch_size": 5, "progress": False}
    result = finetune(build(encoder()), train, val, out_dir=tmp_path, **options)
    assert result.metric == metric
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    loaded = load_model(tmp_path)
    batch = collate(val[:4])
    for name in loaded.exported:
        assert torch.equal(*(getattr(m.predict(batch), name) for m in (loaded, result.model)))
    scores = evaluate_model(loaded, val)
    assert scores[metric] == pytest.approx(result.best_score)
    report = tmp_path / "report"
    assert (report / f"{picture}.png").stat().st_size > 1000
    metrics = json.loads((report / "report.json").read_text())["metrics"]
    assert metrics[metric] == pytest.approx(result.best_score)
    assert finetune(build(encoder()), train, val, out_dir=tmp_path, **options).history == (
        result.history
    )


@pytest.mark.parametrize("build", [lambda e: Regressor(e, decoder="dpt"), Matcher])
def test_half_precision(samples, build) -> None:
    model = build(encoder())
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(collate([pixels(s) for s in samples(3)]))["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
