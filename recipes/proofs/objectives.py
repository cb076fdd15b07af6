"""What each objective gives on the same budget: network, patches, steps and seed are the same for all.

    python -m recipes.proofs.objectives --data ../shared/data --out build/proofs/objectives

Real patches only: half of the BigEarthNet scene (10 km blocks), WorldCereal, TerraMesh, Major TOM,
SSL4EO. Scored on the other half of the scene by few-shot probes paired over splits, and on a
TerraMesh place that is held out by how often Sentinel-1 finds its Sentinel-2 partner. Nothing was
chosen by these scores: every objective runs with its default options.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepsentinel import FusionEncoder, convert, pretrain
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.encoders.galileo import GalileoEncoder
from deepsentinel.objectives.objective import Objective
from deepsentinel.objectives.registry import OBJECTIVES
from deepsentinel.objectives.teachers import Teachers
from deepsentinel.sample import IMAGE_KEYS, Sample
from deepsentinel.training.evaluation.embed import band_statistics, embed
from deepsentinel.training.evaluation.probe import fewshot_probe, spatial_blocks
from deepsentinel.training.reports.report import Report, Table
from deepsentinel.training.scoring.retrieval import cross_sensor_retrieval

SOURCES: dict[str, tuple[str, float, str | int, dict[str, float]]] = {
    "scene": ("bigearthnet/s2_scene", 0.4, "auto", {"train": 0.5, "test": 0.5}),
    "worldcereal": ("worldcereal", 0.25, "auto", {"train": 1.0}),
    "terramesh": ("terramesh", 0.2, "detect", {"train": 0.7, "val": 0.15, "test": 0.15}),
    "majortom": ("majortom", 0.1, "auto", {"train": 0.8, "val": 0.2}),
    "ssl4eo": ("ssl4eo", 0.05, "auto", {"train": 1.0}),
}
"""Folder, share of the patches, offset and splits of each corpus."""
NETWORK = {
    "embed_dim": 128,
    "pool_levels": (0, 1, 2, 3),
    "backbone_options": {"dims": (32, 64, 128, 256), "depths": (2, 2, 6, 2)},
}
SIZES = (20, 60, 120)
SPLITS = 24
TWINS = 3
WINDOW = 32
Row = dict[str, Any]


def main() -> None:
    """Convert, train with each objective, score, write a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data")
    parser.add_argument("--out", type=Path, required=True, help="folder of runs and report")
    parser.add_argument("--corpora", type=Path, help="folder of the corpora (default: OUT/corpora)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(OBJECTIVES), choices=OBJECTIVES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    roots = {name: corpus(name, args) for name in SOURCES}
    scored = Scored(roots)
    rows = [scored.controls(args.seed)]
    for name in args.only:
        rows.append([trained(name, roots, scored, args)])
        write([row for part in rows for row in part], args)


def corpus(name: str, args: argparse.Namespace) -> Path:
    """A source as a corpus, converted once."""
    folder, _, offset, splits = SOURCES[name]
    root = (args.corpora or args.out / "corpora") / name
    if not (root / "corpus.json").exists():
        print(convert(args.data / folder, root, boa_offset=offset, splits=splits), flush=True)
    return root


class Scored:
    """Data of the scores, read once."""

    def __init__(self, roots: dict[str, Path]) -> None:
        self.scene = DeepSentinelDataset(roots["scene"], "test")
        place = DeepSentinelDataset(roots["terramesh"], "test", labels=())
        self.windows = [w for i in range(len(place)) for w in windows(place[i])]
        statistics = band_statistics(self.scene)
        self.labels, self.statistics = statistics.labels, statistics.vectors
        self.blocks = spatial_blocks(statistics.lonlat, block_km=5.0)
        self.random: dict[int, NDArray[np.float64]] = {}

    def controls(self, seed: int) -> list[Row]:
        """Band statistics, and random weights, which all others are compared with."""
        torch.manual_seed(seed)
        encoder = FusionEncoder("convnext_atto", **NETWORK)
        twins = [encoder.reinitialised(i).eval() for i in range(TWINS)]
        each = [self.few_shot(embed(t, self.scene).vectors) for t in twins]
        self.random = {size: np.mean([e[size] for e in each], axis=0) for size in SIZES}
        statistics = self.row("band statistics", self.few_shot(self.statistics))
        found = [cross_sensor_retrieval(t, self.windows).s1_to_s2 for t in twins]
        random = self.row("random weights", self.random)
        return [statistics, {**random, **retrieved(found)}]

    def few_shot(self, vectors: NDArray[np.float32]) -> dict[int, NDArray[np.float64]]:
        """Micro mAP of every split by number of labels."""
        found: dict[int, NDArray[np.float64]] = fewshot_probe(
            vectors, self.labels, self.blocks, sizes=SIZES, splits=SPLITS, multilabel=True, seed=0
        )
        return found

    def row(self, name: str, scores: dict[int, NDArray[np.float64]]) -> Row:
        """Means, and the difference from random weights with its standard error over splits."""
        row: Row = {"objective": name}
        for size in SIZES:
            above = scores[size] - self.random[size]
            error = above.std(ddof=1) / len(above) ** 0.5
            row[f"{size} labels"] = f"{scores[size].mean():.3f}"
            row[f"above random, {size}"] = f"{above.mean():+.3f} ± {error:.3f}"
        return row


def trained(name: str, roots: dict[str, Path], scored: Scored, args: argparse.Namespace) -> Row:
    """One objective: a run, and its scores."""
    torch.manual_seed(args.seed)
    encoder = FusionEncoder("convnext_atto", **NETWORK)
    objective: str | Objective = name
    if name == "distillation":
        path = args.data / "weights/galileo-nano/encoder.pt"
        objective = Teachers(encoder, teachers=(GalileoEncoder.from_weights(path).eval(),))
    started = time.process_time()
    result = pretrain(
        [str(root) for root in roots.values()],
        out_dir=args.out / f"{name}-{args.steps}-{args.seed}",
        objective=objective,
        encoder=encoder,
        shares=[share for _, share, _, _ in SOURCES.values()],
        crop=args.crop,
        steps=args.steps,
        batch_size=args.batch,
        seed=args.seed,
        accelerator="cpu",
        image_every=None,
        progress=False,
    )
    seconds = time.process_time() - started
    print(name, result, f"{seconds:.0f} CPU-seconds", flush=True)
    encoder = FusionEncoder.from_pretrained(result.path)
    found = cross_sensor_retrieval(encoder, scored.windows).s1_to_s2
    last = {k: v for row in result.log for k, v in row.items()}
    return {
        **scored.row(name, scored.few_shot(embed(encoder, scored.scene).vectors)),
        **retrieved([found]),
        "effective rank": f"{last['effective_rank']:.0f}",
        "collapsed": "yes" if result.collapsed else "",
        "CPU-seconds": f"{seconds:.0f}",
    }


def retrieved(found: list[dict[str, float]]) -> Row:
    """Recall and median rank, means over networks."""
    return {
        "S1 finds S2, recall@5": f"{np.mean([f['recall@5'] for f in found]):.2f}",
        "median rank": f"{np.mean([f['median_rank'] for f in found]):.0f}",
    }


def windows(sample: Sample) -> Iterator[Sample]:
    """Squares of a patch side by side, each a place of its own."""
    meta = replace(sample["meta"], lon=None, lat=None, transform=None)
    keys = [k for k in IMAGE_KEYS.values() if k in sample]
    side = sample[keys[0]].shape[-1]
    corners = range(0, side - WINDOW + 1, WINDOW)
    for top in corners:
        for left in corners:
            cut = (..., slice(top, top + WINDOW), slice(left, left + WINDOW))
            yield {"meta": meta, **{k: sample[k][cut] for k in keys}}


def write(rows: list[Row], args: argparse.Namespace) -> None:
    """The table so far, as a report."""
    columns = tuple(dict.fromkeys(k for row in rows for k in row))
    table = Table(
        name="objectives",
        columns=columns,
        rows=tuple(tuple(row.get(c, "") for c in columns) for row in rows),
        note=f"{args.steps} steps of {args.batch} crops of {args.crop} px, seed {args.seed}; "
        f"{SPLITS} splits.",
    )
    report = Report(title="What each objective gives on the same budget", tables=(table,))
    print("\n" + report.text(), flush=True)
    report.write(args.out / "report")


if __name__ == "__main__":
    main()
