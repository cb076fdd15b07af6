"""From a patch of a corpus to a sample: what `DeepSentinelDataset` and `DeepSentinelStream` share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepsentinel.bands import Sensor
from deepsentinel.corpus.codes import CLOUD_UNKNOWN
from deepsentinel.corpus.fetch import FetchedPatch
from deepsentinel.corpus.format import LabelSpec
from deepsentinel.corpus.patch import PatchRecord
from deepsentinel.corpus.protocol import PatchSource, Room, View
from deepsentinel.datasets.request import Request
from deepsentinel.errors import LabelError
from deepsentinel.memory import batch_memory
from deepsentinel.sample import (
    IGNORE_INDEX,
    IMAGE_KEYS,
    PatchMeta,
    Sample,
    SampleList,
)
from deepsentinel.store import is_local

FETCHED_TOGETHER = 32
"""Patches of a batch that are asked for in one round of requests; a local file is asked one by one,
so that the bytes of a patch are decoded while they lie in the cache."""
_HIDING = (1, 3)
"""First and last of thick cloud, thin cloud, shadow in `deepsentinel.corpus.codes.CLOUD_CLASSES`."""
_META_FACTS = (
    "id",
    "lon",
    "lat",
    "crs",
    "transform",
    "date_s1",
    "date_s2",
    "orbit_s1",
    "product_s1",
    "product_s2",
    "level_s1",
    "level_s2",
)


@dataclass(frozen=True)
class SampleReader:
    """Samples of a corpus by the numbers of its patches."""

    corpus: PatchSource
    request: Request

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """Sensors that are read."""
        return tuple(self.request.bands)

    def read(self, number: int) -> Sample:
        """The sample of one patch, with `meta` first.

        Raises:
            CorruptCorpusError: stored bytes are damaged.
        """
        arrays = self.corpus.read_physical(
            number,
            sensors=self.sensors,
            bands=self.request.bands,
            rasters=self.request.rasters,
        )
        return self._sample(number, arrays)

    def fetch(self, numbers: Sequence[int]) -> list[FetchedPatch]:
        """Stored bytes of several patches, for `decode`."""
        return self.corpus.fetch(numbers, sensors=self.sensors, rasters=self.request.rasters)

    def stored_bytes(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes that reading each of some patches moves."""
        return self.corpus.stored_bytes(numbers, sensors=self.sensors, rasters=self.request.rasters)

    def decode(
        self,
        patch: FetchedPatch,
        *,
        room: Room | None = None,
        view: View | None = None,
        record: PatchRecord | None = None,
    ) -> Sample:
        """The sample of a patch that `fetch` brought, the same as `read` gives.

        Args:
            patch: its bytes.
            room: arrays that sensors are decoded into instead of fresh ones.
            view: what of it to show, where no labels are read; `meta` tells of the whole patch.
            record: its facts, where they are at hand.
        """
        arrays = self.corpus.decode(
            patch,
            sensors=self.sensors,
            bands=self.request.bands,
            rasters=self.request.rasters,
            room=room,
            view=view,
        )
        return self._sample(patch.number, arrays, record)

    def read_together(
        self,
        numbers: Sequence[int],
        *,
        decode: Callable[[FetchedPatch, Room], Sample] | None = None,
        size: int | None = None,
    ) -> SampleList:
        """Samples of several patches, fetched together and decoded into the memory of one batch.

        The same samples as `read` gives one by one.

        Args:
            numbers: of the patches.
            decode: makes the samples, called in their order, instead of the method of that name.
            size: side of its images, if not that of the patches.

        Raises:
            CorruptCorpusError: stored bytes are damaged.
        """
        side = size or self.corpus.info.patch_size
        images = {
            s: batch_memory((len(numbers), len(names), side, side))
            for s, names in self.request.bands.items()
        }

        samples: list[Sample] = []
        together = 1 if is_local(self.corpus.url) else FETCHED_TOGETHER
        for first in range(0, len(numbers), together):
            for patch in self.fetch(numbers[first : first + together]):
                room = {s: tensor[len(samples)].numpy() for s, tensor in images.items()}
                made = self.decode(patch, room=room) if decode is None else decode(patch, room)
                samples.append(made)
        return SampleList(samples, images)

    def _sample(
        self, number: int, arrays: Mapping[str, NDArray[Any]], record: PatchRecord | None = None
    ) -> Sample:
        record = record or self.corpus.record(number)
        if self.request.hide_clouds and "s2" in arrays and "cloud" in arrays:
            _hide(arrays["s2"], arrays["cloud"])
        held = {s: self.request.bands[s] for s in self.sensors if s in arrays}
        sample: Sample = {"meta": _meta(record, held)}
        for sensor in held:
            sample[IMAGE_KEYS[sensor]] = torch.from_numpy(arrays[sensor])
        for spec in self.request.labels:
            sample.update(self._label(spec, record, arrays.get(spec.name)))
        for extra in self.request.extras:
            sample[extra] = self._extra(extra, arrays.get(extra))
        return sample

    def _label(
        self, spec: LabelSpec, record: PatchRecord, raster: NDArray[Any] | None
    ) -> dict[str, Tensor]:
        size = (self.corpus.info.patch_size, self.corpus.info.patch_size)
        value: Any = record.labels.get(spec.name)
        if spec.kind == "mask":
            mask = np.full(size, IGNORE_INDEX) if raster is None else raster
            return {"mask": torch.from_numpy(mask.astype(np.int64))}
        if spec.kind == "target" and spec.is_raster:
            pixels = np.full((len(spec.channels), *size), np.nan) if raster is None else raster
            return {"target": torch.from_numpy(pixels.astype(np.float32, copy=False))}
        if spec.kind == "target":
            values = (np.nan,) * len(spec.channels) if value is None else value
            return {"target": torch.tensor(values, dtype=torch.float32)}
        if spec.kind == "label":
            return {"label": torch.tensor(IGNORE_INDEX if value is None else value)}
        if spec.kind == "multilabel":
            return {"label": _multi_hot(spec, value)}
        return _boxes(spec, record, value)

    def _extra(self, name: Literal["cloud", "dem"] | str, raster: NDArray[Any] | None) -> Tensor:
        size = (self.corpus.info.patch_size, self.corpus.info.patch_size)
        if raster is not None:
            return torch.from_numpy(raster)
        if name == "cloud":
            return torch.full(size, CLOUD_UNKNOWN, dtype=torch.uint8)
        return torch.full(size, float("nan"))


