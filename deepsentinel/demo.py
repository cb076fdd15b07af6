"""`deepsentinel demo`: the whole library once, from patches to trained heads, scores and pictures.

Each row of its table is one way to see the same patches: Sentinel-1 alone, Sentinel-2 alone, both,
and two controls on both sensors: band statistics without a network, and the same network with
random weights. Heads are trained on the train split, chosen on val, scored on test; splits are
spatially separate.
"""

import csv
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from deepsentinel import plot
from deepsentinel.bands import SENSORS, Sensor
from deepsentinel.corpus.format import INFO_PATH, CorpusInfo, LabelSpec
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.errors import LabelError, SplitError
from deepsentinel.labels import Scheme
from deepsentinel.sample import IGNORE_INDEX, Sample
from deepsentinel.training.evaluate import Embeddings, band_statistics, embed, evaluate_model
from deepsentinel.training.evaluation.controls import PixelControl
from deepsentinel.training.evaluation.probe import probe
from deepsentinel.training.finetune import finetune
from deepsentinel.training.finetuning.setup import model_for, pick_label
from deepsentinel.training.scoring.scores import Confusion
from deepsentinel.zoo.load import load_encoder

SENSOR_ROWS: Final[dict[str, tuple[Sensor, ...]]] = {"s1": ("s1",), "s2": ("s2",), "both": SENSORS}
CONTROLS: Final = ("band_stats", "random")
COLUMNS: Final = ("miou", "pixel_accuracy", "accuracy", "macro_f1")
SHEET_ROWS: Final = 6
BATCH: Final = 8
STEPS: Final = 400
LEAST_EPOCHS: Final = 20
PATCH_PX: Final = 56
"""Side of the demo's patches when it converts a folder: small places give several."""
BLOCK_M: Final = 1_200.0
"""Side of a split block when it converts a folder: a few small places are divided among splits."""
SPLITS: Final = {"train": 0.5, "val": 0.2, "test": 0.3}

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo measured and wrote."""

    out_dir: Path
    corpus: str
    synthetic: bool
    splits: Mapping[str, int]
    rows: Mapping[str, Mapping[str, float]]
    """Scores on the test split by row and column."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """What was written, by what it is."""


def demo(
    data: str | Path | None = None,
    out_dir: str | Path = "deepsentinel-demo",
    *,
    label: str | None = None,
    patches: int = 240,
    epochs: int | None = None,
    seed: int = 0,
    say: Say = print,
) -> DemoResult:
    """Run everything once and write scores, pictures and a checkpoint.

    Args:
        data: folder of a corpus, or of files that `convert` reads; synthetic scenes if `None`.
        out_dir: folder for all results.
        label: mask to learn; needed only where a corpus has several.
        patches: how many synthetic patches to make.
        epochs: passes of each head over the train split; as many as give it 400 steps, at least
            20, if `None`.
        seed: decides everything random.
        say: called with one line a step.

    Raises:
        LabelError: the corpus has no mask to learn, or several and none is named.
        SplitError: a split is empty, as where all patches lie in one block.
        DeepSentinelError: as `convert`, `load_encoder` and `finetune`.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    root = _corpus(data, out, patches=patches, seed=seed, say=say)
    encoder = load_encoder()
    info = DeepSentinelDataset(root, None, labels=()).info
    spec = pick_label(info, "segmentation", label)
    _check_splits(root, info)
    patches_to_learn = len(DeepSentinelDataset(root, "train", labels=()))
    enough = max(LEAST_EPOCHS, math.ceil(STEPS * BATCH / patches_to_learn))
    passes = enough if epochs is None else epochs
    course = Course(root=root, label=spec, out=out, epochs=passes, seed=seed, say=say)
    rows: dict[str, Mapping[str, float]] = {}
    for name, sensors in SENSOR_ROWS.items():
        rows[name] = course.trained(name, load_encoder(), sensors)
    rows["band_stats"] = course.band_stats()
    rows["random"] = course.trained("random", encoder.reinitialised(seed), SENSORS)
    result = DemoResult(
        out_dir=out,
        corpus=course.dataset("test").info.name,
        synthetic=course.dataset("test").info.synthetic,
        splits=dict(course.dataset("test").info.splits),
        rows=rows,
    )
    files = {
        "scores": _write_metrics(result),
        "table": _write_table(result),
        "embeddings": course.write_embeddings(encoder),
        "embedding plot": course.plot_embeddings(),
        "sheet": course.plot_sheet(result),
        "segmentation model": out / "both-segmentation" / "best",
        "classification model": out / "both-classification" / "best",
    }
    return replace(result, files=files)


