"""What a result says in short: curves, per-layer measures, a text table, findings."""

from jaxrobust.summary.curves import (
    Curve,
    chance,
    curves,
    depth,
    in_depth_order,
    main_metric,
    most_seeds,
    undamaged,
)
from jaxrobust.summary.findings import Finding, findings
from jaxrobust.summary.known import known
from jaxrobust.summary.layers import by_layer, measures
from jaxrobust.summary.nonfinite import nonfinite
from jaxrobust.summary.table import half_text, middle, text_table
from jaxrobust.summary.words import percent, title

__all__ = [
    "Curve",
    "Finding",
    "by_layer",
    "chance",
    "curves",
    "depth",
    "findings",
    "half_text",
    "in_depth_order",
    "known",
    "main_metric",
    "measures",
    "middle",
    "most_seeds",
    "nonfinite",
    "percent",
    "text_table",
    "title",
    "undamaged",
]
