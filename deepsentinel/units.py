"""Physical units: digital numbers to reflectance, power to decibels, and plausibility.

Every function takes a NumPy array or a torch tensor and returns the same kind; torch is looked up
only where a tensor comes in, so that corpora can be built without it. A value that was not
observed is NaN on the physical side.

Sources: Sentinel-2 Products Specification Document 14.9, and ESA's note on processing baseline
04.00 (reflectance = (DN + BOA_ADD_OFFSET) / 10000 with BOA_ADD_OFFSET = -1000 since 2022-01-25);
Sentinel-1 Product Definition (sigma nought as linear power; dB = 10 log10).
"""

import sys
from typing import Any, TypeAlias

import numpy as np

from deepsentinel.errors import UnitsError

Array: TypeAlias = Any
"""A NumPy array or a torch tensor; functions return the kind they are given."""

REFLECTANCE_SCALE = 10_000
"""Digital numbers per unit of reflectance."""
BOA_OFFSET = -1000
"""What is added to a digital number since processing baseline 04.00, `BOA_ADD_OFFSET`."""

REFLECTANCE_RANGE = (-0.2, 7.0)
"""Nothing that a 16-bit product holds lies outside: codes run from -0.1 to 6.4535."""
DB_RANGE = (-100.0, 50.0)
"""Below lies no calibrated product; above, no target. Sentinel-1's noise floor is near -25 dB."""
MIN_JUDGED = 64
"""Patches with fewer observed values are not judged by their distribution."""
HAZE_FLOOR = 0.09
"""A visible 1st percentile above this suggests an offset left in, haze or bright ground."""


def dn_to_reflectance(dn: Array, *, offset: int) -> Array:
    """Reflectance (0 to 1) from Sentinel-2 digital numbers; DN 0 (no data) becomes NaN.

    Args:
        dn: digital numbers of Level-1C or Level-2A, any shape.
        offset: `BOA_ADD_OFFSET` of the product: -1000 from processing baseline 04.00 on, else 0.
            The product name says it (`_N0400_` and later), its date does not.

    Example:
        >>> dn_to_reflectance(np.array([0, 1000, 4500]), offset=-1000)
        array([ nan, 0.  , 0.35], dtype=float32)
    """
    xp = _namespace(dn)
    values = (_float32(dn) + offset) / REFLECTANCE_SCALE
    reflectance: Array = xp.where(dn == 0, xp.full_like(values, float("nan")), values)
    return reflectance


def power_to_db(power: Array) -> Array:
    """Decibels from linear power; power that is not positive becomes NaN.

    Example:
        >>> power_to_db(np.array([1.0, 0.1, 0.0]))
        array([  0., -10.,  nan], dtype=float32)
    """
    xp = _namespace(power)
    values = _float32(power)
    observed = values > 0
    safe = xp.where(observed, values, xp.ones_like(values))
    db: Array = xp.where(observed, 10 * xp.log10(safe), xp.full_like(values, float("nan")))
    return db


def db_to_power(db: Array) -> Array:
    """Linear power from decibels; NaN stays NaN.

    Example:
        >>> db_to_power(np.array([0.0, -20.0]))
        array([1.  , 0.01], dtype=float32)
    """
    power: Array = 10 ** (_float32(db) / 10)
    return power


def s1_dn_to_db(dn: Array, *, calibration_db: float = -83.0) -> Array:
    """Decibels from amplitude-scaled Sentinel-1 digital numbers: `20 log10(DN) - 83`.

    This is the convention of several archives that store gamma nought or sigma nought as 16-bit
    amplitude (ALOS heritage). A number that is not positive (0 is no data) becomes NaN.

    Example:
        >>> s1_dn_to_db(np.array([0, 1000, 14125])).round(2)
        array([ nan, -23.,  -0.], dtype=float32)
    """
    power_like: Any = power_to_db(dn)  # 10 log10(DN), half of 20 log10(DN)
    db: Array = 2 * power_like + calibration_db
    return db


def evi(nir: Array, red: Array, blue: Array) -> Array:
    """Enhanced vegetation index of reflectance in B08, B04 and B02; not finite where it has no value.

    Huete et al., "Overview of the radiometric and biophysical performance of the MODIS vegetation
    indices", Remote Sensing of Environment 83, 2002, equation 2 with its coefficients.

    Example:
        >>> round(float(evi(np.float32(0.4), np.float32(0.05), np.float32(0.03))), 3)
        0.593
    """
    index: Array = 2.5 * (nir - red) / (nir + 6.0 * red - 7.5 * blue + 1.0)
    return index


