import json
import math

import pytest

from deepsentinel.errors import LabelError
from deepsentinel.labels import scheme
from deepsentinel.labels.osm_table import OSM_CLASSES
from deepsentinel.labels.osm_tags import osm_class, osm_tags


def class_name(**tags: str) -> str | None:
    found = osm_class(tags)
    return None if found is None else scheme("osm").names[found]


@pytest.mark.parametrize(
    "properties",
    [
        {"power": "line", "voltage": "110000"},
        {"tags": {"power": "line", "voltage": "110000"}},
        {"tags": json.dumps({"power": "line", "voltage": "110000"})},
        {"tags": '"power"=>"line", "voltage"=>"110000"'},
        {"power": "line", "tags": '"voltage"=>"110000"'},
        {"power": "line", "voltage": "110000", "tags": None},
        {"power": "line", "voltage": "110000", "tags": math.nan, "name": math.nan, "layer": 1},
        {"power": " line ", "voltage": "110000", "tags": ""},
    ],
)
def test_tags_are_found_wherever_tools_put_them(properties):
    assert osm_tags(properties) == {"power": "line", "voltage": "110000"}


def test_hstore_with_quotes_commas_and_null():
    text = r'"name"=>"Bob \"the\" quarry, old", "landuse"=>"quarry", "note"=>NULL'
    assert osm_tags({"tags": text}) == {"name": 'Bob "the" quarry, old', "landuse": "quarry"}


@pytest.mark.parametrize("tags", ["power: line", "{power", "[1]"])
def test_unreadable_tags_are_named(tags):
    with pytest.raises(LabelError, match="neither JSON nor hstore"):
        osm_tags({"tags": tags})


def test_tags_of_another_type_are_refused():
    with pytest.raises(LabelError, match="of type list"):
        osm_tags({"tags": [["power", "line"]]})


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ({"landuse": "industrial"}, "industry"),
        ({"man_made": "works"}, "industry"),
        ({"power": "plant", "landuse": "industrial"}, "energy"),
        ({"highway": "motorway"}, "road"),
        ({"railway": "rail"}, "railway"),
        ({"aeroway": "runway"}, "airport"),
        ({"natural": "water"}, "water"),
        ({"waterway": "river"}, "water"),
        ({"landuse": "farmland"}, "farmland"),
        ({"landuse": "vineyard"}, "permanent crops"),
        ({"landuse": "residential"}, "residential"),
        ({"building": "yes"}, "building"),
        ({"building": "barn"}, "farmstead"),
        ({"building": "no", "landuse": "forest"}, "forest"),
        ({"shop": "bakery;coffee"}, "commerce"),
        ({"landuse": "Quarry"}, "extraction"),
        ({"amenity": "fuel;parking"}, "road"),
        ({"highway": "footway"}, None),
        ({"railway": "abandoned"}, None),
        ({"power": "cable", "location": "underground"}, None),
        ({"waterway": "stream", "tunnel": "culvert"}, None),
        ({"waterway": "stream", "tunnel": "no"}, "water"),
        ({"boundary": "administrative"}, None),
        ({}, None),
    ],
)
def test_classes_of_common_features(tags, name):
    assert class_name(**tags) == name


def test_every_row_can_be_reached_by_each_of_its_tags():
    """No tag of a row is shadowed by an earlier row, or the row would promise too much."""
    for i, row in enumerate(OSM_CLASSES):
        for key, values in row.tags:
            for value in values:
                assert osm_class({key: "yes" if value == "*" else value}) == i or key == "building"


def test_building_values_named_by_a_row_belong_to_it():
    for i, row in enumerate(OSM_CLASSES):
        for key, values in row.tags:
            for value in values:
                if key == "building" and value != "*":
                    assert osm_class({key: value}) == i


def test_widths_and_groups_are_sane():
    assert all(1 <= row.line_m <= 60 and 1 <= row.point_m <= 60 for row in OSM_CLASSES)
    groups = {"settlement", "industry", "energy", "transport", "farming", "water", "nature"}
    assert set(scheme("osm-1").names) == groups
    assert {row.group for row in OSM_CLASSES} == groups
