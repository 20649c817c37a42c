"""What a parameter leaf is, from how the network uses it: role, output axes, groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from jaxrobust.layers.loops import LOOPS, Opened
from jaxrobust.layers.table import Leaf, Role
from jaxrobust.program.jaxprs import Equation, Program

_NAMES: dict[Role, tuple[str, ...]] = {
    "bias": ("bias", "b", "beta"),
    "scale": ("scale", "gamma"),
    "kernel": ("kernel", "w", "W", "embedding"),
    "statistic": ("mean", "var", "variance", "running_mean", "running_var"),
}
_ROLES: dict[str, Role] = {name: role for role, names in _NAMES.items() for name in names}
PRODUCTS = ("conv_general_dilated", "dot_general")
_LOOKUPS = ("gather", "dynamic_slice")

# What takes a part of an array or makes it a part: its axes still count the same entries.
_PARTS = ("slice", "split", "dynamic_slice", "pad", "concatenate")

# For each axis of a value the axes of the leaf that it runs over; None where that is lost.
Axes = tuple[tuple[int, ...], ...] | None


@dataclass(frozen=True)
class Use:
    """An equation in which a leaf, or what was made of it, meets what depends on the images.

    Attributes:
        position: of the equation in the opened program.
        primitive: its name.
        loop: the loop in which it stands, if any.
        output_axes: axes of the leaf that a product leaves standing, or else all that are left, in
            the order in which they come; () if that is not known.
        dropped: axes of the leaf of which one entry is used here, as of a stack of layers.
        groups: feature groups of a convolution.
        parts: into how many products, one for each group or layer of a stack, its use is cut.
    """

    position: int
    primitive: str
    loop: str | None = None
    output_axes: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    groups: int = 1
    parts: int = 1


def leaf_uses(opened: Opened, leaf: int) -> list[Use]:
    """Follows a leaf through equations on parameters to those that use it, in order.

    Args:
        opened: the traced network, its loops open.
        leaf: the leaf's variable.
    """
    program = opened.program
    axes: dict[int, Axes] = {leaf: tuple((i,) for i in range(len(program.shapes[leaf].shape)))}
    uses = []
    for position, equation in enumerate(program.equations):
        if axes.keys().isdisjoint(equation.reads):
            continue
        if any(variable in opened.from_images for variable in equation.outputs):
            for argument, variable in enumerate(equation.inputs):
                if isinstance(variable, int) and variable in axes:
                    use = Use(position, equation.primitive, opened.loops[position])
                    known = axes[variable]
                    if known is not None:
                        shapes = program.shapes[leaf].shape, program.shapes[variable].shape
                        use = _described(use, equation, argument, known, *shapes)
                    uses.append(use)
        else:
            for variable in equation.outputs:
                axes[variable] = _followed(equation, axes, program, variable)
    return uses


def _described(
    use: Use,
    equation: Equation,
    argument: int,
    axes: tuple[tuple[int, ...], ...],
    shape: Sequence[int],
    operand: Sequence[int],
) -> Use:
    """What an equation does with the axes of a leaf of some shape, made into an operand."""
    params = equation.params
    present = {axis for merged in axes for axis in merged}
    dropped = tuple(axis for axis, n in enumerate(shape) if n > 1 and axis not in present)
    kept, groups = list(axes), 1
    if use.primitive == "conv_general_dilated":
        numbers = params["dimension_numbers"]
        kept = [axes[numbers.rhs_spec[0]]] if argument == 1 else []
        # Groups may be written as one convolution for each.
        cut = math.prod(shape[axis] for axis in sum(kept, ())) // max(
            operand[numbers.rhs_spec[0]], 1
        )
        groups = params["feature_group_count"] * max(cut, 1)
    elif use.primitive == "dot_general":
        contracted, batch = (each[argument] for each in params["dimension_numbers"])
        free = [i for i in range(len(axes)) if i not in (*contracted, *batch)]
        kept = [axes[i] for i in (*batch, *free)]
    outputs = tuple(dict.fromkeys(axis for merged in kept for axis in merged))
    parts = max(math.prod(shape) // max(math.prod(operand), 1), 1)
    return replace(use, output_axes=outputs, dropped=dropped, groups=groups, parts=parts)


def _followed(equation: Equation, axes: dict[int, Axes], program: Program, output: int) -> Axes:
    """Where a leaf's axes are after an equation on parameters alone."""
    name, params = equation.primitive, equation.params
    shape = program.shapes[output].shape
    sources = [v for v in equation.reads if axes.get(v) is not None]
    if not sources or name in (*PRODUCTS, *LOOPS, "gather"):
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
    if name == "stack":
        return (*known[: params["axis"]], (), *known[params["axis"] :])
    if name == "unstack":
        return known[: params["axis"]] + known[params["axis"] + 1 :]
    if name in ("reshape", "squeeze", "expand_dims"):
        return _regrouped(known, before, shape)
    if name in _PARTS:
        possible = equation.inputs if name == "concatenate" else equation.inputs[:1]
        return axes[sources[0]] if sources[0] in possible else None
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
    shape = tuple(value.shape)
    rank = len(shape)
    role = "kernel" if _is_packed(value, uses) else _role(name, rank, uses, frozen)
    stack = _stack(shape, uses or ())
    products = [use for use in uses or () if use.primitive in PRODUCTS]
    use = next((x for x in (products if role == "kernel" else uses or ()) if x.output_axes), None)
    # Each layer of a stack has units of its own.
    axes = tuple(dict.fromkeys((*stack, *(use.output_axes if use else ()))))
    if role != "kernel":
        axes += tuple(axis for axis in range(rank) if axis not in axes)
    elif use is None:
        axes = (rank - 1,)
    assumed = role == "kernel" and uses is not None and use is None
    groups = use.groups if use and role == "kernel" else 1
    return Leaf(name, path, shape, value.dtype, role, axes, groups, assumed, stack, value=value)


def _stack(shape: Sequence[int], uses: Sequence[Use]) -> tuple[int, ...]:
    """The axes that count the layers of a stack: each use takes one entry, together they take all.

    In a loop a use stands for many.
    """
    dropped = {use.dropped for use in uses if use.dropped}
    if len(dropped) != 1:
        return ()
    (axes,) = dropped
    some = [use for use in uses if use.dropped]
    looped = any(use.loop is not None for use in some)
    return axes if looped or len(some) >= math.prod(shape[axis] for axis in axes) else ()


def _is_packed(value: Any, uses: Sequence[Use] | None) -> bool:
    """Whether it is a kernel's whole numbers in one axis, of which a product's operand is made.

    Of a scale or offset for each unit the axes can be followed to the product. Without a program
    numbers of a byte are taken for a kernel's.
    """
    whole = jnp.issubdtype(value.dtype, jnp.integer)
    if len(value.shape) != 1 or not (whole or value.dtype == jnp.bool_):
        return False
    if uses is None:
        return whole and value.dtype.itemsize == 1
    return any(use.primitive in PRODUCTS and not use.output_axes for use in uses)


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
