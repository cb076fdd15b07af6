"""The bench on which all parts of an evaluation are measured: one set of units, folds and draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepsentinel.errors import ShapeError
from deepsentinel.training.evaluation.conditions import Condition
from deepsentinel.training.evaluation.embed import Samples
from deepsentinel.training.evaluation.folds import Budget, Fold, given_fold, spatial_folds
from deepsentinel.training.evaluation.intervals import (
    Floats,
    Interval,
    block_weights,
    interval,
    sure,
)
from deepsentinel.training.evaluation.learners import learn
from deepsentinel.training.evaluation.metrics import HEADLINES, all_scores, class_scores, replicated
from deepsentinel.training.evaluation.probe import Vectors
from deepsentinel.training.evaluation.protocol import Protocol
from deepsentinel.training.evaluation.subjects import Subject
from deepsentinel.training.evaluation.units import Units, describe


@dataclass(frozen=True, eq=False, kw_only=True)
class Row:
    """One measurement: what was measured, its scores over the seeds, and how sure they are."""

    key: Mapping[str, str]
    """`part`, `encoder`, `method`, `labels`, and for the matrix `shown` and `cloud`."""
    scores: Mapping[str, float]
    """Mean over the seeds, by name."""
    spread: Mapping[str, float]
    """Standard deviation over the seeds; NaN for one seed."""
    intervals: Mapping[str, Interval]
    """Of the two headline scores."""
    replicates: Floats
    """(B,) of the headline; NaN where too few blocks were scored for an interval."""
    blocks: int
    """Test blocks that were scored; the least of the seeds, all of them where seeds differ in
    classes."""
    by_seed: tuple[float, ...]
    """The headline of each seed."""
    per_class: tuple[float, ...]
    """Score of each class, mean over the seeds; NaN where the class does not occur."""
    tested: int
    """Units that were scored, a seed."""
    empty: int
    """How many of them nothing was observed of, so that the prior was their score."""
    trained: float
    """Units that were learnt from, mean over folds and seeds."""
    chosen: tuple[float, ...]
    """What was chosen on the validation blocks, by seed and fold."""

    @property
    def name(self) -> str:
        """Unique in its evaluation."""
        return " | ".join(self.key.values())


@dataclass(eq=False)
class Answers:
    """What one learner said of every unit, seed by seed."""

    probabilities: list[Floats] = field(default_factory=list)
    """(U, K) a seed; NaN for a unit that was not tested."""
    val: list[list[Floats]] = field(default_factory=list)
    """(V, K) a seed and fold: what it says of the validation units, for a gate to be chosen by."""
    empty: list[int] = field(default_factory=list)
    trained: list[int] = field(default_factory=list)
    chosen: list[float] = field(default_factory=list)


class Bench:
    """Units, blocks, folds, bootstrap draws, and vectors that are computed once.

    Args:
        dataset: samples with targets.
        units: what is classified in them.
        protocol: how.
        splits: split of each patch, for `folds=None`.
        blocks: (P,) which patches lie together, instead of squares of `protocol.block_km`.

    Raises:
        ShapeError: `blocks` are not one a patch.
    """

    def __init__(
        self,
        dataset: Samples,
        units: Units,
        protocol: Protocol,
        *,
        splits: Sequence[str] | None = None,
        blocks: ArrayLike | None = None,
    ) -> None:
        self.dataset = dataset
        self.units = units
        self.protocol = protocol
        self.splits = splits
        self.given = blocks is not None
        self.blocks = units.blocks(protocol.block_km) if blocks is None else _numbered(blocks)
        if len(self.blocks) != units.patches:
            raise ShapeError(
                f"{len(self.blocks)} blocks for {units.patches} patches; give one each."
            )
        self._vectors: dict[tuple[str, int, Condition], Vectors] = {}
        self._folds: dict[int, tuple[Fold, ...]] = {}

    @cached_property
    def weights(self) -> Floats:
        """(B, blocks): the same draws for all scores, so that differences are paired."""
        tested = np.unique(np.concatenate([f.test for s in self._seeds for f in self.folds(s)]))
        there = np.unique(self.blocks[tested])
        drawn = block_weights(
            np.arange(len(there)), replicates=self.protocol.replicates, seed=self.protocol.seed
        )
        weights = np.zeros((len(drawn), int(self.blocks.max()) + 1))
        weights[:, there] = drawn
        return weights

    @cached_property
    def seed_weights(self) -> Floats:
        """(B, S): how much each seed counts in each replicate."""
        count = len(self._seeds)
        generator = np.random.default_rng([self.protocol.seed, count])
        drawn = generator.multinomial(count, np.full(count, 1 / count), self.protocol.replicates)
        return drawn / count

    @property
    def _seeds(self) -> tuple[int, ...]:
        return self.protocol.all_seeds

    def folds(self, seed: int) -> tuple[Fold, ...]:
        """The folds of one seed; those of the corpus are the same for all."""
        if seed not in self._folds:
            self._folds[seed] = (
                (given_fold(self.splits or ()),)
                if self.protocol.folds is None
                else spatial_folds(self.blocks, folds=self.protocol.folds, seed=seed)
            )
        return self._folds[seed]

    def vectors(self, subject: Subject, condition: Condition, seed: int) -> Vectors:
        """Vectors (U, D) of a subject under a condition."""
        key = (subject.name, subject.draw(seed), condition.shown)
        if key not in self._vectors:
            self._vectors[key] = describe(
                subject.at(seed),
                self.dataset,
                self.units,
                condition.shown,
                seed=self.protocol.seed,
                batch_size=self.protocol.batch_size,
                num_workers=self.protocol.num_workers,
            )
        return self._vectors[key]

    def forget(self, subject: Subject) -> None:
        """Let go of a subject's vectors."""
        self._vectors = {k: v for k, v in self._vectors.items() if k[0] != subject.name}

    def probe(
        self,
        subject: Subject,
        method: str,
        budget: Budget,
        learnt_from: Sequence[Condition],
        asked: Sequence[Condition],
    ) -> list[Answers]:
        """What a learner on fixed vectors says of every unit, under each condition asked for.

        It learns, and chooses, on copies of its units under all conditions of `learnt_from`.
        """
        found = [Answers() for _ in asked]
        for seed in self._seeds:
            views = [self.vectors(subject, c, seed) for c in learnt_from]
            questions = [self.vectors(subject, c, seed) for c in asked]
            blanks = [np.full((len(self.units.patch), self.count), np.nan) for _ in asked]
            empty = np.zeros(len(asked), dtype=int)
            for answers in found:
                answers.val.append([])
            for number, fold in enumerate(self.folds(seed)):
                chosen = self.drawn(budget, fold, seed, number)
                val, test = self.units.of(fold.val), self.units.of(fold.test)
                learnt = learn(
                    method,
                    self._stacked(views, chosen),
                    self._stacked(views, val),
                    [q[units] for units in (test, val) for q in questions],
                    kind=self.units.kind,
                    count=self.count,
                )
                empty += learnt.empty[: len(asked)]
                for place, answers in enumerate(found):
                    blanks[place][test] = learnt.probabilities[place]
                    answers.val[-1].append(learnt.probabilities[len(asked) + place])
                    answers.trained.append(len(chosen))
                    answers.chosen.append(learnt.chosen)
            for answers, blank, none in zip(found, blanks, empty, strict=True):
                answers.probabilities.append(blank)
                answers.empty.append(int(none))
        return found

    def drawn(self, budget: Budget, fold: Fold, seed: int, number: int) -> NDArray[np.intp]:
        """The labelled units of a fold."""
        return budget.draw(self.units.labels, self.units.of(fold.train), seed=(seed, number))

    @property
    def count(self) -> int:
        """K."""
        return len(self.units.class_names)

    def row(
        self,
        key: Mapping[str, str],
        answers: Answers,
        *,
        among: NDArray[np.bool_] | None = None,
        part: bool = False,
    ) -> Row:
        """Scores, intervals and spread of answers.

        Args:
            key: what was measured.
            answers: one set of probabilities a seed.
            among: (U,) score only these units.
            part: whether it will be `merged` with rows of other seeds, so that its own blocks need
                not suffice for an interval.
        """
        kind, labels = self.units.kind, self.units.labels
        blocks = self.blocks[self.units.patch]
        every: list[dict[str, float]] = []
        drawn: list[dict[str, Floats]] = []
        classes: list[NDArray[np.float64]] = []
        scored: list[int] = []
        for p in answers.probabilities:
            tested = np.isfinite(p).all(axis=1) & (True if among is None else among)
            every.append(all_scores(kind, p[tested], labels[tested]))
            classes.append(class_scores(kind, p[tested], labels[tested])[1])
            drawn.append(replicated(kind, p[tested], labels[tested], blocks[tested], self.weights))
            scored.append(len(np.unique(blocks[tested])))
        scores = {n: _mean([s[n] for s in every]) for n in every[0]}
        over_seeds = {n: self._over_seeds([d[n] for d in drawn]) for n in HEADLINES[kind]}
        if not part:
            over_seeds = {n: sure(r, min(scored)) for n, r in over_seeds.items()}
        headline = HEADLINES[kind][0]
        return Row(
            key=key,
            scores=scores,
            spread={n: _deviation([s[n] for s in every]) for n in every[0]},
            intervals={n: interval(scores[n], r) for n, r in over_seeds.items()},
            replicates=over_seeds[headline],
            blocks=min(scored),
            by_seed=tuple(s[headline] for s in every),
            per_class=tuple(_mean(list(column)) for column in np.stack(classes).T),
            tested=int(tested.sum()),
            empty=round(_mean(answers.empty)),
            trained=_mean(answers.trained),
            chosen=tuple(answers.chosen),
        )

    def _over_seeds(self, replicates: Sequence[Floats]) -> Floats:
        mean: Floats = (np.stack(replicates, axis=1) * self.seed_weights).sum(axis=1)
        return mean

    def _stacked(
        self, views: Sequence[Vectors], units: NDArray[np.intp]
    ) -> tuple[Vectors, NDArray[Any]]:
        labels = self.units.labels[units]
        return np.concatenate([v[units] for v in views]), np.concatenate([labels] * len(views))


