"""A report: plain values, tables and pictures, written as JSON, CSV, PNG and one HTML page.

Whoever measures something builds a `Report` and calls `write`. The page holds its pictures and its
style itself and asks no network. `read_report` gives back what the JSON and the PNG files hold.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from deepsentinel.errors import ReportError
from deepsentinel.heads.files import replace_file
from deepsentinel.training.reports.html import page
from deepsentinel.training.reports.parts import Cell, Picture, Table, plain

__all__ = ["HTML_FILE", "JSON_FILE", "Cell", "Picture", "Report", "Table", "read_report"]

JSON_FILE: Final = "report.json"
HTML_FILE: Final = "report.html"
FORMAT_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run came to, as plain values.

    Example:
        >>> import tempfile
        >>> report = Report(title="Scores", metrics={"miou": 0.5}, notes=("One seed.",))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = report.write(folder)
        ...     page.name, read_report(folder) == report
        ('report.html', True)
    """

    title: str
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Scores and other results, as JSON holds them: numbers, text, lists and mappings."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """How it was made, likewise: command, options, data, seeds, versions."""
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences that a reader must know, above the tables on the page."""

    def __post_init__(self) -> None:
        for kind, parts in (("tables", self.tables), ("pictures", self.pictures)):
            names = [part.name for part in parts]
            double = sorted({n for n in names if names.count(n) > 1})
            if double:
                raise ReportError(
                    f"report {self.title!r} has several {kind} of one name: {double}; each becomes "
                    "a file of its own."
                )

    def table(self, name: str) -> Table:
        """The table of that name.

        Raises:
            ReportError: there is none.
        """
        for table in self.tables:
            if table.name == name:
                return table
        raise ReportError(
            f"report {self.title!r} has no table {name!r}, only {[t.name for t in self.tables]}."
        )

    def text(self) -> str:
        """For a terminal: title, notes and tables."""
        tables = ("\n".join(p for p in (t.title, t.text(), t.note) if p) for t in self.tables)
        return "\n\n".join(p for p in (self.title, "\n".join(self.notes), *tables) if p)

    def to_json(self) -> dict[str, Any]:
        """As plain values that JSON holds; pictures by name, numbers that are not finite as `None`."""
        return {
            "format_version": FORMAT_VERSION,
            "title": self.title,
            "metrics": plain(self.metrics),
            "facts": plain(self.facts),
            "notes": list(self.notes),
            "tables": [t.to_json() for t in self.tables],
            "pictures": [{"name": p.name, "title": p.title, "note": p.note} for p in self.pictures],
        }

    def html(self) -> str:
        """As a page that needs no other file."""
        return page(
            self.title,
            notes=self.notes,
            tables=self.tables,
            pictures=self.pictures,
            values={"All results": plain(self.metrics), "How it was made": plain(self.facts)},
        )

    def write(self, folder: str | Path) -> Path:
        """Write `report.html`, `report.json`, a CSV file a table and a PNG file a picture.

        Files of the same names are replaced, each in one step.

        Returns:
            The path of the page.

        Raises:
            ReportError: a file cannot be written.
        """
        path = Path(folder)
        json_text = json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n"
        files = {f"{t.name}.csv": t.csv().encode() for t in self.tables}
        files |= {f"{p.name}.png": p.png for p in self.pictures}
        files |= {JSON_FILE: json_text.encode(), HTML_FILE: self.html().encode()}
        try:
            path.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                replace_file(path / name, partial(Path.write_bytes, data=content))
        except OSError as error:
            raise ReportError(f"the report could not be written to {path}: {error}.") from error
        return path / HTML_FILE


def read_report(folder: str | Path) -> Report:
    """The report that `Report.write` left in a folder.

    Raises:
        ReportError: there is none, or it is damaged or of another version.
    """
    path = Path(folder) / JSON_FILE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["format_version"] != FORMAT_VERSION:
            raise ReportError(
                f"{path} has format {value['format_version']!r}; this version reads "
                f"{FORMAT_VERSION}."
            )
        return Report(
            title=value["title"],
            metrics=value["metrics"],
            facts=value["facts"],
            notes=tuple(value["notes"]),
            tables=tuple(Table.from_json(t) for t in value["tables"]),
            pictures=tuple(
                Picture(**p, png=(path.parent / f"{p['name']}.png").read_bytes())
                for p in value["pictures"]
            ),
        )
    except FileNotFoundError as error:
        raise ReportError(
            f"{folder} holds no complete report: {error}. Give the folder that a report was "
            f"written to; it has a {JSON_FILE}."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ReportError):
            raise
        raise ReportError(f"{path} is no report, or damaged: {error!r}.") from error
