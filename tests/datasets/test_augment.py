"""Augmented batches: exact against NumPy, every raster and box together, one seed, never nothing."""

import numpy as np
import pytest
import torch

from deepsentinel.datasets import fields
from deepsentinel.datasets.augment import Augment
from deepsentinel.datasets.effects import (
    BandDropout,
    Brightness,
    SensorDropout,
    SimulatedClouds,
    Speckle,
    cloud_fields,
)
from deepsentinel.datasets.moves import RandomCrop, RandomFlip, RandomRot90
from deepsentinel.errors import SampleError, ShapeError
from deepsentinel.sample import PatchMeta, collate

NAN = float("nan")
ALL = {
    "crop": 12,
    "speckle": 8.0,
    "brightness": 0.1,
    "band_brightness": 0.02,
    "clouds": 0.7,
    "drop_s1": 0.3,
    "drop_s2": 0.3,
    "drop_bands": 0.4,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def patch(number: int, size: int = 16, *, boxes: bool = False):
    """Every raster tells its own place: value = row * size + column, plus the patch's number."""
    place = torch.arange(size * size).reshape(size, size) + 1000 * number
    sample = {
        "meta": PatchMeta(
            id=f"p{number}",
            bands_s1=("VV", "VH"),
            transform=(10.0, 0.0, 5000.0, 0.0, -10.0, 9000.0),
        ),
        "image_s1": -place.float().expand(2, -1, -1).clone(),
        "image_s2": place.float().expand(12, -1, -1).clone(),
        "mask": place.clone(),
        "cloud": (place % 7 == 0).to(torch.uint8),
        "dem": place.float(),
        "target": place.float()[None] / 2,
    }
    sample["image_s2"][:, number % size, 2] = NAN
    if boxes:
        sample["bbox_xyxy"] = torch.tensor([[1.0, 2.0, 5.0, 4.0], [9.0, 9.0, 16.0, 16.0]])
        sample["label"] = torch.tensor([3, 4])
    return sample


def batch(count: int = 6, **options):
    return collate([patch(i, **options) for i in range(count)])


def equal(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and bool(
            torch.equal(torch.nan_to_num(one, nan=-9e9), torch.nan_to_num(other, nan=-9e9))
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return one == other


def same(one, other) -> bool:
    return list(one) == list(other) and all(equal(one[k], other[k]) for k in one)


def numpy_moves(image: np.ndarray):
    """The eight places that flips and right angles reach."""
    for turns in range(4):
        turned = np.rot90(image, turns, (-2, -1))
        yield turned
        yield np.flip(turned, -1)


def test_flips_and_turns_are_numpys_for_all_rasters_at_once():
    given = batch(40)
    out = Augment()(given, generator())
    reached = set()
    for i in range(40):
        before = {k: v[i].numpy() for k, v in given.items() if isinstance(v, torch.Tensor)}
        after = {k: v[i].numpy() for k, v in out.items() if isinstance(v, torch.Tensor)}
        ways = [
            number
            for number, moved in enumerate(zip(*map(numpy_moves, before.values()), strict=True))
            if all(
                np.array_equal(m, after[k], equal_nan=m.dtype.kind == "f")
                for k, m in zip(before, moved, strict=True)
            )
        ]
        assert len(ways) == 1
        reached.update(ways)
        assert np.isnan(after["image_s2"]).sum() == np.isnan(before["image_s2"]).sum() == 12
    assert reached == set(range(8))


@pytest.mark.parametrize("seed", range(4))
def test_crops_are_windows_of_numpy(seed):
    given = batch()
    out = RandomCrop(10).augment(given, generator(seed))
    corners = set()
    for i in range(6):
        top, left = divmod(int(out["mask"][i, 0, 0]) - 1000 * i, 16)
        corners.add((top, left))
        for key in ("image_s1", "image_s2", "mask", "cloud", "dem", "target"):
            window = given[key][i].numpy()[..., top : top + 10, left : left + 10]
            np.testing.assert_array_equal(out[key][i].numpy(), window)
    assert len(corners) > 1


def test_boxes_hold_the_same_pixels_and_the_geotransform_the_same_ground():
    given = batch(12, boxes=True)
    out = Augment(crop=13)(given, generator(1))
    for i in range(12):
        a, b, c, d, e, f = out["meta"][i].transform
        places = (out["mask"][i] - 1000 * i).numpy()
        for row, column in ((0, 0), (12, 3)):
            x, y = (
                a * (column + 0.5) + b * (row + 0.5) + c,
                d * (column + 0.5) + e * (row + 0.5) + f,
            )
            was_row, was_column = (9000 - y) / 10 - 0.5, (x - 5000) / 10 - 0.5
            assert places[row, column] == pytest.approx(was_row * 16 + was_column)
        assert len(out["bbox_xyxy"][i]) == len(out["label"][i])
        for box, label in zip(out["bbox_xyxy"][i].int().tolist(), out["label"][i], strict=True):
            inside = places[box[1] : box[3], box[0] : box[2]]
            whole = given["bbox_xyxy"][i][int(label) - 3].int().tolist()
            was = (given["mask"][i] - 1000 * i)[whole[1] : whole[3], whole[0] : whole[2]]
            assert inside.size > 0
            assert set(inside.ravel()) <= set(was.flatten().tolist())
    small = {int(label) for labels in out["label"] for label in labels}
    assert small == {3, 4}


def test_no_box_stays_no_box():
    given = batch(2)
    given["bbox_xyxy"] = [torch.zeros(0, 4), torch.tensor([[0.0, 0.0, 2.0, 2.0]])]
    given["label"] = [torch.zeros(0, dtype=torch.int64), torch.tensor([1])]
    out = Augment(crop=8)(given, generator())
    assert out["bbox_xyxy"][0].shape == (0, 4)
    assert len(out["label"][1]) == len(out["bbox_xyxy"][1]) <= 1


def test_classes_of_patches_and_vectors_stay_as_they_were():
    given = batch(3) | {"label": torch.tensor([4, 5, 6]), "target": torch.rand(3, 2)}
    out = Augment(**ALL)(given, generator())
    assert torch.equal(out["label"], given["label"])
    assert torch.equal(out["target"], given["target"])


def test_one_seed_decides_and_the_given_batch_is_left_alone():
    augment = Augment(**ALL)
    given = batch()
    out = augment(given, generator(3))
    assert same(given, batch())
    torch.manual_seed(99)
    assert same(augment(batch(), generator(3)), out)
    assert not same(augment(batch(), generator(4)), out)


@pytest.mark.parametrize("seed", range(12))
def test_no_patch_loses_its_last_observed_value(seed):
    given = batch(8)
    given["image_s1"][0] = NAN  # S2 only
    given["image_s2"][1] = NAN  # S1 only
    for image in (given["image_s1"], given["image_s2"]):
        image[2:4] = NAN
    given["image_s2"][2, 5, 7, 9] = 0.3  # one value in one band is all there is
    augment = Augment(crop=6, clouds=1.0, cloud_share=(0.9, 0.95), drop_s1=0.5, drop_s2=0.5)
    out = augment(given, generator(seed))
    out = BandDropout(1.0).augment(out, generator(seed))
    seen = [out[k].isfinite().flatten(1).any(1) for k in ("image_s1", "image_s2")]
    assert (seen[0] | seen[1]).tolist() == [i != 3 for i in range(8)]


def test_crops_around_the_observed_part_reach_all_windows_that_hold_it():
    given = {"image_s1": torch.full((1, 2, 9, 9), NAN), "mask": torch.arange(81).reshape(1, 9, 9)}
    given["image_s1"][0, 0, 8, 4] = -9.0
    corners = {int(RandomCrop(3).augment(given, generator(k))["mask"][0, 0, 0]) for k in range(80)}
    assert corners == {6 * 9 + column for column in (2, 3, 4)}


def test_patches_that_are_not_square_turn_by_half_circles():
    given = {"mask": torch.arange(8).reshape(1, 2, 4).expand(30, -1, -1)}
    out = RandomRot90().augment(given, generator())["mask"]
    ways = {tuple(m.flatten().tolist()) for m in out}
    assert ways == {tuple(range(8)), tuple(reversed(range(8)))}


def test_speckle_multiplies_power_and_keeps_nan_and_s2():
    given = {"image_s1": torch.full((4, 2, 100, 100), -12.0), "image_s2": torch.rand(4, 12, 4, 4)}
    given["image_s1"][0, 0, :50] = NAN
    out = Speckle(5).augment(given, generator())
    power = 10 ** ((out["image_s1"].double() + 12) / 10)
    assert torch.equal(out["image_s1"].isnan(), given["image_s1"].isnan())
    assert power[power.isfinite()].mean().item() == pytest.approx(1, abs=0.01)
    assert power[power.isfinite()].var().item() == pytest.approx(1 / 5, rel=0.05)
    assert torch.equal(out["image_s2"], given["image_s2"])


def test_brightness_is_a_gain_of_each_patch_and_band_of_s2_alone():
    given = {"image_s1": torch.rand(64, 2, 4, 4), "image_s2": torch.ones(64, 12, 4, 4)}
    out = Brightness(0.2, 0.05).augment(given, generator())
    assert torch.equal(out["image_s1"], given["image_s1"])
    gains = out["image_s2"].log()
    assert gains.flatten(2).std(2).max() < 1e-6
    gains = gains[..., 0, 0]
    assert gains.mean(1).std().item() == pytest.approx(0.2, rel=0.3)
    assert (gains - gains.mean(1, keepdim=True)).std().item() == pytest.approx(0.05, rel=0.2)


def test_dropout_is_drawn_for_each_patch_as_often_as_asked():
    given = {"image_s1": torch.zeros(2000, 2, 2, 2), "image_s2": torch.zeros(2000, 12, 2, 2)}
    bands = BandDropout(0.3).augment(given, generator())["image_s2"].isnan()
    assert torch.equal(bands.flatten(2).any(2), bands.flatten(2).all(2))
    assert bands.float().mean().item() == pytest.approx(0.3, abs=0.02)
    out = SensorDropout(0.2, 0.4).augment(given, generator())
    lost = torch.stack([out[k].isnan().flatten(1).all(1) for k in ("image_s1", "image_s2")])
    assert lost.float().mean(1).tolist() == pytest.approx((0.2, 0.4), abs=0.03)
    assert not lost.all(0).any()


def test_clouds_are_those_of_the_fields_and_cover_all_bands_of_s2():
    noise = np.random.default_rng(0).standard_normal((20, 30))
    smooth = fields.smooth_noise((20, 30), 30 / 8, np.random.default_rng(0))
    covered = cloud_fields(torch.from_numpy(noise)[None], torch.tensor([0.3]))[0].numpy()
    np.testing.assert_array_equal(covered, smooth >= np.quantile(smooth, 0.7))
    given = {"image_s1": torch.zeros(50, 2, 16, 16), "image_s2": torch.zeros(50, 12, 16, 16)}
    clouds = SimulatedClouds(0.5, share=(0.2, 0.4), mark=True)
    out = clouds.augment(given, generator())
    shares = out["cloud"].float().mean((1, 2))
    assert torch.equal(out["image_s2"].isnan(), (out["cloud"] == 1)[:, None].expand(-1, 12, -1, -1))
    assert not out["image_s1"].isnan().any()
    assert 15 <= int((shares > 0).sum()) <= 35
    assert shares[shares > 0].min() >= 0.19
    assert shares.max() <= 0.41


def test_the_transforms_of_samples_are_the_same_ones():
    rng = np.random.default_rng(5)
    own = torch.Generator().manual_seed(int(np.random.default_rng(5).integers(2**63 - 1)))
    one = Speckle()(patch(1, boxes=True), rng)
    many = Speckle().augment(collate([patch(1, boxes=True)]), own)
    assert equal(one["image_s1"], many["image_s1"][0])
    flipped = RandomFlip(1, 0)(patch(1, boxes=True), rng)
    assert flipped["bbox_xyxy"].tolist()[0] == [11.0, 2.0, 15.0, 4.0]
    assert flipped["label"].tolist() == [3, 4]


def test_settings_that_cannot_be_are_refused():
    for wrong in ({"clouds": 1.5}, {"drop_bands": -0.1}, {"crop": 0}, {"brightness": -1.0}):
        with pytest.raises(SampleError, match="out of range"):
            Augment(**wrong)
    with pytest.raises(SampleError, match="sum must lie"):
        Augment(drop_s1=0.6, drop_s2=0.6)
    with pytest.raises(SampleError, match="looks"):
        Augment(speckle=0.0)
    with pytest.raises(ShapeError, match="at most 16 px"):
        Augment(crop=17)(batch(), generator())
    assert Augment(flip=False, rot90=False).transforms == ()


def test_a_config_file_can_hold_it(tmp_path):
    from deepsentinel.training.config import describe_config, read_config, write_config

    path = write_config(Augment(**ALL), tmp_path / "augment.yaml")
    assert read_config(Augment, path) == Augment(**ALL)
    assert "null for none" in describe_config(Augment)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_device_draws_what_the_cpu_draws():
    given = batch()
    there = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
    here, out = (Augment(**ALL)(b, generator()) for b in (given, there))
    for key in ("image_s1", "image_s2"):
        assert out[key].is_cuda
        torch.testing.assert_close(out[key].cpu(), here[key], equal_nan=True, rtol=1e-5, atol=1e-4)
    assert equal(out["mask"].cpu(), here["mask"])
    own = Augment(**ALL)(there, torch.Generator("cuda").manual_seed(0))
    assert own["image_s1"].shape == (6, 2, 12, 12)
