"""Which OpenStreetMap tags make which class, how wide its points and lines are, and its colour.

Tags follow the OpenStreetMap wiki page "Map features". Rows stand in order of precedence: a feature
gets the first class that one of its tags belongs to, and where features overlap the earlier row is
painted over the later one, so that a substation shows in its industrial estate and a wood in its
village. Widths are typical ground widths in metres, chosen by us: OpenStreetMap mostly has none.
"""

from dataclasses import dataclass

from deepsentinel.labels.classes import Scheme, rows_to_classes

ANY = "*"
"""Stands for every value of a key except `no`."""


@dataclass(frozen=True, kw_only=True)
class OsmClass:
    """One row: a class, the tags that make it, and its width where the feature has no area."""

    name: str
    group: str
    colour: str
    point_m: float
    """Diameter in metres of the disc that a point becomes."""
    line_m: float
    """Width in metres of the strip that a line becomes."""
    tags: tuple[tuple[str, tuple[str, ...]], ...]
    """Keys with their values; `ANY` for all values but `no`."""


def _row(
    name: str,
    group: str,
    colour: str,
    point_m: float,
    line_m: float,
    *tags: str,
) -> OsmClass:
    """A row from `key=value value ...` strings."""
    pairs = (tag.split("=") for tag in tags)
    return OsmClass(
        name=name,
        group=group,
        colour=colour,
        point_m=point_m,
        line_m=line_m,
        tags=tuple((key, tuple(values.split())) for key, values in pairs),
    )


OSM_CLASSES: tuple[OsmClass, ...] = (
    _row(
        "energy", "energy", "#e6007d", 30, 20,
        "power=plant generator substation switchgear compensator line tower",
        "man_made=petroleum_well gasometer",
    ),
    _row(
        "railway", "transport", "#505050", 30, 10,
        "railway=rail light_rail narrow_gauge tram monorail funicular preserved station yard",
        "landuse=railway",
    ),
    _row(
        "road", "transport", "#8c8c8c", 20, 10,
        "highway=motorway trunk primary secondary tertiary unclassified residential service",
        "highway=motorway_link trunk_link primary_link secondary_link tertiary_link",
        "highway=living_street pedestrian road track raceway services rest_area",
        "amenity=parking bus_station",
    ),
    _row(
        "harbour", "transport", "#6478a0", 40, 15,
        "harbour=*", "landuse=port harbour", "industrial=port shipyard",
        "man_made=pier breakwater quay", "leisure=marina", "amenity=ferry_terminal",
    ),
    _row("airport", "transport", "#b4a0dc", 40, 40, "aeroway=*"),
    _row(
        "extraction", "industry", "#783c14", 30, 20,
        "landuse=quarry landfill construction brownfield",
        "man_made=mineshaft adit spoil_heap tailings_pond",
    ),
    _row(
        "industry", "industry", "#a03ca0", 30, 10,
        "landuse=industrial depot", "industrial=*",
        "man_made=works storage_tank silo chimney kiln wastewater_plant water_works",
        "building=industrial warehouse factory manufacture",
    ),
    _row(
        "commerce", "settlement", "#ff6e50", 20, 10,
        "landuse=commercial retail", "building=commercial retail office supermarket hotel",
        "shop=*", "office=*", "amenity=marketplace fuel", "tourism=hotel",
    ),
    _row(
        "public", "settlement", "#ffaa8c", 20, 10,
        "landuse=education institutional religious",
        "amenity=school kindergarten college university hospital clinic townhall courthouse",
        "amenity=police fire_station prison place_of_worship library",
        "building=school university hospital church mosque temple public civic",
    ),
    _row(
        "farmstead", "farming", "#a07832", 30, 10,
        "landuse=farmyard greenhouse_horticulture",
        "building=farm farm_auxiliary barn greenhouse cowshed stable sty",
    ),
    _row("building", "settlement", "#c80000", 15, 10, "building=*"),
    _row(
        "water", "water", "#0064c8", 15, 10,
        "natural=water", "water=*", "landuse=reservoir basin", "leisure=swimming_pool",
        "waterway=river riverbank canal stream dock",
    ),
    _row("wetland", "water", "#0096a0", 30, 10, "natural=wetland mud", "wetland=*", "landuse=salt_pond"),
    _row(
        "leisure", "settlement", "#96dc78", 30, 10,
        "leisure=park garden pitch golf_course stadium sports_centre playground track",
        "landuse=recreation_ground cemetery allotments village_green", "amenity=grave_yard",
        "tourism=camp_site caravan_site zoo theme_park",
    ),
    _row("permanent crops", "farming", "#b4c832", 30, 10, "landuse=orchard vineyard plant_nursery"),
    _row("farmland", "farming", "#f0e68c", 30, 10, "landuse=farmland farm"),
    _row("forest", "nature", "#006400", 15, 15, "landuse=forest", "natural=wood"),
    _row(
        "grass and scrub", "nature", "#8cb45a", 15, 10,
        "landuse=meadow grass", "natural=grassland heath scrub fell tundra",
    ),
    _row(
        "bare ground", "nature", "#d2c8b4", 15, 10,
        "natural=sand beach dune shingle scree bare_rock",
    ),
    _row("ice", "nature", "#c8f0ff", 30, 10, "natural=glacier"),
    _row("residential", "settlement", "#e6a0a0", 30, 10, "landuse=residential"),
)  # fmt: skip

_GROUPS = [
    (1, "settlement", "#e65050"),
    (2, "industry", "#a03ca0"),
    (3, "energy", "#e6007d"),
    (4, "transport", "#787878"),
    (5, "farming", "#f0e68c"),
    (6, "water", "#0064c8"),
    (7, "nature", "#3c8c3c"),
]

_SOURCE = "OpenStreetMap tags (wiki: Map features); classes, widths and colours are deepsentinel's"
_LICENCE = "ODbL 1.0 (OpenStreetMap data)"

OSM_1 = Scheme(
    name="osm-1",
    title="OpenStreetMap, groups",
    source=_SOURCE,
    licence=_LICENCE,
    ignore_codes=(0,),
    classes=rows_to_classes(_GROUPS),
)
OSM = Scheme(
    name="osm",
    title="OpenStreetMap features",
    source=_SOURCE,
    licence=_LICENCE,
    ignore_codes=(0,),
    classes=rows_to_classes(
        (i, row.name, row.colour, row.group) for i, row in enumerate(OSM_CLASSES, start=1)
    ),
    coarser=OSM_1,
)
