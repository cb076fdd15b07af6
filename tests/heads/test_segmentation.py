"""`Segmenter`: every decoder on every pyramid, learning, ignoring, refusing wrong targets."""

import subprocess
import sys

import pytest
import torch

from deepsentinel.errors import LabelError, SampleError, ShapeError, UnknownNameError
from deepsentinel.features import Head, Segmentation
from deepsentinel.heads.decoders import DECODERS
from deepsentinel.heads.segmentation import Segmenter

PYRAMIDS = [
    ((4, 8, 16, 32), (8, 8, 16, 16)),
    ((16, 16, 16), (12, 12, 12)),
    ((14,), (8,)),
    ((1, 4), (6, 8)),
]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("strides", "channels"), PYRAMIDS)
@pytest.mark.parametrize("size", [(32, 32), (45, 23), (16, 70)])
def test_logits_have_the_size_of_the_input(make_encoder, decoder, strides, channels, size) -> None:
    model = Segmenter(make_encoder(strides, channels), 5, decoder, channels=32).eval()
    predicted = model(s2=torch.rand(2, 12, *size))
    assert predicted.logits.shape == predicted.probabilities.shape == (2, 5, *size)
    assert predicted.classes.shape == (2, *size)


@pytest.mark.parametrize("decoder", DECODERS)
def test_overfits_two_batches(encoder, batch, decoder) -> None:
    model = Segmenter(encoder, 3, decoder, channels=32, dice_weight=0.5)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for step in range(40):
        half = {k: v[2 * (step % 2) : 2 * (step % 2) + 2] for k, v in batch.items()}
        loss = model.loss(half)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4])


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_mask_lies_where_the_pixels_do(make_encoder, decoder) -> None:
    """A model trained on a bright square answers in that square, at a size no stride divides."""
    s2 = torch.zeros(1, 12, 45, 45)
    s2[..., 12:28, 16:32] = 0.5
    mask = (s2[:, 0] > 0).long()
    model = Segmenter(make_encoder(), 2, decoder, channels=32)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        model.loss({"image_s2": s2, "mask": mask})["loss"].backward()
        optimiser.step()
    with torch.no_grad():
        found = model(s2=s2).classes == 1
    intersection, union = (found & (mask == 1)).sum(), (found | (mask == 1)).sum()
    assert intersection / union > 0.8


def test_probabilities_sum_to_one_and_types_do_not_depend_on_the_mode(encoder, batch) -> None:
    model = Segmenter(encoder, 3, "linear")
    for mode in (True, False):
        predicted = model.train(mode)(batch["image_s1"], batch["image_s2"])
        assert type(predicted) is Segmentation
        assert torch.allclose(predicted.probabilities.sum(1), torch.ones(4, 32, 32), atol=1e-5)
        assert torch.equal(predicted.classes, predicted.logits.argmax(1))


def test_predict_is_the_same_in_any_mode_and_leaves_the_mode(encoder, batch) -> None:
    model = Segmenter(encoder, 3, "linear").train()
    model.encoder.levels[0].eval()
    before = [m.training for m in model.modules()]
    a, b = model.predict(batch), model.eval().predict(batch)
    assert torch.equal(a.logits, b.logits)
    assert not a.logits.requires_grad
    model.train()
    model.encoder.levels[0].eval()
    model.predict(batch)
    assert [m.training for m in model.modules()] == before


def test_the_head_is_a_head(encoder) -> None:
    assert isinstance(Segmenter(encoder, 3, "linear").head, Head)


def test_ignored_pixels_give_no_gradient(encoder, batch) -> None:
    model = Segmenter(encoder, 3, "linear").eval()
    batch["mask"][:] = -1
    loss = model.loss(batch)["loss"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad.abs().max() == 0 for p in model.parameters() if p.grad is not None)


def test_wrong_targets_are_refused(encoder, batch) -> None:
    model = Segmenter(encoder, 3, "linear")
    mask = batch["mask"].clone()
    mask[0, 0, :2] = torch.tensor([254, 3])
    with pytest.raises(LabelError, match=r"holds 3 254, but the model has 3 classes"):
        model.loss(batch | {"mask": mask})
    with pytest.raises(LabelError, match=r"torch\.float32; integers are expected"):
        model.loss(batch | {"mask": batch["mask"].float()})
    with pytest.raises(ShapeError, match=r"\(4, 16, 32\)"):
        model.loss(batch | {"mask": batch["mask"][:, ::2]})
    del batch["mask"]
    with pytest.raises(SampleError, match=r"no 'mask', only \['image_s1', .*labels="):
        model.loss(batch)


def test_wrong_classes_are_refused(encoder) -> None:
    with pytest.raises(LabelError, match="num_classes=1: at least 2"):
        Segmenter(encoder, 1)
    with pytest.raises(LabelError, match=r"class_names has 1"):
        Segmenter(encoder, 2, class_names=["a"])
    with pytest.raises(LabelError, match=r"repeats \['a'\]"):
        Segmenter(encoder, 2, class_names=["a", "a"])
    with pytest.raises(LabelError, match=r"class_colours holds \['red'\]"):
        Segmenter(encoder, 2, class_colours=["#00ff00", "red"])
    with pytest.raises(LabelError, match="2 finite numbers"):
        Segmenter(encoder, 2, class_weights=[1.0, float("nan")])
    with pytest.raises(LabelError, match=r"label_smoothing=1\.0"):
        Segmenter(encoder, 2, label_smoothing=1.0)
    with pytest.raises(UnknownNameError, match=r"'unett'. Did you mean 'unet'"):
        Segmenter(encoder, 2, "unett")


def test_bfloat16(encoder, batch) -> None:
    model = Segmenter(encoder, 3, "unet", channels=32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(batch)["loss"]
    loss.backward()
    assert torch.isfinite(loss)


def test_a_linear_probe_does_not_import_smp() -> None:
    code = (
        "import sys; from deepsentinel.heads.decoders import build_decoder; "
        "build_decoder('linear', (4,), (4,)); from deepsentinel.heads.model import load_model; "
        "print([m for m in ('segmentation_models_pytorch', 'lightning', 'torchgeo') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_scale_of_an_encoders_maps_does_not_matter(make_encoder, decoder) -> None:
    encoder = make_encoder()
    head = Segmenter(encoder, 3, decoder, channels=32).eval().head
    features = encoder(s2=torch.rand(2, 12, 32, 32))
    large = type(features)(features.embedding, tuple(1e3 * m for m in features.maps), (4, 8))
    assert torch.allclose(head(features, (32, 32)), head(large, (32, 32)), atol=0.05)
