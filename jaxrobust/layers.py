"""The layer table of a network, and selectors that choose layers from it."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust.errors import SpecificationError, unknown
from jaxrobust.jaxprs import Program, dependents
from jaxrobust.text import aligned

Role = Literal["kernel", "bias", "scale", "statistic"]

_NAMES: dict[Role, tuple[str, ...]] = {
    "bias": ("bias", "b", "beta"),
    "scale": ("scale", "gamma"),
    "kernel": ("kernel", "w", "W", "embedding"),
    "statistic": ("mean", "var", "variance", "running_mean", "running_var"),
}
_ROLES = {name: role for role, names in _NAMES.items() for name in names}
_LOOPS = ("scan", "while", "cond")
_PRODUCTS = ("conv_general_dilated", "dot_general")


@dataclass(frozen=True)
class Leaf:
    """One parameter array of a layer.

    Attributes:
        name: its name inside the layer: `kernel`.
        path: its name in the whole pytree: `conv1/kernel`.
        shape, dtype: of the array.
        role: `kernel`, `bias`, `scale` or `statistic` (never damaged).
        output_axes: the axes that count output units: for a kernel those that its convolution or
            product leaves standing, for any other leaf all of them.
        groups: feature groups of the convolution that uses the kernel.
        value: the array itself; not part of equality.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    role: Role
    output_axes: tuple[int, ...]
    groups: int = 1
    value: Any = field(default=None, compare=False, repr=False)

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    @property
    def units(self) -> int:
        """The number of output units that the leaf holds."""
        return math.prod(self.shape[axis] for axis in self.output_axes)

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape in which one number per unit broadcasts against the leaf."""
        return tuple(n if axis in self.output_axes else 1 for axis, n in enumerate(self.shape))

    @cached_property
    def std(self) -> Any:
        """The standard deviation of all entries (population), in float64 on the host.

        Inside a JAX transformation, where there are no values yet, it is traced in float32.
        """
        if isinstance(self.value, Tracer):
            return jnp.std(self.value.astype(jnp.float32))
        return float(np.std(np.asarray(self.value).astype(np.float64)))


@dataclass(frozen=True)
class Layer:
    """A named group of parameter leaves that are damaged together.

    Attributes:
        name: `conv1`.
        leaves: its damageable leaves, kernels first.
        normalisation: scale and bias of a normalisation layer that reads this layer's output and
            nothing else; empty if there is none.
        output: the variable of the traced program that holds the layer's output; None if the
            table was made without a network.
        output_shape: of that variable for one image, without the batch axis.
        uses: in how many places of the program its kernels (or other leaves) are used.
        loop: `scan`, `while` or `cond` if it is used inside one, else None.
    """

    name: str
    leaves: tuple[Leaf, ...]
    normalisation: tuple[Leaf, ...] = ()
    output: int | None = None
    output_shape: tuple[int, ...] | None = None
    uses: int = 1
    loop: str | None = None

    @property
    def kernel(self) -> Leaf | None:
        """The first kernel of rank 2 or more."""
        return next((x for x in self.leaves if x.role == "kernel" and len(x.shape) > 1), None)

    @property
    def units(self) -> int:
        """The number of output units."""
        return (self.kernel or self.leaves[0]).units

    def without_values(self) -> Layer:
        """The same layer as a key for compiled programs: no arrays in it."""
        return replace(
            self,
            leaves=tuple(replace(leaf, value=None) for leaf in self.leaves),
            normalisation=tuple(replace(leaf, value=None) for leaf in self.normalisation),
        )


class LayerTable(Mapping[str, Layer]):
    """The layers of a network by name, in order of first use; prints as a table."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        self._layers = {layer.name: layer for layer in layers}

    def __getitem__(self, name: str) -> Layer:
        if name not in self._layers:
            raise SpecificationError(unknown("layer", name, self._layers))
        return self._layers[name]

    def __contains__(self, name: object) -> bool:
        return name in self._layers

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        rows = [("layer", "leaves", "entries", "units", "output", "note")]
        for layer in self.values():
            leaves = ", ".join(
                f"{leaf.name} {'×'.join(map(str, leaf.shape)) or 'scalar'}" for leaf in layer.leaves
            )
            entries = sum(leaf.size for leaf in layer.leaves)
            output = "×".join(map(str, layer.output_shape or ())) or "-"
            notes = [f"used {layer.uses} times"] * (layer.uses > 1)
            notes += [f"inside {layer.loop}: not hoisted"] * (layer.loop is not None)
            groups = layer.kernel.groups if layer.kernel else 1
            notes += [f"{groups} groups"] * (groups > 1)
            row = (layer.name, leaves, f"{entries:,}", f"{layer.units:,}", output, "; ".join(notes))
            rows.append(row)
        return aligned(rows)


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
        SpecificationError: a path in `layers` that doesn't exist, or no float parameters at all.
    """
    values = dict(zip(leaf_paths(params), jax.tree.leaves(params), strict=True))
    members = _members(values, layers, collections)
    variables = dict(zip(values, program.parameters, strict=True)) if program else {}
    found = {path: _uses(program, variable) for path, variable in variables.items()}
    first = {path: uses[0].position for path, uses in found.items() if uses}

    table = []
    for name, paths in members.items():
        leaves = []
        for path in paths:
            value = values[path] if hasattr(values[path], "dtype") else jnp.asarray(values[path])
            if jnp.issubdtype(value.dtype, jnp.floating):
                short = path.removeprefix(name + "/").removeprefix(name + ".")
                short = path.rsplit("/", 1)[-1] if collections or short == path else short
                uses = found.get(path, [])
                leaves.append(_leaf(short, path, value, uses, path in frozen))
        damageable = [leaf for leaf in leaves if leaf.role != "statistic"]
        if damageable and (not program or any(leaf.path in first for leaf in damageable)):
            damageable.sort(key=lambda leaf: (leaf.role != "kernel", leaf.path))
            uses = [use for leaf in damageable for use in found.get(leaf.path, [])]
            count = max(
                sum(u.primitive in _PRODUCTS for u in found.get(x.path, ())) for x in damageable
            )
            loop = next((use.primitive for use in uses if use.primitive in _LOOPS), None)
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


@dataclass(frozen=True)
class _Use:
    """An equation that mixes a leaf with something else, and where the leaf's axes went."""

    position: int
    primitive: str
    output_axes: tuple[int, ...] | None
    groups: int


