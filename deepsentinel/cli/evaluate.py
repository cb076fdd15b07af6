"""`deepsentinel evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from deepsentinel.cli.common import Json, err, print_json, say

_ENCODER = "Name or folder of an encoder; may be repeated."


def evaluate(
    corpus: Annotated[
        str | None,
        typer.Argument(help="Folder or URL of a labelled corpus.", show_default=False),
    ] = None,
    *,
    encoder: Annotated[list[str], typer.Option(help=_ENCODER)] = ["deepsentinel-nano"],  # noqa: B006 - typer's way
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of the protocol; docs/evaluate.md lists its keys."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A key of the protocol; may be repeated."),
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path(
        "evaluation"
    ),
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            help="Instead: compare two folders that --out wrote, the earlier first.",
            metavar="BEFORE AFTER",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Judge encoders beside band statistics and random weights: few labels, clouds, unseen classes.

    Folds are spatial blocks, intervals are paired, choices are made on validation blocks.

    Example: [bold]deepsentinel evaluate corpus/ --encoder deepsentinel-nano --set "parts=[scores, matrix]"[/]
    """
    from deepsentinel.training.config import read_config, write_config
    from deepsentinel.training.evaluate import compare as run_compare
    from deepsentinel.training.evaluate import evaluate as run
    from deepsentinel.training.protocol import Protocol

    if compare is not None:
        report = run_compare(*compare)
        if as_json:
            print_json(report.to_json())
        else:
            say(report.text())
        return
    if corpus is None:
        raise typer.BadParameter("name a corpus, or two reports with --compare.")
    protocol = read_config(Protocol, config, sets=sets or ())
    found = run(
        encoder,
        corpus,
        protocol,
        out_dir=out_dir,
        say=lambda line: err.print(line, markup=False, highlight=False, soft_wrap=True),
    )
    write_config(protocol, out_dir / "protocol.yaml")
    if as_json:
        print_json(found.report.to_json())
        return
    say(str(found))
    say(f"\n{out_dir / 'report.html'}")
