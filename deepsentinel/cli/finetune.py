"""`deepsentinel finetune`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from deepsentinel.cli.common import (
    ClientOptions,
    Json,
    Keys,
    Payer,
    Restart,
    Sets,
    access,
    config_and_corpora,
    json_text,
    print_json,
    print_scores,
    say,
)
from deepsentinel.errors import ConfigError


def finetune(
    source: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG.yaml] [CORPUS]",
            help="A YAML file of options, a folder or URL of a corpus, or both.",
            show_default=False,
        ),
    ] = None,
    *,
    sets: Sets = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="segmentation (the default), classification, detection, regression or matching.",
            show_default=False,
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Label to learn, where the corpus has several.", show_default=False),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Name or folder; `deepsentinel encoders` lists the names.", show_default=False
        ),
    ] = None,
    decoder: Annotated[
        str | None, typer.Option(help="unet, linear, ... of a segmenter.", show_default=False)
    ] = None,
    sensors: Annotated[
        str | None, typer.Option(help="s1, s2 or s1,s2.", show_default=False)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the train split.", show_default=False)
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of the head.", show_default=False)
    ] = None,
    freeze_encoder: Annotated[
        bool, typer.Option("--freeze-encoder", help="Train the head only.")
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(help="Patches a batch.", show_default=False)
    ] = None,
    num_workers: Annotated[
        int | None, typer.Option(help="Worker processes that read.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Every random choice follows from it.", show_default=False)
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of checkpoints and scores.", show_default=False),
    ] = None,
    keys: Keys = False,
    restart: Restart = False,
    requester_pays: Payer = None,
    storage_option: ClientOptions = None,
    as_json: Json = False,
) -> None:
    """Train a head, and the encoder unless frozen, on the train split; score it on test.

    A killed run continues where it stopped when the same command is given again. On several GPUs:
    torchrun --nproc-per-node 4 -m deepsentinel finetune config.yaml

    Example: [bold]deepsentinel finetune corpus/ --task segmentation --epochs 30 --out run/[/]

    Example: [bold]deepsentinel finetune config.yaml --set lr=3e-4 --set model.decoder=fpn[/]
    """
    from deepsentinel.training.config import describe_config, read_config
    from deepsentinel.training.finetuning.run import FinetuneRun, run_config
    from deepsentinel.training.ranks import rank

    if keys:
        say(describe_config(FinetuneRun))
        return
    file, corpora = config_and_corpora(source)
    if len(corpora) > 1:
        raise ConfigError(f"several corpora were given: {' '.join(corpora)}. Give one.")
    corpus = next(iter(corpora), None)
    named: dict[str, object] = {"corpus": corpus, "task": task, "label": label, "encoder": encoder}
    named |= {"model.decoder": decoder, "epochs": epochs, "lr": lr, "batch_size": batch_size}
    named |= {"num_workers": num_workers, "seed": seed, "out_dir": out_dir}
    named |= {"freeze_encoder": "true" if freeze_encoder else None}
    if sensors is not None:
        named["sensors"] = json.dumps([part.strip() for part in sensors.split(",")])
    words = [f"{key}={value}" for key, value in named.items() if value is not None]
    run = read_config(FinetuneRun, file, sets=[*(sets or ()), *words])
    client = access(requester_pays, storage_option)
    result, scores = run_config(run, access=client, resume=not restart, progress=not as_json)
    if rank() > 0:
        return
    facts = {"best_epoch": result.best_epoch, result.metric: result.best_score, "test": scores}
    (run.out_dir / "scores.json").write_text(json_text(facts) + "\n", encoding="utf-8")
    if as_json:
        print_json({**facts, "model": str(result.best)})
        return
    say(str(result))
    if scores is not None:
        print_scores(scores, f"On the {run.test_split} split")
