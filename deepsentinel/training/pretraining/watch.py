"""What a pretraining says of itself while it runs: losses, speed, waiting, a probe, a collapse."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from deepsentinel.bands import SENSORS
from deepsentinel.errors import TrainingError
from deepsentinel.features import Encoder
from deepsentinel.sample import IGNORE_INDEX, Sample
from deepsentinel.training.evaluation.embed import Embeddings, Samples, band_statistics, embed
from deepsentinel.training.evaluation.probe import (
    Labels,
    Vectors,
    spatial_blocks,
    spatial_splits,
    standardise,
)
from deepsentinel.training.pretraining.feed import evenly

NEIGHBOURS: Final = 20
TEMPERATURE: Final = 0.07
"""Of the votes of neighbours, as in Wu et al., "Unsupervised Feature Learning via Non-Parametric
Instance Discrimination", arXiv 1805.01978."""
SPLITS: Final = 4


class Meter:
    """Sums of losses on the device, and where the time went, since the last row of the log.

    Nothing here waits for a GPU before `row` is called.

    Example:
        >>> meter = Meter()
        >>> meter.add({"loss": torch.tensor(1.0)}, patches=4, pixels=64)
        >>> meter.add({"loss": torch.tensor(2.0)}, patches=4, pixels=64)
        >>> meter.means()
        {'loss': 1.5}
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.begin()

    def begin(self) -> None:
        """Forget everything; the clock starts."""
        self.sums, self.counts = {}, {}
        self.restart()

    def restart(self) -> None:
        """Start the clock again, after something that is no training."""
        self.started, self.waited = time.perf_counter(), 0.0
        self.patches = self.pixels = 0

    def add(self, values: Mapping[str, Tensor], *, patches: int = 0, pixels: int = 0) -> None:
        """Scalars of one batch or step, and how much was seen."""
        for name, value in values.items():
            held = value.detach().float()
            self.sums[name] = self.sums[name] + held if name in self.sums else held
            self.counts[name] = self.counts.get(name, 0) + 1
        self.patches += patches
        self.pixels += pixels

    def means(self) -> dict[str, float]:
        """Mean of each scalar; one look at the device."""
        if not self.sums:
            return {}
        totals = torch.stack(list(self.sums.values())).tolist()
        return {k: t / self.counts[k] for k, t in zip(self.sums, totals, strict=True)}

    def speed(self) -> dict[str, float]:
        """Patches and pixels a second, and the share of the time that went into waiting for data."""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        return {
            "patches_per_s": self.patches / seconds,
            "megapixels_per_s": self.pixels / seconds / 1e6,
            "data_wait": self.waited / seconds,
        }

    def state(self) -> dict[str, Any]:
        """What the row that is being gathered needs to be the same after a kill."""
        sums = {k: v.cpu() for k, v in self.sums.items()}
        return {"sums": sums, "counts": dict(self.counts)}

    def resume(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on where `state()` was taken."""
        self.sums = {k: v.to(device) for k, v in state["sums"].items()}
        self.counts = dict(state["counts"])


