"""The page of a report: one file with its pictures and style in it, which asks no network."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from deepsentinel.training.reports.parts import Picture, Table

_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Makes a browser refuse whatever would come from elsewhere."""

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #8884; text-align: left; }
td.number { text-align: right; }
th { border-bottom-width: 2px; }
img { max-width: 100%; height: auto; background: #fff; }
.note { color: #888; max-width: 48rem; }
pre { overflow-x: auto; padding: .7rem; background: #8882; }
"""


def page(
    title: str,
    *,
    notes: Sequence[str] = (),
    tables: Sequence[Table] = (),
    pictures: Sequence[Picture] = (),
    values: Mapping[str, Mapping[str, Any]],
) -> str:
    """The page: notes, tables and pictures, then values by heading, folded away.

    Example:
        >>> "<h1>1 &lt; 2</h1>" in page("1 < 2", values={})
        True
    """
    parts = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(note)}</p>" for note in notes),
        *(_table(table) for table in tables),
        *(_picture(picture) for picture in pictures),
        *(_values(heading, found) for heading, found in values.items()),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def _table(table: Table) -> str:
    numbers = [
        any(isinstance(v, int | float) for v in table.column(c))
        and not any(isinstance(v, str) for v in table.column(c))
        for c in table.columns
    ]
    head = "".join(f"<th>{escape(c)}</th>" for c in table.columns)
    rows = "\n".join(
        "<tr>" + "".join(_cell(c, number=n) for c, n in zip(row, numbers, strict=True)) + "</tr>"
        for row in table.shown()
    )
    body = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>"
    inside = f'<div class="wide"><table>\n{body}\n</table></div>'
    return _section(table.title or table.name, inside, table.note)


def _cell(text: str, *, number: bool) -> str:
    return f'<td class="number">{escape(text)}</td>' if number else f"<td>{escape(text)}</td>"


def _picture(picture: Picture) -> str:
    title = picture.title or picture.name
    data = b64encode(picture.png).decode("ascii")
    image = f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">'
    return _section(title, image, picture.note)


def _values(title: str, values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    lines = "\n".join(_lines(values))
    return f"<details><summary>{escape(title)}</summary><pre>{escape(lines)}</pre></details>"


def _lines(values: Mapping[str, Any], indent: str = "") -> list[str]:
    found: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            found.append(f"{indent}{key}: {', '.join(map(str, value))}")
        else:
            found.append(f"{indent}{key}: {value}")
    return found


def _section(title: str, inside: str, note: str) -> str:
    below = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{inside}\n{below}</section>"
