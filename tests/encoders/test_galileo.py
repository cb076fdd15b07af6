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
from deepsentinel.encoders.published import read_weights
from deepsentinel.errors import (
    BandError,
    NothingObservedError,
    ShapeError,
    UnitsError,
    WeightsError,
)
from deepsentinel.features import Encoder

CASES = {"s1s2": ("s1", "s2"), "s2": ("s2",), "s1": ("s1",)}


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "weights"


@pytest.fixture(scope="module")
def reference(folder: Path) -> dict[str, np.ndarray]:
    return dict(np.load(folder / "reference_outputs.npz"))


@pytest.fixture(scope="module")
def inputs(reference: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    s2 = torch.from_numpy(reference["s2_dn"]) / 10_000
    return {"s1": torch.from_numpy(reference["s1_db"]), "s2": s2}


@pytest.fixture(scope="module")
def encoders(folder: Path) -> dict[int, GalileoEncoder]:
    file = folder / "galileo-nano" / "encoder.pt"
    return {p: GalileoEncoder.from_weights(file, patch_size=p) for p in (4, 8)}


@pytest.fixture
def small() -> GalileoEncoder:
    torch.manual_seed(1)
    encoder = GalileoEncoder(width=32, depth=2, heads=2, patch_size=8).eval()
    for parameter in encoder.parameters():  # larger weights, so that tokens matter to each other
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder


@pytest.fixture
def patch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "s1": torch.randn(2, 2, 32, 32, generator=generator) * 3 - 12,
        "s2": torch.rand(2, 12, 32, 32, generator=generator) * 0.4,
    }


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 2e-5) -> bool:
    return bool(torch.allclose(a, b, atol=tolerance, rtol=0))


@pytest.mark.parametrize("patch_size", [4, 8])
@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_authors_outputs(encoders, inputs, reference, patch_size, case):
    features = encoders[patch_size](**{s: inputs[s] for s in CASES[case]}, month=7)
    pooled = reference[f"galileo_p{patch_size}_{case}_pooled"]
    dense = reference[f"galileo_p{patch_size}_{case}_dense"]
    assert np.abs(features.embedding.numpy() - pooled).max() < 1e-4
    assert np.abs(features.maps[-1].numpy() - dense).max() < 1e-4


@pytest.mark.parametrize("patch_size", [4, 8])
@torch.inference_mode()
def test_authors_outputs_with_location(encoders, inputs, reference, patch_size):
    lonlat = torch.from_numpy(reference["lonlat"])
    features = encoders[patch_size](**inputs, month=torch.tensor([7, 7]), lonlat=lonlat)
    pooled = reference[f"galileo_p{patch_size}_s1s2_lonlat_pooled"]
    assert np.abs(features.embedding.numpy() - pooled).max() < 1e-4


@torch.inference_mode()
def test_month_and_default_month_matter(encoders, inputs):
    july, june = (encoders[8](**inputs, month=m).embedding for m in (7, 6))
    assert not close(july, june, 1e-3)
    assert torch.equal(encoders[8](**inputs).embedding, june)


def test_statistics_are_the_published_ones(folder):
    published = json.loads((folder / "galileo-nano" / "normalization.json").read_text())["13"]
    names = [band for bands in GROUPS.values() for band in bands]
    for place, name in enumerate(names):
        scale = 1 if name in GROUPS["S1"] else 10_000
        expected = (published["mean"][place] / scale, published["std"][place] / scale)
        assert STATISTICS[name] == pytest.approx(expected, rel=1e-9)


def test_fixed_tables_are_the_published_ones(folder):
    file = read_weights(folder / "galileo-nano" / "encoder.pt", NANO_SHA256)
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
def test_absent_sensor_is_the_same_as_nan(small, patch):
    nan = torch.full_like(patch["s2"], float("nan"))
    absent, empty = small(s1=patch["s1"]), small(s1=patch["s1"], s2=nan)
    assert torch.equal(absent.embedding, empty.embedding)
    assert torch.equal(absent.maps[0], empty.maps[0])


@torch.inference_mode()
def test_masked_tokens_are_the_same_as_removed_tokens(small, patch):
    """In a batch with a complete patch the tokens stay and are masked; alone they are dropped."""
    s2 = patch["s2"].clone()
    s2[0] = float("nan")
    together = small(s1=patch["s1"], s2=s2)
    alone = small(s1=patch["s1"][:1])
    assert close(together.embedding[:1], alone.embedding)
    assert close(together.maps[0][:1], alone.maps[0])
    assert not close(together.embedding[:1], small(**patch).embedding[:1], 1e-3)


