"""A trained model scored on a split of a corpus, from one config."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from deepsentinel.bands import SENSORS, check_sensors
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.errors import ConfigError, LabelError
from deepsentinel.heads.model import load_model
from deepsentinel.training.evaluate import evaluate_model
from deepsentinel.training.finetuning.preflight import check_label_classes
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
    """
    model = load_model(folder)
    whole = DeepSentinelDataset(corpus, None, labels=(), **(access or {}))
    matching = model.task == "matching"
    if matching and scoring.label is not None:
        raise LabelError(f"label={scoring.label!r}: a matcher is scored without one.")
    labels = () if matching else (pick_label(whole.info, model.task, scoring.label).name,)
    dataset = DeepSentinelDataset(corpus, scoring.split, labels=labels, **(access or {}))
    check_label_classes(model, dataset, f"split {scoring.split!r}")
    return evaluate_model(
        model,
        dataset,
        sensors=scoring.sensors,
        batch_size=scoring.batch_size,
        num_workers=scoring.num_workers,
        out_dir=out_dir,
    )
