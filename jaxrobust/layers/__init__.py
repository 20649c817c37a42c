"""The layer table of a network, and selectors that choose layers from it."""

from jaxrobust.layers.find import layer_table
from jaxrobust.layers.select import Selector, select
from jaxrobust.layers.table import Layer, LayerTable, Leaf
from jaxrobust.program.jaxprs import leaf_paths

__all__ = ["Layer", "LayerTable", "Leaf", "Selector", "layer_table", "leaf_paths", "select"]
