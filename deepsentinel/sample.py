"""The value that flows from data to model: `Sample`, its `PatchMeta`, and `collate`.

A sample is a plain dict, so that `DataLoader`, torchgeo transforms and kornia work on it. Keys,
shapes and units are in `SAMPLE_KEYS`. What was not observed is NaN; an absent sensor key means
that the whole sensor was not observed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from deepsentinel.bands import SENSORS, Sensor
from deepsentinel.errors import CollateError, SampleError
from deepsentinel.memory import batch_memory

Sample: TypeAlias = dict[str, Any]
"""One patch, keys as in `SAMPLE_KEYS`."""
Batch: TypeAlias = dict[str, Any]
"""Patches stacked along a first axis B; `meta` is a list."""

IMAGE_KEYS: dict[Sensor, str] = {"s1": "image_s1", "s2": "image_s2"}
NEIGHBOUR_KEYS: dict[Sensor, str] = {"s1": "neighbour_s1", "s2": "neighbour_s2"}
"""Images of a patch near by, where a dataset brings them."""
IGNORE_INDEX = -1
"""Pixel of `mask` that no loss and no score counts."""

SAMPLE_KEYS: dict[str, str] = {
    "image_s1": "float32 (2, H, W), backscatter in dB, VV then VH",
    "image_s2": "float32 (12, H, W), surface reflectance 0-1, Copernicus band order",
    "mask": "int64 (H, W), segmentation target, -1 = ignore",
    "label": "int64 () or (C,), class or multi-hot; with bbox_xyxy (N,)",
    "bbox_xyxy": "float32 (N, 4), boxes in pixels",
    "target": "float32 (K, H, W) or (K,), regression target, NaN = not known",
    "cloud": "uint8 (H, W), cloud and shadow classes",
    "dem": "float32 (H, W), elevation in metres, NaN = not known",
    "meta": "PatchMeta",
}


@dataclass(frozen=True, kw_only=True)
class PatchMeta:
    """Where a patch comes from. What is not known is `None`."""

    id: str
    lon: float | None = None
    """Longitude of the centre in degrees, WGS 84."""
    lat: float | None = None
    """Latitude of the centre in degrees, WGS 84."""
    crs: str | None = None
    """Such as `EPSG:32633`."""
    transform: tuple[float, float, float, float, float, float] | None = None
    """Affine (a, b, c, d, e, f): x = a col + b row + c, y = d col + e row + f."""
    date_s1: datetime | None = None
    """UTC."""
    date_s2: datetime | None = None
    """UTC."""
    orbit_s1: str | None = None
    """`ascending` or `descending`."""
    product_s1: str | None = None
    product_s2: str | None = None
    level_s1: str | None = None
    """`GRD` or `RTC`."""
    level_s2: str | None = None
    """`L1C` or `L2A`."""
    bands_s1: tuple[str, ...] = ()
    """Bands in `image_s1`, in its order; empty where the sensor is absent."""
    bands_s2: tuple[str, ...] = ()
    """Bands in `image_s2`, in its order; empty where the sensor is absent."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Itself: lets Lightning move a batch that holds it."""
        return self

    def bands(self, sensor: Sensor) -> tuple[str, ...]:
        """Bands in the tensor of one sensor."""
        return self.bands_s1 if sensor == "s1" else self.bands_s2


