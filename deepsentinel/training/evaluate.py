"""`evaluate`: encoders beside their controls by one protocol; and scores of a trained model."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from deepsentinel import __version__
from deepsentinel.bands import SENSORS, check_sensors
from deepsentinel.corpus.format import CorpusInfo, LabelSpec
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.errors import LabelError, TrainingError, UnknownNameError, nearest
from deepsentinel.heads.model import Model
from deepsentinel.training.config import plain
from deepsentinel.training.evaluation.bench import Bench, Row
from deepsentinel.training.evaluation.conditions import Condition, Conditioned
from deepsentinel.training.evaluation.curves import few_shot_rows
from deepsentinel.training.evaluation.embed import (
    Embeddings,
    Samples,
    band_statistics,
    embed,
    observed_patches,
    take,
)
from deepsentinel.training.evaluation.ground import ground_notes
from deepsentinel.training.evaluation.matrix import check_matrix, matrix_rows
from deepsentinel.training.evaluation.probe import fewshot_probe, probe, spatial_blocks
from deepsentinel.training.evaluation.protocol import Protocol
from deepsentinel.training.evaluation.report import evaluation_report
from deepsentinel.training.evaluation.result import Evaluation, compare
from deepsentinel.training.evaluation.subjects import Encoders, Subject, subjects
from deepsentinel.training.evaluation.units import Units, patch_units, pixel_units
from deepsentinel.training.evaluation.unseen import unseen_rows
from deepsentinel.training.finetuning.setup import TASKS, pick_label
from deepsentinel.training.scoring.model import score_model
from deepsentinel.training.scoring.report import write_model_report

__all__ = [
    "Embeddings",
    "Evaluation",
    "Protocol",
    "band_statistics",
    "compare",
    "embed",
    "evaluate",
    "evaluate_model",
    "fewshot_probe",
    "observed_patches",
    "probe",
    "spatial_blocks",
    "take",
]


def evaluate(
    encoders: Encoders,
    data: str | Path | Samples,
    protocol: Protocol | None = None,
    *,
    class_names: Sequence[str] | None = None,
    blocks: ArrayLike | None = None,
    out_dir: str | Path | None = None,
    say: Callable[[str], None] | None = None,
    requester_pays: bool | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Judge encoders on labelled patches, beside band statistics and random weights, always.

    Spatial blocks are divided into folds; each patch is tested by models that learnt from a given
    number of labels of other folds, with neighbours, penalties and epochs chosen on a fold that
    neither trains nor tests. All rows share folds, labels and bootstrap draws.

    Args:
        encoders: an encoder, the name or folder of one, several names, or encoders by name.
        data: root of a corpus, all of whose patches are used; a `DeepSentinelDataset`; or a
            map-style dataset of samples with `label` or `mask`.
        protocol: what is measured and how; few-shot curves of kNN and a linear probe if `None`.
        class_names: of labels in samples that are not a corpus's; numbers if `None`.
        blocks: (N,) a number or name a patch: those of one never train and test together. Squares
            of `protocol.block_km` if `None`; places, scenes or parcels where they are known.
        out_dir: where to write `report.html`, JSON, CSV and pictures; `None` writes nothing.
        say: called with one line a score.
        requester_pays: of a corpus in a bucket, as for `DeepSentinelDataset`.
        storage_options: likewise.

    Returns:
        Rows with scores, intervals and bootstrap replicates, and the report.

    Raises:
        LabelError: no label, several, or labels that do not fit.
        TrainingError: too few blocks, patches or classes for the protocol.
        UnknownNameError, EncoderNotFoundError: a name that is not known.

    Warns:
        LeakWarning: test patches lie on ground that was learnt from.

    Example:
        >>> import tempfile
        >>> from deepsentinel import FusionEncoder
        >>> from deepsentinel.datasets.synthetic import write_synthetic_corpus
        >>> quick = Protocol(methods=("knn",), shots=(1,), shares=(), folds=3, seeds=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     corpus = write_synthetic_corpus(f"{folder}/demo", patches=24, patch_size=32)
        ...     found = evaluate({"mine": FusionEncoder("resnet10t")}, corpus, quick)
        >>> [row.key["encoder"] for row in found.rows]
        ['mine', 'mine, random weights', 'band statistics']
    """
    started = time.perf_counter()
    protocol = protocol or Protocol()
    tell = say or (lambda _: None)
    if isinstance(data, str | Path):
        client: dict[str, Any] = {}
        client |= {"requester_pays": requester_pays, "storage_options": storage_options}
        spec = _label(DeepSentinelDataset(data, None, labels=(), **client).info, protocol)
        data = DeepSentinelDataset(data, None, labels=(spec.name,), **client)
    dataset, units, facts = _material(data, protocol, class_names)
    units = units.occurring(protocol.least_units)
    splits = _splits(dataset) if protocol.folds is None else None
    bench = Bench(dataset, units, protocol, splits=splits, blocks=blocks)
    who = subjects(encoders, twins=min(protocol.random_twins, protocol.seeds))
    if "matrix" in protocol.parts:
        check_matrix(bench, who)
    notes = ground_notes(bench, side_m=side_m) if (side_m := _side(dataset)) else ()
    rows = _rows(bench, who, tell)
    facts |= {
        "classes": list(units.class_names),
        "encoders": {s.name: _card(s) for s in who if s.role == "encoder"},
        "protocol": plain(protocol),
        "fingerprint": _fingerprint(bench),
        "versions": {n: version(n) for n in ("torch", "timm", "scikit-learn", "torchmetrics")}
        | {"deepsentinel": __version__},
        "seconds": round(time.perf_counter() - started, 1),
    }
    title = f"{', '.join(facts['encoders'])} on {facts['data']}"
    found = Evaluation(
        rows=rows, report=evaluation_report(title, bench, who, rows, facts, notes=notes)
    )
    if out_dir is not None:
        found.write(out_dir)
    return found


