"""ESA WorldCover, the 11 classes of the 10 m maps of 2020 and 2021.

Codes, names and colours: ESA WorldCover Product User Manual v2.0 (2022), table of the class
definitions with the colour code of each.
"""

from deepsentinel.labels.classes import Scheme, rows_to_classes

WORLDCOVER = Scheme(
    name="worldcover",
    title="ESA WorldCover 2020/2021",
    source="ESA WorldCover Product User Manual v2.0, https://esa-worldcover.org",
    licence="CC-BY-4.0",
    ignore_codes=(0,),
    classes=rows_to_classes(
        [
            (10, "Tree cover", "#006400"),
            (20, "Shrubland", "#ffbb22"),
            (30, "Grassland", "#ffff4c"),
            (40, "Cropland", "#f096ff"),
            (50, "Built-up", "#fa0000"),
            (60, "Bare / sparse vegetation", "#b4b4b4"),
            (70, "Snow and ice", "#f0f0f0"),
            (80, "Permanent water bodies", "#0064c8"),
            (90, "Herbaceous wetland", "#0096a0"),
            (95, "Mangroves", "#00cf75"),
            (100, "Moss and lichen", "#fae6a0"),
        ]
    ),
)
