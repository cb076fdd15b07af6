"""How published weights want to see dB and reflectance; imports no torch.

Every rule is a shift and a scale a band, with or without clipping, and a training mean that stands
for what was not observed. Statistics of SSL4EO-S12 are from its authors' code; digital numbers are
divided by 10000 throughout, as these data were made before baseline 04.00.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from deepsentinel.bands import S1_BANDS, S2_BANDS, S2_L1C_BANDS, Sensor
from deepsentinel.errors import UnknownNameError, nearest

Rule = Literal["standard", "unit", "as-is", "amplitude"]

GRD_GAIN = 602.0
"""Digital number of an uncalibrated IW GRD at 0 dB, in the middle of the swath (38.3 degrees): 474 /
sqrt(sin(angle)), 680 to 559 from near to far. Products state theirs; dB do not tell it. No
publication states 474: it was derived from the annotation of one product (docs/design/033)."""
GRD_NOISE = 10**-2.2
"""Thermal noise that such a product holds, as power: -22 dB, ESA's limit for Sentinel-1."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What one sensor's values become before the first layer.

    Example:
        >>> vv = Scaling(bands=("VV",), mean=(-12.0,), std=(5.0,), rule="unit")
        >>> vv.shift, vv.scale, vv.fill
        ((-22.0,), (20.0,), (0.5,))
    """

    bands: tuple[str, ...]
    mean: tuple[float, ...]
    """Training means in dB, reflectance or, of `amplitude`, digital numbers: what stands for values
    that were not observed."""
    std: tuple[float, ...]
    """Standard deviations in the same units; not used by the rule `as-is`."""
    ceiling: tuple[float, ...] = ()
    """Where the weights saw pictures that saturate: what is beyond 0 and this is clipped."""
    rule: Rule
    """`standard`: (x - mean) / std. `unit`: mean - 2 std to 0, mean + 2 std to 1, clipped.
    `as-is`: dB or reflectance enter unchanged. `amplitude`: dB become digital numbers of an
    uncalibrated product, GRD_GAIN * sqrt(10^(dB / 10) + GRD_NOISE), then as `standard`."""

    @property
    def shift(self) -> tuple[float, ...]:
        """What is subtracted."""
        if self.rule == "as-is":
            return (0.0,) * len(self.bands)
        steps = 2 if self.rule == "unit" else 0
        return tuple(m - steps * s for m, s in zip(self.mean, self.std, strict=True))

    @property
    def scale(self) -> tuple[float, ...]:
        """What is divided by, after the shift."""
        if self.rule == "as-is":
            return (1.0,) * len(self.bands)
        return tuple(4 * s if self.rule == "unit" else s for s in self.std)

    @property
    def fill(self) -> tuple[float, ...]:
        """The training mean after scaling: 0 for `standard`, 0.5 for `unit`."""
        if self.rule == "as-is":
            return self.mean
        return (0.5 if self.rule == "unit" else 0.0,) * len(self.bands)

    @property
    def limits(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Least and greatest scaled value of each band, where they are clipped."""
        if self.rule == "unit":
            return (0.0,) * len(self.bands), (1.0,) * len(self.bands)
        if not self.ceiling:
            return None
        return self._scaled((0.0,) * len(self.bands)), self._scaled(self.ceiling)

    @property
    def statistics(self) -> tuple[tuple[float, float], ...]:
        """Mean and standard deviation of each band in dB or reflectance, whatever enters.

        Of `amplitude`, to first order around the mean.
        """
        pairs = tuple(zip(self.mean, self.std, strict=True))
        return tuple(_decibels(*p) for p in pairs) if self.rule == "amplitude" else pairs

    def _scaled(self, values: tuple[float, ...]) -> tuple[float, ...]:
        each = zip(values, self.shift, self.scale, strict=True)
        return tuple((x - shift) / scale for x, shift, scale in each)


def _decibels(mean: float, std: float) -> tuple[float, float]:
    """Mean and standard deviation of digital numbers as dB, the latter by the slope at the mean."""
    power = (mean / GRD_GAIN) ** 2 - GRD_NOISE
    slope = 20 / math.log(10) * mean / (GRD_GAIN**2 * power)
    return 10 * math.log10(power), slope * std


def _reflectance(*numbers: float) -> tuple[float, ...]:
    return tuple(n / 10_000 for n in numbers)


_S1_MEAN, _S1_STD = (-12.59, -20.26), (5.26, 5.91)
_S2C_MEAN = _reflectance(
    1612.9, 1397.6, 1322.3, 1373.1, 1561.0, 2108.4, 2390.7, 2318.7, 2581.0, 837.7, 22.0, 2195.2, 1537.4
)  # fmt: skip
_S2C_STD = _reflectance(
    791.0, 854.3, 878.7, 1144.9, 1127.5, 1164.2, 1276.0, 1249.5, 1345.9, 577.5, 47.5, 1340.0, 1142.9
)  # fmt: skip
_S2A_MEAN = _reflectance(
    756.4, 889.6, 1151.7, 1307.6, 1637.6, 2212.6, 2442.0, 2538.9, 2602.9, 2666.8, 2388.8, 1821.5
)
_S2A_STD = _reflectance(
    1111.4, 1159.1, 1188.1, 1375.2, 1376.6, 1358.6, 1418.4, 1476.4, 1439.9, 1582.1, 1460.7, 1352.2
)


