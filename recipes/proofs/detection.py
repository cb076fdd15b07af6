"""Planted objects in synthetic scenes: how well boxes of a few pixels are found, seed by seed.

    python recipes/proofs/detection.py --out build/proofs/detection

Each seed is a corpus of its own, an order of training and a start of the head. The test patches are
another corpus, whose scenes no training saw. A run that was interrupted goes on where it was.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

import torch

from deepsentinel import DeepSentinelDataset, Detector, finetune, load_encoder
from deepsentinel.datasets.augment import Augment
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.training.evaluate import evaluate_model
from deepsentinel.training.reports.parts import Table
from deepsentinel.training.reports.report import Report

PATCHES: Final = 240
TEST_PATCHES: Final = 120
LR: Final = 2e-3
SENSORS: Final = {"both": ("s1", "s2"), "s1": ("s1",), "s2": ("s2",)}


def main() -> None:
    """Train every method on every encoder and seed, score all on patches of other scenes."""
    args = _arguments()
    torch.set_num_threads(1)
    rows = [
        _run(method, weights, seed, args)
        for seed in args.seeds
        for weights in args.weights
        for method in args.methods
    ]
    report = Report(
        title="Detection of planted objects",
        tables=(_table(rows), _sizes(rows)),
        notes=(
            f"Mean and standard deviation over the seeds {args.seeds}; {PATCHES} synthetic patches of "
            f"64 px (70 % to train, 15 % to choose the epoch), {TEST_PATCHES} of other scenes to test; "
            f"{args.epochs} epochs.",
            "Nothing was measured by a satellite.",
        ),
    )
    print(report.text())
    print(f"written: {report.write(args.out / 'report')}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/proofs/detection"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--methods", nargs="+", default=["centre"])
    parser.add_argument("--weights", nargs="+", default=["nano", "random"])
    return parser.parse_args()


def _run(method: str, weights: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Scores of one training; kept beside it."""
    folder = args.out / f"{method}-{weights}-{seed}"
    kept = folder / "test.json"
    if not kept.exists():
        train, val = (
            _corpus(args.out, PATCHES, seed, "train"),
            _corpus(args.out, PATCHES, seed, "val"),
        )
        test = _corpus(args.out, TEST_PATCHES, 1000 + seed, None)
        torch.manual_seed(seed)
        encoder = load_encoder()
        if weights == "random":
            encoder = encoder.reinitialised(seed=seed)
        scheme = train.scheme("objects")
        model = Detector(encoder, len(scheme), method, class_names=scheme.names)
        finetune(
            model,
            train,
            val,
            out_dir=folder,
            epochs=args.epochs,
            batch_size=8,
            lr=LR,
            encoder_lr=LR,
            augment=Augment(),
            patience=None,
            seed=seed,
            progress=False,
        )
        scores = {k: evaluate_model(model, test, sensors=s) for k, s in SENSORS.items()}
        kept.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    scores = json.loads(kept.read_text(encoding="utf-8"))
    print(method, weights, seed, {k: round(v["map"], 3) for k, v in scores.items()}, flush=True)
    return {"method": method, "weights": weights, "scores": scores}


def _corpus(out: Path, patches: int, seed: int, split: str | None) -> DeepSentinelDataset:
    root = out / f"corpus-{seed}-{patches}"
    write_synthetic_corpus(root, patches=patches, patch_size=64, seed=seed, objects=True)
    return DeepSentinelDataset(root, split, labels=("objects",))


def _table(rows: list[dict[str, Any]]) -> Table:
    lines = []
    for method, weights in dict.fromkeys((r["method"], r["weights"]) for r in rows):
        own = [r["scores"] for r in rows if (r["method"], r["weights"]) == (method, weights)]
        values = [spread([s["both"][k] for s in own]) for k in ("map", "ap50", "ap75")]
        values += [spread([s[k]["ap50"] for s in own]) for k in ("s1", "s2")]
        lines.append((method, weights, *values))
    columns = ("method", "encoder", "mAP", "AP50", "AP75", "AP50, S1 alone", "AP50, S2 alone")
    return Table(name="scores", columns=columns, rows=tuple(lines))


def _sizes(rows: list[dict[str, Any]]) -> Table:
    lines = []
    for method, weights in dict.fromkeys((r["method"], r["weights"]) for r in rows):
        own = [
            r["scores"]["both"] for r in rows if (r["method"], r["weights"]) == (method, weights)
        ]
        for size in own[0]["per_size"]:
            parts = [s["per_size"][size] for s in own if s["per_size"][size]["objects"]]
            if parts:
                values = [spread([p[k] for p in parts]) for k in ("map", "ap50", "ap75")]
                lines.append((method, weights, size, sum(p["objects"] for p in parts), *values))
    columns = ("method", "encoder", "size", "objects", "mAP", "AP50", "AP75")
    return Table(name="sizes", columns=columns, rows=tuple(lines))


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


if __name__ == "__main__":
    main()
