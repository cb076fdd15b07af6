"""Rows of torchgeo's weights: facts against torchgeo, what enters the networks, loading by file."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deepsentinel import list_encoders, load_encoder
from deepsentinel.encoders.config import KINDS
from deepsentinel.encoders.pretrained import encoder_class
from deepsentinel.encoders.scaling import scaling
from deepsentinel.errors import UnknownNameError, WeightsError
from deepsentinel.zoo import load
from deepsentinel.zoo.rows import ROWS, Row
from tests.zoo.twins import PUBLIC, small, write_files

S2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
L1C = (*S2[:10], "B10", *S2[10:])

# What torchgeo calls the weights of each row.
MEMBERS: dict[str, dict[str, str]] = {
    f"resnet50-{method}": {
        "s1": f"ResNet50_Weights.SENTINEL1_GRD_{method.upper()}",
        "s2": f"ResNet50_Weights.SENTINEL2_ALL_{method.upper()}",
    }
    for method in ("moco", "decur", "softcon", "closp")
}
for size in ("Small", "Base", "Large"):
    for method in ("mae", "fgmae", "softcon"):
        if (size, method) != ("Large", "softcon"):
            model = f"ViT{size}14_DINOv2" if method == "softcon" else f"ViT{size}16"
            MEMBERS[f"vit-{size.lower()}-{method}"] = {
                "s1": f"{model}_Weights.SENTINEL1_GRD_{method.upper()}",
                "s2": f"{model}_Weights.SENTINEL2_ALL_{method.upper()}",
            }
MEMBERS |= {
    "croma-base": {"both": "CROMABase_Weights.CROMA_VIT"},
    "croma-large": {"both": "CROMALarge_Weights.CROMA_VIT"},
    "dofa-base": {"both": "DOFABase16_Weights.DOFA_MAE"},
    "dofa-large": {"both": "DOFALarge16_Weights.DOFA_MAE"},
    "panopticon-base": {"both": "Panopticon_Weights.VIT_BASE14"},
    "copernicus-fm-base": {"both": "CopernicusFM_Base_Weights.CopernicusFM_ViT"},
}


def test_every_row_is_known_and_listed() -> None:
    assert set(PUBLIC) == set(MEMBERS)
    listed = {card.name: card for card in list_encoders()} if _shipped() else None
    rows = {row.name for row in ROWS if isinstance(row, Row)}
    assert set(PUBLIC) <= rows
    if listed is not None:
        assert all(listed[name] == row.card for name, row in PUBLIC.items())


def _shipped() -> bool:
    return (Path(load.__file__).parent / "weights" / "deepsentinel-nano").is_dir()


@pytest.mark.parametrize("name", MEMBERS)
def test_sources_are_those_of_torchgeo(name: str) -> None:
    import torchgeo.models

    sources = PUBLIC[name].card.sources
    assert sources.keys() == MEMBERS[name].keys()
    for key, member in MEMBERS[name].items():
        kind, _, attribute = member.partition(".")
        weights = getattr(getattr(torchgeo.models, kind), attribute)
        source = sources[key]
        place = f"{source.repository}/resolve/{source.revision}/{source.path}"
        assert weights.url.partition("://")[2].partition("/")[2] == place
        assert len(source.revision) == 40
        assert (source.sha256_prefix is None) == (
            "softcon" in name or "mae" in name or "panopticon" in name
        )
        assert source.sha256_prefix is None or f"-{source.sha256_prefix}." in source.path
        if "in_chans" in weights.meta:
            bands = [b.upper() for b in weights.meta["bands"]]
            ours = PUBLIC[name].card.bands[key]
            assert [b.replace("B0", "B") for b in ours] == bands


@pytest.mark.parametrize("name", MEMBERS)
def test_cards_are_what_the_architecture_tells(name: str) -> None:
    row = PUBLIC[name]
    sized: dict[str, object] = {}
    if row.kind == "TwoTowerEncoder":
        with torch.device("meta"):
            built = encoder_class(row.kind)(**row.arguments, card=row.card)
    else:  # torchgeo's constructors are slow at full size: all but the sizes on a small twin
        twin = small(row)
        built = encoder_class(row.kind)(**twin.arguments, card=row.card)
        facts = ("embed_dim", "out_channels", "parameters")
        sized = {fact: getattr(row.card, fact) for fact in facts}
        assert row.card.out_channels == (row.card.embed_dim,)
        assert row.card.embed_dim == row.arguments.get("width", 768)
    assert replace(built.card, **sized) == row.card
    assert row.kind in KINDS
    for fact in ("licence", "data_licence", "citation", "limits", "preprocessing", "levels"):
        assert getattr(row.card, fact)
    assert set(row.card.inputs) == built.INPUTS


def test_listing_needs_no_torch() -> None:
    code = (
        "import sys; from deepsentinel.zoo.rows import ROWS; assert len(ROWS) > 20;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'torchgeo')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What goes into the networks, computed here from what the authors document


def two_std(x: np.ndarray, mean: list[float], std: list[float]) -> np.ndarray:
    """The `normalize` of SSL4EO-S12, DeCUR, FG-MAE, SoftCon and CROMA, before it is cut to 8 bits."""
    m, s = np.array(mean)[:, None, None], np.array(std)[:, None, None]
    low, high = m - 2 * s, m + 2 * s
    return np.clip((x - low) / (high - low), 0, 1)


S1_MEAN, S1_STD = [-12.59, -20.26], [5.26, 5.91]
S2C_MEAN = [
    1612.9,
    1397.6,
    1322.3,
    1373.1,
    1561,
    2108.4,
    2390.7,
    2318.7,
    2581,
    837.7,
    22,
    2195.2,
    1537.4,
]
S2C_STD = [
    791,
    854.3,
    878.7,
    1144.9,
    1127.5,
    1164.2,
    1276,
    1249.5,
    1345.9,
    577.5,
    47.5,
    1340,
    1142.9,
]
S2A_MEAN = [
    756.4,
    889.6,
    1151.7,
    1307.6,
    1637.6,
    2212.6,
    2442,
    2538.9,
    2602.9,
    2666.8,
    2388.8,
    1821.5,
]
S2A_STD = [
    1111.4,
    1159.1,
    1188.1,
    1375.2,
    1376.6,
    1358.6,
    1418.4,
    1476.4,
    1439.9,
    1582.1,
    1460.7,
    1352.2,
]


def score(x: np.ndarray, mean: list[float], std: list[float]) -> np.ndarray:
    return (x - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]


def ssl4eo(s1: np.ndarray, dn: np.ndarray) -> dict[str, np.ndarray]:
    return {"s1": two_std(s1, S1_MEAN, S1_STD), "s2": dn / 10_000}


def softcon(s1: np.ndarray, dn: np.ndarray) -> dict[str, np.ndarray]:
    return {"s1": two_std(s1, S1_MEAN, S1_STD), "s2": two_std(dn, S2C_MEAN, S2C_STD)}


def closp(s1: np.ndarray, dn: np.ndarray) -> dict[str, np.ndarray]:
    return {"s1": s1, "s2": dn / 10_000}


def croma(s1: np.ndarray, dn: np.ndarray) -> dict[str, np.ndarray]:
    l2a = np.delete(dn, L1C.index("B10"), axis=0)
    return {"s1": two_std(s1, S1_MEAN, S1_STD), "s2": two_std(l2a, S2A_MEAN, S2A_STD)}


def panopticon(s1: np.ndarray, dn: np.ndarray) -> dict[str, np.ndarray]:
    l2a = np.delete(dn, L1C.index("B10"), axis=0)
    return {"both": np.concatenate((score(s1, S1_MEAN, S1_STD), score(l2a, S2A_MEAN, S2A_STD)))}


def copernicus(s1: np.ndarray, dn: np.ndarray) -> dict[str, np.ndarray]:
    return {"s1": score(s1, S1_MEAN, S1_STD), "s2": score(dn, S2C_MEAN, S2C_STD)}


def dofa(s1: np.ndarray, dn: np.ndarray) -> dict[str, np.ndarray]:
    """True colour saturates at 3558, the other bands are divided by 32; both are 8-bit pictures."""
    bands = [
        dn[L1C.index(b)] for b in ("B04", "B03", "B02", "B05", "B06", "B07", "B08", "B11", "B12")
    ]
    pictures = [np.clip(b / 3558 * 255, 0, 255) for b in bands[:3]]
    pictures += [np.clip(b / 32, 0, 255) for b in bands[3:]]
    mean = [114.1099739, 114.81779093, 126.63977424, 84.33539309, 97.84789168]
    mean += [103.94461911, 101.435633, 72.32804172, 56.66528851]
    std = [77.84352553, 69.96844919, 67.42465279, 64.57022983, 61.72545487]
    std += [61.34187099, 60.29744676, 47.88519516, 42.55886798]
    radar = uncalibrated(s1).clip(0, 255)
    vv_vh = score(radar, [166.36275909, 88.45542715], [64.83126309, 43.07350145])
    return {"s1": vv_vh, "s2": score(np.stack(pictures), mean, std)}


def uncalibrated(s1: np.ndarray) -> np.ndarray:
    """Digital numbers of IW GRD at 38.3 degrees: ESA's sigma0 = (DN^2 - noise) / A^2, the other way."""
    return 602 * np.sqrt(10 ** (s1 / 10) + 10**-2.2)


