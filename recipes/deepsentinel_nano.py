"""The recipe of `deepsentinel-nano`, the encoder in the package: one command, on a CPU.

    python recipes/deepsentinel_nano.py --data ../shared/data --out build/deepsentinel-nano

A small ConvNeXt that reads both sensors at once learns to predict the dense and pooled features of
Galileo nano (arXiv 2502.09356, MIT) from less than Galileo saw: sensors, bands and rectangles are
hidden. Only `train` splits are read. The `test` split of the BigEarthNet scene, half of it by
10 km blocks, is kept out of training and scored at the end beside its controls.
"""

import argparse
import math
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from deepsentinel.bands import S2_BANDS
from deepsentinel.corpus.convert import convert
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.encoders.card import Card, Score
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.encoders.galileo import GalileoEncoder
from deepsentinel.objectives.distillation import TEACHER_KEY, Distillation
from deepsentinel.sample import IMAGE_KEYS, Batch, Sample, collate
from deepsentinel.training.evaluate import band_statistics, embed
from deepsentinel.training.probe import fewshot_probe, spatial_blocks

CROP = 64
STEP = 40
"""Pixels between the corners of neighbouring crops."""
SMALLER = {"dims": (32, 64, 128, 256), "depths": (2, 2, 6, 2)}
"""ConvNeXt-atto made smaller: 15 times the pixels per CPU-second of the teacher, and more."""
SIZES = (20, 60, 120)
"""Labels of the few-shot probe."""
SPLITS = 24
RANDOM_TWINS = 3
"""Networks of the same architecture with random weights, whose mean score is the control."""


@dataclass(frozen=True)
class Source:
    """One folder of real files, how it is converted, and how often its crops are drawn."""

    name: str
    folder: str
    share: float
    boa_offset: str | int = "auto"
    splits: tuple[tuple[str, float], ...] = (("train", 0.7), ("val", 0.15), ("test", 0.15))


SOURCES = (
    Source("scene", "bigearthnet/s2_scene", 0.5, splits=(("train", 0.5), ("test", 0.5))),
    Source("terramesh", "terramesh", 0.15, boa_offset="detect"),
    Source("worldcereal", "worldcereal", 0.15),
    Source("majortom", "majortom", 0.1),
    Source("ssl4eo", "ssl4eo", 0.07),
    Source("pairs", "bigearthnet/pairs", 0.03),
)


