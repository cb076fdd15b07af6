"""CORINE Land Cover: 44 classes at level 3, 15 at level 2, 5 at level 1, with the legend's colours.

Codes, grid codes, names and RGB values: the legend that the European Environment Agency ships with
the CORINE rasters (`clc_legend.csv`: GRID_CODE, CLC_CODE, LABEL1, LABEL2, LABEL3, RGB). It gives
colours at level 3 only; at levels 1 and 2 a class has the colour of its first member.

Rasters hold either the three digits (111 to 523, as on Earth Engine) or the grid codes 1 to 44 of
the 100 m GeoTIFFs; `encode` takes both, as no number is used twice. No class: 999 and grid code 48
(no data), 990, 995 and 49, 50, 255 (unclassified), -128 (no data of the signed 8-bit GeoTIFF), and
0, which is what Earth Engine leaves where it masks. The rasters of the original DeepSentinel have
grid codes too, with 45, 46 and 47 for no data and unclassified land and water.
"""

from deepsentinel.labels.classes import Scheme, rows_to_classes

_SOURCE = (
    "European Environment Agency, CORINE Land Cover, https://land.copernicus.eu (clc_legend.csv)"
)
_LICENCE = "Copernicus full, open and free access, with attribution to the EEA"

_LEVEL_1 = [
    (1, "Artificial surfaces", "#e6004d"),
    (2, "Agricultural areas", "#ffffa8"),
    (3, "Forest and semi natural areas", "#80ff00"),
    (4, "Wetlands", "#a6a6ff"),
    (5, "Water bodies", "#00ccf2"),
]
_LEVEL_2 = [
    (11, "Urban fabric", "#e6004d"),
    (12, "Industrial, commercial and transport units", "#cc4df2"),
    (13, "Mine, dump and construction sites", "#a600cc"),
    (14, "Artificial, non-agricultural vegetated areas", "#ffa6ff"),
    (21, "Arable land", "#ffffa8"),
    (22, "Permanent crops", "#e68000"),
    (23, "Pastures", "#e6e64d"),
    (24, "Heterogeneous agricultural areas", "#ffe6a6"),
    (31, "Forests", "#80ff00"),
    (32, "Scrub and/or herbaceous vegetation associations", "#ccf24d"),
    (33, "Open spaces with little or no vegetation", "#e6e6e6"),
    (41, "Inland wetlands", "#a6a6ff"),
    (42, "Maritime wetlands", "#ccccff"),
    (51, "Inland waters", "#00ccf2"),
    (52, "Marine waters", "#00ffa6"),
]
_LEVEL_3 = [
    (111, "Continuous urban fabric", "#e6004d"),
    (112, "Discontinuous urban fabric", "#ff0000"),
    (121, "Industrial or commercial units", "#cc4df2"),
    (122, "Road and rail networks and associated land", "#cc0000"),
    (123, "Port areas", "#e6cccc"),
    (124, "Airports", "#e6cce6"),
    (131, "Mineral extraction sites", "#a600cc"),
    (132, "Dump sites", "#a64d00"),
    (133, "Construction sites", "#ff4dff"),
    (141, "Green urban areas", "#ffa6ff"),
    (142, "Sport and leisure facilities", "#ffe6ff"),
    (211, "Non-irrigated arable land", "#ffffa8"),
    (212, "Permanently irrigated land", "#ffff00"),
    (213, "Rice fields", "#e6e600"),
    (221, "Vineyards", "#e68000"),
    (222, "Fruit trees and berry plantations", "#f2a64d"),
    (223, "Olive groves", "#e6a600"),
    (231, "Pastures", "#e6e64d"),
    (241, "Annual crops associated with permanent crops", "#ffe6a6"),
    (242, "Complex cultivation patterns", "#ffe64d"),
    (
        243,
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
        "#e6cc4d",
    ),
    (244, "Agro-forestry areas", "#f2cca6"),
    (311, "Broad-leaved forest", "#80ff00"),
    (312, "Coniferous forest", "#00a600"),
    (313, "Mixed forest", "#4dff00"),
    (321, "Natural grasslands", "#ccf24d"),
    (322, "Moors and heathland", "#a6ff80"),
    (323, "Sclerophyllous vegetation", "#a6e64d"),
    (324, "Transitional woodland-shrub", "#a6f200"),
    (331, "Beaches, dunes, sands", "#e6e6e6"),
    (332, "Bare rocks", "#cccccc"),
    (333, "Sparsely vegetated areas", "#ccffcc"),
    (334, "Burnt areas", "#000000"),
    (335, "Glaciers and perpetual snow", "#a6e6cc"),
    (411, "Inland marshes", "#a6a6ff"),
    (412, "Peat bogs", "#4d4dff"),
    (421, "Salt marshes", "#ccccff"),
    (422, "Salines", "#e6e6ff"),
    (423, "Intertidal flats", "#a6a6e6"),
    (511, "Water courses", "#00ccf2"),
    (512, "Water bodies", "#80f2e6"),
    (521, "Coastal lagoons", "#00ffa6"),
    (522, "Estuaries", "#a6ffe6"),
    (523, "Sea and ocean", "#e6f2ff"),
]

_NAME_OF = {code: name for code, name, _ in (*_LEVEL_1, *_LEVEL_2)}


CORINE_1 = Scheme(
    name="corine-1",
    title="CORINE Land Cover, level 1",
    source=_SOURCE,
    licence=_LICENCE,
    ignore_codes=(0,),
    classes=rows_to_classes(_LEVEL_1),
)
CORINE_2 = Scheme(
    name="corine-2",
    title="CORINE Land Cover, level 2",
    source=_SOURCE,
    licence=_LICENCE,
    ignore_codes=(0,),
    classes=rows_to_classes((*row, _NAME_OF[row[0] // 10]) for row in _LEVEL_2),
    coarser=CORINE_1,
)
CORINE = Scheme(
    name="corine",
    title="CORINE Land Cover, level 3",
    source=_SOURCE,
    licence=_LICENCE,
    ignore_codes=(999, 990, 995, 45, 46, 47, 48, 49, 50, 255, -128, 0),
    aliases=tuple((grid, row[0]) for grid, row in enumerate(_LEVEL_3, start=1)),
    classes=rows_to_classes((*row, _NAME_OF[row[0] // 10]) for row in _LEVEL_3),
    coarser=CORINE_2,
)
