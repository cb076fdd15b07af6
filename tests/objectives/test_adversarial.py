"""Adversarial objectives: equations, who moves whom, and what is measured of pictures."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchmetrics.functional.image import structural_similarity_index_measure

from deepsentinel.objectives.adversary import PatchDiscriminator
from deepsentinel.objectives.latent import AdversarialLatent
from deepsentinel.objectives.translation import Translation, psnr, ssim
from deepsentinel.objectives.views import images_of
from deepsentinel.units import evi
from tests.objectives.conftest import (
    NAN,
    make,
    make_batch,
    make_encoder,
    seeded,
    trainable,
    with_bands,
)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def test_pix2pix_is_equation_4():
    """Cross-entropies patch by patch and the mean absolute error, from what the networks make."""
    encoder, batch = make_encoder().eval(), make_batch(3)
    batch["image_s2"][0, :, :9] = NAN
    batch["image_s1"][1] = NAN
    objective: Translation = make("pix2pix", encoder, l1=10.0).eval()
    losses = {k: v.item() for k, v in objective(encoder, batch, seeded()).items()}
    with torch.no_grad():
        images = images_of(encoder, batch)
        truth, usable = objective._target(batch, images)
        drawn = objective._drawn(encoder, images)
        condition = objective._condition(encoder, images["image_s1"])
        known = truth.isfinite()
        judged = {
            "real": objective.discriminator(torch.cat([condition, truth.nan_to_num(0)], 1)),
            "false": objective.discriminator(torch.cat([condition, drawn * known], 1)),
        }
    assert usable.tolist() == [1, 0, 1]
    errors = [
        abs(float(drawn[b, c, y, x]) - float(truth[b, c, y, x]))
        for b, c, y, x in np.ndindex(truth.shape)
        if b != 1 and known[b, c, y, x]
    ]
    logits = {k: [float(x) for b in (0, 2) for x in v[b].flatten()] for k, v in judged.items()}
    fooling = -np.mean([log_sigmoid(x) for x in logits["false"]])
    told = -np.mean([log_sigmoid(x) for x in logits["real"]])
    told -= np.mean([log_sigmoid(-x) for x in logits["false"]])
    assert losses["l1"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert losses["fooling"] == pytest.approx(fooling, rel=1e-4)
    assert losses["discriminator"] == pytest.approx(told / 2, rel=1e-4)
    assert losses["loss"] == pytest.approx(fooling + 10 * np.mean(errors) + told / 2, rel=1e-4)


def test_targets_are_reflectance_and_index_scaled():
    encoder, batch = make_encoder(), make_batch(2)
    images = images_of(encoder, batch)
    truth, _ = Translation(encoder, target="rgb")._target(batch, images)
    wanted = batch["image_s2"][:, [3, 2, 1]].clamp(0, 0.3) / 0.3 * 2 - 1
    torch.testing.assert_close(truth, wanted)
    truth, _ = Translation(encoder, target="evi")._target(batch, images)
    nir, red, blue = (batch["image_s2"][:, [i]] for i in (7, 3, 1))
    index = 2.5 * (nir - red) / (nir + 6 * red - 7.5 * blue + 1)
    torch.testing.assert_close(truth, (index.clamp(-0.2, 1) + 0.2) / 1.2 * 2 - 1)
    np.testing.assert_allclose(
        evi(nir.numpy(), red.numpy(), blue.numpy()), index.numpy(), rtol=1e-5
    )


def test_of_sentinel_2_the_encoder_is_shown_nothing():
    encoder, batch = make_encoder().eval(), make_batch(2)
    objective: Translation = make("pix2pix", encoder).eval()
    drawn = objective.images(encoder, batch)["drawn"]
    other = batch | {"image_s2": batch["image_s2"] + 0.05}
    assert objective.images(encoder, other)["drawn"].equal(drawn)


def test_a_target_without_its_bands_is_an_error():
    encoder = make_encoder()
    batch = with_bands(make_batch(2), s2=("B04", "B08"))
    with pytest.raises(
        ValueError, match=r"target='rgb' needs B03 B02, but the batch holds B04 B08"
    ):
        make("pix2pix", encoder)(encoder, batch, seeded())


def test_an_encoder_without_sentinel_1_cannot_translate():
    with pytest.raises(ValueError, match="must read s1"):
        Translation(make_encoder(s1_bands=()))


def test_the_discriminator_sees_squares_of_70_pixels():
    """The receptive field, from the gradient of one logit in the middle."""
    net = PatchDiscriminator(1, layers=3, width=4).eval()
    for layer in net.modules():
        if isinstance(layer, torch.nn.InstanceNorm2d):
            layer.forward = lambda x: x  # statistics see the whole image
    image = torch.randn(1, 1, 256, 256, requires_grad=True)
    net(image)[0, 0, 15, 15].backward()
    rows = image.grad[0, 0].abs().sum(1).nonzero()
    assert int(rows.max() - rows.min()) + 1 == 70


def test_patches_too_small_for_the_discriminator():
    encoder = make_encoder()
    with pytest.raises(ValueError, match=r"16 x 16 px are too small.*32 px are needed"):
        make("pix2pix", encoder, layers=3)(encoder, make_batch(2, 16), seeded())


def players(name, encoder, objective):
    """Parameters of each side, by the term of the loss that it minimises."""
    against = {id(p) for p in objective.adversary()}
    mine = [p for p in trainable(encoder, objective) if id(p) not in against]
    if name == "pix2pix":
        return {"fooling": mine, "discriminator": objective.adversary()}
    return {"fooling": objective.adversary(), "discriminator": mine}


@pytest.mark.parametrize("name", ["pix2pix", "alae"])
@pytest.mark.parametrize("term", ["fooling", "discriminator"])
def test_each_player_alone_gets_its_way(name, term):
    encoder = make_encoder()
    options = {"pix2pix": {"l1": 0.0}, "alae": {"reciprocity": 0.0, "r1": 0.0}}
    objective = make(name, encoder, **options[name])
    moved = players(name, encoder, objective)[term]
    optimiser = torch.optim.Adam(moved, lr=1e-2)
    batch, course = make_batch(4), []
    for _ in range(20):
        losses = objective(encoder, batch, seeded(0))
        for p in trainable(encoder, objective):
            p.grad = None
        losses["loss"].backward()
        optimiser.step()
        course.append(losses[term].item())
    assert course[-1] < 0.9 * course[0]


def gradients(loss: torch.Tensor, parameters) -> list:
    return torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)


def test_alae_is_algorithm_1():
    """Each term, and each player's gradient, against the three losses written out."""
    encoder, batch = make_encoder().eval(), make_batch(3)
    objective: AdversarialLatent = make("alae", encoder, r1=2.0, reciprocity=3.0).eval()
    losses = objective(encoder, batch, seeded(4))
    g = seeded(4)
    images = objective.hiding(images_of(encoder, batch), g)
    seed = int(torch.randint(2**62, (), generator=g))
    z = torch.randn(3, 8, generator=seeded(seed))
    real = torch.cat(list(images.values()), 1)
    real = ((real - objective.mean) / objective.std).requires_grad_()

    def E(x):  # noqa: N802 - the paper's letters
        x = x * objective.std + objective.mean
        return objective.summary(encoder(s1=x[:, :2], s2=x[:, 2:], check="never"))

    def G(w):  # noqa: N802
        raw = objective.generator(w, (32, 32))
        return torch.where(real.detach().isnan(), real.detach(), 5 * (raw / 5).tanh())

    D, Fz = objective.discriminator, objective.mapping(z)
    slope = torch.autograd.grad(D(E(real)).sum(), real, create_graph=True)[0]
    penalty = sum((slope[i] ** 2).sum() for i in range(3)) / 3
    told = F.softplus(D(E(G(Fz)))).mean() + F.softplus(-D(E(real))).mean()
    fooling = F.softplus(-D(E(G(Fz)))).mean()
    found = E(G(Fz))
    distance = sum(((Fz.detach() - found)[i] ** 2).sum() for i in range(3)) / 3
    assert losses["penalty"].item() == pytest.approx(penalty.item(), rel=1e-4)
    assert losses["discriminator"].item() == pytest.approx(told.item(), rel=1e-4)
    assert losses["fooling"].item() == pytest.approx(fooling.item(), rel=1e-4)
    assert losses["reciprocity"].item() == pytest.approx(distance.item(), rel=1e-4)
    sides = {
        "encoder": (list(encoder.parameters()), told + penalty + 3 * distance),
        "discriminator": (list(D.parameters()), told + penalty),
        "generator": (list(objective.generator.parameters()), fooling + 3 * distance),
        "mapping": (list(objective.mapping.parameters()), fooling + 3 * distance),
    }
    for side, (parameters, wanted) in sides.items():
        ours = gradients(losses["loss"], parameters)
        for mine, theirs in zip(ours, gradients(wanted, parameters), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6, msg=side)


