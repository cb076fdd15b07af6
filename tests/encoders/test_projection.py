"""Projections that read input moments and a hidden layer, against slow numpy; pointwise convolutions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deepsentinel import FusionEncoder
from deepsentinel.encoders.backbones import Backbone
from deepsentinel.encoders.projection import Projection, moments
from deepsentinel.errors import BackboneError

NAN = float("nan")
SMALL = {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}


def channels(values: Tensor) -> Tensor:
    seen = values.isfinite()
    return torch.cat([values.nan_to_num(), seen.float()], dim=1)


def encoder(**options: Any) -> FusionEncoder:
    torch.manual_seed(0)
    return FusionEncoder(
        "convnext_atto", pool="mean_std", embed_dim=6, backbone_options=SMALL, **options
    ).eval()


def test_moments_are_those_of_observed_pixels() -> None:
    values = torch.randn(3, 2, 5, 7, generator=torch.Generator().manual_seed(0))
    values[0, 0, :3] = NAN
    values[1, 1] = NAN
    found = moments([channels(values[:, :1]), channels(values[:, 1:])], area=35).numpy()
    for b in range(3):
        for band in range(2):
            pixels = values[b, band].numpy()
            pixels = pixels[np.isfinite(pixels)]
            wanted = (pixels.mean(), pixels.std(), len(pixels) / 35) if len(pixels) else (0, 0, 0)
            assert found[b, 3 * band : 3 * band + 3] == pytest.approx(wanted, abs=1e-5)


def test_a_constant_band_has_a_finite_slope() -> None:
    values = torch.ones(1, 1, 4, 4, requires_grad=True)
    moments([torch.cat([values, torch.ones(1, 1, 4, 4)], dim=1)], area=16).sum().backward()
    assert values.grad is not None
    assert bool(values.grad.isfinite().all())


def test_the_projection_is_a_sum_of_both_ways() -> None:
    torch.manual_seed(0)
    layer = Projection(5, 3, hidden=4, bands=2)
    pooled, extra = torch.randn(2, 5), torch.randn(2, 6)
    x = torch.cat([layer.norm(pooled), extra], dim=1).detach().numpy()
    assert isinstance(layer.hidden, nn.Sequential)
    first, _, last = layer.hidden
    h = x @ first.weight.detach().numpy().T + first.bias.detach().numpy()
    h = nn.functional.gelu(torch.from_numpy(h)).numpy()
    wanted = h @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    wanted = (
        wanted + x @ layer.linear.weight.detach().numpy().T + layer.linear.bias.detach().numpy()
    )
    assert np.allclose(layer(pooled, extra).detach().numpy(), wanted, atol=1e-5)


@torch.no_grad()
def test_padding_is_no_part_of_the_moments() -> None:
    """40 px are padded to 64: the share of observed pixels stays 1."""
    caught: list[Tensor] = []
    built = encoder(moments=True)
    built.project.register_forward_pre_hook(lambda _, args: caught.append(args[1]))
    built(s2=torch.rand(1, 12, 40, 40))
    shares = caught[0][0].view(-1)[6:].view(3, 12)[2]
    assert shares.tolist() == [1.0] * 12


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["early", "late"])
def test_a_band_that_nobody_named_is_one_that_was_not_observed(fusion: str) -> None:
    built = encoder(moments=True, hidden=8, fusion=fusion)
    s2 = torch.rand(2, 12, 32, 32)
    holed = s2.clone()
    holed[:, 3] = NAN
    names = built.bands["s2"]
    kept = [i for i in range(12) if i != 3]
    fewer = built(s2=s2[:, kept], s2_bands=[names[i] for i in kept])
    assert torch.equal(fewer.embedding, built(s2=holed).embedding)


@torch.no_grad()
def test_saved_and_opened_it_gives_the_same(tmp_path: Path) -> None:
    built = encoder(moments=True, hidden=8)
    built.save_pretrained(tmp_path)
    s1 = torch.full((1, 2, 33, 40), -12.0)
    opened = FusionEncoder.from_pretrained(tmp_path).eval()
    assert torch.equal(opened(s1=s1).embedding, built(s1=s1).embedding)


@pytest.mark.parametrize("options", [{"moments": True}, {"hidden": 8}])
def test_without_a_projection_there_is_nothing_to_read_them(options: dict[str, Any]) -> None:
    with pytest.raises(BackboneError, match="embed_dim"):
        FusionEncoder("convnext_atto", backbone_options=SMALL, **options)


def test_a_hidden_layer_of_no_width_is_refused() -> None:
    with pytest.raises(BackboneError, match="hidden=0"):
        encoder(hidden=0)


@torch.no_grad()
def test_pointwise_convolutions_give_what_they_gave() -> None:
    torch.manual_seed(0)
    backbone = Backbone("convnext_atto", in_channels=4, options=SMALL).eval()
    points = [m for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    x = torch.randn(2, 4, 32, 32)
    quick = backbone(x)
    for layer in points:
        layer.dilation = (1, 1)
    plain = backbone(x)
    assert points
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(quick, plain, strict=True))


@torch.no_grad()
def test_each_sensor_is_pooled_over_what_it_observed() -> None:
    """Sentinel-2 hidden on the left, Sentinel-1 below: plain means and spreads of the cells of each."""
    built = FusionEncoder(
        "convnext_atto",
        pool="mean_std",
        pool_levels=(0,),
        pool_sensors=True,
        backbone_options=SMALL,
    ).eval()
    s1, s2 = torch.full((1, 2, 32, 32), -12.0), torch.rand(1, 12, 32, 32)
    s1[:, :, 16:], s2[..., :16] = NAN, NAN
    found = built(s1=s1, s2=s2)
    cells = found.maps[0][0].numpy()
    above, right = cells[:, :4].reshape(8, -1), cells[:, :, 4:].reshape(8, -1)
    parts = [above.mean(1), right.mean(1), above.std(1), right.std(1)]
    assert np.allclose(found.embedding[0].numpy(), np.concatenate(parts), atol=1e-3)


@torch.no_grad()
def test_of_an_absent_sensor_nothing_is_pooled(tmp_path: Path) -> None:
    built = FusionEncoder(
        "convnext_atto", pool_levels=(0,), pool_sensors=True, backbone_options=SMALL
    ).eval()
    s2 = torch.rand(2, 12, 32, 32)
    found = built(s2=s2).embedding
    assert found[:, :8].tolist() == [[0.0] * 8] * 2
    assert bool((found[:, 8:] != 0).all())
    built.save_pretrained(tmp_path)
    assert torch.equal(FusionEncoder.from_pretrained(tmp_path).eval()(s2=s2).embedding, found)


def test_sensors_that_have_towers_are_not_pooled_apart_again() -> None:
    with pytest.raises(BackboneError, match=r"pool_sensors.*late"):
        encoder(pool_sensors=True, fusion="late")
