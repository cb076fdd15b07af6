"""Synthetic scenes: the matrix of sensors and clouds, classes never seen, segmentation.

    python -m recipes.proofs.synthetic --out build/proofs/synthetic

Nothing here was measured by a satellite. The scenes are made so that one sensor is not enough;
a scene of four patches is a block that never trains and tests at once.
"""

import argparse
from pathlib import Path

from deepsentinel import DeepSentinelDataset, evaluate
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.training.protocol import Protocol

PATCHES = 160
SIZE = 64
PROTOCOLS = {
    "matrix": Protocol(
        parts=("matrix",), task="segmentation", seeds=2, random_twins=1, folds=4, pixels=6
    ),
    "unseen": Protocol(
        parts=("unseen",), seeds=3, random_twins=3, shots=(1, 5), steps=80, least_units=6
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
    parser.add_argument("--patches", type=int, default=PATCHES)
    args = parser.parse_args()
    root = write_synthetic_corpus(
        args.out / "corpus", patches=args.patches, patch_size=SIZE, seed=5
    )
    for name in args.part:
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
