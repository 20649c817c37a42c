"""Finding the layers of a parameter pytree and of the network that uses it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.errors import SpecificationError, unknown
from jaxrobust.jaxprs import Program, dependents
from jaxrobust.layers.roles import LOOPS, PRODUCTS, Use, leaf_uses, make_leaf
from jaxrobust.layers.table import Layer, LayerTable, Leaf


def leaf_paths(params: Any) -> list[str]:
    """The name of every leaf of a pytree, its keys joined by "/", in `jax.tree.leaves` order.

    >>> leaf_paths({"conv1": {"bias": 0, "kernel": 1}, "blocks": [2, 3]})
    ['blocks/0', 'blocks/1', 'conv1/bias', 'conv1/kernel']
    """
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]
    ]


def layer_table(
    params: Any,
    program: Program | None = None,
    *,
    layers: Mapping[str, Sequence[str]] | None = None,
    frozen: Collection[str] = (),
    collections: bool = False,
) -> LayerTable:
    """Finds the layers of a parameter pytree.

    Leaves that share all but the last part of their path are one layer. What a leaf is (its role,
    output axes, groups) follows from the equation that uses it; without a program, from its name
    and rank, with the last axis counting the outputs.

    Args:
        params: the parameter pytree.
        program: the traced network.
        layers: layer name -> paths of its leaves, where the paths alone don't tell.
        frozen: paths of leaves that are never damaged.
        collections: the first key of every path is a collection (Flax Linen's `params`,
            `batch_stats`) and not part of a layer's name.

    Raises:
        SpecificationError: a path in `layers` that doesn't exist, two leaves of one path, or no
            float parameters at all.
    """
    paths = leaf_paths(params)
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise SpecificationError(f"two parameter leaves have the same path {twice!r}: rename one")
    values = dict(zip(paths, jax.tree.leaves(params), strict=True))
    members = _members(values, layers, collections)
    variables = dict(zip(values, program.parameters, strict=True)) if program else {}
    found: dict[str, list[Use]] = {}
    if program is not None:
        from_images = dependents(program.equations, [program.images])
        found = {path: leaf_uses(program, v, from_images) for path, v in variables.items()}
    first = {path: uses[0].position for path, uses in found.items() if uses}

    table = []
    for name, paths in members.items():
        leaves = []
        for path in paths:
            value = values[path] if hasattr(values[path], "dtype") else jnp.asarray(values[path])
            if jnp.issubdtype(value.dtype, jnp.floating) and math.prod(value.shape):
                short = path.removeprefix(name + "/").removeprefix(name + ".")
                short = path.rsplit("/", 1)[-1] if collections or short == path else short
                leaves.append(make_leaf(short, path, value, found.get(path), path in frozen))
        if len({leaf.name for leaf in leaves}) < len(leaves):  # names tell random draws apart
            leaves = [replace(leaf, name=leaf.path) for leaf in leaves]
        damageable = [leaf for leaf in leaves if leaf.role != "statistic"]
        if damageable and (not program or any(leaf.path in first for leaf in damageable)):
            damageable.sort(key=lambda leaf: (leaf.role != "kernel", leaf.path))
            uses = [use for leaf in damageable for use in found.get(leaf.path, [])]
            count = max(
                round(sum(1 / u.parts for u in found.get(x.path, ()) if u.primitive in PRODUCTS))
                for x in damageable
            )
            loop = next((use.primitive for use in uses if use.primitive in LOOPS), None)
            table.append(Layer(name, tuple(damageable), uses=max(count, 1), loop=loop))
    if not table:
        raise SpecificationError("the network has no float parameters that its answer depends on")
    if program is None:
        return LayerTable(table)
    table.sort(key=lambda layer: min(first[x.path] for x in layer.leaves if x.path in first))
    statistics = {name: [variables[path] for path in paths] for name, paths in members.items()}
    return LayerTable(_with_outputs(table, program, statistics))


def _members(
    values: Mapping[str, Any], layers: Mapping[str, Sequence[str]] | None, collections: bool
) -> dict[str, list[str]]:
    if layers is not None:
        for path in (path for paths in layers.values() for path in paths):
            if path not in values:
                raise SpecificationError(unknown("parameter leaf", path, values))
        return {name: list(paths) for name, paths in layers.items()}
    members: dict[str, list[str]] = {}
    for path in values:
        name = path.split("/", 1)[-1] if collections else path
        for separator in "/.":
            if separator in name:
                name = name.rsplit(separator, 1)[0]
                break
        members.setdefault(name, []).append(path)
    return members


def _with_outputs(
    table: list[Layer], program: Program, variables: Mapping[str, list[int]]
) -> list[Layer]:
    """Adds each layer's output variable and the normalisation that follows it.

    A layer's own equations are those that mix what depends on the images with something that
    depends on the layer's parameters alone; the last of them makes its output. Behind it, every
    variable remembers which layers' outputs it was last computed from.
    """
    from_images = dependents(program.equations, [program.images])
    owners: dict[int, set[str]] = {}
    for layer in table:
        for variable in dependents(program.equations, variables[layer.name]) - from_images:
            owners.setdefault(variable, set()).add(layer.name)
    output: dict[str, int] = {}
    origin: dict[int, set[str]] = {program.images: {""}}
    inputs: dict[str, set[str]] = {}
    for equation in program.equations:
        if not from_images.intersection(equation.reads):
            continue
        before = {name for v in equation.reads for name in origin.get(v, ())}
        owned = {name for v in equation.reads for name in owners.get(v, ())}
        for name in owned:
            output[name] = equation.outputs[0]
            inputs.setdefault(name, set()).update(before - {name})
        origin |= dict.fromkeys(equation.outputs, owned or before)
    by_name = {layer.name: layer for layer in table}
    followers: dict[str, tuple[Leaf, ...]] = {}
    for name, sources in inputs.items():
        if by_name[name].kernel is None and len(sources) == 1:
            (source,) = sources
            followers[source] = followers.get(source, ()) + by_name[name].leaves
    finished = []
    for layer in table:
        made = output.get(layer.name)
        after = followers.get(layer.name, ()) if layer.kernel else ()
        finished.append(
            replace(
                layer,
                normalisation=tuple(leaf for leaf in after if leaf.units == layer.units),
                output=made,
                output_shape=None if made is None else program.shapes[made].shape[1:],
            )
        )
    return finished
