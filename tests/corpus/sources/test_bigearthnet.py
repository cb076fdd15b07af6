"""BigEarthNet v1, as folders and as one archive."""

import json
import shutil
from datetime import UTC, datetime

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.warp import Resampling, reproject

from deepsentinel.bands import S2_BANDS
from deepsentinel.corpus.convert import convert
from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.sources import open_source
from deepsentinel.corpus.sources.base import SourceOptions
from deepsentinel.corpus.sources.patches import PatchReader, plan_patches
from deepsentinel.labels import scheme

FINE = ("B02", "B03", "B04", "B08")
PAIR = "S2A_MSIL2A_20170617T113321_36_85"
RADAR = "S1A_IW_GRDH_1SDV_20170617T064724_29UPU_36_85"


@pytest.fixture
def pairs(shared_data):
    return shared_data / "bigearthnet" / "pairs"


def test_native_bands_and_radar_are_the_files(pairs, converted, pixels):
    corpus = converted(pairs)
    assert len(corpus) == 3
    for i in range(3):
        record, values = corpus.record(i), corpus.read_physical(i)
        folder = pairs / record.id
        for band in FINE:
            dn = pixels(folder / f"{record.id}_{band}.tif")[0]
            found = values["s2"][S2_BANDS.index(band)]
            np.testing.assert_array_equal(np.rint(found * 10_000), dn)
        facts = {
            p.name: json.loads((p / f"{p.name}_labels_metadata.json").read_text())
            for p in pairs.glob("S1*")
        }
        (radar,) = [n for n, f in facts.items() if f["corresponding_s2_patch"] == record.id]
        for k, band in enumerate(("VV", "VH")):
            db = pixels(pairs / radar / f"{radar}_{band}.tif")[0]
            np.testing.assert_allclose(values["s1"][k], db, atol=0.005 + 1e-5)


@pytest.mark.parametrize("method", ["nearest", "bilinear", "cubic"])
def test_coarse_bands_are_what_gdal_makes_of_them(pairs, converted, method):
    corpus = converted(pairs, resampling=method)
    values = corpus.read_physical(corpus.find(PAIR))["s2"]
    for band, edge in (("B05", 4), ("B12", 4), ("B01", 15), ("B09", 15)):
        with rasterio.open(pairs / PAIR / f"{PAIR}_{band}.tif") as file:
            wanted = np.zeros((120, 120))
            reproject(
                file.read(1).astype(float), wanted, src_transform=file.transform, src_crs=file.crs,
                dst_transform=Affine(10, 0, 643200, 0, -10, 5798040), dst_crs=file.crs,
                resampling=Resampling[method],
            )  # fmt: skip
        found = values[S2_BANDS.index(band)] * 10_000
        inside = slice(edge, -edge)
        np.testing.assert_allclose(found[inside, inside], wanted[inside, inside], atol=0.51)


def test_facts_and_labels(pairs, converted):
    corpus = converted(pairs)
    record = corpus.record(corpus.find(PAIR))
    assert record.crs == "EPSG:32629"
    assert record.transform == (10, 0, 643200, 0, -10, 5798040)
    assert record.date_s1 == datetime(2017, 6, 17, 6, 47, 24, tzinfo=UTC)
    assert record.date_s2 == datetime(2017, 6, 17, 11, 33, 21, tzinfo=UTC)
    assert record.product_s2 == "S2A_MSIL1C_20170617T113321_N0205_R080_T29UPU_20170617T113319"
    assert record.product_s1.startswith("S1A_IW_GRDH_1SDV_20170617T064724_20170617T064749")
    assert (record.boa_offset, record.boa_offset_source) == (0, "product-name")
    names = [scheme("bigearthnet-43").names[k] for k in record.labels["labels"]]
    assert names == ["Non-irrigated arable land", "Pastures"]


