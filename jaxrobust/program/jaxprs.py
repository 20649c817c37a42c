"""Flat programs out of jaxprs: trace, inline nested calls, find dependencies, run parts.

A `Program` is a straight list of equations over numbered variables. Calls nested in a jaxpr
(jit, custom derivatives, remat) are inlined, so that a later pass sees every equation; loops and
conditionals stay one equation each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from jaxrobust.ground.errors import SpecificationError

# The parameter of a call equation that holds the jaxpr it calls, by primitive name (the names of
# one primitive differ between JAX versions).
_CALLED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}


@dataclass(frozen=True)
class Equation:
    """One primitive applied to variables: inputs are variable numbers or literals."""

    source: JaxprEqn
    inputs: tuple[int | Literal, ...]
    outputs: tuple[int, ...]

    @property
    def primitive(self) -> str:
        return self.source.primitive.name

    @property
    def params(self) -> dict[str, Any]:
        return self.source.params

    @property
    def reads(self) -> tuple[int, ...]:
        """The variables among the inputs."""
        return tuple(i for i in self.inputs if isinstance(i, int))


@dataclass(frozen=True, eq=False)
class Program:
    """A function of parameter leaves and one batch of images, as a flat list of equations.

    Attributes:
        equations: in order of execution; only those that the output needs.
        parameters: the variable of each parameter leaf, in the order of `jax.tree.leaves`.
        paths: the path of each parameter leaf.
        images: the variable of the image batch.
        output: the variable of the result.
        constants: arrays that the traced function closed over, by variable.
        shapes: shape and dtype of every variable.
    """

    equations: tuple[Equation, ...]
    parameters: tuple[int, ...]
    paths: tuple[str, ...]
    images: int
    output: int
    constants: dict[int, Any]
    shapes: dict[int, jax.ShapeDtypeStruct]

    @cached_property
    def variables(self) -> dict[str, int]:
        """The variable of each parameter leaf by its path."""
        return dict(zip(self.paths, self.parameters, strict=True))


def leaf_paths(params: Any) -> list[str]:
    """The name of every leaf of a pytree, its keys joined by "/", in `jax.tree.leaves` order.

    >>> leaf_paths({"conv1": {"bias": 0, "kernel": 1}, "blocks": [2, 3]})
    ['blocks/0', 'blocks/1', 'conv1/bias', 'conv1/kernel']
    """
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]
    ]


def trace(apply: Callable, params: Any, images: jax.ShapeDtypeStruct) -> Program:
    """Traces `apply(params, images)` into a flat program.

    Args:
        apply: a pure function of a parameter pytree and an image batch that returns one array.
        params: the pytree; only shapes and dtypes are used.
        images: shape and dtype of the batch.

    Raises:
        SpecificationError: if `apply` returns anything but one array that depends on its input.
    """
    leaves, structure = jax.tree.flatten(params)
    closed, result = jax.make_jaxpr(
        lambda leaves, images: apply(jax.tree.unflatten(structure, leaves), images),
        return_shape=True,
    )([_abstract(leaf) for leaf in leaves], images)
    if not hasattr(result, "shape"):
        raise SpecificationError(
            f"a network returns one array of logits; this one returned {jax.tree.structure(result)}"
        )
    flat = flatten(closed.jaxpr, closed.consts)
    (output,) = flat.outputs
    if isinstance(output, Literal):
        raise SpecificationError(
            "a network's logits must depend on its input; these are one constant"
        )
    return Program(
        equations=needed(flat.equations, [output]),
        parameters=flat.inputs[:-1],
        paths=tuple(leaf_paths(params)),
        images=flat.inputs[-1],
        output=output,
        constants=flat.constants,
        shapes=flat.shapes,
    )


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    leaf = leaf if hasattr(leaf, "dtype") else jax.numpy.asarray(leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


class Inliner:
    """Numbers variables and copies equations into one list while it descends into calls.

    Args:
        shapes, constants: of the variables that there are already.
    """

    def __init__(
        self,
        shapes: Mapping[int, jax.ShapeDtypeStruct] = MappingProxyType({}),
        constants: Mapping[int, Any] = MappingProxyType({}),
    ) -> None:
        self.equations: list[Equation] = []
        self.constants = dict(constants)
        self.shapes = dict(shapes)

    def new(self, aval: Any) -> int:
        number = len(self.shapes)
        self.shapes[number] = jax.ShapeDtypeStruct(
            getattr(aval, "shape", ()), getattr(aval, "dtype", jax.numpy.float32)
        )
        return number

    def constant(self, values: Iterable[Any]) -> list[int]:
        numbers = []
        for value in values:
            numbers.append(self.new(jax.typeof(value)))
            self.constants[numbers[-1]] = value
        return numbers

    def inline(
        self, jaxpr: Jaxpr, constants: Sequence[int], inputs: Sequence[int | Literal]
    ) -> list[int | Literal]:
        names: dict[Any, int | Literal] = dict(zip(jaxpr.constvars, constants, strict=True))
        names |= zip(jaxpr.invars, inputs, strict=True)

        def read(atom: Any) -> int | Literal:
            return atom if isinstance(atom, Literal) else names[atom]

        for equation in jaxpr.eqns:
            arguments = [read(atom) for atom in equation.invars]
            called = equation.params.get(_CALLED.get(equation.primitive.name, ""))
            if isinstance(called, ClosedJaxpr):
                results = self.inline(called.jaxpr, self.constant(called.consts), arguments)
            elif isinstance(called, Jaxpr):
                results = self.inline(called, (), arguments)
            else:
                results = [self.new(variable.aval) for variable in equation.outvars]
                self.equations.append(Equation(equation, tuple(arguments), tuple(results)))
            names |= zip(equation.outvars, results, strict=True)
        return [read(atom) for atom in jaxpr.outvars]


@dataclass(frozen=True, eq=False)
class Flat:
    """Any jaxpr as a flat list of equations.

    Attributes:
        equations, constants, shapes: as in `Program`, the equations all of them.
        inputs: the variable of each argument.
        outputs: the variable of each result, or the literal that it is.
    """

    equations: tuple[Equation, ...]
    constants: dict[int, Any]
    shapes: dict[int, jax.ShapeDtypeStruct]
    inputs: tuple[int, ...]
    outputs: tuple[int | Literal, ...]


def flatten(jaxpr: Jaxpr, constants: Sequence[Any] | None = None) -> Flat:
    """Inlines all calls of a jaxpr.

    Args:
        jaxpr: any.
        constants: the arrays that it closes over; None makes arguments of them, the first ones.
    """
    flat = Inliner()
    held = flat.constant(constants or ())
    if constants is None:
        held = [flat.new(variable.aval) for variable in jaxpr.constvars]
    inputs = [flat.new(variable.aval) for variable in jaxpr.invars]
    outputs = flat.inline(jaxpr, held, inputs)
    inputs = inputs if constants is not None else [*held, *inputs]
    return Flat(tuple(flat.equations), flat.constants, flat.shapes, tuple(inputs), tuple(outputs))


def rewrite(
    program: Program, instead: Callable[[Equation], Callable[..., Any] | None]
) -> tuple[Program, dict[int, tuple[Equation, ...]]]:
    """A program in which functions stand in the place of some equations.

    Args:
        program: any program.
        instead: gives for an equation a function of the variables that it reads, whose one result
            has the shape and dtype of the equation's; None leaves it as it is.

    Returns:
        The program, and the new equations by the `id` of the equation that they stand for.
    """
    flat = Inliner(program.shapes, program.constants)
    written: dict[int, tuple[Equation, ...]] = {}
    for equation in program.equations:
        function = instead(equation)
        if function is None:
            flat.equations.append(equation)
            continue
        start = len(flat.equations)
        traced = jax.make_jaxpr(function)(*(program.shapes[v] for v in equation.reads))
        (result,) = flat.inline(traced.jaxpr, flat.constant(traced.consts), equation.reads)
        # The result keeps its name: whatever reads it stays as it is.
        (place,) = (
            place for place, new in enumerate(flat.equations[start:]) if result in new.outputs
        )
        last = flat.equations[start + place]
        flat.equations[start + place] = replace(last, outputs=equation.outputs)
        written[id(equation)] = tuple(flat.equations[start:])
    made = replace(
        program,
        equations=tuple(flat.equations),
        shapes=flat.shapes,
        constants=flat.constants,
    )
    return made, written


def needed(equations: Sequence[Equation], wanted: Iterable[int]) -> tuple[Equation, ...]:
    """The equations, in their order, on which the wanted variables depend."""
    live = set(wanted)
    kept = []
    for equation in reversed(equations):
        if live.intersection(equation.outputs):
            live.update(equation.reads)
            kept.append(equation)
    return tuple(reversed(kept))


def dependents(equations: Iterable[Equation], roots: Iterable[int]) -> set[int]:
    """The roots and every variable that depends on one of them."""
    reached = set(roots)
    for equation in equations:
        if reached.intersection(equation.reads):
            reached.update(equation.outputs)
    return reached


def run(
    equations: Iterable[Equation], values: Mapping[int, Any], wanted: Sequence[int]
) -> list[Any]:
    """Executes equations under the present transformation (jit, vmap, …).

    Args:
        equations: in order of execution.
        values: the array of every variable that the equations read and do not make.
        wanted: the variables to return.
    """
    environment = dict(values)
    for equation in equations:
        source = equation.source
        arguments = [
            environment[atom] if isinstance(atom, int) else atom.val for atom in equation.inputs
        ]
        with source.ctx.manager:
            result = source.primitive.bind(
                *arguments, **source.primitive.get_bind_params(source.params)
            )
        results = result if source.primitive.multiple_results else [result]
        environment.update(zip(equation.outputs, results, strict=True))
    return [environment[variable] for variable in wanted]


def size_in_bytes(shape: jax.ShapeDtypeStruct) -> int:
    return math.prod(shape.shape) * shape.dtype.itemsize  # of random keys too


def peak_bytes(
    equations: Sequence[Equation],
    shapes: Mapping[int, jax.ShapeDtypeStruct],
    inputs: Collection[int],
    wanted: Collection[int],
) -> int:
    """The most bytes of intermediate values alive at one time, inputs not counted.

    An estimate from above: the compiler fuses element-wise chains and reuses buffers.
    """
    last_read = {v: position for position, e in enumerate(equations) for v in e.reads}
    last_read |= dict.fromkeys(wanted, len(equations))
    alive = peak = 0
    for position, equation in enumerate(equations):
        alive += sum(size_in_bytes(shapes[v]) for v in equation.outputs)
        peak = max(peak, alive)
        ended = set(equation.reads) | set(equation.outputs)
        alive -= sum(
            size_in_bytes(shapes[v])
            for v in ended
            if v not in inputs and last_read.get(v, position) <= position
        )
    return peak


def operations(equations: Iterable[Equation], shapes: Mapping[int, jax.ShapeDtypeStruct]) -> int:
    """Multiplications and additions in convolutions and matrix products (2 per multiply-add)."""
    total = 0
    for equation in equations:
        if equation.primitive not in ("conv_general_dilated", "dot_general"):
            continue
        made = math.prod(shapes[equation.outputs[0]].shape)
        dimensions = equation.params["dimension_numbers"]
        operand = equation.inputs[1]
        shape = shapes[operand].shape if isinstance(operand, int) else operand.val.shape
        if equation.primitive == "dot_general":
            per_output = math.prod(shape[axis] for axis in dimensions[0][1])
        else:
            per_output = math.prod(shape) // shape[dimensions.rhs_spec[0]]
        total += 2 * made * per_output
    return total
