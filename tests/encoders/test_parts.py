"""Stems, pooling and gates against slow NumPy."""

import numpy as np
import pytest
import torch

from deepsentinel.bands import S2_BANDS
from deepsentinel.encoders.fuse import GatedFusion, combine, pooled, presence
from deepsentinel.encoders.stems import STATISTICS, Stem, entered, place


def test_channels_enter_normalised_padded_and_with_what_was_observed(
    rng: np.random.Generator,
) -> None:
    raw = rng.random((2, 12, 5, 7)).astype(np.float32)
    raw[rng.random(raw.shape) < 0.3] = np.nan
    raw[0, 0, 0, 0] = np.inf
    found = entered([Stem(S2_BANDS, STATISTICS)], [torch.from_numpy(raw)], divisor=4).numpy()
    assert found.shape == (2, 24, 8, 8)
    for b, name in enumerate(S2_BANDS):
        mean, std = STATISTICS[name]
        for i, y, x in np.ndindex(2, 8, 8):
            inside = y < 5 and x < 7 and np.isfinite(raw[i, b, y, x])
            expected = (raw[i, b, y, x] - mean) / std if inside else 0.0
            assert found[i, b, y, x] == pytest.approx(expected, abs=1e-5)
            assert found[i, 12 + b, y, x] == inside


def test_entering_leaves_the_input_alone_and_lets_gradients_through() -> None:
    values = torch.tensor([[-10.0, float("nan"), -20.0, float("inf")]]).view(1, 1, 2, 2)
    kept = values.clone()
    values.requires_grad_()
    entered([Stem(("VV",), STATISTICS)], [values])[:, 0].sum().backward()
    assert torch.equal(values.detach().nan_to_num(7.0), kept.nan_to_num(7.0))
    slope = 1 / STATISTICS["VV"][1]
    assert values.grad is not None
    torch.testing.assert_close(values.grad.flatten(), torch.tensor([slope, 0.0, slope, 0.0]))


def test_statistics_follow_no_dtype() -> None:
    stem = Stem(("VV", "VH"), STATISTICS)
    exact = stem.mean.clone()
    for moved in (stem.to(torch.bfloat16), stem.half(), stem.double()):
        assert moved.mean.dtype == torch.float32
        assert torch.equal(moved.mean, exact)
    assert stem.to("meta").mean.is_meta


def test_placing_drops_bands_that_are_not_used() -> None:
    values = torch.arange(3.0).view(1, 3, 1, 1)
    placed = place(values, ("B10", "B03", "B02"), ("B02", "B03", "B04")).flatten()
    torch.testing.assert_close(placed, torch.tensor([2.0, 1.0, float("nan")]), equal_nan=True)


@pytest.mark.parametrize("pool", ["mean", "mean_std"])
def test_pooling_is_a_weighted_mean_and_spread(pool: str, rng: np.random.Generator) -> None:
    maps = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    weights = rng.random((2, 1, 4, 5)).astype(np.float32) * (rng.random((2, 1, 4, 5)) < 0.6)
    found = pooled([torch.from_numpy(maps)], [torch.from_numpy(weights)], pool).numpy()  # type: ignore[arg-type]
    for i, c in np.ndindex(2, 3):
        mean = np.average(maps[i, c], weights=weights[i, 0])
        assert found[i, c] == pytest.approx(mean, abs=1e-5)
        if pool == "mean_std":
            spread = np.average((maps[i, c] - mean) ** 2, weights=weights[i, 0]) ** 0.5
            assert found[i, 3 + c] == pytest.approx(spread, abs=1e-4)


def test_presence_is_the_mean_of_each_cell(rng: np.random.Generator) -> None:
    seen = (rng.random((2, 1, 16, 32)) < 0.5).astype(np.float32)
    fine, coarse, again = presence(torch.from_numpy(seen), (2, 8, 8))
    np.testing.assert_allclose(fine.numpy(), seen.reshape(2, 1, 8, 2, 16, 2).mean((3, 5)))
    np.testing.assert_allclose(coarse.numpy(), seen.reshape(2, 1, 2, 8, 4, 8).mean((3, 5)))
    assert torch.equal(coarse, again)


def test_combining_is_a_weighted_mean_and_0_where_nothing_was_seen() -> None:
    parts = (torch.tensor([1.0, 1.0, 1.0]), torch.tensor([3.0, 3.0, 3.0]))
    weights = (torch.tensor([0.75, 0.0, 0.0]), torch.tensor([0.25, 1e-6, 0.0]))
    assert combine(parts, weights).tolist() == pytest.approx([1.5, 3.0, 0.0])


def test_gates_decide_between_what_was_observed() -> None:
    gate = GatedFusion(8)
    a, b = torch.full((1, 8, 2, 2), 1.0), torch.full((1, 8, 2, 2), 2.0)
    here = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    there = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    fused = gate((a, b), (here, there))[0, 0]
    assert 1 < fused[0, 0] < 2
    assert fused[0, 1] == 1
    assert fused[1, 0] == 2
    assert fused[1, 1] == 0
