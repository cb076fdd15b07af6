"""What encoders around public networks promise: contract, entry of values, fusion, strict loading."""

from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from torch.export import Dim, export

from deepsentinel.bands import S2_L1C_BANDS
from deepsentinel.encoders.croma import CROMAEncoder
from deepsentinel.encoders.hyper import CopernicusFMEncoder, DOFAEncoder
from deepsentinel.encoders.panopticon import PanopticonEncoder
from deepsentinel.encoders.public import PublicEncoder, cell_shares, flat
from deepsentinel.encoders.scaling import SCALINGS, scaling
from deepsentinel.encoders.two_tower import TwoTowerEncoder
from deepsentinel.errors import (
    BackboneError,
    BandError,
    NothingObservedError,
    SampleError,
    ShapeError,
    UnitsError,
    UnknownNameError,
    UnusedInputError,
    WeightsError,
)
from deepsentinel.features import Encoder

NAN = float("nan")
S2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
BUILD: dict[str, Callable[[], PublicEncoder]] = {
    "resnet": lambda: TwoTowerEncoder("resnet10t"),
    "resnet-mean": lambda: TwoTowerEncoder("resnet10t", fusion="mean", scaling="softcon"),
    "vit": lambda: TwoTowerEncoder("vit_tiny_patch16_224", scaling="softcon"),
    "croma": lambda: CROMAEncoder(width=32, depth=2),
    "panopticon": lambda: PanopticonEncoder(attention_width=96, depth=1),
    "copernicus-fm": lambda: CopernicusFMEncoder(width=32, depth=1, heads=2),
    "dofa": lambda: DOFAEncoder(width=32, depth=1, heads=2),
}


@pytest.fixture(scope="module", params=BUILD)
def encoder(request: pytest.FixtureRequest) -> PublicEncoder:
    torch.manual_seed(0)
    built = BUILD[request.param]().eval()
    for name, parameter in built.named_parameters():  # so that every token and position matters
        if parameter.ndim < 4 and "norm" not in name and "bn" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return built


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return bool(torch.allclose(a, b, atol=tolerance, rtol=1e-4))


@torch.inference_mode()
def test_contract(encoder, patches):
    assert isinstance(encoder, Encoder)
    assert encoder.sensors == ("s1", "s2")
    features = encoder(**patches)
    assert features.strides == encoder.strides
    assert features.embedding.shape == (2, encoder.embed_dim)
    assert [m.shape[1] for m in features.maps] == list(encoder.out_channels)
    assert torch.equal(features.embedding, encoder(**patches).embedding)
    assert encoder.card.embed_dim == encoder.embed_dim
    for sensor in ("s1", "s2"):
        one = encoder(**{sensor: patches[sensor]})
        assert one.embedding.shape == features.embedding.shape
        assert one.embedding.isfinite().all()
        assert not close(one.embedding, features.embedding, 1e-4)