def merged(rows: Sequence[Row], weights: Floats) -> Row:
    """Rows of one key, each of one seed, as one row over the seeds.

    Args:
        rows: of the same key, in the order of the seeds.
        weights: (B, S) how much each seed counts in each replicate.
    """
    first = rows[0]
    share = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    blocks = sum(r.blocks for r in rows)
    drawn = sure((np.stack([r.replicates for r in rows], axis=1) * share).sum(axis=1), blocks)
    scores = {n: _mean([r.scores[n] for r in rows if n in r.scores]) for n in first.scores}
    head = next(iter(first.intervals))
    return Row(
        key=first.key,
        scores=scores,
        spread={n: _deviation([r.scores[n] for r in rows if n in r.scores]) for n in first.scores},
        intervals={head: interval(scores[head], drawn)},
        replicates=drawn,
        blocks=blocks,
        by_seed=tuple(r.by_seed[0] for r in rows),
        per_class=(),
        tested=round(_mean([r.tested for r in rows])),
        empty=round(_mean([r.empty for r in rows])),
        trained=_mean([r.trained for r in rows]),
        chosen=tuple(c for r in rows for c in r.chosen),
    )


def _numbered(blocks: ArrayLike) -> NDArray[np.intp]:
    return np.unique(np.asarray(blocks), return_inverse=True)[1].reshape(-1)


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")


def _deviation(values: Sequence[float]) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(np.std(known, ddof=1)) if len(known) > 1 else float("nan")
