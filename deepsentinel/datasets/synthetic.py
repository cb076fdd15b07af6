"""Synthetic Sentinel-1 and Sentinel-2 scenes: land cover, spectra, speckle, terrain, clouds.

Nothing here was measured. The scenes are for demonstrations and tests that must run offline, and
are built so that a shortcut fails:

- *One sensor is not enough.* Broadleaf and flooded forest have the same spectra, as have bare
  ground and settlement; radar tells them apart. Conifer and broadleaf forest have the same
  backscatter, as have flooded forest and much of a settlement; spectra tell them apart.
- *Statistics of bands are not enough.* Shrubland and orchard hold the same values in both
  sensors; only their structure, rows or none, differs. Each scene has its own sun, season and
  radar gain, each parcel its own cover.

Spectra are round figures of the usual shape for each surface. Backscatter is near what is
commonly reported for C-band; speckle has the 4.4 looks of Sentinel-1 IW GRD high resolution
(Sentinel-1 Product Definition, equivalent number of looks). Rows lie 50 m apart, wider than in
reality, so that 10 m pixels can show them. Objects of a few pixels, for detection, can be planted
(`deepsentinel.datasets.objects`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

from deepsentinel.bands import S1_BANDS, S2_BANDS, band
from deepsentinel.corpus.codes import encode_s1, encode_s2_reflectance
from deepsentinel.corpus.format import CorpusInfo, LabelSpec
from deepsentinel.corpus.patch import LabelValue, PatchPixels, PatchRecord
from deepsentinel.corpus.write import CorpusWriter
from deepsentinel.datasets import fields
from deepsentinel.datasets.objects import (
    OBJECTS,
    boxes_of,
    place_objects,
    plant_backscatter,
    plant_reflectance,
    window_boxes,
)
from deepsentinel.errors import SampleError
from deepsentinel.labels import Scheme
from deepsentinel.labels.classes import rows_to_classes

LOOKS: Final = 4.4
RESOLUTION_M: Final = 10.0
CRS: Final = "EPSG:32633"
SCENE_PATCHES: Final = 2
"""Patches along the side of a scene; all patches of a scene belong to one split."""
SCENE_STEP_M: Final = 20_000.0
"""Distance between the corners of neighbouring scenes."""
SPLIT_SHARES: Final[dict[str, float]] = {"train": 0.7, "val": 0.15, "test": 0.15}


@dataclass(frozen=True)
class _Cover:
    """One surface: spectrum and backscatter where cover is dense (1) and where it is sparse (0)."""

    name: str
    colour: str
    share: float
    texture: str
    dense: str
    sparse: str
    vv_vh_dense: tuple[float, float]
    vv_vh_sparse: tuple[float, float]


_SPECTRA: Final[dict[str, tuple[float, ...]]] = {
    # B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12
    "water": (0.040, 0.040, 0.038, 0.028, 0.024, 0.020, 0.018, 0.016, 0.014, 0.013, 0.009, 0.006),
    "conifer": (0.020, 0.024, 0.034, 0.026, 0.050, 0.120, 0.150, 0.165, 0.172, 0.175, 0.090, 0.045),
    "leaves": (0.022, 0.028, 0.055, 0.034, 0.090, 0.250, 0.320, 0.340, 0.355, 0.360, 0.180, 0.085),
    "shrubs": (0.034, 0.042, 0.070, 0.058, 0.110, 0.210, 0.255, 0.270, 0.285, 0.290, 0.210, 0.120),
    "straw": (0.060, 0.075, 0.105, 0.135, 0.165, 0.190, 0.205, 0.225, 0.240, 0.245, 0.300, 0.215),
    "soil": (0.085, 0.105, 0.145, 0.190, 0.215, 0.235, 0.250, 0.265, 0.280, 0.285, 0.350, 0.300),
    "dark ground": (
        0.06,
        0.068,
        0.082,
        0.095,
        0.105,
        0.115,
        0.12,
        0.128,
        0.135,
        0.137,
        0.165,
        0.150,
    ),
}
_SEASONAL: Final = ("leaves", "shrubs")
"""Surfaces that turn to straw as the season goes."""

_COVERS: Final[tuple[_Cover, ...]] = (
    _Cover("water", "#2b6cb0", 0.9, "bumps", "water", "water", (-20, -27), (-22, -28)),
    _Cover(
        "conifer forest", "#1b4332", 1.0, "bumps", "conifer", "conifer", (-8, -13.5), (-10, -16)
    ),
    _Cover(
        "broadleaf forest", "#52b788", 1.0, "bumps", "leaves", "leaves", (-8, -13.5), (-10, -16)
    ),
    _Cover("flooded forest", "#0d9488", 1.0, "bumps", "leaves", "leaves", (-4, -12.5), (-6, -15)),
    _Cover("shrubland", "#b5a642", 1.1, "bumps", "shrubs", "soil", (-10, -16), (-13, -21)),
    _Cover("orchard", "#f4a261", 1.1, "rows", "shrubs", "soil", (-10, -16), (-13, -21)),
    _Cover("bare ground", "#d6c6a5", 1.0, "bumps", "soil", "dark ground", (-13, -22), (-15, -24)),
    _Cover("settlement", "#d62828", 1.0, "blocks", "soil", "dark ground", (-3, -11), (-10, -18)),
)

LANDCOVER: Final = Scheme(
    name="synthetic-landcover",
    title="Land cover of synthetic scenes",
    classes=rows_to_classes((i, c.name, c.colour) for i, c in enumerate(_COVERS)),
    source="deepsentinel.datasets.synthetic",
)


@dataclass(frozen=True, eq=False, kw_only=True)
class SyntheticScene:
    """One synthetic scene: what both sensors would see of the same ground on one day."""

    s1: NDArray[np.float32]
    """(2, H, W) backscatter in dB, VV then VH."""
    s2: NDArray[np.float32]
    """(12, H, W) reflectance, Copernicus band order; clouds are in it."""
    landcover: NDArray[np.int16]
    """(H, W) class ids of `LANDCOVER`."""
    cloud: NDArray[np.uint8]
    """(H, W) `deepsentinel.corpus.codes.CLOUD_CLASSES`."""
    dem: NDArray[np.float32]
    """(H, W) metres."""
    objects: NDArray[np.float32]
    """(N, 5) x0, y0, x1, y1 in pixels and class id of `OBJECTS`; empty where none was planted."""
    crs: str
    transform: tuple[float, float, float, float, float, float]
    """Affine (a, b, c, d, e, f), 10 m pixels, north up."""


def synthetic_scene(
    size: int = 256,
    *,
    seed: int = 0,
    clouds: bool = False,
    objects: bool = False,
    origin: tuple[float, float] = (500_000.0, 5_500_000.0),
) -> SyntheticScene:
    """A synthetic scene of `size` x `size` pixels of 10 m.

    Args:
        size: pixels along a side, 32 or more.
        seed: decides everything; the same seed and size give the same scene.
        clouds: whether clouds and their shadows lie over Sentinel-2.
        objects: whether ships, wind turbines, solar farms and greenhouses are planted.
        origin: easting and northing of the upper left corner in `EPSG:32633`.

    Raises:
        SampleError: the size is below 32.

    Example:
        >>> scene = synthetic_scene(64, seed=1)
        >>> scene.s1.shape, scene.s2.shape, int(scene.landcover.max()) < len(LANDCOVER)
        ((2, 64, 64), (12, 64, 64), True)
    """
    if size < 32:
        raise SampleError(f"a synthetic scene of {size} px was asked for; give 32 px or more.")
    generator = np.random.default_rng([seed, size])
    shape = (size, size)
    ids, classes = _parcel_classes(shape, generator)
    landcover = classes[ids]
    cover = _cover_fraction(ids, landcover, generator)
    dem = _terrain(shape, generator)
    s2 = _reflectance(ids, landcover, cover, dem, generator)
    s1 = _backscatter(ids, landcover, cover, dem, generator)
    placed = np.zeros((0, 5), dtype=np.int64)
    if objects:  # drawn apart, so that the ground is the same without them
        planter = np.random.default_rng([seed, size, 1])
        placed = place_objects(landcover == 0, planter)
        s2 = plant_reflectance(s2, placed, planter)
        s1 = plant_backscatter(s1, placed, LOOKS, planter)
    cloud = np.zeros(shape, dtype=np.uint8)
    if clouds:
        cloud = _clouds(shape, generator)
        s2 = _clouded(s2, cloud, generator)
    return SyntheticScene(
        s1=s1,
        s2=s2,
        landcover=landcover,
        cloud=cloud,
        dem=dem,
        objects=boxes_of(placed),
        crs=CRS,
        transform=(RESOLUTION_M, 0.0, origin[0], 0.0, -RESOLUTION_M, origin[1]),
    )


def write_synthetic_corpus(
    dest: str | Path,
    *,
    patches: int = 160,
    patch_size: int = 64,
    seed: int = 0,
    clouds: bool = False,
    objects: bool = False,
) -> Path:
    """Write a corpus of synthetic patches; labels are `landcover` and `landcover_class`.

    Four neighbouring patches make a scene; scenes lie 20 km apart, each wholly in one split
    (70 % train, 15 % val, 15 % test). A corpus that was not finished is continued.

    Args:
        dest: folder of the corpus.
        patches: number of patches.
        patch_size: pixels along a side of a patch.
        seed: decides everything; the same seed gives the same pixels.
        clouds: whether clouds and shadows lie over Sentinel-2; they are then in `cloud` too.
        objects: whether objects are planted; labels are then `landcover` and the boxes `objects`.

    Returns:
        The folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_synthetic_corpus(f"{folder}/demo", patches=4, patch_size=32)
        ...     sorted(p.name for p in path.iterdir())
        ['corpus.json', 'data.zarr', 'index.parquet']
    """
    if patches < 1:
        raise SampleError(f"patches={patches}: a corpus needs at least one patch.")
    path = Path(dest)
    splits = _scene_splits(-(-patches // SCENE_PATCHES**2), seed)
    info = _info(patch_size, seed, clouds=clouds, objects=objects)
    with CorpusWriter(path, info) as writer:
        for number, split in enumerate(splits):
            left = patches - number * SCENE_PATCHES**2
            places = [p for p in _places(number, seed)[:left] if p[0] not in writer.done]
            if not places:
                continue
            scene = synthetic_scene(
                SCENE_PATCHES * patch_size,
                seed=seed * 1_000_003 + number,
                clouds=clouds,
                objects=objects,
                origin=_origin(number, len(splits)),
            )
            for place in places:
                writer.add(*_cut(scene, place, patch_size, split, info))
    return path


def _parcel_classes(
    shape: tuple[int, int], generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
    """Parcel numbers (H, W) and the class of each parcel; like classes lie together."""
    ids, centres = fields.parcels(shape, 28.0, generator)
    landscape = generator.normal(0, 1.0, len(_COVERS))  # a scene favours some classes
    scores = [
        fields.smooth_noise(shape, 22.0, generator)[centres[:, 0], centres[:, 1]] + favour
        for favour in landscape + np.log([c.share for c in _COVERS])
    ]
    return ids, np.argmax(scores, axis=0).astype(np.int16)


def _cover_fraction(
    ids: NDArray[np.int64], landcover: NDArray[np.int16], generator: np.random.Generator
) -> NDArray[np.float32]:
    """(H, W) share of the dense surface in each pixel, 0 to 1: texture plus the parcel's own."""
    shape = (ids.shape[0], ids.shape[1])
    count = int(ids.max()) + 1
    angle = generator.uniform(0, np.pi, count).astype(np.float32)[ids]
    phase = generator.uniform(0, 1, count).astype(np.float32)[ids]
    offset = generator.normal(0, 0.12, count).astype(np.float32)[ids]
    textures = {
        "bumps": fields.bumps(shape, 5.0, generator),
        "rows": fields.rows(angle, phase, 5.0),
        "blocks": fields.blocks(angle, phase, 7.0),
    }
    texture = np.choose(landcover, [textures[c.texture] for c in _COVERS])
    return np.clip(texture + offset, 0, 1).astype(np.float32)


