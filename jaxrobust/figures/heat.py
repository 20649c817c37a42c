"""Heat maps of layer × strength for each perturbation, with the numbers in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from jaxrobust.figures.style import (
    FAINT,
    INK,
    SMALL,
    in_percent,
    panels,
    short,
    side_by_side,
    styled,
    unit,
    wrapped,
)
from jaxrobust.results import accuracy, metric_of
from jaxrobust.summary import Curve, curves, in_depth_order, title

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

# Points that a digit of the numbers takes, and that a row does.
_DIGIT, _ROW = 0.64 * SMALL, 11.5
_BAR = 3.0  # inches, the longest colour bar


@styled
def heat_map(result: xarray.Dataset, metric: str = "top5", *, columns: int | None = None) -> Figure:
    """Draws the mean of a metric over layer × strength, a panel per perturbation.

    Cells hold the mean over seeds in per cent where it fits; hatched cells were not run, and a
    cross says that what was measured is not finite. The undamaged strength, the same for all
    layers, is left out.

    Args:
        result: from `sweep` or `open_run`.
        metric: one of its metrics.
        columns: panels side by side; 1 makes a figure for one column of text.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    found = curves(result, metric)
    means = [each.interval()[0][:, each.strengths != each.identity] for each in found]
    known = np.concatenate([mean[np.isfinite(mean)] for mean in means])
    top = max(1e-9, float(known.max(initial=0)), _undamaged(found))
    bottom = min(0.0, float(known.min(initial=0)))
    scale = ScalarMappable(Normalize(bottom, top), "viridis")
    told = metric_of(result, metric)
    numbers = (lambda mean: f"{100 * mean:.0f}") if told.share else None
    figure, bar = _maps(found, means, scale, numbers, columns)
    for panel, each in zip(figure.axes, found, strict=False):
        _crosses(panel, each.not_finite[:, each.strengths != each.identity])
    in_percent(bar.ax.xaxis if bar.orientation == "horizontal" else bar.ax.yaxis, told.share)
    bar.set_label(told.axis_label)
    return figure


@styled
def effort_map(result: xarray.Dataset, *, columns: int | None = None) -> Figure:
    """Draws how many images the trials of each cell have seen, in all, over layer × strength.

    Args:
        result: of a sweep to a precision.
        columns: panels side by side; 1 makes a figure for one column of text.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import NullLocator

    found = curves(result, "top1")
    cells = accuracy(in_depth_order(result), "top1")["trial_images"]
    efforts = []
    for each in found:
        damaged = each.strengths[each.strengths != each.identity]
        own = cells.sel(perturbation=each.perturbation, strength=damaged)
        own = own.transpose("layer", "strength").values
        efforts.append(np.where(own > 0, own, np.nan))
    known = np.concatenate([effort[np.isfinite(effort)] for effort in efforts])
    bottom, top = float(known.min(initial=np.inf)), float(known.max(initial=1))
    bottom = min(bottom, top / 10)  # so that slight differences look slight
    scale = ScalarMappable(LogNorm(bottom, top), "viridis")
    figure, bar = _maps(found, efforts, scale, _rounded, columns)
    ticks = [tick for tick in _round_numbers(bottom, top) if bottom <= tick <= top]
    ticks = ticks if len(ticks) > 1 else [bottom, top]
    bar.set_ticks(ticks, labels=[_rounded(tick) for tick in ticks])
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_label("trial-images")
    return figure


def _rounded(count: float) -> str:
    """A number of images in few characters.

    Example:
        >>> [_rounded(count) for count in (960, 1000, 1600, 48_300, 1_250_000)]
        ['960', '1k', '1.6k', '48k', '1.2M']
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            share = count / size
            return f"{round(share, 1 if share < 9.95 else None):g}{letter}"
    return f"{count:.0f}"


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 and so on; of many powers of ten only these."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [
        step * 10.0**power for power in powers for step in ((1,) if len(powers) > 4 else (1, 2, 5))
    ]


