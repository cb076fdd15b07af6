"""What an encoder checks of its input, once, before any layer sees it."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from deepsentinel.bands import SENSOR_TITLES, Sensor, channel_bands
from deepsentinel.errors import BandError, NothingObservedError, ShapeError, UnitsError
from deepsentinel.units import (
    DB_RANGE,
    HAZE_FLOOR,
    REFLECTANCE_RANGE,
    check_db,
    check_reflectance,
    looks_offset,
)

Check = Literal["first", "always", "never"]
Empty = Literal["error", "nan"]

MIN_SIZE = 16
"""Least height and width of a patch in pixels."""
_VISIBLE = ("B02", "B03", "B04")


def check_shapes(given: Mapping[Sensor, Tensor]) -> None:
    """Raise unless the tensors of the given sensors are floating (B, C, H, W) of one size.

    Raises:
        ShapeError: nothing given, not a tensor, wrong rank, too small, or sizes that differ.
        UnitsError: integers, which are digital numbers and not physical values.
    """
    if not given:
        raise ShapeError("neither s1 nor s2 was given: pass at least one sensor.")
    for sensor, values in given.items():
        _check_one(sensor, values)
    sizes = {s: (x.shape[0], x.shape[2], x.shape[3]) for s, x in given.items()}
    if len(sizes) == 2 and sizes["s1"] != sizes["s2"]:
        raise ShapeError(
            f"s1 has (B, H, W) = {tuple(sizes['s1'])} and s2 {tuple(sizes['s2'])}; both must show "
            "the same patches on one grid. Resample them to 10 m, or pass one sensor."
        )


def _check_one(sensor: Sensor, values: Tensor) -> None:
    if not isinstance(values, Tensor):
        raise ShapeError(
            f"{sensor} is a {type(values).__name__}; pass a torch tensor, for an array "
            "torch.from_numpy(array)."
        )
    shape = tuple(values.shape)
    if values.ndim == 3:
        raise ShapeError(
            f"{sensor} has shape {shape}; expected (B, C, H, W). For one patch pass "
            f"{sensor}[None], or encoder.encode(deepsentinel.collate([sample]))."
        )
    if values.ndim != 4 or 0 in shape:
        raise ShapeError(f"{sensor} has shape {shape}; expected (B, C, H, W), none of them 0.")
    if values.shape[2] < MIN_SIZE or values.shape[3] < MIN_SIZE:
        raise ShapeError(
            f"{sensor} is {shape[2]} x {shape[3]} px; at least {MIN_SIZE} x {MIN_SIZE} are needed. "
            "Read a larger window, or pad with NaN (not observed)."
        )
    if not values.is_floating_point():
        call = "s1_dn_to_db(dn)" if sensor == "s1" else "dn_to_reflectance(dn, offset=...)"
        raise UnitsError(
            f"{sensor} has dtype {values.dtype}; expected floating-point physical values with NaN "
            f"where nothing was observed. Digital numbers: call deepsentinel.units.{call}."
        )


def used_bands(
    sensor: Sensor, count: int, names: Sequence[str] | None, known: Sequence[str]
) -> tuple[str, ...]:
    """Names of a tensor's bands, of which the encoder must use at least one.

    Raises:
        BandError: names and count disagree, or the encoder uses none of the bands.
    """
    found = channel_bands(count, names, sensor)
    if not set(found) & set(known):
        raise BandError(
            f"{sensor} holds {' '.join(found)}, none of which this encoder uses; of "
            f"{SENSOR_TITLES[sensor]} it uses {' '.join(known) or 'nothing'}. Read at least one "
            f"of these bands, or pass {sensor}=None."
        )
    return found


def check_units(given: Mapping[Sensor, Tensor]) -> None:
    """Raise if observed values cannot be dB and reflectance.

    One pass clears a batch without NaN; only what it cannot clear is judged by `units`.

    Raises:
        UnitsError: as `units.check_db` and `units.check_reflectance`.
    """
    if "s1" in given:
        s1 = given["s1"].detach()
        if not (_clear(s1, DB_RANGE) and bool((s1.amin(dim=(1, 2, 3)) < 0).all())):
            check_db(s1, name="s1")
    if "s2" in given:
        s2 = given["s2"].detach()
        if not _clear(s2, REFLECTANCE_RANGE):
            check_reflectance(s2, name="s2")


def _clear(values: Tensor, limits: tuple[float, float]) -> bool:
    low, high = torch.aminmax(values)  # NaN anywhere makes both NaN, and the comparison false
    return bool((low >= limits[0]) & (high <= limits[1]))


def suspect_offset(s2: Tensor, names: Sequence[str]) -> bool:
    """Whether most patches of a batch look as if a baseline offset was left in.

    A sparse look at the visible bands comes first, so that ordinary batches cost next to nothing.
    """
    visible = [i for i, name in enumerate(names) if name in _VISIBLE]
    if not visible:
        return False
    sparse = s2.detach()[:, :, ::4, ::4][:, visible]
    dark = (sparse <= HAZE_FLOOR).sum(dim=(1, 2, 3)) > 0.02 * sparse[0].numel()
    if 2 * int(dark.sum()) >= len(s2):
        return False
    return 2 * sum(looks_offset(patch[visible]) for patch in s2.detach()) > len(s2)


def check_observed(nothing: Tensor) -> None:
    """Raise if a patch of the batch was observed nowhere.

    Args:
        nothing: bool (B,).

    Raises:
        NothingObservedError: naming the places in the batch.
    """
    if bool(nothing.any()):
        places = ", ".join(str(i) for i in nothing.nonzero().flatten().tolist())
        raise NothingObservedError(
            f"nothing was observed in patch {places} of the batch (counting from 0): every value "
            "that the encoder uses, of both sensors, is NaN or infinite. Leave such patches out, "
            'or pass empty="nan" for a NaN embedding.'
        )
