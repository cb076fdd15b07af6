"""What the watch on collapse says of sound runs and of runs that are made to collapse.

    python tests/benchmarks/collapse.py [CORPUS ...] [--seeds 11 12] [--backbones resnet10t convnext vit]

Every objective as it is, and three without what holds embeddings apart, on each backbone with each
seed; on synthetic scenes, or on the corpora together. 200 steps of 16 crops of 32 px and a look every 10
steps, of which three in a row have to be low. A row a run: spread and effective rank at the start,
their lowest share of it over three looks in a row, and what was said. Judge limits by runs that they
were not chosen on.
"""

import argparse
import json
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from deepsentinel import FusionEncoder, pretrain
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.errors import TrainingWarning
from deepsentinel.objectives.collapse import CollapseWatch
from deepsentinel.objectives.registry import OBJECTIVES
from deepsentinel.training.pretraining.result import PretrainResult
from tests.objectives.collapsing import MADE_TO_COLLAPSE

BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet10t": ("resnet10t", {}),
    "convnext": ("convnext_atto", {"dims": (24, 48, 96, 192), "depths": (1, 1, 3, 1)}),
    "vit": ("vit_tiny_patch16_224", {"embed_dim": 96, "depth": 4, "num_heads": 3}),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "masked": {"block": 8},
    "distillation": {"teachers": ["deepsentinel-nano"]},
    "pix2pix": {"layers": 2},
}
SOUND = {name: name for name in OBJECTIVES}
MADE = {made.__name__: made for made in MADE_TO_COLLAPSE}


def encoder_of(backbone: str, seed: int) -> FusionEncoder:
    name, options = BACKBONES[backbone]
    torch.manual_seed(seed)
    return FusionEncoder(name, backbone_options=options)


def run(
    corpora: list[Path], name: str, backbone: str, seed: int, args: argparse.Namespace
) -> PretrainResult:
    encoder = encoder_of(backbone, seed)
    objective: Any = MADE[name](encoder) if name in MADE else name
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        return pretrain(
            corpora,
            out_dir=folder,
            objective=objective,
            objective_options=OPTIONS.get(name),
            encoder=encoder,
            split=None,
            crop=32,
            steps=args.steps,
            batch_size=16,
            seed=seed,
            watch_every=args.steps // 20,
            image_every=None,
            accelerator="cpu",
            progress=False,
        )


def lowest(values: list[float], patience: int) -> float:
    """The lowest that so many looks in a row stayed below or at."""
    runs = [max(values[i : i + patience]) for i in range(len(values) - patience + 1)]
    return min(runs)


def row(result: PretrainResult) -> dict[str, float | bool]:
    patience = CollapseWatch().patience
    found: dict[str, float | bool] = {"said": result.collapsed}
    for name in ("embedding_std", "effective_rank"):
        values = [value for _, value in result.curve(name)]
        low = lowest(values[1:], patience)
        found |= {name: values[0], f"{name}_low": low, f"{name}_share": low / values[0]}
    return found


def cases(args: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    for backbone in args.backbones:
        for seed in args.seeds:
            for name in args.objectives:
                if (backbone, name) != ("vit", "pix2pix"):  # patches too small for its maps
                    yield name, backbone, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpora", nargs="*", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[11, 12])
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=BACKBONES)
    parser.add_argument("--objectives", nargs="+", default=[*SOUND, *MADE], choices=[*SOUND, *MADE])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, help="a JSON object a run is added to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        corpora = args.corpora
        if not corpora:
            corpora = [write_synthetic_corpus(Path(folder) / "c", patches=160, patch_size=32)]
        print("| run | backbone | seed | spread | of start | rank | lowest | of start | said |")
        print("|---|---|---|---|---|---|---|---|---|")
        for name, backbone, seed in cases(args):
            found = row(run(corpora, name, backbone, seed, args))
            std, rank = ("embedding_std", "effective_rank")
            print(
                f"| {name} | {backbone} | {seed} | {found[std]:.2f} | {found[std + '_share']:.3f} "
                f"| {found[rank]:.1f} | {found[rank + '_low']:.1f} | {found[rank + '_share']:.3f} "
                f"| {'collapsed' if found['said'] else ''} |",
                flush=True,
            )
            if args.out is not None:
                told = {"run": name, "backbone": backbone, "seed": seed, **found}
                with args.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