def _maps(
    found: Sequence[Curve],
    values: Sequence[np.ndarray],
    scale: ScalarMappable,
    number: Callable[[float], str] | None,
    columns: int | None,
) -> tuple[Figure, Colorbar]:
    """A panel for each perturbation, its cells in the colours of a scale, and the bar of these.

    Args:
        found: what the panels are of.
        values: of each, [layer, strength] without the undamaged one; NaN for what was not run.
        scale: values to colours.
        number: what is written into a cell where it fits.
        columns: panels side by side.
    """
    layers, wide = found[0].layers, side_by_side(len(found), columns)
    height = 0.95 + max(len(layers), 4) * _ROW / 72
    figure, axes = panels(len(found), columns, height, beside=0.6, sharey=True)
    names = [short(name) for name in layers]
    beside = (max(map(len, names)) * 0.62 * SMALL + 12) / 72 + 0.65
    room = (figure.get_figwidth() - beside) * 72 / wide - 10
    for panel, curve, own in zip(axes, found, values, strict=True):
        _cells(panel, curve, own, scale)
        width = room / max(own.shape[1], 1)
        _strengths(panel, curve, width)
        panel.set_xlabel(wrapped(unit(curve.perturbation)))
        if number is not None:
            digits = max((len(number(each)) for each in own[np.isfinite(own)]), default=1)
            if width >= digits * _DIGIT + 1:
                _numbers(panel, own, scale, number)
    axes[0].set_yticks(np.arange(len(layers)), names)
    axes[0].invert_yaxis()
    below = wide == 1 and columns is not None
    bar = figure.colorbar(
        scale,
        ax=axes,
        aspect=30,
        pad=0.02,
        location="bottom" if below else "right",
        shrink=1 if below else min(1, _BAR / figure.get_figheight()),
        anchor=(0.5, 0.5) if below else (0, 1),
    )
    bar.outline.set_linewidth(0)  # pyright: ignore
    return figure, bar


def _undamaged(found: Sequence[Curve]) -> float:
    """The greatest undamaged value, where there is one."""
    heights = [each.values[..., each.strengths == each.identity] for each in found]
    known = np.concatenate([each.ravel() for each in heights])
    return float(np.nanmax(known, initial=0))


def _cells(axes: Axes, curve: Curve, mean: np.ndarray, scale: ScalarMappable) -> None:
    edges = [np.arange(size + 1) - 0.5 for size in reversed(mean.shape)]
    axes.patch.set(facecolor="#eeeeee", hatch="////", edgecolor="#c4c4c4", linewidth=0)
    axes.pcolormesh(
        *edges,
        np.ma.masked_invalid(mean),
        cmap=scale.cmap,
        norm=cast("Normalize", scale.norm),
        edgecolors="white",
        linewidth=0.4,
    )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(title(curve.perturbation), loc="left", fontweight="bold")
    if not mean.size:
        axes.text(0.5, 0.5, "not run", ha="center", transform=axes.transAxes, color=FAINT)


def _crosses(axes: Axes, which: np.ndarray) -> None:
    """Marks cells of which something was measured that is not finite."""
    from matplotlib.patches import Rectangle

    for row, column in np.argwhere(which).tolist():
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="white", zorder=2))
        axes.text(column, row, "×", ha="center", va="center_baseline", fontsize=SMALL, color=INK)


def _strengths(axes: Axes, curve: Curve, width: float) -> None:
    labels = [f"{s:g}" for s in curve.strengths if s != curve.identity]
    longest = max(map(len, labels), default=1) * _DIGIT + 1
    step = int(np.ceil(longest / width))
    axes.set_xticks(np.arange(len(labels))[::step], labels[::step])


def _numbers(
    axes: Axes, values: np.ndarray, scale: ScalarMappable, number: Callable[[float], str]
) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = np.asarray(scale.to_rgba(np.asarray([value])))[0]
            light = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45
            axes.text(
                column,
                row,
                number(value),
                ha="center",
                va="center_baseline",
                fontsize=SMALL,
                color=INK if light else "white",
            )
