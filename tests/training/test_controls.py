"""Controls: statistics of pixels against a slow loop, and a score that can fail."""

import numpy as np
import pytest
import torch

from deepsentinel.errors import SampleError, TrainingError
from deepsentinel.training.evaluation.controls import WINDOW, PixelControl, pixel_statistics

NAN = float("nan")


def test_statistics_against_a_slow_loop():
    """Inside, where the whole window lies in the patch."""
    g = torch.Generator().manual_seed(0)
    size, half = 13, WINDOW // 2
    s1, s2 = torch.randn(2, size, size, generator=g), torch.rand(3, size, size, generator=g)
    found = pixel_statistics({"image_s1": s1, "image_s2": s2}).reshape(size, size, 3, 5)
    bands = torch.cat([s1, s2]).numpy()
    for row in range(half, size - half):
        for column in range(half, size - half):
            here = np.s_[row - half : row + half + 1, column - half : column + half + 1]
            for band, plane in enumerate(bands):
                wanted = plane[row, column], plane[here].mean(), plane[here].std()
                np.testing.assert_allclose(found[row, column, :, band], wanted, atol=1e-5)


def test_what_was_not_observed_counts_as_the_mean_of_the_patch():
    image = torch.full((1, 6, 6), 2.0)
    image[0, 0] = 4.0
    image[0, 5] = NAN
    found = pixel_statistics({"image_s1": image}).reshape(6, 6, 3)
    assert found[5, 0, 0] == pytest.approx((6 * 4 + 24 * 2) / 30)
    assert np.isfinite(found).all()
    assert np.isnan(pixel_statistics({"image_s1": torch.full((2, 4, 4), NAN)})).all()


def test_a_sample_without_images_is_refused():
    with pytest.raises(SampleError, match="neither image_s1 nor image_s2"):
        pixel_statistics({"mask": torch.zeros(4, 4)})


def test_the_control_learns_what_pixels_tell(samples):
    train, test = samples(12), samples(3, seed=1)
    control = PixelControl(train, pixels=4000)
    for sample in test:
        found = control.predict(sample)
        assert found.shape == (32, 32)
        assert found.dtype == np.int64
        labelled = sample["mask"].numpy() >= 0
        assert (found == sample["mask"].numpy())[labelled].mean() > 0.9


def test_the_control_learns_nothing_where_pixels_tell_nothing(samples):
    train = [
        s | {"image_s2": torch.rand(12, 32, 32), "image_s1": torch.randn(2, 32, 32)}
        for s in samples(12)
    ]
    control = PixelControl(train, pixels=4000)
    sample = train[0] | {"image_s2": torch.rand(12, 32, 32), "image_s1": torch.randn(2, 32, 32)}
    share = (control.predict(sample) == sample["mask"].numpy()).mean()
    assert share < 0.6


def test_the_seed_decides(samples):
    train, test = samples(4), samples(1, seed=1)[0]
    first, second = (PixelControl(train, pixels=200, seed=3).predict(test) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_ignored_pixels_are_never_learnt(samples):
    train = samples(4)
    for sample in train:
        sample["image_s2"][:, :2] = 7.0  # the ignored rows: an outlier that would spoil the scale
        sample["mask"][:2] = -1
    assert set(np.unique(PixelControl(train).predict(train[0]))) <= {0, 1, 2}


def test_too_few_classes_are_refused(samples):
    with pytest.raises(TrainingError, match="0 labelled classes; two are needed"):
        PixelControl([s | {"mask": torch.full((32, 32), -1)} for s in samples(2)])
    with pytest.raises(TrainingError, match="1 labelled classes"):
        PixelControl([s | {"mask": torch.zeros(32, 32, dtype=torch.int64)} for s in samples(2)])


@pytest.mark.parametrize("place", [0, 5])
def test_a_sensor_may_be_absent_from_some_patches(samples, place):
    """Radar shows class 2 only; without it the control still finds class 1 by reflectance."""
    train, test = samples(12), samples(1, seed=1)[0]
    del train[place]["image_s1"]
    control = PixelControl(train, pixels=4000)
    mask = test["mask"].numpy()
    assert (control.predict(test) == mask)[mask >= 0].mean() > 0.9
    del test["image_s1"]
    assert (control.predict(test) == mask)[mask == 1].mean() > 0.9
    del test["image_s2"]
    assert control.predict(test).shape == mask.shape


def test_other_bands_are_refused(samples):
    ragged = samples(2)
    ragged[1]["image_s2"] = ragged[1]["image_s2"][:3]
    with pytest.raises(TrainingError, match=r"has 3 bands, of others 12.*bands=\.\.\."):
        PixelControl(ragged)
