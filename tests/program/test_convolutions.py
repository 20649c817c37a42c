"""Convolutions computed in other ways give what the definition gives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxrobust.program.convolutions import faster, keeps_proportions, transformed, winograd
from jaxrobust.program.jaxprs import Equation, Program, rewrite, run, trace

NHWC = ("NHWC", "HWIO", "NHWC")


def arrays(images: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    random = np.random.default_rng(sum(images) + sum(kernel))
    x, w = (jnp.asarray(random.normal(size=s), jnp.float32) for s in (images, kernel))
    return x, w


def by_definition(x: Any, w: Any, stride: int, padding: Any) -> np.ndarray:
    """Sums over windows, in float64."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), *padding, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[:2], axis=(1, 2))
    return np.einsum("nhwcij,ijcu->nhwu", windows[:, ::stride, ::stride], np.asarray(w, np.float64))


@pytest.mark.parametrize("size", [(3, 3), (4, 5), (7, 7), (3, 9)])
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 1), (1, 1)), ((2, 0), (0, 3))])
def test_winograd_is_a_convolution(size: tuple[int, int], padding: Any) -> None:
    x, w = arrays((2, *size, 5), (3, 3, 5, 6))
    expected = by_definition(x, w, 1, padding)
    found = winograd(x, transformed(w), padding=padding)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-5)


def program_of(stride: int, padding: Any, images: Any, kernel: Any, **options: Any) -> Program:
    def apply(w: Any, x: Any) -> Any:
        return lax.conv_general_dilated(
            x, w, (stride, stride), padding, dimension_numbers=NHWC, **options
        )

    return trace(apply, kernel, jax.ShapeDtypeStruct(images.shape, images.dtype))


REWRITTEN = {
    "3×3": (1, ((1, 1), (1, 1)), (2, 9, 8, 96), (3, 3, 96, 128)),
    "3×3, many channels on a large map": (1, ((1, 1), (1, 1)), (1, 60, 60, 256), (3, 3, 256, 256)),
    "few outputs of 3 channels": (2, ((2, 1), (0, 2)), (2, 11, 10, 3), (5, 5, 3, 24)),
}
LEFT_ALONE = {
    "stride": (2, ((1, 1), (1, 1)), (2, 9, 8, 128), (3, 3, 128, 128)),
    "few channels": (1, ((1, 1), (1, 1)), (2, 9, 8, 48), (3, 3, 48, 256)),
    "large map": (1, ((1, 1), (1, 1)), (1, 60, 60, 128), (3, 3, 128, 128)),
    "5×5": (1, ((2, 2), (2, 2)), (2, 9, 8, 128), (5, 5, 128, 128)),
    "one channel": (1, ((2, 2), (2, 2)), (2, 9, 8, 1), (5, 5, 1, 20)),
}


@pytest.mark.parametrize("case", REWRITTEN)
def test_what_is_rewritten_computes_the_same(case: str) -> None:
    stride, padding, images, kernel = REWRITTEN[case]
    x, w = arrays(images, kernel)
    program = program_of(stride, padding, x, w)

    def instead(equation: Equation) -> Any:
        formulation = faster(equation, program)
        return formulation and formulation.compute

    made, written = rewrite(program, instead)
    assert len(written) == 1
    values = {made.parameters[0]: w, made.images: x, **made.constants}
    (found,) = run(made.equations, values, [made.output])
    expected = by_definition(x, w, stride, padding)
    np.testing.assert_allclose(found, expected, atol=3e-6 * np.abs(expected).max())


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_what_would_not_be_faster_is_left_alone(case: str) -> None:
    stride, padding, images, kernel = LEFT_ALONE[case]
    program = program_of(stride, padding, *arrays(images, kernel))
    assert all(faster(equation, program) is None for equation in program.equations)


@pytest.mark.parametrize(
    "options", [{"rhs_dilation": (2, 2)}, {"lhs_dilation": (2, 2)}, {"feature_group_count": 2}]
)
def test_dilated_and_grouped_convolutions_are_left_alone(options: dict[str, Any]) -> None:
    x, w = arrays((2, 9, 8, 256), (3, 3, 256 // options.get("feature_group_count", 1), 256))
    program = program_of(1, ((1, 1), (1, 1)), x, w, **options)
    assert all(faster(equation, program) is None for equation in program.equations)


def test_half_precision_is_left_alone() -> None:
    x, w = (array.astype(jnp.bfloat16) for array in arrays((2, 9, 8, 128), (3, 3, 128, 128)))
    program = program_of(1, ((1, 1), (1, 1)), x, w)
    (equation,) = program.equations
    assert isinstance(equation, Equation) and faster(equation, program) is None


def relu_network(w: Any, x: Any) -> Any:
    x = jax.nn.leaky_relu(lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC))
    x = lax.reduce_window(x / 3 - 1, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return jnp.concatenate([jnp.abs(x).mean((1, 2)), 2 * x.max((1, 2))], 1)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x, True),
        (jnp.tanh, False),
        (jax.nn.relu6, False),
        (jax.nn.silu, False),
        (lambda x: x * x, False),
        (lambda x: 1 / (1 + jnp.abs(x)), False),
        (lambda x: x - x.mean((1, 2), keepdims=True), True),
        (lambda x: x / jnp.sqrt(1 + jnp.square(x).mean((1, 2), keepdims=True)), False),
    ],
)
def test_what_brings_great_numbers_down_to_the_size_of_errors_is_told(
    function: Any, expected: bool
) -> None:
    x, w = arrays((2, 6, 6, 3), (3, 3, 3, 4))
    apply = lambda w, x: relu_network(w, function(x))  # noqa: E731
    program = trace(apply, w, jax.ShapeDtypeStruct(x.shape, x.dtype))
    assert keeps_proportions(program) is expected
