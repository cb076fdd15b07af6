"""Views: exact windows of what was there, honest speckle, never a patch with nothing; and pairs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepsentinel.errors import ConfigError
from deepsentinel.objectives.hiding import Hiding
from deepsentinel.objectives.views import Pairs, View, images_of, speckled
from tests.objectives.conftest import NAN, make_batch, make_encoder, seeded, with_bands

KEEP = Hiding(s1=0, s2=0, bands=0, hole=0)
STILL = View(looks=0, gain_s1=0, gain_s2=0, hiding=KEEP)


def coordinates(count: int, height: int, width: int) -> dict[str, torch.Tensor]:
    """Pixels that hold their own row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([rows, columns]).float().expand(count, 2, height, width)
    return {"image_s1": image.clone(), "image_s2": torch.cat([image] * 6, 1).clone()}


@pytest.mark.parametrize("size", [(32, 32), (40, 24), (16, 16)])
@pytest.mark.parametrize("turn", [True, False])
def test_a_view_is_a_window_in_one_of_the_ways_to_lay_it(size, turn):
    count, (height, width) = 64, size
    seen = View(crop=0.75, turn=turn, looks=0, gain_s1=0, gain_s2=0, hiding=KEEP)(
        coordinates(count, height, width), seeded()
    )
    assert seen["image_s1"].shape[2:] == (max(16, height * 3 // 4), max(16, width * 3 // 4))
    assert seen["image_s2"][:, :2].equal(seen["image_s1"]), "both sensors alike"
    corners, ways = set(), set()
    for window in seen["image_s1"]:
        swapped = bool(window[0].diff(dim=1).any())
        rows, columns = window.transpose(1, 2) if swapped else window
        for lines in (rows, columns.T):
            steps = lines.diff(dim=0)
            assert steps.abs().eq(1).all()
            assert steps.eq(steps[0, 0]).all()
            assert lines.diff(dim=1).eq(0).all()
        corners.add((int(rows.min()), int(columns.min())))
        ways.add((swapped, bool(rows[0, 0] > rows[-1, 0]), bool(columns[0, 0] > columns[0, -1])))
    square = seen["image_s1"].shape[2] == seen["image_s1"].shape[3]
    assert len(ways) == (1 if not turn else 8 if square else 4)
    assert len(corners) > 20 or size == (16, 16)


def test_windows_of_whole_patches_are_the_patch():
    images = coordinates(4, 32, 32)
    seen = View(crop=1.0, turn=False, looks=0, gain_s1=0, gain_s2=0, hiding=KEEP)(images, seeded())
    assert all(seen[k].equal(v) for k, v in images.items())


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    crop=st.sampled_from([0.3, 0.5, 0.9]),
    row=st.integers(0, 39),
    column=st.integers(0, 39),
)
def test_a_window_shows_something_where_there_is_something(seed, crop, row, column):
    """Be it one pixel of one band."""
    images = {k: torch.full((3, c, 40, 40), NAN) for k, c in (("image_s1", 2), ("image_s2", 12))}
    images["image_s2"][0, 5, row, column] = 0.1
    images["image_s1"][1, 1, row, column] = -9
    images["image_s2"][2, :, row:, :] = 0.1
    view = View(crop=crop, hiding=Hiding(s1=0.5, s2=0.5, bands=1, hole=1))
    seen = view(images, seeded(seed))
    found = torch.stack([x.isfinite().flatten(1).any(1) for x in seen.values()]).any(0)
    assert found.all()


def test_a_patch_with_nothing_stays_so_and_harms_no_other():
    images = coordinates(2, 32, 32)
    images = {k: v.clone() for k, v in images.items()}
    for image in images.values():
        image[0] = NAN
    seen = STILL(images, seeded())
    assert all(v[0].isnan().all() and v[1].isfinite().all() for v in seen.values())


@pytest.mark.parametrize("looks", [1.0, 4.4, 30.0])
def test_speckle_is_gamma_in_power(looks):
    """Mean 1 and variance 1 / looks of the power; NaN stays NaN and nothing else becomes it."""
    s1 = torch.full((1, 2, 300, 300), -10.0)
    s1[:, :, :10] = NAN
    noisy = speckled(s1, looks, 0.0, seeded())
    assert noisy.isnan().equal(s1.isnan())
    power = 10 ** (noisy[:, :, 10:] / 10) / 0.1
    assert power.mean().item() == pytest.approx(1, rel=0.02)
    assert power.var().item() == pytest.approx(1 / looks, rel=0.05)


def test_gains_are_one_number_a_patch():
    images = {
        "image_s1": torch.full((500, 2, 16, 16), -10.0),
        "image_s2": torch.ones(500, 12, 16, 16),
    }
    seen = View(looks=0, gain_s1=0.5, gain_s2=0.1, hiding=KEEP)(images, seeded())
    for image in seen.values():
        assert image.flatten(1).max(1).values.equal(image.flatten(1).min(1).values)
    assert (seen["image_s1"][:, 0, 0, 0] + 10).std().item() == pytest.approx(0.5, rel=0.1)
    assert seen["image_s2"][:, 0, 0, 0].log().std().item() == pytest.approx(0.1, rel=0.1)


def test_images_are_those_that_the_encoder_reads():
    """In its bands and order, whatever the batch holds and calls them."""
    encoder = make_encoder(s1_bands=("VH",), s2_bands=("B08", "B11", "B02"))
    batch = make_batch(2)
    images = images_of(encoder, with_bands(batch, s2=("B02", "B03", "B08")))
    assert images["image_s1"].equal(batch["image_s1"][:, 1:])
    assert images["image_s2"][:, 0].equal(batch["image_s2"][:, 7])
    assert images["image_s2"][:, 1].isnan().all()
    assert images["image_s2"][:, 2].equal(batch["image_s2"][:, 1])
    absent = images_of(encoder, {"image_s2": batch["image_s2"]})["image_s1"]
    assert absent.shape == (2, 1, 32, 32)
    assert absent.isnan().all()


@pytest.mark.parametrize(("between", "share"), [("views", 0.0), ("sensors", 1.0), ("both", 0.5)])
def test_pairs_between_sensors(between, share):
    images = images_of(make_encoder(), make_batch(400, 16))
    images["image_s1"][:100] = NAN
    one, other, across = Pairs(between=between, view=STILL)(images, seeded())
    assert not across[:100].any(), "a patch of one sensor gives views of that"
    assert across[100:].float().mean().item() == pytest.approx(share, abs=0.08)
    for k in images:
        gone = [look[k].isnan().flatten(1).all(1) for look in (one, other)]
        assert (gone[0] ^ gone[1])[across].all()
    first = one["image_s2"].isnan().flatten(1).all(1)[across].float().mean()
    if share:
        assert first.item() == pytest.approx(0.5, abs=0.1), "which sensor comes first is a lot"
    for look in (one, other):
        assert look["image_s2"][:100].isfinite().all()


def test_pairs_of_sensors_need_an_encoder_of_both():
    with pytest.raises(ConfigError, match="reads s2 only"):
        Pairs(between="sensors").for_encoder(make_encoder(s1_bands=()))


@pytest.mark.parametrize("options", [{"crop": 0}, {"crop": 1.1}, {"looks": -1}, {"gain_s2": -0.1}])
def test_impossible_views_are_refused(options):
    with pytest.raises(ConfigError, match="crop is a share"):
        View(**options)
