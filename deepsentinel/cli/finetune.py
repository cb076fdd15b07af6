"""`deepsentinel finetune`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deepsentinel.bands import check_sensors
from deepsentinel.cli.common import (
    ClientOptions,
    CorpusRoot,
    Json,
    Payer,
    Seed,
    access,
    json_text,
    out,
    print_json,
    rows_table,
    say,
)


class Task(StrEnum):
    """What a head is trained for."""

    segmentation = "segmentation"
    classification = "classification"


def finetune(
    corpus: CorpusRoot,
    *,
    task: Annotated[Task, typer.Option(help="What to train.")] = Task.segmentation,
    label: Annotated[
        str | None,
        typer.Option(help="Label to learn, where the corpus has several.", show_default=False),
    ] = None,
    encoder: Annotated[
        str, typer.Option(help="Name or folder; `deepsentinel encoders` lists the names.")
    ] = "deepsentinel-nano",
    decoder: Annotated[str, typer.Option(help="unet, unetplusplus, fpn or linear.")] = "unet",
    sensors: Annotated[str, typer.Option(help="s1, s2 or s1,s2.")] = "s1,s2",
    epochs: Annotated[int, typer.Option(help="Passes over the train split.")] = 20,
    lr: Annotated[float, typer.Option(help="Learning rate of the head.")] = 1e-3,
    freeze_encoder: Annotated[
        bool, typer.Option("--freeze-encoder", help="Train the head only.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Patches a batch.")] = 16,
    num_workers: Annotated[int, typer.Option(help="Worker processes that read.")] = 0,
    seed: Seed = 0,
    out_dir: Annotated[
        Path, typer.Option("--out", help="Folder of checkpoints and scores.")
    ] = Path("finetune"),
    requester_pays: Payer = None,
    storage_option: ClientOptions = None,
    as_json: Json = False,
) -> None:
    """Train a head, and the encoder unless frozen, on the train split; score it on test.

    A killed run continues where it stopped when the same command is given again.

    Example: [bold]deepsentinel finetune corpus/ --task segmentation --epochs 30 --out run/[/]
    """
    import torch

    from deepsentinel.datasets.dataset import DeepSentinelDataset
    from deepsentinel.training.evaluate import evaluate_model
    from deepsentinel.training.finetune import finetune as run
    from deepsentinel.training.setup import model_for, pick_label
    from deepsentinel.zoo.load import load_encoder

    asked = check_sensors(tuple(part.strip() for part in sensors.split(",")))
    client = access(requester_pays, storage_option)
    spec = pick_label(DeepSentinelDataset(corpus, None, labels=(), **client).info, task, label)
    train, val, test = (
        DeepSentinelDataset(corpus, split, sensors=asked, labels=(spec.name,), **client)
        for split in ("train", "val", "test")
    )
    pretrained = load_encoder(encoder)
    torch.manual_seed(seed)  # the head starts at random
    result = run(
        model_for(pretrained, spec, decoder=decoder),
        train,
        val,
        out_dir=out_dir,
        epochs=epochs,
        lr=lr,
        freeze_encoder=freeze_encoder,
        batch_size=batch_size,
        num_workers=num_workers,
        seed=seed,
        progress=not as_json,
    )
    scores = evaluate_model(result.model, test)
    facts = {"best_epoch": result.best_epoch, result.metric: result.best_score, "test": scores}
    (out_dir / "scores.json").write_text(json_text(facts) + "\n", encoding="utf-8")
    if as_json:
        print_json({**facts, "model": str(result.best)})
        return
    say(str(result))
    out.print(rows_table("On the test split", ("score", "value"), list(scores.items())))
