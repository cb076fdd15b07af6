"""The recipe of `deepsentinel-nano`, the encoder in the package: one command, on a CPU.

    python recipes/deepsentinel_nano.py --data ../shared/data --out build/deepsentinel-nano

Two small ConvNeXts, one a sensor, learn what Galileo nano (arXiv 2502.09356, MIT) and Presto (arXiv
2304.14065, MIT) say of their sensor in augmented crops (`nano_crops.py`), while bands and clouds are
hidden from them. The embedding has an optical and a radar half; the half that a sensor cannot see is
what Galileo says of that sensor, in the other's space: Galileo learned to align them on data that we
lack. Only `train` and `val` splits are read. Half of the BigEarthNet scene (by 10 km blocks), one
terramesh place, one BigEarthNet pair and the WorldCereal site are kept out of training and scored at
the end beside controls (`nano_scores.py`).

A run that is killed goes on from its last checkpoint, to the same weights.
"""

import argparse
import math
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from nano_crops import (
    CELL,
    CROP,
    HELD_OUT,
    SOURCES,
    Labelled,
    Pair,
    Teachers,
    corpus,
    joined,
    labelled,
    training_pairs,
)
from nano_scores import measure
from torch import Generator, Tensor, nn

from deepsentinel.encoders.card import FREE_USE, Card
from deepsentinel.encoders.fusion import FusionEncoder

DIMS = [32, 64, 128, 256]
TOWERS = {
    "s1": {"dims": DIMS, "depths": [1, 1, 1, 1]},
    "s2": {"dims": DIMS, "depths": [1, 1, 4, 1]},
}
"""ConvNeXt-atto made smaller, for 15 times the pixels per CPU-second of Galileo."""
OPTICAL, RADAR = 80, 48
"""Components of the embedding that tell what the teachers say of Sentinel-2 and of Sentinel-1."""
WIDTH = 256
"""Channels of what both teachers say of one sensor."""
SHY = 0.5
"""By which the half that a sensor has to guess of the other is made smaller, so that where both are
shown the mean of both embeddings has each half from its own sensor above all."""
NAN = float("nan")
LIMITS = (
    "Use this offline, on a laptop, as a first baseline, where thousands of square kilometres must "
    "be embedded on a CPU, and to try the library. It has seen 286 patches of one Finnish scene, one "
    "Major-TOM cell, three places of terramesh, one of SSL4EO-S12 and two BigEarthNet pairs, nothing "
    "more: Sentinel-1 of six places, and nothing of most climates and land covers. With Sentinel-1 "
    "its embedding moves less under clouds than without. On places that it never saw its Sentinel-1 "
    "embeddings find their Sentinel-2 partners no more often than chance, and for land cover from "
    "Sentinel-1 alone random weights are better. For results that matter, for Sentinel-1 above all, "
    "and far from Europe, take a large public encoder such as galileo-nano, croma-base or "
    "panopticon-base, and compare with band statistics."
)