def _hide(s2: NDArray[np.float32], cloud: NDArray[np.uint8]) -> None:
    """Make S2 not observed under clouds and shadows, in place; band by band is the fastest way."""
    hidden = (cloud >= _HIDING[0]) & (cloud <= _HIDING[1])
    if hidden.any():
        for plane in s2:
            np.copyto(plane, np.nan, where=hidden)


def _meta(record: PatchRecord, held: Mapping[Sensor, tuple[str, ...]]) -> PatchMeta:
    facts = {name: getattr(record, name) for name in _META_FACTS}
    return PatchMeta(**facts, bands_s1=held.get("s1", ()), bands_s2=held.get("s2", ()))


def _multi_hot(spec: LabelSpec, ids: Sequence[int] | None) -> Tensor:
    if spec.scheme is None:
        raise LabelError(f"multilabel {spec.name!r} has no scheme, so its classes are not counted.")
    if ids is None:
        return torch.full((len(spec.scheme),), IGNORE_INDEX)
    present = torch.zeros(len(spec.scheme), dtype=torch.int64)
    present[list(ids)] = 1
    return present


def _boxes(spec: LabelSpec, record: PatchRecord, rows: Any) -> dict[str, Tensor]:
    if rows is None:
        raise LabelError(
            f"boxes {spec.name!r} of patch {record.id!r} are not known, which is not the same as "
            "none. Leave the patch out of the dataset, or the label out of labels."
        )
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return {"bbox_xyxy": table[:, :4].contiguous(), "label": table[:, 4].to(torch.int64)}
