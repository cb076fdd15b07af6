"""TerraMesh pairs: every pixel equals rasterio's, and nothing about offsets is guessed silently."""

from datetime import UTC, datetime

import numpy as np
import pytest
import rasterio

from deepsentinel.bands import S2_BANDS, S2_L1C_BANDS
from deepsentinel.corpus.convert import convert
from deepsentinel.labels import scheme

OFFSETS = {"282D_485L_3_3": 0, "38D_378R_2_3": 0, "433D_629L_3_1": -1000, "609U_541L_3_0": 0}


def test_every_pixel_is_that_of_the_file(shared_data, converted, pixels):
    source = shared_data / "terramesh"
    corpus = converted(source, boa_offset="detect")
    assert [corpus.record(i).id for i in range(4)] == sorted(OFFSETS)
    for i in range(4):
        record, values = corpus.record(i), corpus.read_physical(i, rasters=("lulc", "dem"))
        name = f"{record.id}.tif"
        dn = pixels(source / "S2L2A" / name).astype(float)
        wanted = (dn + OFFSETS[record.id]) / 10_000
        np.testing.assert_allclose(values["s2"], wanted, atol=1e-6)
        np.testing.assert_allclose(values["s1"], pixels(source / "S1RTC" / name), atol=0.005 + 1e-5)
        np.testing.assert_array_equal(values["dem"], pixels(source / "DEM" / name)[0])
        codes = scheme("terramesh-lulc").decode(values["lulc"])
        np.testing.assert_array_equal(codes, pixels(source / "LULC" / name)[0])


def test_facts_of_a_patch(shared_data, converted):
    corpus = converted(shared_data / "terramesh", boa_offset="detect")
    record = corpus.record(corpus.find("433D_629L_3_1"))
    with rasterio.open(shared_data / "terramesh" / "S2L2A" / "433D_629L_3_1.tif") as file:
        assert record.transform == tuple(file.transform)[:6]
        assert record.crs == "EPSG:32718"
    assert record.date_s1 == datetime(2020, 4, 11, 23, 43, 9, tzinfo=UTC)  # the tag of S1RTC
    assert record.date_s2 == datetime(2020, 4, 8, 14, 37, 29, tzinfo=UTC)
    assert (record.level_s1, record.level_s2) == ("RTC", "L2A")
    assert (record.boa_offset, record.boa_offset_source) == (-1000, "detected")
    assert 0.9 <= record.boa_offset_confidence <= 0.99
    assert (record.product_s2, record.orbit_s1, record.cloud_percent) == (None, None, None)
    assert corpus.info.bands == {"s1": ("VV", "VH"), "s2": S2_BANDS}
    assert corpus.info.splits == {"train": 2, "val": 1, "test": 1}


def test_auto_leaves_out_what_looks_offset_and_says_so(shared_data, tmp_path):
    report = convert(shared_data / "terramesh", tmp_path / "corpus")
    assert report.converted == 3
    (left_out,) = report.skipped
    assert left_out.name == "433D_629L_3_1"
    assert "suggest" in left_out.reason
    assert "--boa-offset detect" in left_out.remedy
    assert report.offsets == {"detected 0": 3}
    for word in ("433D_629L_3_1", "boa_offset='detect'"):
        assert word in str(report)


@pytest.mark.parametrize("given", [0, -1000])
def test_a_given_offset_is_taken_for_all(shared_data, converted, pixels, given):
    corpus = converted(shared_data / "terramesh", boa_offset=given)
    assert len(corpus) == 4
    for i in range(4):
        record = corpus.record(i)
        assert (record.boa_offset, record.boa_offset_source) == (given, "given")
        dn = pixels(shared_data / "terramesh" / "S2L2A" / f"{record.id}.tif").astype(int)
        codes = corpus.read(i, sensors=("s2",)).s2
        np.testing.assert_array_equal(codes, np.clip(dn + 1000 + given, 1, 65535))


def test_level_1c_has_thirteen_bands(shared_data, converted, pixels):
    corpus = converted(shared_data / "terramesh", boa_offset="detect", s2_level="L1C")
    assert corpus.info.bands["s2"] == S2_L1C_BANDS
    i = corpus.find("38D_378R_2_3")
    cirrus = corpus.read_physical(i, bands={"s2": ("B10",)})["s2"][0]
    dn = pixels(shared_data / "terramesh" / "S2L1C" / "38D_378R_2_3.tif")[10]
    np.testing.assert_allclose(cirrus, dn / 10_000, atol=1e-6)
    assert corpus.record(i).level_s2 == "L1C"


def test_the_dataset_and_xarray_give_the_same_pixels(shared_data, tmp_path, pixels):
    xarray = pytest.importorskip("xarray")
    dataset = pytest.importorskip("deepsentinel.datasets.dataset")
    source = shared_data / "terramesh"
    convert(source, tmp_path / "corpus", boa_offset="detect")
    samples = dataset.DeepSentinelDataset(tmp_path / "corpus", None)
    with xarray.open_zarr(tmp_path / "corpus" / "data.zarr") as cube:
        for i, row in enumerate(samples.index["row"]):
            sample = samples[i]
            name = f"{sample['meta'].id}.tif"
            dn = pixels(source / "S2L2A" / name).astype(float) + OFFSETS[sample["meta"].id]
            db = pixels(source / "S1RTC" / name)
            for s1, s2 in (
                (sample["image_s1"].numpy(), sample["image_s2"].numpy()),
                (cube["s1"][row].values, cube["s2"][row].values),
            ):
                np.testing.assert_array_equal(np.rint(s2 * 10_000), dn)
                np.testing.assert_allclose(s1, db, atol=0.005 + 1e-5)
