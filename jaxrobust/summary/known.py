"""What a sweep to a precision has come to know of its cells, and what it cannot know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.metrics import Metric
from jaxrobust.results import SweepInfo, cell_rows, metric_of
from jaxrobust.sampling import seeds_needed, unseen_events

if TYPE_CHECKING:
    import pandas
    import xarray


def known(result: xarray.Dataset) -> list[str]:
    """Sentences on how many cells are known well enough, and on damage too rare to have been seen.

    Where nothing is random there is nothing to say of rare damage.

    Args:
        result: from `sweep` or `open_run`.

    Returns:
        None for a sweep of a fixed number of seeds.
    """
    info = SweepInfo.of(result)
    target = info.half_width
    if target is None:
        return []
    cells = cell_rows(result)
    lacking = cells.loc[~cells["met"]]
    metric = metric_of(result, info.half_width_metric)
    precision = f"known to {metric.half_width_in_words(target)} ({metric.label})"
    if lacking.empty:
        sentences = [f"every cell is {precision}"]
    else:
        verb = "is" if len(lacking) == 1 else "are"
        few = f"{len(lacking):,} of {len(cells):,} cells {verb} not {precision}"
        sentences = [few + _forecast(lacking, target, metric)]
    random = ~cells.index.isin(info.exact, level="perturbation")
    seeds = cells["seeds"].to_numpy()[random]
    if seeds.any():
        sentences.append(unseen_events(int(seeds[seeds > 0].min())))
    return sentences


def _forecast(lacking: pandas.DataFrame, target: float, metric: Metric) -> str:
    """How many seeds the cell that is known least will take, if its spread can be told."""
    widths, seeds = lacking["half_width"].to_numpy(), lacking["seeds"].to_numpy()
    if np.isnan(widths).all():
        return ""
    worst = int(np.nanargmax(widths))
    reached = metric.half_width_in_words(float(f"{widths[worst]:.2g}"))
    needed = seeds_needed(float(widths[worst]), int(seeds[worst]), target)
    return f"; one is known to {reached} with {seeds[worst]} seeds and may take about {needed:,}"
