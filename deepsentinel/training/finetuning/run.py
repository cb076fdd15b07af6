"""A whole fine-tuning from one config: corpus, encoder, model, training, scores on test."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch

from deepsentinel.bands import SENSORS, check_sensors
from deepsentinel.corpus.format import LabelSpec
from deepsentinel.datasets.augment import Augment
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.stream import DeepSentinelStream
from deepsentinel.errors import ConfigError
from deepsentinel.heads.model import Model
from deepsentinel.training.evaluate import evaluate_model
from deepsentinel.training.evaluation.embed import Samples
from deepsentinel.training.finetune import FinetuneResult, finetune_as
from deepsentinel.training.finetuning.labels import class_weights, target_statistics
from deepsentinel.training.finetuning.options import FinetuneConfig
from deepsentinel.training.finetuning.preflight import warn_of_leak
from deepsentinel.training.finetuning.setup import model_for, pick_label
from deepsentinel.training.ranks import join, rank
from deepsentinel.zoo.load import load_encoder

Task = Literal["segmentation", "classification", "detection", "regression", "matching"]
BALANCED: Final = "balanced"
"""For `class_weights` of a model: those that `class_weights` counts in the train split."""


@dataclass(frozen=True, kw_only=True)
class FinetuneData:
    """What is learnt, from what, and where it is kept."""

    corpus: Annotated[str, "Folder or URL of the corpus."]
    out_dir: Annotated[Path, "Folder of checkpoints, scores and report."] = Path("finetune")
    task: Annotated[Task, "What the model tells."] = "segmentation"
    label: Annotated[str | None, "Which label, where the corpus has several of the task."] = None
    encoder: Annotated[str, "Name or folder of the encoder."] = "deepsentinel-nano"
    model: Annotated[
        dict[str, Any],
        "Arguments of the model's class, such as decoder and loss of a Segmenter, head of a "
        "Classifier, method of a Detector; class_weights: balanced counts the train split.",
    ] = field(default_factory=dict)
    sensors: Annotated[tuple[str, ...], "Which sensors to read."] = SENSORS
    train_split: Annotated[str, "Split that is learnt from."] = "train"
    val_split: Annotated[str, "Split that chooses the best epoch."] = "val"
    test_split: Annotated[str | None, "Split that is scored once, at the end; null: none."] = "test"
    stream: Annotated[
        bool, "Read the train split as a shuffled stream of shards, which suits buckets."
    ] = False
    augment: Annotated[Augment | None, "Random changes of training batches; null: none."] = None
    cache_dir: Annotated[Path | None, "Folder that keeps what was read from afar."] = None
    report: Annotated[bool, "Write the folder report: scores, curves, best and worst."] = True


@dataclass(frozen=True, kw_only=True)
class FinetuneRun(FinetuneConfig, FinetuneData):
    """All that `deepsentinel finetune` can be told.

    Example:
        >>> run = FinetuneRun(corpus="corpus", task="classification", epochs=5)
        >>> run.encoder, run.course()["epochs"]
        ('deepsentinel-nano', 5)
    """


def run_config(
    run: FinetuneRun,
    *,
    access: Mapping[str, Any] | None = None,
    resume: bool = True,
    progress: bool = True,
) -> tuple[FinetuneResult, dict[str, Any] | None]:
    """Fine-tune as a config says, and score the best model on the test split.

    Args:
        run: the config.
        access: `requester_pays` and `storage_options`, which are not kept with the run.
        resume: go on with what the folder holds.
        progress: show a progress bar.

    Returns:
        The result, and the scores on test; `None` without a test split, and in all processes but
        the first.

    Raises:
        DeepSentinelError: as `DeepSentinelDataset`, `load_encoder` and `finetune`.
    """
    join(run.accelerator)
    spec = _label(run, access)
    labels = () if spec is None else (spec.name,)
    train, val = (_dataset(run, s, labels, access) for s in (run.train_split, run.val_split))
    test = run.test_split and _dataset(run, run.test_split, labels, access)
    model = _model(run, spec, train)
    if test:
        warn_of_leak(train, test, names=(run.train_split, run.test_split or ""))
    result = finetune_as(
        run,
        model,
        _stream(run, labels, access) if run.stream else train,
        val,
        out_dir=run.out_dir,
        augment=run.augment,
        resume=resume,
        report=run.report,
        progress=progress,
    )
    if not test or rank() > 0:
        return result, None
    return result, evaluate_model(result.model, test)


def _dataset(
    run: FinetuneRun, split: str | None, labels: tuple[str, ...], access: Mapping[str, Any] | None
) -> DeepSentinelDataset:
    return DeepSentinelDataset(
        run.corpus,
        split,
        sensors=check_sensors(run.sensors),
        labels=labels,
        cache_dir=run.cache_dir,
        **(access or {}),
    )


def _label(run: FinetuneRun, access: Mapping[str, Any] | None) -> LabelSpec | None:
    """The label that is learnt; a matcher needs none."""
    if run.task == "matching":
        if run.label is not None:
            raise ConfigError(f"label={run.label!r}: task=matching learns from no label.")
        return None
    return pick_label(_dataset(run, None, (), access).info, run.task, run.label)


def _stream(
    run: FinetuneRun, labels: tuple[str, ...], access: Mapping[str, Any] | None
) -> DeepSentinelStream:
    return DeepSentinelStream(
        run.corpus,
        run.train_split,
        sensors=check_sensors(run.sensors),
        labels=labels,
        seed=run.seed,
        remainder="pad",
        cache_dir=run.cache_dir,
        **(access or {}),
    )


def _model(run: FinetuneRun, spec: LabelSpec | None, train: Samples) -> Model[Any]:
    encoder = load_encoder(run.encoder)
    mean, spread = target_statistics(train) if run.task == "regression" else (None, None)
    options = dict(run.model)
    if options.get("class_weights") == BALANCED and spec is not None and spec.scheme is not None:
        options["class_weights"] = class_weights(train, len(spec.scheme))
    torch.manual_seed(run.seed)  # the head starts at random
    return model_for(encoder, spec, target_mean=mean, target_std=spread, options=options)
