"""16-bit codes of a corpus and the physical values that they stand for, both ways.

`s1`: int16, dB x 100. `s2`: uint16 in ESA's convention since processing baseline 04.00, whatever
baseline the source had: reflectance = (code - 1000) / 10000. One code each is kept for "not
observed", which is NaN on the physical side.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepsentinel.bands import Sensor
from deepsentinel.units import REFLECTANCE_SCALE

S1_SCALE: Final = 0.01
S1_NOT_OBSERVED: Final = -32768
S2_SCALE: Final = 1 / REFLECTANCE_SCALE
S2_OFFSET: Final = -0.1
S2_CODE_OFFSET: Final = 1000
S2_NOT_OBSERVED: Final = 0

DTYPES: Final[dict[Sensor, str]] = {"s1": "int16", "s2": "uint16"}
NOT_OBSERVED: Final[dict[Sensor, int]] = {"s1": S1_NOT_OBSERVED, "s2": S2_NOT_OBSERVED}
IGNORE_CODE: Final = -1
"""Pixel of a mask that counts for nothing."""
CLOUD_UNKNOWN: Final = 255
CLOUD_CLASSES: Final[dict[int, str]] = {
    0: "clear",
    1: "thick cloud",
    2: "thin cloud",
    3: "cloud shadow",
    CLOUD_UNKNOWN: "not known",
}
"""Values of `cloud`."""


def encode_s1(db: NDArray[Any]) -> NDArray[np.int16]:
    """Codes of backscatter in dB; what is not finite becomes not observed.

    Example:
        >>> encode_s1(np.array([-12.345, np.nan]))
        array([ -1234, -32768], dtype=int16)
    """
    observed = np.isfinite(db)
    codes = np.rint(np.where(observed, db, 0.0).astype(np.float64) / S1_SCALE)
    codes = np.clip(codes, S1_NOT_OBSERVED + 1, 32767)
    return np.where(observed, codes, S1_NOT_OBSERVED).astype(np.int16)


def encode_s2_dn(dn: NDArray[Any], *, offset: int) -> NDArray[np.uint16]:
    """Codes of Sentinel-2 digital numbers whose product carries `offset` (-1000 or 0).

    DN 0 (no data) becomes not observed; older products are raised by 1000, clipped at 65535.

    Example:
        >>> encode_s2_dn(np.array([0, 500], dtype="uint16"), offset=0)
        array([   0, 1500], dtype=uint16)
        >>> encode_s2_dn(np.array([0, 500], dtype="uint16"), offset=-1000)
        array([  0, 500], dtype=uint16)
    """
    shifted = dn.astype(np.int64) + S2_CODE_OFFSET + offset
    codes = np.clip(shifted, 1, 65535)
    return np.where(dn == 0, S2_NOT_OBSERVED, codes).astype(np.uint16)


def encode_s2_reflectance(reflectance: NDArray[Any]) -> NDArray[np.uint16]:
    """Codes of reflectance on the 0-1 scale; what is not finite becomes not observed.

    Example:
        >>> encode_s2_reflectance(np.array([0.05, -0.02, np.nan]))
        array([1500,  800,    0], dtype=uint16)
    """
    observed = np.isfinite(reflectance)
    values = np.where(observed, reflectance, 0.0).astype(np.float64)
    codes = np.clip(np.rint(values * REFLECTANCE_SCALE) + S2_CODE_OFFSET, 1, 65535)
    return np.where(observed, codes, S2_NOT_OBSERVED).astype(np.uint16)
