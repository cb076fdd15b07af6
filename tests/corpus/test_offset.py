"""The baseline offset: names, and what whole scenes of real pixels say."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

from deepsentinel.bands import S2_BANDS, S2_L1C_BANDS
from deepsentinel.corpus.offset import judge_offset, offset_of_baseline, offset_of_product


@pytest.mark.parametrize(
    ("name", "offset"),
    [
        ("S2A_MSIL1C_20170617T113321_N0205_R080_T29UPU_20170617T113319.SAFE", 0),
        ("S2B_MSIL2A_20211230T102329_N0301_R065_T32TQM_20211230T121111", 0),
        ("S2A_MSIL2A_20220706T085611_N0400_R007_T33NZA_20220706T153419", -1000),
        # reprocessed: the date says nothing
        ("S2A_MSIL2A_20170617T113321_N0500_R080_T29UPU_20230801T113319", -1000),
        ("S2C_MSIL2A_20250101T000000_N0511_R080_T29UPU_20250101T000000", -1000),
        ("S2A_MSIL2A_20170617T113321_36_85", None),
        ("20200604T054639_20200604T054831_T43RCP", None),
    ],
)
def test_product_names(name, offset):
    assert offset_of_product(name) == offset


def test_offset_begins_with_baseline_04_00():
    assert [offset_of_baseline(b) for b in (214, 301, 399, 400, 509)] == [0, 0, 0, -1000, -1000]


def scene(path, bands):
    with rasterio.open(path) as file:
        return dict(zip(bands, file.read(), strict=True))


@pytest.mark.parametrize(
    ("cell", "l2a", "l1c"),
    [
        ("433D_629L_3_1", -1000, -1000),
        ("282D_485L_3_3", 0, -1000),
        ("38D_378R_2_3", 0, 0),
        ("609U_541L_3_0", 0, -1000),  # snow
    ],
)
def test_real_scenes_of_both_levels(shared_data: Path, cell, l2a, l1c):
    """B10 settles Level-1C; Level-2A of the same places was processed apart."""
    folder = shared_data / "terramesh"
    assert judge_offset(scene(folder / "S2L2A" / f"{cell}.tif", S2_BANDS)).offset == l2a
    judged = judge_offset(scene(folder / "S2L1C" / f"{cell}.tif", S2_L1C_BANDS))
    assert judged.offset == l1c
    assert judged.confidence > 0.9


def read(folder, band):
    with rasterio.open(folder / f"{band}.tif") as file:
        return file.read(1).astype(np.int64)


def parts(dn, count):
    """Every band cut into count x count parts that cover the same ground."""
    for i in range(count):
        for j in range(count):
            yield {
                band: values[
                    i * len(values) // count : (i + 1) * len(values) // count,
                    j * len(values) // count : (j + 1) * len(values) // count,
                ]
                for band, values in dn.items()
            }


def test_major_tom_is_never_judged_wrongly(shared_data: Path):
    """A bright and hazy cell, N0400: neither it, nor a chip, nor the same without the offset."""
    folder = next((shared_data / "majortom").iterdir())
    dn = {band: read(folder, band) for band in S2_BANDS}
    corrected = {band: np.maximum(values - 1000, 1) for band, values in dn.items()}
    for wrong, cell in ((0, dn), (-1000, corrected)):
        for count in (1, 4, 16):
            found = [judge_offset(chip).offset for chip in parts(cell, count)]
            assert wrong not in found
    assert judge_offset(corrected).offset == 0  # the whole scene is dark enough somewhere


@pytest.mark.parametrize("added", [0, 1000])
def test_bigearthnet_chips_are_never_judged_wrongly(shared_data: Path, added):
    with np.load(shared_data / "bigearthnet" / "s2_scene" / "patches.npz") as file:
        fine, coarse = file["bands_10m"][::6], file["bands_20m"][::6]
    names = ("B02", "B03", "B04", "B08"), ("B05", "B06", "B07", "B8A", "B11", "B12")
    found = []
    for a, b in zip(fine, coarse, strict=True):
        chip = dict(zip(names[0], a + added, strict=True)) | dict(
            zip(names[1], b + added, strict=True)
        )
        found.append(judge_offset(chip).offset)
    right, wrong = (0, -1000) if added == 0 else (-1000, 0)
    assert wrong not in found
    assert found.count(right) > 0.6 * len(found)


def test_what_pixels_cannot_decide_is_said(rng):
    cloud = {b: rng.integers(4000, 9000, (32, 32)) for b in S2_BANDS}
    judged = judge_offset(cloud)
    assert judged.offset is None
    assert "haze" in judged.reason
    assert judge_offset({b: np.zeros((32, 32)) for b in S2_BANDS}).offset is None
    assert judge_offset({}).offset is None


def test_no_data_is_not_dark(rng):
    """A bright scene with a no-data edge of zeros or NaN stays undecided."""
    for fill in (0, np.nan):
        bright = {b: rng.integers(4000, 9000, (32, 32)).astype(float) for b in S2_BANDS}
        for values in bright.values():
            values[:8] = fill
        assert judge_offset(bright).offset is None
