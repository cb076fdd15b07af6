"""`deepsentinel evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from deepsentinel.cli.common import (
    ClientOptions,
    Json,
    Keys,
    Payer,
    Sets,
    access,
    config_and_corpora,
    err,
    print_json,
    print_scores,
    say,
)
from deepsentinel.errors import ConfigError

_ENCODER = "Name or folder of an encoder, deepsentinel-nano if none is given; may be repeated."


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
    encoder: Annotated[list[str] | None, typer.Option(help=_ENCODER, show_default=False)] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Instead of encoders: score this fine-tuned model, a folder or a name on the Hub.",
            show_default=False,
        ),
    ] = None,
    sets: Sets = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path(
        "evaluation"
    ),
    keys: Keys = False,
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
    r"""Judge encoders beside band statistics and random weights: few labels, clouds, unseen classes.

    Folds are spatial blocks, intervals are paired, choices are made on validation blocks.

    With --model: the scores of a fine-tuned model of any task on the test split.

    Example: [bold]deepsentinel evaluate corpus/ --encoder galileo-nano --set "parts=\[scores, matrix]"[/]

    Example: [bold]deepsentinel evaluate corpus/ --model finetune/ --set "sensors=\[s1]"[/]
    """
    from deepsentinel.training.config import describe_config
    from deepsentinel.training.evaluation.protocol import Protocol
    from deepsentinel.training.scoring.run import Scoring

    if keys:
        say(describe_config(Protocol if model is None else Scoring))
        return
    if compare is not None:
        _compare(*compare, as_json=as_json)
        return
    if model is not None and encoder:
        raise ConfigError("--encoder judges encoders by probes, --model scores a model: give one.")
    file, corpora = config_and_corpora(source)
    if len(corpora) != 1:
        given = f"several corpora were given: {' '.join(corpora)}" if corpora else "no corpus given"
        raise ConfigError(f"{given}. Name one, or two reports with --compare.")
    call = _Call(
        corpus=corpora[0],
        file=file,
        sets=sets or [],
        client=access(requester_pays, storage_option),
        out_dir=out_dir,
        as_json=as_json,
    )
    if model is None:
        _judge(encoder or ["deepsentinel-nano"], call)
    else:
        _score(model, call)


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What was asked, be it of encoders or of a model."""

    corpus: str
    file: str | None
    sets: list[str]
    client: dict[str, Any]
    out_dir: Path
    as_json: bool


def _compare(before: Path, after: Path, *, as_json: bool) -> None:
    from deepsentinel.training.evaluate import compare

    report = compare(before, after)
    if as_json:
        print_json(report.to_json())
    else:
        say(report.text())


def _judge(encoders: list[str], call: _Call) -> None:
    from deepsentinel.training.config import read_config, write_config
    from deepsentinel.training.evaluate import evaluate
    from deepsentinel.training.evaluation.protocol import Protocol

    protocol = read_config(Protocol, call.file, sets=call.sets)
    found = evaluate(
        encoders,
        call.corpus,
        protocol,
        out_dir=call.out_dir,
        say=lambda line: err.print(line, markup=False, highlight=False, soft_wrap=True),
        **call.client,
    )
    write_config(protocol, call.out_dir / "protocol.yaml")
    if call.as_json:
        print_json(found.report.to_json())
        return
    say(str(found))
    say(f"\n{call.out_dir / 'report.html'}")


def _score(model: str, call: _Call) -> None:
    from deepsentinel.training.config import read_config, write_config
    from deepsentinel.training.scoring.run import Scoring, run_scoring

    scoring = read_config(Scoring, call.file, sets=call.sets)
    scores = run_scoring(model, call.corpus, scoring, out_dir=call.out_dir, access=call.client)
    write_config(scoring, call.out_dir / "scoring.yaml")
    if call.as_json:
        print_json(scores)
        return
    print_scores(scores, f"{model} on {call.corpus}, split {scoring.split or 'all'}")
    say(f"\n{call.out_dir / 'report.html'}")
