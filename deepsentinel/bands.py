"""Sensors and bands: names, order, wavelengths, widths and resolutions, once.

Sentinel-2 figures are those of Sentinel-2A from the Copernicus SentiWiki page "S2 Mission"
(spectral bands of the MSI, table of central wavelengths and bandwidths); Sentinel-2B and -2C
differ by at most 17 nm (B12). Sentinel-1 figures are from the SentiWiki page "S1 Mission":
C-band at 5.405 GHz, that is 55.5 mm, 10 m pixel spacing of the high-resolution IW GRD product.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from deepsentinel.errors import BandError, UnknownNameError, nearest

Sensor = Literal["s1", "s2"]
SENSORS: tuple[Sensor, ...] = get_args(Sensor)
SENSOR_TITLES: dict[Sensor, str] = {"s1": "Sentinel-1", "s2": "Sentinel-2"}

Level = Literal["GRD", "RTC", "L1C", "L2A"]
LEVELS: dict[Sensor, tuple[Level, ...]] = {"s1": ("GRD", "RTC"), "s2": ("L1C", "L2A")}


@dataclass(frozen=True, kw_only=True)
class Band:
    """One band of one sensor."""

    name: str
    """Copernicus name, zero-padded: `VV`, `B02`, `B8A`."""
    sensor: Sensor
    wavelength_nm: float
    """Centre wavelength in nanometres."""
    width_nm: float | None
    """Full width at half maximum in nanometres; `None` for radar."""
    resolution_m: int
    """Pixel spacing of the product in metres."""
    aliases: tuple[str, ...] = ()
    """Other names that resolve to this band, in lower case."""
    levels: tuple[Level, ...]
    """Processing levels that deliver the band."""


_C_BAND_NM = 55.5e6  # 5.405 GHz
_L1C_L2A: tuple[Level, ...] = ("L1C", "L2A")


def _s1(name: str, *aliases: str) -> Band:
    return Band(
        name=name,
        sensor="s1",
        wavelength_nm=_C_BAND_NM,
        width_nm=None,
        resolution_m=10,
        aliases=aliases,
        levels=("GRD", "RTC"),
    )


def _s2(
    name: str,
    wavelength_nm: float,
    width_nm: float,
    resolution_m: int,
    *aliases: str,
    levels: tuple[Level, ...] = _L1C_L2A,
) -> Band:
    return Band(
        name=name,
        sensor="s2",
        wavelength_nm=wavelength_nm,
        width_nm=width_nm,
        resolution_m=resolution_m,
        aliases=aliases,
        levels=levels,
    )


BANDS: tuple[Band, ...] = (
    _s1("VV"),
    _s1("VH"),
    _s1("HH"),
    _s1("HV"),
    _s2("B01", 442.7, 20, 60, "coastal", "coastal-aerosol", "ultra-blue", "aerosol"),
    _s2("B02", 492.7, 65, 10, "blue"),
    _s2("B03", 559.8, 35, 10, "green"),
    _s2("B04", 664.6, 30, 10, "red"),
    _s2("B05", 704.1, 14, 20, "red-edge-1", "rededge1", "re1"),
    _s2("B06", 740.5, 14, 20, "red-edge-2", "rededge2", "re2"),
    _s2("B07", 782.8, 19, 20, "red-edge-3", "rededge3", "re3"),
    _s2("B08", 832.8, 105, 10, "nir", "near-infrared"),
    _s2("B8A", 864.7, 21, 20, "nir-narrow", "narrow-nir", "nir08", "red-edge-4", "rededge4"),
    _s2("B09", 945.1, 19, 60, "water-vapour", "water-vapor", "nir09"),
    _s2("B10", 1373.5, 29, 60, "cirrus", levels=("L1C",)),
    _s2("B11", 1613.7, 90, 20, "swir-1", "swir1", "swir16"),
    _s2("B12", 2202.4, 174, 20, "swir-2", "swir2", "swir22"),
)

S1_BANDS: tuple[str, ...] = ("VV", "VH")
"""Order of `image_s1`."""
S2_BANDS: tuple[str, ...] = tuple(b.name for b in BANDS if "L2A" in b.levels)
"""Order of `image_s2`: the 12 bands of Level-2A."""
S2_L1C_BANDS: tuple[str, ...] = tuple(b.name for b in BANDS if b.sensor == "s2")
"""The 13 bands of Level-1C: B10 between B09 and B11."""
DEFAULT_BANDS: dict[Sensor, tuple[str, ...]] = {"s1": S1_BANDS, "s2": S2_BANDS}
"""What a tensor holds when no band names come with it."""

_BY_NAME: dict[str, Band] = {b.name: b for b in BANDS}


def _alias_table() -> dict[tuple[Sensor, str], str]:
    table: dict[tuple[Sensor, str], str] = {}
    for band in BANDS:
        spellings = {band.name.lower(), *band.aliases}
        if band.sensor == "s2":
            spellings.add("b" + band.name[1:].lower().lstrip("0"))  # B2, b8a
        for spelling in spellings:
            table[band.sensor, spelling] = band.name
    return table


_ALIASES = _alias_table()


def band(name: str) -> Band:
    """Facts of one band, by its Copernicus name or an alias.

    Example:
        >>> band("B8A").wavelength_nm
        864.7
        >>> band("blue").name
        'B02'
    """
    for sensor in SENSORS:
        found = _ALIASES.get((sensor, _spelling(name)))
        if found is not None:
            return _BY_NAME[found]
    raise BandError(f"unknown band {name!r}. {nearest(name, _BY_NAME)}")


def check_sensors(sensors: Iterable[str]) -> tuple[Sensor, ...]:
    """Sensor names in canonical order; an unknown, repeated or missing one is an error.

    Example:
        >>> check_sensors(["s2", "s1"])
        ('s1', 's2')
    """
    asked = (sensors,) if isinstance(sensors, str) else tuple(sensors)
    for name in asked:
        if name not in SENSORS:
            raise UnknownNameError(f"unknown sensor {name!r}. {nearest(name, SENSORS)}")
    if not asked or len(set(asked)) != len(asked):
        raise UnknownNameError(f"sensors={asked!r}: name one or both of {SENSORS}, each once.")
    return tuple(s for s in SENSORS if s in asked)


def resolve_bands(names: Sequence[str], sensor: Sensor) -> tuple[str, ...]:
    """Copernicus names for any accepted spellings, in the given order.

    Args:
        names: band names or aliases of one sensor, each at most once.
        sensor: `"s1"` or `"s2"`.

    Returns:
        The zero-padded names, in the order of `names`.

    Raises:
        BandError: a name is unknown for this sensor or occurs twice, or `names` is empty.

    Example:
        >>> resolve_bands(("red", "B3", "B02"), "s2")
        ('B04', 'B03', 'B02')
    """
    argument = f"{sensor}_bands={tuple(names) if not isinstance(names, str) else names!r}"
    if isinstance(names, str):
        raise BandError(
            f"{argument} is one string; give a sequence of names, such as ({names!r},)."
        )
    known = [b.name for b in BANDS if b.sensor == sensor]
    resolved: list[str] = []
    for name in names:
        found = _ALIASES.get((sensor, _spelling(name)))
        if found is None:
            raise BandError(
                f"unknown {SENSOR_TITLES[sensor]} band {name!r} in {argument}. "
                f"{nearest(str(name), known)} Name the bands that your tensor holds, in its order; "
                "bands that it lacks count as not observed."
            )
        if found in resolved:
            raise BandError(f"band {found} occurs twice in {argument}; name each band once.")
        resolved.append(found)
    if not resolved:
        raise BandError(
            f"{argument} is empty; to leave the sensor out, pass {sensor}=None instead."
        )
    return tuple(resolved)


def channel_bands(count: int, names: Sequence[str] | None, sensor: Sensor) -> tuple[str, ...]:
    """Band names of a tensor with `count` channels: the given names, or the default order.

    Raises:
        BandError: the count contradicts the names, or no names were given and the count is not
            that of the default order.

    Example:
        >>> channel_bands(2, None, "s1")
        ('VV', 'VH')
        >>> channel_bands(3, ("B04", "B03", "B02"), "s2")
        ('B04', 'B03', 'B02')
    """
    if names is None:
        default = DEFAULT_BANDS[sensor]
        if count != len(default):
            raise BandError(
                f"{sensor} has {count} bands and no names. Without names it must be the "
                f"{len(default)} bands {' '.join(default)}, in this order. For anything else pass "
                f"{sensor}_bands=(...) naming the {count} bands of your tensor in its order"
                + (" (13-band Level-1C: deepsentinel.bands.S2_L1C_BANDS)." if count == 13 else ".")
            )
        return default
    resolved = resolve_bands(names, sensor)
    if len(resolved) != count:
        raise BandError(
            f"{sensor} has {count} bands but {sensor}_bands names {len(resolved)}: "
            f"{' '.join(resolved)}. Name each band of the tensor once, in its order."
        )
    return resolved


def _spelling(name: object) -> str:
    return str(name).strip().lower().replace("_", "-").replace(" ", "-")
