"""What a sweep to a precision has come to know of its cells, and what it cannot know."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.precision import unseen_events
from jaxrobust.results import accuracy, damaged_cells, sum_blocks

if TYPE_CHECKING:
    import xarray


def known(result: xarray.Dataset) -> list[str]:
    """Sentences on how many cells are known well enough, and on damage too rare to have been seen.

    Where nothing is random there is nothing to say of rare damage.

    Args:
        result: from `sweep` or `open_run`.

    Returns:
        None for a sweep of a fixed number of seeds.
    """
    if "half_width" not in result.attrs:
        return []
    result = sum_blocks(result)
    cells = accuracy(result)
    asked = np.broadcast_to(damaged_cells(result)[:, None], cells["met"].shape)
    lacking = int((asked & ~cells["met"].values).sum())
    few = f"{lacking:,} of {int(asked.sum()):,} cells {'is' if lacking == 1 else 'are'} not"
    precision = f"known to ±{result.attrs['half_width']:g} (top-1 accuracy)"
    sentences = [f"{few if lacking else 'every cell is'} {precision}"]
    random = ~np.isin(result["perturbation"].values, json.loads(result.attrs["exact"]))
    seeds = cells["seeds"].values[asked & random[:, None, None]]
    if seeds.any():
        sentences.append(unseen_events(int(seeds[seeds > 0].min())))
    return sentences
