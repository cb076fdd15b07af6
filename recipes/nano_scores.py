"""What `deepsentinel-nano` is worth on places that it never saw, beside controls and its teachers."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepsentinel.bands import SENSORS, Sensor
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.fields import cloud_field
from deepsentinel.encoders.card import Score
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.encoders.presto import PrestoEncoder
from deepsentinel.sample import IGNORE_INDEX, IMAGE_KEYS, Sample
from deepsentinel.training.evaluate import band_statistics, embed
from deepsentinel.training.evaluation.probe import fewshot_probe, spatial_blocks
from deepsentinel.training.scoring.retrieval import retrieval_scores

SIZES = (20, 60, 120)
"""Labels of the few-shot probe; the least training half of the scene's held-out blocks has 120."""
SPLITS = 24
RANDOM_TWINS = 3
"""Networks of the same architecture with random weights, whose mean score is the control."""
PRESTO_CELL = 4
"""Pixels a side of the squares that Presto sees as one pixel: a sixteenth of the time. On validation
blocks of the scene the scores differ by 0.0002 from those of single pixels."""
CLEAR = 0.95
"""Observed share of an image that counts as clear."""
KEYS = ("image_s1", "image_s2")
CLOUD = 0.5
"""Share of a patch under simulated clouds."""
Table = dict[str, NDArray[np.float64]]
"""Scores by split, of each encoder and control."""


def measure(
    encoder: FusionEncoder, teachers: Any, corpora: Mapping[str, Path], *, seed: int
) -> tuple[Score, ...]:
    """All scores, printed as they come."""
    presto = PrestoEncoder.from_weights(teachers.presto, stride=PRESTO_CELL)
    others = {"galileo-nano": [teachers.encoders[0]], "presto": [presto]}
    encoders: dict[str, list[Any]] = {
        "deepsentinel-nano": [encoder],
        "random": [encoder.reinitialised(i).eval() for i in range(RANDOM_TWINS)],
        **others,
    }
    scores = [
        *scene(encoders, corpora["scene"], seed=seed),
        *site(encoders, corpora["worldcereal"], seed=seed),
    ]
    for name, dates in places(corpora).items():
        scores += [*search(encoders, name, dates), *clouds(encoders, name, dates, seed=seed)]
    return tuple(scores)


def scene(encoders: Mapping[str, list[Any]], root: Path, *, seed: int) -> list[Score]:
    """Few-shot probes on the held-out blocks of the BigEarthNet scene."""
    test = DeepSentinelDataset(root, "test")
    control = band_statistics(test)
    blocks = spatial_blocks(control.lonlat, block_km=5.0)
    vectors = {name: [embed(e, test).vectors for e in each] for name, each in encoders.items()}
    found = few_shot(
        {**vectors, "band_stats": [control.vectors]},
        control.labels,
        blocks,
        sizes=SIZES,
        multilabel=True,
        seed=seed,
    )
    title = f"BigEarthNet scene T34VER, {len(test)} held-out patches, probe on {{}} labels"
    return [score(title.format(n), "micro mAP", "s2", t) for n, t in found.items()]


def site(encoders: Mapping[str, list[Any]], root: Path, *, seed: int) -> list[Score]:
    """Land cover of windows of the held-out WorldCereal site on all its dates, by held-out windows."""
    samples, labels, blocks = site_windows(root)
    scores = []
    for shown in (("s1",), ("s2",), SENSORS):
        vectors = {
            name: [embed(e, samples, sensors=shown).vectors for e in each]
            for name, each in encoders.items()
        }
        vectors["band_stats"] = [band_statistics(samples, sensors=shown).vectors]
        found = few_shot(vectors, labels, blocks, sizes=(20, 60, 200), multilabel=False, seed=seed)
        name = "both" if len(shown) > 1 else shown[0]
        title = "WorldCereal site, land cover of 160 m windows under its clouds, probe on {} labels"
        scores += [score(title.format(n), "accuracy", name, t) for n, t in found.items()]
    return scores


def site_windows(
    root: Path, *, size: int = 16
) -> tuple[list[Sample], NDArray[np.int64], NDArray[np.intp]]:
    """Windows of all dates with a majority class among their labelled pixels, and their places."""
    dataset = DeepSentinelDataset(root, "train", labels=("landcover",))
    samples: list[Sample] = []
    labels: list[int] = []
    places: list[int] = []
    for i in range(len(dataset)):
        for place, window in enumerate(windows(dataset[i], size)):
            known = window["mask"][window["mask"] != IGNORE_INDEX]
            if 2 * known.numel() >= size * size:
                samples.append({k: v for k, v in window.items() if k != "mask"})
                labels.append(int(known.mode().values))
                places.append(place)
    return samples, np.array(labels), np.array(places)


def windows(sample: Sample, size: int) -> list[Sample]:
    """Squares of the sample side by side."""
    side = sample[next(k for k in IMAGE_KEYS.values() if k in sample)].shape[-1]
    corners = [
        (t, x) for t in range(0, side - size + 1, size) for x in range(0, side - size + 1, size)
    ]
    keys = [k for k in (*IMAGE_KEYS.values(), "mask") if k in sample]
    return [
        {
            "meta": sample["meta"],
            **{k: sample[k][..., t : t + size, x : x + size] for k in keys},
        }
        for t, x in corners
    ]


def places(corpora: Mapping[str, Path]) -> dict[str, list[list[Sample]]]:
    """Of each held-out place the windows of each date that both sensors saw."""
    site = DeepSentinelDataset(corpora["worldcereal"], "train", labels=())
    dates = [s for s in (site[i] for i in range(len(site))) if _clear(s)]
    return {
        "a terramesh place": [place(corpora["terramesh"], 32)],
        "a BigEarthNet pair": [place(corpora["pairs"], 16)],
        "the WorldCereal site": [windows(s, 16) for s in dates],
    }


