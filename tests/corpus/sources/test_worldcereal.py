"""WorldCereal: date pairs within three days, S1 and 20 m bands on the 10 m grid, two masks."""

from datetime import timedelta

import netCDF4
import numpy as np
import pytest

from deepsentinel.corpus.convert import convert
from deepsentinel.corpus.read import Corpus
from deepsentinel.labels import scheme

S1 = "S1_GRD-ASCENDING_20m"
FINE, COARSE = "S2_L2A_10m", "S2_L2A_20m"


@pytest.fixture
def raw(shared_data):
    """Arrays and dates of the site, by netCDF4 alone: raw["S2_L2A_10m"]["B02"]."""
    arrays = {}
    for start in (S1, FINE, COARSE, "OUTPUT_POLY"):
        (path,) = (shared_data / "worldcereal").glob(f"{start}*.nc")
        with netCDF4.Dataset(path) as file:
            file.set_auto_mask(False)
            file.set_auto_scale(False)
            arrays[start] = {n: v[...] for n, v in file.variables.items()}
            if "timestamp" in file.variables:
                time = file["timestamp"]
                dates = netCDF4.num2date(time[...], time.units, only_use_cftime_datetimes=False)
                arrays[start]["dates"] = list(dates)
    return arrays


def test_site(shared_data, tmp_path, raw):
    report = convert(shared_data / "worldcereal", tmp_path / "corpus", resampling="nearest")
    corpus = Corpus(tmp_path / "corpus")
    assert report.converted + len(report.skipped) == 118
    assert corpus.info.bands["s2"] == (
        "B02",
        "B03",
        "B04",
        "B05",
        "B06",
        "B07",
        "B08",
        "B8A",
        "B11",
        "B12",
    )
    for i in range(0, len(corpus), 9):
        record = corpus.record(i)
        assert abs(record.date_s1 - record.date_s2) <= timedelta(days=3)
        at = raw[FINE]["dates"].index(record.date_s2.replace(tzinfo=None))
        near = raw[S1]["dates"].index(record.date_s1.replace(tzinfo=None))
        gaps = [abs(d - raw[FINE]["dates"][at]) for d in raw[S1]["dates"]]
        assert gaps[near] == min(gaps)
        values = corpus.read_physical(i, rasters=("landcover", "croptype", "cloud"))
        for band in ("B02", "B08"):
            found = values["s2"][corpus.info.bands["s2"].index(band)]
            np.testing.assert_allclose(found, raw[FINE][band][at] * 1e-4, atol=1e-6)
        swir = values["s2"][corpus.info.bands["s2"].index("B11")]
        np.testing.assert_allclose(swir[::2, 1::2], raw[COARSE]["B11"][at] * 1e-4, atol=1e-6)
        for k, band in enumerate(("VV", "VH")):
            db = raw[S1][band][near] * 1e-4
            np.testing.assert_allclose(values["s1"][k, 1::2, ::2], db, atol=0.005 + 1e-4)
        codes = np.where(raw["OUTPUT_POLY"]["LC"] == 99, 0, raw["OUTPUT_POLY"]["LC"])
        np.testing.assert_array_equal(
            scheme("worldcereal-landcover").decode(values["landcover"]), codes
        )
        crops = scheme("worldcereal-croptype").decode(values["croptype"])
        np.testing.assert_array_equal(crops, raw["OUTPUT_POLY"]["CT"])
        cloudy = np.isin(raw[COARSE]["SCL"][at], (8, 9, 10))
        np.testing.assert_array_equal(np.isin(values["cloud"], (1, 2))[::2, ::2], cloudy)
        assert record.cloud_percent == pytest.approx(100 * cloudy.mean(), abs=0.01)
        assert (record.crs, record.transform) == ("EPSG:32631", (10, 0, 501360, 0, -10, 5629680))
        assert (record.orbit_s1, record.boa_offset_source) == ("ascending", "source")


def test_radar_is_averaged_as_power(shared_data, converted, raw):
    """Bilinear doubling keeps the mean of power (not of dB) inside the site."""
    corpus = converted(shared_data / "worldcereal")
    power = 10 ** (corpus.read_physical(0, sensors=("s1",))["s1"][0].astype(float) / 10)
    near = raw[S1]["dates"].index(corpus.record(0).date_s1.replace(tzinfo=None))
    wanted = 10 ** (raw[S1]["VV"][near] * 1e-5)
    four = power[1:3, 1:3]  # around the corner that the first four radar pixels share
    weights = np.array([[9, 3], [3, 1]]) / 16
    assert four[0, 0] == pytest.approx((weights * wanted[:2, :2]).sum(), rel=2e-3)