Documented = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]
DOCUMENTED: dict[str, Documented] = {
    "moco": ssl4eo,
    "decur": ssl4eo,
    "mae": ssl4eo,
    "fgmae": ssl4eo,
    "softcon": softcon,
    "closp": closp,
    "croma": croma,
    "dofa": dofa,
    "panopticon": panopticon,
    "copernicus": copernicus,
}


SATURATED = {"softcon", "croma", "dofa"}
"""Families that clip Sentinel-2, of which a pixel is far too bright."""


def spread(
    generator: np.random.Generator, mean: list[float], std: list[float], side: int
) -> np.ndarray:
    """Values up to 4 standard deviations from the mean: past every clip, and all exact to 1e-6."""
    scores = generator.uniform(-4, 4, (len(mean), side, side))
    return scores * np.array(std)[:, None, None] + np.array(mean)[:, None, None]


def first_layers(encoder: torch.nn.Module) -> dict[str, torch.nn.Module]:
    if hasattr(encoder, "towers"):
        return {s: encoder.towers[s] for s in ("s1", "s2")}
    net = encoder.net
    if hasattr(net, "s1_encoder"):
        return {"s1": net.s1_encoder, "s2": net.s2_encoder}
    embed = getattr(net, "patch_embed", None)
    return {"both": embed.conv3d.conv3d} if hasattr(embed, "conv3d") else {}


