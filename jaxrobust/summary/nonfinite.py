"""What was measured that is not a finite number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.results import (
    accuracy,
    is_whole,
    metric_of,
    metrics_of,
    nonfinite_of,
    sum_blocks,
    whole_grid,
)

if TYPE_CHECKING:
    import xarray


def nonfinite(result: xarray.Dataset) -> list[str]:
    """Sentences on logits and on values of metrics that are not finite; none where all are.

    Args:
        result: from `sweep` or `open_run`.
    """
    result = sum_blocks(whole_grid(result))
    whole = is_whole(result)

    def counted(name: str) -> str:
        seen, found = (int(result[each].where(whole, 0).sum()) for each in ("images", name))
        return f"{found:,} of {seen:,} trial-images"

    sentences = []
    finite = [each for each in metrics_of(result) if metric_of(result, each).finite]
    if "nonfinite" in result and bool((result["nonfinite"].where(whole, 0) > 0).any()):
        without = f" and are left out of {', '.join(finite)}" if finite else ""
        sentences.append(
            f"{counted('nonfinite')} had a logit that is not finite: they count as wrong{without}"
        )
    for metric in metrics_of(result):
        if metric_of(result, metric).share or f"clean_{metric}" not in result:
            continue
        cells = accuracy(result, metric)
        run = cells["seeds"].values > 0
        bad = run & ~np.isfinite(cells["mean"].values)
        where = [f"in {bad.sum():,} of {run.sum():,} cells"] * bool(bad.any())
        count = nonfinite_of(result, metric)
        if where and count in result and count != "nonfinite":
            where[0] += f" ({counted(count)})"
        where += ["undamaged"] * (not np.isfinite(cells.attrs["clean"]))
        if where:
            sentences.append(f"the metric {metric} is NaN or infinite {' and '.join(where)}")
    return sentences
