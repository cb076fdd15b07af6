"""`deepsentinel evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from deepsentinel.cli.common import (
    ClientOptions,
    Json,
    Payer,
    access,
    config_and_corpora,
    err,
    print_json,
    say,
)
from deepsentinel.errors import ConfigError

_ENCODER = "Name or folder of an encoder; may be repeated."


def evaluate(
    source: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG.yaml] [CORPUS]",
            help="Folder or URL of a labelled corpus; a YAML file of the protocol.",
            show_default=False,
        ),
    ] = None,
    *,
    encoder: Annotated[list[str], typer.Option(help=_ENCODER)] = ["deepsentinel-nano"],  # noqa: B006 - typer's way
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any key of the protocol, before those of the file; may be repeated.",
            show_default=False,
        ),
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path(
        "evaluation"
    ),
    keys: Annotated[bool, typer.Option("--keys", help="List every key and its default.")] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            help="Instead: compare two folders that --out wrote, the earlier first.",
            metavar="BEFORE AFTER",
            show_default=False,
        ),
    ] = None,
    requester_pays: Payer = None,
    storage_option: ClientOptions = None,
    as_json: Json = False,
) -> None:
    """Judge encoders beside band statistics and random weights: few labels, clouds, unseen classes.

    Folds are spatial blocks, intervals are paired, choices are made on validation blocks.

    Example: [bold]deepsentinel evaluate corpus/ --encoder deepsentinel-nano --set "parts=[scores, matrix]"[/]
    """
    from deepsentinel.training.config import describe_config, read_config, write_config
    from deepsentinel.training.evaluate import compare as run_compare
    from deepsentinel.training.evaluate import evaluate as run
    from deepsentinel.training.evaluation.protocol import Protocol

    if keys:
        say(describe_config(Protocol))
        return
    if compare is not None:
        report = run_compare(*compare)
        if as_json:
            print_json(report.to_json())
        else:
            say(report.text())
        return
    file, corpora = config_and_corpora(source)
    if len(corpora) != 1:
        raise ConfigError(
            f"{len(corpora)} corpora were given ({' '.join(corpora)}); name one, or two reports with "
            "--compare."
        )
    protocol = read_config(Protocol, file, sets=sets or ())
    found = run(
        encoder,
        corpora[0],
        protocol,
        out_dir=out_dir,
        say=lambda line: err.print(line, markup=False, highlight=False, soft_wrap=True),
        **access(requester_pays, storage_option),
    )
    write_config(protocol, out_dir / "protocol.yaml")
    if as_json:
        print_json(found.report.to_json())
        return
    say(str(found))
    say(f"\n{out_dir / 'report.html'}")
