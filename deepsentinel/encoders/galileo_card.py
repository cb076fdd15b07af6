"""What is known of Galileo's weights: band groups, statistics and cards; imports no torch."""

from dataclasses import replace

from deepsentinel.encoders.card import FREE_USE, Card, Source

NANO_SHA256 = "eab6acacf527886a508a555bc24efe4b4a2cf91b162e84cd1c4a1807e942180c"
"""Of `models/nano/encoder.pt` in the Hub repository nasaharvest/galileo."""

COMMIT = "f039dd5dde966a931baeda47eb680fa89b253e4e"
"""Of that repository, with all three sizes: the one that rslearn pins too."""

HEADS = {"galileo-nano": 8, "galileo-tiny": 3, "galileo-base": 12}
"""Of the attention, which the files do not tell: `num_heads` in the authors' `config/models`."""

GROUPS: dict[str, tuple[str, ...]] = {
    "S1": ("VV", "VH"),
    "S2_RGB": ("B02", "B03", "B04"),
    "S2_Red_Edge": ("B05", "B06", "B07"),
    "S2_NIR_10m": ("B08",),
    "S2_NIR_20m": ("B8A",),
    "S2_SWIR": ("B11", "B12"),
}
"""Bands that make one token, under the authors' names and in their order."""

STATISTICS: dict[str, tuple[float, float]] = {
    "VV": (-11.72872439, 4.887145775),
    "VH": (-18.85558188, 5.73027032),
    "B02": (0.1395340873, 0.0917704144),
    "B03": (0.1338402692, 0.09132988424),
    "B04": (0.1343098838, 0.1092678724),
    "B05": (0.1543860798, 0.1047220608),
    "B06": (0.2186202207, 0.1048010161),
    "B07": (0.2525093285, 0.1143690303),
    "B08": (0.2410337719, 0.1098979178),
    "B8A": (0.2750285465, 0.1204472755),
    "B11": (0.22349111, 0.1145977406),
    "B12": (0.1474531127, 0.0980242984),
}
"""Mean and standard deviation in dB and reflectance, from the published `normalization.json`,
key "13" (10,000 of 127,155 training places), digital numbers divided by 10000."""

NANO = Card(
    name="galileo-nano",
    title="Galileo nano",
    normalisation=STATISTICS,
    normalisation_source='Galileo normalization.json, key "13"; (x - (mean - 2 std)) / (4 std)',
    levels={"s1": ("GRD",), "s2": ("L1C",)},
    resolution_m=10,
    backbone="transformer over band groups of square patches",
    fusion="token",
    licence="MIT",
    restrictions=FREE_USE["MIT"],
    data_licence="none stated for the whole; of its parts, Sentinel data is free with attribution "
    "(Copernicus), Dynamic World and WorldCereal CC-BY-4.0",
    citation="Tseng et al., Galileo: Learning Global and Local Features in Pretrained Remote "
    "Sensing Models. arXiv 2502.09356, 2025.",
    sources={
        "both": Source(
            repository="nasaharvest/galileo",
            path="models/nano/encoder.pt",
            revision=COMMIT,
            sha256=NANO_SHA256,
        )
    },
    sensors=("s1", "s2"),
    bands={
        "s1": GROUPS["S1"],
        "s2": tuple(b for name, bands in GROUPS.items() if name != "S1" for b in bands),
    },
    preprocessing="dB and reflectance x 10000, normalised as above and not clipped. A token without "
    "an observed value is left out; within one, a missing pixel is the mean of the token's observed "
    "pixels and a missing band its training mean.",
    inputs={"month": "June", "lonlat": "the location token is left out"},
    embed_dim=128,
    out_channels=(128,),
    strides=(8,),
    parameters=893_152,
    macs_per_px=112_128.0,
    min_size=16,
    proved_on="published weights",
    limits="Use this when one small network must take either sensor, any bands and any month, and "
    "32 to 96 px at once. Attention is among all tokens: cost grows with the fourth power of the "
    "side, so give a window for scenes, which is not what the authors publish. B01 and B09 are "
    "not used. It saw Level-1C: Level-2A is darker in the visible bands.",
)
"""Facts of the published weights."""


def _larger(size: str, *, width: int, parameters: int, macs_per_px: float, limits: str) -> Card:
    """The card of a larger size, whose hash is published nowhere that we know of."""
    source = replace(NANO.sources["both"], path=f"models/{size}/encoder.pt", sha256=None)
    return replace(
        NANO,
        name=f"galileo-{size}",
        title=f"Galileo {size}",
        sources={"both": source},
        embed_dim=width,
        out_channels=(width,),
        parameters=parameters,
        macs_per_px=macs_per_px,
        proved_on="smaller sister",
        limits=f"{limits} Otherwise as galileo-nano: give a window for scenes; B01 and B09 are not "
        "used; it saw Level-1C.",
    )


TINY = _larger(
    "tiny",
    width=192,
    parameters=5_488_464,
    macs_per_px=665_856.0,
    limits="Use this when galileo-nano is what you need and six times its cost can be paid.",
)
BASE = _larger(
    "base",
    width=768,
    parameters=85_654_848,
    macs_per_px=8_635_392.0,
    limits="Use this when quality counts more than cost, on a GPU.",
)
