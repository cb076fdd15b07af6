"""Pictures of patches: true colour, SAR composite, masks, boxes, legends. NumPy and matplotlib only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from deepsentinel.bands import resolve_bands
from deepsentinel.errors import BandError, LabelError, SampleError
from deepsentinel.labels import Scheme

RGB_BANDS: tuple[str, ...] = ("B04", "B03", "B02")
UNOBSERVED: tuple[int, int, int] = (255, 255, 255)
"""Colour of pixels that were not observed, and of ignored ones in masks."""
MIN_CONTRAST = 0.1
"""Least range of reflectance that `rgb` stretches: below it, a dim and even patch stays so."""
SAR_RANGES: tuple[tuple[float, float], ...] = ((-25.0, 0.0), (-32.0, -5.0), (0.0, 15.0))
"""Values in dB that become black and full colour: VV, VH, and VV - VH."""

RGBImage = NDArray[np.uint8]
"""(H, W, 3)."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes to draw into a picture."""

    corners: NDArray[Any]
    """(N, 4) x0, y0, x1, y1 in pixels."""
    labels: Sequence[int] = ()
    """N class ids; without them all boxes look alike."""
    scheme: Scheme | None = None
    """Names and colours of the classes."""
    scores: Sequence[float] = ()
    """N, where the boxes were predicted; these are dashed and say their score."""


def rgb(
    reflectance: NDArray[Any],
    bands: Sequence[str],
    *,
    percentiles: tuple[float, float] = (2.0, 98.0),
) -> RGBImage:
    """True-colour picture of a patch, stretched between two percentiles of its observed pixels.

    All three colours are stretched alike, so that hues stay. What was not observed is white.

    Args:
        reflectance: (C, H, W), 0-1 scale, NaN = not observed.
        bands: the C bands in their order; B04, B03 and B02 must be among them.
        percentiles: values that become black and white.

    Returns:
        (H, W, 3) uint8.

    Raises:
        BandError: one of B04, B03, B02 is missing.

    Example:
        >>> rgb(np.array([[[0.0, 0.3]], [[0.0, 0.3]], [[0.0, np.nan]]]), ("B04", "B03", "B02"))[0].tolist()
        [[0, 0, 0], [255, 255, 255]]
    """
    names = resolve_bands(bands, "s2")
    missing = [b for b in RGB_BANDS if b not in names]
    if missing:
        raise BandError(
            f"a true-colour picture needs B04, B03 and B02; {' '.join(missing)} "
            f"missing in bands={tuple(bands)}. Read the patch with them."
        )
    channels = np.asarray(reflectance, dtype=np.float32)[[names.index(b) for b in RGB_BANDS]]
    finite = channels[np.isfinite(channels)]
    low, high = np.percentile(finite, percentiles) if finite.size else (0.0, 1.0)
    limits = (float(low), max(float(high), float(low) + MIN_CONTRAST))
    return _bytes(channels, [limits] * 3)


def sar_composite(db: NDArray[Any], bands: Sequence[str] = ("VV", "VH")) -> RGBImage:
    """False-colour picture of backscatter: red VV, green VH, blue VV - VH; one band is grey.

    Args:
        db: (C, H, W) in dB, NaN = not observed.
        bands: the C bands in their order. Co-polarised VV or HH is red, crossed VH or HV green.

    Returns:
        (H, W, 3) uint8 over the fixed ranges of `SAR_RANGES`, so that pictures compare.

    Example:
        >>> sar_composite(np.array([[[0.0]], [[-5.0]]]))[0, 0].tolist()
        [255, 255, 85]
    """
    names = resolve_bands(bands, "s1")
    values = np.asarray(db, dtype=np.float32)
    co = next((values[names.index(b)] for b in ("VV", "HH") if b in names), None)
    cross = next((values[names.index(b)] for b in ("VH", "HV") if b in names), None)
    if co is not None and cross is not None:
        return _bytes(np.stack((co, cross, co - cross)), SAR_RANGES)
    grey, limits = (co, SAR_RANGES[0]) if co is not None else (cross, SAR_RANGES[1])
    return _bytes(np.stack([np.asarray(grey)] * 3), [limits] * 3)


