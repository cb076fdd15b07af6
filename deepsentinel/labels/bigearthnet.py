"""BigEarthNet: the 43 classes of version 1 and the 19 that its authors recommend.

The 43 are CORINE level 3 without glaciers, spelt as the `labels` of BigEarthNet v1 spell them
(Sumbul et al., IGARSS 2019). The 19 and the crosswalk are those of Sumbul et al., "BigEarthNet-MM",
IEEE GRSM 2021 (`label_indices.json` of the authors' model repository): 32 of the 43 go to one of
the 19, 11 are dropped. Ids count in the order of that file. Colours are not part of the
nomenclature: a class has its CORINE colour, one of the 19 that of its first member.

Codes of the 43 are CORINE's; the 19 have no codes of their own, so they carry their ids, and
`encode` also takes CORINE codes (the reference maps of BigEarthNet v2 hold these).
"""

from collections.abc import Iterable

from deepsentinel.errors import UnknownNameError, nearest
from deepsentinel.labels.classes import Scheme, rows_to_classes
from deepsentinel.labels.corine import CORINE

_SOURCE = "Sumbul et al. 2019 and 2021, https://bigearth.net (label_indices.json)"
_LICENCE = "CDLA-Permissive-1.0"

_RENAMED = {
    321: "Natural grassland",
    324: "Transitional woodland/shrub",
    332: "Bare rock",
    412: "Peatbogs",
}
"""CORINE codes whose class BigEarthNet spells otherwise."""

_GLACIERS = 335

_NINETEEN: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("Urban fabric", (111, 112)),
    ("Industrial or commercial units", (121,)),
    ("Arable land", (211, 212, 213)),
    ("Permanent crops", (221, 222, 223, 241)),
    ("Pastures", (231,)),
    ("Complex cultivation patterns", (242,)),
    (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
        (243,),
    ),
    ("Agro-forestry areas", (244,)),
    ("Broad-leaved forest", (311,)),
    ("Coniferous forest", (312,)),
    ("Mixed forest", (313,)),
    ("Natural grassland and sparsely vegetated areas", (321, 333)),
    ("Moors, heathland and sclerophyllous vegetation", (322, 323)),
    ("Transitional woodland, shrub", (324,)),
    ("Beaches, dunes, sands", (331,)),
    ("Inland wetlands", (411, 412)),
    ("Coastal wetlands", (421, 422)),
    ("Inland waters", (511, 512)),
    ("Marine waters", (521, 522, 523)),
)
"""Name and CORINE codes of the 19 classes."""

_COLOURS = {c.code: c.colour for c in CORINE.classes}
_PARENTS = {code: name for name, codes in _NINETEEN for code in codes}
_NO_CLASS = tuple(code for code in CORINE.ignore_codes if code >= 990)

BIGEARTHNET_19 = Scheme(
    name="bigearthnet-19",
    title="BigEarthNet, 19 classes",
    source=_SOURCE,
    licence=_LICENCE,
    ignore_codes=(*_NO_CLASS, *(c for c in CORINE.codes if c not in _PARENTS)),
    aliases=tuple((code, i) for i, (_, codes) in enumerate(_NINETEEN) for code in codes),
    classes=rows_to_classes(
        (i, name, _COLOURS[codes[0]]) for i, (name, codes) in enumerate(_NINETEEN)
    ),
)
BIGEARTHNET_43 = Scheme(
    name="bigearthnet-43",
    title="BigEarthNet, 43 classes",
    source=_SOURCE,
    licence=_LICENCE,
    ignore_codes=(*_NO_CLASS, _GLACIERS),
    classes=rows_to_classes(
        (c.code, _RENAMED.get(c.code, c.name), c.colour, _PARENTS.get(c.code))
        for c in CORINE.classes
        if c.code != _GLACIERS
    ),
    coarser=BIGEARTHNET_19,
)


def bigearthnet_43_to_19(names: Iterable[str]) -> tuple[str, ...]:
    """The labels of a patch in the 19-class nomenclature, from its 43-class labels.

    Args:
        names: class names as the `labels` of a BigEarthNet v1 patch hold them.

    Returns:
        Names of the 19 classes, each once, in the order of their ids. Labels without a
        counterpart are dropped, so the result can be empty.

    Raises:
        UnknownNameError: a name is not one of the 43.

    Example:
        >>> bigearthnet_43_to_19(["Sea and ocean", "Airports", "Estuaries", "Rice fields"])
        ('Arable land', 'Marine waters')
    """
    parents = {c.name: c.parent for c in BIGEARTHNET_43.classes}
    found: set[str | None] = set()
    for name in names:
        if name not in parents:
            known = nearest(name, parents)
            raise UnknownNameError(f"{name!r} is not a class of BigEarthNet-43. {known}")
        found.add(parents[name])
    return tuple(name for name in BIGEARTHNET_19.names if name in found)
