"""Finding the layers of a parameter pytree and of the network that uses it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.ground.errors import SpecificationError, unknown
from jaxrobust.layers.loops import Opened, opened
from jaxrobust.layers.roles import PRODUCTS, Use, leaf_uses, make_leaf
from jaxrobust.layers.table import Layer, LayerTable, Leaf
from jaxrobust.program.jaxprs import Program, dependents, leaf_paths


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
    inside = opened(program) if program else None
    found = {path: leaf_uses(inside, v) for path, v in variables.items()} if inside else None

    table, others = [], {}
    for name, paths in members.items():
        leaves, fixed = _leaves(name, paths, values, found, frozen, collections)
        if leaves or fixed:
            table.append(_layer(name, leaves, fixed, found or {}))
        elif found is None or any(found[path] for path in paths):
            others[name] = f"{', '.join(paths[:3])} {'is' if len(paths) == 1 else 'are'} frozen"
        else:
            others[name] = "the network's answer does not depend on it"
    table = [_without_its_kernel(layer, table) for layer in table]
    if not any(layer.leaves for layer in table):
        why = "".join(f"; {layer.name}: {layer.refusal}" for layer in table[:3])
        raise SpecificationError(
            f"the network has no float parameters that its answer depends on{why}"
        )
    if program is None or inside is None or found is None:
        return LayerTable(table, others)
    first = {path: uses[0].position for path, uses in found.items() if uses}
    table.sort(
        key=lambda each: min(first[x.path] for x in each.leaves + each.fixed if x.path in first)
    )
    owned = {name: [variables[path] for path in paths] for name, paths in members.items()}
    return LayerTable(_with_outputs(table, program, inside, owned), others)


def _leaves(
    layer: str,
    paths: Sequence[str],
    values: Mapping[str, Any],
    found: Mapping[str, list[Use]] | None,
    frozen: Collection[str],
    collections: bool,
) -> tuple[list[Leaf], list[Leaf]]:
    """The damageable leaves of a layer, kernels first, and those that can't be damaged.

    None of either if the network uses none of them.
    """
    floats, fixed = [], []
    for path in paths:
        value = values[path] if hasattr(values[path], "dtype") else jnp.asarray(values[path])
        short = path.removeprefix(layer + "/").removeprefix(layer + ".")
        short = path.rsplit("/", 1)[-1] if collections or short == path else short
        uses = None if found is None else found[path]
        is_float = jnp.issubdtype(value.dtype, jnp.floating) and math.prod(value.shape) > 0
        # A variable of another kind than parameters may still be a layer's kernel.
        leaf = make_leaf(short, path, value, uses, is_float and path in frozen)
        (floats if is_float else fixed).append(leaf)
    if len({leaf.name for leaf in floats}) < len(floats):  # names tell random draws apart
        floats = [replace(leaf, name=leaf.path) for leaf in floats]
    made = [leaf for leaf in floats if leaf.role != "statistic"]
    if found is not None:
        fixed = [leaf for leaf in fixed if found[leaf.path]]
        made = made if any(found[leaf.path] for leaf in made) else []
    made.sort(key=lambda leaf: (leaf.role != "kernel", leaf.path))
    return made, fixed


def _layer(
    name: str, leaves: list[Leaf], fixed: list[Leaf], found: Mapping[str, list[Use]]
) -> Layer:
    """A layer without its output; one whose kernel can't be damaged has only fixed leaves."""
    refusal = _refusal(leaves, fixed, found)
    if refusal:
        leaves, fixed = [], leaves + fixed
    uses = {leaf.path: found.get(leaf.path, []) for leaf in leaves + fixed}
    counts = [
        round(sum(1 / use.parts for use in each if use.primitive in PRODUCTS))
        for each in uses.values()
    ]
    loop = next((use.loop for each in uses.values() for use in each if use.loop), None)
    return Layer(
        name,
        tuple(leaves),
        uses=max(*counts, 1),
        loop=loop,
        fixed=tuple(fixed),
        refusal=refusal,
    )


