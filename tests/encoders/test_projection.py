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


def apart(**options: Any) -> FusionEncoder:
    return encoder(fusion="late", project_sensors=True, moments=True, hidden=8, **options)


def patches() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    return torch.randn(3, 2, 40, 33, generator=g) * 3 - 14, torch.rand(3, 12, 40, 33, generator=g)


@torch.no_grad()
def test_the_embedding_of_both_sensors_is_the_mean_of_each_alone() -> None:
    built = apart()
    s1, s2 = patches()
    by_s1, by_s2 = built(s1=s1).embedding, built(s2=s2).embedding
    torch.testing.assert_close(built(s1=s1, s2=s2).embedding, (by_s1 + by_s2) / 2)
    assert float((by_s1 - by_s2).norm(dim=1).min()) > 0.1


@torch.no_grad()
def test_a_sensor_of_nan_is_one_that_was_not_passed() -> None:
    built = apart()
    s1, s2 = patches()
    assert torch.equal(built(s1=s1, s2=s2 * NAN).embedding, built(s1=s1).embedding)
    assert torch.equal(built(s1=s1 * NAN, s2=s2).embedding, built(s2=s2).embedding)
    for ours, theirs in zip(built(s1=s1 * NAN, s2=s2).maps, built(s2=s2).maps, strict=True):
        assert torch.equal(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize(("rows", "weight"), [(30, 1.0), (10, 1.0), (5, 0.5), (2, 0.2)])
def test_clouds_take_weight_only_where_little_is_left(rows: int, weight: float) -> None:
    """Of 40 rows so many are seen: from a quarter on Sentinel-2 counts whole."""
    built = apart()
    s1, s2 = patches()
    s2[:, :, rows:] = NAN
    by_s1, by_s2 = built(s1=s1).embedding, built(s2=s2).embedding
    wanted = (by_s1 + weight * by_s2) / (1 + weight)
    torch.testing.assert_close(built(s1=s1, s2=s2).embedding, wanted)


@torch.no_grad()
def test_towers_may_differ_in_depth(tmp_path: Path) -> None:
    options = {"s1": SMALL, "s2": {**SMALL, "depths": [1, 1, 3, 1]}}
    built = FusionEncoder(
        "convnext_atto", fusion="late", embed_dim=6, project_sensors=True, backbone_options=options
    ).eval()
    blocks = [
        sum(
            len(stage.blocks)
            for stage in built.towers.get_submodule(s).net.children()
            if hasattr(stage, "blocks")
        )
        for s in ("s1", "s2")
    ]
    assert blocks == [4, 6]
    built.save_pretrained(tmp_path)
    s1, s2 = patches()
    opened = FusionEncoder.from_pretrained(tmp_path).eval()
    assert torch.equal(opened(s1=s1, s2=s2).embedding, built(s1=s1, s2=s2).embedding)


def test_towers_of_other_widths_are_refused() -> None:
    options = {"s1": SMALL, "s2": {**SMALL, "dims": [8, 8, 16, 32]}}
    with pytest.raises(BackboneError, match=r"cannot be joined.*'s1'.*16.*'s2'.*32"):
        FusionEncoder("convnext_atto", fusion="late", backbone_options=options)


@pytest.mark.parametrize("fusion", ["early", "mid"])
def test_only_late_fusion_has_an_embedding_of_each_sensor(fusion: str) -> None:
    with pytest.raises(BackboneError, match=f"project_sensors.*{fusion}.*late"):
        encoder(project_sensors=True, fusion=fusion)


def test_what_is_not_projected_cannot_be_projected_apart() -> None:
    with pytest.raises(BackboneError, match="embed_dim"):
        FusionEncoder("convnext_atto", fusion="late", project_sensors=True, backbone_options=SMALL)


def test_in_training_an_absent_sensor_leaves_no_parameter_unused() -> None:
    built = apart().train()
    features = built(s2=patches()[1])
    sum(x.square().mean() for x in (features.embedding, *features.maps)).backward()
    assert [n for n, p in built.named_parameters() if p.grad is None] == []