def _rows(bench: Bench, who: Sequence[Subject], say: Callable[[str], None]) -> tuple[Row, ...]:
    parts, sensors = bench.protocol.parts, check_sensors(bench.protocol.sensors)
    rows: tuple[Row, ...] = ()
    if "scores" in parts:
        rows += few_shot_rows(bench, who, sensors=sensors, say=say)
    if "matrix" in parts:
        rows += matrix_rows(bench, who, say=say)
    if "unseen" in parts:
        rows += unseen_rows(bench, who, sensors=sensors, say=say)
    return rows


def _material(
    data: Samples, protocol: Protocol, class_names: Sequence[str] | None
) -> tuple[Samples, Units, dict[str, Any]]:
    """Samples, units and facts of what is evaluated on."""
    if isinstance(data, DeepSentinelDataset):
        info = data.info
        spec = _label(replace(info, labels=data.request.labels), protocol)
        if spec.scheme is None:
            raise LabelError(f"label {spec.name!r} of {info.name!r} has no class scheme.")
        facts = {
            "data": f"{info.name}{' (synthetic)' if info.synthetic else ''}",
            "patches": len(data),
            "label": spec.name,
            "licence": info.licence,
        }
        return data, _units(data, spec.scheme.names, protocol, pixels=spec.kind == "mask"), facts
    if "bbox_xyxy" in data[0]:
        raise LabelError(
            "encoders are judged by classes of patches or pixels, but these samples have boxes. A "
            "detector is scored by evaluate_model."
        )
    pixels = protocol.task == "segmentation" or "label" not in data[0]
    names = class_names or _numbered(data, pixels=pixels)
    facts = {"data": "samples", "patches": len(data)}  # type: ignore[arg-type]
    return data, _units(data, names, protocol, pixels=pixels), facts


def _units(data: Samples, names: Sequence[str], protocol: Protocol, *, pixels: bool) -> Units:
    if pixels:
        return pixel_units(data, names, pixels=protocol.pixels, seed=protocol.seed)
    return patch_units(data, names)


def _numbered(data: Samples, *, pixels: bool) -> tuple[str, ...]:
    key = "mask" if pixels else "label"
    first = data[0].get(key)
    if first is None:
        raise LabelError(
            f"encoders are judged by classes of patches or pixels, but samples have no {key!r}, only "
            f"{sorted(data[0])}. A model of boxes, quantities or pairs is scored by evaluate_model."
        )
    if not pixels and first.ndim:
        return tuple(f"class {i}" for i in range(len(first)))
    most = max(int(data[i][key].max()) for i in range(len(data)))  # type: ignore[arg-type]
    return tuple(f"class {i}" for i in range(most + 1))


