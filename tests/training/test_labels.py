"""Class weights against scikit-learn, statistics of targets against numpy."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from deepsentinel.errors import LabelError, SampleError, TrainingError
from deepsentinel.training.finetuning.labels import class_weights, target_statistics


def test_weights_are_sklearns(rng) -> None:
    masks = torch.from_numpy(rng.choice([-1, 0, 1, 3], size=(5, 8, 8), p=[0.2, 0.6, 0.15, 0.05]))
    found = class_weights([{"mask": m} for m in masks], 4)
    known = masks[masks >= 0].numpy()
    theirs = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=known)
    np.testing.assert_allclose(np.array(found)[[0, 1, 3]], theirs * 3 / 4)  # K counts class 2 too
    assert found[2] == 1
    halved = class_weights([{"mask": m} for m in masks], 4, power=0.5)
    np.testing.assert_allclose(np.array(halved) ** 2, found)
    assert class_weights([{"mask": m} for m in masks], 4, power=0) == (1, 1, 1, 1)


def test_patches_count_classes_of_a_multi_hot_label() -> None:
    labels = [[1, 0], [1, 1], [1, -1], [1, 0]]
    assert class_weights([{"label": torch.tensor(v)} for v in labels], 2) == (5 / 8, 5 / 2)


def test_only_some_patches_are_looked_at() -> None:
    seen = []

    class Counting(list):
        def __getitem__(self, place):
            seen.append(place)
            return {"label": torch.tensor(place % 2)}

    class_weights(Counting(range(100)), 2, most=5)
    assert seen == [0, 25, 50, 74, 99]


def test_wrong_labels_are_refused() -> None:
    with pytest.raises(LabelError, match="label holds 5"):
        class_weights([{"label": torch.tensor(5)}], 3)
    with pytest.raises(LabelError, match="over 2 classes; num_classes=3"):
        class_weights([{"label": torch.tensor([0, 1])}], 3)
    with pytest.raises(SampleError, match=r"neither mask nor label, only \['target'\]"):
        class_weights([{"target": torch.zeros(1)}], 3)
    with pytest.raises(TrainingError, match="nothing is labelled"):
        class_weights([{"label": torch.tensor(-1)}], 3)
    with pytest.raises(TrainingError, match="no sample"):
        class_weights([], 3)


@pytest.mark.parametrize("shape", [(2, 6, 5), (2,)])
def test_statistics_are_numpys(rng, shape) -> None:
    values = rng.normal(size=(7, *shape)) * 3 + 4000
    values[rng.random(values.shape) < 0.3] = np.nan
    samples = [{"target": torch.from_numpy(v.astype("float32"))} for v in values]
    mean, std = target_statistics(samples)
    axes = tuple(i for i in range(values.ndim) if i != 1)
    np.testing.assert_allclose(mean, np.nanmean(values, axes), rtol=1e-6)
    np.testing.assert_allclose(std, np.nanstd(values, axes), rtol=1e-3)


def test_targets_of_which_nothing_is_known() -> None:
    samples = [{"target": torch.tensor([1.0, torch.nan])}] * 3
    with pytest.raises(TrainingError, match="of quantity 1 nothing is known"):
        target_statistics(samples)
    with pytest.raises(SampleError, match="no target"):
        target_statistics([{"label": torch.tensor(1)}])
    assert target_statistics([{"target": torch.tensor([3.0])}] * 2) == ((3.0,), (1.0,))