def device_use(device: torch.device) -> dict[str, float]:
    """How busy a GPU is and its greatest memory so far in GB; of a CPU, that of the process.

    Where NVIDIA's management library is missing (`pip install nvidia-ml-py`), only memory is told.
    """
    if device.type != "cuda":
        import resource

        return {"memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}
    found = {"memory_gb": torch.cuda.max_memory_allocated(device) / 1e9}
    try:
        found["gpu_use"] = torch.cuda.utilization(device) / 100
    except (ModuleNotFoundError, RuntimeError):
        return found
    return found


@dataclass(frozen=True)
class Probe:
    """Nearest neighbours among labelled patches: what embeddings are worth, in seconds.

    Patches are divided by place, several times; those of one side vote for those of the other.

    Example:
        >>> import tempfile
        >>> from deepsentinel import DeepSentinelDataset, FusionEncoder
        >>> from deepsentinel.datasets.synthetic import write_synthetic_corpus
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_synthetic_corpus(f"{folder}/demo", patches=24, patch_size=32)
        ...     data = DeepSentinelDataset(root, None, labels=("landcover_class",))
        ...     probe = Probe.of(data, name="demo")
        ...     score = probe.score(FusionEncoder("resnet10t"))
        >>> probe.metric, 0 <= score <= 1
        ('accuracy', True)
    """

    dataset: Samples
    name: str
    splits: tuple[tuple[NDArray[np.intp], NDArray[np.intp]], ...]
    metric: str
    control: float
    """The score of band statistics."""
    sensors: str = "both"
    """What the patches show: `s1`, `s2` or `both`."""

    @classmethod
    def of(
        cls, dataset: Samples, *, name: str, sensors: Sequence[str] = SENSORS, seed: int = 0
    ) -> "Probe":
        """A probe on samples with `label`; what cannot work fails here, before the training.

        Args:
            dataset: samples with `label` and places.
            name: of the data.
            sensors: that the samples hold.
            seed: decides the splits.

        Raises:
            TrainingError: no labels, no positions, or all patches in one place.
        """
        found = band_statistics(dataset)
        if found.labels is None:
            raise TrainingError(
                f"the probe on {name} needs patches with a label or a multilabel; it has none. "
                "Name one with probe_label, or another corpus."
            )
        blocks = spatial_blocks(found.lonlat)
        splits = tuple(spatial_splits(blocks, most=1, splits=SPLITS, seed=seed))
        metric = "micro_map" if found.labels.ndim == 2 else "accuracy"
        how = (
            f"{NEIGHBOURS} nearest neighbours, {len(found.labels)} patches, {SPLITS} spatial splits"
        )
        shown = sensors[0] if len(sensors) == 1 else "both"
        return cls(dataset, f"{name}, {how}", splits, metric, _score(found, splits), shown)

    def score(self, encoder: Encoder) -> float:
        """The mean score over the splits."""
        return _score(embed(encoder, self.dataset), self.splits)


def _score(
    found: Embeddings, splits: tuple[tuple[NDArray[np.intp], NDArray[np.intp]], ...]
) -> float:
    assert found.labels is not None  # noqa: S101 - asked for when the probe was made
    x, y = found.vectors, found.labels
    return float(np.mean([neighbour_score(x[a], y[a], x[b], y[b]) for a, b in splits]))


def neighbour_score(
    train_x: Vectors,
    train_y: Labels,
    test_x: Vectors,
    test_y: Labels,
    *,
    neighbours: int = NEIGHBOURS,
) -> float:
    """Accuracy, or micro mAP of multi-hot labels, of votes of the nearest neighbours.

    Nearness is the cosine of standardised vectors; a neighbour's vote weighs exp(cosine / 0.07).

    Args:
        train_x: (N, D), NaN = not observed.
        train_y: int (N,) or multi-hot (N, C); -1 = not known, and casts no vote.
        test_x: (M, D).
        test_y: as `train_y`; what is not known is not scored.
        neighbours: how many vote.

    Raises:
        TrainingError: nothing labelled on one of the sides.

    Example:
        >>> x = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]])
        >>> y = np.array([0, 0, 1, 1])
        >>> neighbour_score(x, y, x, y, neighbours=1)
        1.0
    """
    from sklearn.metrics import average_precision_score

    known = (train_y != IGNORE_INDEX).reshape(len(train_y), -1).any(axis=1)
    train, test = standardise(train_x[known], test_x)
    train, test = (
        v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (train, test)
    )
    single = train_y.ndim == 1
    votes = np.eye(train_y.max(initial=0) + 1)[train_y[known]] if single else train_y[known] == 1
    scored = test_y != IGNORE_INDEX
    if not known.any() or not scored.any():
        raise TrainingError(
            f"{int(known.sum())} labelled patches to learn from and {int(scored.sum())} labels to "
            "score: the probe needs both. Give it more patches (probe_patches)."
        )
    cosine = test @ train.T
    nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :neighbours]
    weight = np.exp(np.take_along_axis(cosine, nearest, axis=1) / TEMPERATURE)
    share = np.einsum("mk,mkc->mc", weight / weight.sum(axis=1, keepdims=True), votes[nearest])
    if single:
        return float((share.argmax(axis=1) == test_y)[scored].mean())
    return float(average_precision_score(test_y[scored], share[scored]))


class Some(Dataset[Sample]):
    """A few samples of a dataset, spread evenly.

    Example:
        >>> list(Some([{"a": 1}, {"a": 2}, {"a": 3}], 2))
        [{'a': 1}, {'a': 2}]
    """

    def __init__(self, dataset: Any, most: int) -> None:
        self.dataset, self.places = dataset, evenly(len(dataset), most)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = self.dataset[self.places[index]]
        return sample
