"""What a result says in short: curves, per-layer measures, a text table, findings."""

from jaxrobust.summary.curves import (
    Curve,
    by_layer,
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
from jaxrobust.summary.table import half_text, middle, text_table, uncut_half_width
from jaxrobust.summary.words import LABELS, in_words, percent, shares, title

__all__ = [
    "LABELS",
    "Curve",
    "Finding",
    "by_layer",
    "chance",
    "curves",
    "depth",
    "findings",
    "half_text",
    "in_depth_order",
    "in_words",
    "known",
    "main_metric",
    "middle",
    "most_seeds",
    "percent",
    "shares",
    "text_table",
    "title",
    "uncut_half_width",
    "undamaged",
]
