"""The tables against what is known of them elsewhere: totals, torchgeo's tables, real files."""

import ast
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from deepsentinel.errors import UnknownNameError
from deepsentinel.labels import bigearthnet_43_to_19, scheme

CLC_RGB = """
230-000-077 255-000-000 204-077-242 204-000-000 230-204-204 230-204-230 166-000-204 166-077-000
255-077-255 255-166-255 255-230-255 255-255-168 255-255-000 230-230-000 230-128-000 242-166-077
230-166-000 230-230-077 255-230-166 255-230-077 230-204-077 242-204-166 128-255-000 000-166-000
077-255-000 204-242-077 166-255-128 166-230-077 166-242-000 230-230-230 204-204-204 204-255-204
000-000-000 166-230-204 166-166-255 077-077-255 204-204-255 230-230-255 166-166-230 000-204-242
128-242-230 000-255-166 166-255-230 230-242-255
"""
"""RGB column of clc_legend.csv, grid codes 1 to 44."""


def torchgeo_literal(module: str, name: str):
    """A literal of a torchgeo dataset module, read from its source: importing it costs seconds."""
    package = importlib.util.find_spec("torchgeo")
    source = Path(package.submodule_search_locations[0], "datasets", f"{module}.py").read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", None) == name:
            return ast.literal_eval(node.value)
    pytest.skip(f"this version of torchgeo has no literal {name} in datasets.{module}")


class TestCorine:
    def test_levels_have_5_15_and_44_classes(self):
        assert [len(scheme(n)) for n in ("corine-1", "corine-2", "corine")] == [5, 15, 44]

    def test_the_hierarchy_is_the_digits_of_the_code(self):
        fine, middle, coarse = (scheme(n) for n in ("corine", "corine-2", "corine-1"))
        to_2, to_1 = fine.coarsen("corine-2"), fine.coarsen("corine-1")
        for c in fine.classes:
            assert middle.codes[to_2[c.id]] == c.code // 10
            assert coarse.codes[to_1[c.id]] == c.code // 100
        np.testing.assert_array_equal(middle.coarsen("corine-1")[to_2], to_1)
        assert to_1[-1] == -1

    def test_members_per_level_1_class(self):
        counts = np.bincount(scheme("corine").coarsen("corine-1")[:-1])
        assert counts.tolist() == [11, 11, 12, 5, 5]

    def test_grid_codes_and_three_digits_mean_the_same(self):
        corine = scheme("corine")
        np.testing.assert_array_equal(corine.encode(np.arange(1, 45)), corine.encode(corine.codes))

    def test_codes_of_no_data(self):
        codes = [48, 999, 990, 995, 49, 50, 255, -128, 0, 45, 46, 47]
        assert (scheme("corine").encode(codes) == -1).all()

    def test_colours_of_the_legend(self):
        rgb = [[int(v) for v in triple.split("-")] for triple in CLC_RGB.split()]
        np.testing.assert_array_equal(scheme("corine").palette, rgb)

    @pytest.mark.parametrize(
        ("grid_code", "code", "name"),
        [
            (1, 111, "Continuous urban fabric"),
            (12, 211, "Non-irrigated arable land"),
            (24, 312, "Coniferous forest"),
            (33, 334, "Burnt areas"),
            (39, 423, "Intertidal flats"),
            (44, 523, "Sea and ocean"),
        ],
    )
    def test_names_of_the_legend(self, grid_code, code, name):
        corine = scheme("corine")
        assert [corine.names[i] for i in corine.encode([code, grid_code])] == [name, name]

    def test_coarse_classes_have_the_colour_of_their_first_member(self):
        fine = scheme("corine")
        for name in ("corine-1", "corine-2"):
            table = fine.coarsen(name)[:-1]
            first = [int(np.argmax(table == i)) for i in range(len(scheme(name)))]
            assert scheme(name).colours == tuple(fine.colours[i] for i in first)


class TestBigEarthNet:
    def test_names_are_those_of_torchgeo_in_the_same_order(self):
        sets = torchgeo_literal("bigearthnet", "class_sets")
        assert scheme("bigearthnet-43").names == tuple(sets[43])
        assert scheme("bigearthnet-19").names == tuple(sets[19])

    def test_the_crosswalk_is_that_of_torchgeo(self):
        table = scheme("bigearthnet-43").coarsen("bigearthnet-19")
        converter = torchgeo_literal("bigearthnet", "label_converter")
        assert {i: int(t) for i, t in enumerate(table[:-1]) if t >= 0} == converter

    def test_32_classes_stay_and_11_are_dropped(self):
        table = scheme("bigearthnet-43").coarsen("bigearthnet-19")[:-1]
        assert (table >= 0).sum() == 32
        assert (table < 0).sum() == 11
        assert set(table[table >= 0].tolist()) == set(range(19))

    def test_the_dropped_ones_by_name(self):
        dropped = {c.name for c in scheme("bigearthnet-43").classes if c.parent is None}
        assert dropped == {
            "Road and rail networks and associated land",
            "Port areas",
            "Airports",
            "Mineral extraction sites",
            "Dump sites",
            "Construction sites",
            "Green urban areas",
            "Sport and leisure facilities",
            "Bare rock",
            "Burnt areas",
            "Intertidal flats",
        }
        assert bigearthnet_43_to_19(dropped) == ()

    def test_crosswalk_of_names(self):
        names = ["Water bodies", "Water courses", "Peatbogs", "Airports", "Vineyards"]
        assert bigearthnet_43_to_19(names) == (
            "Permanent crops",
            "Inland wetlands",
            "Inland waters",
        )
        assert bigearthnet_43_to_19([]) == ()

    def test_an_unknown_label_is_named(self):
        with pytest.raises(UnknownNameError, match="Did you mean 'Sea and ocean'"):
            bigearthnet_43_to_19(["Sea and oceans"])

    def test_corine_codes_become_the_19(self):
        nineteen = scheme("bigearthnet-19")
        named = [nineteen.names[i] for i in nineteen.encode([112, 333, 523])]
        assert named == [
            "Urban fabric",
            "Natural grassland and sparsely vegetated areas",
            "Marine waters",
        ]
        assert nineteen.encode([335, 124, 999]).tolist() == [-1, -1, -1]

    def test_every_label_of_the_real_patches_is_known(self, shared_data):
        import json

        files = sorted(shared_data.glob("bigearthnet/pairs/S2*/*_labels_metadata.json"))
        assert len(files) == 3
        for file in files:
            labels = json.loads(file.read_text())["labels"]
            assert bigearthnet_43_to_19(labels), file.name
        with np.load(shared_data / "bigearthnet/s2_scene/patches.npz") as scene:
            classes = [str(name) for name in scene["classes"]]
        known = set(scheme("bigearthnet-43").names) | set(scheme("bigearthnet-19").names)
        assert set(classes) <= known