def check_reflectance(values: Array, *, name: str = "s2") -> None:
    """Raise if observed values cannot be surface reflectance on the 0 to 1 scale.

    Args:
        values: one patch or a batch, any shape; NaN is ignored.
        name: how the caller calls the argument, for the message.

    Raises:
        UnitsError: a value lies outside -0.2 to 7.

    Example:
        >>> check_reflectance(np.array([0.03, 0.4, float("nan")]))
    """
    if _within(values, REFLECTANCE_RANGE):
        return
    observed = _observed(values)
    low, high = float(observed.min()), float(observed.max())
    raise UnitsError(
        f"{name} holds values from {low:.4g} to {high:.4g}; expected surface reflectance on the 0-1 "
        f"scale (baseline offset removed). {_reflectance_remedy(low, high)}"
    )


def check_db(values: Array, *, name: str = "s1") -> None:
    """Raise if observed values cannot be backscatter in decibels.

    Args:
        values: one patch (bands, H, W) or a batch (B, bands, H, W); NaN is ignored.
        name: how the caller calls the argument, for the message.

    Raises:
        UnitsError: a value lies outside -100 to 50 dB, or a patch holds no negative value at all,
            as linear power, amplitude or a fill of zeros would.

    Example:
        >>> check_db(np.full((2, 16, 16), -12.0))
    """
    batch = values if values.ndim == 4 else values[None]
    for place, patch in enumerate(batch):
        if _within(patch, DB_RANGE) and bool((patch < 0).any()):
            continue
        observed = _observed(patch)
        if observed.size == 0:
            continue
        low, high = float(observed.min()), float(observed.max())
        where = f"{name}[{place}]" if values.ndim == 4 else name
        found = f"{where} holds values from {low:.4g} to {high:.4g}"
        if low < DB_RANGE[0] or high > DB_RANGE[1]:
            raise UnitsError(
                f"{found}; expected backscatter in dB, within {DB_RANGE[0]:g} to {DB_RANGE[1]:g}. "
                "For 16-bit amplitude call deepsentinel.units.s1_dn_to_db(dn); an 8-bit picture needs "
                "the range in dB that it was scaled from (deepsentinel.convert(..., s1_range=(lo, "
                "hi))); no-data must be NaN."
            )
        if low >= 0 and observed.size >= MIN_JUDGED:
            raise UnitsError(
                f"{found} and nothing below 0; expected backscatter in dB, which is mostly "
                "negative. For linear power call deepsentinel.units.power_to_db(power); where zeros "
                "stand for no data, make them NaN; to leave the sensor out, pass None."
            )


def looks_offset(values: Array) -> bool:
    """Whether one patch of visible reflectance is so bright throughout that an offset may be in it.

    One patch cannot decide it: haze, snow and bright ground look the same (see *Beware*).

    Args:
        values: visible bands (B02, B03, B04) of one patch, (bands, H, W), reflectance.

    Example:
        >>> looks_offset(np.full((3, 16, 16), 0.15)), looks_offset(np.full((3, 16, 16), 0.05))
        (True, False)
    """
    observed = _observed(values)
    return observed.size >= MIN_JUDGED and float(np.percentile(observed, 1)) > HAZE_FLOOR


def _reflectance_remedy(low: float, high: float) -> str:
    """What to do about a patch or batch with these extremes, one of them out of range."""
    if low < REFLECTANCE_RANGE[0] and high < 100:  # corrected digital numbers go below 0 too
        if low < -100:
            return "A value this negative marks no data: make it NaN, which means not observed."
        return (
            "Values this negative look normalised: pass physical values, the encoder normalises with "
            "its own statistics. What was not observed is NaN."
        )
    remedy = (
        "These look like digital numbers: call deepsentinel.units.dn_to_reflectance(dn, "
        "offset=-1000) for products of processing baseline 04.00 and later, offset=0 for older ones."
    )
    if high <= 255:
        remedy += (
            " An 8-bit picture needs the range that it was scaled from "
            "(deepsentinel.convert(..., s2_range=(lo, hi)))."
        )
    return remedy


def _within(values: Any, limits: tuple[float, float]) -> bool:
    """Whether every finite value lies within the limits, which enclose 0; two passes, no copy."""
    if 0 in values.shape:
        return True
    filled = _namespace(values).nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    return bool(filled.min() >= limits[0]) and bool(filled.max() <= limits[1])


def _observed(values: Any) -> "np.ndarray[Any, Any]":
    """Finite values as a flat NumPy array."""
    is_array = isinstance(values, np.ndarray)
    array = np.asarray(values if is_array else values.detach().float().cpu().numpy())
    return np.asarray(array[np.isfinite(array)])


def _namespace(array: Any) -> Any:
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(array, torch.Tensor) else np


def _float32(array: Any) -> Any:
    return array.astype(np.float32) if isinstance(array, np.ndarray) else array.float()
