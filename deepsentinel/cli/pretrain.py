"""`deepsentinel pretrain`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from deepsentinel.cli.common import (
    ClientOptions,
    Json,
    Payer,
    Restart,
    Sets,
    access,
    config_and_corpora,
    print_json,
    say,
)


def pretrain(
    source: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG.yaml] [CORPUS]...",
            help="Folder or URL of a corpus or several, a YAML file of options, or both.",
            show_default=False,
        ),
    ] = None,
    *,
    sets: Sets = None,
    objective: Annotated[
        str | None, typer.Option(help="What is learnt; --keys lists all.", show_default=False)
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="timm name of the network.", show_default=False)
    ] = None,
    fusion: Annotated[
        str | None, typer.Option(help="early, mid or late.", show_default=False)
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of the optimiser.", show_default=False)
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the run; pretrain if not given.", show_default=False),
    ] = None,
    keys: Annotated[
        bool, typer.Option("--keys", help="List every key, its default, and the objectives.")
    ] = False,
    restart: Restart = False,
    requester_pays: Payer = None,
    storage_option: ClientOptions = None,
    as_json: Json = False,
) -> None:
    """Train an encoder on patches without labels, and save it with its card.

    A killed run continues where it stopped when the same command is given again. On several GPUs:
    torchrun --nproc-per-node 4 -m deepsentinel pretrain CORPUS ...

    Example: [bold]deepsentinel pretrain corpus/ --objective masked --backbone convnext_atto --out run/[/]
    """
    from deepsentinel.training.config import describe_config, read_config
    from deepsentinel.training.pretrain import run_config
    from deepsentinel.training.pretraining.options import PretrainConfig

    if keys:
        from deepsentinel.objectives.registry import ROWS

        say(describe_config(PretrainConfig))
        say("\n".join(["", "objectives:", *(f"  {row.name}: {row.title}" for row in ROWS)]))
        return
    file, corpora = config_and_corpora(source)
    named: dict[str, object] = {"objective": objective, "backbone": backbone, "fusion": fusion}
    named |= {"steps": steps, "out_dir": out_dir, "corpus": _one_or_list(corpora)}
    words = [f"{key}={value}" for key, value in named.items() if value is not None]
    chosen = read_config(PretrainConfig, file, sets=[*(sets or ()), *words])
    client = access(requester_pays, storage_option)
    chosen = replace(chosen, **{k: v for k, v in client.items() if v is not None})
    result = run_config(chosen, resume=not restart, progress=not as_json)
    from deepsentinel.training.ranks import rank

    if rank() > 0:
        return
    if as_json:
        last = next(row for row in reversed(result.log) if "loss" in row)
        facts = {"encoder": str(result.path), "steps": result.steps, "collapsed": result.collapsed}
        print_json({**facts, "last": last, "log": str(result.out_dir / "log.jsonl")})
        return
    say(str(result))


def _one_or_list(corpora: list[str]) -> str | None:
    """What the config calls `corpus`, as YAML."""
    return json.dumps(corpora) if len(corpora) > 1 else next(iter(corpora), None)
