"""One site over fifteen months: crops and land cover of held-out parcels by S1, S2 and both.

    python -m recipes.proofs.worldcereal --data ../shared/data

Parcels are connected pixels of one class, at least 15 of them; a class counts if it has three. They
are dealt to four folds, class by class, and each parcel is predicted by a probe that learnt from
the parcels of the other folds, without pixels nearer than 40 m to what is predicted: networks see
around a pixel, and a cell of 80 m has one vector for both sides of a border. Up to 100 pixels of a
parcel count, and classes weigh the same in the fit and in the score, which is the mean recall over
classes. All dates first (means of each pixel's vectors over the seasons), then single dates, up to
twelve for each amount of cloud, under the clouds that they really had.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deepsentinel import DeepSentinelDataset, convert
from deepsentinel.bands import SENSORS, Sensor
from deepsentinel.sample import IMAGE_KEYS, Sample
from deepsentinel.training.evaluation.controls import pixel_statistics
from deepsentinel.training.evaluation.intervals import Interval, interval
from deepsentinel.training.reports.report import Picture, Report, Table
from recipes.proofs.common import (
    NANO,
    RANDOM,
    REPLICATES,
    STATISTICS,
    Scores,
    arguments,
    encoders,
    fingerprint,
    finish,
    kept,
    logistic,
    pixel_vectors,
    signed,
)

FOLDS: Final = 4
LEAST_PIXELS: Final = 15
"""Of a parcel; smaller ones are borders of others."""
BUFFER: Final = 4
"""Pixels between what is learnt from and what is predicted."""
LEAST_PARCELS: Final = 3
"""A class with fewer cannot be learnt from some and tested on others."""
MOST_PIXELS: Final = 100
MOST_DATES: Final = 12
DEALS: Final = 5
"""Ways to deal parcels to folds, for all dates together."""
TWINS: Final = 3
SHOWN: Final[dict[str, tuple[Sensor, ...]]] = {"S1": ("s1",), "S2": ("s2",), "both": SENSORS}
BINS: Final = (
    ("clear", 0.0, 0.001),
    ("to 25 %", 0.001, 0.25),
    ("25 to 75 %", 0.25, 0.75),
    ("75 % and more", 0.75, 0.999),
    ("100 %", 0.999, 1.01),
)
FULL: Final = 0.999
"""Share of pixels from which a cloud is full."""
Vectors = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Parcels:
    """The pixels that count, by parcel and class."""

    pixels: NDArray[np.intp]
    """(P,) places in the flattened site."""
    y: NDArray[np.int64]
    """(P,) class, counted from 0 over `names`."""
    parcel: NDArray[np.intp]
    """(P,) parcel, from 0."""
    whole: NDArray[np.intp]
    """(H, W) parcel of every pixel, those that are left out too; -1 where there is none."""
    names: tuple[str, ...]

    @property
    def classes(self) -> NDArray[np.int64]:
        """Class of each parcel."""
        return np.array([self.y[self.parcel == j][0] for j in range(self.parcel.max() + 1)])

    def deal(self, seed: int) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """Pixels to learn from and to predict, (P,) each, for every fold.

        The parcels of a class are in random order, one fold after another.
        """
        generator = np.random.default_rng(seed)
        fold = np.zeros(len(self.classes), dtype=np.intp)
        for k in np.unique(self.classes):
            own = generator.permutation(np.flatnonzero(self.classes == k))
            fold[own] = (np.arange(len(own)) + generator.integers(FOLDS)) % FOLDS
        return [self._apart(np.flatnonzero(fold == k)) for k in range(FOLDS)]

    def _apart(self, tested: NDArray[np.intp]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        from scipy.ndimage import distance_transform_cdt

        away = distance_transform_cdt(~np.isin(self.whole, tested), "chessboard")
        test = np.isin(self.parcel, tested)
        return (away.ravel()[self.pixels] > BUFFER) & ~test, test


def main() -> None:
    """Convert, describe every pixel of every date, probe, report."""
    args = arguments("worldcereal", __doc__)
    root = args.out / "corpus"
    convert(args.data / "worldcereal", root)
    tables, pictures, metrics = [], [], {}
    labels = ("croptype", "landcover")
    site = {name: DeepSentinelDataset(root, None, labels=(name,)) for name in labels}
    chosen = {name: parcels(dataset) for name, dataset in site.items()}
    pixels = np.unique(np.concatenate([c.pixels for c in chosen.values()]))
    samples = [site["croptype"][i] for i in range(len(site["croptype"]))]
    clouds = np.array([float(s["image_s2"].isnan().any(0).float().mean()) for s in samples])
    dates = spread_dates(clouds)
    found = described(samples, pixels, args.data, args.out / "vectors")
    for name, own in chosen.items():
        places = np.searchsorted(pixels, own.pixels)
        all_dates = {n: seasons(v, samples, own, places) for n, v in found.items()}
        each_date = {n: by_date(v, own, places, dates, clouds) for n, v in found.items()}
        tables += [
            all_dates_table(name, own, all_dates),
            matrix(name, own, each_date, clouds[dates]),
        ]
        picture = dates_figure(own, each_date[NANO], [samples[i] for i in dates], clouds[dates])
        title = f"{name}: every date by itself, {NANO}"
        pictures.append(Picture.of(f"{name}-dates", picture, title=title))
        metrics[name] = {
            "parcels": {n: int((own.classes == k).sum()) for k, n in enumerate(own.names)},
            "pixels": len(own.pixels),
        }
    report = Report(
        title="WorldCereal site in Flanders: held-out parcels, S1, S2 and both, real clouds",
        metrics=metrics,
        facts={
            "dates": len(samples),
            "dates by themselves": len(dates),
            "folds": FOLDS,
            "most pixels of a parcel": MOST_PIXELS,
            "pixels between": BUFFER,
        },
        tables=tuple(tables),
        pictures=tuple(pictures),
        notes=(
            "One site of 640 m with a dozen parcels or so that can be used: an anecdote with intervals.",
            "Scores are mean recalls over classes. ± is the spread over ways to deal parcels to "
            "folds. Intervals are paired and draw parcels of each class and, in the matrix, dates "
            "anew; * marks those that exclude zero.",
        ),
    )
    finish(report, args.out)


def parcels(dataset: DeepSentinelDataset) -> Parcels:
    """Connected pixels of each class that has enough of them."""
    from scipy.ndimage import label

    mask = dataset[0]["mask"].numpy()
    whole = np.full(mask.shape, -1)
    rows: list[tuple[NDArray[np.intp], int]] = []
    names: list[str] = []
    for k in np.unique(mask[mask >= 0]):
        numbered, _ = label(mask == k)
        large = np.flatnonzero(np.bincount(numbered.ravel())[1:] >= LEAST_PIXELS) + 1
        if len(large) < LEAST_PARCELS:
            continue
        for j in large:
            own = np.flatnonzero(numbered.ravel() == j)
            step = np.linspace(0, len(own) - 1, min(len(own), MOST_PIXELS)).round().astype(int)
            whole.ravel()[own] = len(rows)
            rows.append((own[step], len(names)))
        names.append(dataset.classes()[k])
    return Parcels(
        pixels=np.concatenate([own for own, _ in rows]),
        y=np.concatenate([np.full(len(own), k) for own, k in rows]),
        parcel=np.concatenate([np.full(len(own), j) for j, (own, _) in enumerate(rows)]),
        whole=whole,
        names=tuple(names),
    )


def described(
    samples: Sequence[Sample], pixels: NDArray[np.intp], data: Path, folder: Path
) -> dict[str, list[dict[str, Vectors]]]:
    """By method, by network, by what is shown: (dates, pixels, D); NaN where nothing was seen."""
    networks: dict[str, list[Any]] = {n: [e] for n, e in encoders(data).items()}
    nano = networks[NANO][0]
    networks[RANDOM] = [nano.reinitialised(i).eval() for i in range(TWINS)]
    found: dict[str, list[dict[str, Vectors]]] = {}
    for name, each in networks.items():
        found[name] = []
        for encoder in each:
            stem = f"{name.replace(' ', '-')}-{fingerprint(encoder)}"
            by_shown = {
                s: kept(folder, f"{stem}-{s}", partial(dense, encoder, samples, pixels, sensors))
                for s, sensors in SHOWN.items()
            }
            found[name].append(by_shown)
    found[STATISTICS] = [{s: statistics(samples, pixels, ss) for s, ss in SHOWN.items()}]
    return found


def dense(
    encoder: Any, samples: Sequence[Sample], pixels: NDArray[np.intp], sensors: Sequence[Sensor]
) -> Vectors:
    """Vectors of some pixels on every date."""
    rows = [pixel_vectors(encoder, sample, sensors) for sample in samples]
    return filled([None if row is None else row[pixels] for row in rows])


def statistics(
    samples: Sequence[Sample], pixels: NDArray[np.intp], sensors: Sequence[Sensor]
) -> Vectors:
    """Bands of each pixel, their mean and spread around it."""
    rows = []
    for sample in samples:
        images = {IMAGE_KEYS[s]: sample[IMAGE_KEYS[s]] for s in sensors}
        seen = any(bool(image.isfinite().any()) for image in images.values())
        rows.append(pixel_statistics(images)[pixels] if seen else None)
    return filled(rows)


def filled(rows: Sequence[Vectors | None]) -> Vectors:
    """Stacked, with NaN for dates without anything."""
    like = next(r for r in rows if r is not None)
    return np.stack([np.full_like(like, np.nan) if r is None else r for r in rows])


def seasons(
    each: Sequence[Mapping[str, Vectors]],
    samples: Sequence[Sample],
    own: Parcels,
    places: NDArray[np.intp],
) -> dict[str, Scores]:
    """Share of right pixels, (deals, parcels) by what is shown, from means over four seasons."""
    quarter = np.array([(s["meta"].date_s2.month - 1) // 3 for s in samples])
    right: dict[str, Scores] = {}
    for name in (*SHOWN, "side by side"):
        scores = []
        for network in each:
            parts = [network[n] for n in (("S1", "S2") if name == "side by side" else (name,))]
            x = np.concatenate([seasonal(v[:, places], quarter) for v in parts], axis=1)
            scores.append([crossed(x, own, seed) for seed in range(DEALS)])
        right[name] = np.mean(scores, axis=0)
    return right


def seasonal(values: Vectors, quarter: NDArray[Any]) -> Vectors:
    """(pixels, 4 D) means over the dates of each quarter; NaN where none saw anything."""
    parts = []
    for q in range(4):
        own = values[quarter == q]
        seen = np.isfinite(own)
        with np.errstate(invalid="ignore"):
            parts.append(np.where(seen, own, 0).sum(0) / seen.sum(0))
    return np.concatenate(parts, axis=1)


def by_date(
    each: Sequence[Mapping[str, Vectors]],
    own: Parcels,
    places: NDArray[np.intp],
    dates: NDArray[np.intp],
    clouds: Scores,
) -> dict[str, Scores]:
    """Share of right pixels, (dates, parcels) by what is shown, each date by itself.

    One network and one way to deal are enough for so many dates. Under full cloud both sensors are
    Sentinel-1 alone, and Sentinel-2 is a guess.
    """
    network = each[0]
    right = {"S1": np.array([crossed(network["S1"][i][places], own, 0) for i in dates])}
    for name in ("S2", "both"):
        right[name] = right["S1"].copy()
        for row, i in enumerate(dates):
            if clouds[i] < FULL or name == "S2":
                right[name][row] = crossed(network[name][i][places], own, 0)
    print("dates done", flush=True)
    return right


def spread_dates(clouds: Scores) -> NDArray[np.intp]:
    """Up to `MOST_DATES` of each amount of cloud, evenly spread over the time."""
    found = []
    for _, low, high in BINS:
        own = np.flatnonzero((clouds >= low) & (clouds < high))
        step = np.linspace(0, len(own) - 1, min(len(own), MOST_DATES)).round().astype(int)
        found.append(own[step])
    return np.sort(np.concatenate(found))


def crossed(x: Vectors, own: Parcels, seed: int) -> Scores:
    """(parcels,) share of right pixels, each predicted from the parcels of other folds."""
    said = np.full(len(own.y), -1)
    for train, test in own.deal(seed):
        if test.any():
            said[test] = logistic(x[train], own.y[train], x[test], balanced=True).argmax(1)
    hits = np.bincount(own.parcel, said == own.y)
    return hits / np.bincount(own.parcel)


def recall(right: Scores, own: Parcels, weights: Scores) -> Scores:
    """Mean recall over classes of (parcels,), under each row of weights (replicates, parcels)."""
    size = np.bincount(own.parcel)
    parts = []
    for k in range(len(own.names)):
        here = own.classes == k
        counted = weights[:, here] * size[here]
        parts.append((counted * right[..., here]).sum(-1) / counted.sum(-1))
    return np.mean(parts, axis=0)


def judged(right: Scores, own: Parcels, *, seed: int = 0) -> Interval:
    """Mean recall of (dates or deals, parcels), with an interval that draws both anew.

    A difference of recalls is the recall of the difference, so that this serves paired ones too.
    Parcels are drawn within their class.
    """
    generator = np.random.default_rng(seed)
    count = len(right)
    rows = generator.multinomial(count, np.full(count, 1 / count), REPLICATES) / count
    weights = np.zeros((REPLICATES, len(own.classes)))
    for k in range(len(own.names)):
        here = np.flatnonzero(own.classes == k)
        weights[:, here] = generator.multinomial(
            len(here), np.full(len(here), 1 / len(here)), REPLICATES
        )
    value = recall(right.mean(0), own, np.ones((1, len(own.classes))))[0]
    return interval(float(value), recall(rows @ right, own, weights))


def all_dates_table(name: str, own: Parcels, found: Mapping[str, dict[str, Scores]]) -> Table:
    """Mean recall by method and what is shown."""
    ones = np.ones((1, len(own.classes)))
    rows = []
    for method, scores in found.items():
        row = {"method": method}
        for shown_name, right in scores.items():
            deals = np.array([recall(r, own, ones)[0] for r in right])
            row[shown_name] = f"{deals.mean():.3f} ± {deals.std(ddof=1):.3f}"
        better = max(("S1", "S2"), key=lambda s: judged(scores[s], own).value)
        row["both less better sensor"] = signed(judged(scores["both"] - scores[better], own))
        if method != STATISTICS:
            control = found[STATISTICS]["both"]
            row[f"both less {STATISTICS}"] = signed(judged(scores["both"] - control, own))
        rows.append(row)
    title = f"{name}: all dates ({', '.join(own.names)}; {len(own.classes)} parcels)"
    return Table.of(f"{name}-all-dates", rows, title=title)


def matrix(
    name: str, own: Parcels, found: Mapping[str, dict[str, Scores]], clouds: Scores
) -> Table:
    """Mean recall of single dates by the cloud that they had."""
    rows = []
    for method, scores in found.items():
        for title, low, high in BINS:
            dates = (clouds >= low) & (clouds < high)
            if dates.sum() < 2:
                continue
            values = {s: judged(r[dates], own) for s, r in scores.items()}
            better = max(("S1", "S2"), key=lambda s: values[s].value)
            less = judged((scores["both"] - scores[better])[dates], own)
            row = {"method": method, "cloud": title, "dates": int(dates.sum())}
            row |= {s: f"{v.value:.3f}" for s, v in values.items()}
            rows.append(row | {"better": better, "both less better": signed(less)})
    note = "100 %: Sentinel-2 saw nothing; it is scored as the prior, a guess of equal classes."
    return Table.of(f"{name}-matrix", rows, title=f"{name}: single dates by real cloud", note=note)


def dates_figure(
    own: Parcels, scores: Mapping[str, Scores], samples: Sequence[Sample], clouds: Scores
) -> Figure:
    """Score of every date, Sentinel-2 hollow where it saw nothing."""
    days = [s["meta"].date_s2 for s in samples]
    order = np.argsort(days)
    ones = np.ones((1, len(own.classes)))
    figure = Figure(figsize=(10, 4), layout="constrained")
    axis = figure.subplots()
    colours = {"S1": "#228833", "S2": "#4477aa", "both": "#ee6677"}
    for name, right in scores.items():
        values = np.array([recall(r, own, ones)[0] for r in right])
        seen = clouds < FULL if name == "S2" else np.ones(len(values), bool)
        drawn = [i for i in order if seen[i]]
        axis.plot(
            [days[i] for i in drawn],
            values[drawn],
            "o-",
            ms=4,
            lw=0.8,
            label=name,
            color=colours[name],
        )
    axis.axhline(1 / len(own.names), color="0.6", ls="--", lw=1, label="a guess")
    axis.set(ylabel="mean recall", ylim=(0, 1))
    axis.grid(alpha=0.3)
    axis.legend(ncols=4, fontsize="small")
    return figure


if __name__ == "__main__":
    main()