def test_two_roots_as_distributed(pairs, tmp_path):
    """BigEarthNet-S1-v1.0 and BigEarthNet-v1.0 beside each other."""
    for root, name in (("BigEarthNet-v1.0", PAIR), ("BigEarthNet-S1-v1.0", RADAR)):
        shutil.copytree(pairs / name, tmp_path / "source" / root / name)
    convert(tmp_path / "source", tmp_path / "corpus")
    corpus = Corpus(tmp_path / "corpus")
    assert len(corpus) == 1
    assert set(corpus.read_physical(0)) == {"s1", "s2"}


def test_one_sensor_alone_is_taken(pairs, tmp_path):
    """An S2 patch without S1, and an S1 patch whose S2 is not there."""
    source = tmp_path / "source"
    shutil.copytree(pairs / PAIR, source / PAIR)
    other = "S1A_IW_GRDH_1SDV_20171221T064238_29SND_56_35"
    shutil.copytree(pairs / other, source / other)
    report = convert(source, tmp_path / "corpus")
    assert report.converted == 2
    corpus = Corpus(tmp_path / "corpus")
    assert set(corpus.read_physical(corpus.find(PAIR))) == {"s2"}
    assert set(corpus.read_physical(corpus.find(other))) == {"s1"}
    assert corpus.record(corpus.find(other)).boa_offset is None


@pytest.mark.parametrize("part", ["B03.tif", "B09.tif", "labels_metadata.json"])
def test_a_broken_file_leaves_out_its_patch_whole(pairs, tmp_path, part):
    source = tmp_path / "source"
    for name in (PAIR, RADAR, "S2A_MSIL2A_20170617T113321_4_55"):
        shutil.copytree(pairs / name, source / name)
    broken = source / PAIR / f"{PAIR}_{part}"
    broken.chmod(0o644)
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    report = convert(source, tmp_path / "corpus")
    assert report.converted == 1
    (left_out,) = report.skipped
    assert left_out.name == PAIR
    assert part in left_out.reason


# ---------------------------------------------------------------- the archive


@pytest.fixture
def archive(shared_data, tmp_path):
    """Some patches of the archive of one scene."""
    with np.load(shared_data / "bigearthnet" / "s2_scene" / "patches.npz") as file:
        some = {n: file[n] if n == "classes" else file[n][[0, 7, 300]] for n in file.files}
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz" / "patches.npz", **some)
    return tmp_path / "npz", some


def test_archive(archive, converted):
    folder, arrays = archive
    corpus = converted(folder, resampling="nearest")
    assert len(corpus) == 3
    for i in range(3):
        record, values = corpus.record(i), corpus.read_physical(i)["s2"]
        row = arrays["ids"].tolist().index(record.id)
        for k, band in enumerate(FINE):
            found = np.rint(values[S2_BANDS.index(band)] * 10_000)
            np.testing.assert_array_equal(found, arrays["bands_10m"][row, k])
        for k, band in enumerate(("B05", "B06", "B07", "B8A", "B11", "B12")):
            coarse = np.rint(values[S2_BANDS.index(band)] * 10_000)
            wanted = np.repeat(np.repeat(arrays["bands_20m"][row, k], 2, 0), 2, 1)
            np.testing.assert_array_equal(coarse, wanted)
        assert record.transform == (
            10,
            0,
            arrays["upper_left"][row][0],
            0,
            -10,
            arrays["upper_left"][row][1],
        )
        assert record.crs == "EPSG:32634"
        assert (record.boa_offset, record.boa_offset_source) == (0, "source")
        names = {scheme("bigearthnet-43").names[k] for k in record.labels["labels"]}
        assert names == set(arrays["classes"][arrays["labels"][row]])


def test_archive_of_an_unknown_scene_has_no_position(archive):
    folder, arrays = archive
    arrays["ids"] = np.array([f"S2B_MSIL2A_20180101T000000_{k}_1" for k in range(3)])
    np.savez(folder / "patches.npz", **arrays)
    source = open_source(folder, kind=None, options=SourceOptions())
    scene = source.scenes()[0]
    assert scene.grid.crs is None
    (planned,) = plan_patches(scene, 120)
    assert planned.record.lon is None
    assert PatchReader(source, resampling="bilinear").read(planned).s2.shape == (12, 120, 120)
