"""How well boxes are found: average precision as COCO defines it, by overlap and by size in pixels.

Detections of a class are taken from the surest down. Each takes the free object that it overlaps
most, if the overlap (IoU) reaches the threshold, and is a hit; otherwise it is a false alarm. The
average precision is the mean of the best precision at 101 recalls from 0 to 1; `map` is its mean
over the classes that occur and over thresholds of 0.50 to 0.95 in steps of 0.05, `ap50` and `ap75`
are those at one threshold. For one size, objects of other sizes neither count nor cost.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deepsentinel.errors import TrainingError
from deepsentinel.sample import Batch

THRESHOLDS: Final = tuple(0.5 + 0.05 * i for i in range(10))
SIZES: Final[dict[str, tuple[float, float]]] = {
    "tiny": (0, 4),
    "small": (4, 8),
    "medium": (8, 16),
    "large": (16, 1e5),
}
"""Least and greatest root of a box's area in pixels, for each size."""
_EVERY: Final = (0.0, 1e5)
_RECALLS: Final = np.linspace(0, 1, 101)

Floats = NDArray[np.float64]


class DetectionScores:
    """`map`, `ap50` and `ap75`, also by class and by size.

    Args:
        names: of the classes.
        max_detections: the surest detections of a class in a patch that count; COCO has 100.

    Example:
        >>> import torch
        >>> from deepsentinel.features import Detection
        >>> scores = DetectionScores(("ship",))
        >>> box, label = torch.tensor([[2.0, 2.0, 6.0, 5.0]]), torch.tensor([0])
        >>> batch = {"bbox_xyxy": [box], "label": [label]}
        >>> scores.update(Detection([box], [torch.tensor([0.9])], [label]), batch)
        >>> scores.compute(), scores.per_size()["tiny"]["objects"]
        ({'map': 1.0, 'ap50': 1.0, 'ap75': 1.0}, 1)
    """

    headline = "map"

    def __init__(self, names: tuple[str, ...], *, max_detections: int = 300) -> None:
        self.names = names
        self.max_detections = max_detections
        self._patches: list[_Patch] = []

    def update(self, prediction: Any, batch: Batch) -> None:
        """Add a batch with its boxes."""
        columns = (
            prediction.boxes,
            prediction.scores,
            prediction.labels,
            batch["bbox_xyxy"],
            batch["label"],
        )
        for values in zip(*columns, strict=True):
            self._patches.append(_Patch(*map(_numpy, values)))

    def compute(self) -> dict[str, float]:
        """Scores by name, means over the classes that occur.

        Raises:
            TrainingError: no patch that was added has an object.
        """
        return {k: float(np.nanmean(v)) for k, v in _parts(self._precisions(_EVERY)).items()}

    def per_class(self) -> dict[str, float | None]:
        """`map` of each class; `None` where it does not occur."""
        values = _parts(self._precisions(_EVERY))["map"]
        return {n: _known(v) for n, v in zip(self.names, values, strict=True)}

    def per_size(self) -> dict[str, dict[str, float | None]]:
        """`map`, `ap50`, `ap75` and the number of `objects` of each of `SIZES`."""
        table: dict[str, dict[str, float | None]] = {}
        for size, limits in SIZES.items():
            parts = _parts(self._precisions(limits))
            counted = sum(int(_within(p.objects, limits).sum()) for p in self._patches)
            means = {k: float(np.nanmean(v)) if counted else np.nan for k, v in parts.items()}
            table[size] = {k: _known(v) for k, v in means.items()} | {"objects": counted}
        return table

    def _precisions(self, limits: tuple[float, float]) -> Floats:
        """(K, thresholds) average precision of each class; NaN where it has no object."""
        if not any(len(p.objects) for p in self._patches):
            raise TrainingError(
                "no patch to be scored has an object, so that nothing can be found. Look at the "
                "split with `deepsentinel stats`, or take another."
            )
        return np.stack([self._precision(k, limits) for k in range(len(self.names))])

    def _precision(self, label: int, limits: tuple[float, float]) -> Floats:
        found = [p.compare(label, limits, self.max_detections) for p in self._patches]
        counted = sum(n for *_, n in found)
        if not counted:
            return np.full(len(THRESHOLDS), np.nan)
        scores = np.concatenate([s for s, *_ in found])
        order = np.argsort(-scores, kind="stable")
        hits = np.concatenate([h for _, h, *_ in found], axis=1)[:, order]
        ignored = np.concatenate([i for _, _, i, _ in found], axis=1)[:, order]
        pairs = zip(hits, ignored, strict=True)
        return np.array([average_precision(h[~i], counted) for h, i in pairs])


