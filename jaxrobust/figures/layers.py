"""Per layer the half-strength and the mean over the range, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.figures.style import (
    COLUMN,
    FAINT,
    PAGE,
    SMALL,
    colour,
    in_percent,
    short,
    side_by_side,
    styled,
    unit,
    wrapped,
)
from jaxrobust.metrics import Metric
from jaxrobust.results import metric_of, whole_grid
from jaxrobust.summary import chance, measures, title

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 11.0  # points
# How much of the axis is for curves that never come down to half, in ranges of the strength.
_BEYOND = 0.38


@styled
def layer_summary(
    result: xarray.Dataset, metric: str = "top5", *, columns: int | None = None
) -> Figure:
    """Draws half-strength and mean over the range of strengths of each layer, with intervals.

    Large dots are means over seeds and whiskers their 95 % intervals, from three seeds; small
    rings are the seeds. Seeds that never come down to half are counted in the grey margin; where
    there are some, a diamond is the median of all seeds, if they know it, in place of the mean.

    Args:
        result: from `sweep` or `open_run`.
        metric: one of its metrics; not all have a half-strength, see `by_layer`.
        columns: perturbations side by side; 1 makes a figure for one column of text.
    """
    from matplotlib.figure import Figure

    table = measures(whole_grid(result), metric)
    told = metric_of(result, metric)
    count, layers = table.sizes["perturbation"], table.sizes["layer"]
    wide = side_by_side(count, columns)
    groups = -(-count // wide)
    size = (COLUMN if wide == 1 else PAGE, 2 * groups * (0.72 + layers * _ROW / 72))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(2 * groups, wide, squeeze=False, sharey=True)
    for index in range(groups * wide):
        upper = grid[index // wide * 2, index % wide]
        lower = grid[index // wide * 2 + 1, index % wide]
        if index >= count:
            upper.set_axis_off()
            lower.set_axis_off()
            continue
        own = table.isel(perturbation=index)
        name = str(own.perturbation.item())
        _half(upper, own)
        upper.set_title(title(name), loc="left", fontweight="bold")
        upper.set_xlabel(wrapped(f"half is left at: {unit(name)}"))
        _area(lower, own, told, chance(result, metric))
        lower.set_xlabel(f"mean {told.axis_label} over the range")
    first = grid[0, 0]
    first.set_yticks(np.arange(layers), [short(str(name)) for name in table.layer.values])
    first.set_ylim(layers - 0.4, -0.6)
    return figure


def _half(axes: Axes, own: xarray.Dataset) -> None:
    start, last = float(own["first"]), float(own["last"])
    _dots(axes, own, "half", (start, np.inf) if start <= last else (-np.inf, start))
    if "no_half" in own.attrs:
        axes.text(0.5, 0.5, "no half-strength", ha="center", transform=axes.transAxes, color=FAINT)
    width = (last - start) or 1.0  # of a run that damaged nothing
    axes.set_xlim(start - 0.03 * width, last + 0.03 * width)
    ticks = [tick for tick in axes.get_xticks() if -1e-9 <= (tick - start) / width <= 1 + 1e-9]
    labels = [f"{tick:g}" for tick in ticks]
    seeds, beyond = own["seeds"].values, own["beyond"].values
    if beyond.any():
        axes.set_xlim(start - 0.03 * width, last + _BEYOND * width)
        axes.axvspan(last, last + _BEYOND * width, color="#efefef", linewidth=0, zorder=0)
        ticks = [tick for tick in ticks if (last - tick) / width > 0.12]
        labels = [*(f"{tick:g}" for tick in (*ticks, last)), "beyond"]
        ticks = [*ticks, last, last + 0.22 * width]
    axes.set_xticks(ticks, labels)
    for row in np.flatnonzero(beyond).tolist():
        axes.scatter(
            _where_finite(own["half_median"].values[row]),
            row,
            s=16,
            marker="D",
            facecolor="white",
            edgecolor=colour(row, own.sizes["layer"]),
            zorder=4,
        )
        text = "all" if beyond[row] == seeds[row] else f"{beyond[row]} of {seeds[row]}"
        axes.text(
            last + 0.04 * width, row, f"→ {text}", va="center_baseline", fontsize=SMALL, zorder=4
        )


def _area(axes: Axes, own: xarray.Dataset, metric: Metric, guessing: float | None) -> None:
    clean = own.attrs["clean"]
    _dots(axes, own, "area", (metric.low, metric.high))
    axes.axvline(_where_finite(clean), color=FAINT, linestyle="--", linewidth=0.8, zorder=1)
    if guessing is not None:
        axes.axvline(guessing, color=FAINT, linestyle=":", linewidth=0.8, zorder=1)
    if metric.share and metric.best == "high":
        axes.set_xlim(min(0.0, axes.get_xlim()[0]), 1.04 * clean)
    in_percent(axes.xaxis, metric.share)


def _where_finite(value: float) -> float:
    """NaN, which is not drawn, in place of infinity, for which there is no place."""
    return value if np.isfinite(value) else np.nan


def _dots(axes: Axes, own: xarray.Dataset, what: str, possible: tuple[float, float]) -> None:
    each_seed = own[f"{what}_of_seed"].values
    for row in range(own.sizes["layer"]):
        shade = colour(row, own.sizes["layer"])
        seeds = each_seed[row][np.isfinite(each_seed[row])]
        axes.plot(
            seeds,
            np.full(len(seeds), row),
            "o",
            markersize=2.6,
            markerfacecolor="none",
            markeredgecolor=shade,
            markeredgewidth=0.5,
            alpha=0.7,
            zorder=2,
        )
        # A symmetrical interval can pass what is possible.
        ends = np.clip([float(own[f"{what}_{end}"][row]) for end in ("low", "high")], *possible)
        axes.plot(ends, [row, row], color=shade, linewidth=1.6, zorder=3)
        mean = _where_finite(float(own[what][row]))
        axes.plot([mean], [row], "o", color=shade, markersize=4.6, zorder=4)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.5, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