def mask_image(mask: NDArray[Any], scheme: Scheme) -> RGBImage:
    """A mask in the colours of its scheme; ignored pixels (-1) are white.

    Args:
        mask: (H, W) class ids.
        scheme: classes and colours.

    Raises:
        LabelError: an id that the scheme does not have.

    Example:
        >>> from deepsentinel.labels import scheme
        >>> mask_image(np.array([[0, -1]]), scheme("worldcover"))[0].tolist()
        [[0, 100, 0], [255, 255, 255]]
    """
    ids = np.asarray(mask)
    if ids.size and (ids.min() < -1 or ids.max() >= len(scheme)):
        raise LabelError(
            f"the mask holds ids {int(ids.min())} to {int(ids.max())}; scheme {scheme.name!r} has "
            f"0 to {len(scheme) - 1}, and -1 for no class."
        )
    palette = np.vstack((scheme.palette, np.array([UNOBSERVED], dtype=np.uint8)))
    return np.asarray(palette[ids], dtype=np.uint8)


def value_image(values: NDArray[Any], limits: tuple[float, float] | None = None) -> RGBImage:
    """A quantity in colours from dark blue over green to yellow; what is not known is white.

    Args:
        values: (H, W), NaN = not known.
        limits: values at both ends of the colours; the least and greatest known one if `None`.

    Example:
        >>> value_image(np.array([[0.0, 1.0, np.nan]]))[0].tolist()
        [[68, 1, 84], [253, 231, 37], [255, 255, 255]]
    """
    from matplotlib import colormaps

    known = np.isfinite(values)
    if limits is None:
        limits = (float(values[known].min()), float(values[known].max())) if known.any() else (0, 1)
    low, high = limits
    scaled = (np.where(known, values, low) - low) / max(high - low, 1e-6)
    colours = colormaps["viridis"](np.clip(scaled, 0, 1))[..., :3]
    picture = np.rint(255 * colours).astype(np.uint8)
    picture[~known] = UNOBSERVED
    return np.asarray(picture)


