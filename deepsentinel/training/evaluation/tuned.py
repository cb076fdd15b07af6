"""Fine-tuned answers: an encoder and a linear head, trained anew for every fold, seed and budget."""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Dataset

from deepsentinel.errors import TrainingError
from deepsentinel.features import Encoder
from deepsentinel.heads.classification import Classifier
from deepsentinel.heads.model import Model
from deepsentinel.heads.segmentation import Segmenter
from deepsentinel.sample import IGNORE_INDEX, Sample
from deepsentinel.training.evaluation.bench import Answers, Bench
from deepsentinel.training.evaluation.conditions import Condition, Conditioned
from deepsentinel.training.evaluation.embed import (
    Samples,
    batches,
    evaluating,
    observed_patches,
    take,
    to_device,
)
from deepsentinel.training.evaluation.folds import Budget
from deepsentinel.training.evaluation.intervals import Floats
from deepsentinel.training.evaluation.learners import class_prior
from deepsentinel.training.evaluation.subjects import Subject
from deepsentinel.training.evaluation.units import Units
from deepsentinel.training.finetune import finetune

EPOCHS = 10
"""Times that the validation units are asked in one fine-tuning; the best of them is kept."""


class Targets(Dataset[Sample]):
    """Patches with the labels of some units, and no other: what a budget lets a model see.

    Args:
        dataset: samples that the units were taken from.
        units: gives labels.
        chosen: units that may be seen.
    """

    def __init__(self, dataset: Samples, units: Units, chosen: NDArray[np.intp]) -> None:
        self.dataset = dataset
        self.units = units
        self.patches = np.unique(units.patch[chosen])
        self.chosen = {p: chosen[units.patch[chosen] == p] for p in self.patches}

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int) -> Sample:
        """The sample with `mask`, or with `label`, of its chosen units."""
        patch = self.patches[index]
        sample = {k: v for k, v in self.dataset[int(patch)].items() if k not in {"mask", "label"}}
        mine = self.chosen[patch]
        if self.units.kind != "pixels":
            return {**sample, "label": torch.as_tensor(self.units.labels[mine[0]])}
        image = next(v for k, v in sample.items() if k.startswith("image_"))
        mask = torch.full(tuple(image.shape[-2:]), IGNORE_INDEX, dtype=torch.int64)
        mask.view(-1)[torch.from_numpy(self.units.pixel[mine])] = torch.from_numpy(
            self.units.labels[mine]
        )
        return {**sample, "mask": mask}


def tuned(
    bench: Bench,
    subject: Subject,
    budget: Budget,
    learnt_from: Sequence[Condition],
    asked: Sequence[Condition],
) -> list[Answers]:
    """What fine-tuned models say of every unit, as `Bench.probe` does for fixed vectors."""
    found = [Answers(val=[]) for _ in asked]
    seen = {c: observed(bench, subject.encoder, c) for c in {*learnt_from, *asked}}
    for seed in bench.protocol.all_seeds:
        blanks = [np.full((len(bench.units.patch), bench.count), np.nan) for _ in asked]
        empty = np.zeros(len(asked), dtype=int)
        for answers in found:
            answers.val.append([])
        for number, fold in enumerate(bench.folds(seed)):
            chosen = bench.drawn(budget, fold, seed, number)
            val, test = bench.units.of(fold.val), bench.units.of(fold.test)
            model = train(
                bench, subject.at(seed), chosen, val, conditions=learnt_from, seen=seen, seed=seed
            )
            prior = class_prior(bench.units.labels[chosen], bench.units.kind, bench.count)
            for place, (answers, condition) in enumerate(zip(found, asked, strict=True)):
                said = answered_by(model, bench, condition, seen[condition], prior)
                blanks[place][test] = said[test]
                answers.val[-1].append(said[val])
                answers.trained.append(len(chosen))
                empty[place] += int((~seen[condition][bench.units.patch[test]]).sum())
        for answers, blank, none in zip(found, blanks, empty, strict=True):
            answers.probabilities.append(blank)
            answers.empty.append(int(none))
    return found


