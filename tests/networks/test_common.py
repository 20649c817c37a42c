"""Pooling, window counts and convolutions against definitions spelled out in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from jaxrobust.networks.definitions.common import (
    convolution,
    dense,
    global_average_pool,
    max_pool,
    windows,
)


def pooled_by_definition(x, window, stride, ceil, padding):
    """Every window's maximum over the pixels that it covers, one window after another.

    With `ceil`, windows start as long as the one before did not reach the last padded pixel, but
    none starts at or beyond the right padding.
    """
    images, height, width, channels = x.shape

    def starts(size):
        found, start = [], -padding
        while start + window <= size + padding:
            found.append(start)
            start += stride
        unread = found and found[-1] + window < size + padding
        return [*found, start] if ceil and unread and start < size else found

    rows, columns = starts(height), starts(width)
    out = np.empty((images, len(rows), len(columns), channels), x.dtype)
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            part = x[:, max(top, 0) : top + window, max(left, 0) : left + window]
            out[:, i, j] = part.max((1, 2))
    return out


@st.composite
def poolings(draw):
    window = draw(st.integers(1, 4))
    stride = draw(st.integers(1, 4))
    padding = draw(st.integers(0, window // 2))
    height, width = (draw(st.integers(max(1, window - 2 * padding), 13)) for _ in range(2))
    return height, width, window, stride, draw(st.booleans()), padding


@given(poolings(), st.integers(0, 2**32 - 1))
def test_max_pool_is_each_windows_maximum(pooling, seed):
    height, width, window, stride, ceil, padding = pooling
    x = np.random.default_rng(seed).standard_normal((2, height, width, 3), np.float32) - 5
    found = jax.jit(lambda x: max_pool(x, window, stride, ceil=ceil, padding=padding))(x)
    np.testing.assert_array_equal(found, pooled_by_definition(x, window, stride, ceil, padding))


def test_max_pool_keeps_nan_and_negative_infinity():
    x = jnp.full((1, 4, 4, 1), -jnp.inf).at[0, 0, 0, 0].set(jnp.nan)
    found = np.asarray(max_pool(x, 2, 2))[0, :, :, 0]
    assert math.isnan(found[0, 0])
    assert np.isneginf(found[[0, 1, 1], [1, 0, 1]]).all()


def test_max_pool_works_in_half_precision():
    x = jnp.arange(25, dtype=jnp.bfloat16).reshape(1, 5, 5, 1)
    found = max_pool(x, 3, 2, ceil=True, padding=1)
    assert found.dtype == jnp.bfloat16
    assert found[0, :, :, 0].tolist() == [[6, 8, 9], [16, 18, 19], [21, 23, 24]]


def test_max_pool_sends_the_gradient_to_the_maximum():
    x = jnp.asarray([3.0, 1.0, 2.0, 7.0]).reshape(1, 2, 2, 1)
    gradient = jax.grad(lambda x: max_pool(x, 2, 2).sum())(x)
    assert gradient.ravel().tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("size", "padding", "message"),
    [(2, 0, r"a window of 3 does not fit into an image of shape \(2, 2\)"), (9, 2, "half of the")],
)
def test_max_pool_refuses_windows_without_pixels(size, padding, message):
    with pytest.raises(ValueError, match=message):
        max_pool(jnp.zeros((1, size, size, 1)), 3, 2, padding=padding)


def test_windows_counts_those_of_known_networks():
    alexnet, squeezenet = windows(224, 11, 4, padding=2), windows(227, 3, 2)
    assert (alexnet, squeezenet) == (55, 113)
    assert [windows(size, 3, 2, ceil=True) for size in (113, 56, 28)] == [56, 28, 14]
    assert windows(2, 3, 2) == 0


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "groups"),
    [
        *((1, 1, 0, 1), (1, 2, 0, 1), (1, 1, 1, 1), (3, 1, 1, 1), (5, 3, 2, 1)),
        *((1, 1, 0, 2), (3, 1, 1, 2), (5, 3, 2, 3)),
    ],
)
def test_convolution_is_a_sum_over_each_window(kernel, stride, padding, groups):
    options = {"stride": stride, "padding": padding, "groups": groups}
    layer = nnx.eval_shape(lambda: convolution(6, 12, kernel, **options, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((kernel, kernel, 6 // groups, 12))
    assert layer.kernel.shape == weights.shape
    layer.kernel = nnx.Param(jnp.asarray(weights, jnp.float32))
    layer.bias = nnx.Param(jnp.arange(12.0))
    x = rng.standard_normal((2, 8, 9, 6))
    found = nnx.jit(lambda layer, x: layer(x))(layer, jnp.asarray(x, jnp.float32))

    borders = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    seen = np.lib.stride_tricks.sliding_window_view(np.pad(x, borders), (kernel, kernel), (1, 2))
    seen = seen[:, ::stride, ::stride]
    parts = zip(np.split(seen, groups, 3), np.split(weights, groups, 3), strict=True)
    needed = np.concatenate([np.einsum("nyxchw,hwco->nyxo", *part) for part in parts], 3)
    np.testing.assert_allclose(found, needed + np.arange(12), atol=2e-5)


def test_a_convolution_can_do_without_a_bias():
    layer = nnx.eval_shape(lambda: convolution(3, 4, 3, bias=False, rngs=nnx.Rngs(0)))
    assert set(nnx.to_pure_dict(nnx.state(layer))) == {"kernel"}


def test_kernels_start_with_hes_variance():
    kernel = np.asarray(convolution(64, 256, 3, rngs=nnx.Rngs(0)).kernel[...])
    assert kernel.std() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)
    kernel = np.asarray(dense(512, 256, rngs=nnx.Rngs(0)).kernel[...])
    assert kernel.std() == pytest.approx(math.sqrt(2 / 512), rel=0.02)


def test_global_average_pool_averages_each_channel():
    x = jnp.asarray([[1.0, 10.0], [3.0, 30.0]]).reshape(1, 2, 1, 2)
    assert global_average_pool(x).tolist() == [[2, 20]]


@pytest.mark.slow
def test_max_pool_is_pytorchs():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, 15, 14, 3), np.float32)
    for window in (2, 3, 5):
        for stride in (1, 2, 3, 4):
            for padding in range(window // 2 + 1):
                for ceil in (False, True):
                    needed = torch.nn.functional.max_pool2d(
                        torch.from_numpy(x).permute(0, 3, 1, 2),
                        window,
                        stride,
                        padding,
                        ceil_mode=ceil,
                    ).permute(0, 2, 3, 1)
                    found = max_pool(jnp.asarray(x), window, stride, ceil=ceil, padding=padding)
                    np.testing.assert_array_equal(found, needed.numpy())
