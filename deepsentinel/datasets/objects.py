"""Objects of a few pixels for synthetic scenes: what they look like, where they stand, their boxes.

Each class needs something else of the sensors, so that a shortcut fails:

- a *ship* lies on water and is bright in both;
- a *wind turbine* is a point in radar and next to nothing in reflectance;
- a *solar farm* is dark blue in reflectance and has the backscatter of the ground around it;
- a *greenhouse* is white in reflectance and bright in radar. A *heap of sand*, which is no object
  and has no box, has the same reflectance and no backscatter of its own.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepsentinel.bands import S2_BANDS, band
from deepsentinel.datasets import fields
from deepsentinel.labels import Scheme
from deepsentinel.labels.classes import rows_to_classes

MARGIN: Final = 2
"""Pixels between two objects, at least."""


@dataclass(frozen=True)
class _Thing:
    """One kind of object: how many to 10,000 pixels, how long and wide, how it looks."""

    name: str
    colour: str
    density: float
    length: tuple[int, int]
    """Least and greatest length in pixels."""
    width: tuple[int, int]
    reflectance: tuple[float, ...] | None
    """12 bands, Copernicus order; `None` is as the ground."""
    vv_vh_db: tuple[float, float] | None
    afloat: bool = False
    boxed: bool = True


_WHITE: Final = (0.34, 0.38, 0.42, 0.44, 0.45, 0.46, 0.47, 0.48, 0.48, 0.47, 0.42, 0.36)
_PANELS: Final = (0.05, 0.055, 0.05, 0.045, 0.05, 0.06, 0.065, 0.07, 0.075, 0.075, 0.11, 0.10)
_STEEL: Final = (0.16, 0.17, 0.18, 0.18, 0.18, 0.19, 0.19, 0.19, 0.19, 0.18, 0.20, 0.18)

_THINGS: Final[tuple[_Thing, ...]] = (
    _Thing("ship", "#ffd166", 40.0, (3, 12), (2, 4), _STEEL, (2, -6), afloat=True),
    _Thing("wind turbine", "#ef476f", 3.0, (2, 3), (2, 3), None, (8, 0)),
    _Thing("solar farm", "#118ab2", 2.5, (6, 20), (5, 14), _PANELS, None),
    _Thing("greenhouse", "#9b5de5", 3.0, (3, 9), (3, 7), _WHITE, (1, -8)),
    _Thing("sand", "#000000", 2.0, (3, 9), (3, 7), _WHITE, None, boxed=False),
)

OBJECTS: Final = Scheme(
    name="synthetic-objects",
    title="Objects planted into synthetic scenes",
    classes=rows_to_classes((i, t.name, t.colour) for i, t in enumerate(_THINGS) if t.boxed),
    source="deepsentinel.datasets.objects",
)

Boxes = NDArray[np.float32]
"""(N, 5): x0, y0, x1, y1 in pixels, class id of `OBJECTS`."""


def place_objects(water: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.int64]:
    """Where objects stand: (N, 5) left, top, right, bottom in whole pixels, place in the table.

    Ships lie wholly on water, the others wholly beside it, and no two come nearer than `MARGIN`.

    Example:
        >>> place_objects(np.zeros((64, 64), bool), np.random.default_rng(0)).shape[1]
        5
    """
    free = {True: water.copy(), False: ~water}
    placed: list[tuple[int, int, int, int, int]] = []
    for kind, thing in enumerate(_THINGS):
        room = int(free[thing.afloat].sum())
        for _ in range(int(generator.poisson(thing.density * room / 10_000))):
            box = _find_room(free[thing.afloat], thing, generator)
            if box is None:
                continue
            left, top, right, bottom = box
            placed.append((left, top, right, bottom, kind))
            around = (
                slice(max(0, top - MARGIN), bottom + MARGIN),
                slice(max(0, left - MARGIN), right + MARGIN),
            )
            free[True][around] = free[False][around] = False
    return np.array(placed, dtype=np.int64).reshape(-1, 5)


def plant_reflectance(
    s2: NDArray[np.float32], placed: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.float32]:
    """Reflectance (12, H, W) with the objects in it, each band blurred as its resolution is."""
    share = np.zeros(s2.shape[1:], dtype=np.float32)
    surface = np.zeros_like(s2)
    for left, top, right, bottom, kind in placed:
        spectrum, gain = _THINGS[kind].reflectance, np.exp(generator.normal(0, 0.12))
        if spectrum is not None:
            share[top:bottom, left:right] = 1
            surface[:, top:bottom, left:right] = gain * np.array(spectrum)[:, None, None]
    out = np.empty_like(s2)
    for i, name in enumerate(S2_BANDS):
        sigma = 0.04 * band(name).resolution_m
        out[i] = s2[i] * (1 - fields.blur(share, sigma)) + fields.blur(surface[i], sigma)
    return out


def plant_backscatter(
    s1: NDArray[np.float32],
    placed: NDArray[np.int64],
    looks: float,
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    """Backscatter (2, H, W) in dB with the objects in it, speckled with so many looks."""
    power = 10 ** (s1 / 10)
    for left, top, right, bottom, kind in placed:
        db, own = _THINGS[kind].vv_vh_db, generator.normal(0, 1.5)
        if db is None:
            continue
        window = (slice(None), slice(top, bottom), slice(left, right))
        speckle = generator.standard_gamma(looks, power[window].shape, dtype=np.float32) / looks
        power[window] = 10 ** ((np.array(db)[:, None, None] + own) / 10) * speckle
    return np.asarray(10 * np.log10(power), dtype=np.float32)


def boxes_of(placed: NDArray[np.int64]) -> Boxes:
    """Boxes of the objects that have one.

    Example:
        >>> boxes_of(np.array([[4, 5, 6, 7, 1], [9, 9, 12, 12, 4]])).tolist()  # 4 is a heap of sand
        [[4.0, 5.0, 6.0, 7.0, 1.0]]
    """
    return placed[[_THINGS[k].boxed for k in placed[:, 4]]].astype(np.float32)


def window_boxes(boxes: Boxes, top: int, left: int, size: int) -> tuple[tuple[float, ...], ...]:
    """Boxes as a square window of a scene sees them: moved, cut at its border, none left out.

    Example:
        >>> window_boxes(np.array([[4, 5, 12, 7, 1]], np.float32), 0, 0, 8)
        ((4.0, 5.0, 8.0, 7.0, 1.0),)
    """
    corners = np.clip(boxes[:, :4] - np.array([left, top, left, top]), 0, size)
    inside = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    table = np.column_stack((corners, boxes[:, 4]))[inside]
    return tuple(tuple(map(float, row)) for row in table)


def _find_room(
    free: NDArray[np.bool_], thing: _Thing, generator: np.random.Generator, tries: int = 40
) -> tuple[int, int, int, int] | None:
    """A free rectangle of a drawn size and direction: left, top, right, bottom."""
    corners = np.argwhere(free)
    for _ in range(tries if len(corners) else 0):
        sides = [
            int(generator.integers(low, high + 1)) for low, high in (thing.length, thing.width)
        ]
        rows, columns = sides if generator.random() < 0.5 else sides[::-1]
        top, left = (int(n) for n in corners[generator.integers(len(corners))])
        spot = free[top : top + rows, left : left + columns]
        if spot.shape == (rows, columns) and spot.all():
            return left, top, left + columns, top + rows
    return None
