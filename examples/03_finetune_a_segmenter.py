"""Fine-tune a land-cover segmenter, resume it, score it on each sensor. Runs offline."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import deepsentinel
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.datasets.transforms import Compose, RandomFlip, RandomRot90, SensorDropout
from deepsentinel.training.evaluate import evaluate_model
from deepsentinel.training.finetune import FinetuneResult


def main(folder: Path) -> None:
    root = write_synthetic_corpus(folder / "corpus", patches=96, patch_size=32)
    augment = Compose(RandomFlip(), RandomRot90(), SensorDropout(s1=0.2, s2=0.2), seed=0)
    labels = ("landcover",)
    train = deepsentinel.DeepSentinelDataset(root, "train", labels=labels, transforms=augment)
    val = deepsentinel.DeepSentinelDataset(root, "val", labels=labels)
    test = deepsentinel.DeepSentinelDataset(root, "test", labels=labels)
    classes = train.scheme("landcover")

    def tune() -> FinetuneResult:
        torch.manual_seed(0)  # the decoder starts at random
        model = deepsentinel.Segmenter(
            deepsentinel.load_encoder(),
            len(classes.names),
            decoder="unet",
            class_names=classes.names,
            class_colours=classes.colours,
            channels=32,
        )
        return deepsentinel.finetune(
            model,
            train,
            val,
            out_dir=folder / "run",
            epochs=6,
            lr=3e-3,
            batch_size=8,
            freeze_encoder=True,
            progress=False,
        )

    result = tune()
    print(result)
    for row in result.history:
        print(f"epoch {row['epoch']:.0f}: loss {row['train_loss']:.3f}, mIoU {row['miou']:.3f}")

    # The same call again returns at once; after a kill it would have gone on instead.
    print("again: ", tune().history == result.history)

    # The folder opens without the training code, with classes and colours.
    model = deepsentinel.load_model(folder / "run")
    batch = deepsentinel.collate([test[0], test[1]])
    predicted = model.predict(batch)
    print("classes:", tuple(predicted.classes.shape), "of", model.num_classes)

    for sensors in (("s1",), ("s2",), ("s1", "s2")):
        scores = evaluate_model(model, test, sensors=sensors)
        print(f"{' + '.join(sensors):>8}: mIoU {scores['miou']:.3f} on {scores['patches']} patches")


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        main(Path(temporary))