class SampleList(list[Sample]):
    """Samples whose images lie one behind the other in the memory of a batch.

    `collate` hands that memory on instead of copying it, where the images still are what was read.

    Args:
        samples: in the order of the batch.
        images: float32 (B, bands, H, W) by sensor, which the samples' images are views of.
    """

    def __init__(self, samples: Sequence[Sample], images: Mapping[Sensor, Tensor]) -> None:
        super().__init__(samples)
        self._images = images

    def whole(self, sensor: Sensor) -> Tensor | None:
        """The images of a sensor as one tensor, NaN where a sample has none.

        `None` where some image lies elsewhere by now.
        """
        images, key = self._images.get(sensor), IMAGE_KEYS[sensor]
        if images is None or len(images) != len(self):
            return None
        if not all(_same_memory(s[key], i) for s, i in zip(self, images, strict=True) if key in s):
            return None
        for sample, image in zip(self, images, strict=True):
            if key not in sample:
                image.fill_(torch.nan)
        return images


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return (
        one.data_ptr() == other.data_ptr()
        and one.shape == other.shape
        and one.stride() == other.stride()
        and one.dtype == other.dtype
    )


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch; a sensor that some of them lack becomes NaN there.

    Args:
        samples: dicts as `DeepSentinelDataset` returns them. All have the same size, the same
            targets and, where a sensor is present, the same bands of it.

    Returns:
        Tensors with a first axis B; `meta` a list; with `bbox_xyxy`, boxes and their labels are
        lists of tensors, as torchvision's detectors take them.

    Raises:
        CollateError: sizes, bands or keys differ in a way that NaN cannot express.

    Example:
        >>> a = {"meta": PatchMeta(id="a", bands_s1=("VV", "VH")), "image_s1": torch.zeros(2, 4, 4)}
        >>> b = {"meta": PatchMeta(id="b")}
        >>> collate([a, b])["image_s1"].isnan().any(dim=(1, 2, 3)).tolist()
        [False, True]
    """
    if not samples:
        raise CollateError("collate was given no samples.")
    batch: Batch = {}
    for sensor in SENSORS:
        stacked = _stack_sensor(samples, sensor)
        if stacked is not None:
            batch[IMAGE_KEYS[sensor]] = stacked
    boxes = any("bbox_xyxy" in s for s in samples)
    for key in _common_keys(samples):
        values = [s[key] for s in samples]
        if key == "meta" or (boxes and key in {"bbox_xyxy", "label"}):
            batch[key] = values
        elif isinstance(values[0], Tensor):
            batch[key] = _stack(values, key, samples)
        else:
            batch[key] = torch.utils.data.default_collate(values)
    return batch


def batch_bands(batch: Batch, sensor: Sensor) -> tuple[str, ...] | None:
    """Band names of one sensor's tensor in a batch, from its `meta`; `None` where it says nothing.

    Raises:
        SampleError: patches of the batch name different bands.
    """
    metas: Sequence[PatchMeta] = batch.get("meta", ())
    named = {m.bands(sensor) for m in metas if m.bands(sensor)}
    if len(named) > 1:
        raise SampleError(
            f"patches of one batch name different bands of {sensor}: {sorted(named)}. "
            "Read them with the same bands=..., or in separate batches."
        )
    return named.pop() if named else None


def _common_keys(samples: Sequence[Sample]) -> list[str]:
    images = set(IMAGE_KEYS.values())
    keys = [k for k in samples[0] if k not in images]
    for place, sample in enumerate(samples):
        differing = {k for k in sample if k not in images} ^ set(keys)
        if differing:
            raise CollateError(
                f"sample {place} ({_name(sample)}) and sample 0 ({_name(samples[0])}) differ in "
                f"{sorted(differing)}. Only a sensor may be absent from some samples of a batch; "
                "read targets with the same labels=... for all."
            )
    return keys


def _stack_sensor(samples: Sequence[Sample], sensor: Sensor) -> Tensor | None:
    key = IMAGE_KEYS[sensor]
    present = [s[key] for s in samples if key in s]
    if not present:
        return None
    bands = {m.bands(sensor) for s in samples if (m := s.get("meta")) and m.bands(sensor)}
    if len(bands) > 1:
        raise CollateError(
            f"samples of one batch hold different bands of {key}: {sorted(bands)}. "
            "Read them with the same bands=...."
        )
    whole = samples.whole(sensor) if isinstance(samples, SampleList) else None
    if whole is not None:
        return whole
    absent = torch.full_like(present[0], float("nan"))
    return _stack([s.get(key, absent) for s in samples], key, samples)


def _stack(values: Sequence[Tensor], key: str, samples: Sequence[Sample]) -> Tensor:
    for place, value in enumerate(values):
        if value.shape != values[0].shape:
            raise CollateError(
                f"{key} of sample {place} ({_name(samples[place])}) has shape "
                f"{tuple(value.shape)}, of sample 0 ({_name(samples[0])}) {tuple(values[0].shape)}. "
                "Crop or pad to one size before batching."
            )
    first = values[0]
    if first.requires_grad or first.device.type != "cpu":
        return torch.stack(list(values))
    return torch.stack(
        list(values), out=batch_memory((len(values), *first.shape), dtype=first.dtype)
    )


def _name(sample: Sample) -> str:
    meta = sample.get("meta")
    return meta.id if isinstance(meta, PatchMeta) else "no meta"


def _collate_meta(
    batch: Sequence[PatchMeta],
    *,
    collate_fn_map: dict[type | tuple[type, ...], Callable[..., Any]] | None = None,  # noqa: ARG001
) -> list[PatchMeta]:
    """What torch's `default_collate` does with `meta`: a list, if the samples really agree."""
    for sensor in SENSORS:
        if len({m.bands(sensor) for m in batch}) > 1:
            raise CollateError(
                f"patches of one batch differ in what they hold of {sensor}: "
                f"{[(m.id, m.bands(sensor)) for m in batch][:4]}. torch's default_collate cannot "
                "stack them: pass DataLoader(..., collate_fn=deepsentinel.collate)."
            )
    return list(batch)


default_collate_fn_map[PatchMeta] = _collate_meta
