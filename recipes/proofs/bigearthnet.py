"""Few labels on one BigEarthNet scene: nano, Galileo nano, Presto, and both controls.

    python -m recipes.proofs.bigearthnet --data ../shared/data --out build/proofs/bigearthnet

Two tables. `held-out` uses the half of the scene (10 km blocks) of which `deepsentinel-nano` has
never seen a pixel; `all` uses all 600 patches, half of which nano has seen without labels.
"""

import argparse
from pathlib import Path

from deepsentinel import evaluate, load_encoder
from deepsentinel.corpus.convert import convert
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.training.evaluation.protocol import Protocol

LABELS = (20, 60, 200)
LEAST = 10
"""Classes on fewer patches are left out: their average precision would be noise."""
PRESTO_STRIDE = 4
"""Presto reads means of 4 x 4 pixels, which makes it 16 times faster."""


def main() -> None:
    """Convert the scene, evaluate, write two reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the reports")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--only", nargs="*", default=[], help="names of encoders; all if not given")
    parser.add_argument(
        "--part", choices=("held-out", "all"), nargs="*", default=["held-out", "all"]
    )
    args = parser.parse_args()
    root = scene(args.data, args.out)
    encoders = {
        "deepsentinel-nano": load_encoder(),
        "galileo-nano": load_encoder(
            "galileo-nano", weights=args.data / "weights/galileo-nano/encoder.pt"
        ),
        "presto": load_encoder(
            "presto", weights=args.data / "weights/presto/default_model.pt", stride=PRESTO_STRIDE
        ),
    }
    chosen = {name: e for name, e in encoders.items() if not args.only or name in args.only}
    for part, split, folds in (("held-out", "test", 10), ("all", None, 5)):
        if part not in args.part:
            continue
        protocol = Protocol(
            methods=("linear", "knn"),
            shots=(),
            shares=(),
            counts=LABELS,
            least_units=LEAST,
            folds=folds,
            seeds=args.seeds,
            random_twins=2,
        )
        found = evaluate(
            chosen,
            DeepSentinelDataset(root, split),
            protocol,
            out_dir=args.out / part,
            say=lambda line: print(line, flush=True),
        )
        print(found, flush=True)


def scene(data: Path, out: Path) -> Path:
    """The scene as a corpus, with the halves that `recipes/deepsentinel_nano.py` makes."""
    root = out / "corpus"
    if not (root / "index.parquet").exists():
        convert(
            data / "bigearthnet/s2_scene",
            root,
            splits={"train": 0.5, "test": 0.5},
        )
    return root


if __name__ == "__main__":
    main()
