"""Looking into loops: what the program does with a leaf inside `scan`, `while` and `cond`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

from jaxrobust.program.jaxprs import Equation, Inliner, Program, dependents

LOOPS = ("scan", "while", "cond")

Atom = int | Literal


@dataclass(frozen=True, eq=False)
class Opened:
    """A program in which the body of every loop stands once, in the place of the loop.

    It says how leaves are used, and computes nothing that anybody wants.

    Attributes:
        program: with the variables of the original one, and more; of a branch, all branches.
        loops: for each equation the loop in which it stands, the outermost one; else None.
        fed_back: for each variable that a loop carries, as what the body takes and gives it.
    """

    program: Program
    loops: tuple[str | None, ...]
    fed_back: tuple[tuple[int, int], ...]

    @cached_property
    def from_images(self) -> frozenset[int]:
        """The variables that depend on the images, in any turn of a loop."""
        roots = {self.program.images}
        while True:
            found = dependents(self.program.equations, roots)
            later = {taken for taken, given in self.fed_back if given in found} - found
            if not later:
                return frozenset(found)
            roots |= later


def opened(program: Program) -> Opened:
    """Opens all loops of a program, also those inside each other."""
    flat = Inliner(program.shapes, program.constants)
    pending: deque[tuple[Equation, str | None]]
    pending = deque((equation, None) for equation in program.equations)
    equations: list[Equation] = []
    loops: list[str | None] = []
    fed_back: list[tuple[int, int]] = []
    while pending:
        equation, loop = pending.popleft()
        start = len(flat.equations)
        if _open(flat, equation, fed_back):
            inside = flat.equations[start:]
            pending.extendleft((each, loop or equation.primitive) for each in reversed(inside))
        else:
            equations.append(equation)
            loops.append(loop)
    made = replace(
        program, equations=tuple(equations), shapes=flat.shapes, constants=flat.constants
    )
    return Opened(made, tuple(loops), tuple(fed_back))


def _open(flat: Inliner, equation: Equation, fed_back: list[tuple[int, int]]) -> bool:
    """Writes what stands for a loop; False for any other equation."""
    params, inputs, outputs = equation.params, equation.inputs, equation.outputs
    if equation.primitive == "scan" and params["length"] > 0:
        before, carried = params["num_consts"], params["num_carry"]
        given = inputs[before : before + carried]
        slices = [_emit(flat, _first, [stacked]) for stacked in inputs[before + carried :]]
        made = _turn(flat, params["jaxpr"], inputs[:before], given, slices, outputs, fed_back)
        for value, output in zip(made[carried:], outputs[carried:], strict=True):
            length = params["length"]
            _emit(flat, lambda x, n=length: lax.broadcast(x, (n,)), [value], output)
        return True
    if equation.primitive == "while":
        start = params["cond_nconsts"]
        constants = inputs[start : start + params["body_nconsts"]]
        given = inputs[start + len(constants) :]
        _turn(flat, params["body_jaxpr"], constants, given, (), outputs, fed_back)
        return True
    if equation.primitive == "cond":
        branches = [_inline(flat, branch, inputs[1:]) for branch in params["branches"]]
        for values, output in zip(zip(*branches, strict=True), outputs, strict=True):
            choose = lax.select_n if len(values) > 1 else (lambda _, only: jnp.copy(only))
            _emit(flat, choose, [inputs[0], *values], output)
        return True
    return False


def _turn(
    flat: Inliner,
    body: Any,
    constants: Sequence[Atom],
    given: Sequence[Atom],
    slices: Sequence[Atom],
    outputs: Sequence[int],
    fed_back: list[tuple[int, int]],
) -> list[Atom]:
    """One turn of a loop, and what it carries as the loop's outputs; gives what the body gives."""
    # Variables of their own, because what comes in differs from turn to turn.
    taken = [_emit(flat, jnp.copy, [value]) for value in given]
    made = _inline(flat, body, [*constants, *taken, *slices])
    for variable, value, output in zip(taken, made, outputs, strict=False):
        _emit(flat, jnp.copy, [value], output)
        fed_back.append((variable, output))
    return made


def _first(stacked: Any) -> Any:
    return lax.index_in_dim(stacked, 0, keepdims=False)


def _inline(flat: Inliner, closed: Any, inputs: Sequence[Atom]) -> list[Atom]:
    return flat.inline(closed.jaxpr, flat.constant(closed.consts), inputs)


def _emit(
    flat: Inliner,
    function: Callable[..., Any],
    inputs: Sequence[Atom],
    output: int | None = None,
) -> int:
    """Writes the equations of a function of one result, which gets the name `output`."""
    shapes = [flat.shapes[each] if isinstance(each, int) else each.val for each in inputs]
    (result,) = _inline(flat, jax.make_jaxpr(function)(*shapes), inputs)
    last = flat.equations[-1]
    if last.outputs != (result,):
        raise AssertionError("the last equation gives the result")
    if output is None:
        return last.outputs[0]
    flat.equations[-1] = replace(last, outputs=(output,))
    return output
