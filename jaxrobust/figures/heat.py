"""A heat map of layer × strength for each perturbation, with the numbers in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from jaxrobust.summary import LABELS, Curve, curves, shares, title

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

# Points that a digit of the numbers takes, and that a row does.
_DIGIT, _ROW = 0.64 * SMALL, 11.5
_BAR = 3.0  # inches, the longest colour bar


@styled
def heat_map(result: xarray.Dataset, metric: str = "top5", *, columns: int | None = None) -> Figure:
    """Draws the mean of a metric over layer × strength, a panel per perturbation.

    Cells hold the mean over seeds in per cent where it fits; hatched cells were not run. The
    undamaged strength, the same for all layers, is left out.

    Args:
        result: from `sweep` or `open_run`.
        metric: one of its metrics.
        columns: panels side by side; 1 makes a figure for one column of text.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    found = curves(result, metric)
    layers, wide = found[0].layers, side_by_side(len(found), columns)
    height = 0.95 + max(len(layers), 4) * _ROW / 72
    figure, axes = panels(len(found), columns, height, beside=0.6, sharey=True)
    means = [each.interval()[0][:, each.strengths != each.identity] for each in found]
    known = np.concatenate([mean[np.isfinite(mean)] for mean in means])
    top = max(1e-9, float(known.max(initial=0)), _undamaged(found))
    bottom = min(0.0, float(known.min(initial=0)))
    names = [short(name) for name in layers]
    beside = (max(map(len, names)) * 0.62 * SMALL + 12) / 72 + 0.65
    room = (figure.get_figwidth() - beside) * 72 / wide - 10
    norm = Normalize(bottom, top)
    scale = ScalarMappable(norm, "viridis")
    for panel, curve, mean in zip(axes, found, means, strict=True):
        _cells(panel, curve, mean, norm)
        width = room / max(mean.shape[1], 1)
        _strengths(panel, curve, width)
        panel.set_xlabel(wrapped(unit(curve.perturbation)))
        digits = len(f"{100 * np.nanmax(mean, initial=0):.0f}")
        if shares(metric) and width >= digits * _DIGIT + 1:
            _numbers(panel, mean, scale)
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
    in_percent(bar.ax.xaxis if below else bar.ax.yaxis, metric)
    bar.set_label(LABELS.get(metric, metric))
    bar.outline.set_linewidth(0)  # pyright: ignore
    return figure


def _undamaged(found: list[Curve]) -> float:
    """The greatest undamaged value, where there is one."""
    heights = [each.values[..., each.strengths == each.identity] for each in found]
    known = np.concatenate([each.ravel() for each in heights])
    return float(np.nanmax(known, initial=0))


def _cells(axes: Axes, curve: Curve, mean: np.ndarray, norm: Normalize) -> None:
    edges = [np.arange(size + 1) - 0.5 for size in reversed(mean.shape)]
    axes.patch.set(facecolor="#eeeeee", hatch="////", edgecolor="#c4c4c4", linewidth=0)
    axes.pcolormesh(
        *edges,
        np.ma.masked_invalid(mean),
        cmap="viridis",
        norm=norm,
        edgecolors="white",
        linewidth=0.4,
    )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(title(curve.perturbation), loc="left", fontweight="bold")
    if not mean.size:
        axes.text(0.5, 0.5, "not run", ha="center", transform=axes.transAxes, color=FAINT)


def _strengths(axes: Axes, curve: Curve, width: float) -> None:
    labels = [f"{s:g}" for s in curve.strengths if s != curve.identity]
    longest = max(map(len, labels), default=1) * _DIGIT + 1
    step = int(np.ceil(longest / width))
    axes.set_xticks(np.arange(len(labels))[::step], labels[::step])


def _numbers(axes: Axes, mean: np.ndarray, scale: ScalarMappable) -> None:
    for (row, column), value in np.ndenumerate(mean):
        if np.isfinite(value):
            red, green, blue, _ = np.asarray(scale.to_rgba(np.asarray([value])))[0]
            light = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45
            axes.text(
                column,
                row,
                f"{100 * value:.0f}",
                ha="center",
                va="center_baseline",
                fontsize=SMALL,
                color=INK if light else "white",
            )
