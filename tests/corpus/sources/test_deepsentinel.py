"""The original layout: samples written as the project's own code wrote them, converted and opened."""

import json
import pickle

import numpy as np
import pytest
from affine import Affine
from rasterio.features import rasterize
from rasterio.warp import transform

from deepsentinel.bands import S2_BANDS, S2_L1C_BANDS
from deepsentinel.corpus.convert import convert
from deepsentinel.corpus.opening import open_corpus
from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.source_corpus import SourceCorpus
from deepsentinel.errors import BandError, SourceError, SplitError, UnknownNameError
from deepsentinel.labels import scheme

SIZE = 32
X0, Y0, CRS = 500_000.0, 5_000_000.0, "EPSG:32631"
DATE, S2_NAME = "2019-07-05", "COPERNICUS/S2_SR/20190705T105621_20190705T105621_T31TEL"
S1_NAME = "COPERNICUS/S1_GRD/S1A_IW_GRDH_1SDV_20190704T174321_20190704T174346_027968_032888_1A2B"


def names(idx, origin):
    """`<idx>_<origin>_<date>_<lon>_<lat>`, longitude and latitude as Python prints floats."""
    (lon,), (lat,) = transform(CRS, "EPSG:4326", [X0 + 160], [Y0 - 160])
    return "_".join([str(idx), origin, DATE, str(lon), str(lat)])


def tile():
    """A Descartes Labs tile, as `json.dump(tile)` left it."""
    return {
        "geometry": {"type": "Polygon", "coordinates": []},
        "type": "Feature",
        "properties": {
            "cs_code": CRS,
            "key": "32:0:10.0:31:0:1",
            "geotrans": [X0, 10.0, 0, Y0, 0, -10.0],
            "zone": 31,
            "tilesize": SIZE,
        },
    }


def write_gee(folder, idx, rng):
    """What `GEE_downloader` saves."""
    s2 = rng.integers(1, 5000, (SIZE, SIZE, 12)).astype(np.float32)
    s2[:3, :4] = 0  # masked pixels come as 0
    s1 = rng.normal(-14, 3, (SIZE, SIZE, 2)).astype(np.float32)
    s1[:2, :2] = 0
    root = folder / str(idx) / names(idx, "GEE")
    root.parent.mkdir(parents=True, exist_ok=True)
    np.savez(f"{root}_S2arr.npz", arr=s2)
    np.savez(f"{root}_S1arr.npz", arr=s1)
    meta = {"tile": None, "S2_name": S2_NAME, "S1_name": S1_NAME, "x_off": X0, "y_off": Y0}
    meta |= {"patch_size": SIZE, "crs_code": CRS, "S2_bands": [], "S1_bands": ["VV", "VH"]}
    (folder / str(idx) / f"{root.name}_meta.json").write_text(json.dumps(meta))
    (folder / str(idx) / f"{root.name}_S2thumb.png").write_bytes(b"png")
    return s2, s1


def write_dl(folder, idx, rng):
    """What `DL_downloader` saves."""
    s2 = rng.integers(1, 5000, (SIZE, SIZE, 14)).astype(np.float32)
    s2[..., 13] = 1  # alpha
    s2[-5:, -6:, 13] = 0
    s1 = rng.integers(1, 256, (SIZE, SIZE, 2)).astype(np.float32)
    root = folder / str(idx) / names(idx, "DL")
    root.parent.mkdir(parents=True, exist_ok=True)
    np.savez(f"{root}_S2arr.npz", arr=s2)
    np.savez(f"{root}_S1arr.npz", arr=s1)
    for part in ("S2meta", "S1meta"):
        (folder / str(idx) / f"{root.name}_{part}.json").write_text(json.dumps({"bands": []}))
    (folder / str(idx) / f"{root.name}_tile.json").write_text(json.dumps(tile()))
    return s2, s1


def write_labels(folder, idx, rng):
    """What `DL_CLC_downloader` and `OSM_downloader` save."""
    corine = rng.integers(0, 48, (SIZE, SIZE)).astype(np.uint8)
    np.savez(folder / str(idx) / f"{names(idx, 'LC')}_LCarr.npz", arr=corine)
    (folder / str(idx) / f"{names(idx, 'LC')}_LCmeta.json").write_text("{}")
    corners = [(X0 + 40, Y0 - 40), (X0 + 120, Y0 - 40), (X0 + 120, Y0 - 100), (X0 + 40, Y0 - 100)]
    lons, lats = transform(CRS, "EPSG:4326", *zip(*corners, strict=True))
    ring = [list(p) for p in zip(lons, lats, strict=True)]
    plant = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        "properties": {"power": "plant"},
    }
    path = folder / str(idx) / f"{names(idx, 'OSMFC')}.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [plant]}))
    return corine