def main() -> None:
    """Convert, label, distil, score, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the encoder")
    parser.add_argument("--work", type=Path, help="corpora, crops, checkpoints (default: OUT-work)")
    parser.add_argument("--crops", type=int, default=10_000, help="of each of two lots")
    parser.add_argument(
        "--joins", type=int, default=1000, help="step at which the second lot joins"
    )
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--score-only", action="store_true", help="score the encoder in OUT again")
    args = parser.parse_args()
    work = args.work or args.out.with_name(args.out.name + "-work")
    corpora = {s.name: corpus(s, args.data, work) for s in (*SOURCES, HELD_OUT)}
    teachers = Teachers(args.data)
    if args.score_only:
        encoder = FusionEncoder.from_pretrained(args.out)
    else:
        pairs = [training_pairs(corpora[s.name]) for s in SOURCES]
        encoder = untrained(args.seed)
        minutes = distil(encoder, pairs, teachers, args, work)
        encoder.card = card(encoder, args, [len(p) for p in pairs], minutes)
    encoder.eval().card = replace(
        encoder.card, limits=LIMITS, scores=measure(encoder, teachers, corpora, seed=args.seed)
    )
    encoder.save_pretrained(args.out, dtype=torch.float16)
    print(f"saved {args.out}")


def untrained(seed: int) -> FusionEncoder:
    """The architecture."""
    torch.manual_seed(seed)
    return FusionEncoder(
        "convnext_atto",
        fusion="late",
        pool="mean_std",
        pool_levels=(0, 1, 2, 3),
        embed_dim=OPTICAL + RADAR,
        hidden=256,
        moments=True,
        project_sensors=True,
        backbone_options=TOWERS,
    )


@dataclass(frozen=True)
class Space:
    """From what both teachers say of one sensor to the leading components of it, and their share."""

    mean: Tensor
    std: Tensor
    components: Tensor

    @classmethod
    def of(cls, said: Tensor, count: int) -> "Space":
        """Principal components of standardised vectors (N, D)."""
        mean, std = said.mean(0), said.std(0)
        _, _, rows = torch.linalg.svd((said - mean) / std, full_matrices=False)
        return cls(mean, std, rows[:count].T)

    def __call__(self, said: Tensor) -> Tensor:
        """Components (N, count), their variances in proportion; half of the standardised ones."""
        return ((said - self.mean) / self.std) @ self.components / math.sqrt(2)


class Pupil(nn.Module):
    """Losses of an encoder against what the teachers said.

    The embedding is the components of both sensors' spaces, turned by one orthogonal matrix: a
    probe that standardises features would else give the least component the weight of the first.
    """

    def __init__(self, encoder: FusionEncoder, crops: Labelled) -> None:
        super().__init__()
        self.encoder = encoder
        real = crops.radar.isfinite().all(1) & ~crops.imagined
        self.optical = Space.of(crops.optical[crops.plain], OPTICAL)
        self.radar = Space.of(crops.radar[real], RADAR)
        self.shifts = (
            self.optical(aligned(crops.radar[real], self.optical)).mean(0),
            self.radar(aligned(crops.optical[crops.plain], self.radar)).mean(0),
        )
        size = OPTICAL + RADAR
        noise = torch.randn(size, size, generator=Generator().manual_seed(7))
        self.register_buffer("turn", torch.linalg.qr(noise)[0])
        said = torch.cat((crops.dense[::10], crops.echo[::10]), 1).float()
        self.register_buffer("mean", said.nanmean((0, 2, 3))[:, None, None])
        spread = (said - self.mean).square().nanmean((0, 2, 3)).sqrt()
        self.register_buffer("std", spread[:, None, None])
        self.dense = nn.ModuleList(nn.Conv2d(c, len(self.mean), 1) for c in encoder.out_channels)

    def forward(
        self, part: Labelled, way: int, window: tuple[int, int, int], g: Generator
    ) -> dict[str, Tensor]:
        """`loss` and its parts on one batch, laid one of eight ways, of which a window is shown."""
        size, top, left = window
        at = slice(top, top + size), slice(left, left + size)
        cells = slice(top // CELL, (top + size) // CELL), slice(left // CELL, (left + size) // CELL)
        part = shown(part, way, at, cells)
        s2 = hidden(part.s2, g)
        has_s1, has_s2 = observed(part.s1), observed(s2)
        by_s1 = self.encoder(s1=part.s1[has_s1], check="never")
        by_s2 = self.encoder(s2=s2[has_s2], check="never")
        a, b = by_s1.embedding @ self.turn, by_s2.embedding @ self.turn
        loss = {
            "s1": apart(a, self.of_s1(part.radar[has_s1])).sum(),
            "s2": apart(b, self.of_s2(part.optical[has_s2])).sum(),
            "dense": 5 * self._map_loss(by_s2.maps, part, has_s2, slice(0, WIDTH)),
            "echo": 5 * self._map_loss(by_s1.maps, part, has_s1, slice(WIDTH, None)),
        }
        loss = {k: v / len(s2) for k, v in loss.items()}
        return {"loss": torch.stack(list(loss.values())).sum(), **loss}

    def of_s1(self, said: Tensor) -> Tensor:
        """What the embedding of Sentinel-1 alone should be, of what the teachers say of it."""
        guess = self.optical(aligned(said, self.optical)) - self.shifts[0]
        return torch.cat((SHY * guess, self.radar(said)), 1)

    def of_s2(self, said: Tensor) -> Tensor:
        """What the embedding of Sentinel-2 alone should be."""
        guess = self.radar(aligned(said, self.radar)) - self.shifts[1]
        return torch.cat((self.optical(said), SHY * guess), 1)

    def _map_loss(
        self, maps: tuple[Tensor, ...], part: Labelled, rows: Tensor, channels: slice
    ) -> Tensor:
        said = torch.cat((part.dense, part.echo), 1)[rows][:, channels]
        target = (said - self.mean[channels]) / self.std[channels]
        size = (target.shape[-2], target.shape[-1])
        found = [
            F.adaptive_avg_pool2d(y, size)
            if y.shape[-1] >= size[-1]
            else F.interpolate(y, size=size, mode="bilinear")
            for y in (layer(m)[:, channels] for layer, m in zip(self.dense, maps, strict=True))
        ]
        total = torch.stack(found).sum(0)
        return F.smooth_l1_loss(total, target, reduction="none").mean((1, 2, 3)).sum()


def aligned(said: Tensor, space: Space) -> Tensor:
    """What Galileo says (N, 256), in a space of the other sensor; Presto does not align sensors."""
    return torch.cat((said[:, : WIDTH // 2], space.mean[WIDTH // 2 :].expand(len(said), -1)), 1)


def apart(found: Tensor, wanted: Tensor) -> Tensor:
    """Euclidean distance of each row."""
    return ((found - wanted).square().sum(1) + 1e-3).sqrt()


def laid(images: Tensor, way: int) -> Tensor:
    """All images one of the eight ways."""
    around = torch.rot90(images, way % 4, (-2, -1))
    return around.flip(-1) if way >= 4 else around


def observed(images: Tensor) -> Tensor:
    """Which images hold anything."""
    return images.isfinite().flatten(1).any(1)


def shown(
    part: Labelled, way: int, at: tuple[slice, slice], cells: tuple[slice, slice]
) -> Labelled:
    """A window of crops laid one of eight ways, and what the teachers say of it."""
    dense, echo = (laid(m.float(), way)[..., *cells] for m in (part.dense, part.echo))
    return replace(
        part,
        s1=laid(part.s1.float(), way)[..., *at],
        s2=laid(part.s2.float(), way)[..., *at],
        dense=dense,
        echo=echo,
        optical=dense.mean((2, 3)),
        radar=echo.mean((2, 3)),
    )


def hidden(s2: Tensor, g: Generator) -> Tensor:
    """Images with bands and clouds hidden, of each never all."""
    count = len(s2)
    bands = torch.rand(count, 1, generator=g) < 0.35
    bands = bands & (torch.rand(count, 12, generator=g) < 0.6 * torch.rand(count, 1, generator=g))
    bands &= ~bands.all(1, keepdim=True)
    cloudy = torch.rand(count, generator=g) < 0.45
    hole = cloudy[:, None, None] & clouds(count, s2.shape[-1], g)
    under = s2.masked_fill(bands[:, :, None, None] | hole[:, None], NAN)
    return torch.where(observed(under)[:, None, None, None], under, s2)


def clouds(count: int, size: int, g: Generator) -> Tensor:
    """Round shapes that cover a tenth to nine tenths of each square, bool (count, size, size)."""
    coarse = torch.randn(count, 1, 5, 5, generator=g)
    field = F.interpolate(coarse, size=(size, size), mode="bicubic").flatten(1)
    share = 0.1 + 0.8 * torch.rand(count, generator=g)
    place = (share * (field.shape[1] - 1)).long()[:, None]
    edge = field.sort(dim=1).values.gather(1, place)
    return (field < edge).view(count, size, size)


def distil(
    encoder: FusionEncoder,
    pairs: list[list[Pair]],
    teachers: Teachers,
    args: argparse.Namespace,
    work: Path,
) -> float:
    """Train the encoder in place: AdamW, a rate that falls at the end. Minutes that it took."""
    first = crops = labelled(pairs, teachers, work, seed=args.seed + 11, count=args.crops)
    pupil = Pupil(encoder, first)
    encoder.eval()  # nothing in it differs in training but that it would run both towers always
    optimiser = torch.optim.AdamW(
        pupil.parameters(), lr=args.lr, weight_decay=0.05, betas=(0.9, 0.99)
    )
    g = Generator().manual_seed(args.seed)
    path = work / "checkpoint.pt"
    step, seconds = 0, 0.0
    if path.is_file():
        step, seconds = restored(path, pupil, optimiser, g)
        print(f"on from step {step}", flush=True)
    started = time.perf_counter() - seconds
    while step < args.steps:
        if step >= args.joins and crops is first:
            more = labelled(pairs, teachers, work, seed=args.seed + 12, count=args.crops)
            crops = joined([first, more])
        for group in optimiser.param_groups:
            group["lr"] = args.lr * rate(step, args.steps)
        losses = pupil(*batch(crops, args.batch, g), g)
        optimiser.zero_grad()
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(pupil.parameters(), 5.0)
        optimiser.step()
        step += 1
        if step % 250 == 0 or step == args.steps:
            seconds = time.perf_counter() - started
            print(
                step,
                *(f"{k} {v.item():.3f}" for k, v in losses.items()),
                f"{seconds:.0f} s",
                flush=True,
            )
            keep(path, pupil, optimiser, generator=g.get_state(), step=step, seconds=seconds)
    return (time.perf_counter() - started) / 60


def rate(step: int, steps: int) -> float:
    """Share of the learning rate: 200 steps of warm-up, constant, the last two fifths falling to 0."""
    falling = min(1.0, (steps - step) / (0.4 * steps))
    return min(1.0, (step + 1) / 200) * falling


def batch(crops: Labelled, count: int, g: Generator) -> tuple[Labelled, int, tuple[int, int, int]]:
    """Crops drawn at random, a way to lay them, and a window: whole, or smaller and twice as many."""
    way = int(torch.randint(8, (), generator=g))
    draw = float(torch.rand((), generator=g))
    size = CROP // 4 if draw < 0.15 else CROP // 2 if draw < 0.3 else CROP
    small = size < CROP
    top, left = (
        int(torch.randint((CROP - size) // CELL + 1, (), generator=g)) * CELL for _ in range(2)
    )
    chosen = torch.randint(len(crops), (2 * count if small else count,), generator=g)
    part = Labelled(**{k: getattr(crops, k)[chosen] for k in Labelled.__dataclass_fields__})
    return part, way, (size, top, left)


def keep(path: Path, pupil: Pupil, optimiser: torch.optim.Optimizer, **place: object) -> None:
    """A checkpoint, whole or not at all."""
    part = path.with_suffix(".part")
    torch.save({"pupil": pupil.state_dict(), "optimiser": optimiser.state_dict(), **place}, part)
    part.replace(path)


def restored(
    path: Path, pupil: Pupil, optimiser: torch.optim.Optimizer, g: Generator
) -> tuple[int, float]:
    """Step and seconds of a checkpoint, everything else in place."""
    state = torch.load(path, weights_only=True)
    pupil.load_state_dict(state["pupil"])
    optimiser.load_state_dict(state["optimiser"])
    g.set_state(state["generator"])
    return int(state["step"]), float(state["seconds"])


def card(
    encoder: FusionEncoder, args: argparse.Namespace, patches: list[int], minutes: float
) -> Card:
    """What the recipe knows of what it made."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    seen = ", ".join(f"{s.name} {n}" for s, n in zip(SOURCES, patches, strict=True))
    return replace(
        encoder.card,
        name="deepsentinel-nano",
        title="deepsentinel-nano: a small Sentinel-1 and Sentinel-2 fusion encoder",
        levels={"s1": ("GRD", "RTC"), "s2": ("L2A",)},
        resolution_m=10.0,
        normalisation_source=(
            "50,000 patches of SSL4EO-S12 v1.0, GRD and Level-2A, as its repository publishes them "
            "(github.com/zhu-xlab/SSL4EO-S12)"
        ),
        preprocessing=(
            "(value - mean) / std of each band, in dB and reflectance, nothing clipped; what was "
            "not observed is 0, the mean, with a 0 in a channel that tells what was observed"
        ),
        proved_on="own weights",
        licence="MIT",
        restrictions=FREE_USE["MIT"],
        data_licence=(
            "CDLA-Permissive-1.0 (BigEarthNet), CC-BY-SA-4.0 (TerraMesh, Major-TOM), CC-BY-4.0 "
            "(SSL4EO-S12); the teachers Galileo nano and Presto: MIT"
        ),
        citation=(
            "Distilled from Galileo (Tseng et al. 2025, arXiv 2502.09356) and Presto (Tseng et al. "
            "2023, arXiv 2304.14065): cite them with this library."
        ),
        training={
            "data": f"whole patches: {seen}; made into {2 * args.crops} augmented crops of {CROP} px",
            "objective": (
                "distillation of Galileo nano (patch 8) and Presto (squares of 8 px), of each "
                "sensor on its own, with bands and clouds hidden; what one sensor tells of the "
                "other is what Galileo makes of it"
            ),
            "recipe": "recipes/deepsentinel_nano.py",
            "steps": f"{args.steps} of {args.batch} crops, learning rate {args.lr:g}",
            "seed": str(args.seed),
            "commit": commit,
            "time": f"{minutes:.0f} minutes of wall time on one shared CPU core, after labelling",
            "held out": (
                "half of the BigEarthNet scene by 10 km blocks, one terramesh place, one "
                "BigEarthNet pair, the WorldCereal site"
            ),
        },
        limits=LIMITS,
    )


if __name__ == "__main__":
    main()
