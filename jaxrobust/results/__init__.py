"""The labelled result of a sweep, and what is known of each of its cells."""

from jaxrobust.results.cells import (
    accuracy,
    cell_rows,
    is_whole,
    metrics_of,
    nonfinite_of,
    per_image,
    sees_some,
)
from jaxrobust.results.images import right
from jaxrobust.results.info import SweepInfo
from jaxrobust.results.labels import (
    BITS,
    CLEAN,
    CONTROL,
    DIMENSIONS,
    GOAL,
    LABELS,
    NONFINITE,
    SEEN,
    TRIALS,
    labelled,
    make_dataset,
    metric_of,
    sum_blocks,
)
from jaxrobust.results.parts import of_any_part, whole_grid

__all__ = [
    "BITS",
    "CLEAN",
    "CONTROL",
    "DIMENSIONS",
    "GOAL",
    "LABELS",
    "NONFINITE",
    "SEEN",
    "SweepInfo",
    "TRIALS",
    "accuracy",
    "cell_rows",
    "is_whole",
    "labelled",
    "make_dataset",
    "metric_of",
    "metrics_of",
    "nonfinite_of",
    "of_any_part",
    "per_image",
    "right",
    "sees_some",
    "sum_blocks",
    "whole_grid",
]
