"""Parts of a report: tables of plain values and pictures as PNG."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

from matplotlib.figure import Figure

from deepsentinel.errors import ReportError

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")

Cell: TypeAlias = str | int | float | bool | None
"""What stands in a table; `None` and numbers that are not finite mean "not known"."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of values under named columns; becomes `<name>.csv`.

    Example:
        >>> table = Table(name="scores", columns=("row", "miou"), rows=(("s1", 0.5), ("s2", None)))
        >>> print(table.text())
        | row | miou  |
        |-----|-------|
        | s1  | 0.500 |
        | s2  | -     |
    """

    name: str
    """Of the file, such as `per_class`."""
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    note: str = ""
    digits: int = 3
    """After the point, in text and on the page; JSON and CSV keep every digit."""

    def __post_init__(self) -> None:
        _check_name(self.name, "table")
        wrong = next((r for r in self.rows if len(r) != len(self.columns)), None)
        if wrong is not None:
            raise ReportError(
                f"table {self.name!r} has the columns {self.columns}, but a row of "
                f"{len(wrong)} values: {wrong}."
            )

    @classmethod
    def of(
        cls,
        name: str,
        rows: Sequence[Mapping[str, Cell]],
        *,
        title: str = "",
        note: str = "",
        digits: int = 3,
    ) -> Self:
        """A table of rows given as dicts; the columns are all their keys in order of appearance.

        Example:
            >>> Table.of("history", [{"epoch": 1}, {"epoch": 2, "miou": 0.4}]).rows
            ((1, None), (2, 0.4))
        """
        columns = tuple(dict.fromkeys(k for row in rows for k in row))
        values = tuple(tuple(row.get(c) for c in columns) for row in rows)
        return cls(name=name, columns=columns, rows=values, title=title, note=note, digits=digits)

    def column(self, name: str) -> tuple[Cell, ...]:
        """Values of one column.

        Raises:
            ReportError: there is no such column.
        """
        if name not in self.columns:
            raise ReportError(f"table {self.name!r} has no column {name!r}, only {self.columns}.")
        return tuple(row[self.columns.index(name)] for row in self.rows)

    def shown(self) -> list[list[str]]:
        """Cells as text, rounded to `digits`."""
        return [[_shown(cell, self.digits) for cell in row] for row in self.rows]

    def text(self) -> str:
        """As Markdown that also reads well in a terminal."""
        lines = [list(self.columns), *self.shown()]
        cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
        widths = [max(len(line[i]) for line in cells) for i in range(len(self.columns))]
        rows = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
            for line in cells
        ]
        rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
        return "\n".join((rows[0], rule, *rows[1:]))

    def csv(self) -> str:
        """As CSV; what is not known is empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([["" if plain(c) is None else c for c in row] for row in self.rows])
        return text.getvalue()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "name": self.name,
            "title": self.title,
            "note": self.note,
            "digits": self.digits,
            "columns": list(self.columns),
            "rows": [[plain(cell) for cell in row] for row in self.rows],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The table that `to_json` gave."""
        return cls(
            name=value["name"],
            title=value["title"],
            note=value["note"],
            digits=value["digits"],
            columns=tuple(value["columns"]),
            rows=tuple(tuple(row) for row in value["rows"]),
        )


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture as PNG; becomes `<name>.png`.

    Example:
        >>> Picture.of("empty", Figure(figsize=(1, 1)), title="Nothing").png[1:4]
        b'PNG'
    """

    name: str
    png: bytes = field(repr=False)
    title: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        _check_name(self.name, "picture")

    @classmethod
    def of(
        cls, name: str, figure: Figure, *, title: str = "", note: str = "", dpi: int = 100
    ) -> Self:
        """The picture of a matplotlib figure, wide enough for all its text."""
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.1)
        return cls(name=name, png=file.getvalue(), title=title, note=note)


def _check_name(name: str, kind: str) -> None:
    if not _NAME.fullmatch(name):
        raise ReportError(
            f"{name!r} cannot name a {kind}: it becomes a file name, of lower-case letters, "
            "digits, '_' and '-', beginning with a letter or digit."
        )


def plain(value: Any) -> Any:
    """The value as JSON holds it: no NaN, no tuples, no paths, no scalars of NumPy or torch."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    raise ReportError(
        f"a report holds numbers, text, lists and mappings; found {value!r} of type "
        f"{type(value).__name__}."
    )


def _shown(cell: Cell, digits: int) -> str:
    value = plain(cell)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
