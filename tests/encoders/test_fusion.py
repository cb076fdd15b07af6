"""One contract for every backbone and fusion; the full matrix on two, a smoke case on the others."""

import copy
import pickle
from functools import cache
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from deepsentinel.bands import S1_BANDS, S2_BANDS, S2_L1C_BANDS
from deepsentinel.encoders.backbones import FAMILIES, Backbone
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.encoders.stems import STATISTICS
from deepsentinel.errors import (
    BackboneError,
    BandError,
    NothingObservedError,
    SampleError,
    ShapeError,
    UnitsError,
    UnitsWarning,
    UnknownNameError,
    UnusedInputError,
)
from deepsentinel.features import Encoder
from deepsentinel.sample import PatchMeta, collate

NAN = float("nan")
MATRIX = [(b, f) for b in ("resnet10t", "convnext_atto") for f in ("early", "mid", "late")]
# Small members of the other families, made smaller where timm lets us.
SMOKE: list[tuple[str, dict[str, Any]]] = [
    ("seresnet18", {}),
    ("ecaresnet26t", {}),
    ("gcresnet33ts", {}),
    ("densenet121", {"block_config": (1, 1, 1, 1)}),
    ("hrnet_w18_small", {}),
    ("mobilenetv4_conv_small_050", {}),
    ("efficientnet_lite0", {}),
    ("vit_tiny_patch16_224", {"depth": 3, "embed_dim": 48, "num_heads": 3}),
    ("vit_small_patch14_dinov2", {"depth": 3, "embed_dim": 48, "num_heads": 3}),
    (
        "swin_tiny_patch4_window7_224",
        {"depths": (1, 1, 2, 1), "embed_dim": 16, "num_heads": (1, 2, 2, 2)},
    ),
    (
        "swinv2_cr_tiny_ns_224",
        {"depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (1, 2, 2, 2)},
    ),
]


@cache
def built(backbone: str, fusion: Any) -> FusionEncoder:
    torch.manual_seed(1)
    return FusionEncoder(backbone, fusion=fusion).eval()


@pytest.fixture(params=MATRIX, ids="-".join)
def encoder(request: pytest.FixtureRequest) -> FusionEncoder:
    return built(*request.param)


@pytest.fixture
def early() -> FusionEncoder:
    return built("resnet10t", "early")


def patches(count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count * height + width)
    s1 = torch.randn(count, 2, height, width, generator=generator) * 3 - 14
    s2 = torch.rand(count, 12, height, width, generator=generator) * 0.4
    return s1, s2


def holes(values: Tensor) -> Tensor:
    holed = values.clone()
    holed[:, :, : holed.shape[2] // 3, 3:9] = NAN
    holed[:, 1, -4:] = NAN
    return holed


def outputs(encoder: FusionEncoder, *args: Any, **kwargs: Any) -> list[Tensor]:
    with torch.no_grad():
        features = encoder(*args, **kwargs)
    return [features.embedding, *features.maps]


def same(left: list[Tensor], right: list[Tensor], **tolerance: float) -> bool:
    close = torch.equal if not tolerance else torch.allclose
    return all(close(a, b, **tolerance) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (61, 47)])
def test_any_size_gives_the_announced_shapes(encoder: FusionEncoder, size: tuple[int, int]) -> None:
    embedding, *maps = outputs(encoder, *patches(2, *size))
    assert embedding.shape == (2, encoder.embed_dim)
    assert [tuple(m.shape) for m in maps] == [
        (2, c, -(-size[0] // s), -(-size[1] // s))
        for c, s in zip(encoder.out_channels, encoder.strides, strict=True)
    ]
    assert all(bool(t.isfinite().all()) for t in (embedding, *maps))


def test_is_an_encoder(encoder: FusionEncoder) -> None:
    assert isinstance(encoder, Encoder)
    assert encoder.sensors == ("s1", "s2")
    assert encoder.bands == {"s1": S1_BANDS, "s2": S2_BANDS}


def test_an_absent_sensor_is_all_nan(encoder: FusionEncoder) -> None:
    s1, s2 = patches(2, 33, 40)
    assert same(outputs(encoder, s1=s1), outputs(encoder, s1, torch.full_like(s2, NAN)))
    assert same(outputs(encoder, s2=s2), outputs(encoder, torch.full_like(s1, NAN), s2))
    assert not torch.allclose(outputs(encoder, s1=s1)[0], outputs(encoder, s1, s2)[0])


def test_bands_in_any_order_equal_nan_for_the_rest(encoder: FusionEncoder) -> None:
    s1, s2 = patches(2, 33, 40)
    full = torch.full_like(s2, NAN)
    for name in ("B04", "B8A", "B03"):
        full[:, S2_BANDS.index(name)] = s2[:, S2_BANDS.index(name)]
    subset = s2[:, [S2_BANDS.index(n) for n in ("B04", "B8A", "B03")]]
    named = outputs(encoder, s1[:, [1]], subset, s1_bands=("vh",), s2_bands=("red", "B8A", "B3"))
    s1[:, 0] = NAN
    assert same(named, outputs(encoder, s1, full))


def test_infinite_values_count_as_nan(encoder: FusionEncoder) -> None:
    s1, s2 = (holes(x) for x in patches(2, 33, 40))
    infinite = torch.where(s2.isnan(), torch.tensor(float("inf")), s2)
    found = outputs(encoder, s1, s2)
    assert all(bool(t.isfinite().all()) for t in found)
    assert same(found, outputs(encoder, s1, infinite))
    assert not same(found, outputs(encoder, s1, s2.nan_to_num(0.1)), atol=1e-4)


def test_a_patch_does_not_depend_on_its_batch_mates(encoder: FusionEncoder) -> None:
    s1, s2 = patches(3, 40, 33)
    s1[0], s2[1] = NAN, NAN
    s2[2] = holes(s2[2:])[0]
    together = outputs(encoder, s1, s2)
    for i in range(3):
        alone = outputs(encoder, s1[[i]], s2[[i]])
        assert same([t[[i]] for t in together], alone, atol=1e-5, rtol=1e-4)


def test_padding_by_the_caller_changes_nothing(encoder: FusionEncoder) -> None:
    s1, s2 = patches(1, 41, 50)
    wide = [torch.nn.functional.pad(x, (0, 14, 0, 23), value=NAN) for x in (s1, s2)]
    embedding, *maps = outputs(encoder, s1, s2)
    padded, *padded_maps = outputs(encoder, *wide)
    assert torch.equal(embedding, padded)
    assert same(
        maps, [p[:, :, : m.shape[2], : m.shape[3]] for m, p in zip(maps, padded_maps, strict=True)]
    )


def test_every_parameter_and_the_input_get_gradients(encoder: FusionEncoder) -> None:
    trained = copy.deepcopy(encoder).train()
    s1, s2 = (x.requires_grad_() for x in patches(2, 64, 64))
    features = trained(s1, s2)
    sum(t.square().mean() for t in (features.embedding, *features.maps)).backward()
    assert [n for n, p in trained.named_parameters() if p.grad is None] == []
    for x in (s1, s2):
        assert x.grad is not None
        assert float(x.grad.abs().sum()) > 0


def test_training_without_a_sensor_leaves_no_parameter_unused(encoder: FusionEncoder) -> None:
    trained = copy.deepcopy(encoder).train()
    features = trained(s2=patches(2, 64, 64)[1])
    sum(t.square().mean() for t in (features.embedding, *features.maps)).backward()
    assert [n for n, p in trained.named_parameters() if p.grad is None] == []


def test_bfloat16(encoder: FusionEncoder) -> None:
    s1, s2 = patches(2, 48, 48)
    exact = outputs(encoder, s1, s2)[0]
    half = copy.deepcopy(encoder).to(torch.bfloat16)
    assert half.stems["s1"].mean.dtype == torch.float32
    assert torch.equal(half.stems["s1"].mean, encoder.stems["s1"].mean)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = outputs(encoder, s1, s2)[0]
    for found in (
        outputs(half, s1, s2)[0],
        autocast,
        outputs(half, s1.bfloat16(), s2.bfloat16())[0],
    ):
        assert torch.nn.functional.cosine_similarity(found.float(), exact).min() > 0.99


@pytest.mark.parametrize("fusion", ["mid", "late"])
def test_the_tower_of_an_absent_sensor_contributes_exactly_nothing(fusion: str) -> None:
    encoder = copy.deepcopy(built("resnet10t", fusion))
    s2 = patches(2, 40, 40)[1]
    before = outputs(encoder, s2=s2)
    with torch.no_grad():
        for parameter in encoder.towers.get_submodule("s1").parameters():
            parameter.mul_(-3)
    assert same(before, outputs(encoder, s2=s2))


@pytest.mark.parametrize("pool", ["mean", "mean_std"])
def test_early_fusion_is_the_bare_backbone_on_normalised_values(pool: Any) -> None:
    encoder = FusionEncoder("resnet10t", pool=pool, pool_levels=(2, -1)).eval()
    s1, s2 = (holes(x) for x in patches(2, 64, 64))
    raw = np.concatenate([s1.numpy(), s2.numpy()], axis=1)
    mean, std = np.array([STATISTICS[b] for b in S1_BANDS + S2_BANDS]).T[:, :, None, None]
    seen = np.isfinite(raw)
    values = np.where(seen, (raw - mean) / std, 0.0)
    net = timm.create_model("resnet10t", features_only=True, in_chans=28).eval()
    net.load_state_dict(encoder.towers.get_submodule("both").net.state_dict())
    with torch.no_grad():
        maps = net(torch.from_numpy(np.concatenate([values, seen], axis=1)).float())
    embedding, *found = outputs(encoder, s1, s2)
    assert same(found, maps, atol=1e-4, rtol=1e-4)
    expected = []
    for level in (2, 4):
        cells = maps[level].numpy()
        stride = 64 // cells.shape[2]
        share = seen.any(1).reshape(2, 64 // stride, stride, 64 // stride, stride).mean((2, 4))
        average = np.array(
            [[np.average(c, weights=w) for c in m] for m, w in zip(cells, share, strict=True)]
        )
        expected.append(average)
        if pool == "mean_std":
            squares = (cells - average[:, :, None, None]) ** 2
            expected.append(
                np.array(
                    [
                        [np.average(c, weights=w) ** 0.5 for c in m]
                        for m, w in zip(squares, share, strict=True)
                    ]
                )
            )
    np.testing.assert_allclose(
        embedding.numpy(), np.concatenate(expected, 1), atol=2e-3
    )  # eps of the root
    assert encoder.embed_dim == embedding.shape[1]


@pytest.mark.parametrize(("backbone", "options"), SMOKE, ids=[name for name, _ in SMOKE])
def test_every_family_keeps_the_contract(backbone: str, options: dict[str, Any]) -> None:
    encoder = FusionEncoder(backbone, backbone_options=options, embed_dim=24).eval()
    s1, s2 = patches(2, 61, 47)
    s1[0], s2[1] = NAN, holes(s2[1:])[0]
    embedding, *maps = outputs(encoder, s1, s2)
    assert embedding.shape == (2, encoder.embed_dim) == (2, 24)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, -(-61 // s), -(-47 // s))
        for c, s in zip(encoder.out_channels, encoder.strides, strict=True)
    ]
    assert torch.allclose(outputs(encoder, s2=s2[[0]])[0], embedding[[0]], atol=1e-4)
    assert outputs(encoder, *patches(1, 16, 16))[0].isfinite().all()


def test_every_family_that_is_not_refused_is_tested() -> None:
    tested = {name for name, _ in SMOKE} | {name for name, _ in MATRIX}
    assert {f.example for f in FAMILIES if not f.refused} <= tested


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.refused], ids=lambda f: f.title)
def test_fixed_windows_are_refused_when_built(family: Any) -> None:
    with pytest.raises(BackboneError, match="any size"):
        FusionEncoder(family.example)


def test_an_unlisted_backbone_of_fixed_size_is_refused_by_the_probe() -> None:
    with pytest.raises(BackboneError, match="it fails at"):
        Backbone("visformer_tiny", in_channels=4)


def test_unknown_backbones_list_the_nearest() -> None:
    with pytest.raises(BackboneError, match="resnet18"):
        FusionEncoder("resnet-18")


def test_dn_values_linear_power_and_integers_are_refused(early: FusionEncoder) -> None:
    s1, s2 = patches(2, 16, 16)
    with pytest.raises(UnitsError, match="dn_to_reflectance"):
        early(s2=s2 * 10_000)
    with pytest.raises(UnitsError, match="dn_to_reflectance"):
        early(s2=s2 * 10_000 - 100)
    with pytest.raises(UnitsError, match="look normalised"):
        early(s2=(s2 - 0.2) / 0.1)
    with pytest.raises(UnitsError, match="power_to_db"):
        early(s1=10 ** (s1 / 10))
    with pytest.raises(UnitsError, match=r"s1\[1\].*power_to_db"):
        early(s1=torch.stack([s1[0], 10 ** (s1[1] / 10)]))
    with pytest.raises(UnitsError, match="s1_dn_to_db"):
        early(s1=torch.full((1, 2, 16, 16), 4000.0))
    with pytest.raises(UnitsError, match="int16"):
        early(s2=(s2 * 10_000).to(torch.int16))


def test_check_never_and_always(early: FusionEncoder) -> None:
    dn = patches(1, 16, 16)[1] * 10_000
    assert early(s2=dn, check="never").embedding.isfinite().all()
    with pytest.raises(UnitsError):
        early(s2=dn, check="always")
    with pytest.raises(UnknownNameError, match="always"):
        early(s2=dn, check="alway")


def test_nan_does_not_hide_wrong_units(early: FusionEncoder) -> None:
    s1, s2 = (holes(x) for x in patches(2, 32, 32))
    with pytest.raises(UnitsError):
        early(s1, s2 * 10_000)


def test_shapes_that_cannot_be_are_refused(early: FusionEncoder) -> None:
    s1, s2 = patches(2, 32, 32)
    with pytest.raises(ShapeError, match="at least one"):
        early()
    with pytest.raises(ShapeError, match=r"s2\[None\]"):
        early(s2=s2[0])
    with pytest.raises(ShapeError, match="8 x 8"):
        early(s2=s2[:, :, :8, :8])
    with pytest.raises(ShapeError, match="one grid"):
        early(s1[:, :, :20], s2)
    with pytest.raises(ShapeError, match="one grid"):
        early(s1[:1], s2)
    with pytest.raises(ShapeError, match="none of them 0"):
        early(s2=s2[:0])
    with pytest.raises(ShapeError, match="from_numpy"):
        early(s2=s2.numpy())


def test_bands_that_cannot_be_are_refused(early: FusionEncoder) -> None:
    _, s2 = patches(1, 16, 16)
    with pytest.raises(BandError, match="S2_L1C_BANDS"):
        early(s2=torch.cat([s2, s2[:, :1]], 1))
    with pytest.raises(BandError, match="B77"):
        early(s2=s2[:, :2], s2_bands=("B04", "B77"))
    with pytest.raises(BandError, match="none of which"):
        early(s2=s2[:, :1], s2_bands=("B10",))
    with pytest.raises(BandError, match="no statistics for band B10"):
        FusionEncoder("resnet10t", s2_bands=S2_L1C_BANDS)
    l1c = torch.cat([s2[:, :10], s2[:, :1], s2[:, 10:]], 1)
    assert same(outputs(early, s2=l1c, s2_bands=S2_L1C_BANDS), outputs(early, s2=s2))


def test_month_and_lonlat_are_not_ignored(early: FusionEncoder) -> None:
    with pytest.raises(UnusedInputError, match="month"):
        early(s2=patches(1, 16, 16)[1], month=7)
    with pytest.raises(UnusedInputError, match="lonlat"):
        early(s2=patches(1, 16, 16)[1], lonlat=torch.zeros(1, 2))


def test_a_patch_without_values_is_named(early: FusionEncoder) -> None:
    s1, s2 = patches(4, 16, 16)
    s1[[1, 3]], s2[[1, 3]] = NAN, NAN
    s2[2] = NAN
    with pytest.raises(NothingObservedError, match="patch 1, 3 of the batch"):
        early(s1, s2)
    with pytest.raises(NothingObservedError, match="patch 1"):
        early(s1, s2, check="never")
    found = outputs(early, s1, s2, empty="nan")
    for t in found:
        assert t[[1, 3]].isnan().all()
        assert t[[0, 2]].isfinite().all()
    assert torch.allclose(found[0][[0, 2]], outputs(early, s1[[0, 2]], s2[[0, 2]])[0], atol=1e-5)
    only_b10 = torch.full((1, 2, 16, 16), NAN)
    only_b10[:, 1] = 0.01
    with pytest.raises(NothingObservedError):
        early(s2=only_b10, s2_bands=("B02", "B10"))


def test_an_offset_left_in_warns_once() -> None:
    encoder = FusionEncoder("resnet10t", levels=(1,)).eval()
    _, s2 = patches(3, 32, 32)
    encoder(s2=torch.stack([s2[0] + 0.1, s2[1], s2[2]]))  # one of three: warnings are errors here
    with pytest.warns(UnitsWarning, match="offset"):
        encoder(s2=s2 + 0.1)
    encoder(s2=s2 + 0.1)


def test_encode_takes_bands_and_absent_sensors_from_the_batch(early: FusionEncoder) -> None:
    s1, s2 = patches(2, 20, 20)
    rgb = ("B04", "B03", "B02")
    chosen = s2[:, [S2_BANDS.index(b) for b in rgb]]
    first = {
        "meta": PatchMeta(id="a", bands_s1=("VH",), bands_s2=rgb),
        "image_s1": s1[0, [1]],
        "image_s2": chosen[0],
    }
    second = {"meta": PatchMeta(id="b", bands_s2=rgb), "image_s2": chosen[1]}
    with torch.no_grad():
        found = early.encode(collate([first, second])).embedding
    expected = s1[:, [1]].clone()
    expected[1] = NAN
    assert torch.equal(found, outputs(early, expected, chosen, s1_bands=("VH",), s2_bands=rgb)[0])
    with pytest.raises(SampleError, match="image_s1 or image_s2"):
        early.encode({"mask": s1})


def test_one_sensor_encoders() -> None:
    encoder = FusionEncoder("resnet10t", s1_bands=(), s2_bands=("B04", "B08")).eval()
    s1, s2 = patches(1, 16, 16)
    assert encoder.sensors == ("s2",)
    assert outputs(encoder, s2=s2)[0].isfinite().all()
    with pytest.raises(BandError, match="uses nothing"):
        encoder(s1, s2)
    with pytest.raises(BackboneError, match="both sensors"):
        FusionEncoder("resnet10t", fusion="late", s1_bands=())


def test_arguments_that_do_not_exist_list_what_does() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'early'"):
        FusionEncoder("resnet10t", fusion="earl")  # type: ignore[arg-type]
    with pytest.raises(BackboneError, match="strides"):
        FusionEncoder("resnet10t", pool_levels=(5,))
    with pytest.raises(BandError, match="standard deviation"):
        FusionEncoder("resnet10t", statistics={**STATISTICS, "VV": (0.0, 0.0)})


def test_options_are_kept_as_they_can_be_saved() -> None:
    encoder = FusionEncoder("densenet121", backbone_options={"block_config": (1, 1, 1, 1)})
    assert encoder.config["backbone_options"] == {"block_config": [1, 1, 1, 1]}
    with pytest.raises(BackboneError, match="cannot be saved"):
        FusionEncoder("resnet10t", backbone_options={"act_layer": torch.nn.ReLU})


def test_the_random_twin_differs_in_weights_only(early: FusionEncoder) -> None:
    state = torch.random.get_rng_state()
    twin, again, other = (early.reinitialised(seed) for seed in (3, 3, 4))
    assert torch.equal(state, torch.random.get_rng_state())
    s1, s2 = patches(1, 32, 32)
    assert same(outputs(twin, s1, s2), outputs(again, s1, s2))
    assert not torch.allclose(outputs(twin, s1, s2)[0], outputs(other, s1, s2)[0])
    assert twin.config == early.config
    assert not twin.training


def test_pickles_and_copies(early: FusionEncoder) -> None:
    s1, s2 = patches(1, 32, 32)
    thawed = pickle.loads(pickle.dumps(early))  # noqa: S301 - our own bytes
    for twin in (thawed, copy.deepcopy(early)):
        assert same(outputs(early, s1, s2), outputs(twin, s1, s2))