def _refusal(leaves: Sequence[Leaf], fixed: Sequence[Leaf], found: Mapping[str, list[Use]]) -> str:
    """Why a layer can't be damaged: most of it is no float; "" if it can.

    Beside a float kernel, which may be packed in one axis, there may be a mask of its size, or a
    smaller table of whole numbers.
    """
    kernels = [
        leaf
        for leaf in leaves
        if leaf.role == "kernel" or any(x.primitive in PRODUCTS for x in found.get(leaf.path, ()))
    ]
    largest = max((leaf.size for leaf in kernels), default=-1)
    why = next((x for x in fixed if x.role == "kernel" and x.size > largest), None)
    if why is None and not leaves:
        why = fixed[0]
    if why is None:
        return ""
    return f"its {why.name} {'is empty' if not why.size else f'holds {why.dtype}, not floats'}"


def _without_its_kernel(layer: Layer, table: Sequence[Layer]) -> Layer:
    """The layer, refused if it is only the bias of a kernel that can't be damaged.

    A quantised kernel may be a dictionary of its own: `{"kernel": {"q", "scale"}, "bias"}`.
    """
    inside = [x for x in table if x.name.startswith((f"{layer.name}/", f"{layer.name}."))]
    refused = [x for x in inside if x.refusal and any(leaf.role == "kernel" for leaf in x.fixed)]
    vectors = all(len(leaf.shape) < 2 for leaf in layer.leaves)
    if not layer.leaves or not vectors or not refused or any(x.kernel for x in inside):
        return layer
    return replace(
        layer,
        leaves=(),
        fixed=layer.leaves + layer.fixed,
        refusal=f"its kernel is {refused[0].name}, which can't be damaged: {refused[0].refusal}",
    )


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
    table: list[Layer], program: Program, inside: Opened, variables: Mapping[str, list[int]]
) -> list[Layer]:
    """Adds each layer's output variable and the normalisation that follows it.

    A layer's own equations are those that mix what depends on the images with something that
    depends on the layer's parameters alone; the last of them makes its output.
    """
    equations = inside.program.equations
    owners: dict[int, set[str]] = {}
    for layer in table:
        for variable in dependents(equations, variables[layer.name]) - inside.from_images:
            owners.setdefault(variable, set()).add(layer.name)
    output, inputs = _flow(inside, owners)
    by_name = {layer.name: layer for layer in table}
    followers: dict[str, tuple[Leaf, ...]] = {}
    for name, sources in inputs.items():
        if by_name[name].kernel is None and len(sources) == 1:
            (source,) = sources
            followers[source] = followers.get(source, ()) + by_name[name].leaves
    known = {variable for equation in program.equations for variable in equation.outputs}
    finished = []
    for layer in table:
        made = output.get(layer.name)
        after = followers.get(layer.name, ()) if layer.kernel else ()
        finished.append(
            replace(
                layer,
                normalisation=tuple(leaf for leaf in after if leaf.units == layer.units),
                output=made if made in known else None,
                output_shape=None if made is None else inside.program.shapes[made].shape[1:],
            )
        )
    return finished


def _flow(
    inside: Opened, owners: Mapping[int, set[str]]
) -> tuple[dict[str, int], dict[str, set[str]]]:
    """Each layer's output, and the layers from whose outputs it was computed.

    Every variable remembers which layers' outputs it was last computed from; what a loop carries,
    also those of the turn before.
    """
    output: dict[str, int] = {}
    inputs: dict[str, set[str]] = {}
    turned: dict[int, set[str]] = {}
    while True:
        origin: dict[int, set[str]] = {inside.program.images: {""}}
        for equation in inside.program.equations:
            if inside.from_images.isdisjoint((*equation.reads, *equation.outputs)):
                continue
            before = {name for v in equation.reads for name in origin.get(v, ())}
            before |= turned.get(equation.outputs[0], set())
            owned = {name for v in equation.reads for name in owners.get(v, ())}
            for name in owned:
                output[name] = equation.outputs[0]
                inputs.setdefault(name, set()).update(before - {name})
            origin |= dict.fromkeys(equation.outputs, owned or before)
        later = {taken: origin.get(given, set()) for taken, given in inside.fed_back}
        if later == turned:
            return output, inputs
        turned = later