@pytest.mark.parametrize("name", MEMBERS)
@torch.inference_mode()
def test_the_network_reads_what_the_authors_document(name: str, monkeypatch) -> None:
    row = small(PUBLIC[name])
    encoder = encoder_class(row.kind)(**row.arguments).eval()
    side = row.card.input_px or 64
    generator = np.random.default_rng(3)
    s1 = np.float32(spread(generator, S1_MEAN, S1_STD, side))
    reflectance = np.float32(spread(generator, S2C_MEAN, S2C_STD, side).clip(0) / 10_000)
    reflectance[:, 0, 0] = 0 if SATURATED.isdisjoint(name.split("-")) else 1.1
    read: dict[str, torch.Tensor] = {}
    original = type(encoder)._entered

    def entered(self, sensor, values, size=None):
        read[sensor] = original(self, sensor, values, size)
        return read[sensor]

    monkeypatch.setattr(type(encoder), "_entered", entered)
    hooks = {
        place: layer.register_forward_pre_hook(
            lambda _, args, kwargs, place=place: read.__setitem__(
                place, args[0] if args else kwargs["imgs"]
            ),
            with_kwargs=True,
        )
        for place, layer in first_layers(encoder).items()
    }
    given = {"s1": s1, "s2": reflectance}
    tensors = {s: torch.from_numpy(given[s])[None] for s in encoder.sensors}
    encoder(**tensors, s2_bands=L1C)
    assert all(place in read for place in hooks)
    family = next(f for f in sorted(DOCUMENTED, key=len, reverse=True) if f in name)
    documented = DOCUMENTED[family](s1.astype(np.float64), reflectance.astype(np.float64) * 10_000)
    for place, expected in documented.items():
        found = read[place].reshape(expected.shape).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


def test_radar_of_ssl4eo_has_the_statistics_that_dofa_publishes() -> None:
    """What stands for the calibration was fitted to nothing, so these numbers may judge it."""
    normal = np.random.default_rng(5).standard_normal((2, 100_000))
    decibels = normal * np.array(S1_STD)[:, None] + np.array(S1_MEAN)[:, None]
    pictures = uncalibrated(decibels).clip(0, 255)
    np.testing.assert_allclose(pictures.mean(1), [166.36275909, 88.45542715], rtol=0.05)
    np.testing.assert_allclose(pictures.std(1), [64.83126309, 43.07350145], rtol=0.05)


def test_statistics_of_digital_numbers_are_stated_in_decibels() -> None:
    facts = scaling("dofa")["s1"]
    for (mean, std), number, spread in zip(facts.statistics, facts.mean, facts.std, strict=True):
        assert uncalibrated(np.array(mean)) == pytest.approx(number)
        step = uncalibrated(np.array([mean - 0.01, mean + 0.01]))
        assert (step[1] - step[0]) / 0.02 * std == pytest.approx(spread, rel=1e-4)


