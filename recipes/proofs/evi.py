"""Vegetation index from radar on synthetic scenes: pixels, in reflectance units, by held-out scenes.

    python -m recipes.proofs.evi

The task of SEN12TS: Sentinel-1 in, the enhanced vegetation index of Sentinel-2 as target. 240
synthetic patches of 32 px in 60 scenes, each wholly in one split. Controls are the mean of the
training set, and ridge regression of each pixel on its own backscatter and the mean and spread of
the 9 x 9 px around it. Nothing is chosen on the test scenes. Three runs differ in their seed, which
draws the decoder, the order and the augmentation. What is synthetic says how the machinery works,
not how well radar tells plants.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from deepsentinel import DeepSentinelDataset, Regressor, finetune, load_encoder
from deepsentinel.datasets.augment import Augment
from deepsentinel.datasets.indices import EviTarget
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.sample import collate
from deepsentinel.training.evaluation.controls import pixel_statistics
from deepsentinel.training.finetuning.labels import target_statistics
from deepsentinel.training.reports.report import Report, Table
from recipes.proofs.common import NANO, RANDOM, Scores, arguments, finish, signed, spread, two_way

RUNS: Final = 3
EPOCHS: Final = 8
RIDGE: Final = "ridge on backscatter"
FOCUS: Final = ("orchard", "shrubland")


def main() -> None:
    """Train, predict and compare."""
    args = arguments("evi", __doc__)
    root = write_synthetic_corpus(args.out / "corpus", patches=240, patch_size=32, seed=5)
    train, val, test = (
        DeepSentinelDataset(root, split, labels=("landcover",), transforms=EviTarget())
        for split in ("train", "val", "test")
    )
    focus = [train.scheme("landcover").names.index(name) for name in FOCUS]
    mean, std = target_statistics(train)
    found = {"mean of the training set": np.full((1, len(test), 32, 32), mean[0])}
    found[RIDGE] = ridge(train, test)
    for name, frozen, weights, extra in (
        (f"{NANO}, frozen", True, None, ()),
        (f"{NANO}, fine-tuned", False, None, ()),
        (f"{NANO}, fine-tuned, extra term", False, None, focus),
        (f"{RANDOM}, fine-tuned", False, 0, ()),
    ):
        runs = []
        for run in range(RUNS):
            encoder = load_encoder()
            if weights is not None:
                encoder = encoder.reinitialised(run)
            torch.manual_seed(run)
            model = Regressor(
                encoder,
                target_names=("evi",),
                target_mean=mean,
                target_std=std,
                channels=32,
                focus_classes=extra,
            )
            result = finetune(
                model,
                train,
                val,
                out_dir=args.out / f"{name.replace(', ', '-').replace(' ', '-')}-{run}",
                epochs=EPOCHS,
                batch_size=16,
                lr=2e-3,
                encoder_lr=2e-3 if weights is not None else 4e-4,
                freeze_encoder=frozen,
                augment=Augment(),
                patience=None,
                seed=run,
                progress=False,
            )
            runs.append(values(result.model, test))
            print(f"{name:<45} run {run}: {result}", flush=True)
        found[name] = np.stack(runs)
    finish(report(found, test, focus), args.out)


def values(model: Regressor, test: DeepSentinelDataset) -> NDArray[np.float64]:
    """(N, H, W) predictions."""
    parts = [
        collate([test[i] for i in range(first, min(first + 32, len(test)))])
        for first in range(0, len(test), 32)
    ]
    return np.concatenate([model.predict(p).values[:, 0].double().numpy() for p in parts])


def ridge(train: DeepSentinelDataset, test: DeepSentinelDataset) -> NDArray[np.float64]:
    """(1, N, H, W) of a linear regression on what `PixelControl` describes a pixel by."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.concatenate([pixel_statistics(train[i]) for i in range(len(train))])
    y = np.concatenate([train[i]["target"].flatten().numpy() for i in range(len(train))])
    model = make_pipeline(StandardScaler(), Ridge()).fit(x[np.isfinite(y)], y[np.isfinite(y)])
    size = tuple(test[0]["target"].shape[-2:])
    maps = [model.predict(pixel_statistics(test[i])).reshape(size) for i in range(len(test))]
    return np.stack(maps)[None].astype(np.float64)


def report(
    found: dict[str, NDArray[np.float64]], test: DeepSentinelDataset, focus: list[int]
) -> Report:
    """R2 and errors of all test pixels, and differences paired by run and scene."""
    samples = [test[i] for i in range(len(test))]
    target = np.stack([s["target"][0].double().numpy() for s in samples])
    wanted = np.isin(np.stack([s["mask"].numpy() for s in samples]), focus)
    scenes = np.array([s["meta"].id.rpartition("-")[0] for s in samples])
    errors = {name: by_scene(np.abs(maps - target), scenes) for name, maps in found.items()}
    rows = []
    for name, maps in found.items():
        gap = maps - target
        r2 = 1 - np.nanmean(gap**2, (1, 2, 3)) / np.nanvar(target)
        other = np.repeat(errors[RIDGE], len(maps), axis=0)
        rows.append(
            {
                "method": name,
                "r2": told(r2),
                "mae": told(np.nanmean(np.abs(gap), (1, 2, 3))),
                "mae, focus classes": told(np.nanmean(np.abs(gap[:, wanted]), 1)),
                f"mae less {RIDGE}": "" if name == RIDGE else signed(two_way(errors[name] - other)),
            }
        )
    note = (
        f"Mean and deviation over {RUNS} runs; {len(set(scenes))} test scenes, {len(test)} patches. "
        "Differences with 95 % intervals over runs and scenes; * excludes zero, less is better."
    )
    table = Table.of("evi", rows, title="Vegetation index from radar, synthetic", note=note)
    return Report(title="SAR to EVI on synthetic scenes", tables=(table,))


def by_scene(errors: NDArray[np.float64], scenes: NDArray[np.str_]) -> Scores:
    """(runs, scenes) mean error of each scene."""
    names = np.unique(scenes)
    return np.stack([np.nanmean(errors[:, scenes == n], (1, 2, 3)) for n in names], axis=1)


def told(scores: Scores) -> str:
    """A mean with its deviation over runs, where there are several."""
    return spread(scores) if len(scores) > 1 else f"{scores[0]:.3f}"


if __name__ == "__main__":
    main()