def _uses(program: Program | None, leaf: int) -> list[_Use]:
    """Follows a leaf through changes of layout and type to the equations that use it."""
    assert program is not None
    rank = len(program.shapes[leaf].shape)
    axes_of: dict[int, tuple[int | None, ...] | None] = {leaf: tuple(range(rank))}
    uses = []
    for position, equation in enumerate(program.equations):
        for argument, variable in enumerate(equation.inputs):
            if not isinstance(variable, int) or variable not in axes_of:
                continue
            axes, name = axes_of[variable], equation.primitive
            followed = _follow(equation, axes, program) if len(equation.reads) == 1 else None
            if followed is not None:
                axes_of[equation.outputs[0]] = followed[0]
                continue
            outputs, groups = None, 1
            dimensions: Any = equation.params.get("dimension_numbers")
            if name == "conv_general_dilated" and argument == 1:
                groups = equation.params["feature_group_count"]
                outputs = axes and (axes[dimensions.rhs_spec[0]],)
            elif name == "dot_general":
                contracted = dimensions[0][argument]
                outputs = axes and tuple(x for i, x in enumerate(axes) if i not in contracted)
            known = outputs is not None and None not in outputs
            uses.append(_Use(position, name, tuple(sorted(outputs)) if known else None, groups))  # type: ignore[type-var]
    return uses


def _follow(
    equation: Any, axes: tuple[int | None, ...] | None, program: Program
) -> tuple[tuple[int | None, ...] | None] | None:
    """Where the axes are after a mere change of layout (in a 1-tuple), or None if it is a use."""
    name, params = equation.primitive, equation.params
    if name in ("convert_element_type", "copy", "stop_gradient", "optimization_barrier"):
        return (axes,)
    if axes is None:
        return (None,) if name in ("reshape", "transpose", "squeeze", "broadcast_in_dim") else None
    if name == "transpose":
        return (tuple(axes[i] for i in params["permutation"]),)
    if name == "broadcast_in_dim":
        made: list[int | None] = [None] * len(params["shape"])
        for source, target in zip(axes, params["broadcast_dimensions"], strict=True):
            made[target] = source
        return (tuple(made),)
    if name in ("reshape", "squeeze", "expand_dims"):
        before = program.shapes[equation.reads[0]].shape
        after = program.shapes[equation.outputs[0]].shape
        if [n for n in before if n != 1] != [n for n in after if n != 1]:
            return (None,)
        left = iter(axis for axis, n in zip(axes, before, strict=True) if n != 1)
        return (tuple(None if n == 1 else next(left) for n in after),)
    return None


def _leaf(name: str, path: str, value: Any, uses: list[_Use], frozen: bool) -> Leaf:
    rank = len(value.shape)
    use = next((u for u in uses if u.primitive in _PRODUCTS), None)
    # A module's path may end in an attribute of its variable ("kernel/value"): look at all parts.
    named = next((_ROLES[p] for p in reversed(name.split("/")) if p in _ROLES), None)
    role: Role
    if frozen or named == "statistic":
        role = "statistic"
    elif use is not None and rank > 1:
        role = "kernel"
    elif named is not None and (named != "kernel" or rank > 1):
        role = named
    elif uses and uses[0].primitive in ("add", "add_any", "sub"):
        role = "bias"
    elif uses and uses[0].primitive in ("mul", "div"):
        role = "scale"
    else:
        role = "kernel" if rank > 1 else "bias"
    axes = tuple(range(rank))
    if role == "kernel":
        axes = use.output_axes if use and use.output_axes else (rank - 1,)
    shape, dtype = tuple(value.shape), np.dtype(value.dtype)
    return Leaf(name, path, shape, dtype, role, axes, use.groups if use else 1, value)


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
    follower = {
        next(iter(sources)): by_name[name].leaves
        for name, sources in inputs.items()
        if by_name[name].kernel is None and len(sources) == 1
    }
    finished = []
    for layer in table:
        made = output.get(layer.name)
        after = follower.get(layer.name, ()) if layer.kernel else ()
        finished.append(
            replace(
                layer,
                normalisation=after if all(x.units == layer.units for x in after) else (),
                output=made,
                output_shape=None if made is None else program.shapes[made].shape[1:],
            )
        )
    return finished


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
    if not groups:
        raise SpecificationError(f"no layers were asked for: possible: {', '.join(table)}")
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
