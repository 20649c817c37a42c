"""The convolution or matrix product that a damaged kernel enters, which trials can share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from jaxrobust.program.jaxprs import Equation, Program, dependents

_LAYOUTS = ("reshape", "squeeze", "expand_dims", "transpose")


@dataclass(frozen=True, eq=False)
class Product:
    """The one convolution or matrix product that a damaged kernel enters.

    Attributes:
        kernel: path of the kernel.
        equations: those that only lay the kernel out anew, then those of the product, of which
            the last gives its result.
        unit_axis: the axis of the product that counts the kernel's output units.
    """

    kernel: str
    equations: tuple[Equation, ...]
    unit_axis: int

    @property
    def output(self) -> int:
        """The variable of the product."""
        return self.equations[-1].outputs[0]

    def written_as(self, instead: Mapping[int, tuple[Equation, ...]], damaged: set[int]) -> Product:
        """The same product with other equations in the place of some, by their `id`.

        What these do to the other operand alone is no part of it.
        """
        new = chain.from_iterable(instead.get(id(each), (each,)) for each in self.equations)
        return replace(
            self, equations=tuple(each for each in new if not damaged.isdisjoint(each.outputs))
        )


def product_of(
    kernel: str, units: int, damaged: Collection[str], program: Program
) -> Product | None:
    """The product that a damaged kernel enters.

    None if the kernel is used otherwise, if the other operand is damaged too or does not depend on
    the images, or if not exactly one axis of the product counts units.

    Args:
        kernel: path of the kernel, the only one that is damaged.
        units: how many output units it has.
        damaged: paths of all damaged leaves.
        program: the traced network.
    """
    variable, path = program.variables[kernel], []
    while True:
        readers = [equation for equation in program.equations if variable in equation.reads]
        if len(readers) != 1 or readers[0].reads.count(variable) > 1:
            return None
        path += readers
        if path[-1].primitive not in _LAYOUTS:
            break
        (variable,) = path[-1].outputs
    axis = _unit_axis(path[-1], variable, program)
    if axis is None or program.shapes[path[-1].outputs[0]].shape[axis] != units:
        return None
    others = set(path[-1].reads) - {variable}
    reached = dependents(program.equations, [program.variables[path] for path in damaged])
    if others & reached or not others <= dependents(program.equations, [program.images]):
        return None
    return Product(kernel, tuple(path), axis)


def _unit_axis(equation: Equation, kernel: int, program: Program) -> int | None:
    """The axis of a product that counts the kernel's output units, if exactly one does."""
    position = equation.inputs.index(kernel)
    if equation.primitive == "conv_general_dilated" and position == 1:
        return equation.params["dimension_numbers"].out_spec[1]
    if equation.primitive == "dot_general":
        contracted, batch = equation.params["dimension_numbers"]
        rank = len(program.shapes[kernel].shape)
        if rank - len(contracted[position]) == 1 and not batch[position]:
            last = len(program.shapes[equation.outputs[0]].shape) - 1
            return last if position == 1 else 0
    return None
