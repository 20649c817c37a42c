"""Selectors: choosing layers from a table, alone or in groups."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

from jaxrobust.errors import SpecificationError, unknown
from jaxrobust.layers.table import LayerTable

Selector = str | Sequence[str] | Mapping[str, str | Sequence[str]]


def select(table: LayerTable, selector: Selector) -> dict[str, tuple[str, ...]]:
    """Resolves a selector to named groups of layers, each group damaged together.

    Args:
        table: the layers to choose from.
        selector: "all" (each layer with a kernel of rank 2 or more, on its own), a layer's name,
            a glob (the layers with such a kernel, unless it matches none of them), a sequence of
            those (each layer on its own), or a mapping from a group's name to any of those (the
            group's layers together).

    Returns:
        Group name -> layer names, both in the order asked for.

    Raises:
        SpecificationError: a name or pattern that matches nothing, an empty selector.
    """
    if isinstance(selector, Mapping):
        groups = {name: tuple(_matches(table, wanted)) for name, wanted in selector.items()}
    else:
        groups = {name: (name,) for name in _matches(table, selector)}
    if not groups or not all(groups.values()):
        empty = next((f" in the group {name!r}" for name in groups if not groups[name]), "")
        raise SpecificationError(f"no layers were asked for{empty}: possible: {', '.join(table)}")
    if isinstance(selector, Mapping) and "" in groups:
        raise SpecificationError("a group of layers needs a name")
    return groups


def _matches(table: LayerTable, wanted: str | Sequence[str]) -> list[str]:
    chosen: dict[str, None] = {}
    for pattern in [wanted] if isinstance(wanted, str) else wanted:
        if pattern in table:
            found: list[str] = [pattern]
        elif pattern == "all":
            found = [name for name, layer in table.items() if layer.kernel is not None]
        elif any(character in pattern for character in "*?["):
            found = fnmatch.filter(table, pattern)
            found = [name for name in found if table[name].kernel is not None] or found
        else:
            found = []
        if not found:
            raise SpecificationError(unknown("layer", pattern, table))
        chosen |= dict.fromkeys(found)
    return list(chosen)
