"""What is known of Presto's weights: band groups and card; imports no torch."""

from deepsentinel.encoders.card import FREE_USE, Card, Source

SHA256 = "559c9d76f525bdf2dd3774da8b1e7f1510769b73baacac12e9e4d8d5c67fbe65"
"""Of `data/default_model.pt` in the repository nasaharvest/presto."""

COMMIT = "1b97f885969da4e2d5834ca8c92707c737911464"
"""Of the Hub repository nasaharvest/presto: the one that rslearn pins."""

GROUPS: dict[str, tuple[str, ...]] = {
    "S1": ("VV", "VH"),
    "S2_RGB": ("B02", "B03", "B04"),
    "S2_Red_Edge": ("B05", "B06", "B07"),
    "S2_NIR_10m": ("B08",),
    "S2_NIR_20m": ("B8A",),
    "S2_SWIR": ("B11", "B12"),
    "NDVI": ("NDVI",),
}
"""Bands that make one token, under the authors' names and in their order."""

CARD = Card(
    name="presto",
    title="Presto",
    normalisation=dict.fromkeys(GROUPS["S1"], (-25.0, 25.0))
    | dict.fromkeys((b for name in list(GROUPS)[1:-1] for b in GROUPS[name]), (0.0, 1.0)),
    normalisation_source="Presto's published preprocessing: (dB + 25) / 25, reflectance as it is",
    levels={"s1": ("GRD",), "s2": ("L1C",)},
    resolution_m=10,
    backbone="transformer over the band groups of one pixel",
    fusion="token",
    licence="MIT",
    restrictions=FREE_USE["MIT"],
    data_licence="none stated for the whole; of its parts, Sentinel data is free with attribution "
    "(Copernicus), Dynamic World CC-BY-4.0",
    citation="Tseng et al., Lightweight, Pre-trained Transformers for Remote Sensing Timeseries. "
    "arXiv 2304.14065, 2023.",
    sources={
        "both": Source(
            repository="nasaharvest/presto",
            path="default_model.pt",
            revision=COMMIT,
            sha256=SHA256,
        )
    },
    sensors=("s1", "s2"),
    bands={
        "s1": GROUPS["S1"],
        "s2": tuple(b for name in list(GROUPS)[1:-1] for b in GROUPS[name]),
    },
    preprocessing="(dB + 25) / 25, reflectance as it is, NDVI made from B08 and B04. A token without "
    "an observed band is left out; a missing band of an observed token is Galileo's training mean.",
    inputs={"month": "June", "lonlat": "the location token is left out"},
    embed_dim=128,
    out_channels=(128,),
    strides=(1,),
    parameters=400_096,
    macs_per_px=2_779_264.0,
    min_size=16,
    proved_on="published weights",
    limits="Use this when spectra matter and texture does not: pixels never see their neighbours. "
    "It was made for time series and is given one date here. Every pixel is a sequence of its own, "
    "which is slow; a stride above 1 averages pixels first, which is not what the authors publish. "
    "B01 and B09 are not used. It saw Level-1C: Level-2A is darker in the visible bands.",
)
"""Facts of the published weights; the means of missing bands are Galileo's (see `standard`)."""