def _s1(rule: Rule) -> Scaling:
    return Scaling(bands=S1_BANDS, mean=_S1_MEAN, std=_S1_STD, rule=rule)


def _l1c(rule: Rule) -> Scaling:
    return Scaling(bands=S2_L1C_BANDS, mean=_S2C_MEAN, std=_S2C_STD, rule=rule)


def _l2a(rule: Rule) -> Scaling:
    return Scaling(bands=S2_BANDS, mean=_S2A_MEAN, std=_S2A_STD, rule=rule)


def _l2a_and_b10() -> Scaling:
    """Level-2A as 13 bands, with a B10 that is 0, in the order of Level-1C."""
    l2a = _l2a("as-is")
    known = dict(zip(l2a.bands, zip(l2a.mean, l2a.std, strict=True), strict=True))
    pairs = [known.get(b, (0.0, 0.0)) for b in S2_L1C_BANDS]
    mean, std = zip(*pairs, strict=True)
    return Scaling(bands=S2_L1C_BANDS, mean=mean, std=std, rule="as-is")


_TRUE_COLOUR, _SIXTEEN_BIT = 0.3558, 0.816  # reflectance at 255 in ESA's TCI, and in DN // 32
_DOFA_BANDS = ("B04", "B03", "B02", "B05", "B06", "B07", "B08", "B11", "B12")
_DOFA_TOP = (_TRUE_COLOUR,) * 3 + (_SIXTEEN_BIT,) * 6
_DOFA_MEAN = (
    114.1099739, 114.81779093, 126.63977424, 84.33539309, 97.84789168, 103.94461911, 101.435633,
    72.32804172, 56.66528851,
)  # fmt: skip
_DOFA_STD = (
    77.84352553, 69.96844919, 67.42465279, 64.57022983, 61.72545487, 61.34187099, 60.29744676,
    47.88519516, 42.55886798,
)  # fmt: skip


def _dofa_radar() -> Scaling:
    """8-bit pictures of SatlasPretrain: digital numbers of GRD, cut at 255.

    The authors' list says "vh, vv", their example gives VV first; of the two means, the greater can
    only be that of VV.
    """
    return Scaling(
        bands=S1_BANDS,
        mean=(166.36275909, 88.45542715),
        std=(64.83126309, 43.07350145),
        ceiling=(255.0, 255.0),
        rule="amplitude",
    )


def _dofa() -> Scaling:
    """8-bit pictures of SatlasPretrain in units of reflectance."""
    return Scaling(
        bands=_DOFA_BANDS,
        mean=tuple(m * top / 255 for m, top in zip(_DOFA_MEAN, _DOFA_TOP, strict=True)),
        std=tuple(s * top / 255 for s, top in zip(_DOFA_STD, _DOFA_TOP, strict=True)),
        ceiling=_DOFA_TOP,
        rule="standard",
    )


SCALINGS: dict[str, Mapping[Sensor, Scaling]] = {
    # SSL4EO-S12 pretraining code: S1 to 0-1 by mean and 2 std, Level-1C divided by 10000.
    "ssl4eo": {"s1": _s1("unit"), "s2": _l1c("as-is")},
    # SoftCon's author, in Copernicus-Bench: both sensors to 0-1 by mean and 2 std.
    "softcon": {"s1": _s1("unit"), "s2": _l1c("unit")},
    # CLOSP's dataset and model code: dB as they are, Level-2A divided by 10000, B10 a zero.
    "closp": {"s1": _s1("as-is"), "s2": _l2a_and_b10()},
    # CROMA's README: every band to 0-1 by mean and 2 std of the dataset, clipped.
    "croma": {"s1": _s1("unit"), "s2": _l2a("unit")},
    # Copernicus-FM's pretraining code: standard scores, Level-1C.
    "copernicus-fm": {"s1": _s1("standard"), "s2": _l1c("standard")},
    # DOFA's README on SatlasPretrain's pictures (its Normalization.md).
    "dofa": {"s1": _dofa_radar(), "s2": _dofa()},
    # Standard scores by the statistics of a dataset of the level that comes in.
    "standard": {"s1": _s1("standard"), "s2": _l2a("standard")},
}
"""How rows of published weights see both sensors, by the name in their configuration."""


def scaling(name: str) -> Mapping[Sensor, Scaling]:
    """Scalings of both sensors under one name.

    Raises:
        UnknownNameError: naming the nearest ones.

    Example:
        >>> scaling("ssl4eo")["s1"].bands
        ('VV', 'VH')
    """
    if name not in SCALINGS:
        raise UnknownNameError(f"scaling={name!r}. {nearest(name, SCALINGS)}")
    return SCALINGS[name]
