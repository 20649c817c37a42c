"""The tables of the report, as HTML."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.results import SweepInfo, accuracy, metric_of
from jaxrobust.summary import (
    curves,
    half_text,
    in_depth_order,
    measures,
    middle,
    title,
)

if TYPE_CHECKING:
    import xarray


def layers(result: xarray.Dataset, metric: str) -> str:
    """Per layer and perturbation: what is left near half strength, half-strength and area."""
    ordered, told = in_depth_order(result), metric_of(result, metric)
    cells, table = accuracy(ordered, metric), measures(ordered, metric)
    shown = [each for each in curves(ordered, metric) if np.isfinite(each.values).any()]
    top = "".join(
        f'<th colspan="3" scope="colgroup">{escape(title(each.perturbation))}</th>'
        for each in shown
    )
    below = "".join(
        f'<th scope="col">left at {middle(each):g}</th><th scope="col">half left at</th>'
        '<th scope="col">mean over range</th>'
        for each in shown
    )
    rows = []
    for layer in table.layer.values:
        row = [f'<th scope="row">{escape(str(layer))}</th>']
        for each in shown:
            cell = cells.sel(perturbation=each.perturbation, layer=layer, strength=middle(each))
            own = table.sel(perturbation=each.perturbation, layer=layer)
            left = told.with_interval(*(float(cell[part]) for part in ("mean", "low", "high")))
            area = told.with_interval(
                *(float(own[part]) for part in ("area", "area_low", "area_high"))
            )
            row += [f"<td>{escape(text)}</td>" for text in (left, half_text(own), area)]
        rows.append(f"<tr>{''.join(row)}</tr>")
    head = f'<thead><tr><th rowspan="2" scope="col">layer</th>{top}</tr><tr>{below}</tr></thead>'
    return f"<table>{head}<tbody>{''.join(rows)}</tbody></table>"


def cells(result: xarray.Dataset) -> str:
    """Every cell that was run: mean and interval of both accuracies and what a precision is of."""
    ordered, info = in_depth_order(result), SweepInfo.of(result)
    metrics = [metric_of(result, each) for each in ("top1", "top5")]
    aim = met = None
    if info.half_width is not None:
        aim = metric_of(result, info.half_width_metric)
        met = accuracy(ordered, aim.name)["met"]
        metrics += [aim] if aim.name not in ("top1", "top5") else []
    found = {each: accuracy(ordered, each.name) for each in metrics}
    short = [each.axis_label.removesuffix(" accuracy") for each in metrics]
    columns = ["perturbation", "layer", "strength", *short, "seeds"]
    if aim is not None and info.half_width is not None:
        columns.append(
            f"{aim.label.removesuffix(' accuracy')} known to "
            f"{aim.half_width_in_words(info.half_width)}"
        )
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    perturbations, names, strengths = (
        ordered[name].values for name in ("perturbation", "layer", "strength")
    )
    parts = ("mean", "low", "high")
    numbers = {metric: [table[part].values for part in parts] for metric, table in found.items()}
    seeds = found[metrics[0]]["seeds"].values
    rows = []
    for place in zip(*np.nonzero(seeds), strict=True):
        perturbation, layer, strength = place
        row = [str(perturbations[perturbation]), str(names[layer]), f"{strengths[strength]:g}"]
        row += [
            metric.with_interval(*(float(part[place]) for part in own))
            for metric, own in numbers.items()
        ]
        row.append(str(seeds[place]))
        if met is not None:
            row.append("yes" if met.values[place] else "no")
        rows.append(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