class TestCdl:
    def test_codes_are_those_of_torchgeo(self):
        cmap = torchgeo_literal("cdl", "cmap")
        cdl = scheme("cdl")
        assert set(cdl.codes) | set(cdl.ignore_codes) == set(cmap)

    def test_colours_agree_with_the_rasters_up_to_rounding(self):
        cmap = torchgeo_literal("cdl", "cmap")
        ours = scheme("cdl").palette.astype(int)
        theirs = np.array([cmap[code][:3] for code in scheme("cdl").codes])
        assert np.abs(ours - theirs).max() <= 6

    @pytest.mark.parametrize(
        ("code", "name"),
        [
            (1, "Corn"),
            (5, "Soybeans"),
            (24, "Winter Wheat"),
            (61, "Fallow/Idle Cropland"),
            (111, "Open Water"),
            (176, "Grass/Pasture"),
            (190, "Woody Wetlands"),
            (254, "Dbl Crop Barley/Soybeans"),
        ],
    )
    def test_well_known_codes(self, code, name):
        assert scheme("cdl").names[int(scheme("cdl").encode(code))] == name

    def test_background_and_clouds_are_no_class(self):
        assert scheme("cdl").encode([0, 81]).tolist() == [-1, -1]


def test_worldcover_codes_step_by_ten_but_mangroves():
    assert scheme("worldcover").codes == (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100)


class TestTerraMesh:
    @pytest.fixture
    def places(self, shared_data):
        rasterio = pytest.importorskip("rasterio")

        def read(kind, place):
            (path,) = (shared_data / "terramesh" / kind).glob(f"{place}*.tif")
            with rasterio.open(path) as file:
                return file.read()

        def ids_and_reflectance(place):
            ids = scheme("terramesh-lulc").encode(read("LULC", place)[0])
            return ids, read("S2L2A", place).astype(float)

        return ids_and_reflectance

    def test_ids_0_to_9(self):
        assert scheme("terramesh-lulc").encode(range(10)).tolist() == [-1, *range(9)]

    def test_water_of_the_brazilian_coast_absorbs_infrared(self, places):
        ids, s2 = places("282D_485L_3_3")
        names = scheme("terramesh-lulc")
        green, nir = s2[2], s2[7]
        ndwi = (green - nir) / (green + nir)
        assert np.median(ndwi[ids == names.find("Water").id]) > 0.1
        assert np.median(ndwi[ids == names.find("Trees").id]) < -0.5

    def test_trees_are_green_and_bare_ground_is_bright(self, places):
        ids, s2 = places("282D_485L_3_3")
        names = scheme("terramesh-lulc")
        red, nir, swir = s2[3], s2[7], s2[10]
        trees, bare = ids == names.find("Trees").id, ids == names.find("Bare ground").id
        ndvi = (nir - red) / (nir + red)
        assert np.median(ndvi[trees]) > 0.7
        assert np.median(ndvi[bare]) < 0.2
        assert np.median(swir[bare]) > 3 * np.median(swir[trees])

    def test_the_snowy_place_is_snow(self, places):
        ids, s2 = places("609U_541L_3_0")
        assert np.unique(ids).tolist() == [scheme("terramesh-lulc").find("Snow/ice").id]
        ndsi = (s2[2] - s2[10]) / (s2[2] + s2[10])
        assert np.median(ndsi) > 0.4  # the usual threshold of snow


class TestWorldCereal:
    def test_the_real_site(self, shared_data):
        netcdf = pytest.importorskip("netCDF4")
        (path,) = (shared_data / "worldcereal").glob("OUTPUT_POLY*.nc")
        with netcdf.Dataset(path) as file:
            file.set_auto_mask(False)
            land, crop = file["LC"][:], file["CT"][:]
        cover = scheme("worldcereal-landcover")
        seen = {cover.names[i] for i in np.unique(cover.encode(land)) if i >= 0}
        assert seen == {"Annual cropland", "Grassland", "Built up / urban"}
        types = scheme("worldcereal-croptype")
        seen = {types.names[i] for i in np.unique(types.encode(crop)) if i >= 0}
        assert {"Maize", "Potatoes", "Permanent grass crops"} <= seen
        assert (types.encode(crop) == -1).sum() == (crop == 0).sum()

    def test_groups_are_the_first_digit(self):
        types, groups = scheme("worldcereal-croptype"), scheme("worldcereal-croptype-1")
        table = types.coarsen("worldcereal-croptype-1")
        assert [groups.codes[table[c.id]] for c in types.classes] == [
            c // 1000 for c in types.codes
        ]