def _clear(sample: Sample) -> bool:
    """Whether nearly everything was seen by both sensors."""
    return all(k in sample and bool(sample[k].isfinite().float().mean() > CLEAR) for k in KEYS)


def search(
    encoders: Mapping[str, list[Any]], name: str, dates: Sequence[Sequence[Sample]]
) -> list[Score]:
    """Sentinel-1 windows look for their Sentinel-2 partners among those of their place and date."""
    count = len(dates[0])
    found = {n: [[_found(e, date) for date in dates] for e in each] for n, each in encoders.items()}
    scores = []
    for metric, luck in {"recall@1": 1 / count, "recall@5": 5 / count}.items():
        table = {
            n: np.mean([[date[metric] for date in r] for r in each], axis=0)
            for n, each in found.items()
        }
        title = f"S1 finds S2 among {count} windows of {name}, {len(dates)} dates"
        scores.append(score(title, metric, "s1", {**table, "chance": np.full(len(dates), luck)}))
    return scores


def _found(encoder: Any, date: Sequence[Any]) -> dict[str, float]:
    """Of one date; every window is a place of its own, though all have their patch's position."""
    s1, s2 = (embed(encoder, date, sensors=(s,)).vectors for s in SENSORS)
    return retrieval_scores(s1 - s1.mean(0), s2 - s2.mean(0))


def clouds(
    encoders: Mapping[str, list[Any]], name: str, dates: Sequence[Sequence[Sample]], *, seed: int
) -> list[Score]:
    """How near the embedding of a cloudy patch is to that of the clear one, with and without S1.

    Distances are divided by the mean distance between clear embeddings of different patches.
    """
    cloudy = [
        [clouded(s, np.random.default_rng([seed, i])) for i, s in enumerate(date)] for date in dates
    ]
    scores = []
    for shown in (("s2",), SENSORS):
        table = {
            n: np.mean([_moved(e, dates, cloudy, shown) for e in each], axis=0)
            for n, each in encoders.items()
        }
        title = (
            f"distance of the embedding under {CLOUD:.0%} cloud to the clear one, windows of {name} "
            "(less is better)"
        )
        sensors = "both" if len(shown) > 1 else shown[0]
        scores.append(score(title, "share of the distance between patches", sensors, table))
    return scores


def _moved(
    encoder: Any, dates: Sequence[Any], cloudy: Sequence[Any], shown: Sequence[Sensor]
) -> NDArray[np.float64]:
    """How far each window's embedding moved, date by date."""
    each = [
        relative_distance(*(embed(encoder, d, sensors=shown).vectors for d in pair))
        for pair in zip(dates, cloudy, strict=True)
    ]
    return np.concatenate(each)


def clouded(sample: Sample, generator: np.random.Generator) -> Sample:
    """The sample with Sentinel-2 hidden under clouds."""
    image = sample["image_s2"]
    covered = torch.from_numpy(cloud_field(*image.shape[-2:], CLOUD, generator))
    return {**sample, "image_s2": image.masked_fill(covered, float("nan"))}


def relative_distance(clear: NDArray[Any], cloudy: NDArray[Any]) -> NDArray[np.float64]:
    """Of each row, by the mean distance between rows of `clear`."""
    between = np.linalg.norm(clear[:, None] - clear[None], axis=2)
    usual = between[~np.eye(len(clear), dtype=bool)].mean()
    return np.asarray(np.linalg.norm(cloudy - clear, axis=1) / usual)


def place(root: Path, size: int) -> list[Sample]:
    """Windows of the test split, which have both sensors."""
    dataset = DeepSentinelDataset(root, "test", labels=())
    return [w for i in range(len(dataset)) for w in windows(dataset[i], size)]


def few_shot(
    vectors: Mapping[str, Sequence[NDArray[np.float32]]],
    labels: NDArray[np.int64],
    blocks: NDArray[np.intp],
    *,
    sizes: Sequence[int],
    multilabel: bool,
    seed: int,
) -> dict[int, Table]:
    """By number of labels, scores over splits that are the same for all, mean over twins."""
    found = {
        name: [
            fewshot_probe(
                x, labels, blocks, sizes=sizes, splits=SPLITS, multilabel=multilabel, seed=seed
            )
            for x in each
        ]
        for name, each in vectors.items()
    }
    return {
        n: {name: np.mean([scores[n] for scores in each], axis=0) for name, each in found.items()}
        for n in sizes
    }


def score(task: str, metric: str, sensors: str, table: Table) -> Score:
    """The mean as a score with its controls; prints how far the encoder is above each."""
    own = table["deepsentinel-nano"]
    shown = [f"{own.mean():.3f}"]
    for name, values in table.items():
        if name != "deepsentinel-nano":
            shown.append(f"{name} {values.mean():.3f} ({difference(own - values)})")
    print(f"{task} [{sensors}] {metric}:", "; ".join(shown), flush=True)
    return Score(
        task=task,
        metric=metric,
        value=round(float(own.mean()), 4),
        sensors=sensors,
        controls={
            n: round(float(v.mean()), 4) for n, v in table.items() if n != "deepsentinel-nano"
        },
    )


def difference(above: NDArray[np.float64]) -> str:
    """Mean difference, and 1.96 standard errors over splits or patches."""
    if len(above) < 2:
        return f"{above.mean():+.3f}"
    error = 1.96 * above.std(ddof=1) / math.sqrt(len(above))
    return f"{above.mean():+.3f} ± {error:.3f}"