@dataclass(frozen=True, kw_only=True)
class Course:
    """What all rows of the table share: corpus, label, splits, training options."""

    root: Path
    label: LabelSpec
    out: Path
    epochs: int
    seed: int
    say: Say

    @property
    def scheme(self) -> Scheme:
        """Classes of the mask."""
        if self.label.scheme is None:
            raise LabelError(f"label {self.label.name!r} has no class scheme.")
        return self.label.scheme

    def dataset(
        self, split: str | None, sensors: tuple[Sensor, ...] = SENSORS
    ) -> DeepSentinelDataset:
        """Samples with `mask`, and the class of most of its pixels as `label`."""
        return DeepSentinelDataset(
            self.root,
            split,
            sensors=sensors,
            labels=(self.label.name,),
            transforms=with_dominant_class,
        )

    def trained(self, name: str, encoder: Any, sensors: tuple[Sensor, ...]) -> dict[str, float]:
        """Scores of a segmentation and a classification head on a frozen encoder."""
        train, val, test = (self.dataset(s, sensors) for s in ("train", "val", "test"))
        scores: dict[str, float] = {}
        for task, label in (
            ("segmentation", self.label),
            ("classification", replace(self.label, kind="label")),
        ):
            torch.manual_seed(self.seed)
            model = model_for(encoder, label)
            done = finetune(
                model,
                train,
                val,
                out_dir=self.out / f"{name}-{task}",
                epochs=self.epochs,
                lr=3e-3,
                batch_size=BATCH,
                patience=None,
                freeze_encoder=True,
                seed=self.seed,
                progress=False,
            )
            scores |= evaluate_model(done.model, test)
        self.say(f"{name:>10}: mIoU {scores['miou']:.3f}, accuracy {scores['accuracy']:.3f}")
        return {column: scores[column] for column in COLUMNS}

    def band_stats(self) -> dict[str, float]:
        """Scores without a network: logistic regressions on band statistics."""
        train, test = self.dataset("train"), self.dataset("test")
        control = PixelControl(train, seed=self.seed)
        confusion = Confusion(self.scheme.names)
        for i in range(len(test)):
            confusion.add(torch.from_numpy(control.predict(test[i])), test[i]["mask"])
        learnt, tested = band_statistics(train), band_statistics(test)
        classes = probe(
            learnt.vectors, _labels(learnt), tested.vectors, _labels(tested), seed=self.seed
        )
        scores = {
            "miou": float(torch.nanmean(confusion.iou())),
            "pixel_accuracy": confusion.accuracy(),
            "accuracy": classes["accuracy"],
            "macro_f1": classes["macro_f1"],
        }
        self.say(f"band_stats: mIoU {scores['miou']:.3f}, accuracy {scores['accuracy']:.3f}")
        return scores

    def write_embeddings(self, encoder: Any) -> Path:
        """Embeddings of every patch, with ids, splits and classes."""
        dataset = self.dataset(None)
        found = embed(encoder, dataset)
        path = self.out / "embeddings.npz"
        np.savez(
            path,
            embedding=found.vectors,
            id=np.array(found.ids),
            split=np.array(dataset.corpus.index.column("split").to_pylist()),
            label=_labels(found),
        )
        return path

    def plot_embeddings(self) -> Path:
        """Two principal components of the embeddings, one colour a class."""
        from matplotlib.figure import Figure
        from sklearn.decomposition import PCA
        from sklearn.preprocessing import StandardScaler

        stored = np.load(self.out / "embeddings.npz")
        plane = PCA(2, random_state=self.seed).fit_transform(
            StandardScaler().fit_transform(stored["embedding"])
        )
        figure = Figure(figsize=(8, 6), layout="constrained")
        axes = figure.subplots()
        for i, entry in enumerate(self.scheme.classes):
            here = stored["label"] == i
            if here.any():
                x, y = plane[here].T
                axes.scatter(x, y, s=28, color=entry.colour, label=entry.name, edgecolors="#444")
        axes.set(xlabel="first principal component", ylabel="second principal component")
        axes.set_title("Embedding of every patch, coloured by its most frequent class")
        figure.legend(loc="outside right upper", fontsize="small")
        path = self.out / "embeddings.png"
        figure.savefig(path, dpi=120)
        return path

    def plot_sheet(self, result: "DemoResult") -> Path:
        """True colour, radar, target and prediction of a few test patches."""
        from deepsentinel.heads.model import load_model
        from deepsentinel.sample import collate

        test = self.dataset("test")
        model = load_model(self.out / "both-segmentation")
        step = max(1, len(test) // SHEET_ROWS)
        samples = [test[i] for i in range(0, len(test), step)][:SHEET_ROWS]
        classes = model.predict(collate(samples)).classes.numpy()
        rows = [
            self._panels(sample, predicted)
            for sample, predicted in zip(samples, classes, strict=True)
        ]
        origin = "synthetic scenes" if result.synthetic else result.corpus
        shown = sorted({int(i) for s in samples for i in np.unique(s["mask"])} - {IGNORE_INDEX})
        figure = plot.sheet_figure(
            rows,
            scheme=self.scheme,
            classes=sorted({*shown, *(int(i) for i in np.unique(classes))}),
            suptitle=f"Held-out patches ({origin})",
        )
        path = self.out / "sheet.png"
        figure.savefig(path, dpi=120)
        return path

    def _panels(self, sample: Sample, predicted: NDArray[Any]) -> dict[str, plot.RGBImage]:
        meta = sample["meta"]
        panels: dict[str, plot.RGBImage] = {}
        if "image_s2" in sample:
            panels["Sentinel-2"] = plot.rgb(sample["image_s2"].numpy(), meta.bands_s2)
        if "image_s1" in sample:
            panels["Sentinel-1"] = plot.sar_composite(sample["image_s1"].numpy(), meta.bands_s1)
        panels["target"] = plot.mask_image(sample["mask"].numpy(), self.scheme)
        panels["prediction"] = plot.mask_image(predicted, self.scheme)
        return panels


def with_dominant_class(sample: Sample) -> Sample:
    """The sample with the class of most labelled pixels as `label`; -1 where none is labelled.

    Example:
        >>> int(with_dominant_class({"mask": torch.tensor([[2, 2, -1, 0]])})["label"])
        2
    """
    labelled = sample["mask"][sample["mask"] != IGNORE_INDEX]
    counts = torch.bincount(labelled.flatten())
    label = counts.argmax() if len(counts) else torch.tensor(IGNORE_INDEX)
    return {**sample, "label": label}


def _labels(embeddings: Embeddings) -> NDArray[np.int64]:
    if embeddings.labels is None:
        raise LabelError("the patches have no mask, so no class of most pixels.")
    return embeddings.labels


def _known(found: Embeddings) -> NDArray[np.int64]:
    if found.labels is None:
        raise LabelError("the samples have no label.")
    return found.labels


def _corpus(data: str | Path | None, out: Path, *, patches: int, seed: int, say: Say) -> Path:
    if data is None:
        from deepsentinel.datasets.synthetic import write_synthetic_corpus

        say(f"making {patches} synthetic patches (computed, not observed)")
        return write_synthetic_corpus(out / "corpus", patches=patches, seed=seed)
    if (Path(data) / INFO_PATH).exists():
        say(f"reading the corpus {data}")
        return Path(data)
    from deepsentinel.corpus.convert import convert

    say(f"converting {data}; baseline offsets are judged from the pixels (--boa-offset detect)")
    report = convert(
        data,
        out / "corpus",
        patch_size=PATCH_PX,
        boa_offset="detect",
        block_m=BLOCK_M,
        splits=SPLITS,
        seed=seed,
    )
    say(str(report))
    return out / "corpus"


def _check_splits(root: Path, info: CorpusInfo) -> None:
    empty = [name for name in ("train", "val", "test") if not info.splits.get(name)]
    if empty:
        raise SplitError(
            f"the corpus {root} has no patch in {' and '.join(empty)}; its splits are "
            f"{dict(info.splits)}. A head needs train, val and test from different places: convert "
            "again with smaller blocks (`deepsentinel convert SOURCE DEST --block-m 1000`) and give "
            "`--data DEST`, or take data from more places."
        )


def _write_metrics(result: DemoResult) -> Path:
    path = result.out_dir / "metrics.json"
    value = {
        "corpus": result.corpus,
        "synthetic": result.synthetic,
        "splits": dict(result.splits),
        "scored_on": "test",
        "rows": {name: _without_nan(scores) for name, scores in result.rows.items()},
    }
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def _without_nan(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Scores as JSON knows them: `None` where one is not defined."""
    return {column: v if math.isfinite(v) else None for column, v in scores.items()}


def _write_table(result: DemoResult) -> Path:
    path = result.out_dir / "metrics.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("row", *COLUMNS))
        for name, scores in result.rows.items():
            writer.writerow((name, *(f"{scores[c]:.4f}" for c in COLUMNS)))
    return path
