"""Selectors: choosing layers from a table, alone or in groups."""

from __future__ import annotations

import fnmatch
import re
import warnings
from collections.abc import Mapping, Sequence

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.layers.table import LayerTable

# A name or glob, and a depth in a stack.
_DEPTH = re.compile(r"(.+)\[(-?\d+|\*)\]")

Selector = str | Sequence[str] | Mapping[str, str | Sequence[str]]


def select(table: LayerTable, selector: Selector) -> dict[str, tuple[str, ...]]:
    """Resolves a selector to named groups of layers, each group damaged together.

    Args:
        table: the layers to choose from.
        selector: "all" (each layer with a kernel of rank 2 or more, on its own), a layer's name,
            a glob (the layers with such a kernel, unless it matches none of them), a name or glob
            with the depth in a stack of layers (`blocks/fc[1]`; `blocks/fc[*]`, each depth on its
            own), a sequence of those (each layer on its own), or a mapping from a group's name to
            any of those (the group's layers together).

    Returns:
        Group name -> layer names, both in the order asked for.

    Raises:
        SpecificationError: a name or pattern that matches nothing or nothing that can be damaged,
            an empty selector.

    Warns:
        UserWarning: "all" or a glob leaves out layers whose kernels can't be damaged.
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
        chosen |= dict.fromkeys(_named(table, pattern) or _stacked(table, pattern))
    return list(chosen)


def _named(table: LayerTable, pattern: str) -> list[str]:
    """The layers of a name, a glob or "all"; none if nothing has that name."""
    if pattern in table:
        _check_damageable(table, pattern)
        return [pattern]
    if pattern == "all":
        found = list(table)
    elif any(character in pattern for character in "*?["):
        found = fnmatch.filter(table, pattern)
    else:
        return []
    refused = [name for name in found if table[name].refusal]
    whole = [name for name in found if table[name].kernel is not None]
    possible = whole or [name for name in found if name not in refused and pattern != "all"]
    if found and not possible:
        _check_damageable(table, (refused or found)[0])
    without = [name for name in refused if any(leaf.role == "kernel" for leaf in table[name].fixed)]
    if without:
        more = f" (and so on {len(without) - 1} more layers)" if len(without) > 1 else ""
        warnings.warn(
            f"{pattern!r} leaves out layer {without[0]}, which can't be damaged: "
            f"{table[without[0]].refusal}{more}",
            stacklevel=6,
        )
    return possible


def _stacked(table: LayerTable, pattern: str) -> list[str]:
    """The layers of a name or a glob with a depth: `blocks/fc[1]`, `blocks/*[*]`."""
    found = _DEPTH.fullmatch(pattern)
    names = _named(table, found[1]) if found else []
    if found is None or not names:
        return [table[pattern].name]  # it says why not
    depths = [name for name in names if table[name].depths] or names
    every = found[2] == "*"
    return [
        table[name].depth(index).name
        for name in depths
        for index in (range(max(table[name].depths, 1)) if every else [int(found[2])])
    ]


def _check_damageable(table: LayerTable, name: str) -> None:
    if refusal := table[name].refusal:
        raise SpecificationError(f"layer {name} can't be damaged: {refusal}")
