"""The application: its verbs, its entry point, how errors and warnings are shown."""

import sys
import warnings
from functools import cache
from typing import Annotated

import typer

import deepsentinel
from deepsentinel.cli.common import err, out
from deepsentinel.cli.convert import convert
from deepsentinel.cli.corpus import info, plot, stats, verify
from deepsentinel.cli.demo import demo
from deepsentinel.cli.encoders import encoders
from deepsentinel.cli.evaluate import evaluate
from deepsentinel.cli.finetune import finetune
from deepsentinel.cli.pretrain import pretrain
from deepsentinel.cli.transfer import download, upload
from deepsentinel.errors import DeepSentinelError

app = typer.Typer(
    name="deepsentinel",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Sentinel-1 and Sentinel-2 patches to embeddings, trained heads and maps.",
)
for verb in (
    convert,
    info,
    stats,
    verify,
    download,
    upload,
    plot,
    encoders,
    finetune,
    evaluate,
    pretrain,
    demo,
):
    app.command()(verb)

INTERRUPTED = 130
"""Exit code that typer makes of Ctrl-C, as shells do."""


def main() -> None:
    """Run the command line; an error of ours is one message, not a traceback, a warning one line."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # called by position
    try:
        app()
    except DeepSentinelError as error:
        err.print(f"[bold red]{type(error).__name__}[/]: ", end="")
        err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            err.print("Stopped. What was completed is kept; the same command continues from there.")
        raise


@cache  # each warning once, however many encoders and contexts give it
def _show_once(name: str, message: str) -> None:
    err.print(f"[yellow]{name}[/]: ", end="")
    err.print(message, markup=False, highlight=False, soft_wrap=True)


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    _show_once(category.__name__, str(message))


def _version(asked: bool) -> None:  # noqa: FBT001 (typer's callback)
    if asked:
        out.print(deepsentinel.__version__)
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
