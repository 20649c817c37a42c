"""Captions: exactly what the lines, bands, dots and cells of a figure are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxrobust.results import SweepInfo, accuracy, metric_of, sees_some, whole_grid
from jaxrobust.statistics import FEWEST_SEEDS
from jaxrobust.summary import (
    chance,
    curves,
    measures,
    most_seeds,
    percent,
    undamaged,
)

if TYPE_CHECKING:
    import xarray

Kind = Literal["curves", "relative", "heat", "layers", "effort"]


def caption(result: xarray.Dataset, kind: Kind, metric: str = "top5") -> str:
    """The caption of a figure, as plain text without its number.

    Args:
        result: what the figure shows.
        kind: "curves" and "relative" of `accuracy_curves`, "heat" of `heat_map`, "layers" of
            `layer_summary`, "effort" of `effort_map`.
        metric: what the figure shows of it.
    """
    words = {
        "curves": _curves,
        "relative": _relative,
        "heat": _heat,
        "layers": _layers,
        "effort": _effort,
    }
    result = whole_grid(result)
    parts = [words[kind](result, metric), *_gaps(result, kind, metric), _images(result)]
    if not SweepInfo.of(result).finished:
        parts.append("The run is not finished: what is missing was not measured.")
    return " ".join(parts)


def _gaps(result: xarray.Dataset, kind: Kind, metric: str) -> list[str]:
    """How it is shown that something was measured that is not finite."""
    if kind == "effort" or not any(each.not_finite.any() for each in curves(result, metric)):
        return []
    how = {"heat": "A cross", "layers": "A missing dot"}.get(kind, "A gap in a line")
    return [f"{how}: what was measured there is not a finite number for some image."]


def _curves(result: xarray.Dataset, metric: str) -> str:
    told, clean = metric_of(result, metric), undamaged(result, metric)
    label = told.axis_label
    return (
        f"{label[:1].upper()}{label[1:]} of {SweepInfo.of(result).network or 'the network'} after "
        f"damage to one layer at a time, against the strength of the damage. "
        f"{_lines(result, metric)} Each line starts at the undamaged network "
        f"({told.in_words(clean)}, dashed line)."
        f"{_guessing(result, metric)}"
    )


def _relative(result: xarray.Dataset, metric: str) -> str:
    label, network = metric_of(result, metric).label, SweepInfo.of(result).network
    return (
        f"Relative change in {label} of {network or 'the network'}: (damaged - "
        f"undamaged) / undamaged. {_lines(result, metric)}{_guessing(result, metric)}"
    )


def _heat(result: xarray.Dataset, metric: str) -> str:
    told = metric_of(result, metric)
    unit = " in per cent" if told.share else ""
    return (
        f"Mean {told.axis_label}{unit} over {_seeds(result)} for each damaged layer (rows, the "
        "first on top) and strength (columns). Undamaged: "
        f"{told.in_words(undamaged(result, metric))}."
    )


def _layers(result: xarray.Dataset, metric: str) -> str:
    label, table = metric_of(result, metric).label, measures(result, metric)
    interval = "whiskers are 95 % intervals (Student-t over seeds)"
    few = "there are too few for intervals"
    drawn = interval if np.isfinite(table["area_low"]).any() else few
    own_images = ", each on the images that it saw" if sees_some(result) else ""
    beyond = (
        " Arrows count the seeds that still keep more than half at the greatest strength: where "
        "there is one, no mean is given, but a diamond for the median of all seeds if it is known."
        if table["beyond"].any()
        else ""
    )
    if why := table.attrs.get("no_half"):
        halves = f"There is no half-strength: {why}."
    else:
        halves = (
            f"Top row of each perturbation: the strength at which half of the undamaged {label} is "
            "left, interpolated on each seed's curve."
        )
    return (
        f"{halves} Below: the mean {label} over the whole range of "
        f"strengths (the area under the curve; dashed: undamaged"
        f"{', dotted: chance' if chance(result, metric) is not None else ''}). Large dots are "
        f"means over {_seeds(result)}, rings the seeds{own_images}; {drawn}.{beyond}"
    )


def _effort(result: xarray.Dataset, metric: str) -> str:
    return (
        f"Where the effort went: how many images the trials of each cell saw in all, over "
        f"{_seeds(result)}, for each damaged layer (rows, the first on top) and strength "
        f"(columns)."
    )


def _lines(result: xarray.Dataset, metric: str) -> str:
    if SweepInfo.of(result).is_precise:
        cells = accuracy(result, metric)
        band = (
            f"bands are 95 % intervals of the {cells.attrs['estimand']} ({cells.attrs['method']})"
        )
        return f"Lines are means over {_seeds(result)}; {band}."
    seeds = most_seeds(curves(result, "top1"))
    if seeds >= FEWEST_SEEDS:
        band = (
            "bands are 95 % intervals of the mean (Student-t over seeds, the images fixed), cut "
            "where they pass what is possible"
        )
    elif seeds == 2:
        band = "bands are ± one standard deviation, two seeds being too few for an interval"
    else:
        band = "a single seed gives no band"
    return f"Lines are means over {_seeds(result)}; {band}."


def _guessing(result: xarray.Dataset, metric: str) -> str:
    level, classes = chance(result, metric), SweepInfo.of(result).classes
    if level is None:
        return ""
    return f" Dotted line: chance, {percent(level)} with {classes:,} classes."


def _seeds(result: xarray.Dataset) -> str:
    count = result.sizes["seed"]
    if SweepInfo.of(result).is_precise:
        most = most_seeds(curves(result, "top1"))
        return f"as many random draws (seeds) as the cell took (up to {most})"
    return "one random draw of the damage" if count == 1 else f"{count} random draws (seeds)"


def _images(result: xarray.Dataset) -> str:
    images = int(result["clean_images"].sum())
    data = SweepInfo.of(result).data or "not named"
    if sees_some(result):
        return f"Images: {images:,} ({data}), of which each seed saw some."
    return f"Every point: the same {images:,} images ({data})."
