"""`Segmenter`: every decoder on every pyramid, learning, ignoring, refusing wrong targets."""

import subprocess
import sys

import pytest
import torch

from deepsentinel.errors import LabelError, SampleError, ShapeError, UnknownNameError
from deepsentinel.features import Head, Segmentation
from deepsentinel.heads import losses
from deepsentinel.heads.decoders import DECODERS, MeanPool
from deepsentinel.heads.neck import resample
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
    model = Segmenter(encoder, 3, decoder, channels=32, loss={"cross_entropy": 1, "dice": 0.5})
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
    with pytest.raises(ShapeError, match=r"channels=40 of the decoder: a multiple of 32"):
        Segmenter(encoder, 2, channels=40)
    with pytest.raises(LabelError, match=r"label_smoothing=0.1 belongs to the cross entropy"):
        Segmenter(encoder, 2, loss="focal", label_smoothing=0.1)
    with pytest.raises(LabelError, match=r"class_weights belong to .* loss=dice lovasz"):
        Segmenter(encoder, 2, loss={"dice": 1, "lovasz": 1}, class_weights=(1, 2))
    with pytest.raises(LabelError, match=r"focal_gamma=-1"):
        Segmenter(encoder, 2, loss="focal", focal_gamma=-1)


def test_the_loss_is_the_weighted_sum_of_its_parts(encoder, batch) -> None:
    parts = {"cross_entropy": 1.0, "focal": 2.0, "dice": 0.5, "lovasz": 0.25}
    options = {"class_weights": (1.0, 2.0, 3.0), "focal_gamma": 1.5}
    model = Segmenter(encoder, 3, "linear", loss=parts, **options).eval()
    logits, mask = model.logits(batch), batch["mask"]
    weights = torch.tensor(options["class_weights"])
    alone = {
        "cross_entropy": losses.cross_entropy(logits, mask, class_weights=weights),
        "focal": losses.focal(logits, mask, gamma=1.5, class_weights=weights),
        "dice": losses.dice(logits, mask),
        "lovasz": losses.lovasz(logits, mask),
    }
    found = model.loss(batch)
    assert list(found) == ["loss", *parts]
    for name, value in alone.items():
        assert torch.allclose(found[name], value)
    assert torch.allclose(found["loss"], sum(parts[k] * v for k, v in alone.items()))
    assert [k for k, v in found.items() if v.requires_grad] == ["loss"]


@pytest.mark.parametrize("loss", ["focal", "dice", "lovasz"])
def test_each_loss_alone_learns(encoder, batch, loss) -> None:
    model = Segmenter(encoder, 3, "linear", loss=loss)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    before = model.loss(batch)["loss"].item()
    for _ in range(60):
        optimiser.zero_grad()
        model.loss(batch)["loss"].backward()
        optimiser.step()
    known = batch["mask"] >= 0
    found = model(batch["image_s1"], batch["image_s2"]).classes
    assert (found == batch["mask"])[known].float().mean() > 0.85
    assert model.loss(batch)["loss"] < 0.5 * before


@pytest.mark.parametrize("decoder", DECODERS)
def test_one_patch_of_one_coarse_cell_trains(make_encoder, decoder) -> None:
    """The last batch of an epoch may be one small patch, and batch norms refuse that."""
    model = Segmenter(make_encoder((4, 16), (8, 16)), 3, decoder, channels=32)
    model.encoder.eval()
    mask = torch.zeros(1, 16, 16, dtype=torch.int64)
    model.loss({"image_s2": torch.rand(1, 12, 16, 16), "mask": mask})["loss"].backward()
    assert all(p.grad is not None for p in model.head.parameters())


def test_deeplab_leaves_coarse_cells_in_their_place(make_encoder) -> None:
    """As it comes, its upsampling stretches: a ramp of 4 cells would start and end too early."""
    up = Segmenter(make_encoder(), 2, "deeplabv3plus", channels=32).head.decoder.decoder.up
    x = torch.randn(1, 2, 4, 3)
    assert torch.allclose(up(x), resample(x, 16, 4, 16, 12))


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 7), (13, 6)])
def test_means_of_a_map_are_torchs(size) -> None:
    x = torch.randn(2, 3, *size)
    for cells in (1, 2, 3, 6):
        theirs = torch.nn.functional.adaptive_avg_pool2d(x, cells)
        assert torch.allclose(MeanPool(cells)(x), theirs, atol=1e-6)


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
