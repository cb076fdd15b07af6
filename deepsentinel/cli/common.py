"""What the verbs share: arguments, printing, progress bars."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from deepsentinel.errors import ConfigError, StoreError

out = Console()
err = Console(stderr=True)


Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script to read.")]
CorpusRoot = Annotated[
    str,
    typer.Argument(
        help="Folder or URL of a corpus: gs://, az://, s3://, https://, hf://.", show_default=False
    ),
]
Payer = Annotated[
    str | None,
    typer.Option(
        "--requester-pays",
        metavar="PROJECT",
        help="Who pays, where the bucket asks it: a Google project, on S3 true.",
        show_default=False,
    ),
]
ClientOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--storage-option",
        metavar="KEY=VALUE",
        help="Argument of the storage client, such as anon=true; may be repeated.",
        show_default=False,
    ),
]
Split = Annotated[
    str | None, typer.Option(help="Only this split; all patches if not given.", show_default=False)
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any key, before those of the file; may be repeated.",
        show_default=False,
    ),
]
Keys = Annotated[bool, typer.Option("--keys", help="List every key and its default.")]
Restart = Annotated[bool, typer.Option("--restart", help="Start over instead of going on.")]
Seed = Annotated[int, typer.Option(help="Every random choice follows from it.")]


def say(text: str) -> None:
    """Print a line as it is: no markup, no folding."""
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value as JSON; numbers that are not finite as null."""
    print(json_text(value))  # noqa: T201


def json_text(value: Any) -> str:
    """A value as JSON, indented; numbers that are not finite as null."""
    return json.dumps(_without_nan(value), indent=2, allow_nan=False, default=str)


def _without_nan(value: Any) -> Any:
    """The value with `None` for numbers that are not finite, which JSON does not know."""
    if isinstance(value, Mapping):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def rows_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """A table; the first column is never folded. Square brackets are no markup in it."""
    table = Table(title=Text(title), title_justify="left", header_style="bold")
    for place, name in enumerate(header):
        first = place == 0
        table.add_column(Text(str(name)), justify="left" if first else "right", no_wrap=first)
    for row in rows:
        table.add_row(*(Text(cell(v)) for v in row))
    return table


def print_scores(scores: Mapping[str, Any], title: str) -> None:
    """Print the scores of a model as tables: all, by class, by size of boxes."""
    single = [(k, v) for k, v in scores.items() if not isinstance(v, Mapping)]
    out.print(rows_table(title, ("score", "value"), single))
    if by_class := scores.get("per_class"):
        out.print(rows_table("By class", ("class", "score"), list(by_class.items())))
    if by_size := scores.get("per_size"):
        header = ("size", *next(iter(by_size.values())))
        out.print(rows_table("By size", header, [(n, *v.values()) for n, v in by_size.items()]))


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def config_and_corpora(given: list[str] | None) -> tuple[str | None, list[str]]:
    """The YAML file among the arguments of a verb, if there is one, and the corpora.

    Raises:
        ConfigError: there are several files.
    """
    files = [text for text in given or () if Path(text).suffix in {".yaml", ".yml"}]
    if len(files) > 1:
        raise ConfigError(f"several config files were given: {' '.join(files)}. Give one.")
    return next(iter(files), None), [text for text in given or () if text not in files]


def access(payer: str | None, options: list[str] | None) -> dict[str, Any]:
    """What the functions of the library call `requester_pays` and `storage_options`."""
    pays = True if payer is not None and payer.lower() == "true" else payer
    pairs = [option.partition("=") for option in options or ()]
    for key, found, _ in pairs:
        if not key or not found:
            raise StoreError(
                f"--storage-option {key!r} is not understood; give KEY=VALUE, such as anon=true."
            )
    return {
        "requester_pays": pays,
        "storage_options": {key: _value(text) for key, _, text in pairs} or None,
    }


def _value(text: str) -> Any:
    """A value as JSON where it is JSON, else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@contextmanager
def counting(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar that a long function moves by telling (done, total)."""
    hidden = quiet or not err.is_terminal
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=err, disable=hidden) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def moving(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes and their rate, which appears when the first are told."""
    hidden = quiet or not err.is_terminal
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    rate = (TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, *rate, console=err, disable=hidden)

    def step(done: int, total: int) -> None:
        if not bar.tasks:
            bar.start()
            bar.add_task(what, total=total, completed=done)
        bar.update(bar.tasks[0].id, completed=done)

    try:
        yield step
    finally:
        bar.stop()
