"""Galileo against the authors' own outputs, and against what masked tokens promise."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deepsentinel.encoders.galileo import (
    GROUPS,
    NANO_SHA256,
    STATISTICS,
    GalileoEncoder,
    fill,
    kernel_shrink,
    sine_cosine,
)
from deepsentinel.encoders.published import read_published
from deepsentinel.errors import (
    ShapeError,
    WeightsError,
)

CASES = {"s1s2": ("s1", "s2"), "s2": ("s2",), "s1": ("s1",)}


@pytest.fixture(scope="module")
def encoders(published: Path) -> dict[int, GalileoEncoder]:
    file = published / "galileo-nano" / "encoder.pt"
    return {p: GalileoEncoder.from_weights(file, patch_size=p) for p in (4, 8)}


@pytest.fixture
def small() -> GalileoEncoder:
    torch.manual_seed(1)
    encoder = GalileoEncoder(width=32, depth=2, heads=2, patch_size=8).eval()
    for parameter in encoder.parameters():  # larger weights, so that tokens matter to each other
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 2e-5) -> bool:
    return bool(torch.allclose(a, b, atol=tolerance, rtol=0))


@pytest.mark.parametrize("patch_size", [4, 8])
@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_authors_outputs(encoders, reference_inputs, reference, patch_size, case):
    features = encoders[patch_size](**{s: reference_inputs[s] for s in CASES[case]}, month=7)
    pooled = reference[f"galileo_p{patch_size}_{case}_pooled"]
    dense = reference[f"galileo_p{patch_size}_{case}_dense"]
    assert np.abs(features.embedding.numpy() - pooled).max() < 1e-4
    assert np.abs(features.maps[-1].numpy() - dense).max() < 1e-4


@pytest.mark.parametrize("patch_size", [4, 8])
@torch.inference_mode()
def test_authors_outputs_with_location(encoders, reference_inputs, reference, patch_size):
    lonlat = torch.from_numpy(reference["lonlat"])
    features = encoders[patch_size](**reference_inputs, month=torch.tensor([7, 7]), lonlat=lonlat)
    pooled = reference[f"galileo_p{patch_size}_s1s2_lonlat_pooled"]
    assert np.abs(features.embedding.numpy() - pooled).max() < 1e-4


def test_statistics_are_the_published_ones(published):
    published = json.loads((published / "galileo-nano" / "normalization.json").read_text())["13"]
    names = [band for bands in GROUPS.values() for band in bands]
    for place, name in enumerate(names):
        scale = 1 if name in GROUPS["S1"] else 10_000
        expected = (published["mean"][place] / scale, published["std"][place] / scale)
        assert STATISTICS[name] == pytest.approx(expected, rel=1e-9)


def test_fixed_tables_are_the_published_ones(published):
    file = read_published(published / "galileo-nano" / "encoder.pt", NANO_SHA256)
    fresh = GalileoEncoder()
    assert close(fresh.month_embed, file["month_embed.weight"], 1e-6)
    assert close(sine_cosine(torch.arange(24.0), 32), file["pos_embed"], 1e-5)


def test_smaller_kernels_keep_the_product_with_resized_images():
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(64, generator=generator)
    small = torch.randn(1, 1, 4, 4, generator=generator)
    large = torch.nn.functional.interpolate(small, (8, 8), mode="bicubic", antialias=True)
    back = torch.nn.functional.interpolate(large, (4, 4), mode="bicubic", antialias=True)
    # The pseudo-inverse is the least-squares solution: resize(x) . k(small) = projection of x . k
    resize = torch.linalg.pinv(kernel_shrink(4))
    assert close(large.flatten() @ resize.T, back.flatten(), 1e-4)
    projected = torch.linalg.pinv(resize) @ resize @ kernel
    assert close(resize.T @ (kernel @ kernel_shrink(4)), projected, 1e-4)


@torch.inference_mode()
def test_windows_are_patches_of_their_own(small, patches):
    windowed = GalileoEncoder(width=32, depth=2, heads=2, patch_size=8, window=16).eval()
    windowed.load_state_dict(small.state_dict())
    lonlat = torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    features = windowed(**patches, lonlat=lonlat)
    parts = []
    for top, left in ((0, 0), (0, 16), (16, 0), (16, 16)):
        own = {s: x[:, :, top : top + 16, left : left + 16] for s, x in patches.items()}
        part = small(**own, lonlat=lonlat)
        there = features.maps[0][:, :, top // 8 : top // 8 + 2, left // 8 : left // 8 + 2]
        assert close(there, part.maps[0])
        parts.append(part.embedding)
    assert close(features.embedding, torch.stack(parts).mean(0))


@torch.inference_mode()
def test_windows_without_anything_observed_count_for_nothing(small, patches):
    windowed = GalileoEncoder(width=32, depth=2, heads=2, patch_size=8, window=16).eval()
    windowed.load_state_dict(small.state_dict())
    patches["s2"][:, :, 16:] = float("nan")
    patches["s2"][:, :, :, 16:] = float("nan")
    lonlat = torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    features = windowed(s2=patches["s2"], lonlat=lonlat)
    corner = small(s2=patches["s2"][:, :, :16, :16], lonlat=lonlat)
    assert features.maps[0].isfinite().all()
    assert close(features.embedding, corner.embedding)


def test_partly_observed_token_takes_its_own_mean(small, patches):
    even = patches["s2"] * 0 + 0.2
    holes = even.clone()
    holes[:, :, ::3] = float("nan")
    with torch.inference_mode():
        assert close(small(s2=holes).embedding, small(s2=even).embedding)


def test_fill_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(1, 2, 6, 6, generator=generator)
    observed = (torch.rand(1, 2, 6, 6, generator=generator) > 0.6).float()
    observed[0, 0, :3, :3] = 0
    filled, seen = fill(values * observed, observed, 3)
    for c, y, x in np.ndindex(2, 2, 2):
        box = (0, c, slice(3 * y, 3 * y + 3), slice(3 * x, 3 * x + 3))
        known = values[box][observed[box] > 0]
        assert bool(seen[0, c, y, x]) == (len(known) > 0)
        expected = known.mean() if len(known) else torch.tensor(0.0)
        assert torch.allclose(filled[box][observed[box] == 0], expected)


@torch.inference_mode()
def test_bfloat16_is_near(encoders, reference_inputs):
    encoder = GalileoEncoder()
    encoder.load_state_dict(encoders[8].state_dict())
    exact, rough = encoders[8](**reference_inputs), encoder.eval().bfloat16()(**reference_inputs)
    assert rough.embedding.dtype == torch.bfloat16
    cosine = torch.cosine_similarity(exact.embedding, rough.embedding.float())
    assert bool((cosine > 0.999).all())


def test_sizes_that_cannot_be():
    with pytest.raises(ShapeError, match="1 to 8"):
        GalileoEncoder(patch_size=9)
    with pytest.raises(ShapeError, match="no multiple"):
        GalileoEncoder(patch_size=8, window=20)


def test_files_that_are_not_the_weights(published, tmp_path):
    with pytest.raises(WeightsError, match="no weights at"):
        GalileoEncoder.from_weights(tmp_path / "encoder.pt")
    weights = read_published(published / "galileo-nano" / "encoder.pt", NANO_SHA256)
    weights["norm.extra"] = weights.pop("norm.bias")
    file = tmp_path / "encoder.pt"
    torch.save(weights, file)
    with pytest.raises(WeightsError, match="has sha256"):
        GalileoEncoder.from_weights(file)
    with pytest.raises(
        WeightsError, match=r"1 absent \(norm\.bias\); 1 unexpected \(norm\.extra\)\. Load"
    ):
        GalileoEncoder.from_weights(file, sha256=None)


def test_card(encoders):
    card = encoders[4].card
    assert (card.name, card.licence, card.sources["both"].sha256) == (
        "galileo-nano",
        "MIT",
        NANO_SHA256,
    )
    assert (card.embed_dim, card.strides, card.bands) == (128, (4,), encoders[4].bands)
    assert "| Sentinel-2 | B12 | 0.147453 |" in card.to_markdown()
    assert GalileoEncoder(width=32, depth=1, heads=2).card.name == ""
