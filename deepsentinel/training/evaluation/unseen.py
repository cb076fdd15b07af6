"""Classes never seen: taught some classes, how well does an encoder learn the others from few labels?

Each seed draws which classes are never seen, and takes one of its spatial splits. An encoder is fine-tuned on
training patches of the other classes, then frozen; a linear probe learns the unseen classes from a
few labels of the training blocks and is scored on the test blocks. Beside it: the encoder without
that teaching, its architecture taught from random weights, its architecture trained from scratch
on the few labels alone, and the two controls.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepsentinel.bands import Sensor
from deepsentinel.errors import TrainingError
from deepsentinel.training.evaluation.bench import Bench, Row, merged
from deepsentinel.training.evaluation.conditions import Condition
from deepsentinel.training.evaluation.curves import answered
from deepsentinel.training.evaluation.folds import Budget, Fold
from deepsentinel.training.evaluation.subjects import Subject

Say = Callable[[str], None]

TAUGHT: Final = "taught the other classes"
SCRATCH: Final = "from scratch"


def class_split(
    count: int, *, share: float, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Ids of the classes that are seen and of those that are not, at least two of each.

    Raises:
        TrainingError: fewer than four classes.

    Example:
        >>> seen, unseen = class_split(10, share=0.3, seed=0)
        >>> len(seen), len(unseen), sorted([*seen.tolist(), *unseen.tolist()]) == list(range(10))
        (7, 3, True)
    """
    if count < 4:
        raise TrainingError(
            f"{count} classes cannot be divided into seen and never seen ones; four are needed, "
            "two to tell apart on each side."
        )
    hidden = min(max(2, round(share * count)), count - 2)
    order = np.random.default_rng([seed, count]).permutation(count)
    return np.sort(order[hidden:]), np.sort(order[:hidden])


def unseen_rows(
    bench: Bench, who: Sequence[Subject], *, sensors: tuple[Sensor, ...], say: Say
) -> tuple[Row, ...]:
    """One row a way of preparing the encoder and number of labels, over all seeds."""
    by_name: dict[str, list[Row]] = {}
    for seed in bench.protocol.all_seeds:
        for row in _seed_rows(bench, who, Condition(sensors), seed):
            by_name.setdefault(row.name, []).append(row)
            say(f"seed {seed} | {row.name}: {next(iter(row.intervals.values()))}")
    return tuple(merged(rows, bench.seed_weights[:, : len(rows)]) for rows in by_name.values())


def _seed_rows(bench: Bench, who: Sequence[Subject], condition: Condition, seed: int) -> list[Row]:
    seen, unseen = class_split(bench.count, share=bench.protocol.unseen_share, seed=seed)
    fold = _telling(bench, unseen, seed)
    protocol = replace(bench.protocol, folds=None, seeds=1, seed=seed)
    splits = _split_names(fold, bench.units.patches)
    taught_on, asked = (
        Bench(bench.dataset, bench.units.only(some), protocol, splits=splits, blocks=bench.blocks)
        for some in (seen, unseen)
    )
    budgets = [Budget("shots", n) for n in protocol.shots] or list(protocol.budgets)
    rows = []
    for subject in _prepared(taught_on, who, condition, fold, seed):
        method = "finetune" if subject.name.endswith(SCRATCH) else "linear"
        for budget in budgets:
            answers = answered(asked, subject, method)(budget, (condition,), (condition,))[0]
            key = {
                "part": "unseen",
                "encoder": subject.name,
                "method": method,
                "labels": budget.name,
            }
            rows.append(asked.row(key, answers, part=True))
        asked.forget(subject)
    return rows


def _telling(bench: Bench, unseen: NDArray[np.intp], seed: int) -> Fold:
    """The first fold whose three parts hold the most of the unseen classes.

    Raises:
        TrainingError: in every fold a part holds less than two of them, or in multi-label none.
    """
    labels, multi = bench.units.labels, bench.units.kind == "multi"

    def held(patches: NDArray[np.intp]) -> int:
        mine = labels[bench.units.of(patches)]
        return sum(bool((mine[:, k] == 1).any() if multi else (mine == k).any()) for k in unseen)

    folds = bench.folds(seed)
    found = [min(held(part) for part in (f.train, f.val, f.test)) for f in folds]
    if max(found) < (1 if multi else 2):
        names = [bench.units.class_names[k] for k in unseen]
        raise TrainingError(
            f"seed {seed} never shows the classes {names}, but no fold has two of them in each of "
            "its parts to train, choose and test. Take fewer folds, larger blocks, classes on more "
            "patches (least_units), or a larger unseen_share."
        )
    return folds[int(np.argmax(found))]


def _prepared(
    bench: Bench, who: Sequence[Subject], condition: Condition, fold: Fold, seed: int
) -> list[Subject]:
    """The subjects of one seed: as they are, taught the seen classes, and from scratch."""
    from deepsentinel.training.evaluation.tuned import observed, train

    found = []
    for subject in who:
        start = subject.at(seed)
        fixed = Subject(subject.name, "encoder" if start is not None else "statistics", start)
        found.append(fixed)
        if start is None:
            continue
        chosen, val = bench.units.of(fold.train), bench.units.of(fold.val)
        shown = {condition: observed(bench, start, condition)}
        model = train(bench, start, chosen, val, conditions=(condition,), seen=shown, seed=seed)
        found.append(Subject(f"{subject.name}, {TAUGHT}", "encoder", model.encoder))
        if subject.role == "random":
            found.append(Subject(f"{subject.name}, {SCRATCH}", "encoder", start))
    return found


def _split_names(fold: Fold, patches: int) -> list[str]:
    names = np.full(patches, "unused", dtype=object)
    for name in ("train", "val", "test"):
        names[getattr(fold, name)] = name
    return [str(n) for n in names]
