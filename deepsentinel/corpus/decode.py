"""Bytes of one patch in one array to codes, and codes to physical values."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepsentinel.bands import Sensor
from deepsentinel.corpus.arrays import ArraySpec
from deepsentinel.corpus.codes import NOT_OBSERVED, S1_SCALE, S2_CODE_OFFSET, S2_SCALE
from deepsentinel.corpus.fetch import Stored
from deepsentinel.corpus.protocol import View
from deepsentinel.corpus.shard import ChunkError, decode_frame, split_patch

_scratch = threading.local()


class DamagedError(Exception):
    """Bytes of an array of a patch that are not what was written."""

    def __init__(self, error: ChunkError, position: int | None) -> None:
        super().__init__(str(error))
        self.position = position


def decode_codes(
    spec: ArraySpec, data: Stored, positions: Sequence[int], *, checksum: bool
) -> NDArray[Any]:
    """Codes of some chunks, (chunks, H, W); (H, W) of an array without channels.

    Raises:
        DamagedError: the bytes are damaged.
    """
    out = np.empty((len(positions), spec.size, spec.size), spec.dtype)
    for _ in _decoded(spec, data, positions, out, checksum=checksum):
        pass
    return out[0] if spec.channels is None else out


def decode_physical(
    spec: ArraySpec,
    data: Stored,
    positions: Sequence[int],
    out: NDArray[np.float32],
    *,
    sensor: Sensor,
    gaps: int,
    view: View | None,
    checksum: bool,
) -> None:
    """Physical values of some bands into `out`, band by band while its codes are in the cache.

    Args:
        spec: array of the sensor.
        data: its bytes of one patch.
        positions: of the bands.
        out: (bands, H, W), as `view` shows them.
        sensor: which it is.
        gaps: bit k says that band k has pixels that were not observed.
        view: what of each plane is shown; all of it for `None`.
        checksum: whether each chunk is checked.

    Raises:
        DamagedError: the bytes are damaged; `out` is half filled then.
    """
    codes = _scratch_plane(spec)
    planes = _decoded(spec, data, positions, [codes] * len(positions), checksum=checksum)
    for position, plane, physical in zip(positions, planes, out, strict=True):
        seen = shown(plane, view)
        to_physical(sensor, seen, physical)
        if gaps >> position & 1:
            physical[seen == NOT_OBSERVED[sensor]] = np.nan


def room_for(spec: ArraySpec, bands: int, view: View | None) -> NDArray[np.float32]:
    """An array that `decode_physical` fills: (bands, H, W), as `view` shows them."""
    return np.empty((bands, *shown(_scratch_plane(spec), view).shape), np.float32)


def shown(planes: NDArray[Any], view: View | None) -> NDArray[Any]:
    """What a view shows of (..., H, W); all of it for `None`."""
    return planes if view is None else view(planes)


def to_physical(sensor: Sensor, codes: NDArray[Any], out: NDArray[np.float32]) -> None:
    """Physical values of codes, into `out`; what was not observed is left for the caller."""
    out[...] = codes
    if sensor == "s2":
        out -= np.float32(S2_CODE_OFFSET)
        out *= np.float32(S2_SCALE)
    else:
        out *= np.float32(S1_SCALE)


def _decoded(
    spec: ArraySpec,
    data: Stored,
    positions: Iterable[int],
    out: Sequence[NDArray[Any]] | NDArray[Any],
    *,
    checksum: bool,
) -> Iterator[NDArray[Any]]:
    """Each wanted chunk, decoded into its place in `out` when its turn comes."""
    try:
        frames = split_patch(spec, data)
    except ChunkError as error:
        raise DamagedError(error, None) from error
    for position, plane in zip(positions, out, strict=True):
        start, size = frames[position]
        try:
            decode_frame(data, start, size, plane, checksum=checksum)
        except ChunkError as error:
            raise DamagedError(error, position) from error
        yield plane


def _scratch_plane(spec: ArraySpec) -> NDArray[Any]:
    """One plane that the calling thread may overwrite: it stays in the processor's cache."""
    planes = _scratch.__dict__
    key = f"{spec.dtype}{spec.size}"
    if key not in planes:
        planes[key] = np.empty((spec.size, spec.size), spec.dtype)
    plane: NDArray[Any] = planes[key]
    return plane
