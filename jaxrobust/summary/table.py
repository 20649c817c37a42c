"""The short table that a sweep ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.ground.text import aligned
from jaxrobust.metrics import Metric
from jaxrobust.results import SweepInfo, accuracy, metric_of, whole_grid
from jaxrobust.statistics import rank_correlation
from jaxrobust.summary.curves import Curve, curves, in_depth_order
from jaxrobust.summary.known import known
from jaxrobust.summary.nonfinite import nonfinite

if TYPE_CHECKING:
    import xarray

_WIDTH = 100

# Below these, nothing is said about the order of layers by depth.
_FEWEST_LAYERS = 4
_CLEAR_ORDER = 0.5


def text_table(result: xarray.Dataset) -> str:
    """The top-1 accuracy that is left per layer, near the middle of each grid, as text.

    What is suspicious about the undamaged network comes first. Tables have at most 100 columns and
    stand one below the other where there are many perturbations; then there is a sentence for each
    perturbation on early and late layers; of a sweep to a precision also what is known well enough,
    and what cannot have been seen; and what was measured that is not finite.
    """
    result = whole_grid(result)
    cells = accuracy(in_depth_order(result), "top1")
    shown = [each for each in curves(result, "top1") if np.isfinite(each.values).any()]
    told = metric_of(result, "top1")
    columns = [_column(cells, each, told) for each in shown]
    layers = ["layer", *map(str, cells.layer.values)]
    lines = [f"WARNING: {warning}" for warning in SweepInfo.of(result).warnings]
    lines.append(f"top-1 accuracy left (undamaged: {cells.attrs['clean']:.1%})")
    while columns:
        count = max(_fitting(layers, columns), 1)
        lines.append(aligned(list(zip(layers, *columns[:count], strict=True))))
        columns = columns[count:]
    for each in shown:
        left = cells["mean"].sel(perturbation=each.perturbation, strength=middle(each))
        left = left.dropna("layer")
        if left.sizes["layer"] >= _FEWEST_LAYERS:
            lines.append(f"{each.perturbation}: {_by_depth(left.values)}")
    if np.isfinite(cells["low"]).any():
        what = f"95 % interval of the {cells.attrs['estimand']}, {cells.attrs['method']}"
        lines.append(f"in brackets: {what}")
    return "\n".join([*lines, *known(result), *nonfinite(result)])


def _fitting(layers: list[str], columns: list[list[str]]) -> int:
    """How many of the columns fit beside the names of the layers."""
    widths = [max(map(len, column)) for column in (layers, *columns)]
    return int((np.cumsum(widths) + 2 * np.arange(len(widths)) <= _WIDTH).sum()) - 1


def middle(curve: Curve) -> float:
    """The strength nearest the middle of a grid, the greater of two."""
    strengths = [s for s in curve.strengths if s != curve.identity]
    middle = (curve.strengths[0] + curve.strengths[-1]) / 2
    return float(min(reversed(strengths), key=lambda s: round(abs(s - middle), 9)))


def half_text(table: xarray.Dataset) -> str:
    """The half-strength of one perturbation and layer, as text.

    Args:
        table: from `by_layer`, one perturbation and layer of it.

    Returns:
        As "0.34 (0.30 to 0.39)", "> 0.9", "> 0.9 in 3 of 5 seeds" or, where the median of the seeds
        is known, "median 0.62 (> 0.9 in 1 of 5 seeds)"; a dash where nothing is known, "NaN" where
        something was measured that is not finite.
    """
    beyond, seeds = int(table["beyond"]), int(table["seeds"])
    first, last = float(table["first"]), float(table["last"])
    half, low, high = (float(table[name]) for name in ("half", "half_low", "half_high"))
    if beyond:
        end = f"{'>' if last > first else '<'} {last:g}"
        some = f"{end} in {beyond} of {seeds} seeds"
        median = float(table["half_median"])
        return (
            end if beyond == seeds else f"median {median:.2f} ({some})" if median < np.inf else some
        )
    if np.isnan(half):
        return "NaN" if int(table["nonfinite"]) else "–"
    # Student's interval can pass the undamaged strength, from which the damage grows.
    low, high = (max(low, first), high) if last > first else (low, min(high, first))
    return f"{half:.2f}" + ("" if np.isnan(low) else f" ({low:.2f} to {high:.2f})")


def _column(cells: xarray.Dataset, curve: Curve, told: Metric) -> list[str]:
    own = cells.sel(perturbation=curve.perturbation, strength=middle(curve))
    column = [f"{curve.perturbation} {middle(curve):g}"]
    for mean, low, high, seeds in zip(
        *(own[part].values for part in ("mean", "low", "high", "seeds")), strict=True
    ):
        left = told.with_interval(mean, low, high).replace(" %", "%")
        column.append(left if seeds else "not run")
    return column


def _by_depth(left: np.ndarray) -> str:
    """Says whether the layers, in order of depth, keep more or less of the accuracy."""
    if np.ptp(left) == 0:
        return "all layers keep the same accuracy"
    order = rank_correlation(np.arange(len(left)), left)
    if abs(order) < _CLEAR_ORDER:
        what = "early layers are not clearly more fragile than late ones"
    else:
        what = f"{'early' if order > 0 else 'late'} layers are the more fragile ones"
    return f"{what} (rank correlation with depth {order:+.2f})"