def _label(info: CorpusInfo, protocol: Protocol) -> LabelSpec:
    """The label that the protocol asks for; the one of patches, else the one of pixels."""
    if protocol.task is not None:
        return pick_label(info, protocol.task, protocol.label)
    tasks = ("classification", "segmentation")
    if protocol.label is not None:
        fitting = {s.name: s for s in info.labels if any(s.kind in TASKS[t] for t in tasks)}
        if protocol.label not in fitting:
            raise UnknownNameError(
                f"label {protocol.label!r} of {info.name!r} cannot be evaluated on. "
                f"{nearest(protocol.label, fitting)}"
            )
        return fitting[protocol.label]
    task = next((t for t in tasks if any(s.kind in TASKS[t] for s in info.labels)), None)
    if task is None:
        found = ", ".join(f"{s.name} ({s.kind})" for s in info.labels) or "none"
        raise LabelError(
            f"encoders are judged by classes of patches or pixels, and {info.name!r} has no such "
            f"label, only: {found}. A model of boxes, quantities or pairs is scored by "
            "`deepsentinel evaluate CORPUS --model FOLDER`, in a program by evaluate_model."
        )
    return pick_label(info, task)


def _side(dataset: Samples) -> float | None:
    """Side of a patch in metres, where that is known."""
    if not isinstance(dataset, DeepSentinelDataset):
        return None
    return dataset.info.patch_size * dataset.info.resolution_m


def _splits(dataset: Samples) -> list[str]:
    if not isinstance(dataset, DeepSentinelDataset):
        raise TrainingError(
            "folds=null takes the splits of a corpus, but samples were given that are of none; "
            "give the root of a corpus, or a number of folds."
        )
    return [str(s) for s in dataset.corpus.index.take(dataset.rows).column("split").to_pylist()]


def _card(subject: Subject) -> dict[str, str]:
    card = getattr(subject.encoder, "card", None)
    return {} if card is None else {"name": card.name, "sha256": card.sha256}


def _fingerprint(bench: Bench) -> str:
    """Equal where two evaluations can be paired: same patches, labels, folds, draws."""
    parts = [m.id for m in bench.units.metas]
    parts += [str(f.test.tolist()) for s in bench.protocol.all_seeds for f in bench.folds(s)]
    parts += [str(bench.units.labels.tolist()), str(bench.units.pixel.tolist())]
    parts += [str(bench.protocol.replicates), str(bench.protocol.seed), str(bench.blocks.tolist())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def evaluate_model(
    model: Model[Any],
    dataset: Samples,
    *,
    sensors: Sequence[str] = SENSORS,
    batch_size: int = 32,
    num_workers: int = 0,
    out_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Scores of a model on labelled patches, from the given sensors only.

    Args:
        model: a `Segmenter`, `Classifier`, `Detector` or another.
        dataset: map-style dataset of samples with the model's target.
        sensors: others are dropped from the samples.
        batch_size: patches a batch.
        num_workers: worker processes that read.
        out_dir: where to write `report.html`, JSON, CSV and pictures; `None` writes nothing.

    Returns:
        Segmentation `miou` and `pixel_accuracy`, classification `accuracy` and `macro_f1`,
        multi-label `macro_map` and `micro_map`, detection `map`, `ap50` and `ap75`, regression
        `r2`, `rmse`, `mae` and `bias`, matching `match_accuracy` and ranks; `per_class` (IoU, F1,
        average precision or R2 by name, `None` where the class does not occur); `per_size` of a
        detector's scores, by size of the boxes in pixels; `patches`, and how many of them were
        `empty`: nothing of these sensors was observed, so that they could not be scored.

    Raises:
        TrainingError: nothing that was scored is labelled.
        SampleError: the samples lack the target.
        LabelError: the target does not fit the model.
        ReportError: the report cannot be written.

    Example:
        >>> import torch
        >>> from deepsentinel import Classifier, FusionEncoder
        >>> model = Classifier(FusionEncoder("resnet10t", levels=(1,)), 2)
        >>> samples = [{"image_s1": torch.full((2, 16, 16), -9.0), "label": torch.tensor(1)}]
        >>> sorted(evaluate_model(model, samples, sensors=("s1",)))
        ['accuracy', 'empty', 'macro_f1', 'patches', 'per_class']
    """
    asked = check_sensors(sensors)
    shown: Samples = dataset if asked == SENSORS else Conditioned(dataset, Condition(asked))
    scored = score_model(model, shown, batch_size=batch_size, num_workers=num_workers)
    values = scored.values()
    if out_dir is not None:
        name = scored.scores.headline
        facts = {"model": model.config(), "sensors": asked, "deepsentinel": __version__}
        title = f"{type(model).__name__}: {name} {values[name]:.3f} on {scored.patches} patches"
        write_model_report(model, shown, scored, out_dir, title=title, facts=facts)
    return values