def in_physical(array):
    return np.where(array == 0, np.nan, array / 10_000).transpose(2, 0, 1)


def test_gee_samples(tmp_path, rng):
    arrays = [write_gee(tmp_path / "source", idx, rng) for idx in range(3)]
    report = convert(tmp_path / "source", tmp_path / "corpus")
    assert (report.kind, report.converted, report.skipped) == ("deepsentinel", 3, ())
    corpus = Corpus(tmp_path / "corpus")
    for idx, (s2, s1) in enumerate(arrays):
        i = corpus.find(names(idx, "GEE"))
        values, record = corpus.read_physical(i), corpus.record(i)
        np.testing.assert_allclose(values["s2"], in_physical(s2), atol=1e-6)
        wanted = np.where(s1 == 0, np.nan, s1).transpose(2, 0, 1)
        np.testing.assert_allclose(values["s1"], wanted, atol=0.005 + 1e-5)
        assert (record.crs, record.transform) == (CRS, (10, 0, X0, 0, -10, Y0))
        assert record.date_s2.isoformat() == "2019-07-05T10:56:21+00:00"
        assert record.date_s1.isoformat() == "2019-07-04T17:43:21+00:00"
        assert record.product_s2 == "20190705T105621_20190705T105621_T31TEL"
        assert (record.boa_offset, record.boa_offset_source) == (0, "source")
    assert corpus.info.bands == {"s1": ("VV", "VH"), "s2": S2_BANDS}


def test_dl_samples_leave_unmapped_radar_out_unless_told(tmp_path, rng):
    s2, s1 = write_dl(tmp_path / "source", 7, rng)
    report = convert(tmp_path / "source", tmp_path / "corpus")
    corpus = Corpus(tmp_path / "corpus")
    assert corpus.info.bands == {"s2": S2_L1C_BANDS}
    wanted = np.where(s2[..., 13] > 0, s2[..., :13].transpose(2, 0, 1) / 10_000, np.nan)
    np.testing.assert_allclose(corpus.read_physical(0)["s2"], wanted, atol=1e-6)
    assert corpus.record(0).transform == (10, 0, X0, 0, -10, Y0)
    (skipped,) = report.skipped
    assert "not published" in skipped.reason
    assert "--s1-range" in skipped.remedy

    told = convert(tmp_path / "source", tmp_path / "told", s1_range=(-40.0, 10.0))
    db = Corpus(told.path).read_physical(0)["s1"]
    np.testing.assert_allclose(db, -40 + s1.transpose(2, 0, 1) / 255 * 50, atol=0.005 + 1e-5)
    assert told.skipped == ()


def test_both_origins_of_one_sample_are_two_patches(tmp_path, rng):
    write_gee(tmp_path / "source", 3, rng)
    write_dl(tmp_path / "source", 3, rng)
    convert(tmp_path / "source", tmp_path / "corpus")
    corpus = Corpus(tmp_path / "corpus")
    assert len(corpus) == 2
    gee = corpus.read(corpus.find(names(3, "GEE")), bands={"s2": ("B10", "B11")})
    assert (gee.s2[0] == 0).all()  # GEE's Level-2A has no B10: not observed
    assert (gee.s2[1] != 0).any()
    assert corpus.read(corpus.find(names(3, "DL"))).s1 is None
    assert len({corpus.record(i).split for i in range(2)}) == 1


def test_labels(tmp_path, rng):
    write_gee(tmp_path / "source", 1, rng)
    grid_codes = write_labels(tmp_path / "source", 1, rng)
    write_gee(tmp_path / "source", 2, rng)  # one sample without labels
    convert(tmp_path / "source", tmp_path / "corpus")
    corpus = Corpus(tmp_path / "corpus")
    i = corpus.find(names(1, "GEE"))
    masks = corpus.read(i, rasters=("corine", "osm")).rasters
    classed = (grid_codes >= 1) & (grid_codes <= 44)
    np.testing.assert_array_equal(
        masks["corine"], np.where(classed, grid_codes.astype(int) - 1, -1)
    )
    energy = scheme("osm").find("energy").id
    area = {"type": "Polygon", "coordinates": [[(4, 4), (12, 4), (12, 10), (4, 10), (4, 4)]]}
    wanted = rasterize([(area, energy)], out_shape=(SIZE, SIZE), fill=-1, dtype="int16")
    np.testing.assert_array_equal(masks["osm"], wanted)
    labels = corpus.record(i).labels
    assert labels["osm_classes"] == (energy,)
    np.testing.assert_allclose(labels["osm_boxes"], [(4, 4, 12, 10, energy)], atol=1e-3)
    other = corpus.record(corpus.find(names(2, "GEE")))
    assert other.labels == {}
    assert not corpus.read(corpus.find(other.id), rasters=("corine",)).rasters


