"""Moving a corpus: `download` and `upload`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from deepsentinel.bands import check_sensors
from deepsentinel.cli.common import (
    ClientOptions,
    CorpusRoot,
    Json,
    Payer,
    Split,
    access,
    err,
    moving,
    print_json,
    say,
)

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask about large or billed ones.")]


def download(
    src: CorpusRoot,
    dest: Annotated[Path, typer.Argument(help="Folder of the copy.", show_default=False)],
    *,
    split: Split = None,
    where: Annotated[
        str | None,
        typer.Option(
            help="Only patches for which this holds, such as 'cloud < 10'.", show_default=False
        ),
    ] = None,
    bbox: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(
            help="West, south, east, north in degrees: patches with their centre inside.",
            metavar="W S E N",
            show_default=False,
        ),
    ] = None,
    dates: Annotated[
        str | None,
        typer.Option(
            help="First and last day: patches that either sensor observed then.",
            metavar="A/B",
            show_default=False,
        ),
    ] = None,
    sensors: Annotated[
        str | None, typer.Option(help="s1, s2 or s1,s2; all if not given.", show_default=False)
    ] = None,
    max_patches: Annotated[
        int | None, typer.Option(help="Only so many, the first ones.", show_default=False)
    ] = None,
    requester_pays: Payer = None,
    storage_option: ClientOptions = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Copy a corpus, or the part that is asked for, to this machine; every checksum is compared.

    A killed run continues where it stopped when the same command is given again.

    Example: [bold]deepsentinel download gs://bucket/corpus corpus/ --split train --where "cloud < 10"[/]
    """
    from deepsentinel.corpus.transfer import download as run

    chosen = (
        None if sensors is None else check_sensors([part.strip() for part in sensors.split(",")])
    )
    with moving("downloading", quiet=as_json) as step:
        report = run(
            src,
            dest,
            split=split,
            where=where,
            bbox=bbox,
            dates=dates,
            sensors=chosen,
            max_patches=max_patches,
            confirm=_asking(yes=yes),
            progress=step,
            **access(requester_pays, storage_option),
        )
    _transferred(report, as_json=as_json)


def upload(
    src: Annotated[Path, typer.Argument(help="Folder of the corpus.", show_default=False)],
    dest: Annotated[
        str, typer.Argument(help="URL to publish it at: gs://, az://, s3://.", show_default=False)
    ],
    *,
    requester_pays: Payer = None,
    storage_option: ClientOptions = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Publish a corpus: the index comes last, so that nobody reads a part of it.

    A killed run continues where it stopped when the same command is given again.

    Example: [bold]deepsentinel upload corpus/ gs://bucket/corpus[/]
    """
    from deepsentinel.corpus.upload import upload as run

    with moving("uploading", quiet=as_json) as step:
        report = run(
            src,
            dest,
            confirm=_asking(yes=yes),
            progress=step,
            **access(requester_pays, storage_option),
        )
    _transferred(report, as_json=as_json)


def _asking(*, yes: bool) -> Callable[[Any], bool]:
    """Say what a transfer moves, and ask where it is large or billed."""

    def confirm(plan: Any) -> bool:
        err.print(f"{plan}.", markup=False, highlight=False, soft_wrap=True)
        if yes or not (plan.large or plan.billed) or not plan.left:
            return True
        if not sys.stdin.isatty():
            err.print("Add --yes to go on without being asked.")
            return False
        return typer.confirm("Go on?", err=True)

    return confirm


def _transferred(report: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(report.to_json())
    else:
        say(str(report))
    if not report.ok:
        raise typer.Exit(1)
