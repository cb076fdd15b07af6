"""Textures hold the same values in another arrangement; noise and parcels keep their promises."""

import numpy as np
import pytest

from deepsentinel.datasets import fields


def test_textures_hold_the_same_values(rng):
    shape = (160, 160)
    angle, phase = np.full(shape, 0.7, np.float32), np.full(shape, 0.3, np.float32)
    quantiles = np.linspace(0.02, 0.98, 25)
    for texture in (
        fields.bumps(shape, 5.0, rng),
        fields.rows(angle, phase, 5.0),
        fields.blocks(angle, phase, 7.0),
    ):
        assert np.abs(np.quantile(texture, quantiles) - quantiles).max() < 0.03


def test_bumps_and_rows_repeat_at_their_period(rng):
    """The greatest power of the spectrum lies at one cycle in `period` pixels."""
    zeros = np.zeros((100, 100), np.float32)
    for texture in (fields.bumps((100, 100), 5.0, rng), fields.rows(zeros + 0.3, zeros, 5.0)):
        power = np.abs(np.fft.fft2(texture - texture.mean())) ** 2
        row, column = np.unravel_index(power.argmax(), power.shape)
        frequency = np.hypot(np.fft.fftfreq(100)[row], np.fft.fftfreq(100)[column])
        assert frequency == pytest.approx(1 / 5, abs=0.03)


@pytest.mark.parametrize("shape", [(40, 60), (33, 35)])
def test_smooth_noise_is_even_and_as_smooth_as_asked(rng, shape):
    near, far = fields.smooth_noise(shape, 1.0, rng), fields.smooth_noise(shape, 5.0, rng)
    for noise in (near, far):
        assert noise.shape == shape
        assert noise.mean() == pytest.approx(0, abs=1e-5)
        assert noise.std() == pytest.approx(1, abs=1e-4)
    assert np.abs(np.diff(far)).mean() < 0.5 * np.abs(np.diff(near)).mean()


def test_blur_is_a_gaussian_convolution(rng):
    image = rng.random((2, 31, 32)).astype(np.float32)
    offset = np.arange(-12, 13)
    kernel = np.exp(-(offset**2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    expected = image
    for axis in (-2, -1):
        expected = sum(w * np.roll(expected, o, axis) for o, w in zip(offset, kernel, strict=True))
    assert np.abs(fields.blur(image, 1.5) - expected).max() < 1e-3


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9])
def test_clouds_cover_their_share(rng, share):
    covered = fields.cloud_field(50, 40, share, rng)
    assert covered.shape == (50, 40)
    assert covered.mean() == pytest.approx(share, abs=0.01)


def test_parcels_belong_to_a_near_centre(rng):
    """Away from bent borders a pixel lies in the parcel of its nearest centre, as a slow search finds."""
    ids, centres = fields.parcels((96, 80), 16.0, rng)
    assert ids.shape == (96, 80)
    assert ids.max() < len(centres)
    assert (centres >= 0).all()
    assert (centres < (96, 80)).all()
    place = np.stack(np.indices(ids.shape), -1)[24:-24, 24:-24].reshape(-1, 2)
    distance = np.linalg.norm(place[:, None] - centres[None], axis=-1)
    own = distance[np.arange(len(place)), ids[24:-24, 24:-24].ravel()]
    assert (own - distance.min(1) < 10).all()
    assert (own - distance.min(1) < 3).mean() > 0.85
    assert len(np.unique(ids[24:-24, 24:-24])) > 5
