"""What is classified, patches or pixels sampled from them, and the vectors that describe it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from deepsentinel.bands import SENSORS
from deepsentinel.errors import LabelError
from deepsentinel.features import Encoder, Features
from deepsentinel.sample import IGNORE_INDEX, PatchMeta
from deepsentinel.training.evaluation.conditions import Condition, Conditioned
from deepsentinel.training.evaluation.controls import pixel_statistics
from deepsentinel.training.evaluation.embed import (
    Samples,
    band_statistics,
    batches,
    embed,
    evaluating,
    observed_patches,
    take,
    to_device,
)
from deepsentinel.training.evaluation.intervals import Floats
from deepsentinel.training.evaluation.metrics import Kind
from deepsentinel.training.evaluation.probe import Vectors, spatial_blocks


@dataclass(frozen=True, eq=False, kw_only=True)
class Units:
    """Labelled patches, or labelled pixels, and where they lie.

    U units of P patches.
    """

    kind: Kind
    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    """(U,) class ids or (U, K) multi-hot."""
    patch: NDArray[np.intp]
    """(U,) the patch of each unit."""
    pixel: NDArray[np.intp]
    """(U,) row * W + column of each pixel; empty where units are patches."""
    metas: tuple[PatchMeta, ...]
    """Of each patch."""
    hidden: NDArray[np.float64]
    """(P,) share of Sentinel-2 that was not observed: under clouds, or not there at all."""

    @property
    def patches(self) -> int:
        """P."""
        return len(self.metas)

    @property
    def lonlat(self) -> Floats:
        """(P, 2) degrees; NaN where not known."""
        rows = [[np.nan if v is None else v for v in (m.lon, m.lat)] for m in self.metas]
        return np.array(rows, dtype=np.float64).reshape(-1, 2)

    def blocks(self, block_km: float | None) -> NDArray[np.intp]:
        """(P,) spatial blocks; each patch is one of its own where `block_km` is `None`."""
        if block_km is None:
            return np.arange(self.patches, dtype=np.intp)
        return spatial_blocks(self.lonlat, block_km=block_km)

    def occurring(self, least: int = 1) -> "Units":
        """Only the classes that are on at least so many units; ids count anew.

        Units of another class, or of none that is left, go.

        Raises:
            LabelError: fewer than two classes would be left, or in multi-label none.
        """
        multi = self.kind == "multi"
        count = len(self.class_names)
        found = (
            (self.labels == 1).sum(axis=0) if multi else np.bincount(self.labels, minlength=count)
        )
        kept = np.flatnonzero(found >= least)
        if len(kept) < (1 if multi else 2):
            raise LabelError(
                f"{len(kept)} of {count} classes occur on at least {least} labelled "
                f"{'pixels' if self.kind == 'pixels' else 'patches'}; nothing can be told apart. "
                "Take another label, more patches, or a smaller least_units."
            )
        return self.only(kept)

    def only(self, classes: NDArray[Any]) -> "Units":
        """The units of some classes, whose ids then count in the given order."""
        names = tuple(self.class_names[k] for k in classes)
        if self.kind == "multi":
            labels, stay = self.labels[:, classes], np.ones(len(self.labels), dtype=bool)
        else:
            ids = np.full(len(self.class_names), IGNORE_INDEX)
            ids[classes] = np.arange(len(classes))
            labels = ids[self.labels]
            stay = labels != IGNORE_INDEX
        return self.some(stay, class_names=names, labels=labels)

    def some(
        self,
        stay: NDArray[np.bool_],
        *,
        class_names: tuple[str, ...] | None = None,
        labels: NDArray[np.int64] | None = None,
    ) -> "Units":
        """Some of the units, perhaps under other labels; patches keep their numbers."""
        return replace(
            self,
            class_names=self.class_names if class_names is None else class_names,
            labels=(self.labels if labels is None else labels)[stay],
            patch=self.patch[stay],
            pixel=self.pixel[stay] if len(self.pixel) else self.pixel,
        )

    def of(self, patches: NDArray[Any]) -> NDArray[np.intp]:
        """The units of some patches."""
        return np.flatnonzero(np.isin(self.patch, patches))


def patch_units(dataset: Samples, class_names: Sequence[str]) -> Units:
    """Every patch with a `label`; patches of which it is not known are no units.

    Raises:
        LabelError: no label, or labels that do not fit the class names.
    """
    labels, metas, hidden = [], [], []
    for index in range(len(dataset)):  # type: ignore[arg-type]
        sample = dataset[index]
        if "label" not in sample:
            raise LabelError(
                f"sample {index} has no 'label'; it holds {sorted(sample)}. Read the dataset with "
                "labels=... that name one."
            )
        labels.append(np.asarray(sample["label"]))
        metas.append(_meta(sample, index))
        hidden.append(_hidden(sample))
    stacked = np.stack(labels).astype(np.int64)
    _check(stacked, len(class_names))
    known = (stacked != IGNORE_INDEX).reshape(len(stacked), -1).any(axis=1)
    return Units(
        kind="multi" if stacked.ndim == 2 else "single",
        class_names=tuple(class_names),
        labels=stacked[known],
        patch=np.flatnonzero(known),
        pixel=np.empty(0, dtype=np.intp),
        metas=tuple(metas),
        hidden=np.array(hidden),
    )


def pixel_units(
    dataset: Samples,
    class_names: Sequence[str],
    *,
    pixels: int = 32,
    seed: int = 0,
) -> Units:
    """Some labelled pixels of the `mask` of every patch, drawn by the seed and the patch id.

    Raises:
        LabelError: no mask, or classes that do not fit the class names.
    """
    labels, places, owners, metas, hidden = [], [], [], [], []
    for index in range(len(dataset)):  # type: ignore[arg-type]
        sample = dataset[index]
        if "mask" not in sample:
            raise LabelError(
                f"sample {index} has no 'mask'; it holds {sorted(sample)}. Read the dataset with "
                "labels=... that name one."
            )
        meta = _meta(sample, index)
        mask = np.asarray(sample["mask"]).reshape(-1)
        generator = np.random.default_rng([seed, crc32(meta.id.encode())])
        drawn = generator.permutation(np.flatnonzero(mask != IGNORE_INDEX))[:pixels]
        labels.append(mask[drawn])
        places.append(drawn)
        owners.append(np.full(len(drawn), index))
        metas.append(meta)
        hidden.append(_hidden(sample))
    stacked = np.concatenate(labels).astype(np.int64)
    _check(stacked, len(class_names))
    return Units(
        kind="pixels",
        class_names=tuple(class_names),
        labels=stacked,
        patch=np.concatenate(owners).astype(np.intp),
        pixel=np.concatenate(places).astype(np.intp),
        metas=tuple(metas),
        hidden=np.array(hidden),
    )


def describe(
    by: Encoder | None,
    dataset: Samples,
    units: Units,
    condition: Condition,
    *,
    seed: int = 0,
    batch_size: int = 32,
    num_workers: int = 0,
) -> Vectors:
    """The vector (U, D) of each unit under a condition: float32, NaN where nothing was observed.

    Args:
        by: an encoder, whose embedding describes patches and whose maps describe pixels; `None`
            for statistics of the bands of each patch, or around each pixel.
        dataset: the samples that `units` were taken from.
        units: what to describe.
        condition: what is shown.
        seed: decides the simulated clouds.
        batch_size: patches a batch.
        num_workers: worker processes that read.
    """
    shown = Conditioned(dataset, condition, seed=seed)
    if units.kind != "pixels":
        found = (
            band_statistics(shown, batch_size=batch_size, num_workers=num_workers)
            if by is None
            else embed(by, shown, batch_size=batch_size, num_workers=num_workers)
        )
        return found.vectors[units.patch]
    if by is None:
        return _pixel_statistics(shown, units)
    return _pixel_features(by, shown, units, batch_size, num_workers)


def at_pixels(features: Features, rows: NDArray[Any], columns: NDArray[Any]) -> Vectors:
    """All maps of one patch at some pixels, interpolated between the centres of their cells.

    Args:
        features: of a batch of one.
        rows: (N,) of the input.
        columns: (N,) of the input.

    Returns:
        float32 (N, sum of C_i).

    Example:
        >>> maps = (torch.tensor([[[[0.0, 4.0]]]]),)
        >>> f = Features(torch.zeros(1, 1), maps, (2,))
        >>> at_pixels(f, np.array([0, 0, 1]), np.array([0, 1, 2])).tolist()
        [[0.0], [1.0], [3.0]]
    """
    x, y = torch.as_tensor(columns) + 0.5, torch.as_tensor(rows) + 0.5
    found = []
    for level, stride in zip(features.maps, features.strides, strict=True):
        height, width = level.shape[-2:]
        place = torch.stack([2 * x / (stride * width) - 1, 2 * y / (stride * height) - 1], dim=-1)
        grid = place.to(level.device, torch.float32)[None, None]  # (1, 1, N, 2)
        sampled = F.grid_sample(
            level.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
        )
        found.append(sampled[0, :, 0].T)
    vectors: Vectors = torch.cat(found, dim=1).cpu().numpy()
    return vectors


def _pixel_features(
    encoder: Encoder, dataset: Conditioned, units: Units, batch_size: int, num_workers: int
) -> Vectors:
    found = np.full((len(units.patch), sum(encoder.out_channels)), np.nan, dtype=np.float32)
    first = 0
    with evaluating(encoder) as device:
        for batch in batches(dataset, SENSORS, batch_size, num_workers):
            observed = observed_patches(batch, encoder)
            if bool(observed.any()):
                features = encoder.encode(to_device(take(batch, observed), device))
                width = next(v for k, v in batch.items() if k.startswith("image_")).shape[-1]
                for row, patch in enumerate(first + observed.nonzero().flatten().numpy()):
                    mine = units.patch == patch
                    one = Features(
                        features.embedding[row : row + 1],
                        tuple(m[row : row + 1] for m in features.maps),
                        features.strides,
                    )
                    rows, columns = np.divmod(units.pixel[mine], width)
                    found[mine] = at_pixels(one, rows, columns)
            first += len(observed)
    return found


def _pixel_statistics(dataset: Conditioned, units: Units) -> Vectors:
    found = [
        pixel_statistics(dataset[patch])[units.pixel[units.patch == patch]]
        for patch in range(units.patches)
    ]
    widest = max(f.shape[1] for f in found)
    if any(f.shape[1] != widest for f in found if len(f)):
        raise LabelError(
            "patches of the corpus hold different sensors or bands, so that statistics of their "
            "pixels have different lengths. Read them with sensors=... that all have."
        )
    return np.concatenate(found)


def _meta(sample: dict[str, Any], index: int) -> PatchMeta:
    meta = sample.get("meta")
    return meta if isinstance(meta, PatchMeta) else PatchMeta(id=f"patch {index}")


def _hidden(sample: dict[str, Any]) -> float:
    image = sample.get("image_s2")
    return 1.0 if image is None else 1 - float(torch.isfinite(image).any(dim=0).float().mean())


def _check(labels: NDArray[np.int64], count: int) -> None:
    wrong = labels.shape[1] != count if labels.ndim == 2 else bool((labels >= count).any())
    if labels.ndim > 2 or not labels.size or wrong:
        raise LabelError(
            f"labels of shape {labels.shape} with ids up to "
            f"{labels.max() if labels.size else 'none'} do not fit {count} classes; class ids "
            "(N,), or multi-hot (N, classes), are expected."
        )
    if bool((labels < IGNORE_INDEX).any()):
        raise LabelError(f"labels hold {labels.min()}; class ids count from 0, -1 is not known.")