def train(
    bench: Bench,
    encoder: Encoder,
    chosen: NDArray[np.intp],
    val: NDArray[np.intp],
    *,
    conditions: Sequence[Condition],
    seen: dict[Condition, NDArray[np.bool_]],
    seed: int,
) -> Model[Any]:
    """A model that was trained on the chosen units under some conditions; the encoder stays as it is.

    Raises:
        TrainingError: nothing of the chosen or of the validation units was observed.
    """
    protocol, units = bench.protocol, bench.units
    torch.manual_seed(seed)  # the head starts at random
    body: Any = copy.deepcopy(encoder)
    model: Model[Any] = (
        Segmenter(body, bench.count, "linear", class_names=units.class_names)
        if units.kind == "pixels"
        else Classifier(
            body, bench.count, multilabel=units.kind == "multi", class_names=units.class_names
        )
    )
    learnt, judged = (_views(bench, some, conditions, seen) for some in (chosen, val))
    least = math.ceil(protocol.steps / EPOCHS) * protocol.tune_batch_size
    repeats = math.ceil(least / len(learnt))
    with TemporaryDirectory() as folder:
        return finetune(
            model,
            ConcatDataset([learnt] * repeats),
            judged,
            out_dir=Path(folder),
            epochs=EPOCHS,
            lr=protocol.lr,
            encoder_lr=protocol.encoder_lr,
            batch_size=protocol.tune_batch_size,
            num_workers=protocol.num_workers,
            patience=None,
            seed=seed,
            progress=False,
        ).model


def observed(bench: Bench, encoder: Encoder, condition: Condition) -> NDArray[np.bool_]:
    """(P,) whether the encoder is shown anything of a patch under a condition."""
    shown = Conditioned(bench.dataset, condition, seed=bench.protocol.seed)
    parts = [
        observed_patches(batch, encoder)
        for batch in batches(
            shown, encoder.sensors, bench.protocol.batch_size, bench.protocol.num_workers
        )
    ]
    found: NDArray[np.bool_] = torch.cat(parts).numpy()
    return found


def answered_by(
    model: Model[Any],
    bench: Bench,
    condition: Condition,
    seen: NDArray[np.bool_],
    prior: Floats,
) -> Floats:
    """Probabilities (U, K) of a model under a condition; the prior where nothing was observed."""
    units = bench.units
    found = np.tile(prior, (len(units.patch), 1))
    shown = Conditioned(bench.dataset, condition, seed=bench.protocol.seed)
    first = 0
    with evaluating(model) as device:
        for batch in batches(
            shown, model.encoder.sensors, bench.protocol.batch_size, bench.protocol.num_workers
        ):
            here = np.arange(first, first + len(observed_patches(batch, model.encoder)))
            first += len(here)
            if not seen[here].any():
                continue
            kept = to_device(take(batch, torch.from_numpy(seen[here])), device)
            said = model.head.decode(model.logits(kept)).probabilities.double().cpu()
            for patch, one in zip(here[seen[here]], said, strict=True):
                mine = units.patch == patch
                flat = one.flatten(1).T.numpy() if units.kind == "pixels" else one.numpy()[None]
                found[mine] = flat[units.pixel[mine]] if units.kind == "pixels" else flat
    return found


def _views(
    bench: Bench,
    chosen: NDArray[np.intp],
    conditions: Sequence[Condition],
    seen: dict[Condition, NDArray[np.bool_]],
) -> ConcatDataset[Sample]:
    """Copies of the patches of some units, one a condition, without those that show nothing."""
    copies = []
    for condition in conditions:
        kept = chosen[seen[condition][bench.units.patch[chosen]]]
        if len(kept):
            shown = Conditioned(bench.dataset, condition, seed=bench.protocol.seed)
            copies.append(Targets(shown, bench.units, kept))
    if not copies:
        raise TrainingError(
            f"{len(chosen)} labelled units of a fold, of which nothing was observed under "
            f"{', '.join(c.name for c in conditions)}: there is nothing to train or choose on. "
            "Take fewer folds or more patches."
        )
    return ConcatDataset(copies)