@torch.inference_mode()
def test_what_lies_under_nan_does_not_matter(small, patch):
    hidden = [x.clone() for x in (patch["s2"], patch["s2"])]
    for x, value in zip(hidden, (float("nan"), float("inf")), strict=True):
        x[:, :, 8:16, :8] = value
    one, two = (small(s2=x, check="never") for x in hidden)
    assert torch.equal(one.embedding, two.embedding)


@torch.inference_mode()
def test_place_without_a_token_holds_the_embedding(small, patch):
    s2 = patch["s2"].clone()
    s2[:, :, 8:16, :8] = float("nan")
    features = small(s2=s2)
    assert torch.equal(features.maps[0][:, :, 1, 0], features.embedding)


@torch.inference_mode()
def test_bands_in_any_order(small, patch):
    names = ("B12", "B04", "B08", "B03", "B02")
    default = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
    columns = [default.index(name) for name in names]
    subset = small(s2=patch["s2"][:, columns], s2_bands=names)
    holes = torch.full_like(patch["s2"], float("nan"))
    holes[:, columns] = patch["s2"][:, columns]
    assert torch.equal(subset.embedding, small(s2=holes).embedding)
    swapped = small(s1=patch["s1"].flip(1), s1_bands=("VH", "VV"))
    assert torch.equal(swapped.embedding, small(s1=patch["s1"]).embedding)


@torch.inference_mode()
def test_unused_bands_do_not_matter(small, patch):
    other = patch["s2"].clone()
    other[:, [0, 9]] = 0.7
    assert torch.equal(small(s2=other).embedding, small(s2=patch["s2"]).embedding)
    with pytest.raises(BandError, match="none of which this encoder uses"):
        small(s2=other[:, :1], s2_bands=("B01",))


@torch.inference_mode()
def test_patches_of_a_batch_are_independent(small, patch):
    patch["s2"][1, :, :, 16:] = float("nan")
    together = small(**patch, month=torch.tensor([1, 7]), lonlat=torch.tensor([[3.0, 4], [5, 6]]))
    for place, (month, lonlat) in enumerate([(1, [[3.0, 4]]), (7, [[5.0, 6]])]):
        own = {s: x[place : place + 1] for s, x in patch.items()}
        alone = small(**own, month=month, lonlat=torch.tensor(lonlat))
        assert close(alone.embedding[0], together.embedding[place])
        assert close(alone.maps[0][0], together.maps[0][place])


