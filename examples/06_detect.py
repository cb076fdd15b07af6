"""Find objects of a few pixels: train a detector, score it by size, draw what it found. Runs offline."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import deepsentinel
from deepsentinel.datasets.augment import Augment
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.training.evaluate import evaluate_model


def main(folder: Path) -> None:
    # Ships, wind turbines, solar farms and greenhouses, planted into scenes that nobody measured.
    root = write_synthetic_corpus(folder / "corpus", patches=64, patch_size=64, objects=True)
    train, val, test = (
        deepsentinel.DeepSentinelDataset(root, split, labels=("objects",))
        for split in ("train", "val", "test")
    )
    classes = train.scheme("objects")
    torch.manual_seed(0)  # the head starts at random
    model = deepsentinel.Detector(
        deepsentinel.load_encoder(),
        len(classes),
        class_names=classes.names,
        class_colours=classes.colours,
        channels=32,
    )
    result = deepsentinel.finetune(
        model,
        train,
        val,
        out_dir=folder / "run",
        epochs=12,
        lr=4e-3,
        encoder_lr=1e-3,
        batch_size=4,
        augment=Augment(),  # flips and right angles, boxes and all
        progress=False,
    )
    print(result)

    for sensors in (("s1",), ("s2",), ("s1", "s2")):
        scores = evaluate_model(result.model, test, sensors=sensors)
        print(f"{' + '.join(sensors)}: mAP {scores['map']:.3f}, AP50 {scores['ap50']:.3f}")
    for size, row in scores["per_size"].items():
        print(f"{size}: {row['objects']} objects, AP50 {row['ap50']}")

    sample = test[0]
    found = deepsentinel.load_model(folder / "run").predict(deepsentinel.collate([sample]))
    print(len(sample["bbox_xyxy"]), "objects;", len(found.boxes[0]), "candidates, the surest:")
    for i in range(min(3, len(found.boxes[0]))):
        corners = " ".join(f"{v:.1f}" for v in found.boxes[0][i].tolist())
        print(f"  {classes.names[found.labels[0][i]]} {found.scores[0][i]:.2f} at {corners}")
    test.plot({**sample, "prediction": found}).savefig(folder / "found.png")


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        main(Path(scratch))
