"""What an evaluation came to: rows with intervals, on disk too, and two of them compared."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepsentinel.errors import ReportError
from deepsentinel.training.evaluation.bench import Row
from deepsentinel.training.evaluation.intervals import Floats, Interval, interval
from deepsentinel.training.reports.report import Report, Table, read_report

REPLICATES_FILE: Final = "replicates.npz"
_WIDE: Final = ("all_scores", "per_class", "folds", "nothing_observed")
"""Tables that are left to the page and the CSV files."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """Rows of all parts, and the report made of them."""

    rows: tuple[Row, ...]
    report: Report

    def __str__(self) -> str:
        """For a terminal: what must be known and the tables that answer; the report has all."""
        shown = tuple(t for t in self.report.tables if t.name not in _WIDE)
        return replace(self.report, tables=shown).text()

    def row(self, **key: str) -> Row:
        """The one row whose key holds these values, such as `encoder="nano", labels="100 %"`.

        Raises:
            ReportError: none or several.
        """
        found = [r for r in self.rows if all(r.key.get(k) == v for k, v in key.items())]
        if len(found) != 1:
            raise ReportError(
                f"{len(found)} rows of the evaluation have {key}. Keys of its rows: "
                f"{[dict(r.key) for r in (found or self.rows)[:6]]} ..."
            )
        return found[0]

    def write(self, folder: str | Path) -> Path:
        """Write the report, and the bootstrap replicates that comparisons need; the page's path."""
        page = self.report.write(folder)
        named = {str(i): r.replicates.astype(np.float32) for i, r in enumerate(self.rows)}
        np.savez_compressed(Path(folder) / REPLICATES_FILE, **named)  # type: ignore[arg-type]
        return page


def row_json(row: Row) -> dict[str, Any]:
    """A row as plain values."""
    return {
        "key": dict(row.key),
        "scores": dict(row.scores),
        "spread_over_seeds": dict(row.spread),
        "intervals": {n: asdict(i) for n, i in row.intervals.items()},
        "by_seed": list(row.by_seed),
        "per_class": list(row.per_class),
        "tested": row.tested,
        "blocks": row.blocks,
        "empty": row.empty,
        "trained": row.trained,
        "chosen": list(row.chosen),
    }


@dataclass(frozen=True, eq=False)
class _Stored:
    """Rows of a written evaluation, by key."""

    folder: Path
    report: Report
    scores: Mapping[tuple[str, ...], float]
    replicates: Mapping[tuple[str, ...], Floats]

    @property
    def encoders(self) -> set[str]:
        return set(self.report.facts["encoders"])

    @property
    def metric(self) -> str:
        return str(self.report.metrics["headline"])


def compare(before: str | Path, after: str | Path) -> Report:
    """Two written evaluations, row by row: after less before, with 95 % intervals.

    Differences are paired where both scored the same patches in the same folds, with the same
    seeds and number of replicates; otherwise replicates are taken as independent, and the report
    says so. Where each evaluated one encoder of a different name, the two are compared.

    Args:
        before: folder that `Evaluation.write` wrote to.
        after: such a folder.

    Raises:
        ReportError: no evaluation in a folder, other scores, or no row that both have.
    """
    old, new = _stored(Path(before)), _stored(Path(after))
    if old.metric != new.metric:
        raise ReportError(
            f"{before} decides by {old.metric}, {after} by {new.metric}; a difference of the two "
            "means nothing. Compare evaluations of one kind of label."
        )
    rename = _counterpart(old.encoders, new.encoders)
    paired = old.report.facts["fingerprint"] == new.report.facts["fingerprint"]
    rows: list[dict[str, Any]] = []
    for key, score in new.scores.items():
        twin = tuple(_renamed(part, rename) for part in key)
        if twin in old.scores:
            found = _difference(old, new, twin, key, paired=paired)
            rows.append(
                {
                    "row": " / ".join(key),
                    "before": old.scores[twin],
                    "after": score,
                    "difference": found.value,
                    "low": found.low,
                    "high": found.high,
                    "verdict": found.verdict,
                }
            )
    if not rows:
        raise ReportError(
            f"{before} and {after} have no row in common. They evaluated "
            f"{sorted(old.encoders)} and {sorted(new.encoders)}; rows are compared where encoder, "
            "method and number of labels have the same names."
        )
    how = (
        "Both scored the same patches in the same folds: intervals of the differences are paired."
        if paired
        else "They differ in patches, folds, seeds or replicates: intervals take them as "
        "independent, and differences may come from the data."
    )
    other = (
        ("They scored different classes, so that differences say little.",)
        if old.report.facts["classes"] != new.report.facts["classes"]
        else ()
    )
    renamed = (f"{rename[1]} is compared with {rename[0]}.",) if rename else ()
    return Report(
        title=f"{new.report.title}, compared with an earlier evaluation",
        metrics={"paired": paired, "rows": rows},
        facts={"before": str(before), "after": str(after)},
        tables=(
            Table.of(
                "comparison",
                rows,
                title=f"{new.metric}, after less before, with 95 % intervals",
                note="verdict: of the difference; same where the interval holds 0.",
            ),
        ),
        notes=(how, *other, *renamed),
    )


def _stored(folder: Path) -> _Stored:
    report = read_report(folder)
    path = folder / REPLICATES_FILE
    if not path.exists() or "fingerprint" not in report.facts:
        raise ReportError(
            f"{folder} holds a report, but not of an evaluation: {REPLICATES_FILE} is not there. "
            "Give the folder of `deepsentinel evaluate --out`."
        )
    try:
        with np.load(path) as stored:
            arrays: list[NDArray[Any]] = [stored[str(i)] for i in range(len(stored.files))]
    except (OSError, ValueError, KeyError) as error:
        raise ReportError(f"{path} is damaged: {error}.") from error
    rows = report.metrics["rows"]
    keys = [tuple(row["key"].values()) for row in rows]
    scores = [_value(row) for row in rows]
    return _Stored(
        folder,
        report,
        dict(zip(keys, scores, strict=True)),
        {k: a.astype(np.float64) for k, a in zip(keys, arrays, strict=True)},
    )


def _value(row: Mapping[str, Any]) -> float:
    value = row["scores"][next(iter(row["intervals"]))]
    return float("nan") if value is None else float(value)


def _counterpart(old: set[str], new: set[str]) -> tuple[str, str] | None:
    if len(old) == len(new) == 1 and old != new:
        return (next(iter(old)), next(iter(new)))
    return None


def _renamed(part: str, rename: tuple[str, str] | None) -> str:
    if rename is None:
        return part
    old, new = rename
    return old + part.removeprefix(new) if part == new or part.startswith(f"{new}, ") else part


def _difference(
    old: _Stored, new: _Stored, twin: tuple[str, ...], key: tuple[str, ...], *, paired: bool
) -> Interval:
    first, second = old.replicates[twin], new.replicates[key]
    if not paired:  # any pairing of independent draws does, but not that of the same blocks
        generator = np.random.default_rng(0)
        first = generator.choice(first, max(len(first), len(second)))
        second = generator.choice(second, len(first))
    return interval(new.scores[key] - old.scores[twin], second - first)
