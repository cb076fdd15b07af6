"""The matrix: one sensor, the other, both, under more and more cloud; is fusion ever below either?

Learners that see Sentinel-2 learn from copies of their patches under every cloud share (cloud and
sensor dropout): under full cloud both sensors are Sentinel-1 alone. The gate mixes what three
learners say - each sensor's and the fused one - by weights that are chosen for each cloud share on
the validation blocks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepsentinel.bands import SENSORS
from deepsentinel.errors import TrainingError
from deepsentinel.training.evaluation.bench import Answers, Bench, Row
from deepsentinel.training.evaluation.conditions import Condition
from deepsentinel.training.evaluation.curves import answered
from deepsentinel.training.evaluation.folds import Budget
from deepsentinel.training.evaluation.intervals import Floats, Interval, interval
from deepsentinel.training.evaluation.metrics import Kind
from deepsentinel.training.evaluation.subjects import Subject

Say = Callable[[str], None]

SINGLE: Final = ("s1", "s2")
CLEAR: Final = "both, trained on clear"
GATED: Final = "both, gated"
FUSED: Final = ("both", GATED)
ALL: Final = Budget("share", 1.0)
_STEPS: Final = 4
"""Weights of the gate are multiples of a quarter."""
_REAL_SHARE: Final = 0.1
"""From this share of patches with gaps on, the gaps of the corpus are the clouds of the matrix."""
_GAP: Final = 0.125


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """Both sensors against the better one, under one cloud share."""

    encoder: str
    shown: str
    """`both`, or another way of fusing."""
    cloud: str
    better: str
    """The single sensor with the higher score."""
    difference: Interval
    """Fused less better, with its paired 95 % interval."""
    below: bool
    """Whether it is below either single sensor outside the paired interval."""


def is_real(bench: Bench) -> bool:
    """Whether the matrix shows the gaps of the corpus itself rather than simulated clouds."""
    if bench.protocol.clouds != "auto":
        return bench.protocol.clouds == "real"
    return float((bench.units.hidden >= _GAP).mean()) >= _REAL_SHARE


def check_matrix(bench: Bench, who: Sequence[Subject]) -> None:
    """Whether the matrix can be measured, before anything is.

    Raises:
        TrainingError: an encoder reads one sensor only, or there is no Sentinel-2 in any patch.
    """
    for subject in who:
        read = set(SENSORS if subject.encoder is None else subject.encoder.sensors)
        if read != set(SENSORS):
            raise TrainingError(
                f"the matrix shows each sensor and both, but {subject.name!r} reads "
                f"{' '.join(sorted(read))} only. Leave it, or matrix in parts, out."
            )
    if bool((bench.units.hidden >= 1).all()):
        raise TrainingError(
            "the matrix shows each sensor and both, but Sentinel-2 observed nothing in any patch. "
            "Leave matrix out of parts."
        )


def matrix_rows(bench: Bench, who: Sequence[Subject], *, say: Say) -> tuple[Row, ...]:
    """One row an encoder or control, way of showing, and cloud share."""
    rows: list[Row] = []
    real = is_real(bench)
    for subject in who:
        if bench.protocol.matrix_method == "finetune" and subject.role == "statistics":
            continue
        found = _real(bench, subject) if real else _simulated(bench, subject)
        rows += found
        for row in found:
            say(f"{row.name}: {next(iter(row.intervals.values()))}")
        bench.forget(subject)
    return tuple(rows)


def comparisons(rows: Sequence[Row]) -> tuple[Comparison, ...]:
    """For every fused row of the matrix, whether it is below the better single sensor."""
    by_place: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        place = by_place.setdefault((row.key["encoder"], row.key["cloud"]), {})
        place[row.key["shown"]] = row
    return tuple(
        _compared(encoder, cloud, shown, place)
        for (encoder, cloud), place in by_place.items()
        for shown in place
        if shown not in SINGLE and all(s in place for s in SINGLE)
    )


def _compared(encoder: str, cloud: str, shown: str, place: Mapping[str, Row]) -> Comparison:
    fused = place[shown]
    differences = {s: difference(fused, place[s]) for s in SINGLE}
    better = max(SINGLE, key=lambda s: headline(place[s]))
    return Comparison(
        encoder=encoder,
        shown=shown,
        cloud=cloud,
        better=better,
        difference=differences[better],
        below=any(d.verdict == "below" for d in differences.values()),
    )


def difference(row: Row, other: Row) -> Interval:
    """The headline of one row less that of another of the same evaluation, paired."""
    return interval(headline(row) - headline(other), row.replicates - other.replicates)


def headline(row: Row) -> float:
    """The score that decides."""
    return row.scores[next(iter(row.intervals))]


def _simulated(bench: Bench, subject: Subject) -> list[Row]:
    shares = bench.protocol.cloud_shares
    answer = answered(bench, subject, bench.protocol.matrix_method)
    under = {s: tuple(Condition(s, c) for c in shares) for s in (("s2",), SENSORS)}
    radar, clear = Condition(("s1",)), Condition()
    optical = under["s2",]
    said: dict[str, list[Answers]] = {
        "s1": answer(ALL, (radar,), (radar,)) * len(shares),
        "s2": answer(ALL, _distinct(optical), optical),
        "both": answer(ALL, _distinct(under[SENSORS]), under[SENSORS]),
        CLEAR: answer(ALL, (clear,), under[SENSORS]),
    }
    said[GATED] = [
        gated(bench, [said[name][i] for name in ("both", "s1", "s2")]) for i in range(len(shares))
    ]
    return [
        bench.row(_key(bench, subject, shown, f"{100 * share:g} %"), answers)
        for shown, columns in said.items()
        for share, answers in zip(shares, columns, strict=True)
    ]


def _real(bench: Bench, subject: Subject) -> list[Row]:
    answer = answered(bench, subject, bench.protocol.matrix_method)
    radar, optical, both = Condition(("s1",)), Condition(("s2",)), Condition()
    said: dict[str, Answers] = {
        "s1": answer(ALL, (radar,), (radar,))[0],
        "s2": answer(ALL, (optical,), (optical,))[0],
        "both": answer(ALL, (both, radar), (both,))[0],
        CLEAR: answer(ALL, (both,), (both,))[0],
    }
    shares = np.array(bench.protocol.cloud_shares)
    column = np.abs(bench.units.hidden[:, None] - shares).argmin(axis=1)  # (P,)
    said[GATED] = gated(bench, [said[name] for name in ("both", "s1", "s2")], groups=column)
    rows = []
    for place, share in enumerate(shares):
        among = column[bench.units.patch] == place
        if _scorable(bench, among):
            rows += [
                _counted(bench, subject, (shown, f"{100 * share:g} %"), answers, among)
                for shown, answers in said.items()
            ]
    return rows


def _counted(
    bench: Bench,
    subject: Subject,
    place: tuple[str, str],
    answers: Answers,
    among: NDArray[np.bool_],
) -> Row:
    """A row on some units, of which the empty ones are counted."""
    shown, cloud = place
    sensors = tuple(s for s in SENSORS if shown not in SINGLE or s == shown)
    first = bench.vectors(subject, Condition(sensors), bench.protocol.seed)
    tested = np.isfinite(answers.probabilities[0]).all(axis=1) & among
    empty = int((~np.isfinite(first[tested]).any(axis=1)).sum())
    here = Answers(answers.probabilities, answers.val, [empty], answers.trained, answers.chosen)
    return bench.row(_key(bench, subject, shown, cloud), here, among=among)


def gated(
    bench: Bench, sources: Sequence[Answers], *, groups: NDArray[np.intp] | None = None
) -> Answers:
    """The mixture of what several learners say, by weights chosen on the validation units.

    Args:
        bench: gives folds and labels.
        sources: of the learners, the fused one first: it wins where weights are equally good.
        groups: (P,) patches that get weights of their own together; all alike if `None`.

    Returns:
        Geometric means of their probabilities, with the weights whose log loss on the validation
        units of the fold is least.
    """
    units, seeds = bench.units, bench.protocol.all_seeds
    owner = np.zeros(len(units.patch), np.intp) if groups is None else groups[units.patch]
    found = Answers(empty=list(sources[0].empty), trained=list(sources[0].trained))
    for s, seed in enumerate(seeds):
        blank = np.full_like(sources[0].probabilities[s], np.nan)
        for f, fold in enumerate(bench.folds(seed)):
            val, test = units.of(fold.val), units.of(fold.test)
            for group in np.unique(owner[test]):
                judges, asked = owner[val] == group, test[owner[test] == group]
                weights = _best_weights(
                    [a.val[s][f][judges] for a in sources], units.labels[val][judges], units.kind
                )
                blank[asked] = mixed(
                    [a.probabilities[s][asked] for a in sources], weights, units.kind
                )
                found.chosen.append(weights[0])
        found.probabilities.append(blank)
    return found


def mixed(parts: Sequence[Floats], weights: Sequence[float], kind: Kind) -> Floats:
    """The weighted geometric mean of probabilities, normalised.

    Example:
        >>> a, b = np.array([[0.5, 0.5]]), np.array([[0.9, 0.1]])
        >>> mixed([a, b], [0.5, 0.5], "single").round(2).tolist()
        [[0.75, 0.25]]
    """
    least = 1e-6
    logs = sum(w * np.log(np.clip(p, least, 1)) for p, w in zip(parts, weights, strict=True))
    there = np.exp(logs)
    if kind == "multi":
        rest = sum(
            w * np.log(np.clip(1 - p, least, 1)) for p, w in zip(parts, weights, strict=True)
        )
        return np.asarray(there / (there + np.exp(rest)))
    return np.asarray(there / there.sum(axis=1, keepdims=True))


def _best_weights(
    parts: Sequence[Floats], labels: NDArray[np.int64], kind: Kind
) -> tuple[float, ...]:
    """The weights of least log loss; the whole weight on the first where nothing can judge."""
    whole = (1.0, *([0.0] * (len(parts) - 1)))
    if not len(labels):
        return whole
    options = [
        tuple(n / _STEPS for n in counts)
        for counts in product(range(_STEPS, -1, -1), repeat=len(parts))
        if sum(counts) == _STEPS
    ]
    losses = [_log_loss(mixed(parts, w, kind), labels, kind) for w in options]
    return options[int(np.argmin(losses))]


def _log_loss(p: Floats, labels: NDArray[np.int64], kind: Kind) -> float:
    safe = np.clip(p, 1e-6, 1 - 1e-6)
    if kind == "multi":
        known = labels >= 0
        return float(-np.where(labels == 1, np.log(safe), np.log(1 - safe))[known].mean())
    return float(-np.log(safe[np.arange(len(labels)), labels]).mean())


def _distinct(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    return tuple(dict.fromkeys(c.shown for c in conditions))


def _key(bench: Bench, subject: Subject, shown: str, cloud: str) -> dict[str, str]:
    return {
        "part": "matrix",
        "encoder": subject.name,
        "method": bench.protocol.matrix_method,
        "shown": shown,
        "cloud": cloud,
    }


def _scorable(bench: Bench, among: NDArray[np.bool_]) -> bool:
    labels = bench.units.labels[among]
    return bool(len(labels)) and bool((labels == 1).any() or bench.units.kind != "multi")
