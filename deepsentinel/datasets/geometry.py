"""Exact moves of a whole sample: flips, right angles and crops.

Every raster of the sample, its boxes and the geotransform in `meta` move together. Nothing is
resampled, so a NaN stays one NaN and a value keeps its last bit.
"""

from dataclasses import replace
from functools import lru_cache

import torch
from pyproj import Transformer
from torch import Tensor

from deepsentinel.errors import SampleError, ShapeError
from deepsentinel.sample import PatchMeta, Sample

RASTER_KEYS: tuple[str, ...] = ("image_s1", "image_s2", "mask", "cloud", "dem", "target", "image")
"""Keys whose last two axes are rows and columns; `target` only where it has three axes."""

Affine = tuple[float, float, float, float, float, float]


def raster_keys(sample: Sample) -> tuple[str, ...]:
    """Keys of the sample that hold rasters.

    Example:
        >>> raster_keys({"mask": torch.zeros(4, 4), "target": torch.zeros(3)})
        ('mask',)
    """
    return tuple(
        k for k in RASTER_KEYS if k in sample and not (k == "target" and sample[k].ndim < 3)
    )


def size(sample: Sample) -> tuple[int, int]:
    """Rows and columns of the sample.

    Raises:
        SampleError: it holds no raster.
        ShapeError: its rasters differ in size.

    Example:
        >>> size({"image_s1": torch.zeros(2, 8, 6), "mask": torch.zeros(8, 6)})
        (8, 6)
    """
    sizes = {key: (sample[key].shape[-2], sample[key].shape[-1]) for key in raster_keys(sample)}
    if not sizes:
        raise SampleError(
            f"the sample holds no raster; found {sorted(sample)}, expected some of {RASTER_KEYS}."
        )
    if len(set(sizes.values())) > 1:
        raise ShapeError(f"rasters of one sample differ in size: {sizes}. Bring them to one grid.")
    return next(iter(sizes.values()))


def hflip(sample: Sample) -> Sample:
    """The sample mirrored left to right.

    Example:
        >>> hflip({"mask": torch.tensor([[1, 2, 3]])})["mask"].tolist()
        [[3, 2, 1]]
    """
    width = size(sample)[1]
    out = {**sample, **{k: torch.flip(sample[k], (-1,)) for k in raster_keys(sample)}}
    if "bbox_xyxy" in sample:
        x0, y0, x1, y1 = sample["bbox_xyxy"].unbind(-1)
        out["bbox_xyxy"] = torch.stack((width - x1, y0, width - x0, y1), dim=-1)
    return _moved(out, (-1, 0, width, 0, 1, 0))


def vflip(sample: Sample) -> Sample:
    """The sample mirrored top to bottom.

    Example:
        >>> vflip({"mask": torch.tensor([[1], [2]])})["mask"].tolist()
        [[2], [1]]
    """
    height = size(sample)[0]
    out = {**sample, **{k: torch.flip(sample[k], (-2,)) for k in raster_keys(sample)}}
    if "bbox_xyxy" in sample:
        x0, y0, x1, y1 = sample["bbox_xyxy"].unbind(-1)
        out["bbox_xyxy"] = torch.stack((x0, height - y1, x1, height - y0), dim=-1)
    return _moved(out, (1, 0, 0, 0, -1, height))


def rot90(sample: Sample, turns: int = 1) -> Sample:
    """The sample turned counter-clockwise by right angles.

    Args:
        sample: rasters of one size; it need not be square.
        turns: number of right angles; any integer.

    Example:
        >>> rot90({"mask": torch.tensor([[1, 2], [3, 4]])})["mask"].tolist()
        [[2, 4], [1, 3]]
    """
    for _ in range(turns % 4):
        sample = _quarter(sample)
    return dict(sample)


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """A window of the sample.

    Boxes are cut to the window; those outside are dropped with their labels. A class of the whole
    patch (`label` without boxes) stays as it was. `lon` and `lat` become those of the new centre
    where `meta` has a grid.

    Raises:
        ShapeError: the window does not lie within the sample.

    Example:
        >>> crop({"mask": torch.arange(9).reshape(3, 3)}, 1, 0, 2, 2)["mask"].tolist()
        [[3, 4], [6, 7]]
    """
    rows, columns = size(sample)
    inside = 0 <= top <= top + height <= rows and 0 <= left <= left + width <= columns
    if not inside or height < 1 or width < 1:
        raise ShapeError(
            f"window of {height}x{width} px at row {top}, column {left} does not lie within the "
            f"sample of {rows}x{columns} px. Ask for a smaller window."
        )
    window = (..., slice(top, top + height), slice(left, left + width))
    out = {**sample, **{k: sample[k][window] for k in raster_keys(sample)}}
    if "bbox_xyxy" in sample:
        out.update(_cropped_boxes(sample, top, left, height, width))
    out = _moved(out, (1, 0, left, 0, 1, top))
    if "meta" in out and (height, width) != (rows, columns):
        out["meta"] = _recentred(out["meta"], height, width)
    return out


def _quarter(sample: Sample) -> Sample:
    width = size(sample)[1]
    out = {**sample, **{k: torch.rot90(sample[k], 1, (-2, -1)) for k in raster_keys(sample)}}
    if "bbox_xyxy" in sample:
        x0, y0, x1, y1 = sample["bbox_xyxy"].unbind(-1)
        out["bbox_xyxy"] = torch.stack((y0, width - x1, y1, width - x0), dim=-1)
    return _moved(out, (0, -1, width, 1, 0, 0))


def _cropped_boxes(
    sample: Sample, top: int, left: int, height: int, width: int
) -> dict[str, Tensor]:
    boxes: Tensor = sample["bbox_xyxy"] - sample["bbox_xyxy"].new_tensor((left, top, left, top))
    limits = boxes.new_tensor((width, height, width, height))
    boxes = boxes.clamp(min=0).minimum(limits)
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    out = {"bbox_xyxy": boxes[kept]}
    if "label" in sample:
        out["label"] = sample["label"][kept]
    return out


def _moved(sample: Sample, old_from_new: Affine) -> Sample:
    """The sample with its geotransform joined to the pixel map (new column, row to old ones)."""
    meta = sample.get("meta")
    if meta is None or meta.transform is None:
        return sample
    return {**sample, "meta": replace(meta, transform=_compose(meta.transform, old_from_new))}


def _compose(outer: Affine, inner: Affine) -> Affine:
    """The affine map that applies `inner`, then `outer`."""
    a, b, c, d, e, f = outer
    p, q, r, s, t, u = inner
    return (
        a * p + b * s,
        a * q + b * t,
        a * r + b * u + c,
        d * p + e * s,
        d * q + e * t,
        d * r + e * u + f,
    )


def _recentred(meta: PatchMeta, height: int, width: int) -> PatchMeta:
    if meta.crs is None or meta.transform is None or meta.lon is None:
        return meta
    a, b, c, d, e, f = meta.transform
    x = a * width / 2 + b * height / 2 + c
    y = d * width / 2 + e * height / 2 + f
    lon, lat = _to_lonlat(meta.crs).transform(x, y)
    return replace(meta, lon=float(lon), lat=float(lat))


@lru_cache(maxsize=64)
def _to_lonlat(crs: str) -> Transformer:
    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