def _terrain(shape: tuple[int, int], generator: np.random.Generator) -> NDArray[np.float32]:
    """Elevation in metres; slopes of about one in eight, whatever the size of the scene."""
    hills = fields.smooth_noise(shape, 24.0, generator)
    ridges = fields.smooth_noise(shape, 6.0, generator)
    relief = 12 * hills + ridges
    steepness = np.std(np.gradient(relief, RESOLUTION_M))
    return np.asarray(300 + relief * (0.125 / steepness), dtype=np.float32)


def _slope(dem: NDArray[np.float32], azimuth: float) -> NDArray[np.float32]:
    """Rise in metres a metre towards an azimuth in radians, clockwise from north."""
    south, east = np.gradient(dem, RESOLUTION_M)
    return np.asarray(east * np.sin(azimuth) - south * np.cos(azimuth), dtype=np.float32)


def _reflectance(
    ids: NDArray[np.int64],
    landcover: NDArray[np.int16],
    cover: NDArray[np.float32],
    dem: NDArray[np.float32],
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    season = generator.uniform(0.6, 1.0)
    spectra = {k: np.array(v, dtype=np.float32) for k, v in _SPECTRA.items()}
    for name in _SEASONAL:
        spectra[name] = season * spectra[name] + (1 - season) * spectra["straw"]
    dense = np.stack([spectra[c.dense] for c in _COVERS])[landcover]  # (H, W, 12)
    sparse = np.stack([spectra[c.sparse] for c in _COVERS])[landcover]
    image = np.moveaxis(sparse + cover[..., None] * (dense - sparse), -1, 0)
    parcel = np.exp(generator.normal(0, 0.08, int(ids.max()) + 1)).astype(np.float32)[ids]
    sun = 1 + 0.8 * _slope(dem, generator.uniform(2.4, 3.6))
    light = np.clip(sun, 0.3, 1.7) * parcel
    image = image * light * _scene_gain(generator)[:, None, None]
    return _sensed(image.astype(np.float32), generator)


def _scene_gain(generator: np.random.Generator) -> NDArray[np.float32]:
    """(12,) gain of each band in one scene: brightness, and a tilt along the wavelength."""
    wavelengths = np.array([band(b).wavelength_nm for b in S2_BANDS])
    tilt = generator.normal(0, 0.08) * (wavelengths - 1000) / 1000
    return np.asarray(np.exp(generator.normal(0, 0.12) + tilt), dtype=np.float32)


def _sensed(image: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """Each band at its own resolution, with noise."""
    out = np.empty_like(image)
    for i, name in enumerate(S2_BANDS):
        out[i] = fields.blur(image[i], 0.04 * band(name).resolution_m)
    noise = generator.standard_normal(image.shape, dtype=np.float32)
    return np.asarray(out * (1 + 0.02 * noise) + 0.002 * noise[::-1], dtype=np.float32)


def _backscatter(
    ids: NDArray[np.int64],
    landcover: NDArray[np.int16],
    cover: NDArray[np.float32],
    dem: NDArray[np.float32],
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    dense = _power([c.vv_vh_dense for c in _COVERS])[:, landcover]  # (2, H, W)
    sparse = _power([c.vv_vh_sparse for c in _COVERS])[:, landcover]
    power = sparse + cover * (dense - sparse)
    parcel_db = generator.normal(0, 0.7, int(ids.max()) + 1).astype(np.float32)[ids]
    terrain_db = 12 * _slope(dem, generator.choice([1.35, 4.93]))  # ascending, descending
    gain_db = parcel_db + terrain_db + generator.normal(0, 0.8)
    speckle = generator.standard_gamma(LOOKS, power.shape, dtype=np.float32) / LOOKS
    noise_floor = 10 ** (-2.9)
    return np.asarray(
        10 * np.log10((power * 10 ** (gain_db / 10) + noise_floor) * speckle), dtype=np.float32
    )


def _power(db: list[tuple[float, float]]) -> NDArray[np.float32]:
    """(2, classes) linear power of (VV, VH) rows in dB."""
    return np.asarray(10 ** (np.array(db, dtype=np.float32) / 10), dtype=np.float32).T


def _clouds(shape: tuple[int, int], generator: np.random.Generator) -> NDArray[np.uint8]:
    """(H, W) clear, thick, thin and shadow; a cloud's shadow falls to the north-west."""
    share = generator.uniform(0.0, 0.5)
    thin = fields.cloud_field(*shape, share, generator)
    core = fields.cloud_field(*shape, 0.6, generator)
    step = max(shape) // 16
    shadow = np.roll(thin & core, (-step, -step), axis=(0, 1))
    cloud = np.zeros(shape, dtype=np.uint8)
    cloud[shadow] = 3
    cloud[thin] = 2
    cloud[thin & core] = 1
    return cloud


def _clouded(
    s2: NDArray[np.float32], cloud: NDArray[np.uint8], generator: np.random.Generator
) -> NDArray[np.float32]:
    opacity = np.array([0.0, 0.97, 0.35, 0.0], dtype=np.float32)[cloud]
    light = np.array([1.0, 1.0, 1.0, 0.4], dtype=np.float32)[cloud]
    shape = (cloud.shape[0], cloud.shape[1])
    white = np.float32(0.6) + np.float32(0.08) * fields.smooth_noise(shape, 4.0, generator)
    return (s2 * light * (1 - opacity) + white * opacity).astype(np.float32)


def _info(patch_size: int, seed: int, *, clouds: bool, objects: bool) -> CorpusInfo:
    planted = LabelSpec("objects", "boxes", OBJECTS)  # boxes and a class would share a key
    return CorpusInfo(
        name=f"synthetic-{seed}",
        licence="CC0-1.0",
        citation="Synthetic scenes made by deepsentinel; not measured by any satellite.",
        sensors=("s1", "s2"),
        bands={"s1": S1_BANDS, "s2": S2_BANDS},
        labels=(
            LabelSpec("landcover", "mask", LANDCOVER),
            planted if objects else LabelSpec("landcover_class", "label", LANDCOVER),
        ),
        patch_size=patch_size,
        resolution_m=RESOLUTION_M,
        synthetic=True,
        description="Synthetic scenes (deepsentinel.datasets.synthetic): nothing was measured.",
        extras=("cloud", "dem") if clouds else ("dem",),
    )


def _scene_splits(count: int, seed: int) -> list[str]:
    """Split of each scene, by shares, in a seeded order; train comes first where scenes are few."""
    held_out = [max(round(SPLIT_SHARES[s] * count), int(count >= 3)) for s in ("val", "test")]
    names = ["val"] * held_out[0] + ["test"] * held_out[1]
    names += ["train"] * (count - len(names))
    return [names[i] for i in np.random.default_rng([seed, count]).permutation(count)]


def _places(number: int, seed: int) -> list[tuple[str, int, int]]:
    """Id, row and column of each patch of a scene."""
    return [
        (f"synthetic-{seed}-{number:04d}-{row}{column}", row, column)
        for row, column in np.ndindex(SCENE_PATCHES, SCENE_PATCHES)
    ]


def _origin(number: int, count: int) -> tuple[float, float]:
    columns = int(np.ceil(np.sqrt(count)))
    row, column = divmod(number, columns)
    return 400_000.0 + column * SCENE_STEP_M, 5_500_000.0 - row * SCENE_STEP_M


def _cut(
    scene: SyntheticScene,
    place: tuple[str, int, int],
    patch_size: int,
    split: str,
    info: CorpusInfo,
) -> tuple[PatchRecord, PatchPixels]:
    name, row, column = place
    top, left = row * patch_size, column * patch_size
    window = (..., slice(top, top + patch_size), slice(left, left + patch_size))
    a, b, c, d, e, f = scene.transform
    transform = (a, b, c + a * left, d, e, f + e * top)
    half = patch_size / 2
    lon, lat = _LONLAT.transform(transform[2] + a * half, transform[5] + e * half)
    landcover, cloud = scene.landcover[window], scene.cloud[window]
    rasters: dict[str, NDArray[np.generic]] = {"landcover": landcover, "dem": scene.dem[window]}
    if "cloud" in info.extras:
        rasters["cloud"] = cloud
    found: dict[str, LabelValue] = {
        "landcover_class": int(np.bincount(landcover.ravel()).argmax()),
        "objects": window_boxes(scene.objects, top, left, patch_size),
    }
    record = PatchRecord(
        id=name,
        lon=float(lon),
        lat=float(lat),
        crs=scene.crs,
        transform=transform,
        split=split,
        cloud_percent=float(100 * np.isin(cloud, (1, 2)).mean()),
        labels={spec.name: found[spec.name] for spec in info.labels if spec.name in found},
    )
    pixels = PatchPixels(
        s1=encode_s1(scene.s1[window]), s2=encode_s2_reflectance(scene.s2[window]), rasters=rasters
    )
    return record, pixels


_LONLAT: Final = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
