"""What an epoch counts: nothing labelled is said early, some batches without labels once."""

import warnings

import pytest
import torch

from deepsentinel.errors import TrainingError, TrainingWarning
from deepsentinel.sample import PatchMeta
from deepsentinel.training.finetuning.tally import GIVE_UP_AFTER, Labels


def batch(name: str) -> dict:
    return {"meta": [PatchMeta(id=name)], "mask": torch.full((1, 2, 2), -1)}


def test_a_hundred_batches_without_a_label_are_enough() -> None:
    labels = Labels()
    for number in range(GIVE_UP_AFTER - 1):
        labels.add(0, batch(f"p{number}"), 2)
    with pytest.raises(
        TrainingError, match=r"first 100 batches of epoch 2 \(the last one .* p99\)"
    ):
        labels.add(0, batch("p99"), 2)


def test_one_labelled_batch_before_is_patience_enough() -> None:
    labels = Labels()
    labels.add(4, batch("first"), 1)
    for number in range(2 * GIVE_UP_AFTER):
        labels.add(0, batch(f"p{number}"), 1)
    with pytest.warns(TrainingWarning, match=r"200 of 201 batches .*\(the first: patches p0\)"):
        labels.end(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels.end(2)  # said once


def test_batches_without_objects_teach_a_detector() -> None:
    labels = Labels(empty_teaches=True)
    for number in range(2 * GIVE_UP_AFTER):
        labels.add(0, batch(f"p{number}"), 1)
    labels.add(1, batch("ship"), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels.end(1)
    with pytest.raises(TrainingError, match="nothing was labelled in the whole of epoch 1"):
        Labels(empty_teaches=True).end(1)
