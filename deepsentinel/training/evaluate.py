"""Scores of a trained model; embeddings and probes under one roof."""

from collections.abc import Sequence
from typing import Any

from deepsentinel.bands import SENSORS
from deepsentinel.heads.model import Model
from deepsentinel.training.embed import (
    Embeddings,
    Samples,
    band_statistics,
    batches,
    embed,
    evaluating,
    observed_patches,
    take,
    to_device,
)
from deepsentinel.training.probe import fewshot_probe, probe, spatial_blocks
from deepsentinel.training.scores import scores_for
from deepsentinel.training.scores_detection import DetectionScores

__all__ = [
    "Embeddings",
    "band_statistics",
    "embed",
    "evaluate_model",
    "fewshot_probe",
    "observed_patches",
    "probe",
    "spatial_blocks",
    "take",
]


def evaluate_model(
    model: Model[Any],
    dataset: Samples,
    *,
    sensors: Sequence[str] = SENSORS,
    batch_size: int = 32,
    num_workers: int = 0,
) -> dict[str, Any]:
    """Scores of a model on labelled patches, from the given sensors only.

    Args:
        model: a `Segmenter`, `Classifier`, `Detector` or another.
        dataset: map-style dataset of samples with the model's target.
        sensors: others are dropped from the samples.
        batch_size: patches a batch.
        num_workers: worker processes that read.

    Returns:
        Segmentation `miou` and `pixel_accuracy`, classification `accuracy` and `macro_f1`,
        multi-label `macro_map` and `micro_map`, detection `map`, `ap50` and `ap75`; `per_class`
        (IoU, F1 or average precision by class name, `None` where the class does not occur);
        `per_size` of a detector's scores, by size of the boxes in pixels; `patches`, and how many
        of them were `empty`: nothing of these sensors was observed, so that they could not be scored.

    Raises:
        TrainingError: nothing that was scored is labelled.
        SampleError: the samples lack the target.
        LabelError: the target does not fit the model.

    Example:
        >>> import torch
        >>> from deepsentinel import Classifier, FusionEncoder
        >>> model = Classifier(FusionEncoder("resnet10t", levels=(1,)), 2)
        >>> samples = [{"image_s1": torch.full((2, 16, 16), -9.0), "label": torch.tensor(1)}]
        >>> sorted(evaluate_model(model, samples, sensors=("s1",)))
        ['accuracy', 'empty', 'macro_f1', 'patches', 'per_class']
    """
    scores = scores_for(model)
    patches = empty = 0
    with evaluating(model) as device:
        for batch in batches(dataset, sensors, batch_size, num_workers):
            observed = observed_patches(batch, model.encoder)
            patches += len(observed)
            empty += int((~observed).sum())
            if bool(observed.any()):
                kept = to_device(take(batch, observed), device)
                logits = model.logits(kept)
                model.head.loss(logits, kept)  # refuses targets that do not fit
                scores.update(model.head.decode(logits), kept)
    return {
        **scores.compute(),
        "per_class": scores.per_class(),
        **({"per_size": scores.per_size()} if isinstance(scores, DetectionScores) else {}),
        "patches": patches,
        "empty": empty,
    }
