"""Synthetic scenes: the matrix of sensors and clouds, classes never seen, segmentation.

    python -m recipes.proofs.synthetic --out build/proofs/synthetic

Nothing here was measured by a satellite. The scenes are made so that one sensor is not enough;
a scene of four patches is a block that never trains and tests at once.
"""

import argparse
from pathlib import Path

from deepsentinel import DeepSentinelDataset, evaluate
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.training.evaluation.protocol import Protocol

PATCHES = {"matrix": (160, 64), "unseen": (400, 32), "segmentation": (160, 64)}
"""How many, and pixels of a side."""
PROTOCOLS = {
    "matrix": Protocol(
        parts=("matrix",), task="segmentation", seeds=2, random_twins=1, folds=4, pixels=6
    ),
    "unseen": Protocol(
        parts=("unseen",), seeds=5, random_twins=5, folds=3, shots=(1, 5), steps=80, least_units=6
    ),
    "segmentation": Protocol(
        task="segmentation",
        methods=("linear", "finetune"),
        shots=(),
        shares=(1.0,),
        seeds=1,
        random_twins=1,
        folds=3,
        pixels=16,
        steps=100,
        lr=3e-3,
    ),
}


def main() -> None:
    """Make the scenes, evaluate part by part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/proofs/synthetic"))
    parser.add_argument("--part", choices=PROTOCOLS, nargs="*", default=list(PROTOCOLS))
    args = parser.parse_args()
    for name in args.part:
        patches, size = PATCHES[name]
        root = write_synthetic_corpus(
            args.out / f"corpus-{size}", patches=patches, patch_size=size, seed=5
        )
        protocol = PROTOCOLS[name]
        label = "landcover" if protocol.task == "segmentation" else "landcover_class"
        dataset = DeepSentinelDataset(root, None, labels=(label,))
        found = evaluate(
            "deepsentinel-nano",
            dataset,
            protocol,
            blocks=[i.rsplit("-", 1)[0] for i in dataset.index["id"]],
            out_dir=args.out / name,
            say=lambda line: print(line, flush=True),
        )
        print(found, flush=True)


if __name__ == "__main__":
    main()