class _Patch:
    """Detections and objects of one patch."""

    def __init__(
        self, boxes: Floats, scores: Floats, labels: Floats, objects: Floats, classes: Floats
    ) -> None:
        self.boxes, self.scores, self.labels = boxes.reshape(-1, 4), scores, labels
        self.objects, self.classes = objects.reshape(-1, 4), classes

    def compare(
        self, label: int, limits: tuple[float, float], most: int
    ) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_], int]:
        """Scores (D,), hits and what does not count (thresholds, D), number of objects that count."""
        chosen = np.flatnonzero(self.labels == label)
        order = chosen[np.argsort(-self.scores[chosen], kind="stable")][:most]
        boxes, objects = self.boxes[order], self.objects[self.classes == label]
        counts = _within(objects, limits)
        hits, ignored = _match(overlap(boxes, objects), counts)
        ignored |= ~hits & ~ignored & ~_within(boxes, limits)
        return self.scores[order], hits, ignored, int(counts.sum())


def _match(
    overlaps: Floats, counts: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Hits (thresholds, D), and detections that took an object that does not count."""
    detections, objects = overlaps.shape
    hits = np.zeros((len(THRESHOLDS), detections), dtype=bool)
    ignored = np.zeros_like(hits)
    for level, threshold in enumerate(THRESHOLDS):
        free = np.ones(objects, dtype=bool)
        for i in np.flatnonzero((overlaps >= threshold - 1e-10).any(1)):
            able = free & (overlaps[i] >= threshold - 1e-10)
            for kind, result in ((counts, hits), (~counts, ignored)):  # those that count first
                if (able & kind).any():
                    free[np.where(able & kind, overlaps[i], -1).argmax()] = False
                    result[level, i] = True
                    break
    return hits, ignored


def average_precision(hits: NDArray[np.bool_], objects: int) -> float:
    """Mean of the best precision from each of 101 recalls on, of detections from the surest down.

    Args:
        hits: (D,) whether each detection is one.
        objects: how many there were to find.

    Example:
        >>> round(average_precision(np.array([True, False, True]), 4), 4)  # 26 x 1 and 25 x 2/3
        0.4224
    """
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(best[np.searchsorted(found / objects, _RECALLS - 1e-12)].mean())


def overlap(boxes: Floats, others: Floats) -> Floats:
    """(N, M) intersection over union of boxes (N, 4) and (M, 4).

    Example:
        >>> overlap(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2]])).round(3).tolist()
        [[0.333]]
    """
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum(boxes[:, None, 2:], others[:, 2:])
    both = np.clip(high - low, 0, None).prod(2)
    return np.asarray(both / (_area(boxes)[:, None] + _area(others) - both))


def _area(boxes: Floats) -> Floats:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(1))


def _within(boxes: Floats, limits: tuple[float, float]) -> NDArray[np.bool_]:
    side = np.sqrt(_area(boxes))
    return np.asarray((side >= limits[0]) & (side < limits[1]))


def _parts(precisions: Floats) -> dict[str, Floats]:
    """(K,) of each score."""
    return {
        "map": precisions.mean(1),
        "ap50": precisions[:, THRESHOLDS.index(0.5)],
        "ap75": precisions[:, 5],
    }


def _numpy(values: Tensor) -> Floats:
    return values.detach().cpu().double().numpy()


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
