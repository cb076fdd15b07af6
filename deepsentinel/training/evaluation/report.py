"""The report of an evaluation: tables, curves, the map of the folds, and what must be known."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from deepsentinel.training.evaluation.bench import Bench, Row
from deepsentinel.training.evaluation.intervals import LEAST_BLOCKS
from deepsentinel.training.evaluation.matrix import (
    SINGLE,
    Comparison,
    comparisons,
    difference,
    is_real,
)
from deepsentinel.training.evaluation.metrics import HEADLINES, MEANINGS
from deepsentinel.training.evaluation.protocol import Protocol
from deepsentinel.training.evaluation.result import row_json
from deepsentinel.training.evaluation.subjects import BAND_STATISTICS, RANDOM, Subject
from deepsentinel.training.reports.figures import intervals_figure
from deepsentinel.training.reports.report import Picture, Report, Table

FEW_BLOCKS: Final = 10
"""With fewer blocks than this an interval over them is rough."""


def evaluation_report(
    title: str,
    bench: Bench,
    who: Sequence[Subject],
    rows: Sequence[Row],
    facts: Mapping[str, Any],
    *,
    notes: Sequence[str] = (),
) -> Report:
    """All results as tables, pictures and plain values; `notes` are said beside its own."""
    parts = {name: [r for r in rows if r.key["part"] == name] for name in _PARTS}
    fused = comparisons(parts["matrix"])
    tables: list[Table] = []
    pictures: list[Picture] = []
    for name in ("scores", "unseen"):
        if parts[name]:
            tables += _label_tables(name, bench, who, parts[name])
            pictures.append(_curves(name, parts[name]))
    if parts["matrix"]:
        tables += _matrix_tables(parts["matrix"], fused)
        pictures.append(_matrix_picture(parts["matrix"]))
    tables += [_per_class(bench, rows), _long(rows), _fold_table(bench)]
    located = bool(np.isfinite(bench.units.lonlat).all())
    return Report(
        title=title,
        metrics={
            "headline": HEADLINES[bench.units.kind][0],
            "rows": [row_json(r) for r in rows],
            "fusion": [_comparison_row(c) for c in fused],
            "fusion_ever_below": any(c.below for c in fused) if fused else None,
        },
        facts=dict(facts),
        tables=tuple(t for t in tables if t.rows),
        pictures=(*pictures, *((_fold_map(bench),) if located else ())),
        notes=(*_notes(bench, parts, fused), *notes),
    )


_PARTS: Final = ("scores", "matrix", "unseen")
_Panels = dict[str, dict[str, dict[float, tuple[float, float, float]]]]


def _label_tables(
    name: str, bench: Bench, who: Sequence[Subject], rows: Sequence[Row]
) -> list[Table]:
    metric = HEADLINES[bench.units.kind][0]
    what = {"scores": "by number of labels", "unseen": "on classes never seen"}[name]
    found = [
        Table.of(
            name,
            _pivot(rows, ("encoder", "method"), "labels", lambda r: str(_interval(r))),
            title=f"{metric} {what}, with 95 % intervals",
            note=f"{metric}: {MEANINGS[metric]}.",
        )
    ]
    names = {s.name for s in who if s.role != "encoder"}
    differences: list[dict[str, Any]] = [
        {
            "encoder": row.key["encoder"],
            "method": row.key["method"],
            "labels": row.key["labels"],
            "less": control.key["encoder"],
            "difference": (d := difference(row, control)).value,
            "low": d.low,
            "high": d.high,
            "verdict": d.verdict,
        }
        for row in rows
        for control in _controls(row, rows, names)
    ]
    found.append(
        Table.of(
            f"{name}_differences",
            differences,
            title=f"{metric} less that of the controls, paired",
            note="verdict: same where the paired 95 % interval holds 0.",
        )
    )
    return found


def _controls(row: Row, rows: Sequence[Row], names: set[str]) -> list[Row]:
    """Band statistics and the random twin of a row's encoder, with the same method and labels.

    All random networks, where none has the encoder's own architecture; none for a control.
    """
    encoder = row.key["encoder"]
    if any(encoder == n or encoder.startswith(f"{n}, ") for n in names):
        return []
    alike = [
        r
        for r in rows
        if r.key["encoder"] in names and all(r.key[k] == row.key[k] for k in ("method", "labels"))
    ]
    twins = [r for r in alike if r.key["encoder"] == f"{encoder.split(', ')[0]}, {RANDOM}"]
    statistics = [r for r in alike if r.key["encoder"] == BAND_STATISTICS]
    return [*twins, *statistics] if twins else alike


def _matrix_tables(rows: Sequence[Row], fused: Sequence[Comparison]) -> list[Table]:
    metric = next(iter(rows[0].intervals))
    lines: list[dict[str, Any]] = _pivot(
        rows, ("encoder", "shown"), "cloud", lambda r: str(_interval(r)), prefix="cloud "
    )
    for line in lines:
        mine = [c for c in fused if (c.encoder, c.shown) == (line["encoder"], line["shown"])]
        below = [c.cloud for c in mine if c.below]
        unknown = [c.cloud for c in mine if not c.difference.known]
        answer = f"at {', '.join(below)}" if below else "never"
        answer += f"; not known at {', '.join(unknown)}" if unknown else ""
        line["below the better sensor?"] = None if line["shown"] in SINGLE else answer
    return [
        Table.of(
            "matrix",
            lines,
            title=f"{metric} by what is shown and how much of Sentinel-2 is under cloud",
            note="Last column: at which cloud shares the fused score is below either single "
            "sensor, outside the paired 95 % interval.",
        ),
        Table.of(
            "fusion",
            [_comparison_row(c) for c in fused],
            title="Both sensors less the better single one, paired",
        ),
        Table.of(
            "nothing_observed",
            _pivot(
                rows,
                ("encoder", "shown"),
                "cloud",
                lambda r: f"{r.empty} of {r.tested}",
                prefix="cloud ",
            ),
            title="Of how many patches or pixels nothing was observed",
            note="They are scored as the prior of what was learnt from.",
        ),
    ]


def _pivot(
    rows: Sequence[Row], lines: Sequence[str], columns: str, cell: Any, *, prefix: str = ""
) -> list[dict[str, Any]]:
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        place = tuple(row.key[name] for name in lines)
        line = found.setdefault(place, dict(zip(lines, place, strict=True)))
        line[prefix + row.key[columns]] = cell(row)
    return list(found.values())


def _interval(row: Row) -> Any:
    return next(iter(row.intervals.values()))


def _comparison_row(c: Comparison) -> dict[str, Any]:
    return {
        "encoder": c.encoder,
        "shown": c.shown,
        "cloud": c.cloud,
        "better sensor": c.better,
        "difference": c.difference.value,
        "low": c.difference.low,
        "high": c.difference.high,
        "below either": c.below if c.difference.known else None,
    }


def _per_class(bench: Bench, rows: Sequence[Row]) -> Table:
    """Of the rows with all labels, or the most."""
    known = [r for r in rows if r.key["part"] == "scores" and r.per_class]
    most = max((r.trained for r in known), default=0)
    lines = [
        {"encoder": r.key["encoder"], "method": r.key["method"]}
        | dict(zip(bench.units.class_names, r.per_class, strict=True))
        for r in known
        if r.trained == most
    ]
    name = {"pixels": "IoU", "single": "F1", "multi": "Average precision"}[bench.units.kind]
    return Table.of("per_class", lines, title=f"{name} of each class, with the most labels")


def _long(rows: Sequence[Row]) -> Table:
    lines = [
        dict(row.key)
        | {"trained": row.trained, "tested": row.tested, "blocks": row.blocks, "empty": row.empty}
        | dict(row.scores)
        | {f"{n} sd of seeds": row.spread[n] for n in row.intervals}
        | {f"{n} low": i.low for n, i in row.intervals.items()}
        | {f"{n} high": i.high for n, i in row.intervals.items()}
        for row in rows
    ]
    meanings = {n for row in rows for n in row.scores}
    note = "; ".join(f"{n}: {MEANINGS[n]}" for n in MEANINGS if n in meanings)
    return Table.of("all_scores", lines, title="Every score", note=f"{note}.")


def _fold_table(bench: Bench) -> Table:
    seed = bench.protocol.seed
    lines = [
        {
            "fold": number + 1,
            "train": len(fold.train),
            "choose": len(fold.val),
            "test": len(fold.test),
            "blocks that test": len(np.unique(bench.blocks[fold.test])),
        }
        for number, fold in enumerate(bench.folds(seed))
    ]
    return Table.of("folds", lines, title=f"Patches of the folds of seed {seed}")


def _curves(name: str, rows: Sequence[Row]) -> Picture:
    """Scores over labels, a panel a method; of unseen classes all ways together."""
    panels: _Panels = {}
    for row in rows:
        panel = panels.setdefault(row.key["method"] if name == "scores" else "", {})
        line = panel.setdefault(row.key["encoder"], {})
        i = _interval(row)
        line[round(row.trained, 1)] = (i.value, i.low, i.high)
    metric = next(iter(rows[0].intervals))
    figure = intervals_figure(panels, x="labelled units", y=metric, log=True)
    titles = {"scores": "Scores by number of labels", "unseen": "Classes never seen"}
    return Picture.of(f"{name}_curves", figure, title=titles[name], note="Bars: 95 % intervals.")


def _matrix_picture(rows: Sequence[Row]) -> Picture:
    """Scores over cloud shares, a panel an encoder or control."""
    panels: _Panels = {}
    for row in rows:
        line = panels.setdefault(row.key["encoder"], {}).setdefault(row.key["shown"], {})
        i = _interval(row)
        line[float(row.key["cloud"].removesuffix(" %"))] = (i.value, i.low, i.high)
    metric = next(iter(rows[0].intervals))
    figure = intervals_figure(panels, x="% of Sentinel-2 under cloud", y=metric)
    return Picture.of("matrix", figure, title="The matrix", note="Bars: 95 % intervals.")


def _fold_map(bench: Bench) -> Picture:
    """Where each patch tests, in the folds of the first seed."""
    seed = bench.protocol.seed
    folds = bench.folds(seed)
    lonlat = bench.units.lonlat
    stretch = 1 / np.cos(np.radians(np.clip(lonlat[:, 1].mean(), -85, 85)))
    wide, high = np.maximum(np.ptp(lonlat, axis=0), 1e-3)
    tall = float(np.clip(6.0 * high * stretch / wide, 2.0, 7.0))
    figure = Figure(figsize=(6.4, tall + 1.2), layout="constrained")
    axes = figure.subplots()
    groups = (
        {name: getattr(folds[0], name) for name in ("train", "val", "test")}
        if len(folds) == 1
        else {f"fold {n + 1}": fold.test for n, fold in enumerate(folds)}
    )
    for name, patches in groups.items():
        axes.scatter(lonlat[patches, 0], lonlat[patches, 1], s=14, label=name, linewidths=0)
    axes.set(xlabel="longitude", ylabel="latitude")
    axes.set_aspect(stretch)
    axes.margins(0.08)
    figure.legend(loc="outside lower center", ncols=min(len(groups), 5), fontsize="small")
    return Picture.of(
        "folds",
        figure,
        title=f"Where patches test (folds of seed {seed})",
        note="Fold k tests once; there the models chosen on fold k + 1 and trained on the others "
        "are scored."
        if len(folds) > 1
        else "The splits of the corpus.",
    )


def _notes(
    bench: Bench, parts: Mapping[str, Sequence[Row]], fused: Sequence[Comparison]
) -> tuple[str, ...]:
    protocol = bench.protocol
    tested = np.unique(np.concatenate([f.test for f in bench.folds(protocol.seed)]))
    blocks = len(np.unique(bench.blocks[tested]))
    alone = protocol.block_km is None and not bench.given
    unit = "a patch" if alone else "as the caller gave them" if bench.given else _squares(protocol)
    found = [
        "Neighbours, penalties and epochs were chosen on validation blocks, never on test blocks. "
        "Validation labels do not count as labels to learn from.",
        f"Intervals are 95 % percentiles of {protocol.replicates} draws of {blocks} test blocks "
        f"({unit}) and of seeds ({protocol.seeds}); all rows share the draws, so that "
        "differences are paired. Claim nothing inside them.",
    ]
    found += _short_budgets(bench, parts["scores"])
    found += _few_blocks([row for rows in parts.values() for row in rows])
    if alone:
        found.append(
            "Positions were not used: neighbouring patches may be in train and test, which "
            "flatters every row."
        )
    empty = max((r.empty for rows in parts.values() for r in rows), default=0)
    if empty:
        found.append(
            "A patch that nothing observed is scored as the prior of what was learnt from; up to "
            f"{empty} units of one row were (column empty)."
        )
    if parts["matrix"]:
        found += _matrix_notes(bench, fused)
    if parts["unseen"]:
        found.append(
            f"Classes never seen: {protocol.unseen_share:.0%} of the classes, drawn anew by each "
            "seed; one spatial split a seed."
            + (
                " Patches of seen classes may show unseen ones, whose labels were hidden."
                if bench.units.kind == "multi"
                else ""
            )
        )
    return tuple(found)


def _few_blocks(rows: Sequence[Row]) -> list[str]:
    """Rows of few test blocks, whose intervals are rough, or of too few, which have none."""
    few = {r.key.get("cloud", ""): r.blocks for r in rows if r.blocks < FEW_BLOCKS}
    return [
        f"Only {blocks} test block{'s' * (blocks != 1)}{f' at {cloud} cloud' if cloud else ''}: "
        + (
            "the intervals are rough at best."
            if blocks >= LEAST_BLOCKS
            else f"there is no interval, as fewer than {LEAST_BLOCKS} can agree by chance."
        )
        for cloud, blocks in few.items()
    ]


def _short_budgets(bench: Bench, rows: Sequence[Row]) -> list[str]:
    """Numbers of labels a class that some class had not, of which it gave all."""
    if bench.units.kind == "multi":
        return []  # patches have several labels each: fewer of them may well do
    wanted = {b.name: b.amount * bench.count for b in bench.protocol.budgets if b.kind == "shots"}
    came = {r.key["labels"]: r.trained for r in rows}
    short = [
        f"{name!r} came to {came[name]:.4g} labels instead of {most:g}"
        for name, most in wanted.items()
        if came.get(name, most) < most
    ]
    return [f"Classes with too few labels gave all they had: {', '.join(short)}."] if short else []


def _squares(protocol: Protocol) -> str:
    return f"squares of {protocol.block_km:g} km"


def _matrix_notes(bench: Bench, fused: Sequence[Comparison]) -> list[str]:
    clouds = (
        "Clouds of the matrix are the gaps of the corpus itself: each column holds other patches."
        if is_real(bench)
        else "Clouds of the matrix are simulated; all columns hold the same patches."
    )
    below = [f"{c.encoder}, {c.shown}, {c.cloud}" for c in fused if c.below]
    answer = (
        f"Fusion is below a single sensor outside the paired interval here: {'; '.join(below)}."
        if below
        else "Fusion is nowhere below either single sensor outside the paired interval."
    )
    room = min((c.difference.low for c in fused if c.difference.known), default=0.0)
    widest = f"The intervals leave room for differences down to {room:+.3f}."
    return [clouds, f"{answer} {widest}"]