def test_after_the_offset_began_names_say_nothing(tmp_path, rng):
    """A sample of 2022 is judged by its pixels; what they do not decide is left out."""
    write_gee(tmp_path / "source", 1, rng)
    for file in (tmp_path / "source" / "1").iterdir():
        file.rename(file.with_name(file.name.replace(DATE, "2022-07-05")))
    report = convert(tmp_path / "source", tmp_path / "corpus")
    assert report.offsets == {"detected 0": 1}  # DN go down to 1


@pytest.mark.parametrize("part", ["S2arr.npz", "S1arr.npz", "meta.json"])
def test_a_broken_file_leaves_out_its_sample(tmp_path, rng, part):
    for idx in (1, 2):
        write_gee(tmp_path / "source", idx, rng)
    (broken,) = (tmp_path / "source" / "1").glob(f"*_{part}")
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    report = convert(tmp_path / "source", tmp_path / "corpus")
    assert report.converted == 1
    assert [s.name for s in report.skipped] == [names(1, "GEE")]
    assert part in report.skipped[0].reason


def test_opened_as_it_is_it_reads_what_converting_stores(tmp_path, rng):
    for idx in range(4):
        write_gee(tmp_path / "source", idx, rng)
    write_labels(tmp_path / "source", 0, rng)
    convert(tmp_path / "source", tmp_path / "corpus")
    stored, direct = Corpus(tmp_path / "corpus"), open_corpus(tmp_path / "source")
    assert isinstance(direct, SourceCorpus)
    direct = pickle.loads(pickle.dumps(direct))  # noqa: S301 - our own bytes
    assert (len(direct), direct.info.bands) == (len(stored), stored.info.bands)
    assert direct.info.splits == stored.info.splits
    columns = ["id", "lon", "lat", "split", "date_s2", "geometry"]
    assert direct.index.select(columns).equals(stored.index.select(columns))
    bands = {"s2": ("B8A", "B02"), "s1": ("VH",)}
    for i in range(len(stored)):
        assert direct.record(i) == stored.record(i)
        assert direct.find(stored.record(i).id) == i
        ours = direct.read_physical(i, bands=bands, rasters=("corine",))
        theirs = stored.read_physical(i, bands=bands, rasters=("corine",))
        assert set(ours) == set(theirs)
        for name, values in theirs.items():
            np.testing.assert_array_equal(ours[name], values)
        alone, stored_alone = (
            c.read_physical(i, sensors=(), rasters=("corine",)) for c in (direct, stored)
        )
        assert set(alone) == set(stored_alone) == set(ours) - {"s1", "s2"}
    for split in (None, *stored.info.splits):
        np.testing.assert_array_equal(direct.rows(split), stored.rows(split))


def test_opened_as_it_is_refuses_what_it_lacks(tmp_path, rng):
    write_dl(tmp_path / "source", 0, rng)
    direct = open_corpus(tmp_path / "source")
    with pytest.raises(SplitError, match="nosuch"):
        direct.rows("nosuch")
    with pytest.raises(UnknownNameError, match="s2"):
        direct.read(0, sensors=("s1",))
    with pytest.raises(BandError, match="B99"):
        direct.read(0, bands={"s2": ("B99",)})
    with pytest.raises(UnknownNameError, match="corine"):
        direct.read(0, rasters=("corine",))
    with pytest.raises(UnknownNameError, match="no patch"):
        direct.find("nosuch")


def test_the_dataset_class_opens_it(tmp_path, rng):
    datasets = pytest.importorskip("deepsentinel.datasets.dataset")
    s2, s1 = write_gee(tmp_path / "source", 0, rng)
    sample = datasets.DeepSentinelDataset(tmp_path / "source", None)[0]
    np.testing.assert_allclose(sample["image_s2"].numpy(), in_physical(s2), atol=1e-6)
    wanted = np.where(s1 == 0, np.nan, s1).transpose(2, 0, 1)
    np.testing.assert_allclose(sample["image_s1"].numpy(), wanted, atol=0.005 + 1e-5)
    assert sample["meta"].id == names(0, "GEE")


def test_a_folder_of_only_unmapped_radar_is_an_error(tmp_path, rng):
    write_dl(tmp_path / "source", 0, rng)
    for file in (tmp_path / "source" / "0").glob("*_S2arr.npz"):
        file.unlink()
    with pytest.raises(SourceError, match="8-bit"):
        convert(tmp_path / "source", tmp_path / "corpus")


def test_grid_of_a_tile_is_gdal_order():
    from deepsentinel.corpus.sources.deepsentinel import _grid

    assert _grid(tile(), (SIZE, SIZE)).transform == Affine(10, 0, X0, 0, -10, Y0)
