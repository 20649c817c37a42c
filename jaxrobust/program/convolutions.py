"""Other ways to compute a convolution, where they are faster on a CPU.

XLA's own convolution on CPUs runs near the speed of matrix products, small ones on one thread each.
In two cases something else is faster, measured on 2 cores with AVX-512, a convolution on each:

- 3×3 kernels with stride 1: Winograd's minimal filtering needs 16 multiplications where the
  definition has 36, but passes over images and results, which few channels are not worth: 1.1 to
  1.6 times as fast from 128 → 128 or 64 → 256 channels on, 2.1 times with 512 → 512; 0.8 times
  with 96 → 64, 0.6 times with 32 → 128.
- Few output channels on top of 3 input channels (24: 7 GFLOP/s instead of 70): a fourth channel of
  zeros lets XLA take its fast path.

Both are float32 throughout. The fourth channel changes nothing. Winograd's rounding errors are
about one millionth of the largest input near by, times the kernel (Lavin and Gray, "Fast Algorithms
for Convolutional Neural Networks", 2016; F(2×2, 3×3) there): one huge number ruins what stands
beside it, an infinite one makes it NaN. So its operands are watched while it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax import lax

from jaxrobust.program.jaxprs import Equation, Program, dependents

if TYPE_CHECKING:
    from jaxtyping import Array, Float

_LARGEST_MAP = 56 * 56
_FEW_CHANNELS, _MANY_CHANNELS = 50, 256
_SLOW_INPUTS, _SLOW_OUTPUTS = 3, 48


@dataclass(frozen=True)
class Formulation:
    """Another way to compute a convolution.

    Attributes:
        compute: a function of images and kernel. What it does to the kernel alone are equations of
            their own, so that it can be hoisted.
        exact: it adds up the same products; False if it is only accurate where no number is far
            greater than the others.
    """

    compute: Callable[[Any, Any], Any]
    exact: bool


# What makes a number that is t times as great of one that is t times as great, for t above 0.
_PROPORTIONAL = {
    *("conv_general_dilated", "dot_general", "add", "add_any", "sub", "neg", "abs", "max"),
    *("reduce_sum", "reduce_max", "reduce_window_sum", "reduce_window_max", "cumsum", "gather"),
    *("reshape", "broadcast_in_dim", "squeeze", "expand_dims", "transpose", "rev", "pad", "split"),
    *("slice", "dynamic_slice", "concatenate", "select_n", "copy", "convert_element_type"),
    *("stop_gradient", "reduce_precision", "optimization_barrier"),
}
_COMPARISONS = {"gt", "ge", "lt", "le", "eq", "ne"}
_SCALINGS = {"mul", "div"}


def keeps_proportions(program: Program) -> bool:
    """Whether a network treats great and small numbers alike, as one of ReLUs does.

    Then rounding errors that are small beside the greatest number near by stay so. What saturates
    (tanh, a sigmoid, a clip, a normalisation by the image's own values) brings great numbers down
    to the size of the errors that they made.
    """
    from_images = dependents(program.equations, [program.images])
    for equation in program.equations:
        reached = [i for i in equation.inputs if isinstance(i, int) and i in from_images]
        name = equation.primitive
        if not reached or name in _PROPORTIONAL or name in _COMPARISONS:
            continue
        scaled = len(reached) == 1 and (name == "mul" or equation.inputs[0] == reached[0])
        if name not in _SCALINGS or not scaled:
            return False
    return True


def faster(equation: Equation, program: Program) -> Formulation | None:
    """Another way to compute a convolution, by rules that the measurements above give.

    Args:
        equation: any equation of the program.
        program: knows the shapes.

    Returns:
        None where XLA's own way is good.
    """
    if equation.primitive != "conv_general_dilated" or len(equation.reads) != 2:
        return None
    params = equation.params
    images, kernel = (program.shapes[variable] for variable in equation.reads)
    output = program.shapes[equation.outputs[0]]
    numbers = params["dimension_numbers"]
    plain = (
        (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)
        == ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
        and {*params["lhs_dilation"], *params["rhs_dilation"]} == {1}
        and params["feature_group_count"] == params["batch_group_count"] == 1
        and {array.dtype for array in (images, kernel, output)} == {jnp.dtype("float32")}
    )
    if not plain:
        return None
    height, width, inputs, outputs = kernel.shape
    if (height, width) == (3, 3) and tuple(params["window_strides"]) == (1, 1):
        # Products grow with both numbers of channels, the passes beside them with their sum.
        worth = inputs * outputs / (inputs + outputs)
        many, size = min(inputs, outputs) >= _MANY_CHANNELS, output.shape[1] * output.shape[2]
        if many or (worth >= _FEW_CHANNELS and size <= _LARGEST_MAP):
            padding, precision = params["padding"], params["precision"]
            return Formulation(
                lambda images, kernel: winograd(
                    images, transformed(kernel), padding=padding, precision=precision
                ),
                exact=False,
            )
    if inputs == _SLOW_INPUTS and outputs < _SLOW_OUTPUTS:
        return Formulation(
            lambda images, kernel: equation.source.primitive.bind(
                _with_channels(images, 3), _with_channels(kernel, 2), **params
            ),
            exact=True,
        )
    return None


def _with_channels(array: Array, axis: int) -> Array:
    """Zeros up to four channels."""
    borders = [(0, 0, 0)] * array.ndim
    borders[axis] = (0, 4 - array.shape[axis], 0)
    return lax.pad(array, jnp.zeros((), array.dtype), borders)


def transformed(kernel: Float[Array, "3 3 inputs outputs"]) -> list[Array]:
    """The 16 matrices [inputs, outputs] of G g Gᵀ, row by row."""
    columns = _spread([kernel[i] for i in range(3)])
    return [each for column in columns for each in _spread([column[j] for j in range(3)])]


def winograd(
    images: Float[Array, "images height width inputs"],
    kernel: Sequence[Float[Array, "inputs outputs"]],
    *,
    padding: Sequence[tuple[int, int]],
    precision: Any = None,
) -> Float[Array, "images rows columns outputs"]:
    """A 3×3 convolution with stride 1 by Winograd's minimal filtering F(2×2, 3×3).

    Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A for every 4×4 tile d of the image, tiles two pixels apart.

    Args:
        images: float32, NHWC.
        kernel: what `transformed` gave.
        padding: rows of zeros above and below, and columns left and right.
        precision: of the matrix products.
    """
    count, height, width, inputs = images.shape
    rows = height + sum(padding[0]) - 2
    columns = width + sum(padding[1]) - 2
    down, across = -(-rows // 2), -(-columns // 2)
    borders = [
        (0, 0, 0),
        (padding[0][0], 2 * down + 2 - height - padding[0][0], 0),
        (padding[1][0], 2 * across + 2 - width - padding[1][0], 0),
        (0, 0, 0),
    ]
    images = lax.pad(images, jnp.zeros((), images.dtype), borders)

    def every_second(x: Array, axis: int, tiles: int) -> list[Array]:
        return [lax.slice_in_dim(x, start, start + 2 * tiles - 1, 2, axis) for start in range(4)]

    products = []
    for row in _differences(every_second(images, 1, down)):
        for tile in _differences(every_second(row, 2, across)):
            matrix = kernel[len(products)]
            product = lax.dot(tile.reshape(-1, inputs), matrix, precision=precision)
            products.append(product.reshape(count, down, across, -1))
    halves = [_sums(products[column::4]) for column in range(4)]
    pairs = [jnp.stack(_sums([half[row] for half in halves]), 3) for row in range(2)]
    made = jnp.stack(pairs, 2).reshape(count, 2 * down, 2 * across, -1)
    return made[:, :rows, :columns]


def _spread(g: Sequence[Array]) -> list[Array]:
    """G g, of three numbers four."""
    ends, middle = (g[0] + g[2]) * 0.5, g[1] * 0.5
    return [g[0], ends + middle, ends - middle, g[2]]


def _differences(d: Sequence[Array]) -> list[Array]:
    """Bᵀ d, of four numbers four."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _sums(m: Sequence[Array]) -> list[Array]:
    """Aᵀ m, of four numbers two."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]
