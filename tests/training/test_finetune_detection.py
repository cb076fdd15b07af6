"""A detector through `finetune` and `evaluate_model`, on patches whose objects are in their pixels."""

import json

import pytest
import torch

from deepsentinel import Detector, FusionEncoder, finetune, load_model
from deepsentinel.datasets.augment import Augment
from deepsentinel.errors import TrainingError
from deepsentinel.sample import PatchMeta, Sample
from deepsentinel.training.evaluate import evaluate_model


def scenes(count: int, seed: int) -> list[Sample]:
    """Bright boxes of 4 to 8 px, of the one class in reflectance, of the other in radar."""
    g = torch.Generator().manual_seed(seed)
    samples = []
    for i in range(count):
        s1 = -18 + torch.randn(2, 32, 32, generator=g)
        s2 = 0.05 + 0.02 * torch.rand(12, 32, 32, generator=g)
        boxes, labels = [], []
        for k in range(0 if i == 1 else 3):  # one patch has nothing
            x, y = 10 * k + 1, int(torch.randint(0, 24, (1,), generator=g))
            width, height = torch.randint(4, 9, (2,), generator=g).tolist()
            label = int(torch.randint(0, 2, (1,), generator=g))
            (s1, s2)[label][:, y : y + height, x : x + width] = (0.0, 0.5)[label]
            boxes.append([x, y, x + width, y + height])
            labels.append(label)
        samples.append(
            {
                "meta": PatchMeta(id=f"{seed}-{i}", lon=10 + 0.1 * i, lat=50.0),
                "image_s1": s1,
                "image_s2": s2,
                "bbox_xyxy": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                "label": torch.tensor(labels, dtype=torch.int64),
            }
        )
    return samples


def make_model() -> Detector:
    torch.manual_seed(0)
    encoder = FusionEncoder("resnet10t", levels=(0, 1, 2))
    return Detector(encoder, 2, channels=32, levels=(2, 4), class_names=("tower", "roof"))


def test_a_detector_learns_and_is_scored(tmp_path):
    train, val = scenes(16, 1), scenes(6, 2)
    options = {
        "lr": 5e-3, "encoder_lr": 3e-3, "batch_size": 4, "progress": False, "augment": Augment(),
    }  # fmt: skip
    result = finetune(make_model(), train, val, out_dir=tmp_path / "a", epochs=12, **options)
    assert result.metric == "map"
    assert result.history[0]["ap50"] < 0.4
    assert max(row["ap50"] for row in result.history) > 0.7
    assert (tmp_path / "a" / "report" / "report.html").exists()

    model = load_model(tmp_path / "a")
    both = evaluate_model(model, val)
    assert both["map"] == pytest.approx(result.best_score)
    assert set(both["per_class"]) == {"tower", "roof"}
    assert sum(row["objects"] for row in both["per_size"].values()) == sum(
        len(s["label"]) for s in val
    )
    json.dumps(both, allow_nan=False)
    alone = evaluate_model(model, val, sensors=("s1",))
    assert alone["per_class"]["roof"] < 0.2 < alone["per_class"]["tower"]  # roofs are not in radar


def test_patches_without_any_object_cannot_be_scored(tmp_path):
    empty = [scenes(2, 3)[1]] * 4
    with pytest.raises(TrainingError, match=r"object|boxes"):
        finetune(make_model(), empty, empty, out_dir=tmp_path, epochs=1, progress=False)
