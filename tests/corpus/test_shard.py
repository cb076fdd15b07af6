import struct

import google_crc32c
import numpy as np
import pytest
from numcodecs import blosc
from zarr.codecs import BloscCodec

from deepsentinel.corpus.arrays import corpus_arrays
from deepsentinel.corpus.format import PATCHES_PER_SHARD
from deepsentinel.corpus.shard import (
    MISSING,
    ChunkError,
    check_patch,
    decode_frame,
    dump_table,
    empty_table,
    encode_patch,
    fill_table,
    load_table,
    split_patch,
)


@pytest.fixture
def spec(info):
    return corpus_arrays(info)["s2"]


@pytest.fixture
def codes(spec, rng):
    return rng.integers(0, 65535, spec.patch_shape).astype(spec.dtype)


def test_crc32c_is_that_of_the_standard():
    """Check value of CRC-32C in RFC 3720, appendix B.4: 32 bytes of zeros."""
    assert google_crc32c.value(bytes(32)) == 0x8A9136AA


def test_chunks_lie_side_by_side_in_band_order(spec, codes):
    data, sizes = encode_patch(spec, codes)
    assert sum(sizes) == len(data)
    assert [size - 4 for size in sizes] == [size for _, size in split_patch(spec, data)]
    for band, (start, size) in enumerate(split_patch(spec, data)):
        frame = data[start : start + size]
        plain = np.frombuffer(blosc.decompress(frame), spec.dtype).reshape(16, 16)
        np.testing.assert_array_equal(plain, codes[band])
        assert data[start + size : start + size + 4] == struct.pack(
            "<I", google_crc32c.value(frame)
        )


def test_frames_are_what_zarr_would_make(spec, codes):
    """zarr-python's own blosc codec, given our settings, writes the same frame."""
    from numcodecs import Blosc

    settings = BloscCodec(typesize=2, cname="lz4", clevel=5, shuffle="bitshuffle", blocksize=0)
    cname = getattr(settings.cname, "value", settings.cname)  # an enum in older zarr
    theirs = Blosc(cname=cname, clevel=settings.clevel, shuffle=Blosc.BITSHUFFLE)
    data, sizes = encode_patch(spec, codes)
    assert data[: sizes[0] - 4] == bytes(theirs.encode(codes[0]))


def test_pixels_in_any_memory_layout(spec, codes):
    wanted, _ = encode_patch(spec, codes)
    assert encode_patch(spec, np.asfortranarray(codes))[0] == wanted
    assert encode_patch(spec, codes[:, ::-1][:, ::-1])[0] == wanted


def test_the_table_of_a_shard(spec):
    table = empty_table(spec)
    fill_table(table, 3, 1000, [10, 20, 30, 40])
    loaded = load_table(spec, dump_table(table))
    assert loaded.shape == (PATCHES_PER_SHARD, 4, 2)
    assert loaded[3].tolist() == [[1000, 10], [1010, 20], [1030, 30], [1060, 40]]
    assert (loaded[2] == np.uint64(MISSING)).all()


def test_a_damaged_table_is_found(spec):
    data = bytearray(dump_table(empty_table(spec)))
    data[17] ^= 1
    with pytest.raises(ChunkError, match="checksum"):
        load_table(spec, bytes(data))
    with pytest.raises(ChunkError, match="bytes, not"):
        load_table(spec, bytes(data[:-1]))


def test_cut_or_lengthened_patches_are_found(spec, codes):
    data, _ = encode_patch(spec, codes)
    for wrong in (data[:-1], data[:20], b"", data + b"\0"):
        with pytest.raises(ChunkError):
            split_patch(spec, wrong)
        assert list(check_patch(spec, wrong))


def test_the_chunk_of_another_type_is_not_mistaken(info, spec, codes):
    data, _ = encode_patch(spec, codes)
    with pytest.raises(ChunkError, match="no valid chunk header"):
        split_patch(corpus_arrays(info)["height"], data)


def test_any_single_flipped_bit_is_found(spec, codes):
    data, _ = encode_patch(spec, codes)
    rng = np.random.default_rng(1)
    for place in rng.choice(len(data), 200, replace=False).tolist():
        damaged = bytearray(data)
        damaged[place] ^= 1 << (place % 8)
        assert list(check_patch(spec, bytes(damaged))), place


def test_garbage_after_a_valid_header_never_crashes(spec, codes):
    """Headers right, contents random: an error or wrong pixels, never a read outside of the bytes."""
    data, _ = encode_patch(spec, np.zeros_like(codes))
    start, size = split_patch(spec, data)[0]
    out = np.empty((16, 16), spec.dtype)
    rng = np.random.default_rng(2)
    failed = 0
    for _ in range(300):
        damaged = bytearray(data)
        damaged[start + 16 : start + size] = rng.bytes(size - 16)
        try:
            decode_frame(bytes(damaged), start, size, out, checksum=False)
        except ChunkError:
            failed += 1
    assert failed > 250
