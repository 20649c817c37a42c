"""`fit`: checks a weight file against a network and brings its arrays into our layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.porting.recipes import Recipe
from jaxrobust.porting.weights import Weights

_LISTED = 6


def fit(
    weights: Weights, recipe: Recipe, shapes: Mapping[str, tuple[int, ...]], *, network: str
) -> dict[str, Any]:
    """Takes a network's parameters from a weight file.

    Names and shapes are compared for the whole file before any array is read.

    Args:
        weights: The file's arrays.
        recipe: What the parameters are called there, and how they lie.
        shapes: Path of each parameter (`conv1/kernel`) -> its shape in the network.
        network: What an error message calls the network.

    Returns:
        Nested dict of float32 arrays of the shapes asked for, every value finite.

    Raises:
        SpecificationError: One line that lists all missing, unexpected and mis-shaped arrays; or
            the arrays that aren't floating-point numbers, or not finite.
    """
    sources = {path: recipe.sources(path) for path in shapes}
    wanted = {name: path for path, names in sources.items() for name in names}
    missing = [name for name in wanted if name not in weights.headers]
    unexpected = [
        name for name in weights.headers if name not in wanted and not recipe.ignores(name)
    ]
    misshaped = []
    not_floating = []
    for name, path in wanted.items():
        if name in missing:
            continue
        header, shape = weights.headers[name], recipe.source_shape(path, shapes[path])
        if header.shape != shape:
            misshaped.append(f"{_shown(name)} {_shape(header.shape)} (needed: {_shape(shape)})")
        elif header.dtype.kind != "f":
            not_floating.append(f"{_shown(name)} {header.dtype}")
    problems = {
        "missing": [_shown(name) for name in missing],
        "unexpected": [_shown(name) for name in unexpected],
        "mis-shaped": misshaped,
        "not floating-point": not_floating,
    }
    found = [_listing(kind, names) for kind, names in problems.items() if names]
    if found:
        raise SpecificationError(
            f"{weights.source} does not fit {network} "
            f"({len(wanted)} arrays needed, {len(weights)} found): {'; '.join(found)}"
        )
    params: dict[str, Any] = {}
    for path, names in sources.items():
        *layer, leaf = path.split("/")
        group = params
        for part in layer:
            group = group.setdefault(part, {})
        arrays = [_float32(weights, name) for name in names]
        group[leaf] = np.array(recipe.convert(path, arrays), order="C")
    return params


def _float32(weights: Weights, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused
        array = weights[name].astype(np.float32, copy=False)
    wrong = array.size - np.count_nonzero(np.isfinite(array))
    if wrong:
        raise SpecificationError(
            f"{weights.source}: {wrong:,} of the {array.size:,} values of {_shown(name)} are "
            "not finite as float32"
        )
    return array


def _listing(kind: str, names: Sequence[str]) -> str:
    rest = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return f"{kind} ({len(names):,}): {', '.join(names[:_LISTED])}{rest}"


def _shown(name: str) -> str:
    """A name as one short piece of one line, whatever the file put into it."""
    name = name.encode("unicode_escape").decode("ascii")
    return name if len(name) <= 80 else name[:77] + "..."


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) if len(shape) <= 8 else f"of rank {len(shape)}"
