"""Random transforms: repeatable draws, honest physics, never a patch with nothing observed."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from deepsentinel.datasets.transforms import (
    BandDropout,
    Brightness,
    CenterCrop,
    Compose,
    RandomCrop,
    RandomFlip,
    RandomRot90,
    RandomTransform,
    SensorDropout,
    SimulatedClouds,
    Speckle,
    ToTorchgeo,
)
from deepsentinel.errors import SampleError, ShapeError
from deepsentinel.sample import PatchMeta, collate

RANDOM = [
    RandomFlip(),
    RandomRot90(),
    RandomCrop(8),
    BandDropout(0.5),
    SensorDropout(0.5, 0.5),
    Speckle(),
    Brightness(),
    SimulatedClouds(1.0, mark=True),
]


def sample(name: str = "a", size: int = 16, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "meta": PatchMeta(id=name, bands_s1=("VV", "VH")),
        "image_s1": torch.rand(2, size, size, generator=generator) * 10 - 20,
        "image_s2": torch.rand(12, size, size, generator=generator),
        "mask": torch.randint(0, 5, (size, size), generator=generator),
    }


def same(one, other) -> bool:
    return list(one) == list(other) and all(
        torch.equal(one[k].nan_to_num(-99), other[k].nan_to_num(-99))
        if isinstance(one[k], torch.Tensor)
        else one[k] == other[k]
        for k in one
    )


class Patches(Dataset):
    def __init__(self, transforms):
        self.transforms = transforms

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.transforms(sample(f"patch-{index}", seed=index))


@pytest.mark.parametrize("transform", RANDOM, ids=lambda t: type(t).__name__)
def test_a_random_transform_draws_from_its_generator_alone(transform):
    torch.manual_seed(1)
    one = transform(sample(), np.random.default_rng(5))
    torch.manual_seed(2)
    other = transform(sample(), np.random.default_rng(5))
    assert same(one, other)
    results = [transform(sample(), np.random.default_rng(k)) for k in range(12)]
    assert any(not same(one, r) for r in results)


@pytest.mark.parametrize("transform", RANDOM, ids=lambda t: type(t).__name__)
def test_the_given_sample_is_left_as_it_was(transform):
    given = sample()
    transform(given, np.random.default_rng(0))
    assert same(given, sample())


@pytest.mark.parametrize("transform", RANDOM, ids=lambda t: type(t).__name__)
def test_dtypes_keys_and_pickling(transform):
    again = pickle.loads(pickle.dumps(transform))  # noqa: S301 - our own bytes
    out = again(sample(), np.random.default_rng(0))
    assert out["image_s1"].dtype == out["image_s2"].dtype == torch.float32
    assert set(out) - {"cloud"} == set(sample())


@pytest.mark.parametrize("transform", RANDOM, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("absent", ["image_s1", "image_s2"])
def test_a_sensor_may_be_absent(transform, absent):
    given = {k: v for k, v in sample().items() if k != absent}
    assert absent not in transform(given, np.random.default_rng(0))


def test_draws_depend_on_seed_epoch_and_id_alone():
    augment = Compose(*RANDOM, seed=1)
    first = augment(sample("a"))
    augment(sample("b"))
    assert same(augment(sample("a")), first)
    assert same(Compose(*RANDOM, seed=1)(sample("a")), first)
    augment.set_epoch(1)
    assert not same(augment(sample("a")), first)
    assert not same(Compose(*RANDOM, seed=2)(sample("a")), first)
    other_id = {**sample("a"), "meta": PatchMeta(id="b", bands_s1=("VV", "VH"))}
    assert not torch.equal(Compose(Speckle())(other_id)["image_s1"], first["image_s1"])


@pytest.mark.parametrize("copied", [False, True], ids=["made here", "unpickled"])
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # Python 3.12 and later
def test_workers_that_outlive_an_epoch_draw_anew_and_as_the_main_process_does(copied):
    augment = Compose(Speckle(), seed=4)
    if copied:
        augment = pickle.loads(pickle.dumps(augment))  # noqa: S301 - our own bytes
    loader = DataLoader(
        Patches(augment), batch_size=4, num_workers=2, persistent_workers=True, collate_fn=collate
    )
    epochs = []
    for epoch in range(2):
        augment.set_epoch(epoch)
        epochs.append(torch.cat([batch["image_s1"] for batch in loader]))
        here = torch.stack([Patches(augment)[i]["image_s1"] for i in range(8)])
        assert torch.equal(epochs[-1], here)
    assert not torch.equal(*epochs)


def test_compose_takes_any_callable_and_says_what_it_is():
    double = Compose(lambda s: {**s, "mask": s["mask"] * 2})
    assert torch.equal(double({"mask": torch.ones(2, 2)})["mask"], torch.full((2, 2), 2.0))
    assert repr(Compose(RandomCrop(8), seed=3)) == "Compose(RandomCrop(size=8), seed=3)"
    assert not isinstance(CenterCrop(2), RandomTransform)


def test_a_compose_inside_another_hears_of_the_epoch():
    inner = Compose(Speckle(), seed=1)
    Compose(inner, RandomFlip()).set_epoch(3)
    assert inner.epoch == 3


def test_compose_without_meta_is_an_error():
    with pytest.raises(SampleError, match="no PatchMeta"):
        Compose(RandomFlip())({"mask": torch.zeros(2, 2)})


def test_flips_and_turns_reach_all_eight_places():
    corners = set()
    for seed in range(60):
        generator = np.random.default_rng(seed)
        out = RandomRot90()(
            RandomFlip()({"mask": torch.arange(4).reshape(2, 2)}, generator), generator
        )
        corners.add(tuple(out["mask"].flatten().tolist()))
    assert len(corners) == 8


def test_crops_reach_every_place():
    places = {
        int(
            RandomCrop(2)({"mask": torch.arange(9).reshape(3, 3)}, np.random.default_rng(k))[
                "mask"
            ][0, 0]
        )
        for k in range(60)
    }
    assert places == {0, 1, 3, 4}
    with pytest.raises(ShapeError, match="at most 16 px"):
        RandomCrop(17)(sample(), np.random.default_rng(0))
    with pytest.raises(ShapeError, match="at most 16 px"):
        CenterCrop(17)(sample())


@pytest.mark.parametrize("seed", range(8))
def test_dropout_never_leaves_nothing_observed(seed):
    given = sample()
    given["image_s1"][:] = float("nan")  # S2 is all there is, and only one band of it
    given["image_s2"][1:] = float("nan")
    generator = np.random.default_rng(seed)
    for transform in (BandDropout(1.0), SensorDropout(0.5, 0.5), SimulatedClouds(1.0)):
        out = transform(given, generator)
        assert out["image_s1"].isfinite().any() or out["image_s2"].isfinite().any()
    nothing = {**given, "image_s2": torch.full((12, 16, 16), float("nan"))}
    assert BandDropout(1.0)(nothing, generator)["image_s2"].isnan().all()


def test_clouds_that_would_leave_nothing_stay_away():
    given = {"image_s2": torch.full((1, 16, 16), float("nan"))}
    given["image_s2"][0, 4, 4] = 0.1
    for seed in range(20):
        out = SimulatedClouds(1.0, share=(0.6, 0.9), mark=True)(given, np.random.default_rng(seed))
        assert out["image_s2"].isfinite().sum() == 1
        assert out["cloud"][4, 4] == 0


def test_dropout_happens_as_often_as_asked():
    generator = np.random.default_rng(0)
    bands, s1, s2 = 0, 0, 0
    for _ in range(400):
        bands += int(
            BandDropout(0.3)(sample(size=2), generator)["image_s2"].isnan().any(-1).any(-1).sum()
        )
        out = SensorDropout(0.2, 0.4)(sample(size=2), generator)
        s1 += int(out["image_s1"].isnan().all())
        s2 += int(out["image_s2"].isnan().all())
    assert bands / 4800 == pytest.approx(0.3, abs=0.03)
    assert (s1 / 400, s2 / 400) == pytest.approx((0.2, 0.4), abs=0.06)


def test_impossible_settings_are_refused():
    with pytest.raises(SampleError, match="sum must lie within 0 to 1"):
        SensorDropout(0.7, 0.7)
    with pytest.raises(SampleError, match="share"):
        SimulatedClouds(share=(0.5, 1.0))


def test_speckle_has_mean_one_and_variance_one_over_looks():
    given = {"image_s1": torch.full((2, 200, 200), -12.0)}
    out = Speckle(looks=5)(given, np.random.default_rng(0))["image_s1"].double()
    ratio = 10 ** ((out + 12) / 10)
    assert ratio.mean().item() == pytest.approx(1, abs=0.01)
    assert ratio.var().item() == pytest.approx(1 / 5, rel=0.05)


def test_brightness_is_one_gain_a_band():
    given = sample()
    given["image_s2"][0, 0, 0] = float("nan")
    gain = Brightness(0.1, 0.05)(given, np.random.default_rng(0))["image_s2"] / given["image_s2"]
    assert gain[0, 0, 0].isnan()
    gains = gain.flatten(1)[:, 1:]
    assert torch.allclose(gains, gains[:, :1].expand_as(gains), rtol=1e-5)
    assert gains[:, 0].std() > 0.01


def test_simulated_clouds_cover_all_of_s2_and_nothing_else():
    given = sample(size=32)
    out = SimulatedClouds(1.0, share=(0.4, 0.4), mark=True)(given, np.random.default_rng(1))
    covered = out["cloud"] == 1
    assert covered.float().mean().item() == pytest.approx(0.4, abs=0.01)
    assert torch.equal(out["image_s2"].isnan(), covered.expand(12, -1, -1))
    assert torch.equal(out["image_s1"], given["image_s1"])
    clear = SimulatedClouds(0.0, mark=True)(given, np.random.default_rng(1))
    assert clear["cloud"].dtype == torch.uint8
    assert not clear["cloud"].any()


def test_to_torchgeo_joins_and_fills():
    given = sample()
    given["image_s1"][0, 0, 0] = float("nan")
    out = ToTorchgeo(fill={"s1": -25.0, "s2": 0.0})(given)["image"]
    assert out.shape == (14, 16, 16)
    assert out[0, 0, 0] == -25
    assert torch.equal(out[2:], given["image_s2"])
    with pytest.raises(TypeError, match="fill"):
        ToTorchgeo()


def test_to_torchgeo_on_a_batch_in_which_a_sensor_is_absent():
    alone = {k: v for k, v in sample("b").items() if k != "image_s1"}
    alone["meta"] = PatchMeta(id="b")
    out = ToTorchgeo(fill=0.0)(collate([sample(), alone]))["image"]
    assert out.shape == (2, 14, 16, 16)
    assert not out[1, :2].any()


def test_to_torchgeo_errors():
    with pytest.raises(SampleError, match="add a value for 's2'"):
        ToTorchgeo(fill={"s1": -25.0})(sample())
    with pytest.raises(SampleError, match="neither image_s1 nor image_s2"):
        ToTorchgeo(fill=0.0)({"mask": torch.zeros(2, 2)})
