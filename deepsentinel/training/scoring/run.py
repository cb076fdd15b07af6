"""A trained model scored on a split of a corpus, from one config."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from torch.utils.data import Subset

from deepsentinel.bands import SENSORS, check_sensors
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.errors import ConfigError, LabelError, LeakWarning
from deepsentinel.heads.model import load_model
from deepsentinel.sample import Sample
from deepsentinel.training.evaluate import evaluate_model
from deepsentinel.training.finetuning.preflight import check_label_classes, warn_of_leak
from deepsentinel.training.finetuning.setup import pick_label


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What a model is scored on.

    Example:
        >>> Scoring(sensors=("s1",)).split
        'test'
    """

    split: Annotated[str | None, "Split that is scored; null: all patches."] = "test"
    label: Annotated[str | None, "Which label, where the corpus has several of the task."] = None
    train_split: Annotated[
        str | None,
        "Split of this corpus that the model learnt from, for a warning where the two share "
        "ground; null where it learnt from another corpus.",
    ] = "train"
    sensors: Annotated[tuple[str, ...], "Sensors that the model is shown."] = SENSORS
    batch_size: Annotated[int, "Patches a batch."] = 32
    num_workers: Annotated[int, "Worker processes that read."] = 0

    def __post_init__(self) -> None:
        check_sensors(self.sensors)
        if self.batch_size < 1 or self.num_workers < 0:
            raise ConfigError(
                f"batch_size={self.batch_size}, num_workers={self.num_workers}: at least 1 and at "
                "least 0 are expected."
            )


def run_scoring(
    folder: str,
    corpus: str,
    scoring: Scoring,
    *,
    out_dir: str | Path | None = None,
    access: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Scores of a saved model on a corpus, as `evaluate_model` gives them.

    Args:
        folder: of the model, or the `out_dir` of its fine-tuning, or a name on the Hub.
        corpus: folder or URL.
        scoring: split, label, sensors.
        out_dir: where to write the report; `None` writes nothing.
        access: `requester_pays` and `storage_options` of the corpus.

    Raises:
        WeightsError: there is no model.
        LabelError: the corpus has no label of the model's task, or one of other classes.
        DeepSentinelError: as `DeepSentinelDataset` and `evaluate_model`.

    Warns:
        LeakWarning: what is scored lies where `train_split` lies.
    """
    model = load_model(folder)
    whole = DeepSentinelDataset(corpus, None, labels=(), **(access or {}))
    matching = model.task == "matching"
    if matching and scoring.label is not None:
        raise LabelError(f"label={scoring.label!r}: a matcher is scored without one.")
    labels = () if matching else (pick_label(whole.info, model.task, scoring.label).name,)
    dataset = DeepSentinelDataset(corpus, scoring.split, labels=labels, **(access or {}))
    check_label_classes(model, dataset, f"split {scoring.split!r}")
    _warn_of_leak(whole, dataset, scoring)
    return evaluate_model(
        model,
        dataset,
        sensors=scoring.sensors,
        batch_size=scoring.batch_size,
        num_workers=scoring.num_workers,
        out_dir=out_dir,
    )


def _warn_of_leak(
    whole: DeepSentinelDataset, dataset: DeepSentinelDataset, scoring: Scoring
) -> None:
    """Warn where the model may know what it is asked."""
    name, asked = scoring.train_split, scoring.split
    if name is None or name not in whole.info.splits:
        return
    if asked in {None, name}:
        warnings.warn(
            f"{'all splits hold' if asked is None else 'this is'} the split {name!r}: a model that "
            "learnt from it is asked what it knows. Score another split; train_split=null says that "
            "it learnt from another corpus.",
            LeakWarning,
            stacklevel=3,
        )
        return
    learnt: Subset[Sample] = Subset(whole, whole.corpus.rows(name).tolist())
    warn_of_leak(learnt, dataset, names=(name, asked))
