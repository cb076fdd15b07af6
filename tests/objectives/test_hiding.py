"""Hiding: the shares that were asked for, the batch left as it was, and never a patch with nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepsentinel.errors import SampleError
from deepsentinel.objectives.hiding import Hiding

NAN = float("nan")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int = 4, size: int = 16) -> dict[str, torch.Tensor]:
    return {
        "image_s1": torch.full((count, 2, size, size), -12.0),
        "image_s2": torch.full((count, 12, size, size), 0.2),
    }


def gone(image: torch.Tensor) -> torch.Tensor:
    return image.isnan().flatten(1).all(1)


def test_nothing_is_hidden_where_nothing_was_asked():
    given_batch = batch()
    hidden = Hiding(s1=0, s2=0, bands=0, hole=0)(given_batch, seeded())
    for key, image in given_batch.items():
        torch.testing.assert_close(hidden[key], image, rtol=0, atol=0)


def test_the_given_batch_stays_as_it_is_and_other_keys_pass():
    given_batch = batch() | {"mask": torch.ones(4, 16, 16), "meta": ["a"] * 4}
    hidden = Hiding(s1=0.5, s2=0.5, bands=1, hole=1)(given_batch, seeded())
    assert not any(given_batch[k].isnan().any() for k in ("image_s1", "image_s2"))
    assert hidden["mask"] is given_batch["mask"]
    assert hidden["meta"] is given_batch["meta"]


def test_the_same_generator_hides_the_same():
    first, second, other = (Hiding()(batch(32), seeded(s))["image_s2"].isnan() for s in (1, 1, 2))
    assert first.equal(second)
    assert not first.equal(other)


@pytest.mark.parametrize(("s1", "s2"), [(0.25, 0.35), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
def test_sensors_are_hidden_as_often_as_asked_and_never_both(s1, s2):
    hidden = Hiding(s1=s1, s2=s2, bands=0, hole=0)(batch(2000, 2), seeded())
    lost = {k: gone(image) for k, image in hidden.items()}
    assert not (lost["image_s1"] & lost["image_s2"]).any()
    assert float(lost["image_s1"].float().mean()) == pytest.approx(s1, abs=0.04)
    assert float(lost["image_s2"].float().mean()) == pytest.approx(s2, abs=0.04)


def test_bands_are_hidden_whole_in_the_share_of_patches_asked():
    hidden = Hiding(s1=0, s2=0, bands=0.5, hole=0)(batch(2000, 4), seeded())["image_s2"]
    lost = hidden.isnan().flatten(2)
    assert lost.all(2).equal(lost.any(2)), "a band is hidden as a whole"
    touched = lost.all(2).any(1).float().mean()
    assert 0.38 < touched < 0.5, "half of the patches, few of which lose no band by chance"
    assert not lost.all(2).all(1).any()


def test_a_hole_is_one_rectangle_through_all_bands_of_s2_only():
    given_batch = batch(64, 32)
    hidden = Hiding(s1=0, s2=0, bands=0, hole=1)(given_batch, seeded())
    lost = hidden["image_s2"].isnan()
    assert lost.equal(lost[:, :1].expand_as(lost))
    assert not hidden["image_s1"].isnan().any()
    for patch in lost[:, 0]:
        rows, columns = patch.any(1), patch.any(0)
        assert patch.equal(rows[:, None] & columns[None, :])
        for side in (rows, columns):
            assert 7 <= int(side.sum()) <= 25, "a quarter to three quarters of the side"
            assert int(side.int().diff().abs().sum()) <= 2, "in one piece"


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    sensors=st.sampled_from([("image_s1",), ("image_s2",), ("image_s1", "image_s2")]),
    s1=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_a_patch_that_has_something_keeps_something(seed, sensors, s1):
    """Also where all that was observed of S2 is one band or one corner, or S1 is absent."""
    given_batch = {k: v for k, v in batch(6).items() if k in sensors}
    if "image_s2" in given_batch:
        given_batch["image_s2"][0, 1:] = NAN
        given_batch["image_s2"][1, :, 2:, 2:] = NAN
        given_batch["image_s2"][2, :, 4:] = NAN
    if len(sensors) == 2:
        given_batch["image_s1"][:3] = NAN
        given_batch["image_s2"][4] = NAN
    hidden = Hiding(s1=s1, s2=1 - s1, bands=1, hole=1)(given_batch, seeded(seed))
    before = torch.stack([gone(image) for image in given_batch.values()]).all(0)
    after = torch.stack([gone(hidden[k]) for k in given_batch]).all(0)
    assert after.equal(before)
    for key, image in given_batch.items():
        shown = hidden[key].isfinite()
        assert hidden[key][shown].equal(image[shown]), "what is shown is unchanged"


def test_a_patch_with_nothing_stays_so():
    empty = {k: torch.full_like(v, NAN) for k, v in batch(2).items()}
    assert all(image.isnan().all() for image in Hiding()(empty, seeded()).values())


def test_a_batch_without_images_passes():
    only = {"mask": torch.zeros(1, 4, 4)}
    assert Hiding()(only, seeded()) == only


@pytest.mark.parametrize(
    "shares", [{"s1": -0.1}, {"s2": 1.1}, {"bands": NAN}, {"s1": 0.7, "s2": 0.7}, {"hole": 2}]
)
def test_impossible_shares_are_refused(shares):
    with pytest.raises(SampleError, match="shares are from 0 to 1"):
        Hiding(**shares)
