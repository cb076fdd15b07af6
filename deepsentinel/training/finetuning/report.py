"""The report of a fine-tuning: scores, curves, classes, best and worst patches."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from deepsentinel.errors import ReportError
from deepsentinel.heads.model import Model
from deepsentinel.training.evaluation.embed import Samples
from deepsentinel.training.finetuning.checkpoint import Row
from deepsentinel.training.reports.figures import curves_figure
from deepsentinel.training.reports.parts import Picture, Table, plain
from deepsentinel.training.reports.report import Report, read_report
from deepsentinel.training.scoring.model import score_model
from deepsentinel.training.scoring.report import model_metrics, score_pictures, score_tables

FOLDER: Final = "report"
"""Of the report, within the `out_dir` of a fine-tuning."""
NOTE: Final = (
    "All scores are of the validation patches, which also chose the epoch: expect less of patches "
    "that were never looked at, and measure it with `deepsentinel evaluate CORPUS --model FOLDER` "
    "on the test split."
)


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
    scored = score_model(model, val, batch_size=batch_size, num_workers=num_workers)
    metrics, name = model_metrics(scored), scored.scores.headline
    epochs = {"best_epoch": best_epoch, "epochs": len(history)}
    report = Report(
        title=f"Fine-tuning: {name} {metrics[name]:.3f} in epoch {best_epoch} of {len(history)}",
        metrics=metrics | epochs,
        facts=facts or {},
        tables=(*score_tables(scored), Table.of("history", history, title="Epochs", digits=4)),
        pictures=(_curves(history, best_epoch), *score_pictures(model, val, scored)),
        notes=(NOTE,),
    )
    return report.write(folder)


def is_report_of(folder: str | Path, facts: Mapping[str, Any]) -> bool:
    """Whether a folder holds a whole report that was made with these facts."""
    try:
        return bool(read_report(folder).facts == plain(facts))
    except ReportError:
        return False


def _curves(history: Sequence[Row], best_epoch: int) -> Picture:
    figure = curves_figure(history, _groups(history), mark=best_epoch)
    note = f"The dashed line marks the best epoch, {best_epoch}."
    return Picture.of("curves", figure, title="Curves", note=note)


def _groups(history: Sequence[Row]) -> dict[str, list[str]]:
    """Values of the history by the axis that they share."""
    groups: dict[str, list[str]] = {"Loss": [], "Scores": [], "Learning rate": []}
    for name in dict.fromkeys(k for row in history for k in row if k != "epoch"):
        kind = "Loss" if "loss" in name else "Scores"
        groups["Learning rate" if "lr" in name.split("_") else kind].append(name)
    return {title: names for title, names in groups.items() if names}