@pytest.mark.parametrize("name", MEMBERS)
@torch.inference_mode()
def test_what_was_not_observed_enters_as_the_training_mean(name: str) -> None:
    row = small(PUBLIC[name])
    encoder = encoder_class(row.kind)(**row.arguments).eval()
    facts = row.card.normalisation
    s1, s2 = torch.full((1, 2, 32, 32), -11.0), torch.full((1, 13, 32, 32), 0.2)
    named = {"s2_bands": L1C}
    placed = {"s1": s1.clone(), "s2": s2.clone()}
    placed["s1"][:, 1, :9] = facts["VH"][0]
    placed["s2"][:, L1C.index("B04"), 5:] = facts["B04"][0]
    s1[:, 1, :9], s2[:, L1C.index("B04"), 5:] = float("nan"), float("nan")
    if "B10" in facts:  # a band that is absent altogether
        placed["s2"][:, L1C.index("B10")] = facts["B10"][0]
        named, s2 = {}, s2[:, [L1C.index(b) for b in S2]]
    found = encoder(s1=s1, s2=s2, **named).embedding
    expected = encoder(**placed, s2_bands=L1C).embedding
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, encoder(s1=placed["s1"] + 3, s2=s2, **named).embedding)
    assert (name == "resnet50-closp") == (facts.get("B10", (None,))[0] == 0)


# Loading


@pytest.fixture
def filed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], tuple[Row, Mapping[str, Path]]]:
    """Files with random tensors for a small twin of a row, which load_encoder then knows."""

    def make(name: str) -> tuple[Row, Mapping[str, Path]]:
        listed, files = write_files(small(PUBLIC[name]), tmp_path)
        monkeypatch.setattr(load, "ROWS", (listed,))
        return listed, files

    return make


@pytest.mark.parametrize(
    "name", ["resnet50-decur", "vit-small-softcon", "croma-base", "dofa-base", "panopticon-base"]
)
@torch.inference_mode()
def test_rows_load_from_local_files(name: str, filed) -> None:
    row, files = filed(name)
    weights = files if len(files) > 1 else files["both"]
    encoder = load_encoder(name, weights=weights)
    assert not encoder.training
    assert encoder.card.sources == row.card.sources
    assert encoder.card.name == name
    features = encoder(s2=torch.rand(1, 12, 40, 33) * 0.3)
    assert features.embedding.isfinite().all()
    stored = torch.load(next(iter(files.values())), weights_only=True)
    key, tensor = next((k, v) for k, v in stored.items() if v.ndim > 1 and "pos_embed" not in k)
    place = "net." if "both" in files else "towers.s1.net."
    assert torch.equal(encoder.state_dict()[place + key], tensor)
    path = next(iter(files.values()))
    torch.save({**stored, "stranger": torch.zeros(1)}, path)
    pinned = row.card.sources[next(iter(files))].sha256_prefix
    with pytest.raises(WeightsError, match="has sha256" if pinned else "1 unexpected .*stranger"):
        load_encoder(name, weights=weights)


def test_fusion_is_an_option_of_two_towers(filed) -> None:
    _, files = filed("resnet50-decur")
    concat = load_encoder("resnet50-decur", weights=files)
    mean = load_encoder("resnet50-decur", weights=files, fusion="mean")
    assert concat.embed_dim == 2 * mean.embed_dim + 2
    assert "mean of the sensors" in mean.card.fusion
    assert "one flag" in concat.card.fusion
    _, files = filed("croma-base")
    with pytest.raises(UnknownNameError, match="no option 'fusion'"):
        load_encoder("croma-base", weights=files["both"], fusion="mean")


def test_files_of_more_than_tensors_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save({"a": [1, 2]}, file)
    row = small(PUBLIC["resnet50-moco"])
    with pytest.raises(WeightsError, match="tensors by name"):
        row.build({"s1": file, "s2": file}, {})
    ran = tmp_path / "ran"

    class Code:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (ran,)

    torch.save({"a": Code()}, file)
    with pytest.raises(WeightsError, match="can be trusted"):
        row.build({"s1": file, "s2": file}, {})
    assert not ran.exists()
    file.write_bytes(b"not torch")
    with pytest.raises(WeightsError, match="can be trusted"):
        row.build({"s1": file, "s2": file}, {})
