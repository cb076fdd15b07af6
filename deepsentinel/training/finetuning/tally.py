"""What is counted over the batches of an epoch, and over all processes."""

import warnings
from typing import Final

import torch

from deepsentinel.errors import TrainingError, TrainingWarning
from deepsentinel.sample import Batch
from deepsentinel.training.ranks import rank, summed, world_size

GIVE_UP_AFTER: Final = 100
"""Batches without any label, from the start of an epoch, after which it is given up."""

_LOOK: Final = "Look at the split with `deepsentinel stats`, or take other labels=...."


class Mean:
    """A mean over patches, added batch by batch.

    Example:
        >>> mean = Mean()
        >>> mean.add(1.0, 3)
        >>> mean.add(5.0, 1)
        >>> mean.value()
        2.0
    """

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, value: float, count: int) -> None:
        """Add the mean of `count` patches."""
        self.total += value * count
        self.count += count

    def join(self) -> None:
        """Make it the mean over all processes."""
        both = summed(torch.tensor([self.total, self.count], dtype=torch.float64))
        self.total, self.count = float(both[0]), int(both[1])

    def value(self) -> float:
        """The mean of all."""
        return self.total / max(1, self.count)


class Labels:
    """Counts labelled pixels, patches or boxes of an epoch, and tells of batches that have none.

    Args:
        empty_teaches: whether a batch without any teaches something, as one without objects does.
    """

    def __init__(self, *, empty_teaches: bool = False) -> None:
        self.empty_teaches = empty_teaches
        self.labelled, self.batches, self.empty, self.unseen = 0, 0, 0, 0
        self.first_empty = self.first_unseen = ""

    def add(self, labelled: int, batch: Batch, epoch: int) -> None:
        """Count a batch.

        Raises:
            TrainingError: nothing was labelled in any of the first `GIVE_UP_AFTER` batches.
        """
        self.labelled += labelled
        self.batches += 1
        if not labelled and not self.empty_teaches:
            self.empty += 1
            self.first_empty = self.first_empty or named(batch)
        if self.empty == self.batches == GIVE_UP_AFTER and world_size() == 1:
            raise TrainingError(
                f"nothing is labelled in the first {GIVE_UP_AFTER} batches of epoch {epoch} (the last "
                f"one holds {named(batch)}): every target is -1. {_LOOK}"
            )

    def leave_out(self, batch: Batch) -> None:
        """Count patches of which nothing was observed."""
        self.unseen += patches(batch)
        self.first_unseen = self.first_unseen or named(batch)

    def end(self, epoch: int) -> None:
        """At the end of an epoch.

        Raises:
            TrainingError: nothing was labelled.
        """
        counts = summed(torch.tensor([self.labelled, self.empty, self.batches, self.unseen]))
        labelled, empty, batches, unseen = counts.tolist()
        if unseen and epoch == 1 and rank() == 0:
            warnings.warn(
                f"nothing was observed of {unseen} patches of epoch 1, in any band that the encoder "
                f"uses; they are left out (among them: {self.first_unseen or 'of another process'}).",
                TrainingWarning,
                stacklevel=2,
            )
        if not labelled:
            why = "every target is -1" if batches else "no patch was observed"
            raise TrainingError(
                f"nothing was labelled in the whole of epoch {epoch}: {why}. {_LOOK}"
            )
        if empty and epoch == 1 and rank() == 0:
            warnings.warn(
                f"{empty} of {batches} batches of epoch 1 hold no label at all and teach nothing: "
                f"all their targets are -1 (the first: {self.first_empty or 'of another process'}). "
                "Larger batches, or a split without such patches, would waste less.",
                TrainingWarning,
                stacklevel=2,
            )


def patches(batch: Batch) -> int:
    """How many patches a batch has.

    Example:
        >>> patches({"label": torch.zeros(2)})
        2
    """
    return next(len(v) for v in batch.values() if isinstance(v, torch.Tensor | list))


def named(batch: Batch) -> str:
    """The patches of a batch, for a message.

    Example:
        >>> named({"label": torch.zeros(2)})
        'patches without meta'
    """
    ids = [m.id for m in batch.get("meta", ())][:8]
    return f"patches {' '.join(ids) if ids else 'without meta'}"
