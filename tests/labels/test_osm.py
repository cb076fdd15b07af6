import json
import math

import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from deepsentinel.errors import LabelError, UnknownNameError
from deepsentinel.labels import scheme
from deepsentinel.labels.osm import osm_boxes, osm_mask, osm_multilabel

UTM = "EPSG:32633"
EAST, NORTH = 400_000.0, 5_800_000.0
GRID = (10.0, 0.0, EAST, 0.0, -10.0, NORTH)
SHAPE = (20, 24)
OSM = scheme("osm")


def ident(name: str) -> int:
    return OSM.find(name).id


def metres(geometry) -> dict:
    """A geometry given in metres right of and below the patch's corner, as GeoJSON in UTM."""
    moved = shapely.transform(geometry, lambda xy: np.array([EAST, NORTH]) + xy * [1, -1])
    return json.loads(shapely.to_geojson(moved))


def lonlat(geometry) -> dict:
    to = pyproj.Transformer.from_crs(UTM, "EPSG:4326", always_xy=True)
    moved = shapely.transform(
        shapely.from_geojson(json.dumps(metres(geometry))),
        lambda xy: np.stack(to.transform(xy[:, 0], xy[:, 1]), axis=1),
    )
    return json.loads(shapely.to_geojson(moved))


def feature(geometry, **tags) -> dict:
    return {"type": "Feature", "geometry": geometry, "properties": tags}


def utm_mask(features, grid=GRID, shape=SHAPE):
    return osm_mask(features, grid, shape, crs=UTM, features_crs=UTM)


def slow_mask(areas, shape=SHAPE, pixel=10.0):
    """Pixel by pixel: the class with the smallest id whose area holds the pixel's centre."""
    out = np.full(shape, -1)
    for y in range(shape[0]):
        for x in range(shape[1]):
            centre = shapely.Point((x + 0.5) * pixel, (y + 0.5) * pixel)
            hit = [class_id for area, class_id in areas if area.contains(centre)]
            out[y, x] = min(hit, default=-1)
    return out


POND = shapely.Polygon(
    [(33, 41), (171, 38), (162, 133), (71, 166)], [[(90, 70), (131, 75), (101, 119)]]
)
WOOD = shapely.Polygon([(-80, 101), (300, 92), (119, 400)])


def test_polygons_against_a_point_in_polygon_loop():
    features = [feature(metres(WOOD), landuse="forest"), feature(metres(POND), natural="water")]
    want = slow_mask([(WOOD, ident("forest")), (POND, ident("water"))])
    np.testing.assert_array_equal(utm_mask(features), want)
    assert len(np.unique(want)) == 3


def test_order_of_features_does_not_matter():
    features = [feature(metres(WOOD), landuse="forest"), feature(metres(POND), natural="water")]
    np.testing.assert_array_equal(utm_mask(features), utm_mask(features[::-1]))


