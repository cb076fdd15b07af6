"""SSL4EO-S12: where its pixels really lie, found from what the files state, judged by the pixels."""

import json
import shutil
from datetime import UTC, datetime

import numpy as np
import pytest
import rasterio
from affine import Affine
from scipy.ndimage import uniform_filter

from deepsentinel.bands import S2_BANDS, S2_L1C_BANDS
from deepsentinel.corpus.convert import convert
from deepsentinel.corpus.resample import resample
from deepsentinel.corpus.sources.ssl4eo_grid import ProductBand, Region, recover_region, true_grid
from deepsentinel.errors import SourceError

FIRST = "20200604T054639_20200604T054831_T43RCP"
RADAR = "S1A_IW_GRDH_1SDV_20200607T010800_20200607T010825_032904_03CFBA_D457"


@pytest.fixture
def place(shared_data):
    return shared_data / "ssl4eo" / "0000200"


@pytest.mark.parametrize("case", [("L2A", "s2a", S2_BANDS), ("L1C", "s2c", S2_L1C_BANDS)])
def test_native_bands_are_the_files(place, converted, pixels, case):
    level, folder, bands = case
    corpus = converted(place.parent, s2_level=level)
    assert len(corpus) == 2
    assert corpus.info.bands["s2"] == bands
    for i in range(2):
        date = corpus.record(i).id.removeprefix("0000200_")
        values = corpus.read_physical(i, bands={"s2": ("B02", "B03", "B04", "B08")})["s2"]
        for k, name in enumerate(("B2", "B3", "B4", "B8")):
            dn = pixels(place / folder / date / f"{name}.tif")[0]
            np.testing.assert_array_equal(np.rint(values[k] * 10_000), dn)


def correlation(a, b):
    return abs(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_radar_lies_better_on_optical_than_unshifted_or_as_stated(place, converted, pixels):
    corpus = converted(place)
    values = corpus.read_physical(corpus.find(f"0000200_{FIRST}"))
    optical = values["s2"][S2_BANDS.index("B02")]
    raw = pixels(place / "s1" / RADAR / "VH.tif")[0].astype(float)
    with (
        rasterio.open(place / "s1" / RADAR / "VH.tif") as s1,
        rasterio.open(place / "s2a" / FIRST / "B2.tif") as s2,
    ):
        stated = resample(raw, s1.transform, s2.transform, (264, 264))
    inside = slice(12, -12)
    found = {
        name: correlation(
            uniform_filter(np.nan_to_num(db, nan=-17.0), 3)[inside, inside], optical[inside, inside]
        )
        for name, db in (("ours", values["s1"][1]), ("raw", raw), ("stated", stated))
    }
    assert found["ours"] > found["raw"] > found["stated"]
    assert np.isfinite(values["s1"]).all()


@pytest.mark.parametrize(("coarse", "fine"), [("B01", "B02"), ("B09", "B08")])
def test_sixty_metre_bands_lie_where_their_pixels_say(place, converted, coarse, fine):
    """They are 40 m off the 10 m bands; where the crop lost them, they are not observed."""
    corpus = converted(place)
    values = corpus.read_physical(0, bands={"s2": (coarse, fine)})["s2"]
    assert np.isnan(values[0, :4]).all()
    assert np.isnan(values[0, :, :4]).all()
    assert np.isfinite(values[0, 4:, 4:]).all()
    smooth = uniform_filter(values[1], 6)[20:-20, 20:-20]
    scores = {
        (dy, dx): correlation(np.roll(values[0], (dy, dx), (0, 1))[20:-20, 20:-20], smooth)
        for dy in range(-4, 5, 2)
        for dx in range(-4, 5, 2)
    }
    assert max(scores, key=scores.get) == (0, 0)


def test_region_and_grids_are_recovered_from_a_downloader_of_our_own():
    """What the published script did to a known region, undone: every crop, every half pixel."""
    region = Region(73.29198654, 30.45230467, 73.31936759, 30.47605711)
    bands = {
        "B1": (ProductBand(Affine(60, 0, 300000, 0, -60, 3400020), "EPSG:32643"), 44),
        "VV": (ProductBand(Affine(10, 0, 158264.44, 0, -10, 3560206.22), "EPSG:32643"), 264),
    }
    found = None
    for band, size in bands.values():
        column, row, columns, rows = band.window(region)
        xres, yres = (region.east - region.west) / columns, (region.north - region.south) / rows
        xoff, yoff = int((columns - size + 1) * 0.5), int((rows - size + 1) * 0.5)
        west, north = region.west + xoff * xres, region.north - yoff * yres
        stated = Affine(xres, 0, west - xres / 2, 0, -yres, north + yres / 2)
        found = recover_region(stated, size, band, found)
        assert found.agrees(region)
        grid = true_grid(found, band, size)
        step = band.transform.a
        assert grid.transform.c == pytest.approx(band.transform.c + (column + xoff) * step)
        assert grid.transform.f == pytest.approx(band.transform.f - (row + yoff) * step)


def test_facts(place, converted):
    corpus = converted(place)
    record = corpus.record(corpus.find(f"0000200_{FIRST}"))
    assert record.crs == "EPSG:32643"
    assert record.transform == (10, 0, 336020, 0, -10, 3372760)
    assert record.date_s1 == datetime(2020, 6, 7, 1, 8, tzinfo=UTC)
    assert record.date_s2.date() == datetime(2020, 6, 4, tzinfo=UTC).date()
    assert (record.orbit_s1, record.product_s1) == ("descending", RADAR)
    assert record.product_s2 == "S2B_MSIL2A_20200604T054639_N0214_R048_T43RCP_20200604T094332"
    assert (record.boa_offset, record.boa_offset_source) == (0, "product-name")
    assert record.cloud_percent == pytest.approx(4.184628)
    gaps = [abs((corpus.record(i).date_s1 - corpus.record(i).date_s2).days) for i in range(2)]
    assert sorted(gaps) == [2, 21]
    assert len({corpus.record(i).split for i in range(2)}) == 1  # one place, one split


def copied(place, tmp_path):
    source = tmp_path / "source" / "0000200"
    shutil.copytree(place / "s1" / RADAR, source / "s1" / RADAR)
    shutil.copytree(place / "s2a" / FIRST, source / "s2a" / FIRST)
    metadata = source / "s2a" / FIRST / "metadata.json"
    metadata.chmod(0o644)
    return source, metadata


@pytest.mark.parametrize(
    "case",
    [
        (
            "S2B_MSIL2A_20200604T054639_N0500_R048_T43RCP_20230604T094332",
            "05.00",
            -1000,
            "product-name",
        ),
        (None, "04.00", -1000, "metadata"),
        (None, "02.14", 0, "metadata"),
    ],
)
def test_offset_from_metadata(place, tmp_path, case):
    product, baseline, offset, known = case
    source, metadata = copied(place, tmp_path)
    facts = json.loads(metadata.read_text())
    facts |= {"PRODUCT_ID": product, "PROCESSING_BASELINE": baseline}
    metadata.write_text(json.dumps(facts))
    report = convert(source, tmp_path / "corpus")
    assert report.offsets == {f"{known} {offset}": 1}


def test_without_the_product_grid_nothing_is_placed_by_guess(place, tmp_path):
    source, metadata = copied(place, tmp_path)
    facts = json.loads(metadata.read_text())
    del facts["system:bands"]
    metadata.write_text(json.dumps(facts))
    with pytest.raises(SourceError, match="system:bands"):
        convert(source, tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()
