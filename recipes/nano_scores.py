"""What `deepsentinel-nano` is worth on places that it never saw, beside controls and its teachers."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepsentinel.bands import SENSORS
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.fields import cloud_field
from deepsentinel.encoders.card import Score
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.encoders.presto import PrestoEncoder
from deepsentinel.sample import IGNORE_INDEX, IMAGE_KEYS, Sample
from deepsentinel.training.evaluate import band_statistics, embed
from deepsentinel.training.evaluation.probe import fewshot_probe, spatial_blocks
from deepsentinel.training.scoring.retrieval import cross_sensor_retrieval

SIZES = (20, 60, 120)
"""Labels of the few-shot probe; the least training half of the scene's held-out blocks has 120."""
SPLITS = 24
RANDOM_TWINS = 3
"""Networks of the same architecture with random weights, whose mean score is the control."""
PRESTO_CELL = 4
"""Pixels a side of the squares that Presto sees as one pixel: a sixteenth of the time. On validation
blocks of the scene the scores differ by 0.0002 from those of single pixels."""
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
        *search(encoders, corpora["terramesh"]),
        *clouds(encoders, corpora["terramesh"], seed=seed),
    ]
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


def search(encoders: Mapping[str, list[Any]], root: Path) -> list[Score]:
    """Sentinel-1 windows of the held-out terramesh place look for their Sentinel-2 partners."""
    # Without meta every window is a place of its own: theirs is the position of the whole patch.
    samples = [{k: v for k, v in s.items() if k != "meta"} for s in place(root, 32)]
    found = {
        name: [cross_sensor_retrieval(e, samples).s1_to_s2 for e in each]
        for name, each in encoders.items()
    }
    chance = {"recall@1": 1 / len(samples), "recall@5": 5 / len(samples)}
    scores = []
    for metric, luck in chance.items():
        table = {n: np.array([np.mean([r[metric] for r in each])]) for n, each in found.items()}
        title = f"S1 finds S2 among {len(samples)} windows of a held-out terramesh place"
        scores.append(score(title, metric, "s1", {**table, "chance": np.array([luck])}))
    print({n: [r["median_rank"] for r in each] for n, each in found.items()}, "median ranks")
    return scores


def clouds(encoders: Mapping[str, list[Any]], root: Path, *, seed: int) -> list[Score]:
    """How near the embedding of a cloudy patch is to that of the clear one, with and without S1.

    Distances are divided by the mean distance between clear embeddings of different patches.
    """
    samples = place(root, 32)
    cloudy = [clouded(s, np.random.default_rng([seed, i])) for i, s in enumerate(samples)]
    scores = []
    for shown in (("s2",), SENSORS):
        table = {}
        for name, each in encoders.items():
            clear = [embed(e, samples, sensors=shown).vectors for e in each]
            other = [embed(e, cloudy, sensors=shown).vectors for e in each]
            table[name] = np.array(
                [relative_distance(a, b) for a, b in zip(clear, other, strict=True)]
            ).mean(0)
        title = (
            f"distance of the embedding under {CLOUD:.0%} cloud to the clear one (less is better)"
        )
        name = "both" if len(shown) > 1 else shown[0]
        scores.append(score(title, "share of the distance between patches", name, table))
    return scores


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
