"""The report of a model's scores: tables, pictures, best and worst patches."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from deepsentinel.heads.model import Model
from deepsentinel.training.evaluation.embed import Samples
from deepsentinel.training.finetuning.sheet import judge, sheet
from deepsentinel.training.reports.figures import confusion_figure, scatter_figure
from deepsentinel.training.reports.parts import Cell, Picture, Table
from deepsentinel.training.reports.report import Report
from deepsentinel.training.scoring.model import Scored
from deepsentinel.training.scoring.regression import RegressionScores
from deepsentinel.training.scoring.scores import TITLES

SHOWN: Final = 4
"""Best patches on the sheet, and as many worst ones."""

_CLASS_SCORES: Final = {
    "miou": "The score is the IoU.",
    "accuracy": "The score is F1.",
    "macro_map": "The score is the average precision.",
    "r2": "The score is R2.",
    "match_accuracy": "The score is the share seen as what it is.",
}


def write_model_report(
    model: Model[Any],
    dataset: Samples,
    scored: Scored,
    folder: str | Path,
    *,
    title: str,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write the report of a model on labelled patches: one page, and JSON, CSV and PNG files.

    Args:
        model: that was scored.
        dataset: what it was scored on, as it was shown.
        scored: what came of it.
        folder: of the report, made if need be.
        title: of the page.
        facts: how it was made.

    Returns:
        The path of the page.

    Raises:
        ReportError: a file cannot be written.
        TrainingError: no patch is labelled.
    """
    report = Report(
        title=title,
        metrics=model_metrics(scored),
        facts=facts or {},
        tables=score_tables(scored),
        pictures=score_pictures(model, dataset, scored),
    )
    return report.write(folder)


def model_metrics(scored: Scored) -> dict[str, Any]:
    """All scores as plain values, the confusion matrix among them."""
    counts = scored.confusion
    return scored.values() | ({} if counts is None else {"confusion": counts.matrix()})


def score_tables(scored: Scored) -> tuple[Table, ...]:
    """Scores with their meanings, by class and, of boxes, by size."""
    found = scored.scores.compute()
    rows: list[dict[str, Cell]] = [
        {"score": k, "value": v, "meaning": TITLES.get(k, "")} for k, v in found.items()
    ]
    sizes = scored.values().get("per_size", {})
    by_size = Table.of(
        "per_size",
        [{"size": name, **values} for name, values in sizes.items()],
        title="Sizes of boxes",
        note="The size is the root of the area: tiny below 4 pixels, small below 8, medium below 16.",
    )
    tables = (Table.of("scores", rows, title="Scores"), _class_table(scored), by_size)
    return tuple(table for table in tables if table.rows)


def _class_table(scored: Scored) -> Table:
    """The headline score of each class and, where classes were counted, what it is made of."""
    rows: list[dict[str, Cell]] = [
        {"class": name, "score": value} for name, value in scored.scores.per_class().items()
    ]
    if scored.confusion is not None:
        matrix = scored.confusion.matrix().double()
        right = matrix.diagonal()
        counted = {
            "precision": right / matrix.sum(0),
            "recall": right / matrix.sum(1),
            "labelled": matrix.sum(1).long(),
            "predicted": matrix.sum(0).long(),
        }
        for i, row in enumerate(rows):
            row.update({name: values[i].item() for name, values in counted.items()})
    note = f"{_CLASS_SCORES.get(scored.scores.headline, '')} A dash: the class does not occur."
    return Table.of("per_class", rows, title="Classes", note=note.strip())


def score_pictures(model: Model[Any], dataset: Samples, scored: Scored) -> tuple[Picture, ...]:
    """Scatter or confusion matrix, and the sheet of best and worst patches."""
    found = []
    if isinstance(scored.scores, RegressionScores):
        points = {name: (p[0], p[1]) for name, p in scored.scores.points().items()}
        found.append(Picture.of("scatter", scatter_figure(points), title="Predicted over target"))
    counts = scored.confusion
    if counts is not None:
        figure = confusion_figure(counts.matrix(), counts.names)
        found.append(Picture.of("confusion", figure, title="Confusion matrix"))
    return (*found, *_sheet(model, dataset))


def _sheet(model: Model[Any], dataset: Samples) -> tuple[Picture, ...]:
    judged = judge(model, dataset)
    if not judged:
        return ()
    best = judged[: min(SHOWN, -(-len(judged) // 2))]
    worst = judged[len(best) :][-SHOWN:]
    note = (
        f"The {len(best)} patches of lowest loss, then the {len(worst)} of highest, out of "
        f"{len(judged)} that are labelled and observed."
    )
    words = [f"best {i + 1}" for i in range(len(best))]
    words += [f"worst {i}" for i in range(len(worst), 0, -1)]
    figure = sheet(model, dataset, (*best, *worst), words)
    return (Picture.of("sheet", figure, title="Best and worst predictions", note=note, dpi=80),)
