"""The LULC layer of TerraMesh: Esri / Impact Observatory annual land cover, renumbered 0 to 9.

Names and order: model card of the TerraMind LULC tokenizer, which was trained on this layer (it
lists ten classes from "no data" to "rangeland"). What is certain and what is inferred stands in
`docs/design/012-terramesh-lulc.md`. Colours: those of the Esri Sentinel-2 10 m land cover layer.
"""

from deepsentinel.labels.classes import Scheme, rows_to_classes

TERRAMESH_LULC = Scheme(
    name="terramesh-lulc",
    title="TerraMesh land use and land cover",
    source=(
        "Model card of ibm-esa-geospatial/TerraMind-1.0-Tokenizer-LULC; "
        "Blumenstiel et al. 2025, TerraMesh, arXiv 2504.11172; Karra et al. 2021 (Esri)"
    ),
    licence="CC-BY-SA-4.0",
    ignore_codes=(0,),
    classes=rows_to_classes(
        [
            (1, "Water", "#1a5bab"),
            (2, "Trees", "#358221"),
            (3, "Flooded vegetation", "#87d19e"),
            (4, "Crops", "#ffdb5c"),
            (5, "Built area", "#ed022a"),
            (6, "Bare ground", "#ede9e4"),
            (7, "Snow/ice", "#f2faff"),
            (8, "Clouds", "#c8c8c8"),
            (9, "Rangeland", "#c6ad8d"),
        ]
    ),
)
