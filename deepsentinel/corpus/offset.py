"""The baseline offset of Sentinel-2 digital numbers: what names say, and what pixels can say.

Since processing baseline 04.00 (25 January 2022) digital numbers carry +1000, to be removed by
adding `BOA_ADD_OFFSET` = -1000 (Sentinel-2 Products Specification Document 14.9). The archive is
being reprocessed, so that the acquisition date says nothing; the product name (`_N0400_` and
later) does.

Pixels say it only where a scene holds something dark. Dark water, shadow and dense canopy have a
reflectance near 0 in some band, so in a whole scene:

- Level-1C: the cirrus band B10 sees almost nothing of the ground and stays near 0; with an offset
  it sits just above 1000.
- two bands well below 1000 exclude the offset: their reflectance would be clearly negative.
- the darkest pixels of the visible, the near and the short-wave infrared all resting just above
  1000 show it: a scene without offset would need the same floor of 0.1 in all three.
- everything else (haze, snow, cloud, desert, one chip of vegetation) is undecided.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepsentinel.units import BOA_OFFSET

FIRST_OFFSET_BASELINE: Final = 400
"""`N0400`: the first processing baseline whose digital numbers carry the offset."""
FLOOR_PERCENTILE: Final = 0.1
"""How dark a band gets: this percentile of its observed digital numbers."""
CLEARLY_BELOW: Final = 800
"""A floor below means no offset: with one, reflectance would be under -0.02."""
MIN_DARK_BANDS: Final = 2
"""So many bands must go there: one alone may be overcorrected for its atmosphere."""
RESTS_ON_OFFSET: Final = (960, 1250)
"""Floors of visible, near and short-wave infrared that all lie in here show an offset."""
MIN_PIXELS: Final = 256
"""A band with fewer observed pixels is not judged."""

FLOOR_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "visible": ("B02", "B03", "B04", "B05"),
    "near infrared": ("B06", "B07", "B08", "B8A"),
    "short-wave infrared": ("B11", "B12"),
}

_BASELINE_IN_NAME = re.compile(r"_N(\d{4})_")


@dataclass(frozen=True, kw_only=True)
class OffsetJudgement:
    """What the pixels of one whole scene say about its offset."""

    offset: int | None
    """-1000, 0, or `None` where they do not decide it."""
    confidence: float
    """0.5 (undecided) to 1: a rule-of-thumb grade of the evidence, not a measured frequency."""
    reason: str


def offset_of_baseline(baseline: int) -> int:
    """Offset of a processing baseline written as in product names, 205 for `N0205`.

    Example:
        >>> offset_of_baseline(214), offset_of_baseline(400), offset_of_baseline(510)
        (0, -1000, -1000)
    """
    return BOA_OFFSET if baseline >= FIRST_OFFSET_BASELINE else 0


def offset_of_product(name: str) -> int | None:
    """Offset that a Sentinel-2 product name states; `None` where it names no baseline.

    Example:
        >>> offset_of_product("S2A_MSIL2A_20220706T085611_N0400_R007_T33NZA_20220706T153419")
        -1000
        >>> offset_of_product("S2A_MSIL2A_20170617T113321_36_85") is None
        True
    """
    found = _BASELINE_IN_NAME.search(name)
    return None if found is None else offset_of_baseline(int(found[1]))


def judge_offset(bands: Mapping[str, NDArray[Any]]) -> OffsetJudgement:
    """Judge from the pixels of one whole scene whether its digital numbers carry the offset.

    Args:
        bands: digital numbers by band name, each of any shape and at its own resolution; 0 and
            NaN are no data. All bands that the scene has should be given.

    Example:
        >>> ramp = np.arange(40, 2040)
        >>> judge_offset({b: ramp for b in ("B03", "B08", "B11")}).offset
        0
        >>> judge_offset({b: ramp + 1000 for b in ("B03", "B08", "B11")}).offset
        -1000
        >>> judge_offset({b: ramp + 3000 for b in ("B03", "B08", "B11")}).offset is None
        True
    """
    cirrus = _floor(bands["B10"], 1.0) if "B10" in bands else None
    if cirrus is not None:
        return _judge_cirrus(cirrus)
    floors = {b: f for b, dn in bands.items() if (f := _floor(dn, FLOOR_PERCENTILE)) is not None}
    if not floors:
        return _undecided("too few observed pixels")
    darkest = sorted(floors, key=lambda b: floors[b])[:MIN_DARK_BANDS]
    if all(floors[b] < CLEARLY_BELOW for b in darkest):
        listed = " and ".join(f"{b} down to {floors[b]:.0f}" for b in darkest)
        return OffsetJudgement(
            offset=0,
            confidence=_grade(CLEARLY_BELOW - floors[darkest[-1]]),
            reason=f"far below 1000: {listed}",
        )
    return _judge_floors(floors)


def _judge_floors(floors: Mapping[str, float]) -> OffsetJudgement:
    low, high = RESTS_ON_OFFSET
    darkest = min(floors, key=lambda b: floors[b])
    by_group = {
        title: min(known)
        for title, names in FLOOR_GROUPS.items()
        if (known := [floors[b] for b in names if b in floors])
    }
    listed = ", ".join(f"{title} {floor:.0f}" for title, floor in by_group.items())
    if len(by_group) == len(FLOOR_GROUPS) and all(low <= f <= high for f in by_group.values()):
        return OffsetJudgement(
            offset=BOA_OFFSET,
            confidence=_grade(high - max(by_group.values())),
            reason=f"the darkest pixels of all band groups rest on 1000 ({listed})",
        )
    return _undecided(
        f"nothing clearly below 1000 (darkest: {darkest} at {floors[darkest]:.0f}), and no common "
        f"floor there ({listed}): haze, snow, cloud or bright ground look the same as an offset"
    )


def _judge_cirrus(floor: float) -> OffsetJudgement:
    offset = BOA_OFFSET if floor >= RESTS_ON_OFFSET[0] else 0
    if CLEARLY_BELOW <= floor < RESTS_ON_OFFSET[0]:
        return _undecided(f"the cirrus band B10 starts at {floor:.0f}: thick cirrus")
    side = "rests on 1000" if offset else "is near 0"
    return OffsetJudgement(
        offset=offset, confidence=0.99, reason=f"the cirrus band B10 {side} ({floor:.0f})"
    )


def _undecided(reason: str) -> OffsetJudgement:
    return OffsetJudgement(offset=None, confidence=0.5, reason=reason)


def _grade(margin: float) -> float:
    """0.9 at a threshold, 0.99 from 200 digital numbers inside it on."""
    return round(0.9 + 0.09 * min(max(margin, 0.0) / 200, 1.0), 3)


def _floor(dn: NDArray[Any], percentile: float) -> float | None:
    observed = dn[np.isfinite(dn) & (dn != 0)]
    return float(np.percentile(observed, percentile)) if observed.size >= MIN_PIXELS else None
