"""The report of a pretraining: curves, probes and how fast it went."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from deepsentinel.encoders.card import Card
from deepsentinel.training.config import plain
from deepsentinel.training.pretraining.options import PretrainConfig
from deepsentinel.training.pretraining.state import LogRow
from deepsentinel.training.reports.figures import curves_figure
from deepsentinel.training.reports.parts import Picture, Table
from deepsentinel.training.reports.report import Report

_NOT_LOSSES: Final = frozenset({
    "step", "epoch", "lr", "replaced", "grad_norm", "patches_per_s", "megapixels_per_s",
    "data_wait", "memory_gb", "gpu_use",
})  # fmt: skip
SPREAD: Final = {"Effective rank": ["effective_rank"], "Spread": ["embedding_std"]}
_SPEED: Final = ("patches_per_s", "megapixels_per_s", "data_wait", "gpu_use", "memory_gb")


def pretrain_report(
    config: PretrainConfig, card: Card, log: Sequence[LogRow], *, drawn: Path | None = None
) -> Report:
    """The report of a run that came to its end.

    Args:
        config: of the run.
        card: of its encoder.
        log: all its rows.
        drawn: the last picture that the objective made.
    """
    logged = [row for row in log if "loss" in row]
    looks = [row for row in log if "effective_rank" in row]
    probes = [row for row in log if "knn" in row]
    warnings = tuple(f"Step {row['step']}: {row['warning']}" for row in log if "warning" in row)
    losses = [name for name in logged[-1] if name not in _NOT_LOSSES]
    pictures = [
        _curves("curves", "Course of the run", logged, {"Losses": losses, "Learning rate": ["lr"]}),
        _curves("embeddings", "Embeddings of the same patches", looks, SPREAD),
    ]
    if probes:
        group = {"Nearest neighbours": ["knn", "knn_band_stats"]}
        pictures.append(_curves("probe", "Probe", probes, group))
    if drawn is not None:
        title = f"What the objective drew, step {int(drawn.stem)}"
        pictures.append(Picture(name="drawn", png=drawn.read_bytes(), title=title))
    options = plain(config) | {"storage_options": None, "requester_pays": None}
    return Report(
        title=f"Pretraining of {card.name}",
        metrics={
            "last": logged[-1],
            "speed": _speed(logged),
            "embeddings": looks,
            "probes": probes,
        },
        facts={"training": dict(card.training), "options": options},
        tables=(Table.of("log", logged, title="Log"),),
        pictures=tuple(pictures),
        notes=(str(card.training["data"]), *warnings),
    )


def _curves(
    name: str, title: str, rows: Sequence[LogRow], groups: Mapping[str, Sequence[str]]
) -> Picture:
    numbers = [{k: float(v) for k, v in row.items() if isinstance(v, int | float)} for row in rows]
    return Picture.of(name, curves_figure(numbers, groups, x="step"), title=title)


def _speed(rows: Sequence[LogRow]) -> dict[str, float]:
    """Mean over the rows; the greatest memory."""
    found: dict[str, float] = {}
    for name in _SPEED:
        values = [float(v) for row in rows if isinstance(v := row.get(name), int | float)]
        if values:
            found[name] = max(values) if name == "memory_gb" else sum(values) / len(values)
    return found
