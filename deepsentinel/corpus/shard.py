"""Chunks and shards: the bytes of one band of one patch, and the table that finds them.

A chunk is a blosc frame (lz4, bitshuffle) followed by its crc32c. The chunks of a patch lie side
by side in band order, so that one range read brings a whole sensor, and their borders are found
from the frames' own headers. The shard ends with the Zarr index of all its chunks.
"""

import struct
from collections.abc import Iterator
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from deepsentinel.corpus.arrays import COMPRESSOR, LEVEL, ArraySpec
from deepsentinel.corpus.format import PATCHES_PER_SHARD

blosc.use_threads = False  # its global thread pool hangs in forked workers, and one band is small

CRC_BYTES = 4
MISSING = 2**64 - 1
"""Offset and size of a chunk that was never written: it reads as the fill value."""
_BITSHUFFLE = blosc.BITSHUFFLE
_HEADER = struct.Struct("<BBBBIII")  # version, lz version, flags, typesize, nbytes, block, cbytes


class ChunkError(Exception):
    """Stored bytes that are not what was written; the caller knows shard and patch."""


def crc32c(data: bytes | NDArray[np.uint8]) -> bytes:
    """Checksum as Zarr's crc32c codec appends it."""
    return struct.pack("<I", google_crc32c.value(data))


def encode_patch(spec: ArraySpec, pixels: NDArray[Any]) -> tuple[bytes, list[int]]:
    """Chunks of one patch in band order, and the size of each."""
    planes = np.ascontiguousarray(pixels).reshape(spec.chunks, spec.size, spec.size)
    chunks = [_encode_chunk(spec, plane) for plane in planes]
    return b"".join(chunks), [len(chunk) for chunk in chunks]


def _encode_chunk(spec: ArraySpec, plane: NDArray[Any]) -> bytes:
    itemsize = spec.dtype.itemsize
    frame = bytes(blosc.compress(plane, COMPRESSOR.encode(), LEVEL, _BITSHUFFLE, 0, itemsize))
    return frame + crc32c(frame)


def split_patch(spec: ArraySpec, data: bytes | memoryview) -> list[tuple[int, int]]:
    """(start, size) of each blosc frame in the bytes of one patch, from the frames' headers.

    Raises:
        ChunkError: the headers do not add up to the bytes.
    """
    frames = []
    start = 0
    for _ in range(spec.chunks):
        if start + _HEADER.size > len(data):
            raise ChunkError(f"chunk headers run past the patch's {len(data)} bytes")
        version, _, _, typesize, decoded, _, size = _HEADER.unpack_from(data, start)
        if (version, typesize, decoded) != (2, spec.dtype.itemsize, spec.chunk_bytes):
            raise ChunkError(f"no valid chunk header at byte {start} of the patch")
        if size < _HEADER.size or start + size + CRC_BYTES > len(data):
            raise ChunkError(f"chunk at byte {start} claims {size} bytes, more than the patch has")
        frames.append((start, size))
        start += size + CRC_BYTES
    if start != len(data):
        raise ChunkError(f"{len(data) - start} bytes left over after the last chunk")
    return frames


def decode_frame(
    data: bytes | memoryview, start: int, size: int, out: NDArray[Any], *, checksum: bool
) -> None:
    """Decode one blosc frame into `out`, a contiguous array of exactly its size.

    Raises:
        ChunkError: the checksum differs, or the frame cannot be decoded.
    """
    frame = np.frombuffer(data, np.uint8, size, start)
    if checksum and crc32c(frame) != data[start + size : start + size + CRC_BYTES]:
        raise ChunkError("its checksum (crc32c) differs")
    try:
        blosc.decompress(frame, out)
    except (RuntimeError, ValueError) as error:
        raise ChunkError(f"it cannot be decompressed ({error})") from error


def empty_table(spec: ArraySpec) -> NDArray[np.uint64]:
    """Index of a shard in which nothing is written yet: (patches, chunks, 2)."""
    return np.full((PATCHES_PER_SHARD, spec.chunks, 2), MISSING, dtype="<u8")


def fill_table(table: NDArray[np.uint64], slot: int, start: int, sizes: list[int]) -> None:
    """Enter the chunks of one patch."""
    ends = np.cumsum(np.asarray(sizes, dtype=np.uint64))
    table[slot, :, 0] = np.uint64(start) + ends - np.asarray(sizes, dtype=np.uint64)
    table[slot, :, 1] = sizes


def dump_table(table: NDArray[np.uint64]) -> bytes:
    """The index as it stands at the end of a shard."""
    data = table.astype("<u8").tobytes()
    return data + crc32c(data)


def table_bytes(spec: ArraySpec) -> int:
    """Length of the index at the end of a shard."""
    return PATCHES_PER_SHARD * spec.chunks * 16 + CRC_BYTES


def load_table(spec: ArraySpec, data: bytes) -> NDArray[np.uint64]:
    """The index from the end of a shard.

    Raises:
        ChunkError: its length or checksum is wrong.
    """
    if len(data) != table_bytes(spec):
        raise ChunkError(f"the shard's index has {len(data)} bytes, not {table_bytes(spec)}")
    if crc32c(data[:-CRC_BYTES]) != data[-CRC_BYTES:]:
        raise ChunkError("the checksum (crc32c) of the shard's index differs")
    return np.frombuffer(data[:-CRC_BYTES], "<u8").reshape(PATCHES_PER_SHARD, spec.chunks, 2)


def check_patch(spec: ArraySpec, data: bytes | memoryview) -> Iterator[str]:
    """What is wrong with the bytes of one patch, chunk by chunk; nothing where all is well."""
    scratch = np.empty((spec.size, spec.size), spec.dtype)
    try:
        frames = split_patch(spec, data)
    except ChunkError as error:
        yield str(error)
        return
    for place, (start, size) in enumerate(frames):
        try:
            decode_frame(data, start, size, scratch, checksum=True)
        except ChunkError as error:
            name = spec.name if spec.channels is None else f"band {spec.channels[place]}"
            yield f"{name}: {error}"
