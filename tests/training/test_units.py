"""Units and the vectors that describe them: patches by embeddings, pixels by maps."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deepsentinel.errors import LabelError
from deepsentinel.features import Features
from deepsentinel.sample import collate
from deepsentinel.training.evaluation.conditions import Condition
from deepsentinel.training.evaluation.controls import pixel_statistics
from deepsentinel.training.evaluation.embed import band_statistics, embed
from deepsentinel.training.evaluation.units import at_pixels, describe, patch_units, pixel_units

NAMES = ("a", "b", "c")


@pytest.fixture
def patches(samples):
    five = samples(5)
    five[3]["image_s2"][:, :8] = torch.nan
    del five[4]["image_s2"]
    return five


def test_patches_and_their_vectors(model, patches) -> None:
    patches[1]["label"] = torch.tensor(-1)
    units = patch_units(patches, NAMES)
    assert units.patch.tolist() == [0, 2, 3, 4]
    assert units.labels.tolist() == [int(patches[i]["label"]) for i in units.patch]
    assert units.hidden.tolist() == pytest.approx([0, 0, 0, 0.25, 1])
    encoder = model().encoder
    found = describe(encoder, patches, units, Condition())
    np.testing.assert_array_equal(found, embed(encoder, patches).vectors[units.patch])
    plain = describe(None, patches, units, Condition(("s2",)))
    want = band_statistics(patches).vectors[units.patch]
    np.testing.assert_array_equal(plain[:, 4:], want[:, 4:])
    assert np.isnan(plain[:, :4]).all()
    assert np.isnan(plain[3]).all()


def test_pixels_are_labelled_ones_drawn_by_id(patches) -> None:
    units = pixel_units(patches, NAMES, pixels=10)
    assert len(units.labels) == 50
    for u in range(50):
        mask = patches[units.patch[u]]["mask"]
        assert mask.flatten()[units.pixel[u]] == units.labels[u] != -1
    again = pixel_units(patches[2:], NAMES, pixels=10)
    assert again.pixel[:10].tolist() == units.pixel[20:30].tolist()
    everything = pixel_units(patches, NAMES, pixels=10**6)
    assert len(everything.labels) == sum(int((p["mask"] != -1).sum()) for p in patches)


def test_maps_at_pixels_are_enlarged_maps(rng) -> None:
    """Bilinear enlargement by the stride is the same interpolation, at every pixel of the inside."""
    level = torch.from_numpy(rng.normal(size=(1, 3, 5, 4)).astype(np.float32))
    features = Features(torch.zeros(1, 1), (level,), (4,))
    rows, columns = (a.ravel() for a in np.mgrid[0:20, 0:16])
    large = F.interpolate(level, scale_factor=4, mode="bilinear", align_corners=False)
    want = large[0].flatten(1).T.numpy()
    np.testing.assert_allclose(at_pixels(features, rows, columns), want, atol=1e-6)


def test_vectors_of_pixels(model, patches) -> None:
    units = pixel_units(patches, NAMES, pixels=6)
    encoder = model().encoder.eval()
    found = describe(encoder, patches, units, Condition(("s2",)), batch_size=2)
    assert np.isnan(found[units.patch == 4]).all()
    with torch.no_grad():
        alone = encoder.encode(collate([{k: v for k, v in patches[3].items() if k != "image_s1"}]))
    mine = units.patch == 3
    want = at_pixels(alone, *np.divmod(units.pixel[mine], 32))
    np.testing.assert_allclose(found[mine], want, rtol=1e-4, atol=1e-4)


def test_band_statistics_of_pixels(samples) -> None:
    patches = samples(2)
    units = pixel_units(patches, NAMES, pixels=4)
    found = describe(None, patches, units, Condition())
    np.testing.assert_array_equal(found[4:], pixel_statistics(patches[1])[units.pixel[4:]])


def test_classes_that_occur_and_some_of_them(patches) -> None:
    units = patch_units(patches, (*NAMES, "d"))
    counts = np.bincount(units.labels, minlength=4)
    few = units.occurring(1)
    assert "d" not in few.class_names
    assert len(few.labels) == 5
    common = int(counts.max())
    if (counts == common).sum() < 2:
        with pytest.raises(LabelError, match="nothing can be told apart"):
            units.occurring(common)
    swapped = units.only(np.array([2, 0]))
    assert swapped.class_names == ("c", "a")
    assert swapped.labels.tolist() == [{2: 0, 0: 1}[k] for k in units.labels if k in {0, 2}]


def test_labels_that_do_not_fit_are_refused(patches) -> None:
    with pytest.raises(LabelError, match="do not fit 1 classes"):
        patch_units(patches, ("a",))
    with pytest.raises(LabelError, match="no 'label'"):
        patch_units([{"image_s1": torch.zeros(2, 16, 16)}], NAMES)
    with pytest.raises(LabelError, match="no 'mask'"):
        pixel_units([{"image_s1": torch.zeros(2, 16, 16)}], NAMES)


def test_blocks_need_positions_or_none(patches) -> None:
    units = patch_units(patches, NAMES)
    assert len(set(units.blocks(5.0))) == 5
    assert set(units.blocks(1000.0)) == {0}
    assert units.blocks(None).tolist() == [0, 1, 2, 3, 4]
