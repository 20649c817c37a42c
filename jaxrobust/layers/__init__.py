"""The layer table of a network, and selectors that choose layers from it."""

from jaxrobust.layers.find import layer_table, leaf_paths
from jaxrobust.layers.select import Selector, select
from jaxrobust.layers.table import Layer, LayerTable, Leaf

__all__ = ["Layer", "LayerTable", "Leaf", "Selector", "layer_table", "leaf_paths", "select"]
