"""zarr-python, xarray and geopandas as references for the bytes that we write, and the reverse."""

import json

import geopandas as gpd
import numpy as np
import pytest
import shapely
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deepsentinel.bands import S1_BANDS, S2_BANDS
from deepsentinel.corpus.arrays import corpus_arrays
from deepsentinel.corpus.format import CorpusInfo
from deepsentinel.corpus.patch import PatchPixels, PatchRecord
from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.shard import check_patch, load_table, table_bytes
from deepsentinel.corpus.write import CorpusWriter


def test_zarr_python_reads_every_array(tiny_corpus, make_patch, info):
    group = zarr.open_group(tiny_corpus / "data.zarr", mode="r")
    for k in range(12):
        _, pixels = make_patch(k)
        stored = {"s1": pixels.s1, "s2": pixels.s2, **pixels.rasters}
        for name, spec in corpus_arrays(info).items():
            wanted = stored.get(name)
            if wanted is None:
                wanted = np.full(spec.patch_shape, spec.fill, spec.dtype)
            np.testing.assert_array_equal(group[name][k], wanted)
    assert group["band_s2"][:].tolist() == ["B02", "B03", "B04", "B8A"]
    assert group["band_height"][:].tolist() == ["canopy", "ground"]


@pytest.mark.parametrize("options", [{}, {"consolidated": True}, {"consolidated": False}])
def test_xarray_shows_physical_units(tiny_corpus, options):
    corpus = Corpus(tiny_corpus)
    with xr.open_zarr(tiny_corpus / "data.zarr", chunks=None, **options) as data:
        assert data.s1.dims == ("patch", "band_s1", "y", "x")
        assert data.landcover.dims == ("patch", "y", "x")
        assert data.s2.sel(band_s2="B8A").shape == (12, 16, 16)
        assert data.s1.attrs["units"] == "dB"
        assert data.landcover.attrs["flag_meanings"] == "Water Tree_cover Built-up"
        for k in range(12):
            physical = corpus.read_physical(k, rasters=("height", "dem"))
            for name in ("s1", "s2", "height", "dem"):
                got = data[name][k].to_numpy()
                wanted = physical.get(name, np.full(got.shape, np.nan))
                np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)


def test_zarr_python_writes_the_same_format(tmp_path, tiny_corpus, info):
    """What zarr-python makes of our metadata and pixels passes our own checks."""
    ours = zarr.open_group(tiny_corpus / "data.zarr", mode="r")
    spec = corpus_arrays(info)["s2"]
    metadata = json.loads((tiny_corpus / "data.zarr" / "s2" / "zarr.json").read_text())
    (tmp_path / "s2").mkdir()
    (tmp_path / "s2" / "zarr.json").write_text(json.dumps(metadata))
    theirs = zarr.open_array(tmp_path / "s2", mode="r+")
    theirs[:] = ours["s2"][:]
    data = (tmp_path / "s2" / "c" / "0" / "0" / "0" / "0").read_bytes()
    table = load_table(spec, data[-table_bytes(spec) :])
    for patch in (0, 1, 11):
        for band, (start, size) in enumerate(table[patch].tolist()):
            one_band = type(spec)(**{**spec.__dict__, "channels": ("B02",)})
            chunk = data[start : start + size]
            assert list(check_patch(one_band, chunk)) == [], band


def test_metadata_is_what_zarr_python_would_write(tmp_path, tiny_corpus):
    group = zarr.open_group(tiny_corpus / "data.zarr", mode="r", use_consolidated=False)
    for name, array in group.arrays():
        written = json.loads((tiny_corpus / "data.zarr" / name / "zarr.json").read_text())
        parsed = array.metadata.to_dict()
        for key in ("shape", "data_type", "chunk_grid", "dimension_names", "attributes"):
            assert json.loads(json.dumps(parsed[key])) == written[key], (name, key)
    inside = json.loads((tiny_corpus / "data.zarr" / "zarr.json").read_text())
    for name, value in inside["consolidated_metadata"]["metadata"].items():
        assert value == json.loads((tiny_corpus / "data.zarr" / name / "zarr.json").read_text())


def test_geopandas_reads_the_index(tiny_corpus, make_patch):
    frame = gpd.read_parquet(tiny_corpus / "index.parquet")
    assert frame.crs == "OGC:CRS84"
    utm = frame.geometry.iloc[2:3].to_crs("EPSG:32631").iloc[0]
    a, _, c, _, e, f = make_patch(2)[0].transform
    wanted = shapely.box(c, f + 16 * e, c + 16 * a, f)
    assert utm.symmetric_difference(wanted).area < 1e-3 * wanted.area
    assert frame.split.isna().tolist() == [k % 4 == 3 for k in range(12)]
    assert str(frame.date_s1.dtype) == "datetime64[us, UTC]"
    assert frame.dominant[0] == 0
    assert list(frame.present[0]) == [0, 2]
    assert frame.things[0][0]["class"] == 2


CODES = {
    "s1": hnp.arrays(np.int16, (2, 8, 8), elements=st.integers(-32768, 32767)),
    "s2": hnp.arrays(np.uint16, (12, 8, 8), elements=st.integers(0, 65535)),
}


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    s1=st.none() | CODES["s1"],
    s2=CODES["s2"],
    s1_bands=st.permutations(S1_BANDS).flatmap(lambda p: st.integers(1, 2).map(lambda n: p[:n])),
    s2_bands=st.permutations(S2_BANDS).flatmap(lambda p: st.integers(1, 12).map(lambda n: p[:n])),
)
def test_any_codes_and_any_bands_come_back(tmp_path_factory, s1, s2, s1_bands, s2_bands):
    root = tmp_path_factory.mktemp("any")
    info = CorpusInfo(
        name="any",
        sensors=("s1", "s2"),
        bands={"s1": S1_BANDS, "s2": S2_BANDS},
        patch_size=8,
        resolution_m=10,
    )
    with CorpusWriter(root, info) as writer:
        writer.add(PatchRecord(id="a"), PatchPixels(s1=s1, s2=s2))
    corpus = Corpus(root, checksum=True)
    bands = {"s1": s1_bands, "s2": s2_bands}
    got, physical = corpus.read(0, bands=bands), corpus.read_physical(0, bands=bands)
    where = [S2_BANDS.index(b) for b in s2_bands]
    np.testing.assert_array_equal(got.s2, s2[where])
    np.testing.assert_array_equal(np.isnan(physical["s2"]), s2[where] == 0)
    if s1 is None:
        assert got.s1 is None
        return
    where = [S1_BANDS.index(b) for b in s1_bands]
    np.testing.assert_array_equal(got.s1, s1[where])
    np.testing.assert_array_equal(np.isnan(physical["s1"]), s1[where] == -32768)
