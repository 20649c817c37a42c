"""The study's Figure 1: a metric against strength, a panel per perturbation, a line per layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxrobust.figures.style import (
    COLUMN,
    FAINT,
    INK,
    SMALL,
    by_depth,
    colour,
    in_percent,
    panels,
    short,
    side_by_side,
    styled,
    unit,
    wrapped,
)
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.results import metric_of
from jaxrobust.statistics import FEWEST_SEEDS
from jaxrobust.summary import (
    Curve,
    chance,
    curves,
    most_seeds,
    title,
    undamaged,
)

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "os^Dv<>Ph*"
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.2)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
# Above these, a colour bar names the layers: markers could not be told apart.
_MOST_IN_LEGEND = 12


@styled
def accuracy_curves(
    result: xarray.Dataset,
    metric: str = "top5",
    *,
    relative: bool = False,
    columns: int | None = None,
) -> Figure:
    """Draws a metric against strength: a panel per perturbation, a line per layer.

    Lines are means over seeds, the undamaged point first; what was measured and is not finite
    leaves a gap. Bands are the 95 % interval of the mean (Student-t over seeds, from three seeds)
    or one standard deviation (two seeds).

    Args:
        result: from `sweep` or `open_run`.
        metric: one of its metrics.
        relative: draw (mean - undamaged) / undamaged instead.
        columns: panels side by side; 1 makes a figure for one column of text.

    Raises:
        SpecificationError: an unknown metric, or one that is 0 undamaged where `relative`.
    """
    from matplotlib.ticker import MaxNLocator

    found = curves(result, metric)
    clean, guessing = undamaged(result, metric), chance(result, metric)
    told = metric_of(result, metric)
    label = told.label if relative else told.axis_label
    if relative and (not clean or not np.isfinite(clean)):
        raise SpecificationError(f"the undamaged {label} is {clean:g}: there is no relative change")
    layers, wide = found[0].layers, side_by_side(len(found), columns)
    narrow = columns == 1
    listed = len(layers) <= _MOST_IN_LEGEND
    figure, axes = panels(len(found), columns, 2.5 if narrow else 2.7, beside=1.3, sharey=True)

    def scaled(values: Any) -> Any:
        return values / clean - 1 if relative else values

    # What is possible, which a symmetrical interval can pass.
    possible = told.low, told.high
    for panel, curve in zip(axes, found, strict=True):
        _lines(panel, curve, scaled, most_seeds(found), listed, possible)
        panel.set_title(title(curve.perturbation), loc="left", fontweight="bold")
        panel.set_xlabel(wrapped(unit(curve.perturbation)))
        panel.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        panel.xaxis.set_major_formatter("{x:g}")
        in_percent(panel.yaxis, relative or told.share)
        panel.margins(x=0.03)
    top, bottom = scaled(clean), -1.0 if relative else 0.0
    if told.share and told.best == "high":
        height = (top - bottom) or 1.0  # of a network that is never right
        axes[0].set_ylim(bottom - 0.02 * height, bottom + 1.1 * height)
        ticks = [round(tick, 9) for tick in axes[0].get_yticks()]
        axes[0].set_yticks([tick for tick in ticks if bottom <= tick <= bottom + 1])
    for index, panel in enumerate(axes):
        if np.isfinite(top):
            _level(panel, top, "--")
        if guessing is not None:
            _level(panel, scaled(guessing), ":")
        if index % wide == 0:
            panel.set_ylabel(f"change in {label}" if relative else label)
    if np.isfinite(top):
        _name_level(axes[0], top, f"undamaged ({told.in_words(clean)})", "right")
    if guessing is not None:
        _name_level(axes[0], scaled(guessing), f"chance ({told.in_words(guessing)})", "left")
    if listed:
        _legend(figure, axes[0], layers, below=narrow)
    else:
        _colour_bar(figure, axes, layers, below=narrow)
    return figure


def _lines(
    axes: Axes,
    curve: Curve,
    scaled: Any,
    seeds: int,
    marked: bool,
    possible: tuple[float, float],
) -> None:
    *parts, seeds_run = curve.interval()
    mean, low, high, std = (np.where(np.isfinite(part), part, np.nan) for part in parts)
    if seeds < FEWEST_SEEDS:
        low, high = mean - std, mean + std
    count = len(curve.layers)
    for row in reversed(range(count)):  # the first layers, which fall deepest, on top
        shade = colour(row, count)
        style: dict[str, Any] = {"color": shade, "zorder": 3 + (count - row) / count}
        if marked:
            style |= {
                "marker": _MARKERS[row % len(_MARKERS)],
                "linestyle": _DASHES[row % len(_DASHES)],
                "markersize": 3.6,
                "markeredgecolor": "white",
                "markeredgewidth": 0.4,
            }
        shown = seeds_run[row] > 0  # what was measured and is not finite leaves a gap
        axes.plot(
            curve.strengths[shown], scaled(mean[row])[shown], label=curve.layers[row], **style
        )
        axes.fill_between(
            curve.strengths[shown],
            scaled(np.maximum(low[row], possible[0]))[shown],
            scaled(np.minimum(high[row], possible[1]))[shown],
            color=shade,
            alpha=min(0.18, 1.3 / count),
            linewidth=0,
            zorder=2,
        )
    if not np.isfinite(mean).any():
        text = "not finite" if (seeds_run > 0).any() else "not run"
        axes.text(0.5, 0.5, text, ha="center", transform=axes.transAxes, color=FAINT)


def _level(axes: Axes, height: float, dashes: str) -> None:
    axes.axhline(height, color=FAINT, linestyle=dashes, linewidth=0.8, zorder=1)


def _name_level(axes: Axes, height: float, text: str, side: Literal["left", "right"]) -> None:
    axes.annotate(
        text,
        (1 if side == "right" else 0, height),
        xycoords=("axes fraction", "data"),
        xytext=(-2 if side == "right" else 3, 2),
        textcoords="offset points",
        ha=side,
        va="bottom",
        fontsize=SMALL,
        color=INK,
        zorder=5,
    )


def _legend(figure: Figure, axes: Axes, layers: tuple[str, ...], below: bool) -> None:
    names = [short(name) for name in layers]
    widest = (max(map(len, names)) * 0.62 * SMALL + 34) / 72
    figure.legend(
        axes.lines[: len(layers)][::-1],  # they were drawn from the last to the first
        names,
        title="damaged layer",
        title_fontsize=SMALL,
        alignment="left",
        handlelength=2.6,
        columnspacing=1.2,
        loc="outside upper left" if below else "outside right upper",
        ncols=max(1, int(COLUMN / widest)) if below else 1,
    )


def _colour_bar(figure: Figure, axes: list[Axes], layers: tuple[str, ...], below: bool) -> None:
    """Names as many layers as fit along a bar of all colours."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm

    count = len(layers)
    scale = ScalarMappable(BoundaryNorm(np.arange(count + 1) - 0.5, 256), by_depth())
    where = {"location": "bottom", "aspect": 30} if below else {"location": "right", "aspect": 40}
    bar = figure.colorbar(scale, ax=axes, pad=0.02, fraction=0.04, **where)
    room = 4 if below else int(figure.get_figheight() * 0.75 * 72 / (SMALL * 1.25))
    step = -(-(count - 1) // (room - 1))
    ticks = list(range(0, count - 1, step)) + [count - 1]
    if len(ticks) > 1 and ticks[-1] - ticks[-2] < step:
        ticks.pop(-2)
    bar.set_ticks(ticks, labels=[short(layers[tick]) for tick in ticks])
    bar.set_label("damaged layer, from first to last", fontsize=SMALL)
    bar.outline.set_linewidth(0)  # pyright: ignore[reportCallIssue]
    bar.ax.minorticks_off()
    if below:
        bar.ax.tick_params(axis="x", rotation=20)
    else:
        bar.ax.invert_yaxis()
