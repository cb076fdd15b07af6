"""Which patches a model gets right and which not: their losses, and a sheet of best and worst."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from deepsentinel import plot
from deepsentinel.bands import DEFAULT_BANDS, SENSORS, Sensor
from deepsentinel.features import (
    Classification,
    Detection,
    Prediction,
    Regression,
    Segmentation,
)
from deepsentinel.heads.model import Model
from deepsentinel.labels import Scheme
from deepsentinel.labels.classes import rows_to_classes
from deepsentinel.sample import IGNORE_INDEX, IMAGE_KEYS, Batch, PatchMeta, Sample, collate
from deepsentinel.training.evaluation.embed import Samples, evaluating, observed_patches, to_device

PALETTE: Final = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#222255",
    "#225555", "#e69f00", "#663333", "#999933",
)  # fmt: skip
"""Colours of classes that were given none; from the twelfth on they repeat."""
MOST_NAMES: Final = 4
"""Classes or numbers of one patch that a caption names."""
SURE: Final = 0.5
"""Least score of a box that is drawn."""
ENLARGED: Final = 6
"""Times, so that the outline of a box of a few pixels is fine beside it."""
LINE: Final = 3
"""Width of an outline, in pixels of the enlarged picture, around the box."""


@dataclass(frozen=True)
class Judged:
    """The loss of one patch."""

    place: int
    """In the dataset."""
    id: str
    """Empty where the sample has no meta."""
    loss: float


def judge(model: Model[Any], dataset: Samples, *, most: int = 256) -> tuple[Judged, ...]:
    """The loss of each patch on its own, lowest first.

    Patches without a label, and those of which nothing was observed, are left out. A matcher learns
    from pairs among patches, so that no patch has a loss of its own: the result is empty.

    Args:
        model: any model with a loss.
        dataset: map-style dataset of samples with the model's target.
        most: patches that are looked at, evenly spread over the dataset.
    """
    if model.task == "matching":
        return ()
    size = len(dataset)  # type: ignore[arg-type]
    places = np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(int)).tolist()
    found: list[Judged] = []
    with evaluating(model) as device:
        for place in places:
            batch = to_device(collate([dataset[place]]), device)
            if not bool(observed_patches(batch, model.encoder).all()):
                continue
            if model.head.labelled(batch):
                loss = float(model.loss(batch)["loss"])
                found.append(Judged(place, _id(batch), loss))
    return tuple(sorted(found, key=lambda judged: judged.loss))


def sheet(
    model: Model[Any], dataset: Samples, chosen: Sequence[Judged], titles: Sequence[str] = ()
) -> Figure:
    """Images, target and prediction of some patches below one another.

    Args:
        model: any model.
        dataset: that the patches were judged in.
        chosen: patches from the top downwards.
        titles: of each of them, if any.

    Raises:
        SampleError: no patch was chosen.
    """
    scheme = scheme_of(model)
    rows, captions = [], []
    classes: set[int] = set()
    for number, judged in enumerate(chosen):
        sample: Sample = dataset[judged.place]
        with evaluating(model) as device:
            prediction = model.predict(to_device(collate([sample]), device))
        images = _images(sample)
        panels, words = _describe(sample, images, prediction.to("cpu"), scheme)
        facts = [titles[number] if titles else "", judged.id, f"loss {judged.loss:.3f}"]
        rows.append(images | panels)
        captions.append("\n".join(fact for fact in (*facts, *words) if fact))
        classes |= _shown(sample, prediction)
    return plot.sheet_figure(rows, scheme=scheme, classes=sorted(classes), captions=captions)


def scheme_of(model: Model[Any]) -> Scheme | None:
    """Names and colours of a model's classes; `None` where it has none.

    Example:
        >>> from deepsentinel import Classifier, FusionEncoder
        >>> model = Classifier(FusionEncoder("resnet10t", levels=(1,)), 2, class_names=("a", "b"))
        >>> scheme_of(model).names
        ('a', 'b')
    """
    names = model.class_names
    if not names:
        return None
    given = model.class_colours or [PALETTE[i % len(PALETTE)] for i in range(len(names))]
    rows = [(i, n, c.lower()) for i, (n, c) in enumerate(zip(names, given, strict=True))]
    return Scheme(name="classes", title="Classes of the model", classes=rows_to_classes(rows))


def _describe(
    sample: Sample,
    images: Mapping[str, plot.RGBImage],
    prediction: Prediction,
    scheme: Scheme | None,
) -> tuple[dict[str, plot.RGBImage], list[str]]:
    """Pictures and lines that tell target and prediction of one patch."""
    if isinstance(prediction, Regression):
        return _describe_values(sample["target"], prediction.values[0])
    if scheme is None:
        return {}, []
    if isinstance(prediction, Segmentation):
        return _describe_mask(sample["mask"], prediction.classes[0], scheme)
    if isinstance(prediction, Classification):
        return {}, _describe_classes(sample["label"], prediction, scheme.names)
    if isinstance(prediction, Detection):
        return _describe_boxes(sample, next(iter(images.values())), prediction, scheme)
    return {}, []


def _describe_mask(
    target: Tensor, classes: Tensor, scheme: Scheme
) -> tuple[dict[str, plot.RGBImage], list[str]]:
    known = target != IGNORE_INDEX
    right = float((classes == target)[known].float().mean())
    panels = {
        "target": plot.mask_image(target.numpy(), scheme),
        "prediction": plot.mask_image(classes.numpy(), scheme),
    }
    return panels, [f"{right:.0%} of pixels right"]


def _describe_classes(
    target: Tensor, prediction: Classification, names: Sequence[str]
) -> list[str]:
    if target.ndim:  # several classes a patch
        given = [names[i] for i in (target == 1).nonzero().flatten().tolist()]
        found = [names[i] for i in prediction.classes[0].nonzero().flatten().tolist()]
        return [f"target: {_listed(given)}", f"predicted: {_listed(found)}"]
    predicted = int(prediction.classes[0])
    sure = float(prediction.probabilities[0, predicted])
    return [f"target: {names[int(target)]}", f"predicted: {names[predicted]} ({sure:.2f})"]


def _describe_boxes(
    sample: Sample, image: plot.RGBImage, prediction: Detection, scheme: Scheme
) -> tuple[dict[str, plot.RGBImage], list[str]]:
    sure = prediction.scores[0] >= SURE
    boxes, labels = prediction.boxes[0][sure], prediction.labels[0][sure]
    panels = {
        "target": _boxed(image, sample["bbox_xyxy"], sample["label"], scheme),
        "prediction": _boxed(image, boxes, labels, scheme),
    }
    return panels, [f"{len(sample['label'])} objects", f"{len(boxes)} of score >= {SURE}"]


def _boxed(image: plot.RGBImage, boxes: Tensor, labels: Tensor, scheme: Scheme) -> plot.RGBImage:
    """The image enlarged, with a line around each box in the colour of its class."""
    large = image.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
    height, width = large.shape[:2]
    for box, label in zip(boxes.numpy(), labels.tolist(), strict=True):
        x0, y0, x1, y1 = (box * ENLARGED).round().astype(int)
        inner = np.zeros((height, width), dtype=bool)
        inner[max(y0, 0) : y1, max(x0, 0) : x1] = True
        outer = np.zeros_like(inner)
        outer[max(y0 - LINE, 0) : y1 + LINE, max(x0 - LINE, 0) : x1 + LINE] = True
        large[outer & ~inner] = scheme.palette[label]
    return large


def _describe_values(target: Tensor, values: Tensor) -> tuple[dict[str, plot.RGBImage], list[str]]:
    """The first quantity as a picture, or all of them as numbers."""
    error = float((values - target).abs()[target.isfinite()].mean())
    words = [f"mean absolute error {error:.3g}"]
    if target.ndim < 3:
        return {}, [f"target: {_numbers(target)}", f"predicted: {_numbers(values)}", *words]
    known = target[0][target[0].isfinite()]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    panels = {
        "target": plot.value_image(target[0].numpy(), (low, high)),
        "prediction": plot.value_image(values[0].numpy(), (low, high)),
    }
    return panels, [*words, f"colours {low:.3g} to {high:.3g}"]


def _numbers(values: Tensor) -> str:
    return " ".join(f"{v:.3g}" for v in values.flatten().tolist()[:MOST_NAMES])


def _listed(names: Sequence[str]) -> str:
    more = f"\nand {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return "\n".join(names[:MOST_NAMES]) + more if names else "(none)"


def _shown(sample: Sample, prediction: Prediction) -> set[int]:
    """Classes that need a legend."""
    if isinstance(prediction, Detection):
        sure = prediction.labels[0][prediction.scores[0] >= SURE]
        return {*sample["label"].tolist(), *sure.tolist()}
    if not isinstance(prediction, Segmentation):
        return set()
    ids = torch.cat((sample["mask"].flatten(), prediction.classes.cpu().flatten()))
    return set(torch.unique(ids).tolist()) - {IGNORE_INDEX}


def _images(sample: Sample) -> dict[str, plot.RGBImage]:
    """True colour where there is, else the first band; the radar composite."""
    draw: dict[Sensor, tuple[str, Callable[..., plot.RGBImage]]] = {
        "s2": ("Sentinel-2", plot.rgb),
        "s1": ("Sentinel-1", plot.sar_composite),
    }
    panels: dict[str, plot.RGBImage] = {}
    for sensor in reversed(SENSORS):
        image = sample.get(IMAGE_KEYS[sensor])
        if image is None:
            continue
        meta = sample.get("meta")
        named = meta.bands(sensor) if isinstance(meta, PatchMeta) else ()
        bands = named or DEFAULT_BANDS[sensor]
        title, picture = draw[sensor]
        if sensor == "s2" and not set(plot.RGB_BANDS) <= set(bands):
            panels[f"Sentinel-2 {bands[0]}"] = plot.rgb(image[[0, 0, 0]].numpy(), plot.RGB_BANDS)
        else:
            panels[title] = picture(image.numpy(), bands)
    return panels


def _id(batch: Batch) -> str:
    metas = batch.get("meta", ())
    return metas[0].id if metas else ""
