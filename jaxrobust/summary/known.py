"""What a sweep to a precision has come to know of its cells, and what it cannot know."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.precision import unseen_events
from jaxrobust.results import accuracy, sum_blocks

if TYPE_CHECKING:
    import xarray


def known(result: xarray.Dataset) -> list[str]:
    """Sentences on how many cells are known well enough, and on damage too rare to have been seen.

    Cells count that are damaged and were asked for. Where nothing is random there is nothing to
    say of rare damage.

    Args:
        result: from `sweep` or `open_run`.

    Returns:
        None for a sweep of a fixed number of seeds.
    """
    if "half_width" not in result.attrs:
        return []
    result = sum_blocks(result)
    cells, asked = accuracy(result), _asked(result)
    lacking = int((asked & ~cells["met"].values).sum())
    precision = f"±{result.attrs['half_width']:g}"
    count = f"{lacking:,} of {int(asked.sum()):,}" if lacking else f"all {int(asked.sum()):,}"
    sentences = [
        f"{count} cells are {'not ' if lacking else ''}known to {precision} (top-1 accuracy)"
    ]
    random = ~np.isin(result["perturbation"].values, json.loads(result.attrs["exact"]))
    seeds = cells["seeds"].values[asked & random[:, None, None]]
    if seeds.any():
        sentences.append(unseen_events(int(seeds[seeds > 0].min())))
    return sentences


def _asked(result: xarray.Dataset) -> np.ndarray:
    """Which cells the sweep has to run, bool [perturbation, layer, strength]."""
    run = result["images"].values > 0
    columns = run.any((1, 3))
    for row, name in enumerate(result["perturbation"].values):
        columns[row] &= result["strength"].values != json.loads(result.attrs["identity"])[name]
    return np.broadcast_to(columns[:, None, :], run.shape[:3])
