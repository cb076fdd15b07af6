"""Whether the patches that judge a model lie where it was trained."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

EARTH_M: Final = 6_371_000.0
OVERLAPPING: Final = 0.95
"""Sides between two centres below which squares of one size overlap for certain, and visibly."""
NEIGHBOURS: Final = 1.5
"""Sides between two centres below which patches are neighbours, at a corner too."""
RANDOM_SPLIT: Final = 0.9
"""Share of patches with a neighbour in train from which a split by block is out of the question."""
FEWEST: Final = 10
"""Held-out patches below which a share says nothing."""


@dataclass(frozen=True)
class Leak:
    """How held-out patches lie to those of train."""

    overlapping: int
    """Held-out patches that share ground with a patch of train."""
    neighbours: int
    """Held-out patches beside or on a patch of train."""
    count: int
    """Held-out patches whose place is known."""
    train: int
    """Place in train of the nearest pair, and in what is held out."""
    held_out: int
    distance_m: float
    """Between the centres of that pair."""

    @property
    def random(self) -> bool:
        """Whether nearly all are neighbours, as no split by block leaves them."""
        return self.count >= FEWEST and self.neighbours >= RANDOM_SPLIT * self.count


def find_leak(
    train: NDArray[np.float64], held_out: NDArray[np.float64], *, side_m: float
) -> Leak | None:
    """A leak that deserves a word, if any.

    Args:
        train: (N, 2) longitude and latitude of centres in degrees, NaN where not known.
        held_out: (M, 2) likewise.
        side_m: side of a patch in metres.

    Example:
        >>> places = np.array([[10.0, 50.0], [10.1, 50.0]])
        >>> find_leak(places, places + [[1.0, 0.0]], side_m=640.0) is None
        True
        >>> find_leak(places, places[:1], side_m=640.0).overlapping
        1
    """
    leak = closeness(train, held_out, side_m=side_m)
    return leak if leak is not None and (leak.overlapping or leak.random) else None


def closeness(
    train: NDArray[np.float64], held_out: NDArray[np.float64], *, side_m: float
) -> Leak | None:
    """How held-out patches lie to those of train; arguments as for `find_leak`.

    Returns:
        `None` where the places of either are not known.
    """
    from scipy.spatial import cKDTree

    known = [np.flatnonzero(np.isfinite(p).all(1)) for p in (train, held_out)]
    if not len(known[0]) or not len(known[1]):
        return None
    tree = cKDTree(_on_sphere(train[known[0]]))
    distances, nearest = tree.query(_on_sphere(held_out[known[1]]))
    overlapping = int((distances < OVERLAPPING * side_m).sum())
    neighbours = int((distances < NEIGHBOURS * side_m).sum())
    count, place = len(distances), int(distances.argmin())
    pair = int(known[0][nearest[place]]), int(known[1][place])
    return Leak(overlapping, neighbours, count, *pair, float(distances[place]))


def describe_leak(leak: Leak, names: tuple[str, str], ids: tuple[str, str]) -> str:
    """A leak in words."""
    train, held_out = names
    what = (
        f"{leak.overlapping} of {leak.count} patches of {held_out} lie on ground of {train}"
        if leak.overlapping
        else f"{leak.neighbours} of {leak.count} patches of {held_out} lie beside one of {train}, as "
        "in a random split"
    )
    return (
        f"{what} (nearest: {ids[1]} and {ids[0]}, centres {leak.distance_m:.0f} m apart). Scores on "
        f"{held_out} will be better than on new ground. Split by place: `deepsentinel convert` does "
        "so by blocks of --block-m metres."
    )


def _on_sphere(lonlat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Metres from the centre of the Earth; chords are distances, near enough."""
    lon, lat = np.radians(lonlat).T
    return EARTH_M * np.stack(
        [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1
    )