def main() -> None:
    """Convert, distil, score, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the encoder")
    parser.add_argument("--work", type=Path, help="folder of the corpora (default: OUT-work)")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--score-only", action="store_true", help="score the encoder in OUT again")
    args = parser.parse_args()
    work = args.work or args.out.with_name(args.out.name + "-work")
    corpora = {s.name: corpus(s, args.data, work) for s in SOURCES}
    teacher = GalileoEncoder.from_weights(args.data / "weights/galileo-nano/encoder.pt").eval()
    if args.score_only:
        encoder = FusionEncoder.from_pretrained(args.out)
        scores = measure(encoder, teacher, corpora["scene"], seed=args.seed)
        encoder.card = replace(encoder.card, scores=scores)
    else:
        encoder = trained(teacher, corpora, args)
    encoder.save_pretrained(args.out, dtype=torch.float16)
    print(f"saved {args.out}")


def trained(
    teacher: GalileoEncoder, corpora: dict[str, Path], args: argparse.Namespace
) -> FusionEncoder:
    """The encoder, distilled and scored, with its card."""
    generator = torch.Generator().manual_seed(args.seed)
    crops = {
        s.name: with_teacher(teacher, brightened(cut(corpora[s.name]), generator)) for s in SOURCES
    }
    print({name: len(found) for name, found in crops.items()}, "crops", flush=True)
    torch.manual_seed(args.seed)
    encoder = FusionEncoder(
        "convnext_atto",
        fusion="early",
        pool_levels=(0, 1, 2, 3),
        embed_dim=teacher.embed_dim,
        backbone_options=SMALLER,
    )
    started = time.perf_counter()
    distil(encoder, crops, steps=args.steps, batch=args.batch, lr=args.lr, seed=args.seed)
    minutes = (time.perf_counter() - started) / 60
    scores = measure(encoder.eval(), teacher, corpora["scene"], seed=args.seed)
    encoder.card = card(encoder, scores, args, crops, minutes)
    return encoder


def corpus(source: Source, data: Path, work: Path) -> Path:
    """The source as a corpus, converted once."""
    path = work / source.name
    report = convert(
        data / source.folder,
        path,
        boa_offset=source.boa_offset,
        splits=dict(source.splits),
    )
    print(report, flush=True)
    return path


def cut(root: Path) -> list[Sample]:
    """Crops of the train split on a regular grid."""
    dataset = DeepSentinelDataset(root, "train", labels=())
    crops: list[Sample] = []
    for i in range(len(dataset)):
        sample = dataset[i]
        size = dataset.info.patch_size
        corners = sorted({*range(0, size - CROP + 1, STEP), size - CROP})
        for top in corners:
            for left in corners:
                window = (..., slice(top, top + CROP), slice(left, left + CROP))
                crop = {k: sample[k][window] for k in IMAGE_KEYS.values() if k in sample}
                if any(bool(image.isfinite().any()) for image in crop.values()):
                    crops.append(with_all_bands({"meta": sample["meta"], **crop}))
    return crops


def with_all_bands(sample: Sample) -> Sample:
    """The sample with the 12 bands of Sentinel-2, NaN for those that its corpus lacks."""
    meta = sample["meta"]
    if "image_s2" not in sample or meta.bands_s2 == S2_BANDS:
        return sample
    image = torch.full((len(S2_BANDS), *sample["image_s2"].shape[1:]), float("nan"))
    image[[S2_BANDS.index(b) for b in meta.bands_s2]] = sample["image_s2"]
    return {**sample, "meta": replace(meta, bands_s2=S2_BANDS), "image_s2": image}


def brightened(crops: list[Sample], generator: Generator) -> list[Sample]:
    """The crops, and each once more as if under other light: one factor for S2, a shift for S1."""
    more: list[Sample] = []
    for crop in crops:
        gain = 0.7 + 0.7 * torch.rand((), generator=generator)
        shift = 1.5 * torch.randn((), generator=generator)
        other = dict(crop)
        if "image_s2" in crop:
            other["image_s2"] = crop["image_s2"] * gain
        if "image_s1" in crop:
            other["image_s1"] = crop["image_s1"] + shift
        more.append(other)
    return crops + more


def with_teacher(teacher: GalileoEncoder, crops: list[Sample]) -> list[Sample]:
    """The crops with the teacher's map of all that they hold."""
    taught: list[Sample] = []
    with torch.inference_mode():
        for start in range(0, len(crops), 32):
            part = crops[start : start + 32]
            batch = with_both(collate(part))
            features = teacher(
                s1=batch["image_s1"],
                s2=batch["image_s2"],
                month=torch.tensor([month(s) for s in part]),
            )
            maps = features.maps[-1].clone()
            taught += [{**s, TEACHER_KEY: m} for s, m in zip(part, maps, strict=True)]
    return taught


def with_both(batch: Batch) -> Batch:
    """The batch with both images, NaN for a sensor that is absent."""
    present = next(batch[k] for k in IMAGE_KEYS.values() if k in batch)
    bands = {"image_s1": 2, "image_s2": 12}
    for key, count in bands.items():
        if key not in batch:
            batch[key] = present.new_full((len(present), count, *present.shape[-2:]), float("nan"))
    return batch


def month(sample: Sample) -> int:
    """Calendar month of a sample; July, Galileo's own default, where it is not known."""
    date = sample["meta"].date_s2 or sample["meta"].date_s1
    return 7 if date is None else date.month


def distil(
    encoder: FusionEncoder,
    crops: dict[str, list[Sample]],
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
) -> None:
    """Train the encoder in place: AdamW, warm-up, cosine."""
    maps = torch.stack([s[TEACHER_KEY] for s in crops["scene"] + crops["terramesh"]])
    objective = Distillation(
        encoder.embed_dim,
        encoder.out_channels,
        maps.mean((0, 2, 3)),
        maps.std((0, 2, 3)),
        maps.mean((2, 3)).std(0),
    )
    parameters = [*encoder.parameters(), *objective.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.05)
    generator = torch.Generator().manual_seed(seed)
    encoder.train()
    for step, part in enumerate(batches(crops, batch, steps, generator)):
        for group in optimiser.param_groups:
            group["lr"] = (
                lr * min(1, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / steps))
            )
        losses = objective(encoder, part, generator)
        optimiser.zero_grad()
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if step % 200 == 0 or step == steps - 1:
            shown = " ".join(f"{k} {v.item():.4f}" for k, v in losses.items())
            print(f"step {step}: {shown}", flush=True)


def batches(
    crops: dict[str, list[Sample]], batch: int, steps: int, generator: Generator
) -> Iterator[Batch]:
    """Batches of crops, drawn by the shares of their sources, flipped and turned."""
    shares = torch.tensor([s.share for s in SOURCES])
    for _ in range(steps):
        chosen = torch.multinomial(shares, batch, replacement=True, generator=generator)
        samples = []
        for place in chosen.tolist():
            pool = crops[SOURCES[place].name]
            sample = pool[int(torch.randint(len(pool), (1,), generator=generator))]
            samples.append(turned(sample, int(torch.randint(8, (1,), generator=generator))))
        yield with_both(collate(samples))