def patch_figure(
    panels: Mapping[str, RGBImage],
    *,
    scheme: Scheme | None = None,
    classes: Sequence[int] = (),
    boxes: Sequence[Boxes] = (),
    show_titles: bool = True,
    suptitle: str | None = None,
) -> Figure:
    """Pictures side by side, with a legend of classes.

    Args:
        panels: (H, W, 3) uint8 by title, left to right.
        scheme: names and colours of the legend.
        classes: class ids in the legend.
        boxes: drawn into every picture; their classes join the legend.
        show_titles: whether each picture has its title.
        suptitle: title of the whole.

    Returns:
        A figure that pyplot does not know, so nothing needs to be closed.

    Example:
        >>> figure = patch_figure({"grey": np.full((8, 8, 3), 127, np.uint8)}, suptitle="one")
        >>> len(figure.axes)
        1
    """
    if not panels:
        raise SampleError("there is nothing to plot: the sample has neither a sensor nor a mask.")
    figure = Figure(figsize=(3.2 * len(panels), 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, picture) in zip(axes, panels.items(), strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_axis_off()
        if show_titles:
            axis.set_title(title)
        for group in boxes:
            _draw_boxes(axis, group)
    _add_legend(figure, _class_handles(scheme, classes) + _box_handles(boxes))
    if suptitle is not None:
        figure.suptitle(suptitle)
    return figure


def sheet_figure(
    rows: Sequence[Mapping[str, RGBImage]],
    *,
    scheme: Scheme | None = None,
    classes: Sequence[int] = (),
    captions: Sequence[str] = (),
    suptitle: str | None = None,
) -> Figure:
    """Patches below one another, the same pictures of each side by side, with a legend of classes.

    Args:
        rows: for each patch (H, W, 3) uint8 by title, left to right; what a patch lacks stays empty.
        scheme: names and colours of the legend.
        classes: class ids in the legend.
        captions: text left of each row.
        suptitle: title of the whole.

    Example:
        >>> from deepsentinel.labels import scheme
        >>> grey = np.full((8, 8, 3), 127, np.uint8)
        >>> len(sheet_figure([{"a": grey, "b": grey}] * 3, scheme=scheme("worldcover")).axes)
        6
    """
    if not rows:
        raise SampleError("there is nothing to plot: no patch was given.")
    titles = list(dict.fromkeys(title for row in rows for title in row))
    margin = 0.1 * max((len(line) for c in captions for line in c.splitlines()), default=0)
    side = (2.3 * len(titles) + margin, 2.3 * len(rows) + 0.9)
    figure = Figure(figsize=side, layout="constrained")
    grid = figure.subplots(len(rows), len(titles), squeeze=False)
    for place, (row, axes) in enumerate(zip(rows, grid, strict=True)):
        for title, axis in zip(titles, axes, strict=True):
            axis.set_axis_off()
            if title in row:
                axis.imshow(row[title], interpolation="nearest")
            if place == 0:
                axis.set_title(title)
    for axes, caption in zip(grid, captions, strict=False):
        text = axes[0].text(-0.04, 0.5, caption, transform=axes[0].transAxes, fontsize="small")
        text.set(ha="right", va="center")
    _add_legend(figure, _class_handles(scheme, classes))
    if suptitle is not None:
        figure.suptitle(suptitle)
    return figure


def _class_handles(scheme: Scheme | None, classes: Sequence[int]) -> list[Artist]:
    if scheme is None:
        return []
    return [Patch(color=scheme.classes[i].colour, label=scheme.classes[i].name) for i in classes]


def _box_handles(boxes: Sequence[Boxes]) -> list[Artist]:
    """Outlines of the classes that occur, those of predictions dashed."""
    handles: list[Artist] = []
    for group in boxes:
        names = group.scheme.names if group.scheme is not None else ()
        for i in sorted(set(group.labels)) if names else ():
            name = names[i] + (", predicted" if group.scores else "")
            handles.append(
                Line2D([], [], color=_colour(group, i), linestyle=_dash(group), label=name)
            )
    return handles


def _add_legend(figure: Figure, handles: Sequence[Artist]) -> None:
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize="small")


def _bytes(channels: NDArray[Any], limits: Sequence[tuple[float, float]]) -> RGBImage:
    """(3, H, W) values as (H, W, 3) bytes; a pixel with any NaN takes the colour of no data."""
    observed = np.isfinite(channels).all(axis=0)
    low = np.array([pair[0] for pair in limits], dtype=np.float32)[:, None, None]
    high = np.array([pair[1] for pair in limits], dtype=np.float32)[:, None, None]
    scaled = (np.where(observed, channels, low) - low) / np.maximum(high - low, 1e-6)
    picture = np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8).transpose(1, 2, 0)
    picture[~observed] = UNOBSERVED
    return np.asarray(picture)


def _draw_boxes(axis: Axes, boxes: Boxes) -> None:
    for i, (x0, y0, x1, y1) in enumerate(np.asarray(boxes.corners, dtype=float)):
        colour = _colour(boxes, boxes.labels[i] if boxes.labels else None)
        corners = np.array([[x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0]]) - 0.5
        axis.plot(*corners, color=colour, linewidth=1.5, linestyle=_dash(boxes))
        if boxes.scores:
            axis.text(x1 - 0.5, y0 - 0.5, f"{boxes.scores[i]:.2f}", color=colour, fontsize=6)


def _colour(boxes: Boxes, label: int | None) -> str:
    return "#ff00ff" if boxes.scheme is None or label is None else boxes.scheme.colours[label]


def _dash(boxes: Boxes) -> str:
    return ":" if boxes.scores else "-"
