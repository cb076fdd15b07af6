"""What Galileo and Presto both promise: masked tokens, band order, sizes, empties, strict weights."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.export import Dim, export

from deepsentinel.encoders.galileo import GalileoEncoder
from deepsentinel.encoders.presto import PrestoEncoder
from deepsentinel.encoders.published import PublishedEncoder, read_published
from deepsentinel.errors import (
    BandError,
    NothingObservedError,
    SampleError,
    ShapeError,
    UnitsError,
    UnknownNameError,
    WeightsError,
)
from deepsentinel.features import Encoder
from deepsentinel.sample import PatchMeta

NAN = float("nan")
S2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
BUILD: dict[str, Callable[[], PublishedEncoder]] = {
    "galileo-8": lambda: GalileoEncoder(width=32, depth=2, heads=2),
    "galileo-3": lambda: GalileoEncoder(width=32, depth=2, heads=2, patch_size=3),
    "galileo-window": lambda: GalileoEncoder(width=32, depth=2, heads=2, window=16),
    "presto": lambda: PrestoEncoder(width=32, depth=2, heads=2),
    "presto-4": lambda: PrestoEncoder(width=32, depth=2, heads=2, stride=4),
}


@pytest.fixture(params=BUILD)
def encoder(request: pytest.FixtureRequest) -> PublishedEncoder:
    built = BUILD[request.param]().eval()
    for parameter in built.parameters():  # large weights, so that tokens matter to each other
        torch.nn.init.normal_(parameter, std=0.3)
    return built


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return bool(torch.allclose(a, b, atol=tolerance, rtol=0))


@torch.inference_mode()
def test_contract(encoder, patches):
    assert isinstance(encoder, Encoder)
    assert encoder.sensors == ("s1", "s2")
    assert encoder.bands["s1"] == ("VV", "VH")
    assert encoder.bands["s2"] == tuple(b for b in S2 if b not in {"B01", "B09"})
    features = encoder(**patches)
    assert features.strides == encoder.strides
    assert features.embedding.shape == (2, encoder.embed_dim)
    assert [m.shape[1] for m in features.maps] == list(encoder.out_channels)
    assert torch.equal(features.embedding, encoder(**patches).embedding)


@torch.inference_mode()
def test_encode_takes_a_batch(encoder, patches):
    names = ("B12", "B04", "B08")
    s2 = patches["s2"][:, [S2.index(n) for n in names]]
    batch = {"image_s2": s2, "meta": [PatchMeta(id=str(i), bands_s2=names) for i in range(2)]}
    assert torch.equal(encoder.encode(batch).embedding, encoder(s2=s2, s2_bands=names).embedding)
    with pytest.raises(SampleError, match="no image_s1 or image_s2"):
        encoder.encode({"mask": s2})


@torch.inference_mode()
def test_absent_sensor_is_the_same_as_nan(encoder, patches):
    for sensor, other in (("s1", "s2"), ("s2", "s1")):
        given = {sensor: patches[sensor]}
        empty = encoder(**given, **{other: torch.full_like(patches[other], NAN)})
        absent = encoder(**given)
        assert close(absent.embedding, empty.embedding)
        assert close(absent.maps[0], empty.maps[0])


@torch.inference_mode()
def test_masked_tokens_are_the_same_as_removed_tokens(encoder, patches):
    """Beside a complete patch the tokens stay and are masked; alone they are left out."""
    s2 = patches["s2"].clone()
    s2[0] = NAN
    together = encoder(s1=patches["s1"], s2=s2)
    alone = encoder(s1=patches["s1"][:1])
    assert close(together.embedding[:1], alone.embedding)
    assert close(together.maps[0][:1], alone.maps[0])
    assert not close(together.embedding[:1], encoder(**patches).embedding[:1], 1e-2)


@torch.inference_mode()
def test_infinite_is_nan(encoder, patches):
    hidden = [patches["s2"].clone() for _ in range(3)]
    for x, value in zip(hidden, (NAN, float("inf"), -float("inf")), strict=True):
        x[:, :, 8:16, :8] = value
    first, *others = (encoder(s2=x, check="never") for x in hidden)
    assert all(torch.equal(first.maps[0], other.maps[0]) for other in others)


@torch.inference_mode()
def test_place_where_nothing_was_observed_holds_the_embedding(encoder, patches):
    s2 = patches["s2"]
    s2[:, :, 8:24, :16] = NAN
    features = encoder(s2=s2)
    row, column = 16 // features.strides[0], 0
    assert torch.equal(features.maps[0][:, :, row, column], features.embedding)


@torch.inference_mode()
def test_bands_in_any_order(encoder, patches):
    names = ("B12", "B04", "B08", "B03", "B02")
    columns = [S2.index(name) for name in names]
    subset = encoder(s2=patches["s2"][:, columns], s2_bands=names)
    holes = torch.full_like(patches["s2"], NAN)
    holes[:, columns] = patches["s2"][:, columns]
    assert torch.equal(subset.embedding, encoder(s2=holes).embedding)
    swapped = encoder(s1=patches["s1"].flip(1), s1_bands=("VH", "VV"))
    assert torch.equal(swapped.embedding, encoder(s1=patches["s1"]).embedding)


@pytest.mark.parametrize("name", ["VV", "VH", "B04", "B8A", "B12"])
@torch.inference_mode()
def test_one_band_is_enough(encoder, patches, name):
    sensor = "s1" if name.startswith("V") else "s2"
    place = ("VV", "VH").index(name) if sensor == "s1" else S2.index(name)
    given = {sensor: patches[sensor][:, place : place + 1], f"{sensor}_bands": (name,)}
    one = encoder(**given)
    other = encoder(**(given | {sensor: given[sensor] + 0.1}))
    assert one.embedding.isfinite().all()
    assert not close(one.embedding, other.embedding, 1e-5)


@torch.inference_mode()
def test_unused_bands_do_not_matter(encoder, patches):
    other = patches["s2"].clone()
    other[:, [0, 9]] = 0.7
    assert torch.equal(encoder(s2=other).embedding, encoder(s2=patches["s2"]).embedding)
    with pytest.raises(BandError, match="none of which this encoder uses"):
        encoder(s2=other[:, :1], s2_bands=("B01",))


@torch.inference_mode()
def test_patches_of_a_batch_are_independent(encoder, patches):
    patches["s2"][1, :, :, 16:] = NAN
    where = torch.tensor([[3.0, 4.0], [105.0, -6.0]])
    together = encoder(**patches, month=torch.tensor([1, 7]), lonlat=where)
    for place, month in enumerate((1, 7)):
        own = {s: x[place : place + 1] for s, x in patches.items()}
        alone = encoder(**own, month=month, lonlat=where[place : place + 1])
        assert close(alone.embedding[0], together.embedding[place])
        assert close(alone.maps[0][0], together.maps[0][place])


@torch.inference_mode()
def test_month_and_location_matter(encoder, patches):
    june = encoder(**patches, month=6).embedding
    assert torch.equal(encoder(**patches).embedding, june)
    assert not close(encoder(**patches, month=1).embedding, june, 1e-3)
    here, there = (
        encoder(**patches, lonlat=torch.tensor([[x, 40.0]] * 2)).embedding for x in (3.0, -170.0)
    )
    assert not close(here, june)
    assert not close(here, there)
    assert torch.equal(encoder(**patches, lonlat=[[-170, 40]] * 2).embedding, there)


@pytest.mark.parametrize("size", [(16, 16), (17, 21), (61, 16)])
@torch.inference_mode()
def test_odd_sizes_are_padded_with_not_observed(encoder, size):
    H, W = size
    generator = torch.Generator().manual_seed(3)
    s2 = torch.rand(1, 12, H, W, generator=generator) * 0.4
    wide = torch.full((1, 12, H + 24, W + 24), NAN)
    wide[:, :, :H, :W] = s2
    features, padded = encoder(s2=s2), encoder(s2=wide)
    stride = features.strides[0]
    rows, columns = -(-H // stride), -(-W // stride)
    assert features.maps[0].shape[-2:] == (rows, columns)
    assert close(features.embedding, padded.embedding)
    assert close(features.maps[0], padded.maps[0][:, :, :rows, :columns])


def test_patch_without_a_value(encoder, patches):
    patches["s2"][1] = NAN
    with pytest.raises(NothingObservedError, match="patch 1 of the batch"):
        encoder(s2=patches["s2"])
    with torch.inference_mode():
        features = encoder(s2=patches["s2"], empty="nan")
        assert features.embedding[1].isnan().all()
        assert features.maps[0][1].isnan().all()
        assert close(features.embedding[0], encoder(s2=patches["s2"][:1]).embedding[0])
        nothing = encoder(s2=torch.full_like(patches["s2"], NAN), empty="nan")
        assert nothing.embedding.isnan().all()


def test_gradients_reach_inputs_and_weights(encoder, patches):
    patches["s2"][:, :, :9] = NAN
    patches["s2"][1] = NAN
    patches["s1"][1] = NAN
    for x in patches.values():
        x.requires_grad_()
    features = encoder.train()(**patches, lonlat=torch.zeros(2, 2), empty="nan")
    (features.embedding[0].sum() + features.maps[0][0].square().sum()).backward()
    for x in patches.values():
        assert x.grad is not None
        assert x.grad.isfinite().all()
    gradient = patches["s2"].grad
    assert gradient is not None
    used = [S2.index(b) for b in encoder.bands["s2"]]
    assert (gradient[0, used, 9:].abs().amax(dim=(1, 2)) > 0).all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@torch.inference_mode()
def test_bfloat16_is_near(patches):
    for build in BUILD.values():
        exact = build().eval()
        rough = build().eval()
        rough.load_state_dict(exact.state_dict())
        a, b = exact(**patches).embedding, rough.bfloat16()(**patches).embedding
        assert b.dtype == torch.bfloat16
        assert bool((torch.cosine_similarity(a, b.float()) > 0.999).all())


@pytest.mark.parametrize("name", ["galileo-window", "presto"])
@torch.inference_mode()
def test_compiled_gives_the_same(name, patches):
    encoder = BUILD[name]().eval()
    patches["s2"][0, :, :5] = NAN
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    eager, traced = encoder(**patches, month=7), compiled(**patches, month=7)
    assert close(eager.embedding, traced.embedding)
    assert close(eager.maps[0], traced.maps[0])


@pytest.mark.parametrize("name", ["galileo-3", "presto-4"])
def test_export_with_dynamic_sizes(name):
    module = BUILD[name]().eval().exportable()
    example = torch.full((2, 2, 40, 48), -12.0), torch.full((2, 10, 40, 48), 0.1)
    axes = {0: Dim("B"), 2: Dim("H", min=33), 3: Dim("W", min=33)}
    program = export(module, example, dynamic_shapes=(axes, axes))
    generator = torch.Generator().manual_seed(0)
    s2 = torch.rand(3, 10, 47, 35, generator=generator) * 0.4
    s2[0, :, :9] = NAN
    s2[1] = NAN
    s1 = torch.full((3, 2, 47, 35), NAN)
    for exported, eager in zip(program.module()(s1, s2), module(s1, s2), strict=True):
        assert torch.allclose(exported, eager, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"month": 0}, ShapeError, "from 1 to 12"),
        ({"month": 13}, ShapeError, "from 1 to 12"),
        ({"month": torch.tensor([1, 2, 3])}, ShapeError, r"shape \(2,\)"),
        ({"month": 7.5}, ShapeError, "one int"),
        ({"lonlat": torch.zeros(2)}, ShapeError, r"expected \(2, 2\)"),
        ({"lonlat": [10.0, 50.0]}, ShapeError, r"expected \(2, 2\)"),
        ({"lonlat": torch.tensor([[10.0, 50.0], [40.0, 120.0]])}, ShapeError, "longitude first"),
        ({"lonlat": torch.tensor([[10.0, 50.0], [40.0, NAN]])}, ShapeError, "all finite"),
        ({"s2": torch.full((2, 12, 32, 32), 3000.0)}, UnitsError, "digital numbers"),
        ({"s2": torch.zeros(2, 12, 16, 16)}, ShapeError, "the same patches on one grid"),
        ({"check": "maybe"}, UnknownNameError, "check='maybe'"),
        ({"empty": "zero"}, UnknownNameError, "empty='zero'"),
    ],
)
def test_input_that_cannot_be(patches, arguments, error, message):
    with pytest.raises(error, match=message):
        BUILD["presto-4"]()(**(patches | arguments))


def test_every_month_is_a_different_place_on_the_circle():
    table = GalileoEncoder(width=32, depth=1, heads=2).month_embed.numpy()
    distances = np.linalg.norm(table[:, None] - table[None], axis=2)
    assert distances[0, 1] == pytest.approx(distances[11, 0], rel=1e-5)
    assert distances[0].argmax() == 6


def test_files_that_hold_more_than_tensors_are_refused(tmp_path):
    files = {name: tmp_path / name for name in ("code.pt", "text.pt", "list.pt", "none.pt")}
    torch.save(torch.nn.Linear(1, 1), files["code.pt"])
    files["text.pt"].write_text("not weights")
    torch.save([torch.zeros(1)], files["list.pt"])
    files["none.pt"].write_bytes(b"")
    messages = {"code.pt": "trusted", "text.pt": "trusted", "list.pt": "list", "none.pt": "trusted"}
    for name, file in files.items():
        with pytest.raises(WeightsError, match=messages[name]):
            read_published(file, None)