def turned(sample: Sample, way: int) -> Sample:
    """One of the eight ways to lay a square."""
    keys = [k for k in (*IMAGE_KEYS.values(), TEACHER_KEY) if k in sample]
    out = dict(sample)
    for key in keys:
        image: Tensor = torch.rot90(sample[key], way % 4, (-2, -1))
        out[key] = image.flip(-1) if way >= 4 else image
    return out


def measure(
    encoder: FusionEncoder, teacher: GalileoEncoder, root: Path, *, seed: int
) -> tuple[Score, ...]:
    """Few-shot probes on the held-out blocks, beside the controls and the teacher."""
    test = DeepSentinelDataset(root, "test")
    found = embed(encoder, test)
    randoms = [embed(encoder.reinitialised(i).eval(), test).vectors for i in range(RANDOM_TWINS)]
    vectors = {
        "deepsentinel-nano": [found.vectors],
        "random": randoms,
        "band_stats": [band_statistics(test).vectors],
        "galileo-nano": [embed(teacher, test).vectors],
    }
    blocks = spatial_blocks(found.lonlat, block_km=5.0)
    table = {name: few_shot(xs, found.labels, blocks, seed=seed) for name, xs in vectors.items()}
    for name, scores in table.items():
        print(f"{name:>18}", *(gain(scores[s], table["random"][s], s) for s in SIZES), flush=True)
    return tuple(
        Score(
            task=f"BigEarthNet scene T34VER, held-out blocks, probe on {size} labels, {SPLITS} splits",
            metric="micro mAP",
            value=round(float(table["deepsentinel-nano"][size].mean()), 4),
            sensors="s2",
            controls={
                name: round(float(table[name][size].mean()), 4)
                for name in ("band_stats", "random", "galileo-nano")
            },
        )
        for size in SIZES
    )


def few_shot(
    xs: list[NDArray[np.float32]], y: NDArray[np.int64], blocks: NDArray[np.intp], *, seed: int
) -> dict[int, NDArray[np.float64]]:
    """Scores by number of labels over splits that are the same for all, mean over the `xs`."""
    each = [
        fewshot_probe(x, y, blocks, sizes=SIZES, splits=SPLITS, multilabel=True, seed=seed)
        for x in xs
    ]
    return {size: np.mean([scores[size] for scores in each], axis=0) for size in SIZES}


def gain(scores: NDArray[np.float64], random: NDArray[np.float64], size: int) -> str:
    """Mean score, and how far above random weights, paired by split, with its standard error."""
    above = scores - random
    error = above.std(ddof=1) / math.sqrt(len(above))
    return f" {size}: {scores.mean():.3f} ({above.mean():+.3f} +- {error:.3f})"


def card(
    encoder: FusionEncoder,
    scores: tuple[Score, ...],
    args: argparse.Namespace,
    crops: dict[str, list[Sample]],
    minutes: float,
) -> Card:
    """What the recipe knows of what it made."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    seen = ", ".join(f"{name} {len(found)}" for name, found in crops.items())
    return replace(
        encoder.card,
        name="deepsentinel-nano",
        title="deepsentinel-nano: a small Sentinel-1 and Sentinel-2 fusion encoder",
        levels={"s1": ("GRD", "RTC"), "s2": ("L2A",)},
        resolution_m=10.0,
        licence="MIT",
        data_licence=(
            "CDLA-Permissive-1.0 (BigEarthNet), CC-BY-SA-4.0 (TerraMesh, Major-TOM), "
            "MIT (WorldCereal), CC-BY-4.0 (SSL4EO-S12); the teacher Galileo nano: MIT"
        ),
        training={
            "data": f"{CROP} px crops: {seen}",
            "objective": "distillation of Galileo nano (arXiv 2502.09356), parts of the input hidden",
            "recipe": "recipes/deepsentinel_nano.py",
            "steps": f"{args.steps} of {args.batch} crops, learning rate {args.lr:g}",
            "seed": str(args.seed),
            "commit": commit,
            "time": f"{minutes:.0f} minutes on {torch.get_num_threads()} CPU threads",
        },
        scores=scores,
        limits=(
            "Use this offline, on a laptop, as a first baseline, and to try the library. It has "
            "seen about a thousand patches of one Finnish scene and fewer than 130 Sentinel-1 "
            "pairs from a handful of places: elsewhere, and for Sentinel-1 above all, expect "
            "little more than from a random network. For results that matter take a large public "
            "encoder, and compare with band statistics."
        ),
    )


if __name__ == "__main__":
    main()
