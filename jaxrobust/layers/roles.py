"""What a parameter leaf is, from how the network uses it: role, output axes, groups."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxrobust.jaxprs import Equation, Program
from jaxrobust.layers.table import Leaf, Role

_NAMES: dict[Role, tuple[str, ...]] = {
    "bias": ("bias", "b", "beta"),
    "scale": ("scale", "gamma"),
    "kernel": ("kernel", "w", "W", "embedding"),
    "statistic": ("mean", "var", "variance", "running_mean", "running_var"),
}
_ROLES: dict[str, Role] = {name: role for role, names in _NAMES.items() for name in names}
LOOPS = ("scan", "while", "cond")
PRODUCTS = ("conv_general_dilated", "dot_general")
_LOOKUPS = ("gather", "dynamic_slice")

# For each axis of a value the axes of the leaf that it runs over; None where that is lost.
Axes = tuple[tuple[int, ...], ...] | None


@dataclass(frozen=True)
class Use:
    """An equation in which a leaf, or what was made of it, meets what depends on the images.

    Attributes:
        position: of the equation in the program.
        primitive: its name.
        output_axes: axes of the leaf that a product or a scan leaves standing, if known.
        groups: feature groups of a convolution.
        parts: into how many convolutions, one for each group, its use is cut.
    """

    position: int
    primitive: str
    output_axes: tuple[int, ...] | None
    groups: int = 1
    parts: int = 1


def leaf_uses(program: Program, leaf: int, from_images: Collection[int]) -> list[Use]:
    """Follows a leaf through equations on parameters to those that use it, in order.

    Args:
        program: the traced network.
        leaf: the leaf's variable.
        from_images: the variables that depend on the images.
    """
    axes: dict[int, Axes] = {leaf: tuple((i,) for i in range(len(program.shapes[leaf].shape)))}
    uses = []
    for position, equation in enumerate(program.equations):
        if axes.keys().isdisjoint(equation.reads):
            continue
        if any(variable in from_images for variable in equation.outputs):
            for argument, variable in enumerate(equation.inputs):
                if isinstance(variable, int) and variable in axes:
                    use = _use(position, equation, argument, axes[variable])
                    uses.append(_in_groups(use, program, leaf, variable))
        else:
            for variable in equation.outputs:
                axes[variable] = _followed(equation, axes, program, variable)
    return uses


def _use(position: int, equation: Equation, argument: int, axes: Axes) -> Use:
    name, params = equation.primitive, equation.params
    kept: Sequence[tuple[int, ...]] = ()
    groups = 1
    if axes is None:
        pass
    elif name == "conv_general_dilated" and argument == 1:
        groups = params["feature_group_count"]
        kept = (axes[params["dimension_numbers"].rhs_spec[0]],)
    elif name == "dot_general":
        contracted = params["dimension_numbers"][0][argument]
        kept = [axis for i, axis in enumerate(axes) if i not in contracted]
    elif name == "scan" and len(params["jaxpr"].in_avals[argument].shape) < len(axes):
        kept = (axes[0], axes[-1])  # one layer after the other along the first axis
    outputs = tuple(sorted({axis for merged in kept for axis in merged}))
    return Use(position, name, outputs or None, groups)


def _in_groups(use: Use, program: Program, leaf: int, operand: int) -> Use:
    """Counts the groups of a convolution that is written as one convolution for each."""
    if use.primitive != "conv_general_dilated" or not use.output_axes:
        return use
    shape = program.shapes[leaf].shape
    outputs = math.prod(shape[axis] for axis in use.output_axes)
    numbers = program.equations[use.position].params["dimension_numbers"]
    used = program.shapes[operand].shape[numbers.rhs_spec[0]]
    parts = outputs // used
    return replace(use, groups=use.groups * parts, parts=parts)


def _followed(equation: Equation, axes: dict[int, Axes], program: Program, output: int) -> Axes:
    """Where a leaf's axes are after an equation on parameters alone."""
    name, params = equation.primitive, equation.params
    shape = program.shapes[output].shape
    sources = [v for v in equation.reads if axes.get(v) is not None]
    if not sources or name in (*PRODUCTS, *LOOPS, *_LOOKUPS):
        return None
    before = program.shapes[sources[0]].shape
    known = axes[sources[0]] or ()
    if name == "transpose":
        return tuple(known[i] for i in params["permutation"])
    if name == "broadcast_in_dim":
        made: list[tuple[int, ...]] = [()] * len(shape)
        for source, target in zip(known, params["broadcast_dimensions"], strict=True):
            made[target] = source
        return tuple(made)
    if name in ("reshape", "squeeze", "expand_dims"):
        return _regrouped(known, before, shape)
    if name in ("slice", "split"):  # a part of an axis still counts that axis's entries
        return axes[sources[0]]
    # Element-wise: scaled, masked, normalised, flipped, of another type.
    same = next((v for v in sources if program.shapes[v].shape == shape), None)
    return None if same is None else axes[same]


def _regrouped(known: Axes, before: Sequence[int], after: Sequence[int]) -> Axes:
    """Axes after a reshape that only merges neighbours and adds or drops axes of length 1."""
    left = [(axis, n) for axis, n in zip(known or (), before, strict=True) if n != 1]
    made = []
    for length in after:
        merged: tuple[int, ...] = ()
        product = 1
        while product < length and left:
            axis, n = left.pop(0)
            merged, product = merged + axis, product * n
        if product != length:
            return None
        made.append(merged)
    return tuple(made)


def make_leaf(name: str, path: str, value: Any, uses: Sequence[Use] | None, frozen: bool) -> Leaf:
    """Decides what a leaf is.

    Args:
        name, path: inside the layer and in the pytree.
        value: the array.
        uses: from `leaf_uses`; None without a program, when name and rank decide.
        frozen: it is never damaged.
    """
    rank = len(value.shape)
    role = _role(name, rank, uses, frozen)
    axes, groups, assumed = tuple(range(rank)), 1, False
    if role == "kernel":
        use = next((use for use in uses or () if use.output_axes), None)
        axes = use.output_axes if use and use.output_axes else (rank - 1,)
        groups, assumed = use.groups if use else 1, uses is not None and use is None
    dtype = np.dtype(value.dtype)
    return Leaf(name, path, tuple(value.shape), dtype, role, axes, groups, assumed, value)


def _role(name: str, rank: int, uses: Sequence[Use] | None, frozen: bool) -> Role:
    # A module's path may end in an attribute of its variable ("kernel/value"): look at all parts.
    parts: list[Role] = [_ROLES[part] for part in reversed(name.split("/")) if part in _ROLES]
    named: Role | None = parts[0] if parts else None
    primitives = [use.primitive for use in uses or ()]
    if frozen or named == "statistic":
        return "statistic"
    if rank > 1 and any(primitive in PRODUCTS for primitive in primitives):
        return "kernel"
    if named is not None and (named != "kernel" or rank > 1):
        return named
    if primitives and primitives[0] in ("mul", "div"):
        return "scale"
    looked_up = any(primitive in (*LOOPS, *_LOOKUPS) for primitive in primitives)
    return "kernel" if rank > 1 and (uses is None or looked_up) else "bias"
