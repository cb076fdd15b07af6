"""A model asked about labelled patches: its scores, and what could not be scored."""

from dataclasses import dataclass
from typing import Any

from deepsentinel.bands import SENSORS
from deepsentinel.heads.model import Model
from deepsentinel.training.evaluation.embed import (
    Samples,
    batches,
    evaluating,
    observed_patches,
    take,
    to_device,
)
from deepsentinel.training.scoring.detection import DetectionScores
from deepsentinel.training.scoring.scores import Confusion, Scores, scores_for


@dataclass(frozen=True, eq=False)
class Scored:
    """What a model came to on some patches."""

    scores: Scores
    patches: int
    empty: int
    """How many of the patches nothing was observed of, so that they could not be scored."""

    @property
    def confusion(self) -> Confusion | None:
        """Counts, where the scores are of one class a place."""
        found = getattr(self.scores, "confusion", None)
        return found if isinstance(found, Confusion) else None

    def values(self) -> dict[str, Any]:
        """Scores by name, those by class and size, and the numbers of patches."""
        boxes = self.scores if isinstance(self.scores, DetectionScores) else None
        return {
            **self.scores.compute(),
            "per_class": self.scores.per_class(),
            **({} if boxes is None else {"per_size": boxes.per_size()}),
            "patches": self.patches,
            "empty": self.empty,
        }


def score_model(
    model: Model[Any],
    dataset: Samples,
    *,
    batch_size: int = 32,
    num_workers: int = 0,
) -> Scored:
    """Ask a model about every patch of which something was observed.

    Raises:
        SampleError: the samples lack the target.
        LabelError: the target does not fit the model.
    """
    scores = scores_for(model)
    patches = empty = 0
    with evaluating(model) as device:
        for batch in batches(dataset, SENSORS, batch_size, num_workers):
            observed = observed_patches(batch, model.encoder)
            patches += len(observed)
            empty += int((~observed).sum())
            if bool(observed.any()):
                kept = to_device(take(batch, observed), device)
                logits = model.logits(kept)
                model.head.loss(logits, kept)  # refuses targets that do not fit
                scores.update(model.head.decode(logits), kept)
    return Scored(scores, patches, empty)
