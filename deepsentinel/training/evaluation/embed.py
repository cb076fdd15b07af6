"""Embeddings of a dataset, and the control of band statistics."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from deepsentinel.bands import DEFAULT_BANDS, SENSORS, Sensor, check_sensors
from deepsentinel.errors import SampleError
from deepsentinel.features import Encoder
from deepsentinel.sample import IMAGE_KEYS, Batch, PatchMeta, Sample, batch_bands
from deepsentinel.training.finetuning.loader import in_order

Samples = Dataset[Sample] | list[Sample]


@dataclass(frozen=True)
class Embeddings:
    """One vector a patch, with what is known about the patches."""

    vectors: NDArray[np.float32]
    """(N, D); a row of NaN where nothing of the asked sensors was observed."""
    metas: tuple[PatchMeta, ...]
    """Empty where the samples have none."""
    labels: NDArray[np.int64] | None
    """(N,) or multi-hot (N, C), where the samples have them."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the patches."""
        return tuple(m.id for m in self.metas)

    @property
    def lonlat(self) -> NDArray[np.float64]:
        """(N, 2) degrees; NaN where not known."""
        return np.array(
            [[np.nan if v is None else v for v in (m.lon, m.lat)] for m in self.metas]
        ).reshape(-1, 2)

    @property
    def empty(self) -> int:
        """How many patches have no observed value."""
        return int(np.isnan(self.vectors).all(axis=1).sum())


def embed(
    encoder: Encoder,
    dataset: Samples,
    *,
    sensors: Sequence[str] = SENSORS,
    batch_size: int = 32,
    num_workers: int = 0,
) -> Embeddings:
    """The embedding of every patch, from the given sensors only.

    The encoder is used in evaluation mode, on the device it is on. A patch of which these sensors
    observed nothing gets a row of NaN.

    Args:
        encoder: any encoder.
        dataset: map-style dataset of samples.
        sensors: others are dropped from the samples.
        batch_size: patches a batch.
        num_workers: worker processes that read.

    Returns:
        Vectors, and meta and labels of the patches in the order of the dataset.

    Example:
        >>> from deepsentinel import FusionEncoder
        >>> encoder = FusionEncoder("resnet10t", levels=(1,))
        >>> samples = [{"image_s1": torch.full((2, 16, 16), -9.0)}]
        >>> embed(encoder, samples).vectors.shape, embed(encoder, samples, sensors=("s2",)).empty
        ((1, 64), 1)
    """
    vectors: list[NDArray[np.float32]] = []
    facts = _Facts()
    with evaluating(encoder) as device:
        for batch in batches(dataset, sensors, batch_size, num_workers):
            observed = observed_patches(batch, encoder)
            rows = np.full((len(observed), encoder.embed_dim), np.nan, dtype=np.float32)
            if bool(observed.any()):
                features = encoder.encode(to_device(take(batch, observed), device))
                rows[observed.numpy()] = features.embedding.float().cpu().numpy()
            vectors.append(rows)
            facts.add(batch)
    return facts.embeddings(np.concatenate(vectors))


def band_statistics(
    dataset: Samples,
    *,
    sensors: Sequence[str] = SENSORS,
    batch_size: int = 32,
    num_workers: int = 0,
) -> Embeddings:
    """Mean and standard deviation of every band of every patch: the control for embeddings.

    Args:
        dataset: map-style dataset of samples.
        sensors: others are left out.
        batch_size: patches a batch.
        num_workers: worker processes that read.

    Returns:
        Vectors of the means of all bands, then of the standard deviations, sensor by sensor, over
        what was observed; NaN where nothing was.

    Example:
        >>> samples = [{"image_s1": torch.tensor([[[-8.0, -12.0]], [[-20.0, torch.nan]]])}]
        >>> band_statistics(samples).vectors.tolist()
        [[-10.0, -20.0, 2.0, 0.0]]
    """
    asked = check_sensors(sensors)
    found: list[dict[Sensor, NDArray[np.float32]]] = []
    facts = _Facts()
    for batch in batches(dataset, asked, batch_size, num_workers):
        present = [s for s in asked if IMAGE_KEYS[s] in batch]
        found.append({s: _statistics(batch[IMAGE_KEYS[s]]) for s in present})
        facts.add(batch)
    columns = [_column(found, s, facts.sizes) for s in asked if any(s in f for f in found)]
    if not columns:
        raise SampleError(
            f"no sample of the dataset holds an image of {' or '.join(asked)}; nothing to describe."
        )
    return facts.embeddings(np.concatenate(columns, axis=1))


