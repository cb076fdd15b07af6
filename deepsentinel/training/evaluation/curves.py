"""Scores over how many labels there are, for every encoder and control."""

from collections.abc import Callable, Sequence
from functools import partial

from deepsentinel.bands import Sensor
from deepsentinel.training.evaluation.bench import Answers, Bench, Row
from deepsentinel.training.evaluation.conditions import Condition
from deepsentinel.training.evaluation.subjects import Subject

Say = Callable[[str], None]


def few_shot_rows(
    bench: Bench, who: Sequence[Subject], *, sensors: tuple[Sensor, ...], say: Say
) -> tuple[Row, ...]:
    """One row an encoder or control, method and budget; band statistics are not fine-tuned."""
    condition = Condition(sensors)
    rows = []
    for subject in who:
        for method in bench.protocol.methods:
            if method == "finetune" and subject.role == "statistics":
                continue
            for budget in bench.protocol.budgets:
                answers = answered(bench, subject, method)(budget, (condition,), (condition,))[0]
                key = {
                    "part": "scores",
                    "encoder": subject.name,
                    "method": method,
                    "labels": budget.name,
                }
                rows.append(bench.row(key, answers))
                say(f"{rows[-1].name}: {next(iter(rows[-1].intervals.values()))}")
        bench.forget(subject)
    return tuple(rows)


def answered(bench: Bench, subject: Subject, method: str) -> Callable[..., list[Answers]]:
    """What gives the answers of a method: a probe of fixed vectors, or fine-tuned models."""
    if method == "finetune":
        from deepsentinel.training.evaluation.tuned import tuned

        return partial(tuned, bench, subject)
    return partial(bench.probe, subject, method)
