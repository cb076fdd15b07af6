"""Losses against slow loops over their papers' equations, element by element."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from deepsentinel.objectives.contrastive import MoCo, SimCLR
from deepsentinel.objectives.masked import Masked
from deepsentinel.objectives.momentum import follow
from deepsentinel.objectives.pixels import statistics, together
from deepsentinel.objectives.regularised import BYOL, VICReg
from deepsentinel.objectives.tile2vec import Tile2Vec, distances_km, distant, triplet
from deepsentinel.objectives.variational import Variational, bound_parts
from deepsentinel.objectives.views import encode, images_of, stacked
from deepsentinel.sample import PatchMeta
from tests.objectives.conftest import NAN, make, make_batch, make_encoder, seeded, with_bands


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(sum(x * y for x, y in zip(a, b, strict=True))) / math.sqrt(
        float(sum(x * x for x in a)) * float(sum(y * y for y in b))
    )


def looks(objective, encoder, batch, seed=3):
    """Both looks as the objective takes them."""
    one, other, _ = objective.pairs(images_of(encoder, batch), seeded(seed))
    return one, other


def test_simclr_is_nt_xent():
    """Chen et al., algorithm 1: 2 N looks, each against all 2 N - 1 others."""
    encoder, batch = make_encoder().eval(), make_batch(5)
    objective: SimCLR = make("simclr", encoder, temperature=0.3).eval()
    with torch.no_grad():
        loss = objective(encoder, batch, seeded(3))["loss"].item()
        one, other = looks(objective, encoder, batch)
        z = objective.head(objective.summary(encode(encoder, stacked(one, other)))).numpy()
    total, count = 0.0, len(z)
    for i in range(count):
        partner = (i + count // 2) % count
        others = [math.exp(cosine(z[i], z[k]) / 0.3) for k in range(count) if k != i]
        total -= math.log(math.exp(cosine(z[i], z[partner]) / 0.3) / sum(others))
    assert loss == pytest.approx(total / count, rel=1e-4)


def test_moco_is_infonce_over_batch_and_queue():
    """He et al., equation 1, with the keys of the batch and those of the queue so far."""
    encoder = make_encoder()
    objective: MoCo = make("moco", encoder, queue=7, temperature=0.2)
    kept: list[np.ndarray] = []
    for step in range(4):
        batch = make_batch(4, seed=step)
        one, other = looks(objective, encoder, batch, step)
        with torch.no_grad():
            q = objective.online(encode(encoder, one)).numpy()
            k = objective.target(other).numpy()
        loss = objective(encoder, batch, seeded(step))["loss"].item()
        total = 0.0
        for i, query in enumerate(q):
            scores = [math.exp(cosine(query, key) / 0.2) for key in [*k, *kept[-7:]]]
            total -= math.log(scores[i] / sum(scores))
        assert loss == pytest.approx(total / 4, rel=1e-4)
        kept += list(k)
    assert int(objective.seen) == 16
    for row, key in zip(objective.queue.numpy()[2:], kept[-7:-2], strict=True):
        np.testing.assert_allclose(row, key / np.linalg.norm(key), rtol=1e-4)


def test_momentum_is_a_moving_average_from_its_start_to_1():
    encoder = make_encoder()
    objective: MoCo = make("moco", encoder, momentum=0.5)
    first = objective.target.encoder.towers.state_dict()
    before = {k: v.clone() for k, v in first.items()}
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(1.0)
    objective.after_step(encoder, 0, 3)
    for k, v in objective.target.encoder.towers.state_dict().items():
        torch.testing.assert_close(v, before[k] + 0.5)
    objective.after_step(encoder, 2, 3)
    for k, v in objective.target.encoder.towers.state_dict().items():
        torch.testing.assert_close(v, before[k] + 0.5)


def test_follow_copies_the_statistics_of_batch_norms():
    source, target = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    source(torch.randn(8, 2) + 3)
    follow(target, source, 0.9)
    assert target.running_mean.equal(source.running_mean)
    assert target.num_batches_tracked.item() == 1


def test_byol_is_the_cosine_with_the_other_look_under_the_teacher():
    encoder, batch = make_encoder().eval(), make_batch(3)
    objective: BYOL = make("byol", encoder).eval()
    with torch.no_grad():
        for p in objective.target.parameters():
            p.mul_(1.1)  # a teacher that is not the student
        loss = objective(encoder, batch, seeded(3))["loss"].item()
        one, other = looks(objective, encoder, batch)
        total = 0.0
        for seen, wanted in ((one, other), (other, one)):
            p = objective.predict(objective.online(encode(encoder, seen))).numpy()
            z = objective.target(wanted).numpy()
            total -= sum(cosine(a, b) for a, b in zip(p, z, strict=True)) / 3
    assert loss == pytest.approx(total / 2, rel=1e-4)


def test_vicreg_is_equation_6():
    encoder, batch = make_encoder().eval(), make_batch(5)
    weights = {"invariance": 3.0, "variance": 5.0, "covariance": 7.0}
    objective: VICReg = make("vicreg", encoder, **weights).eval()
    with torch.no_grad():
        losses = {k: v.item() for k, v in objective(encoder, batch, seeded(3)).items()}
        one, other = looks(objective, encoder, batch)
        z = objective.head(objective.summary(encode(encoder, stacked(one, other)))).double()
    halves = [half.numpy() for half in z.chunk(2)]
    n, d = halves[0].shape
    invariance = sum(
        (halves[0][i, j] - halves[1][i, j]) ** 2 for i in range(n) for j in range(d)
    ) / (n * d)
    variance = covariance = 0.0
    for half in halves:
        for j in range(d):
            std = math.sqrt(np.var(half[:, j], ddof=1) + 1e-4)
            variance += max(0.0, 1 - std) / d / 2
        for j in range(d):
            for k in range(d):
                if j != k:
                    products = [
                        (half[i, j] - half[:, j].mean()) * (half[i, k] - half[:, k].mean())
                        for i in range(n)
                    ]
                    covariance += (sum(products) / (n - 1)) ** 2 / d
    assert losses["invariance"] == pytest.approx(invariance, rel=1e-3)
    assert losses["variance"] == pytest.approx(variance, rel=1e-3)
    assert losses["covariance"] == pytest.approx(covariance, rel=1e-3)
    wanted = 3 * invariance + 5 * variance + 7 * covariance
    assert losses["loss"] == pytest.approx(wanted, rel=1e-3)


def test_triplet_is_equation_2():
    rng = np.random.default_rng(0)
    a, n, d = rng.normal(size=(3, 6, 4)).astype(np.float32)
    wanted = [max(0.0, math.dist(a[i], n[i]) - math.dist(a[i], d[i]) + 0.3) for i in range(6)]
    found = triplet(*(torch.from_numpy(x) for x in (a, n, d)), margin=0.3)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-4)
    assert 0 < sum(w == 0 for w in wanted) < 6


def test_tile2vec_adds_the_lengths():
    encoder, batch = make_encoder().eval(), make_batch(4)
    objective: Tile2Vec = make("tile2vec", encoder, decay=0.5)
    losses = objective(encoder, batch, seeded())
    wanted = losses["triplet"] + 0.5 * losses["length"]
    assert losses["loss"].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_distances_on_the_globe():
    """Against the law of cosines in double precision."""
    places = [(13.4, 52.5), (2.35, 48.86), (-73.9, 40.7), (13.4, 52.5)]
    metas = [PatchMeta(id=str(i), lon=x, lat=y) for i, (x, y) in enumerate(places)]
    found = distances_km(metas)
    for i, (lon, lat) in enumerate(places):
        for j, (lon2, lat2) in enumerate(places):
            one, two = math.radians(lat), math.radians(lat2)
            cos = math.sin(one) * math.sin(two) + math.cos(one) * math.cos(two) * math.cos(
                math.radians(lon - lon2)
            )
            assert found[i, j].item() == pytest.approx(6371 * math.acos(min(1.0, cos)), abs=0.5)
    assert distances_km([PatchMeta(id="a"), metas[0]])[0, 1].isnan()


def test_distant_patches_are_far_and_never_the_patch_itself():
    lons = (0.0, 0.01, 0.02, 1.0, 1.01)
    metas = [PatchMeta(id=str(i), lon=x, lat=0.0) for i, x in enumerate(lons)]
    drawn = torch.stack([distant(metas, 5, 20.0, seeded(s)) for s in range(60)])
    assert set(drawn[:, 0].tolist()) == {3, 4}
    assert set(drawn[:, 4].tolist()) == {0, 1, 2}
    near = torch.stack([distant(metas[:3], 3, 20.0, seeded(s)) for s in range(60)])
    assert set(near[:, 1].tolist()) == {0, 2}, "where nothing is far, any other"


@pytest.mark.parametrize("case", ["both", "bands"])
def test_masked_is_the_mean_error_of_what_was_hidden(case):
    encoder, batch = make_encoder().eval(), make_batch(3)
    batch["image_s2"][0, :, 5:9] = NAN
    if case == "bands":
        batch = with_bands(batch, s2=("B04", "B08"))
    objective: Masked = make("masked", encoder).eval()
    with torch.no_grad():
        losses = {k: v.item() for k, v in objective(encoder, batch, seeded(3)).items()}
        images = images_of(encoder, batch)
        shown = objective.hide(images, seeded(3))
        drawn = objective.decoder(encode(encoder, shown), (32, 32)).numpy()
    truth, left = together(images).numpy(), together(shown).numpy()
    mean, std = (x.numpy() for x in statistics(encoder))
    sums, counts = {"s1": 0.0, "s2": 0.0}, {"s1": 0, "s2": 0}
    for b, c, y, x in np.ndindex(truth.shape):
        if math.isfinite(truth[b, c, y, x]) and not math.isfinite(left[b, c, y, x]):
            sensor = "s1" if c < 2 else "s2"
            target = (truth[b, c, y, x] - mean[c, 0, 0]) / std[c, 0, 0]
            sums[sensor] += abs(float(drawn[b, c, y, x]) - float(target))
            counts[sensor] += 1
    for sensor in ("s1", "s2"):
        assert losses[sensor] == pytest.approx(sums[sensor] / counts[sensor], rel=1e-4)
    assert losses["loss"] == pytest.approx(losses["s1"] + losses["s2"], rel=1e-5)
    assert losses["hidden"] == pytest.approx(
        sum(counts.values()) / np.isfinite(truth).sum(), rel=1e-5
    )


def test_masked_hides_as_many_squares_as_asked_and_whole_sensors():
    encoder = make_encoder()
    images = images_of(encoder, make_batch(200, 32))
    squares = make("masked", encoder, ratio=0.75, cross=0.0, bands=0.0, block=8)
    shown = squares.hide(images, seeded())
    for image in shown.values():
        lost = image.isnan()
        assert lost.equal(lost[:, :1].expand_as(lost))
        grid = lost[:, 0].reshape(-1, 4, 8, 4, 8)
        assert grid.all((2, 4)).equal(grid.any(4).any(2)), "whole squares"
        assert grid.all((2, 4)).sum((1, 2)).eq(12).all()
    assert not shown["image_s1"][:, 0].isnan().equal(shown["image_s2"][:, 0].isnan())
    across = make("masked", encoder, cross=1.0, bands=0.0).hide(images, seeded())
    gone = {k: v.isnan().flatten(1).all(1) for k, v in across.items()}
    assert (gone["image_s1"] ^ gone["image_s2"]).all(), "one sensor whole, the other left alone"
    assert 0.4 < gone["image_s1"].float().mean() < 0.6
    kept = {k: v[~gone[k]] for k, v in across.items()}
    assert not any(v.isnan().any() for v in kept.values())


def test_patches_of_one_square_cannot_be_masked():
    encoder = make_encoder()
    with pytest.raises(ValueError, match=r"32 x 32 px in squares of 32 px.*smaller block"):
        make("masked", encoder, block=32)(encoder, make_batch(2), seeded())


def test_bound_is_equation_10():
    """Error and divergence of each patch, the divergence against numerical integration."""
    g = seeded(2)
    truth, drawn = torch.randn(2, 3, 4, 4, generator=g), torch.randn(2, 3, 4, 4, generator=g)
    truth[0, 1] = NAN
    centre, log_variance = torch.randn(2, 5, generator=g), torch.randn(2, 5, generator=g)
    error, divergence = bound_parts(truth, drawn, centre, log_variance)
    grid = np.linspace(-25, 25, 20_001)
    for b in range(2):
        squares = sum(
            (float(drawn[b, c, y, x]) - float(truth[b, c, y, x])) ** 2
            for c, y, x in np.ndindex(3, 4, 4)
            if math.isfinite(truth[b, c, y, x])
        )
        assert error[b].item() == pytest.approx(squares, rel=1e-4)
        total = 0.0
        for m, v in zip(centre[b].tolist(), log_variance[b].tolist(), strict=True):
            q = norm.pdf(grid, m, math.exp(v / 2))
            ratio = norm.logpdf(grid, m, math.exp(v / 2)) - norm.logpdf(grid)
            total += np.trapezoid(q * ratio, grid)
        assert divergence[b].item() == pytest.approx(total, rel=1e-3)


def test_vae_is_the_bound_per_observed_value():
    encoder, batch = make_encoder().eval(), make_batch(2)
    batch["image_s2"][0] = NAN
    objective: Variational = make("vae", encoder, beta=4.0).eval()
    losses = {k: v.item() for k, v in objective(encoder, batch, seeded(1)).items()}
    values = 2 * 2 * 32 * 32 + 12 * 32 * 32
    wanted = 0.5 * losses["error"] + 4.0 * losses["divergence"] * 2 / values
    assert losses["loss"] == pytest.approx(wanted, rel=1e-4)