def observed_patches(batch: Batch, encoder: Encoder) -> Tensor:
    """Whether each patch has an observed value in any band that the encoder uses: bool (B,)."""
    parts: list[Tensor] = []
    for sensor in encoder.sensors:
        image: Tensor | None = batch.get(IMAGE_KEYS[sensor])
        if image is None:
            continue
        names = batch_bands(batch, sensor) or DEFAULT_BANDS[sensor]
        used = [i for i, name in enumerate(names) if name in encoder.bands[sensor]]
        parts.append(torch.isfinite(image[:, used]).flatten(1).any(dim=1))
    if not parts:
        return torch.zeros(_count(batch), dtype=torch.bool)
    return torch.stack(parts).any(dim=0)


def take(batch: Batch, chosen: Tensor) -> Batch:
    """The chosen patches of a batch.

    Example:
        >>> take({"label": torch.tensor([4, 5])}, torch.tensor([False, True]))
        {'label': tensor([5])}
    """
    places = chosen.nonzero().flatten().tolist()
    return {
        k: v[chosen] if isinstance(v, Tensor) else [v[i] for i in places] for k, v in batch.items()
    }


class _Facts:
    """Meta and labels of the batches gone by."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.metas: list[PatchMeta] = []
        self.labels: list[Tensor] = []

    def add(self, batch: Batch) -> None:
        self.sizes.append(_count(batch))
        self.metas += batch.get("meta", [])
        if isinstance(batch.get("label"), Tensor):
            self.labels.append(batch["label"].long())

    def embeddings(self, vectors: NDArray[np.float32]) -> Embeddings:
        labels = torch.cat(self.labels).numpy() if self.labels else None
        return Embeddings(vectors, tuple(self.metas), labels)


@contextmanager
def evaluating(module: Any) -> Iterator[torch.device]:
    """The device of a module, which is in evaluation mode meanwhile and makes no gradients."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with torch.inference_mode():
            yield next(module.parameters()).device
    finally:
        for part, training in modes:
            part.training = training


def batches(
    dataset: Samples, sensors: Sequence[str], batch_size: int, num_workers: int
) -> Iterator[Batch]:
    """Batches in which other sensors were not observed."""
    dropped = {IMAGE_KEYS[s] for s in SENSORS if s not in check_sensors(sensors)}
    for batch in in_order(dataset, batch_size=batch_size, num_workers=num_workers):
        yield {k: torch.full_like(v, torch.nan) if k in dropped else v for k, v in batch.items()}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on a device."""
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def _count(batch: Batch) -> int:
    return next(len(v) for v in batch.values() if isinstance(v, Tensor | list))


def _column(
    found: Sequence[dict[Sensor, NDArray[np.float32]]], sensor: Sensor, sizes: Sequence[int]
) -> NDArray[np.float32]:
    """Statistics of one sensor over all batches, NaN for a batch without it."""
    width = next(f[sensor].shape[1] for f in found if sensor in f)
    blanks = (np.full((n, width), np.nan, np.float32) for n in sizes)
    return np.concatenate([f.get(sensor, b) for f, b in zip(found, blanks, strict=True)])


def _statistics(image: Tensor) -> NDArray[np.float32]:
    values = image.double().flatten(2)
    seen = torch.isfinite(values)
    count = seen.sum(-1)
    mean = torch.where(seen, values, 0).sum(-1) / count  # 0 / 0 is NaN: not observed
    spread = torch.where(seen, values - mean.unsqueeze(-1), 0).square().sum(-1) / count
    statistics: NDArray[np.float32] = torch.cat([mean, spread.sqrt()], 1).float().numpy()
    return statistics
