"""The label schemes that come with the library, by name."""

from deepsentinel.errors import UnknownNameError, nearest
from deepsentinel.labels.bigearthnet import BIGEARTHNET_19, BIGEARTHNET_43
from deepsentinel.labels.cdl import CDL
from deepsentinel.labels.classes import Scheme
from deepsentinel.labels.corine import CORINE, CORINE_1, CORINE_2
from deepsentinel.labels.osm_table import OSM, OSM_1
from deepsentinel.labels.terramesh import TERRAMESH_LULC
from deepsentinel.labels.worldcereal import (
    WORLDCEREAL_CROPTYPE,
    WORLDCEREAL_CROPTYPE_1,
    WORLDCEREAL_LANDCOVER,
)
from deepsentinel.labels.worldcover import WORLDCOVER

_SCHEMES: dict[str, Scheme] = {
    s.name: s
    for s in (
        CORINE,
        CORINE_2,
        CORINE_1,
        WORLDCOVER,
        BIGEARTHNET_43,
        BIGEARTHNET_19,
        CDL,
        TERRAMESH_LULC,
        WORLDCEREAL_LANDCOVER,
        WORLDCEREAL_CROPTYPE,
        WORLDCEREAL_CROPTYPE_1,
        OSM,
        OSM_1,
    )
}


def list_schemes() -> tuple[str, ...]:
    """Names of the label schemes that `scheme` knows.

    Example:
        >>> "corine" in list_schemes()
        True
    """
    return tuple(_SCHEMES)


def scheme(name: str) -> Scheme:
    """The label scheme of that name.

    Raises:
        UnknownNameError: there is no such scheme; the nearest names are listed.

    Example:
        >>> len(scheme("corine")), len(scheme("corine-2")), len(scheme("corine-1"))
        (44, 15, 5)
    """
    if name not in _SCHEMES:
        raise UnknownNameError(f"unknown label scheme {name!r}. {nearest(name, _SCHEMES)}")
    return _SCHEMES[name]
