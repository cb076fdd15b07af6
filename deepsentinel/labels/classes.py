"""A label scheme: the classes of a map or nomenclature, with codes, colours and hierarchy."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepsentinel.errors import LabelError, UnknownNameError, nearest

IGNORE = -1
"""Id of pixels without a class: no data, unclassified, or dropped by a crosswalk."""

_COLOUR = re.compile(r"#[0-9a-f]{6}")


@dataclass(frozen=True, kw_only=True)
class LabelClass:
    """One class of a scheme."""

    id: int
    """Position in the scheme, from 0: what masks, labels and models hold."""
    name: str
    """Name as its publisher writes it."""
    colour: str
    """`#rrggbb`, lower case."""
    code: int
    """Value of the class in its publisher's raster, such as 111 in CORINE."""
    parent: str | None = None
    """Name of its class in the next coarser scheme; `None` where that has none."""


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Classes in the order of their ids, and what else their rasters may hold.

    Raises:
        LabelError: ids that do not count from 0, a name or code used twice, a colour that is not
            `#rrggbb`, an alias of no class, or a parent that the coarser scheme lacks.

    Example:
        >>> water = LabelClass(id=0, name="Water", colour="#0000ff", code=80)
        >>> land = LabelClass(id=1, name="Land", colour="#00ff00", code=10)
        >>> shore = Scheme(name="shore", title="Shore", classes=(water, land), ignore_codes=(0,))
        >>> shore.encode([[80, 10, 0]])
        array([[ 0,  1, -1]], dtype=int16)
        >>> shore.names
        ('Water', 'Land')
    """

    name: str
    title: str
    classes: tuple[LabelClass, ...]
    source: str = ""
    """Where the table was published, and by whom."""
    licence: str | None = None
    """Licence of the map that uses the scheme; `None` where not known."""
    ignore_codes: tuple[int, ...] = ()
    """Codes that mean no class; the first is what `decode` writes."""
    aliases: tuple[tuple[int, int], ...] = ()
    """Pairs (other code, class code), for rasters that number the same classes differently."""
    coarser: "Scheme | None" = None
    """The scheme that `LabelClass.parent` names classes of."""

    def __post_init__(self) -> None:
        _check(self)

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of their ids."""
        return tuple(c.name for c in self.classes)

    @property
    def colours(self) -> tuple[str, ...]:
        """Colours as `#rrggbb`, in the order of the ids."""
        return tuple(c.colour for c in self.classes)

    @property
    def codes(self) -> tuple[int, ...]:
        """Class codes in the order of their ids, without aliases and no-data codes."""
        return tuple(c.code for c in self.classes)

    @property
    def palette(self) -> NDArray[np.uint8]:
        """Colours as an array (classes, 3), red green blue."""
        rows = [tuple(bytes.fromhex(c.colour[1:])) for c in self.classes]
        return np.array(rows, dtype=np.uint8).reshape(-1, 3)

    def find(self, name: str) -> LabelClass:
        """The class of that name, upper and lower case alike.

        Raises:
            UnknownNameError: no class has the name; the nearest are listed.

        Example:
            >>> from deepsentinel.labels import scheme
            >>> scheme("worldcover").find("cropland").code
            40
        """
        for label_class in self.classes:
            if label_class.name.casefold() == name.strip().casefold():
                return label_class
        known = nearest(name, self.names)
        raise UnknownNameError(f"no class {name!r} in the scheme {self.name!r}. {known}")

    def encode(self, codes: ArrayLike) -> NDArray[np.int16]:
        """Class ids for the codes of a raster.

        Args:
            codes: class codes or their aliases, any shape; integers, or floats that hold integers
                and NaN.

        Returns:
            Ids of the same shape; -1 for no-data codes and NaN.

        Raises:
            LabelError: codes that are neither a class, an alias nor no data; they are named.

        Example:
            >>> from deepsentinel.labels import scheme
            >>> scheme("corine").encode([111, 523, 44, 48])  # 44 and 48 are raster grid codes
            array([ 0, 43, 43, -1], dtype=int16)
        """
        values, inverse = np.unique(_integers(self, codes), return_inverse=True)
        table = self._table()
        unknown = [int(v) for v in values if int(v) not in table]
        if unknown:
            raise LabelError(
                f"codes {_some(unknown)} are not in the scheme {self.name!r}. Its codes: "
                f"{_some(self.codes)}; no data: {_some(self.ignore_codes)}. If they mean no data "
                "in your raster, set them to a no-data code first; if not, the raster uses "
                "another scheme (deepsentinel.labels.list_schemes())."
            )
        ids = np.array([table[int(v)] for v in values], dtype=np.int16)
        return ids[inverse].reshape(np.shape(codes))

    def decode(self, ids: ArrayLike, *, nodata: int | None = None) -> NDArray[np.int32]:
        """Codes for class ids: the inverse of `encode`.

        Args:
            ids: class ids, any shape; -1 = no class.
            nodata: code to write for -1; by default the first no-data code of the scheme.

        Raises:
            LabelError: an id outside the scheme, or -1 where the scheme has no no-data code and
                none is given.

        Example:
            >>> from deepsentinel.labels import scheme
            >>> scheme("worldcover").decode([0, 7, -1])
            array([10, 80,  0], dtype=int32)
        """
        array = np.asarray(ids)
        self._check_ids(array)
        if nodata is None:
            nodata = self.ignore_codes[0] if self.ignore_codes else None
        if nodata is None and (array == IGNORE).any():
            raise LabelError(
                f"ids hold -1 but the scheme {self.name!r} has no no-data code. "
                "Pass nodata=<code> to name the code that -1 becomes."
            )
        table = np.array([*self.codes, 0 if nodata is None else nodata], dtype=np.int32)
        return np.take(table, array, mode="wrap")

    def coarsen(self, to: str) -> NDArray[np.int16]:
        """Table from the ids of this scheme to those of a coarser one: `table[ids]`.

        The table has one more entry than the scheme has classes: -1, so that ids of -1 stay -1.
        A class that the coarser scheme drops becomes -1 too.

        Raises:
            UnknownNameError: `to` is not among the coarser schemes.

        Example:
            >>> from deepsentinel.labels import scheme
            >>> corine = scheme("corine")
            >>> table = corine.coarsen("corine-1")
            >>> table[[0, 43, -1]]
            array([ 0,  4, -1], dtype=int16)
        """
        level: Scheme = self
        table = np.arange(len(self) + 1, dtype=np.int16)
        table[-1] = IGNORE
        while level.name != to:
            if level.coarser is None:
                raise UnknownNameError(
                    f"the scheme {self.name!r} has no coarser scheme {to!r}. "
                    f"{nearest(to, (s.name for s in self._levels()))}"
                )
            table = level._parent_ids()[table]
            level = level.coarser
        return table

    def to_json(self) -> dict[str, Any]:
        """The scheme as a value that `json` can write; coarser schemes are inside.

        Example:
            >>> from deepsentinel.labels import scheme
            >>> Scheme.from_json(scheme("corine").to_json()) == scheme("corine")
            True
        """
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            "licence": self.licence,
            "ignore_codes": list(self.ignore_codes),
            "aliases": [list(pair) for pair in self.aliases],
            "classes": [
                {"id": c.id, "name": c.name, "colour": c.colour, "code": c.code, "parent": c.parent}
                for c in self.classes
            ],
            "coarser": None if self.coarser is None else self.coarser.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The scheme that `to_json` wrote; what is optional may be left out.

        Raises:
            LabelError: a field is missing, unknown, or contradicts another.
        """
        coarser = value.get("coarser")
        try:
            return cls(
                name=value["name"],
                title=value["title"],
                classes=tuple(LabelClass(**row) for row in value["classes"]),
                source=value.get("source", ""),
                licence=value.get("licence"),
                ignore_codes=tuple(value.get("ignore_codes", ())),
                aliases=tuple((other, code) for other, code in value.get("aliases", ())),
                coarser=None if coarser is None else Scheme.from_json(coarser),
            )
        except (KeyError, TypeError) as error:
            raise LabelError(
                f"the JSON of a label scheme (name: {value.get('name')!r}) is not complete: "
                f"{error}. It needs name, title and classes with id, name, colour and code."
            ) from error

    def _levels(self) -> Iterable["Scheme"]:
        level = self.coarser
        while level is not None:
            yield level
            level = level.coarser

    def _parent_ids(self) -> NDArray[np.int16]:
        ids = {} if self.coarser is None else {c.name: c.id for c in self.coarser.classes}
        parents = [IGNORE if c.parent is None else ids[c.parent] for c in self.classes]
        return np.array([*parents, IGNORE], dtype=np.int16)

    def _table(self) -> dict[int, int]:
        by_code = {c.code: c.id for c in self.classes}
        by_alias = {other: by_code[code] for other, code in self.aliases}
        return {**dict.fromkeys(self.ignore_codes, IGNORE), **by_alias, **by_code}

    def _check_ids(self, ids: NDArray[Any]) -> None:
        if not np.issubdtype(ids.dtype, np.integer):
            raise LabelError(f"class ids must be integers, not {ids.dtype}.")
        wrong = np.unique(ids[(ids < IGNORE) | (ids >= len(self))])
        if wrong.size:
            raise LabelError(
                f"ids {_some(wrong.tolist())} are outside the scheme {self.name!r}: "
                f"0 to {len(self) - 1}, or -1 for no class."
            )


def rows_to_classes(
    rows: Iterable[tuple[int, str, str] | tuple[int, str, str, str | None]],
) -> tuple[LabelClass, ...]:
    """Classes from rows (code, name, colour) or (code, name, colour, parent); ids count up.

    Example:
        >>> rows_to_classes([(10, "Tree cover", "#006400")])[0].id
        0
    """
    return tuple(
        LabelClass(id=i, code=row[0], name=row[1], colour=row[2], parent=_parent(row))
        for i, row in enumerate(rows)
    )


def _parent(row: tuple[int, str, str] | tuple[int, str, str, str | None]) -> str | None:
    return row[3] if len(row) == 4 else None


def _integers(scheme: Scheme, codes: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(codes)
    if np.issubdtype(array.dtype, np.integer) or array.size == 0:
        return array.astype(np.int64)
    if not np.issubdtype(array.dtype, np.floating):
        raise LabelError(
            f"codes for the scheme {scheme.name!r} must be numbers, not {array.dtype}."
        )
    missing = np.isnan(array)
    if missing.any() and not scheme.ignore_codes:
        raise LabelError(
            f"codes hold NaN but the scheme {scheme.name!r} has no no-data code to stand for it."
        )
    whole = np.where(missing, scheme.ignore_codes[0] if scheme.ignore_codes else 0, array)
    if not np.isfinite(whole).all() or (whole != np.round(whole)).any():
        raise LabelError(
            f"codes for the scheme {scheme.name!r} must be whole numbers; found fractions or "
            "infinity. Was the raster resampled with anything but nearest neighbour?"
        )
    return whole.astype(np.int64)


def _check(scheme: Scheme) -> None:
    where = f"scheme {scheme.name!r}"
    if [c.id for c in scheme.classes] != list(range(len(scheme.classes))):
        raise LabelError(
            f"{where}: class ids must count from 0, not {[c.id for c in scheme.classes]}."
        )
    coded = [*scheme.codes, *scheme.ignore_codes, *(other for other, _ in scheme.aliases)]
    for kind, values in (("class name", Counter(scheme.names)), ("code", Counter(coded))):
        if twice := [repr(value) for value, count in values.items() if count > 1]:
            raise LabelError(f"{where}: {kind} {', '.join(twice)} is used more than once.")
    for label_class in scheme.classes:
        if not _COLOUR.fullmatch(label_class.colour):
            raise LabelError(
                f"{where}: colour {label_class.colour!r} of {label_class.name!r} is not '#rrggbb'."
            )
    if orphans := sorted({code for _, code in scheme.aliases} - set(scheme.codes)):
        raise LabelError(f"{where}: aliases of codes {_some(orphans)}, which no class has.")
    parents = {c.parent for c in scheme.classes} - {None}
    known = set() if scheme.coarser is None else set(scheme.coarser.names)
    if lost := sorted(str(p) for p in parents - known):
        raise LabelError(f"{where}: parents {lost} are not classes of the coarser scheme.")


def _some(values: Iterable[object], limit: int = 60) -> str:
    listed = [str(v) for v in values]
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return (" ".join(listed[:limit]) or "(none)") + more
