"""One contract for every row: published weights where they are at hand, else random ones by file.

Public rows are small twins of themselves, loaded by `load_encoder(weights=)` like the real ones.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.export import export

from deepsentinel import load_encoder
from deepsentinel.bands import S2_BANDS
from deepsentinel.encoders.galileo_card import NANO
from deepsentinel.encoders.presto_card import CARD as PRESTO
from deepsentinel.encoders.pretrained import Pretrained
from deepsentinel.errors import NothingObservedError, UnitsError, UnusedInputError, WeightsError
from deepsentinel.features import Features
from deepsentinel.zoo import load
from deepsentinel.zoo.rows import ROWS
from tests.zoo.twins import PUBLIC, galileo_twin, small, write_files

NAN = float("nan")
SIDE = 24
PUBLISHED = {
    NANO.name: Path("galileo-nano", "encoder.pt"),
    PRESTO.name: Path("presto", "default_model.pt"),
}
LARGER = {"galileo-tiny": {"width": 96, "depth": 2}, "galileo-base": {"width": 192, "depth": 2}}
ALL = [row.name for row in ROWS]


def opened(name: str, request: pytest.FixtureRequest, folder: Path) -> Pretrained:
    """A row, through `load_encoder` as users call it."""
    if name in PUBLISHED:
        data: Path = request.getfixturevalue("shared_data")
        return load_encoder(name, weights=data / "weights" / PUBLISHED[name])
    if name in LARGER:
        data = request.getfixturevalue("shared_data")
        nano = data / "weights" / PUBLISHED[NANO.name]
        return load_encoder(name, weights=galileo_twin(nano, folder / "encoder.pt", **LARGER[name]))
    if name not in PUBLIC:
        return load_encoder(name)
    row, files = write_files(small(PUBLIC[name]), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "ROWS", (row,))
        return load_encoder(name, weights=files if len(files) > 1 else files["both"])


@pytest.fixture(scope="module", params=ALL)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    return opened(request.param, request, tmp_path_factory.mktemp("row"))


@pytest.fixture
def patches(encoder: Pretrained) -> dict[str, Tensor]:
    """Two observed patches of the sensors that the encoder reads."""
    return pair(encoder)


def pair(encoder: Pretrained, height: int = SIDE, width: int = SIDE) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    both = {
        "s1": torch.randn(2, 2, height, width, generator=generator) * 3 - 12,
        "s2": torch.rand(2, 12, height, width, generator=generator) * 0.4,
    }
    return {s: both[s] for s in encoder.sensors}


def assert_same(found: Features, expected: Features, tolerance: float = 1e-4) -> None:
    outputs = zip((found.embedding, *found.maps), (expected.embedding, *expected.maps), strict=True)
    for a, b in outputs:
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance, equal_nan=True)


def differ(a: Features, b: Features) -> bool:
    return not torch.allclose(a.embedding, b.embedding, atol=1e-3, rtol=1e-3, equal_nan=True)


@pytest.mark.parametrize("name", ALL)
@torch.inference_mode()
def test_every_row_loads_and_tells_sensors_apart(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    encoder = opened(name, request, tmp_path)
    given = pair(encoder)
    assert (encoder.card.name, encoder.training) == (name, False)
    features = encoder(**given)
    assert features.embedding.shape == (2, encoder.embed_dim)
    assert features.embedding.dtype == torch.float32
    assert features.strides == encoder.strides == encoder.card.strides
    for level, channels, stride in zip(
        features.maps, encoder.out_channels, encoder.strides, strict=True
    ):
        assert level.shape == (2, channels, -(-SIDE // stride), -(-SIDE // stride))
        assert level.isfinite().all()
    alone = [encoder(**{s: given[s]}) for s in encoder.sensors]
    assert all(x.embedding.isfinite().all() for x in alone)
    if len(alone) == 2:
        assert differ(alone[0], alone[1])
        assert all(differ(one, features) for one in alone)


@torch.inference_mode()
def test_the_same_twice(encoder: Pretrained, patches: dict[str, Tensor]) -> None:
    assert_same(encoder(**patches), encoder(**patches), 0)


@torch.inference_mode()
def test_absent_is_nan(encoder: Pretrained, patches: dict[str, Tensor]) -> None:
    for sensor in encoder.sensors:
        others = {s: torch.full_like(x, NAN) for s, x in patches.items() if s != sensor}
        own = {sensor: patches[sensor]}
        assert_same(encoder(**own, **others), encoder(**own))


@torch.inference_mode()
def test_bands_in_any_order(encoder: Pretrained, patches: dict[str, Tensor]) -> None:
    names = ("B12", "B04", "B8A", "B08", "B02")
    columns = [S2_BANDS.index(name) for name in names]
    holes = torch.full_like(patches["s2"], NAN)
    holes[:, columns] = patches["s2"][:, columns]
    subset = encoder(s2=patches["s2"][:, columns], s2_bands=names)
    assert_same(subset, encoder(s2=holes))
    assert differ(subset, encoder(s2=patches["s2"]))


@torch.inference_mode()
def test_holes_change_what_they_touch_and_give_no_nan(
    encoder: Pretrained, patches: dict[str, Tensor]
) -> None:
    whole = encoder(**patches)
    for sensor, x in patches.items():
        holed = x.clone()
        holed[:, :, 3:14, 5:] = NAN
        features = encoder(**{**patches, sensor: holed})
        assert features.embedding.isfinite().all()
        assert all(level.isfinite().all() for level in features.maps)
        assert not torch.equal(features.embedding, whole.embedding)


@torch.inference_mode()
def test_odd_size(encoder: Pretrained) -> None:
    features = encoder(**pair(encoder, 19, 37))
    for level, stride in zip(features.maps, encoder.strides, strict=True):
        assert level.shape[2:] == (-(-19 // stride), -(-37 // stride))
        assert level.isfinite().all()


@torch.inference_mode()
def test_mixed_presence_in_a_batch_is_each_patch_alone(
    encoder: Pretrained, patches: dict[str, Tensor]
) -> None:
    mixed = {s: torch.cat([x, x.flip(0)[:1]]) for s, x in patches.items()}
    mixed["s2"][1, 3:9] = NAN
    if "s1" in mixed:
        mixed["s2"][0] = NAN
        mixed["s1"][1] = NAN
    mixed["s2"][2, :, ::2] = NAN
    together = encoder(**mixed)
    for place in range(3):
        own = encoder(**{s: x[place : place + 1] for s, x in mixed.items()})
        of_batch = (together.embedding, *together.maps)
        for a, b in zip(of_batch, (own.embedding, *own.maps), strict=True):
            torch.testing.assert_close(a[place], b[0], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_refusals(encoder: Pretrained, patches: dict[str, Tensor]) -> None:
    with pytest.raises(UnitsError, match="dn_to_reflectance"):
        encoder(s2=patches["s2"] * 10_000)
    if "s1" in patches:
        with pytest.raises(UnitsError, match="power_to_db"):
            encoder(s1=10 ** (patches["s1"] / 10))
    patches["s2"][1] = NAN
    with pytest.raises(NothingObservedError, match="patch 1"):
        encoder(s2=patches["s2"])


@torch.inference_mode()
def test_extra_inputs_are_used_or_refused(encoder: Pretrained, patches: dict[str, Tensor]) -> None:
    extra = {"month": (7, 1), "lonlat": (torch.tensor([[3.0, 50.0]] * 2), torch.zeros(2, 2))}
    for name, (one, other) in extra.items():
        if name in encoder.card.inputs:
            found = encoder(**patches, **{name: one}).embedding
            assert not torch.equal(found, encoder(**patches, **{name: other}).embedding)
        else:
            with pytest.raises(UnusedInputError, match=f"{name} was given"):
                encoder(**patches, **{name: one})


def test_gradients_reach_every_band(encoder: Pretrained, patches: dict[str, Tensor]) -> None:
    given = {s: x.clone() for s, x in patches.items()}
    given["s2"][:, 3, :8] = NAN
    given = {s: x.requires_grad_() for s, x in given.items()}
    embedding = encoder(**given).embedding
    (embedding * torch.linspace(-1, 1, embedding.shape[1])).sum().backward()
    encoder.zero_grad()
    for sensor, x in given.items():
        assert x.grad is not None
        assert x.grad.isfinite().all()
        taken = S2_BANDS if sensor == "s2" else ("VV", "VH")
        used = [taken.index(band) for band in encoder.bands[sensor] if band in taken]
        assert bool((x.grad[:, used] != 0).flatten(2).any(2).all())


@torch.inference_mode()
def test_saved_and_opened(encoder: Pretrained, patches: dict[str, Tensor], tmp_path: Path) -> None:
    assert encoder.save_pretrained(tmp_path) == tmp_path
    again = load_encoder(tmp_path)
    assert type(again) is type(encoder)
    assert again.card == encoder.card
    assert again.card.sources == encoder.card.sources
    assert_same(again(**patches), encoder(**patches), 0)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(WeightsError, match="sha256"):
        load_encoder(tmp_path)


@torch.inference_mode()
def test_compiled(encoder: Pretrained, patches: dict[str, Tensor]) -> None:
    torch.compiler.reset()
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    patches["s2"][1, 2:5] = NAN
    assert_same(compiled(**patches), encoder(**patches))


@torch.inference_mode()
def test_exported(encoder: Pretrained) -> None:
    given = {s: x[:, : len(encoder.bands[s])] for s, x in pair(encoder, 40, 33).items()}
    if len(encoder.bands["s2"]) == 13:
        given["s2"] = torch.cat([given["s2"], torch.full((2, 1, 40, 33), 0.1)], dim=1)
    given["s2"][0, :, :9] = NAN
    if "s1" in given:
        given["s1"][1] = NAN
    inputs = (given.get("s1"), given["s2"])
    embedding, *maps = export(encoder.exportable(), inputs).module()(*inputs)
    names = {f"{s}_bands": encoder.bands[s] for s in given}
    assert_same(Features(embedding, tuple(maps), encoder.strides), encoder(**given, **names))


@pytest.fixture
def rough(encoder: Pretrained) -> Iterator[Pretrained]:
    """The encoder in bfloat16, and as it was afterwards."""
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    yield encoder.to(torch.bfloat16)
    encoder.to(torch.float32).load_state_dict(before)


@torch.inference_mode()
def test_bfloat16(encoder: Pretrained, patches: dict[str, Tensor], request) -> None:
    exact = encoder(**patches).embedding
    found = request.getfixturevalue("rough")(**patches).embedding
    assert found.dtype == torch.bfloat16
    assert found.isfinite().all()
    cosine = torch.cosine_similarity(found.float().flatten(), exact.flatten(), dim=0)
    assert cosine > 0.98
