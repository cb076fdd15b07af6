"""Bands: every spelling, every subset and order, and the figures against other tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepsentinel.bands import (
    BANDS,
    DEFAULT_BANDS,
    LEVELS,
    S1_BANDS,
    S2_BANDS,
    S2_L1C_BANDS,
    SENSORS,
    band,
    channel_bands,
    check_sensors,
    resolve_bands,
)
from deepsentinel.errors import BandError, UnknownNameError

NAMES = {sensor: [b.name for b in BANDS if b.sensor == sensor] for sensor in SENSORS}

SPELLINGS = {s.lower() for b in BANDS for s in (b.name, *b.aliases)} | {
    f"b{i}" for i in range(1, 13)
}

# The common names of the STAC EO extension: (centre, full width at half maximum) in micrometres, as
# Earth Search states them for its `sentinel-2-l2a` collection.
EARTH_SEARCH_UM = {
    "coastal": (0.443, 0.027),
    "blue": (0.490, 0.098),
    "green": (0.560, 0.045),
    "red": (0.665, 0.038),
    "rededge1": (0.704, 0.019),
    "rededge2": (0.740, 0.018),
    "rededge3": (0.783, 0.028),
    "nir": (0.842, 0.145),
    "nir08": (0.865, 0.033),
    "nir09": (0.945, 0.026),
    "swir16": (1.610, 0.143),
    "swir22": (2.190, 0.242),
}


def mangled(name: str, style: int) -> str:
    """One of the ways in which people write a name."""
    styles = (name, name.lower(), f" {name} ", name.upper())
    return styles[style % len(styles)]


def test_the_orders_are_those_of_the_contract():
    assert " ".join(S1_BANDS) == "VV VH"
    assert " ".join(S2_BANDS) == "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12"
    assert [b for b in S2_L1C_BANDS if b not in S2_BANDS] == ["B10"]
    assert S2_L1C_BANDS.index("B10") == S2_L1C_BANDS.index("B09") + 1


def test_bands_are_in_order_of_wavelength():
    """Which is Copernicus order: B8A lies between B08 and B09."""
    centres = [band(name).wavelength_nm for name in S2_L1C_BANDS]
    assert centres == sorted(centres)


@pytest.mark.parametrize(("alias", "figures"), EARTH_SEARCH_UM.items())
def test_wavelengths_agree_with_the_common_names_of_stac(alias, figures):
    """A table made by others: same band under the same common name, to 13 nm."""
    found = band(alias)
    assert found.wavelength_nm == pytest.approx(1000 * figures[0], abs=13)
    assert found.width_nm is not None
    assert found.width_nm <= 1000 * figures[1] + 1  # theirs are a little wider throughout


def test_resolutions_are_10_20_and_60_m():
    by_resolution = {r: {b.name for b in BANDS if b.resolution_m == r} for r in (10, 20, 60)}
    assert by_resolution[10] == {"VV", "VH", "HH", "HV", "B02", "B03", "B04", "B08"}
    assert by_resolution[20] == {"B05", "B06", "B07", "B8A", "B11", "B12"}
    assert by_resolution[60] == {"B01", "B09", "B10"}


def test_order_and_resolution_agree_with_torchgeo():
    """torchgeo leaves out the leading zero of some; resolved, they are the same bands."""
    from torchgeo.datasets import Sentinel2

    assert set(resolve_bands(Sentinel2.all_bands, "s2")) == set(S2_L1C_BANDS)


@pytest.mark.parametrize("row", BANDS, ids=lambda b: b.name)
def test_every_row_is_consistent(row):
    assert set(row.levels) <= set(LEVELS[row.sensor])
    assert (row.width_nm is None) == (row.sensor == "s1")
    for alias in row.aliases:
        assert alias == alias.lower()
        assert band(alias) is row
        assert resolve_bands([alias.upper().replace("-", "_")], row.sensor) == (row.name,)


def test_no_two_bands_share_a_spelling():
    for sensor in SENSORS:
        spellings = [s for b in BANDS if b.sensor == sensor for s in {b.name.lower(), *b.aliases}]
        assert len(spellings) == len(set(spellings))


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("B2", "B02"),
        ("b2", "B02"),
        ("B02", "B02"),
        ("blue", "B02"),
        ("Blue", "B02"),
        ("coastal-aerosol", "B01"),
        ("coastal_aerosol", "B01"),
        ("Coastal Aerosol", "B01"),
        ("B8", "B08"),
        ("B8a", "B8A"),
        ("b8A", "B8A"),
        ("B9", "B09"),
        ("B10", "B10"),
        ("nir", "B08"),
        ("SWIR_1", "B11"),
    ],
)
def test_spellings(spelling, name):
    assert resolve_bands([spelling], "s2") == (name,)
    assert band(spelling).name == name


@pytest.mark.parametrize("name", ["VV", "vh", "HH", "hv"])
def test_all_polarisations_are_known(name):
    found = band(name)
    assert found.sensor == "s1"
    assert resolve_bands([name], "s1") == (name.upper(),)
    assert found.wavelength_nm == pytest.approx(299_792_458 / 5.405e9 * 1e9, rel=1e-3)


@given(data=st.data())
def test_any_subset_in_any_order_resolves(data):
    sensor = data.draw(st.sampled_from(SENSORS))
    names = data.draw(st.lists(st.sampled_from(NAMES[sensor]), min_size=1, unique=True))
    styles = data.draw(st.lists(st.integers(0, 3), min_size=len(names), max_size=len(names)))
    written = [mangled(n, s) for n, s in zip(names, styles, strict=True)]
    assert resolve_bands(written, sensor) == tuple(names)
    assert channel_bands(len(names), written, sensor) == tuple(names)


@given(st.text(max_size=8))
def test_any_other_text_is_an_error_that_lists_what_is_known(text):
    if text.strip().lower().replace("_", "-").replace(" ", "-") in SPELLINGS:
        return
    with pytest.raises(BandError, match="B8A") as caught:
        band(text)
    assert repr(text) in str(caught.value)


def test_unknown_band_names_argument_known_bands_and_remedy():
    with pytest.raises(BandError) as caught:
        resolve_bands(("B04", "B77"), "s2")
    message = str(caught.value)
    assert "unknown Sentinel-2 band 'B77' in s2_bands=('B04', 'B77')" in message
    for name in S2_L1C_BANDS:
        assert name in message
    assert "Name the bands that your tensor holds, in its order" in message


@pytest.mark.parametrize(
    ("names", "sensor", "words"),
    [
        (("B02", "blue"), "s2", "B02 occurs twice"),
        (("VV", "VV"), "s1", "VV occurs twice"),
        ((), "s2", "s2=None"),
        ("B02", "s2", "one string"),
        (("VV",), "s2", "unknown Sentinel-2 band 'VV'"),
        (("B02",), "s1", "unknown Sentinel-1 band 'B02'"),
        ((3,), "s2", "unknown Sentinel-2 band 3"),
    ],
)
def test_what_no_tensor_can_hold_is_refused(names, sensor, words):
    with pytest.raises(BandError, match=words):
        resolve_bands(names, sensor)


def test_channels_without_names_are_the_default_order():
    for sensor in SENSORS:
        default = DEFAULT_BANDS[sensor]
        assert channel_bands(len(default), None, sensor) == default


def test_thirteen_channels_without_names_name_the_list_for_level_1c():
    with pytest.raises(BandError, match="S2_L1C_BANDS"):
        channel_bands(13, None, "s2")
    assert channel_bands(13, S2_L1C_BANDS, "s2") == S2_L1C_BANDS
    with pytest.raises(BandError, match=r"s2_bands=\(\.\.\.\) naming the 3 bands"):
        channel_bands(3, None, "s2")


def test_count_and_names_must_agree():
    with pytest.raises(BandError, match="s2 has 4 bands but s2_bands names 3: B04 B03 B02"):
        channel_bands(4, ("red", "green", "blue"), "s2")


def test_sensors_come_in_canonical_order_each_once():
    assert check_sensors(("s2", "s1")) == ("s1", "s2")
    assert check_sensors("s2") == ("s2",)
    for wrong in ((), ("s1", "s1")):
        with pytest.raises(UnknownNameError, match="each once"):
            check_sensors(wrong)
    with pytest.raises(UnknownNameError, match="unknown sensor 's3'"):
        check_sensors(("s1", "s3"))
