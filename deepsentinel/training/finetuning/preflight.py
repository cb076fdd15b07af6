"""What is looked at before a training begins, so that hours are not lost on what can be seen now."""

import warnings
from collections.abc import Sequence, Sized
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Subset

from deepsentinel.corpus.read import Corpus
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.request import LABEL_KEYS
from deepsentinel.datasets.samples import SampleReader
from deepsentinel.datasets.stream import DeepSentinelStream
from deepsentinel.datasets.transforms import Compose, RandomTransform
from deepsentinel.errors import LabelError, LeakWarning, TrainingError, TrainingWarning
from deepsentinel.heads.model import Model
from deepsentinel.sample import IGNORE_INDEX, PatchMeta, Sample, collate
from deepsentinel.store import is_local
from deepsentinel.training.config import plain
from deepsentinel.training.evaluation.embed import observed_patches, take
from deepsentinel.training.finetuning.leak import describe_leak, find_leak
from deepsentinel.training.ranks import rank

Samples = Dataset[Sample] | list[Sample]
"""A map-style dataset of samples, or a list of them."""

SCANNED: Final = 2000
"""Patches of a local corpus whose labels are looked at, evenly spread; of a remote one, or of a
folder in the original layout, which stores no label apart, 50."""

_TARGETS: Final = {
    "segmentation": "mask",
    "classification": "label",
    "detection": "label",
    "regression": "target",
}
"""Key of the sample that holds what is learnt, by task."""


@dataclass(frozen=True)
class Patches:
    """Which patches of which corpus a dataset gives."""

    dataset: DeepSentinelDataset
    places: NDArray[np.int64]
    """In the dataset."""


def check_start(
    model: Model[Any], train: Samples | DeepSentinelStream, val: Samples
) -> dict[str, Any]:
    """Look at data and model together, before anything is trained.

    Of a `DeepSentinelDataset`, a `Subset` of one and a stream: the classes of the label, the labels
    themselves, and whether train and val lie apart. Of any: two samples, through the model.

    Args:
        model: that is to be trained.
        train: what it is trained on.
        val: what it is scored on.

    Returns:
        Enough to notice that a run is continued on other data.

    Raises:
        TrainingError: not a dataset, an empty one, or one without any label.
        LabelError: classes or labels that do not fit the model.
        SampleError: samples without image or target.

    Warns:
        LeakWarning: val lies where train lies.
    """
    facts = {}
    for name, data in (("train", train), ("val", val)):
        _check_sized(data, name)
        patches = patches_of(data)
        if patches is not None and _keeps_labels(patches.dataset.transforms):
            check_label_classes(model, patches.dataset, name)
            _check_labels(model, patches, name)
        samples = _first_and_last(data)
        _check_samples(model, samples, name)
        facts[name] = _fingerprint(data, samples)
    warn_of_leak(train, val, names=("train", "val"))
    return facts


def warn_of_leak(
    train: Samples | DeepSentinelStream, held_out: Samples, *, names: tuple[str, str]
) -> None:
    """Warn where patches that judge a model lie where it was trained; positions must be known.

    Warns:
        LeakWarning: they overlap, or are neighbours as in a random split.
    """
    parts = [patches_of(train), patches_of(held_out)]
    if rank() != 0 or any(part is None for part in parts):
        return
    a, b = cast("list[Patches]", parts)
    places = [_positions(part) for part in (a, b)]
    info = a.dataset.info
    leak = find_leak(*places, side_m=info.patch_size * info.resolution_m)
    if leak is not None:
        ids = [part.dataset.corpus.record(int(part.dataset.rows[part.places[i]])).id
               for part, i in ((a, leak.train), (b, leak.held_out))]  # fmt: skip
        warnings.warn(describe_leak(leak, names, (ids[0], ids[1])), LeakWarning, stacklevel=4)


def patches_of(data: object) -> Patches | None:
    """The patches of a corpus that a dataset gives, where that can be known."""
    if isinstance(data, DeepSentinelStream):
        return patches_of(data.dataset)
    if isinstance(data, DeepSentinelDataset):
        return Patches(data, np.arange(len(data)))
    if isinstance(data, Subset):
        whole = patches_of(data.dataset)
        return whole and replace(whole, places=whole.places[np.asarray(data.indices, dtype=int)])
    return None


def described(augment: object) -> Any:
    """What can be said of random changes, so that a run goes on with the same."""
    if augment is None:
        return None
    name = getattr(augment, "__qualname__", type(augment).__qualname__)
    return {"name": name} | (plain(augment) if is_dataclass(augment) else {})


def _check_sized(data: object, name: str) -> None:
    if isinstance(data, DeepSentinelStream) and name != "train":
        raise TrainingError(
            f"{name} is a stream; only train may be one. Give a deepsentinel.DeepSentinelDataset of "
            "that split."
        )
    if not isinstance(data, Sized) or not (
        hasattr(data, "__getitem__") or isinstance(data, DeepSentinelStream)
    ):
        raise TrainingError(
            f"{name} is a {type(data).__name__}; a map-style dataset of samples is expected, "
            "with __len__ and __getitem__, such as deepsentinel.DeepSentinelDataset."
        )
    if not len(data):
        raise TrainingError(f"{name} holds no sample. Look at the splits: `deepsentinel info`.")


def _first_and_last(data: Any) -> list[Sample]:
    data = data.dataset if isinstance(data, DeepSentinelStream) else data
    return [data[i] for i in (0, len(data) - 1)]


