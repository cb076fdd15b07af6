"""Tell a vegetation index from radar: a regressor of pixels, with a term of its own for crops.

The task is that of SEN12TS: Sentinel-1 in, the enhanced vegetation index (EVI) of Sentinel-2 as the
target. Synthetic scenes, which runs offline; a corpus of your own is a change of `root`.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import deepsentinel
from deepsentinel.datasets.indices import EviTarget
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.training.evaluate import evaluate_model
from deepsentinel.training.finetuning.labels import target_statistics

CROPS = ("orchard", "shrubland")


def main(folder: Path, *, patches: int = 160, epochs: int = 10) -> None:
    root = write_synthetic_corpus(folder / "corpus", patches=patches, patch_size=32)
    train, val, test = (
        deepsentinel.DeepSentinelDataset(root, split, labels=("landcover",), transforms=EviTarget())
        for split in ("train", "val", "test")
    )
    print("a sample:", sorted(train[0]))  # the target has taken the place of Sentinel-2
    mean, std = target_statistics(train)
    print(f"EVI of the training set: {mean[0]:.3f} +- {std[0]:.3f}")
    names = train.scheme("landcover").names

    torch.manual_seed(0)  # the decoder starts at random
    model = deepsentinel.Regressor(
        deepsentinel.load_encoder(),
        target_names=("evi",),
        target_mean=mean,
        target_std=std,
        channels=32,
        focus_classes=[names.index(name) for name in CROPS],  # these pixels count once more
        focus_weight=0.5,
    )
    result = deepsentinel.finetune(
        model,
        train,
        val,
        out_dir=folder / "run",
        epochs=epochs,
        lr=3e-3,
        batch_size=8,
        freeze_encoder=True,
        progress=False,
    )
    print(result)

    scores = evaluate_model(deepsentinel.load_model(folder / "run"), test)
    print("test:", {name: round(scores[name], 3) for name in ("r2", "rmse", "mae", "bias")})


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        main(Path(temporary))
