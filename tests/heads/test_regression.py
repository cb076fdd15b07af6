"""`Regressor`: pixels and patches, units, what is not known, the classes that count once more."""

import pytest
import torch

from deepsentinel.errors import LabelError, SampleError, ShapeError, UnknownNameError
from deepsentinel.features import Head, Regression
from deepsentinel.heads.card import model_card
from deepsentinel.heads.decoders import DECODERS
from deepsentinel.heads.losses import REGRESSION_LOSSES
from deepsentinel.heads.regression import Regressor

NAN = float("nan")


@pytest.fixture
def batch(batch):
    """Brightness of the patch as a quantity of pixels, in units far from 0 and 1."""
    target = 300.0 + 50.0 * batch["image_s2"][:, 1:2] / 0.2
    target[:, :, :3] = NAN
    return batch | {"target": target}


def overfitted(model, batch, steps=60):
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        model.loss(batch)["loss"].backward()
        optimiser.step()
    return model


@pytest.mark.parametrize("loss", REGRESSION_LOSSES)
def test_learns_pixels_in_their_units(encoder, batch, loss) -> None:
    model = Regressor(
        encoder, decoder="linear", loss=loss, target_mean=(350.0,), target_std=(40.0,)
    )
    assert isinstance(model.head, Head)
    before = model.loss(batch)["mae"].item()
    overfitted(model, batch)
    assert model.loss(batch)["mae"] < 0.5 * before
    values = model(batch["image_s1"], batch["image_s2"]).values
    known = torch.isfinite(batch["target"])
    assert (values - batch["target"])[known].abs().mean() < 20


@pytest.mark.parametrize("head", ["linear", "mlp", "attention"])
def test_learns_patches(encoder, batch, head) -> None:
    target = torch.stack([batch["image_s2"].mean((1, 2, 3)), torch.full((4,), NAN)], 1)
    target[2, 1] = 7.0
    model = Regressor(encoder, 2, per_pixel=False, head=head)
    before = model.loss(batch | {"target": target})["mae"].item()
    overfitted(model, batch | {"target": target})
    found = model(batch["image_s1"], batch["image_s2"])
    assert type(found) is Regression
    assert found.values.shape == (4, 2)
    assert model.loss(batch | {"target": target})["mae"] < 0.3 * before
    assert model.head.labelled(batch | {"target": target}) == 5


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [(16, 16), (45, 23)])
def test_values_have_the_size_of_the_input(make_encoder, decoder, size) -> None:
    model = Regressor(make_encoder((4, 16), (8, 16)), 3, decoder=decoder, channels=32).eval()
    assert model(s1=torch.full((2, 2, *size), -12.0)).values.shape == (2, 3, *size)


def test_the_loss_is_the_slow_loop(encoder, batch) -> None:
    """Both terms in standard deviations, each over what is known, the second over its classes."""
    options = {"target_mean": (300.0,), "target_std": (50.0,), "loss": "l2"}
    model = Regressor(
        encoder, decoder="linear", focus_classes=(1, 2), focus_weight=0.7, **options
    ).eval()
    found, target, mask = model.predict(batch).values, batch["target"], batch["mask"]
    errors, focus = [], []
    for b in range(4):
        for i in range(32):
            for j in range(32):
                if torch.isfinite(target[b, 0, i, j]):
                    errors.append((found[b, 0, i, j] - target[b, 0, i, j]) / 50)
                    if mask[b, i, j] in (1, 2):
                        focus.append(errors[-1].abs())
    errors, focus = torch.stack(errors), torch.stack(focus)
    losses = model.loss(batch)
    assert losses["focus"].item() == pytest.approx(focus.mean().item(), rel=1e-4)
    wanted = errors.square().mean() + 0.7 * focus.mean()
    assert losses["loss"].item() == pytest.approx(wanted.item(), rel=1e-4)
    assert losses["mae"].item() == pytest.approx(50 * errors.abs().mean().item(), rel=1e-4)


def test_unknown_pixels_give_no_gradient(encoder, batch) -> None:
    model = Regressor(encoder, decoder="linear").eval()
    loss = model.loss(batch | {"target": torch.full((4, 1, 32, 32), NAN)})["loss"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad.abs().max() == 0 for p in model.parameters() if p.grad is not None)


def test_wrong_targets_are_refused(encoder, batch) -> None:
    model = Regressor(encoder, decoder="linear", focus_classes=(1,))
    with pytest.raises(ShapeError, match=r"\(4, 1, 16, 32\); \(B, 1, 32, 32\)"):
        model.loss(batch | {"target": batch["target"][:, :, ::2]})
    with pytest.raises(ShapeError, match=r"of whole patches with 2 quantities"):
        Regressor(encoder, 2, per_pixel=False).loss(batch)
    with pytest.raises(LabelError, match=r"torch.int64; floating-point"):
        model.loss(batch | {"target": torch.zeros(4, 1, 32, 32, dtype=torch.int64)})
    with pytest.raises(LabelError, match="infinity"):
        model.loss(batch | {"target": batch["target"].nan_to_num(float("inf"))})
    with pytest.raises(SampleError, match="no 'mask'"):
        model.loss({k: v for k, v in batch.items() if k != "mask"})
    with pytest.raises(SampleError, match=r"no 'target'.*EviTarget"):
        model.loss({k: v for k, v in batch.items() if k != "target"})


def test_wrong_options_are_refused(encoder) -> None:
    with pytest.raises(LabelError, match="num_targets=0: at least 1"):
        Regressor(encoder, 0)
    with pytest.raises(LabelError, match=r"target_names has 1"):
        Regressor(encoder, 2, target_names=("evi",))
    with pytest.raises(LabelError, match=r"target_std=\(0.0,\): 1 finite numbers, above 0"):
        Regressor(encoder, target_std=(0.0,))
    with pytest.raises(LabelError, match=r"target_mean=\(1, 2\): 1 finite"):
        Regressor(encoder, target_mean=(1, 2))
    with pytest.raises(UnknownNameError, match=r"'l3'"):
        Regressor(encoder, loss="l3")
    with pytest.raises(LabelError, match="has none"):
        Regressor(encoder, per_pixel=False, focus_classes=(1,))
    with pytest.raises(LabelError, match="focus_weight=0"):
        Regressor(encoder, focus_classes=(1,), focus_weight=0)


def test_its_card_names_its_quantities(encoder) -> None:
    model = Regressor(encoder, 2, decoder="linear", target_names=("evi", "height"))
    text = model_card("user/plants", model.config())
    assert "Predicts 2 quantities" in text
    assert "## Quantities\n\n0. evi\n1. height" in text


@pytest.mark.slow
def test_a_regressor_as_a_graph(tmp_path) -> None:
    from deepsentinel import FusionEncoder

    encoder = FusionEncoder("resnet10t", levels=(1,))
    model = Regressor(encoder, 2, decoder="linear", target_mean=(5.0, 1.0)).eval()
    path = model.export(tmp_path / "model.pt2", format="torch")
    s1, s2 = torch.randn(2, 2, 47, 61) * 3 - 14, torch.rand(2, 12, 47, 61) * 0.4
    (values,) = torch.export.load(path).module()(s1, s2)
    with torch.no_grad():
        torch.testing.assert_close(values, model(s1, s2).values)
