"""The report of a fine-tuning: scores, curves, classes, best and worst patches."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from deepsentinel.errors import ReportError
from deepsentinel.heads.model import Model
from deepsentinel.training.evaluation.embed import (
    Samples,
    batches,
    evaluating,
    observed_patches,
    take,
    to_device,
)
from deepsentinel.training.finetuning.checkpoint import Row
from deepsentinel.training.finetuning.sheet import judge, sheet
from deepsentinel.training.reports.figures import confusion_figure, curves_figure, scatter_figure
from deepsentinel.training.reports.parts import Cell, Picture, Table, plain
from deepsentinel.training.reports.report import Report, read_report
from deepsentinel.training.scoring.regression import RegressionScores
from deepsentinel.training.scoring.scores import TITLES, Confusion, Scores, scores_for

FOLDER: Final = "report"
"""Of the report, within the `out_dir` of a fine-tuning."""
SHOWN: Final = 4
"""Best patches on the sheet, and as many worst ones."""
NOTE: Final = (
    "All scores are of the validation patches, which also chose the epoch: expect less of patches "
    "that were never looked at, and measure it with `deepsentinel evaluate` on the test split."
)

_CLASS_SCORES: Final = {
    "miou": "The score is the IoU.",
    "accuracy": "The score is F1.",
    "macro_map": "The score is the average precision.",
    "r2": "The score is R2.",
    "match_accuracy": "The score is the share seen as what it is.",
}


def write_finetune_report(
    model: Model[Any],
    val: Samples,
    history: Sequence[Row],
    folder: str | Path,
    *,
    best_epoch: int,
    facts: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    num_workers: int = 0,
) -> Path:
    """Write the report of a fine-tuning: one page, and JSON, CSV and PNG files.

    Args:
        model: with the weights of the best epoch.
        val: the validation patches.
        history: one row an epoch, as `FinetuneResult.history`.
        folder: of the report, made if need be.
        best_epoch: counted from 1.
        facts: how the run was made: options, data, versions.
        batch_size: patches a batch.
        num_workers: worker processes that read.

    Returns:
        The path of the page.

    Raises:
        ReportError: a file cannot be written.
        TrainingError: no validation patch is labelled.
    """
    scores, empty = _scored(model, val, batch_size, num_workers)
    found, confusion = scores.compute(), _confusion(scores)
    headline = found[scores.headline]
    metrics: dict[str, Any] = {
        **found,
        "per_class": scores.per_class(),
        "best_epoch": best_epoch,
        "epochs": len(history),
        "patches_without_observation": empty,
    }
    if confusion is not None:
        metrics["confusion"] = confusion.matrix()
    report = Report(
        title=f"Fine-tuning: {scores.headline} {headline:.3f} in epoch {best_epoch} of {len(history)}",
        metrics=metrics,
        facts=facts or {},
        tables=(_scores_table(found), _class_table(scores, confusion), _history_table(history)),
        pictures=_pictures(model, val, history, best_epoch, scores),
        notes=(NOTE,),
    )
    return report.write(folder)


def is_report_of(folder: str | Path, facts: Mapping[str, Any]) -> bool:
    """Whether a folder holds a whole report that was made with these facts."""
    try:
        return bool(read_report(folder).facts == plain(facts))
    except ReportError:
        return False


def _scored(
    model: Model[Any], val: Samples, batch_size: int, num_workers: int
) -> tuple[Scores, int]:
    """Scores of the patches of which something was observed, and how many others there are."""
    scores, empty = scores_for(model), 0
    with evaluating(model) as device:
        for batch in batches(val, model.encoder.sensors, batch_size, num_workers):
            observed = observed_patches(batch, model.encoder)
            empty += int((~observed).sum())
            if bool(observed.any()):
                kept = to_device(take(batch, observed), device)
                scores.update(model.head.decode(model.logits(kept)), kept)
    return scores, empty


def _confusion(scores: Scores) -> Confusion | None:
    found = getattr(scores, "confusion", None)  # of the scores that count one class a place
    return found if isinstance(found, Confusion) else None


def _scores_table(found: Mapping[str, float]) -> Table:
    rows: list[dict[str, Cell]] = [
        {"score": k, "value": v, "meaning": TITLES.get(k, "")} for k, v in found.items()
    ]
    return Table.of("scores", rows, title="Scores of the best epoch")


def _class_table(scores: Scores, confusion: Confusion | None) -> Table:
    """The headline score of each class and, where classes were counted, what it is made of."""
    rows: list[dict[str, Cell]] = [
        {"class": name, "score": value} for name, value in scores.per_class().items()
    ]
    if confusion is not None:
        matrix = confusion.matrix().double()
        right = matrix.diagonal()
        counted = {
            "precision": right / matrix.sum(0),
            "recall": right / matrix.sum(1),
            "labelled": matrix.sum(1).long(),
            "predicted": matrix.sum(0).long(),
        }
        for i, row in enumerate(rows):
            row.update({name: values[i].item() for name, values in counted.items()})
    note = f"{_CLASS_SCORES.get(scores.headline, '')} A dash: the class does not occur.".strip()
    return Table.of("per_class", rows, title="Classes", note=note)


def _history_table(history: Sequence[Row]) -> Table:
    return Table.of("history", history, title="Epochs", digits=4)


def _pictures(
    model: Model[Any],
    val: Samples,
    history: Sequence[Row],
    best_epoch: int,
    scores: Scores,
) -> tuple[Picture, ...]:
    curves = curves_figure(history, _groups(history), mark=best_epoch)
    note = f"The dashed line marks the best epoch, {best_epoch}."
    found = [Picture.of("curves", curves, title="Curves", note=note)]
    if isinstance(scores, RegressionScores):
        figure = scatter_figure({name: (p[0], p[1]) for name, p in scores.points().items()})
        found.append(Picture.of("scatter", figure, title="Predicted over target"))
    confusion = _confusion(scores)
    if confusion is not None:
        figure = confusion_figure(confusion.matrix(), confusion.names)
        found.append(Picture.of("confusion", figure, title="Confusion matrix"))
    judged = judge(model, val)
    if judged:
        best = judged[:SHOWN]
        worst = judged[len(best) :][-SHOWN:]
        note = (
            f"The {len(best)} patches of lowest loss, then the {len(worst)} of highest, out of "
            f"{len(judged)} that are labelled and observed."
        )
        words = [f"best {i + 1}" for i in range(len(best))]
        words += [f"worst {i}" for i in range(len(worst), 0, -1)]
        figure = sheet(model, val, (*best, *worst), words)
        title = "Best and worst predictions"
        found.append(Picture.of("sheet", figure, title=title, note=note, dpi=80))
    return tuple(found)


def _groups(history: Sequence[Row]) -> dict[str, list[str]]:
    """Values of the history by the axis that they share."""
    groups: dict[str, list[str]] = {"Loss": [], "Scores": [], "Learning rate": []}
    for name in dict.fromkeys(k for row in history for k in row if k != "epoch"):
        kind = "Loss" if "loss" in name else "Scores"
        groups["Learning rate" if "lr" in name.split("_") else kind].append(name)
    return {title: names for title, names in groups.items() if names}
