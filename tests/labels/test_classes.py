import json

import numpy as np
import pytest

from deepsentinel.errors import LabelError, UnknownNameError
from deepsentinel.labels import IGNORE, LabelClass, Scheme, list_schemes, scheme


def toy(**changes) -> Scheme:
    facts = {
        "name": "toy",
        "title": "Toy",
        "classes": (
            LabelClass(id=0, name="Water", colour="#0000ff", code=80),
            LabelClass(id=1, name="Land", colour="#00ff00", code=10),
        ),
        "ignore_codes": (0, 255),
        "aliases": ((1, 80), (2, 10)),
    }
    return Scheme(**{**facts, **changes})


@pytest.mark.parametrize("name", list_schemes())
class TestEveryScheme:
    def test_its_own_codes_come_back(self, name):
        codes = np.array(scheme(name).codes)
        ids = scheme(name).encode(codes)
        assert ids.dtype == np.int16
        np.testing.assert_array_equal(ids, np.arange(len(codes)))
        np.testing.assert_array_equal(scheme(name).decode(ids), codes)

    def test_a_raster_comes_back(self, name, rng):
        known = [*scheme(name).codes, *scheme(name).ignore_codes]
        raster = rng.choice(known, size=(7, 5))
        slow = [[_slow_id(scheme(name), code) for code in row] for row in raster]
        ids = scheme(name).encode(raster)
        np.testing.assert_array_equal(ids, slow)
        decoded = scheme(name).decode(ids, nodata=-9999)
        np.testing.assert_array_equal(decoded, np.where(ids < 0, -9999, raster))

    def test_an_unknown_code_is_named(self, name):
        with pytest.raises(LabelError, match=r"codes 31999 are not in the scheme"):
            scheme(name).encode([scheme(name).codes[0], 31999])

    def test_json_comes_back(self, name):
        text = json.dumps(scheme(name).to_json())
        assert Scheme.from_json(json.loads(text)) == scheme(name)

    def test_colours_are_rgb(self, name):
        palette = scheme(name).palette
        assert palette.shape == (len(scheme(name)), 3)
        assert palette.dtype == np.uint8
        assert [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in palette] == list(scheme(name).colours)

    def test_it_has_a_source_and_english_names(self, name):
        assert len(scheme(name).source) > 20
        assert all(n == n.strip() and n for n in scheme(name).names)

    def test_it_survives_pickle_and_hash(self, name):
        import pickle

        assert pickle.loads(pickle.dumps(scheme(name))) == scheme(name)  # noqa: S301 - our own
        assert hash(scheme(name)) == hash(scheme(name))


def _slow_id(found: Scheme, code: int) -> int:
    for label_class in found.classes:
        if label_class.code == code:
            return label_class.id
    assert code in found.ignore_codes
    return IGNORE


def test_colours_of_published_legends_are_unique():
    for name in (
        "corine",
        "worldcover",
        "terramesh-lulc",
        "bigearthnet-43",
        "bigearthnet-19",
        "osm",
    ):
        colours = scheme(name).colours
        assert len(set(colours)) == len(colours), name


def test_aliases_encode_to_the_same_class():
    np.testing.assert_array_equal(toy().encode([1, 80, 2, 10]), [0, 0, 1, 1])
    np.testing.assert_array_equal(toy().decode([0, 1]), [80, 10])  # never an alias


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32, np.float64])
def test_encode_takes_any_number_type(dtype):
    ids = toy().encode(np.array([[80, 10, 255]], dtype=dtype))
    assert ids.dtype == np.int16
    np.testing.assert_array_equal(ids, [[0, 1, -1]])


def test_nan_is_no_class():
    np.testing.assert_array_equal(toy().encode([np.nan, 10.0]), [-1, 1])
    with pytest.raises(LabelError, match="NaN but the scheme 'toy' has no no-data code"):
        toy(ignore_codes=()).encode([np.nan])


def test_empty_and_scalar_rasters():
    assert toy().encode(np.zeros((0, 3), dtype=np.uint8)).shape == (0, 3)
    assert toy().encode(80).shape == ()
    assert int(toy().encode(80)) == 0


def test_fractions_are_refused_with_the_likely_cause():
    with pytest.raises(LabelError, match="nearest neighbour"):
        toy().encode([80.5])
    with pytest.raises(LabelError, match="infinity"):
        toy().encode([np.inf])
    with pytest.raises(LabelError, match="must be numbers"):
        toy().encode(np.array(["80"]))


def test_decode_refuses_foreign_ids():
    with pytest.raises(LabelError, match=r"ids 2 are outside the scheme 'toy': 0 to 1"):
        toy().decode([0, 2])
    with pytest.raises(LabelError, match=r"ids -2 are outside"):
        toy().decode([-2])
    with pytest.raises(LabelError, match="must be integers"):
        toy().decode([0.0])


def test_decode_needs_a_code_for_no_class():
    np.testing.assert_array_equal(toy().decode([-1, 0]), [0, 80])
    np.testing.assert_array_equal(toy().decode([-1, 0], nodata=7), [7, 80])
    with pytest.raises(LabelError, match="Pass nodata"):
        toy(ignore_codes=()).decode([-1])


def test_find_ignores_case_and_names_the_nearest():
    assert toy().find("  wATER ").id == 0
    with pytest.raises(UnknownNameError, match="Did you mean 'Water'"):
        toy().find("Watr")


def test_unknown_scheme_names_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'corine'"):
        scheme("corin")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": (LabelClass(id=1, name="a", colour="#000000", code=1),)}, "count from 0"),
        ({"ignore_codes": (10,)}, "code 10 is used more than once"),
        ({"aliases": ((1, 80), (1, 10))}, "code 1 is used more than once"),
        ({"aliases": ((1, 81),)}, "aliases of codes 81"),
        (
            {"classes": (LabelClass(id=0, name="a", colour="#FFF", code=80),), "aliases": ()},
            "'#FFF' of 'a' is not '#rrggbb'",
        ),
        (
            {
                "classes": tuple(
                    LabelClass(id=i, name="same", colour="#000000", code=i + 1) for i in range(2)
                ),
                "aliases": (),
            },
            "class name 'same' is used more than once",
        ),
        (
            {
                "classes": (LabelClass(id=0, name="a", colour="#000000", code=80, parent="up"),),
                "aliases": (),
            },
            r"parents \['up'\] are not classes",
        ),
    ],
)
def test_a_scheme_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(LabelError, match=message):
        toy(**changes)


def test_json_without_a_field_is_refused():
    value = toy().to_json()
    del value["title"]
    with pytest.raises(LabelError, match=r"'toy'.*'title'"):
        Scheme.from_json(value)
    broken = toy().to_json()
    broken["classes"][0]["color"] = "#000000"
    with pytest.raises(LabelError, match="color"):
        Scheme.from_json(broken)


def test_coarsen_keeps_no_class_and_refuses_what_is_not_coarser():
    assert toy().coarsen("toy")[[0, 1, -1]].tolist() == [0, 1, -1]
    with pytest.raises(UnknownNameError, match="no coarser scheme 'corine'"):
        scheme("corine-1").coarsen("corine")


def test_importing_labels_is_cheap():
    import subprocess
    import sys

    code = (
        "import sys, deepsentinel.labels; "
        "print([m for m in ('torch', 'rasterio', 'shapely', 'pyproj') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
