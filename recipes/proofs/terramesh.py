"""Land cover of four places, each in turn left out: what maps learnt elsewhere are worth there.

    python -m recipes.proofs.terramesh --data ../shared/data

Four places are an anecdote. One of them (snow and ice) has a class that no other place has, so
that three can be tested on. Scored are the pixels whose class the other places have too. A linear
probe learns from pixels of the other places, with the library's fixed penalty; a U-Net on both
sensors trains everything, and one quarter of each training place chooses its epoch. The place left
out is looked at once.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from deepsentinel import DeepSentinelDataset, Segmenter, collate, convert, finetune, load_encoder
from deepsentinel.bands import SENSORS, Sensor
from deepsentinel.datasets.augment import Augment
from deepsentinel.labels import Scheme
from deepsentinel.sample import Sample
from deepsentinel.training.evaluation.controls import pixel_statistics
from deepsentinel.training.reports.report import Report, Table
from recipes.proofs.common import (
    NANO,
    RANDOM,
    STATISTICS,
    arguments,
    encoders,
    fingerprint,
    finish,
    logistic,
    only,
    pixel_vectors,
    spread,
)

TILE: Final = 112
SEEDS: Final = 3
RUNS: Final = 2
"""Of the U-Nets, which take minutes each on a busy core."""
PIXELS: Final = 200
"""Pixels of a tile that a probe learns from."""
EPOCHS: Final = 10
SHOWN: Final[dict[str, tuple[Sensor, ...]]] = {"S1": ("s1",), "S2": ("s2",), "both": SENSORS}
Places = dict[str, list[Sample]]
Vectors = NDArray[np.float32]
Scored = tuple[float, float]
"""Pixel accuracy and mean IoU."""


def main() -> None:
    """Convert, leave each place out in turn, report."""
    args = arguments("terramesh", __doc__)
    root = args.out / "corpus"
    convert(args.data / "terramesh", root, patch_size=TILE, boa_offset="detect")
    dataset = DeepSentinelDataset(root, None, labels=("lulc",))
    scheme = dataset.scheme("lulc")
    places: Places = {}
    for i in range(len(dataset)):
        sample = dataset[i]
        places.setdefault(sample["meta"].id.rsplit("_", 2)[0], []).append(sample)
    known = {place: learnable(place, places) for place in places}
    tested = [place for place, classes in known.items() if len(classes) > 1]
    found: dict[str, dict[str, dict[str, list[Scored]]]] = {place: {} for place in tested}
    for method, each in networks(args.data).items():
        for shown, sensors in SHOWN.items():
            each_vectors = [described(encoder, places, sensors) for encoder in each]
            for seed in range(SEEDS):
                vectors = each_vectors[seed % len(each)]
                for place in tested:
                    said = probed(vectors, places, place, seed)
                    score = scored(said, places[place], known[place])
                    found[place].setdefault(method, {}).setdefault(shown, []).append(score)
            print(
                method,
                shown,
                *(f"{p} {cell(f[method][shown])}" for p, f in found.items()),
                flush=True,
            )
    for place in tested:
        for method, random in ((f"{NANO}, U-Net", False), (f"{RANDOM}, U-Net", True)):
            for seed in range(RUNS):
                said = trained(places, place, scheme, args.out, seed, random=random)
                score = scored(said, places[place], known[place])
                found[place].setdefault(method, {}).setdefault("both", []).append(score)
            print(place, method, cell(found[place][method]["both"]), flush=True)
    report = Report(
        title="TerraMesh land cover: each place left out in turn",
        metrics={place: {m: dict(s) for m, s in by.items()} for place, by in found.items()},
        facts={
            "tile": TILE,
            "seeds": SEEDS,
            "runs": RUNS,
            "pixels of a tile": PIXELS,
            "epochs": EPOCHS,
        },
        tables=tuple(table(p, found[p], places[p], known[p], scheme) for p in tested),
        notes=(
            "Three places that can be tested on: an anecdote, without intervals.",
            "Cells are pixel accuracy / mean IoU over the classes that the training places have "
            "too; ± of the accuracy over seeds, which draw pixels, validation tiles and weights.",
        ),
    )
    finish(report, args.out)


def learnable(place: str, places: Places) -> list[int]:
    """Classes of a place that others have too."""
    others = set().union(*(ids(t) for p, t in places.items() if p != place))
    return sorted(ids(places[place]) & others)


def ids(samples: Sequence[Sample]) -> set[int]:
    """Classes that occur."""
    return {int(i) for s in samples for i in torch.unique(s["mask"]) if i >= 0}


def networks(data: Path) -> dict[str, list[Any]]:
    """Encoders by method, several where weights are random; `None` for band statistics."""
    found: dict[str, list[Any]] = {name: [e] for name, e in encoders(data).items()}
    found[RANDOM] = [found[NANO][0].reinitialised(i).eval() for i in range(SEEDS)]
    return found | {STATISTICS: [None]}


def described(encoder: Any, places: Places, sensors: Sequence[Sensor]) -> dict[str, list[Vectors]]:
    """Vectors of all pixels of every tile by place."""
    found: dict[str, list[Vectors]] = {}
    for place, tiles in places.items():
        found[place] = []
        for tile in tiles:
            vectors = (
                pixel_statistics(only(tile, sensors))
                if encoder is None
                else pixel_vectors(encoder, tile, sensors)
            )
            if vectors is None:
                raise ValueError(f"{tile['meta'].id}: nothing observed by {sensors}")
            found[place].append(vectors)
    return found


def probed(
    vectors: Mapping[str, Sequence[Vectors]], places: Places, place: str, seed: int
) -> list[NDArray[np.int64]]:
    """Classes of the pixels of a place by a probe that learnt from the others."""
    generator = np.random.default_rng(seed)
    x, y = [], []
    for other, tiles in places.items():
        for tile, own in zip(tiles, vectors[other], strict=True):
            mask = tile["mask"].numpy().ravel()
            few = generator.permutation(np.flatnonzero(mask >= 0))[:PIXELS]
            if other != place:
                x.append(own[few])
                y.append(mask[few])
    asked = np.concatenate(list(vectors[place]))
    said = logistic(np.concatenate(x), np.concatenate(y), asked).argmax(1)
    return np.split(said, len(places[place]))


def scored(said: Sequence[NDArray[Any]], test: Sequence[Sample], known: Sequence[int]) -> Scored:
    """Accuracy and mean IoU over the pixels of known classes."""
    truth = np.concatenate([s["mask"].numpy().ravel() for s in test])
    answer = np.concatenate([np.asarray(s).ravel() for s in said])
    counted = np.isin(truth, known)
    truth, answer = truth[counted], answer[counted]
    iou = [
        ((truth == k) & (answer == k)).sum() / ((truth == k) | (answer == k)).sum() for k in known
    ]
    return float((truth == answer).mean()), float(np.mean(iou))


def trained(
    places: Places, place: str, scheme: Scheme, out: Path, seed: int, *, random: bool
) -> list[NDArray[Any]]:
    """Classes of the pixels of a place by a U-Net trained on the others."""
    generator = np.random.default_rng(seed)
    train: list[Sample] = []
    val: list[Sample] = []
    for tiles in (t for p, t in places.items() if p != place):
        first, *rest = generator.permutation(len(tiles)).tolist()
        val.append(tiles[first])
        train += [tiles[i] for i in rest]
    torch.manual_seed(seed)
    encoder = load_encoder()
    model = Segmenter(
        encoder.reinitialised(seed) if random else encoder,
        len(scheme),
        "unet",
        class_names=scheme.names,
        class_colours=scheme.colours,
    )
    result = finetune(
        model,
        train,
        val,
        out_dir=out / f"{place}-{seed}-{fingerprint(model.encoder)}",
        epochs=EPOCHS,
        batch_size=1,
        lr=1e-3,
        encoder_lr=1e-3 if random else 2e-4,
        augment=Augment(),
        patience=None,
        seed=seed,
        report=not random and seed == 0,
        progress=False,
    )
    return [result.model.predict(collate([s])).classes[0].numpy() for s in places[place]]


def table(
    place: str,
    found: Mapping[str, Mapping[str, Sequence[Scored]]],
    test: Sequence[Sample],
    known: Sequence[int],
    scheme: Scheme,
) -> Table:
    """One row a method."""
    truth = torch.cat([s["mask"].flatten() for s in test])
    counts = {k: int((truth == k).sum()) for k in known}
    total = sum(counts.values())
    names = ", ".join(f"{scheme.names[k]} {n / total:.0%}" for k, n in counts.items())
    share = total / int((truth >= 0).sum())
    rows = [
        {"method": method} | {s: cell(by[s]) if s in by else "" for s in SHOWN}
        for method, by in found.items()
    ]
    title = (
        f"{place}: {names} ({share:.0%} of its pixels count; always the commonest class would "
        f"score {max(counts.values()) / total:.3f})"
    )
    return Table.of(place.lower(), rows, title=title)


def cell(values: Sequence[Scored]) -> str:
    """Both scores, the first with its spread."""
    accuracy, iou = zip(*values, strict=True)
    return f"{spread(accuracy)} / {np.mean(iou):.3f}"


if __name__ == "__main__":
    main()
