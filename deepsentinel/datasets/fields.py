"""Random fields on a pixel grid, in plain NumPy: noise, clouds, textures and parcels.

The textures `bumps`, `rows` and `blocks` all hold values spread evenly over 0 to 1, so that only
their structure tells them apart: neither a histogram nor a mean and a deviation does.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Generator: TypeAlias = np.random.Generator
Field: TypeAlias = NDArray[np.float32]
"""(H, W)."""


def cloud_field(height: int, width: int, share: float, generator: Generator) -> NDArray[np.bool_]:
    """Where clouds lie: smooth noise, cut so that `share` of the pixels are covered; (H, W) bool.

    Example:
        >>> cloud_field(20, 20, 0.25, np.random.default_rng(0)).sum()
        np.int64(100)
    """
    field = smooth_noise((height, width), max(height, width) / 8, generator)
    return field >= np.quantile(field, 1 - share) if share > 0 else np.zeros(field.shape, bool)


def smooth_noise(shape: tuple[int, int], sigma: float, generator: Generator) -> Field:
    """Gaussian noise smoothed to a correlation length of `sigma` pixels, mean 0, deviation 1.

    It is periodic: the right edge continues on the left.

    Example:
        >>> smooth_noise((16, 16), 2.0, np.random.default_rng(0)).std().round(3)
        np.float32(1.0)
    """
    response = gaussian_response(shape, sigma)
    return _shaped_noise(shape, response, generator)


def gaussian_response(shape: tuple[int, int], sigma: float) -> NDArray[np.float64]:
    """What smoothing with a Gaussian of `sigma` pixels multiplies the coefficients of `rfft2` by.

    Example:
        >>> gaussian_response((8, 8), 1.0).shape
        (8, 5)
    """
    return np.asarray(np.exp(-2 * (np.pi * sigma * _frequency(shape)) ** 2))


def blur(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """An image (..., H, W) smoothed with a Gaussian of `sigma` pixels, edges periodic.

    Example:
        >>> blur(np.ones((2, 8, 8), np.float32), 1.0).round(3).max()
        np.float32(1.0)
    """
    shape = (image.shape[-2], image.shape[-1])
    response = gaussian_response(shape, sigma)
    return np.fft.irfft2(np.fft.rfft2(image) * response, s=shape).astype(np.float32)


def bumps(shape: tuple[int, int], period: float, generator: Generator) -> Field:
    """Irregular bumps about `period` pixels apart in no direction; values even over 0 to 1.

    Example:
        >>> bumps((32, 32), 5.0, np.random.default_rng(0)).mean()
        np.float32(0.5)
    """
    ring = np.exp(-0.5 * ((_frequency(shape) * period - 1) / 0.15) ** 2)
    noise = _shaped_noise(shape, ring, generator)
    ranks = np.empty(noise.size, dtype=np.float32)
    ranks[np.argsort(noise, axis=None)] = np.arange(noise.size, dtype=np.float32)
    return ((ranks + 0.5) / noise.size).reshape(shape).astype(np.float32)


def rows(angle: Field, phase: Field, period: float) -> Field:
    """Straight rows `period` pixels apart; values even over 0 to 1.

    Args:
        angle: (H, W), direction across the rows in radians, constant within a parcel.
        phase: (H, W), shift in periods, constant within a parcel.
        period: distance from row to row in pixels.

    Example:
        >>> rows(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32), 4.0).tolist()
        [[0.0, 0.5, 1.0, 0.5]]
    """
    y, x = np.indices(angle.shape, dtype=np.float32)
    across = x * np.cos(angle) + y * np.sin(angle)
    return _triangle((across / period + phase).astype(np.float32))


def blocks(angle: Field, phase: Field, period: float) -> Field:
    """Square blocks in a grid, `period` pixels from street to street; values even over 0 to 1.

    Example:
        >>> zeros = np.zeros((8, 8), np.float32)
        >>> blocks(zeros, zeros, 4.0)[0, :4].tolist()
        [0.0, 0.25, 1.0, 0.25]
    """
    one = rows(angle, phase, period)
    other = rows((angle + np.float32(np.pi / 2)).astype(np.float32), phase, period)
    return np.maximum(one, other) ** 2  # the greater of two even values is even when squared


def parcels(
    shape: tuple[int, int], spacing: float, generator: Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Fields of land: cells around scattered centres, with slightly bent borders.

    Args:
        shape: (H, W).
        spacing: distance between centres in pixels.
        generator: what the centres are drawn with.

    Returns:
        (H, W) number of the parcel, from 0, and (parcels, 2) row and column of each centre.

    Example:
        >>> ids, centres = parcels((32, 32), 16.0, np.random.default_rng(0))
        >>> ids.shape, centres.shape
        ((32, 32), (16, 2))
    """
    down, across = (int(np.ceil(n / spacing)) + 2 for n in shape)  # one cell beyond each edge
    cells = np.moveaxis(np.indices((down, across)), 0, -1) - 1
    centres = (cells + generator.uniform(0.1, 0.9, cells.shape)) * spacing
    place = np.moveaxis(np.indices(shape), 0, -1).astype(np.float64)
    for axis in (0, 1):
        place[..., axis] += 0.08 * spacing * smooth_noise(shape, spacing / 4, generator)
    own = np.clip((place // spacing).astype(int) + 1, 1, np.array([down, across]) - 2)
    ids = np.zeros(shape, dtype=np.int64)
    nearest = np.full(shape, np.inf)
    for step in np.ndindex(3, 3):
        row, column = own[..., 0] + step[0] - 1, own[..., 1] + step[1] - 1
        distance = ((place - centres[row, column]) ** 2).sum(-1)
        closer = distance < nearest
        nearest = np.where(closer, distance, nearest)
        ids = np.where(closer, row * across + column, ids)
    limits = np.array(shape) - 1
    return ids, np.clip(centres.reshape(-1, 2), 0, limits).astype(np.int64)


def _frequency(shape: tuple[int, int]) -> NDArray[np.float64]:
    """Cycles a pixel of each coefficient of `rfft2`."""
    return np.asarray(np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])))


def _shaped_noise(
    shape: tuple[int, int], response: NDArray[np.float64], generator: Generator
) -> Field:
    spectrum = np.fft.rfft2(generator.standard_normal(shape)) * response
    field = np.fft.irfft2(spectrum, s=shape)
    field -= field.mean()
    return np.asarray(field / max(field.std(), 1e-12), dtype=np.float32)


def _triangle(phase: Field) -> Field:
    """Triangle wave of period 1 between 0 and 1."""
    return (1 - np.abs(2 * (phase % 1) - 1)).astype(np.float32)