def test_points_and_lines_against_the_same_loop():
    track = shapely.LineString([(-30, 22.3), (101.7, 57.9), (251, 20.2)])
    mast = shapely.Point(133.3, 121.9)
    features = [feature(metres(track), railway="rail"), feature(metres(mast), power="tower")]
    got = utm_mask(features)
    # 10 m wide in the table, widened to 1.42 pixels; masts are 30 m across
    areas = [(track.buffer(7.1), ident("railway")), (mast.buffer(15), ident("energy"))]
    np.testing.assert_array_equal(got, slow_mask(areas))
    assert (got == ident("energy")).sum() >= 5


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.floats(-20, 260), st.floats(-20, 220)), min_size=2, max_size=4),
)
def test_a_line_leaves_no_gap(points):
    """Every pixel that the line itself crosses in length has a neighbour or itself painted."""
    line = shapely.LineString(points)
    mask = utm_mask([feature(metres(line), waterway="stream")])
    inside = line.intersection(shapely.box(5, 5, 235, 195))
    if inside.is_empty:
        return
    for fraction in np.linspace(0, 1, 30):
        p = shapely.line_interpolate_point(inside, fraction, normalized=True)
        if p.is_empty:
            continue
        y, x = int(p.y // 10), int(p.x // 10)
        around = mask[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        assert (around == ident("water")).any()


def test_longitude_and_latitude_give_the_same_mask():
    tags = {"natural": "water"}
    geometries = (POND, shapely.LineString([(0, 0), (240, 200)]), shapely.Point(201.2, 31.9))
    features = [feature(lonlat(g), **tags) for g in geometries]
    same = [feature(metres(g), **tags) for g in geometries]
    got = osm_mask(features, GRID, SHAPE, crs=UTM)
    assert (got != utm_mask(same)).sum() <= 2  # coordinates that round to the other side


def test_a_geographic_patch_has_widths_in_metres():
    """SSL4EO-like grid in degrees at 60 N: a degree of longitude is half one of latitude."""
    step = 10 / 111_320
    grid = (2 * step, 0.0, 10.0, 0.0, -step, 60.0)  # 10 m by 10 m pixels
    mast = {"type": "Point", "coordinates": [10 + 2 * step * 10, 60 - step * 10]}
    mask = osm_mask([feature(mast, harbour="yes")], grid, (21, 21), crs="EPSG:4326")
    painted = mask == ident("harbour")
    disc = shapely.Point(100, 100).buffer(20)  # 40 m across in the table
    np.testing.assert_array_equal(painted, slow_mask([(disc, 1)], (21, 21)) == 1)


def test_oblong_pixels_widen_by_their_longer_side():
    """Square degrees at 60 N are 5 m by 10 m: a 10 m railway becomes 14.2 m, not 7.1 or 10."""
    step = 10 / 111_320
    grid = (step, 0.0, 10.0, 0.0, -step, 60.0)
    track = {
        "type": "LineString",
        "coordinates": [[10 - step, 60 - step * 10.05], [10.1, 60 - step * 10.05]],
    }
    mask = osm_mask([feature(track, railway="rail")], grid, (20, 30), crs="EPSG:4326")
    assert np.unique(np.nonzero(mask >= 0)[0]).tolist() == [9, 10]


def test_multi_geometries_and_collections_are_drawn_whole():
    squares = [shapely.box(x, 20, x + 30, 50) for x in (10, 100, 190)]
    collection = {
        "type": "GeometryCollection",
        "geometries": [
            metres(shapely.MultiPolygon(squares[:2])),
            metres(squares[2]),
            {"type": "GeometryCollection", "geometries": [metres(shapely.Point(55, 155))]},
        ],
    }
    mask = utm_mask([feature(collection, landuse="farmland")])
    want = slow_mask(
        [(s, ident("farmland")) for s in [*squares, shapely.Point(55, 155).buffer(15)]]
    )
    np.testing.assert_array_equal(mask, want)
    assert (
        len(
            osm_boxes(
                [feature(collection, landuse="farmland")], GRID, SHAPE, crs=UTM, features_crs=UTM
            )
        )
        == 4
    )


def test_hex_ewkb_of_the_original_files_carries_its_crs():
    web = pyproj.Transformer.from_crs(UTM, "EPSG:3857", always_xy=True)
    utm = shapely.from_geojson(json.dumps(metres(POND)))
    moved = shapely.transform(utm, lambda xy: np.stack(web.transform(xy[:, 0], xy[:, 1]), axis=1))
    text = shapely.to_wkb(shapely.set_srid(moved, 3857), hex=True, include_srid=True)
    plain = shapely.to_wkb(moved, hex=True)
    want = utm_mask([feature(metres(POND), natural="water")])
    hstore = {"osm_id": 5, "tags": '"natural"=>"water"'}
    carried = {"properties": hstore, "geometry": text}
    np.testing.assert_array_equal(osm_mask([carried], GRID, SHAPE, crs=UTM), want)
    named = {"properties": hstore, "geometry": plain}
    got = osm_mask([named], GRID, SHAPE, crs=UTM, features_crs="EPSG:3857")
    np.testing.assert_array_equal(got, want)


def test_a_feature_collection_is_its_features():
    features = [feature(metres(POND), natural="water")]
    collection = {"type": "FeatureCollection", "features": features}
    np.testing.assert_array_equal(utm_mask(collection), utm_mask(features))


def test_nothing_to_draw():
    far = shapely.box(9000, 9000, 9100, 9100)
    features = [
        feature(metres(far), natural="water"),
        feature(metres(POND), boundary="administrative"),
        feature(None, natural="water"),
        feature({"type": "GeometryCollection", "geometries": []}, natural="water"),
        {"type": "Feature", "geometry": metres(POND), "properties": None},
    ]
    for given_ in ([], features):
        assert (utm_mask(given_) == -1).all()
        assert osm_boxes(given_, GRID, SHAPE, crs=UTM, features_crs=UTM).shape == (0, 5)
        hot = osm_multilabel(given_, GRID, SHAPE, crs=UTM, features_crs=UTM)
        assert hot.shape == (len(OSM),)
        assert hot.sum() == 0


def test_a_bow_tie_is_repaired():
    tie = shapely.Polygon([(20, 20), (121, 117), (121, 20), (20, 122)])
    halves = shapely.make_valid(tie)
    mask = utm_mask([feature(metres(tie), natural="water")])
    np.testing.assert_array_equal(mask, slow_mask([(halves, ident("water"))]))


class TestBoxes:
    def test_a_box_is_the_bounds_in_pixels(self):
        rows = osm_boxes(
            [feature(metres(POND), natural="water")], GRID, SHAPE, crs=UTM, features_crs=UTM
        )
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, [[3.3, 3.8, 17.1, 16.6, ident("water")]], rtol=1e-5)

    def test_clipped_at_the_border_by_the_shape_not_its_bounds(self):
        corner = shapely.Polygon(
            [(-100, 50), (60, 50), (60, -100), (90, -100), (90, 80), (-100, 80)]
        )
        rows = osm_boxes(
            [feature(metres(corner), landuse="farmland")], GRID, SHAPE, crs=UTM, features_crs=UTM
        )
        np.testing.assert_allclose(rows[0, :4], [0, 0, 9, 8], atol=1e-4)
        low = shapely.Polygon([(-100, 50), (60, 50), (60, 80), (-100, 80)])
        rows = osm_boxes(
            [feature(metres(low), landuse="farmland")], GRID, SHAPE, crs=UTM, features_crs=UTM
        )
        np.testing.assert_allclose(rows[0, :4], [0, 5, 6, 8], atol=1e-4)

    def test_small_ones_are_left_out(self):
        shed, hall = shapely.box(50, 50, 65, 90), shapely.box(100, 100, 140, 150)
        features = [feature(metres(g), building="yes") for g in (shed, hall)]

        def count(size):
            return len(osm_boxes(features, GRID, SHAPE, crs=UTM, features_crs=UTM, min_size=size))

        assert [count(size) for size in (1.0, 2.0, 4.5)] == [2, 1, 0]

    def test_only_the_classes_asked_for(self):
        features = [feature(metres(POND), natural="water"), feature(metres(WOOD), landuse="forest")]
        rows = osm_boxes(features, GRID, SHAPE, crs=UTM, features_crs=UTM, classes=["forest"])
        assert rows[:, 4].tolist() == [ident("forest")]
        with pytest.raises(UnknownNameError, match="Did you mean 'forest'"):
            osm_boxes(features, GRID, SHAPE, crs=UTM, classes=["forrest"])

    @settings(max_examples=25)
    @given(st.floats(-50, 250), st.floats(-50, 250), st.floats(25, 90), st.floats(25, 90))
    def test_boxes_lie_in_the_patch_and_hold_their_pixels(self, x, y, width, height):
        hall = feature(metres(shapely.box(x, y, x + width, y + height)), building="yes")
        rows = osm_boxes([hall], GRID, SHAPE, crs=UTM, features_crs=UTM, min_size=0)
        painted = np.argwhere(utm_mask([hall]) == ident("building"))
        if len(rows) == 0:
            assert len(painted) == 0
            return
        x0, y0, x1, y1, _ = rows[0]
        assert 0 <= x0 < x1 <= SHAPE[1]
        assert 0 <= y0 < y1 <= SHAPE[0]
        for row, column in painted:
            assert x0 - 1e-3 <= column + 0.5 <= x1 + 1e-3
            assert y0 - 1e-3 <= row + 0.5 <= y1 + 1e-3


class TestMultilabel:
    def test_what_lies_beneath_counts_too(self):
        features = [
            feature(metres(shapely.box(0, 0, 240, 200)), landuse="residential"),
            feature(metres(shapely.box(-5, -5, 245, 205)), landuse="forest"),
        ]
        assert np.unique(utm_mask(features)).tolist() == [ident("forest")]
        hot = osm_multilabel(features, GRID, SHAPE, crs=UTM, features_crs=UTM)
        assert hot.dtype == np.int64
        assert np.flatnonzero(hot).tolist() == [ident("forest"), ident("residential")]

    def test_min_area_is_in_pixels_and_sums_over_features(self):
        sheds = [
            feature(metres(shapely.box(x, 50, x + 7, 57)), building="yes") for x in (20, 60, 90)
        ]

        def hot(features, min_area):
            return osm_multilabel(
                features, GRID, SHAPE, crs=UTM, features_crs=UTM, min_area=min_area
            ).sum()

        assert hot(sheds[:1], 1.0) == 0
        assert hot(sheds, 1.0) == 1
        assert hot(sheds, 1.5) == 0
        assert hot(sheds[:1], 0.0) == 1


class TestErrors:
    def test_a_path_is_not_features(self):
        with pytest.raises(LabelError, match=r"json\.loads"):
            utm_mask("patch_OSMFC.geojson")

    def test_a_geometry_is_not_a_collection(self):
        with pytest.raises(LabelError, match="FeatureCollection"):
            utm_mask(metres(POND))

    def test_a_broken_geometry_is_named(self):
        broken = {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}
        good = feature(metres(POND), natural="water")
        with pytest.raises(LabelError, match=r"feature 1 \(id 77\): its geometry"):
            utm_mask([good, {**feature(broken, natural="water"), "id": 77}])
        with pytest.raises(LabelError, match=r"feature 0: its geometry cannot be read"):
            utm_mask([feature("not hex", natural="water")])
        with pytest.raises(LabelError, match=r"feature 0: its geometry cannot be read"):
            utm_mask([feature({"type": "Blob", "coordinates": []}, natural="water")])

    def test_coordinates_that_are_no_numbers_are_named(self):
        nowhere = {"type": "Point", "coordinates": [math.nan, 4.0]}
        with pytest.raises(LabelError, match=r"feature 0: .* finite"):
            utm_mask([feature(nowhere, power="tower")])

    def test_metres_taken_for_degrees(self):
        with pytest.raises(LabelError, match="features_crs names another"):
            osm_mask([feature(metres(POND), natural="water")], GRID, SHAPE, crs=UTM)

    def test_no_feature(self):
        with pytest.raises(LabelError, match="feature 0 is not a GeoJSON feature"):
            utm_mask([{"natural": "water"}])

    def test_an_unknown_crs(self):
        with pytest.raises(LabelError, match="no way from CRS"):
            osm_mask([], GRID, SHAPE, crs="EPSG:0")

    def test_a_flat_transform_and_an_empty_shape(self):
        with pytest.raises(LabelError, match="not a pixel grid"):
            utm_mask([], grid=(0, 0, 0, 0, 0, 0))
        with pytest.raises(LabelError, match="both positive"):
            utm_mask([], shape=(0, 4))


def test_a_rotated_grid():
    """Rotation of the pixel grid is part of the transform, not of the features."""
    angle = math.radians(30)
    c, s = 10 * math.cos(angle), 10 * math.sin(angle)
    grid = (c, s, EAST, s, -c, NORTH)
    square = shapely.box(50, 50, 110, 90)  # in pixels x 10 of the rotated grid
    mapped = shapely.transform(
        square,
        lambda xy: np.stack(
            [EAST + (c * xy[:, 0] + s * xy[:, 1]) / 10, NORTH + (s * xy[:, 0] - c * xy[:, 1]) / 10],
            axis=1,
        ),
    )
    geometry = json.loads(shapely.to_geojson(mapped))
    mask = utm_mask([feature(geometry, natural="water")], grid=grid)
    np.testing.assert_array_equal(mask, slow_mask([(square, ident("water"))]))
