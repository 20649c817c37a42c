"""Convolutions and matrix products of rounded numbers, as fast hardware computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax.numpy as jnp
from jax import Array, lax

from jaxrobust.ground.errors import SpecificationError, unknown
from jaxrobust.program.jaxprs import Equation, Program

PrecisionMode = Literal["float32", "tensorfloat32", "bfloat16"]

_EXPONENT_BITS = 8
_MANTISSA_BITS = {"tensorfloat32": 10, "bfloat16": 7}


def check_mode(mode: str) -> None:
    """Raises SpecificationError for anything but a `PrecisionMode`."""
    if mode not in get_args(PrecisionMode):
        raise SpecificationError(unknown("precision mode", mode, get_args(PrecisionMode)))


def rounded(
    equation: Equation, program: Program, mode: PrecisionMode, platform: str
) -> Callable | None:
    """A product of float32 arrays whose operands are rounded first.

    Sums are kept in float32. It means the same on every device: GPUs compute "tensorfloat32" and
    "bfloat16", TPUs "bfloat16" in their matrix units; elsewhere the rounded numbers are multiplied
    in float32, which is no faster.

    Args:
        equation: any equation of the program.
        program: knows the shapes.
        mode: what the operands are rounded to.
        platform: what it will run on.

    Returns:
        A function of the two operands; None for what is no such product.
    """
    if mode == "float32" or equation.primitive not in ("conv_general_dilated", "dot_general"):
        return None
    arrays = [program.shapes[variable] for variable in (*equation.reads, *equation.outputs)]
    if len(arrays) != 3 or {array.dtype for array in arrays} != {jnp.dtype("float32")}:
        return None
    params = dict(equation.params)
    short = mode == "bfloat16" and platform != "cpu"
    if short:
        params |= {"precision": None, "preferred_element_type": jnp.dtype("float32")}
    elif mode == "tensorfloat32" and platform == "gpu":
        params["precision"] = (lax.Precision.HIGH, lax.Precision.HIGH)

    def operand(array: Array) -> Array:
        if short:
            return array.astype(jnp.bfloat16)
        return lax.reduce_precision(array, _EXPONENT_BITS, _MANTISSA_BITS[mode])

    def product(left: Array, right: Array) -> Any:
        return equation.source.primitive.bind(operand(left), operand(right), **params)

    return product