def _check_samples(model: Model[Any], samples: Sequence[Sample], name: str) -> None:
    """The loss of two samples, which must be finite; says what is wrong with the first batch now."""
    batch = collate(samples)
    seen = observed_patches(batch, model.encoder)
    if not bool(seen.any()):
        return  # patches of nothing are left out of training, and counted
    batch = take(batch, seen)
    device = next(model.parameters()).device
    batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            loss = model.loss(batch)["loss"].item()
    finally:
        for module, training in modes:
            module.training = training
    if not np.isfinite(loss):
        ids = " ".join(m.id for m in batch.get("meta", ())) or "without meta"
        raise TrainingError(
            f"the loss of the first and last patch of {name} ({ids}) is {loss} before anything was "
            "trained. Look at these patches, `deepsentinel plot CORPUS ID`, and at the weights of "
            "the model: some may not be finite."
        )


def _keeps_labels(transforms: object) -> bool:
    """Whether class ids after the transforms are those that the corpus holds."""
    if isinstance(transforms, Compose):
        return all(isinstance(t, RandomTransform) for t in transforms.transforms)
    return transforms is None


def check_label_classes(model: Model[Any], dataset: DeepSentinelDataset, name: str) -> None:
    """Compare the classes of a model with those of the label that a dataset reads.

    Args:
        model: with names of its classes.
        dataset: of a corpus whose labels have schemes.
        name: of the dataset, for messages.

    Raises:
        LabelError: another number of classes, or the same in another order.

    Warns:
        TrainingWarning: other names.
    """
    key = _TARGETS.get(model.task)
    spec = next((s for s in dataset.request.labels if LABEL_KEYS[s.kind] == key), None)
    if spec is None or spec.scheme is None:
        return
    theirs, ours = spec.scheme.names, model.class_names
    said = f"label {spec.name!r} of {name} ({dataset.info.name!r}) has {len(theirs)} classes"
    if len(theirs) != len(ours):
        raise LabelError(
            f"{said} ({_few(theirs)}), the model {len(ours)} ({_few(ours)}). Build the model with "
            f"num_classes={len(theirs)} and class_names=dataset.classes({spec.name!r})."
        )
    unnamed = ours == tuple(str(i) for i in range(len(ours)))
    if not unnamed and theirs != ours:
        place = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
        text = (
            f"{said}, and class {place} is {theirs[place]!r}; in the model it is {ours[place]!r}."
        )
        if set(theirs) == set(ours):
            raise LabelError(f"{text} Give class_names in the order of the label's scheme.")
        if rank() == 0:
            warnings.warn(text, TrainingWarning, stacklevel=5)


def _check_labels(model: Model[Any], patches: Patches, name: str) -> None:
    """Look at the labels alone, which is fast."""
    key, dataset = _TARGETS.get(model.task), patches.dataset
    if key is None or getattr(model, "multilabel", False) or not dataset.request.labels:
        return
    reader = SampleReader(dataset.corpus, replace(dataset.request, bands={}, hide_clouds=False))
    fast = isinstance(dataset.corpus, Corpus) and is_local(dataset.corpus.url)
    most = SCANNED if fast else SCANNED // 40
    count = min(most, len(patches.places))
    chosen = patches.places[np.linspace(0, len(patches.places) - 1, count).astype(int)]
    labelled = 0
    for row in dataset.rows[chosen].tolist():
        sample = reader.read(row)
        if key not in sample:
            return  # the look at whole samples says so
        ids = sample[key]
        if ids.is_floating_point():
            labelled += int(ids.isfinite().sum())
            continue
        labelled += int((ids != IGNORE_INDEX).sum())
        if ids.numel() and not IGNORE_INDEX <= int(ids.min()) <= int(ids.max()) < model.num_classes:
            wrong = [i for i in ids.unique().tolist() if not IGNORE_INDEX <= i < model.num_classes]
            raise LabelError(
                f"{key} of patch {sample['meta'].id!r} in {name} holds {_few(wrong)}, but the model "
                f"has {model.num_classes} classes: ids 0 to {model.num_classes - 1}, and "
                f"{IGNORE_INDEX} for what counts for nothing. Convert the corpus with the label's "
                "scheme, or build the model with as many classes."
            )
    if not labelled and model.task != "detection":
        raise TrainingError(
            f"nothing is labelled in {name}: every {key} of the {count} patches that were looked at "
            f"is {'NaN' if key == 'target' else -1}. Look at the split with `deepsentinel stats`, or "
            "take other labels=...."
        )


def _positions(patches: Patches) -> NDArray[np.float64]:
    """(N, 2) longitude and latitude, NaN where not known."""
    rows = patches.dataset.rows[patches.places]
    table = patches.dataset.corpus.index.select(["lon", "lat"]).take(rows)
    columns = [table.column(name).to_numpy().astype(np.float64) for name in ("lon", "lat")]
    return np.stack(columns, axis=1)


def _fingerprint(data: object, samples: Sequence[Sample]) -> dict[str, Any]:
    metas = [sample.get("meta") for sample in samples]
    ids = [m.id if isinstance(m, PatchMeta) else None for m in metas]
    stream = data if isinstance(data, DeepSentinelStream) else None
    size = len(stream.dataset) if stream is not None else len(cast("Sized", data))
    found: dict[str, Any] = {"patches": size, "first": ids[0], "last": ids[1]}
    if stream is not None:
        found |= {"stream": f"{stream.shuffle} {stream.seed} {stream.buffer} {stream.remainder}"}
    return found


def _few(values: Sequence[object]) -> str:
    return " ".join(map(str, values[:8])) + (" ..." if len(values) > 8 else "")
