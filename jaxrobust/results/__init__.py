"""The labelled result of a sweep, and what is known of each of its cells."""

from jaxrobust.results.cells import accuracy, cell_rows, per_image, sees_some
from jaxrobust.results.images import right
from jaxrobust.results.labels import (
    BITS,
    CLEAN,
    CONTROL,
    DIMENSIONS,
    GOAL,
    LABELS,
    TRIALS,
    WARNINGS,
    labelled,
    make_dataset,
    sum_blocks,
    warnings_in,
)

__all__ = [
    "BITS",
    "CLEAN",
    "CONTROL",
    "DIMENSIONS",
    "GOAL",
    "LABELS",
    "TRIALS",
    "WARNINGS",
    "accuracy",
    "cell_rows",
    "labelled",
    "make_dataset",
    "per_image",
    "right",
    "sees_some",
    "sum_blocks",
    "warnings_in",
]
