"""Figures of a result, as matplotlib objects, and the captions that explain them."""

from jaxrobust.figures.accuracy import accuracy_curves
from jaxrobust.figures.captions import caption
from jaxrobust.figures.heat import effort_map, heat_map
from jaxrobust.figures.layers import layer_summary
from jaxrobust.figures.style import save

__all__ = ["accuracy_curves", "caption", "effort_map", "heat_map", "layer_summary", "save"]
