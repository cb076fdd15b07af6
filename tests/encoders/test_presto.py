"""Presto against the authors' own outputs."""

import numpy as np
import pytest
import torch

from deepsentinel.encoders import presto
from deepsentinel.encoders.presto import SHA256, PrestoEncoder, cell_means, ndvi, standard
from deepsentinel.encoders.published import read_published
from deepsentinel.errors import ShapeError, WeightsError

CASES = {"s1s2": ("s1", "s2"), "s2": ("s2",), "s1": ("s1",)}
NAN = float("nan")


@pytest.fixture(scope="module")
def encoder(published):
    return PrestoEncoder.from_weights(published / "presto" / "default_model.pt")


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_authors_outputs(encoder, reference, reference_inputs, case):
    features = encoder(**{s: reference_inputs[s] for s in CASES[case]}, month=7)
    pooled, dense = reference[f"presto_{case}_pooled"], reference[f"presto_{case}_dense"]
    assert np.abs(features.embedding.numpy() - pooled).max() < 1e-4
    assert np.abs(features.maps[-1].numpy() - dense).max() < 1e-4


@torch.inference_mode()
def test_authors_outputs_with_location(encoder, reference, reference_inputs):
    lonlat = torch.from_numpy(reference["lonlat"])
    features = encoder(**reference_inputs, month=torch.tensor([7, 7]), lonlat=lonlat)
    pooled = reference["presto_s1s2_lonlat_pooled"]
    assert np.abs(features.embedding.numpy() - pooled).max() < 1e-4


def test_fixed_tables_are_the_published_ones(published):
    file = read_published(published / "presto" / "default_model.pt", SHA256)
    fresh = PrestoEncoder()
    assert torch.allclose(fresh.month_embed, file["encoder.month_embed.weight"], atol=1e-6)
    assert torch.allclose(fresh.time_embed, file["encoder.pos_embed"][0, 0], atol=1e-6)


@torch.inference_mode()
def test_pixels_do_not_see_each_other(encoder, reference_inputs):
    other = {s: x.clone() for s, x in reference_inputs.items()}
    other["s2"][:, :, 0, 0] = 0.9
    one, two = encoder(**reference_inputs).maps[0], encoder(**other).maps[0]
    assert torch.allclose(one[:, :, 1:], two[:, :, 1:], atol=1e-5)
    assert not torch.allclose(one[:, :, 0, 0], two[:, :, 0, 0], atol=1e-2)


@torch.inference_mode()
def test_chunks_change_nothing(encoder, reference_inputs, monkeypatch):
    whole = encoder(**reference_inputs).maps[0]
    monkeypatch.setattr(presto, "CHUNK_CPU", 100)
    assert torch.allclose(encoder(**reference_inputs).maps[0], whole, atol=1e-5)


@torch.inference_mode()
def test_stride_is_the_encoder_of_averaged_pixels(published, encoder, reference_inputs):
    coarse = PrestoEncoder.from_weights(published / "presto" / "default_model.pt", stride=4)
    means = {s: x.unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5)) for s, x in reference_inputs.items()}
    inside = {s: torch.full((2, x.shape[1], 16, 16), NAN) for s, x in means.items()}
    for sensor, x in means.items():
        inside[sensor][:, :, :8, :8] = x
    expected = encoder(**inside)
    features = coarse(**reference_inputs)
    assert torch.allclose(features.maps[0], expected.maps[0][:, :, :8, :8], atol=1e-4)
    assert torch.allclose(features.embedding, expected.embedding, atol=1e-4)


def test_cell_means_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(1, 2, 7, 5, generator=generator)
    values[torch.rand(1, 2, 7, 5, generator=generator) > 0.5] = NAN
    values[0, 0, :3, :3] = NAN
    means = cell_means(values, 3).numpy()
    assert means.shape == (1, 2, 3, 2)
    for c, y, x in np.ndindex(2, 3, 2):
        box = values[0, c, 3 * y : 3 * y + 3, 3 * x : 3 * x + 3].numpy()
        known = box[np.isfinite(box)]
        expected = known.mean() if len(known) else np.nan
        np.testing.assert_allclose(means[0, c, y, x], expected, rtol=1e-5)


def test_ndvi_where_it_is_not_defined():
    nir = torch.tensor([0.3, 0.0, -0.01, 0.2, NAN])
    red = torch.tensor([0.1, 0.0, -0.02, NAN, 0.1])
    index = ndvi(nir, red)
    assert index[:3].tolist() == pytest.approx([0.5, 0.0, 0.0])
    assert index[3:].isnan().all()


def test_units():
    assert standard(torch.tensor([-25.0, -12.5]), "VH").tolist() == [0.0, 0.5]
    assert standard(torch.tensor([NAN]), "VV").item() == pytest.approx(
        (25 - 11.7287) / 25, abs=1e-5
    )
    assert standard(torch.tensor([0.25, NAN]), "B03").tolist() == pytest.approx(
        [0.25, 0.13384], abs=1e-5
    )


def test_sizes_and_files_that_cannot_be(published, tmp_path):
    with pytest.raises(ShapeError, match="stride=0"):
        PrestoEncoder(stride=0)
    weights = read_published(published / "presto" / "default_model.pt", SHA256)
    weights["encoder.location.weight"] = weights.pop("encoder.latlon_embed.weight")
    file = tmp_path / "model.pt"
    torch.save(weights, file)
    with pytest.raises(WeightsError, match="has sha256"):
        PrestoEncoder.from_weights(file)
    message = r"1 absent \(location_embed\.weight\); 1 unexpected \(location\.weight\)\. Load"
    with pytest.raises(WeightsError, match=message):
        PrestoEncoder.from_weights(file, sha256=None)
    del weights["encoder.norm.weight"]
    torch.save(weights, file)
    with pytest.raises(WeightsError, match=r"lack encoder\.norm\.weight"):
        PrestoEncoder.from_weights(file, sha256=None)


def test_card(encoder):
    card = encoder.card
    assert (card.name, card.licence, card.sources["both"].sha256) == ("presto", "MIT", SHA256)
    assert (card.embed_dim, card.strides, card.bands) == (128, (1,), encoder.bands)
    assert "| Sentinel-1 | VV | -25 | 25 |" in card.to_markdown()
