"""Major TOM: one cell in tiles, its offset from the product name, its cloud mask."""

import shutil
from datetime import UTC, datetime

import numpy as np
import pytest
import rasterio

from deepsentinel.bands import S2_BANDS
from deepsentinel.corpus.convert import convert
from deepsentinel.corpus.read import Corpus
from deepsentinel.errors import SourceError


def test_tiles_are_the_file(shared_data, converted, pixels):
    (folder,) = (shared_data / "majortom").iterdir()
    corpus = converted(shared_data / "majortom")
    assert (len(corpus), corpus.info.patch_size) == (16, 256)
    files = {b: pixels(folder / f"{b}.tif")[0] for b in ("B02", "B08")}
    for i in range(16):
        record = corpus.record(i)
        row, column = (int(v) for v in record.id.rsplit("_", 2)[1:])
        values = corpus.read_physical(i, rasters=("cloud",))
        part = (slice(256 * row, 256 * row + 256), slice(256 * column, 256 * column + 256))
        for band, dn in files.items():
            found = values["s2"][S2_BANDS.index(band)]
            np.testing.assert_allclose(found, (dn[part] - 1000.0) / 10_000, atol=1e-6)
        assert (values["cloud"] == 0).all()
        assert record.transform[2] == pytest.approx(819627.364339148 + 2560 * column)
        assert record.transform[5] == 10340 - 2560 * row
        assert record.id.startswith(folder.name)
        assert record.product_s2 == folder.name
        assert record.date_s2 == datetime(2022, 7, 6, 8, 56, 11, tzinfo=UTC)
        assert (record.boa_offset, record.boa_offset_source) == (-1000, "product-name")


def test_coarse_bands_meet_at_the_tiles_edges(shared_data, tmp_path):
    """Tiles are cut after resampling: small ones put together are the large one."""
    source = shared_data / "majortom"
    convert(source, tmp_path / "large", patch_size=1068)
    convert(source, tmp_path / "small", patch_size=534)
    large, small = Corpus(tmp_path / "large"), Corpus(tmp_path / "small")
    whole = large.read(0, bands={"s2": ("B01", "B11")}).s2
    tiles = {
        small.record(i).id[-3:]: small.read(i, bands={"s2": ("B01", "B11")}).s2 for i in range(4)
    }
    rows = [np.concatenate([tiles[f"{i}_{j}"] for j in range(2)], axis=2) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(rows, axis=1), whole)


def test_left_over_edge_and_impossible_sizes_are_said(shared_data, tmp_path):
    report = convert(shared_data / "majortom", tmp_path / "corpus", patch_size=500)
    assert report.converted == 4
    assert any("68 rows" in note for note in report.notes)
    with pytest.raises(SourceError, match="1068"):
        convert(shared_data / "majortom", tmp_path / "other", patch_size=1069)


def test_cloud_share_is_that_of_each_tile(shared_data, tmp_path):
    (folder,) = (shared_data / "majortom").iterdir()
    source = tmp_path / "source" / folder.name
    source.mkdir(parents=True)
    shutil.copy(folder / "B02.tif", source)
    with rasterio.open(folder / "cloud_mask.tif") as file:
        profile, clouds = file.profile, file.read()
    clouds[0, :267, :534] = 1  # half of the first tile thick cloud
    clouds[0, 534:, 534:] = 3  # the last one shadow: not cloud
    clouds[0, :534, 534:] = 2
    clouds[0, :10, 534:] = 77  # not known
    with rasterio.open(source / "cloud_mask.tif", "w", **profile) as file:
        file.write(clouds)
    convert(tmp_path / "source", tmp_path / "corpus", patch_size=534)
    corpus = Corpus(tmp_path / "corpus")
    shares = {corpus.record(i).id[-3:]: corpus.record(i).cloud_percent for i in range(4)}
    assert shares == {"0_0": 50.0, "0_1": 100.0, "1_0": 0.0, "1_1": 0.0}
    assert set(np.unique(corpus.read(1, rasters=("cloud",)).rasters["cloud"])) == {2, 255}


def test_a_band_that_was_not_delivered_is_not_observed(shared_data, tmp_path):
    (folder,) = (shared_data / "majortom").iterdir()
    source = tmp_path / "source" / folder.name
    source.mkdir(parents=True)
    for band in ("B02", "B04", "B11"):
        shutil.copy(folder / f"{band}.tif", source)
    convert(tmp_path / "source", tmp_path / "corpus", patch_size=1068)
    codes = Corpus(tmp_path / "corpus").read(0).s2
    observed = [b for b, plane in zip(S2_BANDS, codes, strict=True) if (plane != 0).any()]
    assert observed == ["B02", "B04", "B11"]