@pytest.mark.parametrize("patch_size", [1, 3, 5, 8])
@torch.inference_mode()
def test_odd_sizes_are_padded_with_not_observed(patch, patch_size):
    encoder = GalileoEncoder(width=32, depth=1, heads=2, patch_size=patch_size).eval()
    cut = {s: x[:, :, :17, :21] for s, x in patch.items()}
    padded = {s: torch.full_like(x, float("nan")) for s, x in patch.items()}
    for sensor, x in cut.items():
        padded[sensor][:, :, :17, :21] = x
    features, wide = encoder(**cut), encoder(**padded)
    rows, columns = -(-17 // patch_size), -(-21 // patch_size)
    assert features.maps[0].shape == (2, 32, rows, columns)
    assert close(features.embedding, wide.embedding)
    assert close(features.maps[0], wide.maps[0][:, :, :rows, :columns])


@torch.inference_mode()
def test_windows_are_patches_of_their_own(small, patch):
    windowed = GalileoEncoder(width=32, depth=2, heads=2, patch_size=8, window=16).eval()
    windowed.load_state_dict(small.state_dict())
    lonlat = torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    features = windowed(**patch, lonlat=lonlat)
    parts = []
    for top, left in ((0, 0), (0, 16), (16, 0), (16, 16)):
        own = {s: x[:, :, top : top + 16, left : left + 16] for s, x in patch.items()}
        part = small(**own, lonlat=lonlat)
        there = features.maps[0][:, :, top // 8 : top // 8 + 2, left // 8 : left // 8 + 2]
        assert close(there, part.maps[0])
        parts.append(part.embedding)
    assert close(features.embedding, torch.stack(parts).mean(0))


@torch.inference_mode()
def test_windows_without_anything_observed_count_for_nothing(small, patch):
    windowed = GalileoEncoder(width=32, depth=2, heads=2, patch_size=8, window=16).eval()
    windowed.load_state_dict(small.state_dict())
    patch["s2"][:, :, 16:] = float("nan")
    patch["s2"][:, :, :, 16:] = float("nan")
    lonlat = torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    features = windowed(s2=patch["s2"], lonlat=lonlat)
    corner = small(s2=patch["s2"][:, :, :16, :16], lonlat=lonlat)
    assert features.maps[0].isfinite().all()
    assert close(features.embedding, corner.embedding)


def test_partly_observed_token_takes_its_own_mean(small, patch):
    even = patch["s2"] * 0 + 0.2
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


def test_patch_without_a_value(small, patch):
    patch["s2"][1] = float("nan")
    with pytest.raises(NothingObservedError, match="patch 1 of the batch"):
        small(s2=patch["s2"])
    with torch.inference_mode():
        features = small(s2=patch["s2"], empty="nan")
        assert features.embedding[1].isnan().all()
        assert features.maps[0][1].isnan().all()
        assert close(features.embedding[0], small(s2=patch["s2"][:1]).embedding[0])


def test_gradients_reach_input_and_weights(small, patch):
    patch["s2"][:, :, :9] = float("nan")
    patch["s2"].requires_grad_()
    features = small.train()(**patch, lonlat=torch.zeros(2, 2))
    (features.embedding.sum() + features.maps[0].square().sum()).backward()
    gradient = patch["s2"].grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient[:, 1:9].abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in small.parameters())


@torch.inference_mode()
def test_bfloat16_is_near(encoders, inputs):
    encoder = GalileoEncoder()
    encoder.load_state_dict(encoders[8].state_dict())
    exact, rough = encoders[8](**inputs), encoder.eval().bfloat16()(**inputs)
    assert rough.embedding.dtype == torch.bfloat16
    cosine = torch.cosine_similarity(exact.embedding, rough.embedding.float())
    assert bool((cosine > 0.999).all())


def test_contract(small, patch):
    assert isinstance(small, Encoder)
    assert small.sensors == ("s1", "s2")
    assert small.bands["s2"] == tuple(b for g in list(GROUPS)[1:] for b in GROUPS[g])
    assert (small.embed_dim, small.out_channels, small.strides) == (32, (32,), (8,))
    batch = {"image_s1": patch["s1"], "image_s2": patch["s2"]}
    assert torch.equal(small.encode(batch).embedding, small(**patch).embedding)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"month": 0}, ShapeError, "from 1 to 12"),
        ({"month": 13}, ShapeError, "from 1 to 12"),
        ({"month": torch.tensor([1, 2, 3])}, ShapeError, r"shape \(2,\)"),
        ({"month": 7.5}, ShapeError, "one int"),
        ({"lonlat": torch.zeros(2)}, ShapeError, r"expected \(2, 2\)"),
        ({"lonlat": torch.tensor([[10.0, 50.0], [40.0, 120.0]])}, ShapeError, "longitude first"),
        ({"s2": torch.full((2, 12, 32, 32), 3000.0)}, UnitsError, "digital numbers"),
    ],
)
def test_input_that_cannot_be(small, patch, arguments, error, message):
    with pytest.raises(error, match=message):
        small(**(patch | arguments))


def test_sizes_that_cannot_be():
    with pytest.raises(ShapeError, match="1 to 8"):
        GalileoEncoder(patch_size=9)
    with pytest.raises(ShapeError, match="no multiple"):
        GalileoEncoder(patch_size=8, window=20)


def test_files_that_are_not_the_weights(folder, tmp_path):
    with pytest.raises(WeightsError, match="no weights at"):
        GalileoEncoder.from_weights(tmp_path / "encoder.pt")
    weights = read_weights(folder / "galileo-nano" / "encoder.pt", NANO_SHA256)
    weights["norm.extra"] = weights.pop("norm.bias")
    file = tmp_path / "encoder.pt"
    torch.save(weights, file)
    with pytest.raises(WeightsError, match="has sha256"):
        GalileoEncoder.from_weights(file)
    with pytest.raises(WeightsError, match=r"missing: norm\.bias\. unexpected: norm\.extra\."):
        GalileoEncoder.from_weights(file, sha256=None)