def test_psnr_over_what_is_known():
    g = seeded(1)
    truth, drawn = torch.rand(3, 2, 8, 8, generator=g), torch.rand(3, 2, 8, 8, generator=g)
    truth[0, :, :4] = NAN
    truth[2] = NAN
    ratios = []
    for b in range(2):
        squares = [
            (float(drawn[b, c, y, x]) - float(truth[b, c, y, x])) ** 2
            for c, y, x in np.ndindex(2, 8, 8)
            if math.isfinite(truth[b, c, y, x])
        ]
        ratios.append(10 * math.log10(1 / np.mean(squares)))
    assert psnr(drawn, truth).item() == pytest.approx(np.mean(ratios), rel=1e-4)
    assert psnr(drawn[2:], truth[2:]).isnan()


def test_ssim_over_whole_windows():
    """All known: torchmetrics' own; else as if only the known half were there, away from its edge."""
    g = seeded(1)
    truth = torch.rand(1, 3, 48, 48, generator=g)
    drawn = (truth + 0.2 * torch.randn(truth.shape, generator=g)).clamp(0, 1)
    whole = structural_similarity_index_measure(drawn, truth, data_range=1.0)
    assert ssim(drawn, truth).item() == pytest.approx(whole.item(), rel=0.02)
    cloudy = truth.clone()
    cloudy[..., 30:] = NAN
    worse = drawn.clone()
    worse[..., 30:] = 0.5  # what is drawn under a cloud cannot be judged
    _, found = structural_similarity_index_measure(
        drawn, truth, data_range=1.0, reduction="none", return_full_image=True
    )
    assert ssim(worse, cloudy).item() == pytest.approx(found[..., :25].mean().item(), rel=1e-4)
    assert ssim(drawn, torch.full_like(truth, NAN)).isnan()


def test_scores_count_patches_with_both_sensors():
    encoder, batch = make_encoder().eval(), make_batch(3)
    objective = make("pix2pix", encoder).eval()
    batch["image_s1"][0] = NAN
    some = {k: v[1:] for k, v in batch.items()}
    found = [objective.scores(encoder, b) for b in (batch, some)]
    assert found[0]["psnr"].item() == pytest.approx(found[1]["psnr"].item(), rel=1e-5)
    assert found[0]["ssim"].item() == pytest.approx(found[1]["ssim"].item(), rel=1e-5)
