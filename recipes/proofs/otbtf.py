"""Six classes of 16 px chips with four 8-bit bands: probes, a random forest, fine-tuning.

    python -m recipes.proofs.otbtf --data ../shared/data

Half of the 3,000 chips are tested on, always the same half; the others are learnt from: 5, 20 or
all 250 a class, the smaller numbers drawn five times. Nothing is chosen on the test half: probes
have the library's fixed penalty, the forest scikit-learn's defaults, fine-tuning keeps the epoch
that is best on a fifth of the learning half. Positions are not known, so the split is random and
chips of one place may lie on both sides: expect lower scores elsewhere.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Subset

from deepsentinel import Classifier, DeepSentinelDataset, collate, convert, finetune
from deepsentinel.datasets.augment import Augment
from deepsentinel.sample import Sample
from deepsentinel.training.evaluation.embed import band_statistics, embed
from deepsentinel.training.reports.report import Report, Table
from recipes.proofs.common import (
    NANO,
    RANDOM,
    STATISTICS,
    Scores,
    arguments,
    encoders,
    fingerprint,
    finish,
    kept,
    logistic,
    signed,
    spread,
    two_way,
)

BUDGETS: Final = (5, 20, 250)
"""Learnt from, a class."""
DRAWS: Final = 5
TWINS: Final = 3
RUNS: Final = 3
EPOCHS: Final = 10
FOREST: Final = f"{STATISTICS}, random forest"
Vectors = NDArray[np.float32]
Labels = NDArray[np.int64]


def main() -> None:
    """Convert, describe, probe, fine-tune, report."""
    args = arguments("otbtf", __doc__)
    root = args.out / "corpus"
    # 0 to 255 as 0 to 1 in reflectance: the only scale under which water and vegetation are as
    # dark as they are on Earth; the recipe is published by nobody.
    convert(args.data / "otbtf", root, s2_range=(0, 1))
    chips = DeepSentinelDataset(root, None)
    vectors = described(chips, args.data, args.out / "vectors")
    y = embed_labels(chips)
    learn, test = halves(y)
    found: dict[int, dict[str, Scores]] = {}
    for budget in BUDGETS:
        found[budget] = probed(vectors, y, learn, test, budget)
    found[BUDGETS[-1]] |= finetuned(chips, y, learn, test, args.out)
    tables = tuple(table(budget, scores) for budget, scores in found.items())
    report = Report(
        title="OTBTF chips: six classes, four 8-bit bands, a random split",
        metrics={str(b): {n: s.mean() for n, s in scores.items()} for b, scores in found.items()},
        facts={
            "chips": len(chips),
            "tested on": len(test),
            "draws": DRAWS,
            "epochs of fine-tuning": EPOCHS,
        },
        tables=tables,
        notes=(
            "One data set, split at random: chips of one place may lie on both sides.",
            "± is the spread over draws of the learning chips or over runs; intervals are paired, "
            "over draws and test chips; * marks those that exclude zero.",
        ),
    )
    finish(report, args.out)


def described(chips: DeepSentinelDataset, data: Path, folder: Path) -> dict[str, list[Vectors]]:
    """Vectors of all chips by method; several networks where weights are random."""
    networks: dict[str, list[Any]] = {n: [e] for n, e in encoders(data).items()}
    networks[RANDOM] = [networks[NANO][0].reinitialised(i).eval() for i in range(TWINS)]
    found: dict[str, list[Vectors]] = {}
    for name, each in networks.items():
        stems = [f"{name.replace(' ', '-')}-{fingerprint(e)}" for e in each]
        makes = [partial(_vectors, e, chips) for e in each]
        found[name] = [kept(folder, s, make) for s, make in zip(stems, makes, strict=True)]
    found[STATISTICS] = [band_statistics(chips).vectors]
    return found


def _vectors(encoder: Any, chips: DeepSentinelDataset) -> Vectors:
    return embed(encoder, chips).vectors


def embed_labels(chips: DeepSentinelDataset) -> Labels:
    """Class of each chip."""
    return np.array([int(chips[i]["label"]) for i in range(len(chips))])


def halves(y: Labels) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places to learn from and to test on, half of each class."""
    generator = np.random.default_rng(0)
    order = [generator.permutation(np.flatnonzero(y == k)) for k in np.unique(y)]
    learn = np.concatenate([o[: len(o) // 2] for o in order])
    test = np.concatenate([o[len(o) // 2 :] for o in order])
    return learn, test


def probed(
    vectors: Mapping[str, list[Vectors]],
    y: Labels,
    learn: NDArray[np.intp],
    test: NDArray[np.intp],
    budget: int,
) -> dict[str, Scores]:
    """Whether each test chip is right, (draws, chips) by method; mean over random networks."""
    from sklearn.ensemble import RandomForestClassifier

    right: dict[str, list[Scores]] = {name: [] for name in (*vectors, FOREST)}
    for draw in range(DRAWS):
        few = drawn(y, learn, budget, draw)
        for name, each in vectors.items():
            said = [logistic(x[few], y[few], x[test]).argmax(1) for x in each]
            right[name].append(np.mean([s == y[test] for s in said], axis=0))
        x = vectors[STATISTICS][0]
        forest = RandomForestClassifier(300, random_state=draw).fit(x[few], y[few])
        right[FOREST].append((forest.predict(x[test]) == y[test]).astype(float))
    scores = {name: np.array(rows) for name, rows in right.items()}
    for name, score in scores.items():
        print(f"{budget:>4} a class  {name:<28} {score.mean():.3f}", flush=True)
    return scores


def drawn(y: Labels, learn: NDArray[np.intp], budget: int, draw: int) -> NDArray[np.intp]:
    """As many places of each class as the budget says."""
    generator = np.random.default_rng([1, draw])
    return np.concatenate(
        [generator.permutation(learn[y[learn] == k])[:budget] for k in np.unique(y)]
    )


def finetuned(
    chips: DeepSentinelDataset,
    y: Labels,
    learn: NDArray[np.intp],
    test: NDArray[np.intp],
    out: Path,
) -> dict[str, Scores]:
    """The whole network trained on the learning half, from its weights and from random ones."""
    from deepsentinel import load_encoder

    classes = chips.scheme("class")
    found: dict[str, Scores] = {}
    for name, random in ((f"{NANO}, fine-tuned", False), ("the same from random weights", True)):
        right = []
        for run in range(RUNS):
            val = drawn(y, learn, 50, run)
            train = np.setdiff1d(learn, val)
            torch.manual_seed(run)
            encoder = load_encoder()
            model = Classifier(
                encoder.reinitialised(run) if random else encoder,
                len(classes),
                class_names=classes.names,
                class_colours=classes.colours,
            )
            result = finetune(
                model,
                Subset(chips, train.tolist()),
                Subset(chips, val.tolist()),
                out_dir=out / f"run-{run}-{fingerprint(model.encoder)}",
                epochs=EPOCHS,
                batch_size=64,
                lr=1e-3,
                encoder_lr=1e-3 if random else 2e-4,
                augment=Augment(brightness=0.1, band_brightness=0.02),
                patience=None,
                seed=run,
                progress=False,
            )
            said = predictions(result.model, [chips[i] for i in test.tolist()])
            right.append((said == y[test]).astype(float))
            print(f"{name:<32} run {run}: {right[-1].mean():.3f}", flush=True)
        found[name] = np.array(right)
    return found


def predictions(model: Any, samples: list[Sample]) -> Labels:
    """Predicted class of each sample."""
    parts = [collate(samples[i : i + 64]) for i in range(0, len(samples), 64)]
    return np.concatenate([model.predict(batch).classes.numpy() for batch in parts])


def table(budget: int, scores: Mapping[str, Scores]) -> Table:
    """Accuracy by method, and its paired difference from the two controls."""
    rows = []
    for name, right in scores.items():
        row = {"method": name, "accuracy": spread(right.mean(1))}
        for control in (RANDOM, STATISTICS):
            other = scores[control][: len(right)]
            same = name == control
            row[f"less {control}"] = "" if same else signed(two_way(right - other))
        rows.append(row)
    return Table.of(f"classes-{budget}", rows, title=f"{budget} chips a class")


if __name__ == "__main__":
    main()
