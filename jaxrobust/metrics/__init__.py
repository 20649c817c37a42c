"""What is measured of each image: a registry of metrics, each with its label, unit and chance."""

from jaxrobust.metrics.base import REGISTRY, Function, Metric, Wanted, always, find, metric, resolve
from jaxrobust.metrics.predictions import changed, margin, top1, top5
from jaxrobust.metrics.probabilities import brier, calibration_error, kl, loss

__all__ = [
    "REGISTRY",
    "Function",
    "Metric",
    "Wanted",
    "always",
    "brier",
    "calibration_error",
    "changed",
    "find",
    "kl",
    "loss",
    "margin",
    "metric",
    "resolve",
    "top1",
    "top5",
]
