"""Figures of reports: curves over epochs, confusion matrices, scores with their intervals."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from deepsentinel.errors import ReportError

Floats = NDArray[np.float64]

MOST_NUMBERS: Final = 12
"""Up to this many classes a confusion matrix shows its counts in its cells."""
_STYLES: Final = ("-", "--", ":")
"""Of the lines, after each ten colours."""
_LABEL: Final = 0.08
"""Room that the label of a tick takes, as a share of the axis."""


def curves_figure(
    rows: Sequence[Mapping[str, float]],
    groups: Mapping[str, Sequence[str]],
    *,
    x: str = "epoch",
    mark: float | None = None,
) -> Figure:
    """Values over epochs or steps, one axis a group.

    Args:
        rows: one mapping a point of `x`, as `FinetuneResult.history` is; what a row lacks is a gap.
        groups: names of values by title of the axis that they share.
        x: name of the value along which they are drawn.
        mark: where to draw a vertical line, such as the best epoch.

    Raises:
        ReportError: there is no row, or no row has `x`.

    Example:
        >>> rows = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]
        >>> len(curves_figure(rows, {"Loss": ["loss"]}, mark=2).axes)
        1
    """
    places = [row[x] for row in rows if x in row]
    if not places or len(places) != len(rows) or not groups:
        raise ReportError(
            f"curves over {x!r} need rows that all have it, and a group of values to draw; found "
            f"{len(rows)} rows, {len(places)} of them with it, and {len(groups)} groups."
        )
    figure = Figure(figsize=(4.6 * len(groups), 3.4), layout="constrained")
    for axis, (title, names) in zip(
        figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True
    ):
        for name in names:
            values = [row.get(name, np.nan) for row in rows]
            axis.plot(places, values, marker="o" if len(rows) <= 30 else None, label=name, ms=3)
        if mark is not None:
            axis.axvline(mark, color="0.6", linestyle="--", linewidth=1)
        axis.set(xlabel=x, title=title)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    return figure


def confusion_figure(matrix: ArrayLike, names: Sequence[str]) -> Figure:
    """A confusion matrix in shares of each target class, with counts where there is room.

    Args:
        matrix: (K, K) counts, target by row and prediction by column.
        names: of the K classes.

    Raises:
        ReportError: the matrix is not K by K.

    Example:
        >>> figure = confusion_figure([[3, 1], [0, 4]], ["sea", "land"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['3', '1', '0', '4']
    """
    counts = np.asarray(matrix)
    if counts.shape != (len(names), len(names)):
        raise ReportError(
            f"a confusion matrix of {len(names)} classes is {len(names)} by {len(names)}; found "
            f"{counts.shape}."
        )
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)
    side = max(3.5, 0.45 * len(names)) + 1.8
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axis.set_xticks(range(len(names)), names)
    if max(map(len, names), default=0) > 4:  # they would run into each other
        axis.tick_params("x", rotation=60)
        for label in axis.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="predicted", ylabel="target")
    figure.colorbar(image, label="share of the target class", shrink=0.8)
    if len(names) <= MOST_NUMBERS:
        _write_counts(axis, counts, shares)
    return figure


def scatter_figure(points: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Figure:
    """Predicted quantities over their targets, a panel each, with the line of no error.

    Args:
        points: by name of the quantity, (N,) targets and (N,) predictions.

    Raises:
        ReportError: there is nothing to draw.

    Example:
        >>> figure = scatter_figure({"evi": ([0.1, 0.5], [0.2, 0.4])})
        >>> figure.axes[0].get_xlabel()
        'evi, target'
    """
    arrays = {name: [np.asarray(values) for values in pair] for name, pair in points.items()}
    drawn = {name: pair for name, pair in arrays.items() if pair[0].size}
    if not drawn:
        raise ReportError("there is no known target to draw predictions over.")
    figure = Figure(figsize=(4.2 * len(drawn), 4.0), layout="constrained")
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axis, (name, (target, predicted)) in zip(panels, drawn.items(), strict=True):
        axis.hexbin(target, predicted, gridsize=40, mincnt=1, bins="log", cmap="viridis")
        ends = [float(target.min()), float(target.max())]
        axis.plot(ends, ends, color="black", linewidth=1, linestyle="--")
        axis.set(xlabel=f"{name}, target", ylabel=f"{name}, predicted")
    return figure


def intervals_figure(
    panels: Mapping[str, Mapping[str, Mapping[float, tuple[float, float, float]]]],
    *,
    x: str,
    y: str,
    log: bool = False,
) -> Figure:
    """Scores along an axis with their intervals, a line a series, panels side by side.

    What lies at one place is drawn side by side, so that no interval hides another.

    Args:
        panels: by title, series by name, which has one colour in all panels; of a series (value,
            low, high) by place on the axis, as a few-shot curve over labels.
        x: title of the axis.
        y: title of the scores.
        log: a logarithmic axis.

    Raises:
        ReportError: there is nothing to draw.

    Example:
        >>> curve = {20.0: (0.5, 0.4, 0.6), 200.0: (0.7, 0.65, 0.75)}
        >>> figure = intervals_figure({"probe": {"nano": curve}}, x="labels", y="mAP", log=True)
        >>> [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
        ['20', '200']
    """
    places = np.unique([p for series in panels.values() for c in series.values() for p in c])
    if not places.size:
        raise ReportError(f"there is no score to draw over {x!r}.")
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(6.4, 4.4 * columns), 3.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (title, series) in zip(axes.flat, panels.items(), strict=False):
        for name, points in series.items():
            number = names.index(name)
            moved = _aside(places, number - (len(names) - 1) / 2, log=log)
            _draw_intervals(axis, name, points, dict(zip(places, moved, strict=True)), number)
        if log:
            axis.set_xscale("log")
        ticks = _readable(places, log=log)
        axis.set_xticks(ticks, [f"{t:.3g}" if t < 1000 else f"{t:.0f}" for t in ticks])
        axis.minorticks_off()
        axis.set(xlabel=x, title=title)
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel(y)
    _legend_below(figure, names)
    return figure


def _draw_intervals(
    axis: Axes,
    name: str,
    points: Mapping[float, tuple[float, float, float]],
    moved: Mapping[float, float],
    number: int,
) -> None:
    places = sorted(points)
    value, low, high = (np.array([points[p][i] for p in places]) for i in range(3))
    drawn = [moved[p] for p in places]
    style = _STYLES[number // 10 % len(_STYLES)]
    axis.plot(drawn, value, f"C{number % 10}", linestyle=style, marker="o", ms=4, label=name)
    axis.vlines(drawn, low, high, f"C{number % 10}", linewidth=1)


def _scaled(places: Floats, *, log: bool) -> tuple[Floats, float]:
    """Places as the axis has them, and how far they reach."""
    scaled = np.log10(places) if log else places
    return scaled, float(np.ptp(scaled)) or 1.0


def _aside(places: Floats, steps: float, *, log: bool) -> Floats:
    """Places moved by so many hundredths of the axis."""
    scaled, reach = _scaled(places, log=log)
    moved = scaled + 0.01 * reach * steps
    return np.asarray(10**moved if log else moved)


def _readable(places: Floats, *, log: bool) -> list[float]:
    """The places whose labels have room, the last one among them."""
    scaled, reach = _scaled(places, log=log)
    kept = [len(places) - 1]
    for i in range(len(places) - 2, -1, -1):
        if scaled[kept[-1]] - scaled[i] >= _LABEL * reach:
            kept.append(i)
    return [float(places[i]) for i in reversed(kept)]


def _legend_below(figure: Figure, names: Sequence[str]) -> None:
    """One legend of all panels, in as many columns as fit, for which the figure grows."""
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        lines, labels = axis.get_legend_handles_labels()
        handles |= dict(zip(labels, lines, strict=True))
    room = int(figure.get_figwidth() / (0.7 + 0.075 * max(map(len, names))))
    columns = max(1, min(len(names), room))
    figure.set_figheight(figure.get_figheight() + 0.3 + 0.2 * -(-len(names) // columns))
    figure.legend(
        [handles[n] for n in names],
        names,
        loc="outside lower center",
        ncols=columns,
        fontsize="small",
    )


def _write_counts(axis: Axes, counts: NDArray[Any], shares: NDArray[Any]) -> None:
    for i, j in np.ndindex(counts.shape):
        dark = np.isfinite(shares[i, j]) and shares[i, j] > 0.5
        text = f"{counts[i, j]:.3g}" if counts[i, j] >= 100_000 else str(counts[i, j])
        colour = "white" if dark else "black"
        axis.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