@pytest.mark.parametrize("size", [(16, 17), (45, 33)])
@torch.inference_mode()
def test_odd_sizes(encoder, size):
    features = encoder(s1=torch.full((1, 2, *size), -12.0))
    for found, stride in zip(features.maps, features.strides, strict=True):
        assert found.shape[2:] == (-(-size[0] // stride), -(-size[1] // stride))
        assert found.isfinite().all()


@torch.inference_mode()
def test_absent_sensor_is_the_same_as_nan(encoder, patches):
    for sensor, other in (("s1", "s2"), ("s2", "s1")):
        empty = encoder(**{sensor: patches[sensor], other: torch.full_like(patches[other], NAN)})
        absent = encoder(**{sensor: patches[sensor]})
        assert close(absent.embedding, empty.embedding)
        assert all(close(a, b) for a, b in zip(absent.maps, empty.maps, strict=True))


@torch.inference_mode()
def test_bands_in_any_order(encoder, patches):
    names = ("B12", "B04", "B08", "B03", "B02")
    columns = [S2.index(name) for name in names]
    subset = encoder(s2=patches["s2"][:, columns], s2_bands=names)
    holes = torch.full_like(patches["s2"], NAN)
    holes[:, columns] = patches["s2"][:, columns]
    assert close(subset.embedding, encoder(s2=holes).embedding)
    swapped = encoder(s1=patches["s1"].flip(1), s1_bands=("VH", "VV"))
    assert torch.equal(swapped.embedding, encoder(s1=patches["s1"]).embedding)


@torch.inference_mode()
def test_infinite_is_nan(encoder, patches):
    hidden = [patches["s2"].clone() for _ in range(2)]
    for x, value in zip(hidden, (NAN, float("inf")), strict=True):
        x[:, :, 8:16, :8] = value
    one, other = (encoder(s2=x, check="never").embedding for x in hidden)
    assert torch.equal(one, other)
    assert not torch.equal(one, encoder(s2=patches["s2"]).embedding)


@torch.inference_mode()
def test_patches_of_a_batch_are_independent(encoder, patches):
    patches["s2"][1] = NAN
    patches["s1"][0, :, :, 16:] = NAN
    together = encoder(**patches)
    for place in range(2):
        own = encoder(**{s: x[place : place + 1] for s, x in patches.items()})
        assert close(together.embedding[place], own.embedding[0])
        assert close(together.maps[-1][place], own.maps[-1][0])


def test_gradients_reach_the_input(encoder, patches):
    given = {s: x.clone().requires_grad_() for s, x in patches.items()}
    given["s2"].data[:, 3, :8] = NAN
    embedding = encoder(**given).embedding
    (embedding * torch.linspace(-1, 1, embedding.shape[1])).sum().backward()
    for x in given.values():
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert bool((x.grad != 0).any())


@torch.inference_mode()
def test_refusals(encoder, patches):
    with pytest.raises(UnitsError, match="dn_to_reflectance"):
        encoder(s2=patches["s2"] * 10_000)
    with pytest.raises(UnitsError, match="power_to_db"):
        encoder(s1=10 ** (patches["s1"] / 10))
    with pytest.raises(BandError, match="none of which this encoder uses"):
        encoder(s1=patches["s1"][:, :1], s1_bands=("HH",))
    with pytest.raises(SampleError, match="no image_s1 or image_s2; it holds"):
        encoder.encode({"mask": torch.zeros(2, 40, 40)})
    with pytest.raises(ShapeError, match="both must show"):
        encoder(s1=patches["s1"], s2=patches["s2"][..., :24])
    patches["s1"][1] = NAN
    with pytest.raises(NothingObservedError, match="patch 1 of the batch"):
        encoder(s1=patches["s1"])
    nothing = encoder(s1=patches["s1"], empty="nan")
    assert nothing.embedding[1].isnan().all()
    assert nothing.embedding[0].isfinite().all()
    assert nothing.maps[-1][1].isnan().all()


@torch.inference_mode()
def test_extra_inputs(encoder, patches):
    extra = {"month": torch.tensor([1, 7]), "lonlat": torch.tensor([[3.0, 4.0], [105.0, -6.0]])}
    plain = encoder(**patches).embedding
    for name, value in extra.items():
        if name in encoder.INPUTS:
            assert not close(encoder(**patches, **{name: value}).embedding, plain, 1e-5)
        else:
            with pytest.raises(UnusedInputError, match=name):
                encoder(**patches, **{name: value})
    if "lonlat" in encoder.INPUTS:
        with pytest.raises(ShapeError, match="longitude first"):
            encoder(**patches, lonlat=torch.tensor([[0.0, 91.0]] * 2))


@torch.inference_mode()
def test_bfloat16(encoder, patches):
    reference = encoder(**patches).embedding
    encoder.to(torch.bfloat16)
    try:
        found = encoder(**patches).embedding
    finally:
        encoder.to(torch.float32)
    assert found.dtype == torch.bfloat16
    assert found.isfinite().all()
    similarity = torch.cosine_similarity(found.float().flatten(), reference.flatten(), dim=0)
    assert similarity > 0.98


@torch.inference_mode()
def test_exported_graph(encoder, patches):
    axes = {0: Dim("B"), 2: Dim("H", min=33), 3: Dim("W", min=33)}
    example = (
        torch.full((2, 2, 64, 96), -12.0),
        torch.full((2, len(encoder.bands["s2"]), 64, 96), 0.1),
    )
    program = export(encoder.exportable(), example, dynamic_shapes=(axes, axes)).module()
    s1 = torch.randn(1, 2, 47, 61) * 3 - 12
    s2 = torch.rand(1, len(encoder.bands["s2"]), 47, 61)
    s2[:, :, :9] = NAN
    absent = torch.full_like(s2, NAN)
    for given in ((s1, s2), (s1, absent)):
        embedding, *maps = program(*given)
        features = encoder(*given, s2_bands=encoder.bands["s2"])
        assert close(embedding, features.embedding)
        assert all(close(a, b) for a, b in zip(maps, features.maps, strict=True))


def test_saved_and_opened_equal(encoder, patches, tmp_path):
    encoder.save_pretrained(tmp_path)
    opened = type(encoder).from_pretrained(tmp_path)
    with torch.inference_mode():
        assert torch.equal(opened(**patches).embedding, encoder(**patches).embedding)
    assert opened.card.sha256 == encoder.card.sha256


# Late fusion


@torch.inference_mode()
def test_a_tower_that_saw_nothing_contributes_nothing(patches):
    towers = TwoTowerEncoder("resnet10t", fusion="concat").eval()
    vector = towers(s2=patches["s2"]).embedding
    assert torch.equal(vector[:, :512], torch.zeros(2, 512))
    assert vector[:, -2:].tolist() == [[0.0, 1.0]] * 2
    both = towers(**patches).embedding
    assert close(both[:, 512:1024], vector[:, 512:1024])
    mean = TwoTowerEncoder("resnet10t", fusion="mean").eval()
    mean.towers.load_state_dict(towers.towers.state_dict())
    assert close(mean(s2=patches["s2"]).embedding, vector[:, 512:1024])
    halves = both[:, :512] / 2 + both[:, 512:1024] / 2
    assert close(mean(**patches).embedding, halves)


@torch.inference_mode()
def test_a_clouded_place_of_a_map_is_of_the_other_sensor(patches):
    towers = TwoTowerEncoder("resnet10t", fusion="mean").eval()
    patches["s2"][:, :, :16] = NAN
    radar = towers(s1=patches["s1"]).maps[0]
    mixed = towers(**patches).maps[0]
    assert close(mixed[:, :, :8], radar[:, :, :8], 1e-2)
    assert not close(mixed[:, :, 8:], radar[:, :, 8:], 1e-2)


def test_cell_shares_count_observed_pixels():
    x = torch.full((1, 2, 5, 7), NAN)
    x[0, 0, :3, :2] = 1.0
    (found,) = cell_shares(x, (4,))
    expected = np.zeros((2, 2))
    expected[0, 0] = 6 / 16
    np.testing.assert_allclose(found[0, 0], expected)


def test_only_known_backbones_and_fusions():
    with pytest.raises(BackboneError, match="FusionEncoder"):
        TwoTowerEncoder("convnext_atto")
    with pytest.raises(UnknownNameError, match="fusion='sum'"):
        TwoTowerEncoder("resnet10t", fusion="sum")
    with pytest.raises(UnknownNameError, match="scaling='ssl4e'"):
        scaling("ssl4e")


# Exactness of what is ours


@pytest.mark.parametrize("name", SCALINGS)
def test_scalings_fill_with_the_training_mean(name):
    for facts in scaling(name).values():
        mean = np.array(facts.mean)
        scaled = (mean - np.array(facts.shift)) / np.array(facts.scale)
        np.testing.assert_allclose(scaled, facts.fill, atol=1e-12)


@torch.inference_mode()
def test_croma_is_torchgeos_own(patches):
    encoder = CROMAEncoder(width=32, depth=2).eval()
    patches = {s: torch.nn.functional.interpolate(x, (120, 120)) for s, x in patches.items()}
    read = {s: encoder.stems[s](x) for s, x in patches.items()}
    expected = encoder.net(x_sar=read["s1"], x_optical=read["s2"])
    features = encoder(**patches)
    assert close(features.embedding, expected["joint_GAP"], 1e-6)
    tokens = expected["joint_encodings"].transpose(1, 2).reshape(2, 32, 15, 15)
    assert close(features.maps[0], tokens, 1e-6)
    assert close(encoder(s1=patches["s1"]).embedding, expected["sar_GAP"], 1e-6)
    assert close(encoder(s2=patches["s2"]).embedding, expected["optical_GAP"], 1e-6)


@torch.inference_mode()
def test_dofa_is_torchgeos_own():
    encoder = DOFAEncoder(width=32, depth=1, heads=2).eval()
    patches = {"s1": torch.randn(1, 2, 224, 224) * 3 - 12, "s2": torch.rand(1, 9, 224, 224)}
    waves = {
        "s1": [3.75, 3.75],
        "s2": [0.665, 0.56, 0.49, 0.705, 0.74, 0.783, 0.842, 1.61, 2.19],
    }
    for sensor, x in patches.items():
        expected = encoder.net.forward_features(encoder.stems[sensor](x), waves[sensor])
        names = {f"{sensor}_bands": encoder.bands[sensor]}
        assert close(encoder(**{sensor: x}, **names).embedding, expected, 1e-5)


@torch.inference_mode()
def test_pictures_of_dofa_saturate(patches, tmp_path):
    encoder = DOFAEncoder(width=32, depth=1, heads=2).eval()
    features = encoder(**patches)
    for sensor, (bright, brighter) in {"s1": (-5.0, -1.0), "s2": (0.9, 1.3)}.items():
        x = patches[sensor]
        found = encoder(**{sensor: x * 0 + bright}).embedding
        assert close(found, encoder(**{sensor: x * 0 + brighter}).embedding)
    encoder.save_pretrained(tmp_path)
    assert torch.equal(
        DOFAEncoder.from_pretrained(tmp_path)(**patches).embedding, features.embedding
    )


def test_gradients_of_digital_numbers_know_no_nan(patches):
    encoder = DOFAEncoder(width=32, depth=1, heads=2).eval()
    s1 = patches["s1"].clone()
    s1[:, 0, :9] = NAN
    s1.requires_grad_()
    encoder(s1=s1).embedding.sum().backward()
    assert s1.grad.isfinite().all()
    assert (s1.grad[:, 0, :9] == 0).all()


@torch.inference_mode()
def test_copernicus_fm_is_torchgeos_own():
    encoder = CopernicusFMEncoder(width=32, depth=1, heads=2).eval()
    for name in ("coord_token", "time_token", "scale_token"):
        torch.nn.init.normal_(getattr(encoder.net, name))
    s1 = torch.randn(1, 2, 224, 224) * 3 - 12
    days = (np.datetime64("2021-07-15") - np.datetime64("1970-01-01")).astype(int)
    for month, lonlat in ((None, None), (7, torch.tensor([[12.5, -33.0]]))):
        place = [NAN, NAN] if lonlat is None else lonlat[0].tolist()
        metadata = torch.tensor([[*place, NAN if month is None else float(days), 0.0256]])
        expected = encoder.net(
            encoder.stems["s1"](s1),
            metadata,
            list(encoder.WAVELENGTHS_NM["s1"]),
            list(encoder.WIDTHS_NM["s1"]),
        )
        assert close(encoder(s1=s1, month=month, lonlat=lonlat).embedding, expected, 1e-5)


@torch.inference_mode()
def test_panopticon_is_torchgeos_own():
    encoder = PanopticonEncoder(attention_width=96, depth=1).eval()
    table = encoder.net.patch_embed.chnfus.chnemb
    for parameter in table.parameters():
        torch.nn.init.normal_(parameter)
    s1, s2 = torch.randn(1, 2, 224, 224) * 3 - 12, torch.rand(1, 12, 224, 224)
    s2[:, 4] = NAN  # left out, not filled
    ids = [-1, -2, 442, 492, 559, 664, 740, 782, 832, 864, 945, 1613, 2202]
    read = torch.cat((encoder.stems["s1"](s1), encoder.stems["s2"](s2)), dim=1)
    kept = [i for i in range(14) if i != 6]
    expected = encoder.net({"imgs": read[:, kept], "chn_ids": torch.tensor([ids])})
    assert close(encoder(s1=s1, s2=s2).embedding, expected, 1e-5)


@torch.inference_mode()
def test_towers_are_timms_own():
    encoder = TwoTowerEncoder("vit_tiny_patch16_224").eval()
    s2 = torch.rand(1, 13, 224, 224)
    twin = timm.create_model("vit_tiny_patch16_224", in_chans=13, num_classes=0).eval()
    twin.load_state_dict(encoder.towers["s2"].net.state_dict())
    found = encoder(s2=s2, s2_bands=S2_L1C_BANDS).embedding[:, 192:384]
    assert close(found, twin(s2), 1e-6)


# Loading


def published(encoder: PublicEncoder) -> dict[str, dict[str, torch.Tensor]]:
    """Random tensors under published names, as files would hold them."""
    state = {
        k: torch.rand_like(v) for k, v in encoder.state_dict().items() if v.is_floating_point()
    }
    state |= {k: v for k, v in encoder.state_dict().items() if not v.is_floating_point()}
    if isinstance(encoder, TwoTowerEncoder):
        names = {s: f"towers.{s}.net." for s in encoder.sensors}
    else:
        names = {"both": "net."}
    return {
        s: {k.removeprefix(p): v for k, v in state.items() if k.startswith(p)}
        for s, p in names.items()
    }


def test_published_tensors_are_loaded_strictly(encoder):
    files = published(encoder)
    for tensors in files.values():
        tensors.pop("attn_bias", None)  # a constant of CROMA's that no file holds
    twin = type(encoder)(**encoder.config)
    twin.load_published(files, origin="a test")
    loaded = twin.state_dict()
    for place, tensors in files.items():
        prefix = f"towers.{place}.net." if place != "both" else "net."
        assert all(torch.equal(loaded[prefix + k], v) for k, v in tensors.items())
    first = next(iter(files.values()))
    with pytest.raises(WeightsError, match=r"1 unexpected \(.*stranger"):
        twin.load_published(
            files | {next(iter(files)): {**first, "stranger": torch.zeros(1)}}, origin="x"
        )
    missing = dict(list(first.items())[1:])
    with pytest.raises(WeightsError, match="1 absent"):
        twin.load_published(files | {next(iter(files)): missing}, origin="x")
    assert torch.equal(twin.stems["s1"].mean, encoder.stems["s1"].mean)


def test_croma_files_come_in_groups():
    encoder = CROMAEncoder(width=32, depth=2)
    net = encoder.net
    names = ("s1_encoder", "s1_GAP_FFN", "s2_encoder", "s2_GAP_FFN", "joint_encoder")
    groups = {n: getattr(net, n).state_dict() for n in names}
    CROMAEncoder(width=32, depth=2).load_published({"both": groups}, origin="a test")
    assert "joint_encoder.norm_out.weight" in flat(groups)


def test_panopticon_positions_are_resized_from_518_px():
    encoder = PanopticonEncoder(attention_width=96, depth=1)
    files = published(encoder)
    files["both"] |= {"pos_embed": torch.randn(1, 1370, 768), "mask_token": torch.zeros(1, 768)}
    encoder.load_published(files, origin="a test")
    assert torch.equal(encoder.net.pos_embed[:, 0], files["both"]["pos_embed"][:, 0])


def test_a_last_norm_that_no_file_holds_is_plain():
    encoder = TwoTowerEncoder("vit_tiny_patch16_224")
    files = published(encoder)
    for tensors in files.values():
        del tensors["norm.weight"], tensors["norm.bias"]
        tensors |= {"head.weight": torch.zeros(3, 192), "head.bias": torch.zeros(3)}
    encoder.load_published(files, origin="a test")
    assert torch.equal(encoder.towers["s1"].net.norm.weight, torch.ones(192))
    del files["s1"]["blocks.0.norm1.bias"]
    with pytest.raises(WeightsError, match="absent"):
        encoder.load_published(files, origin="a test")
