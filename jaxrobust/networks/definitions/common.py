"""Pieces that several network definitions share: convolution, dense layer, pooling."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from flax import nnx
from jax import lax

if TYPE_CHECKING:
    from jaxtyping import Array, Float

# Every built-in network rectifies what its layers give, so weights start with He's variance.
_he_normal = nnx.initializers.he_normal()


def convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    bias: bool = True,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Makes a square convolution with the same padding on all four sides.

    Args:
        inputs: Channels that it reads.
        outputs: Channels that it gives.
        kernel: Height and width of the kernel, in pixels.
        stride: Step between two windows, in pixels.
        padding: Rows and columns of zeros added at each border. It is explicit because "SAME" pads
            unevenly when the stride is above 1, which no ported network does.
        groups: Equal parts into which inputs and outputs are cut; each part of the outputs sees
            only its own part of the inputs.
        bias: Whether it has a bias.
        rngs: Source of the starting weights.

    Returns:
        The layer, with a `kernel` of shape `[kernel, kernel, inputs / groups, outputs]` and, if
        asked for, a `bias`.
    """
    pointwise = kernel == 1 and padding == 0 and groups == 1
    return nnx.Conv(
        inputs,
        outputs,
        (kernel, kernel),
        strides=(stride, stride),
        padding=[(padding, padding), (padding, padding)],
        feature_group_count=groups,
        use_bias=bias,
        kernel_init=_he_normal,
        conv_general_dilated=_matrix_product if pointwise else _group_by_group,
        rngs=rngs,
    )


def _matrix_product(
    images: Array, kernel: Array, strides: tuple[int, int], *_: Any, **options: Any
) -> Array:
    """A 1×1 convolution: XLA's matrix product does it about twice as fast as its convolution."""
    seen = images[:, :: strides[0], :: strides[1]]
    return jnp.matmul(seen, lax.squeeze(kernel, (0, 1)), precision=options["precision"])


def _group_by_group(
    images: Array, kernel: Array, *arguments: Any, feature_group_count: int, **options: Any
) -> Array:
    """A convolution in groups: on a CPU, XLA does one by one five times faster than together."""
    if feature_group_count == 1:
        return lax.conv_general_dilated(images, kernel, *arguments, **options)
    parts = zip(
        jnp.split(images, feature_group_count, axis=-1),
        jnp.split(kernel, feature_group_count, axis=-1),
        strict=True,
    )
    outputs = [lax.conv_general_dilated(*part, *arguments, **options) for part in parts]
    return jnp.concatenate(outputs, axis=-1)


def dense(inputs: int, outputs: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """Makes a dense layer with a bias.

    Args:
        inputs: Numbers that it reads.
        outputs: Numbers that it gives.
        rngs: Source of the starting weights.

    Returns:
        The layer, with a `kernel` of shape `[inputs, outputs]` and a `bias`.
    """
    return nnx.Linear(inputs, outputs, kernel_init=_he_normal, rngs=rngs)


def windows(size: int, window: int, stride: int, *, padding: int = 0, ceil: bool = False) -> int:
    """Counts the windows that a convolution or a pooling takes along one side of an image.

    Args:
        size: Length of the side, in pixels.
        window: Length of a window, in pixels.
        stride: Step between two windows, in pixels.
        padding: Pixels added at both ends.
        ceil: Whether a last window may reach beyond the right padding, as long as it starts inside
            the image or its left padding (PyTorch's and Caffe's rule).

    Returns:
        The number of windows, which is the length of the output's side; 0 or less if not even one
        window fits.

    Example:
        >>> windows(113, 3, 2), windows(14, 3, 2), windows(14, 3, 2, ceil=True)
        (56, 6, 7)
    """
    steps = size + 2 * padding - window
    if not ceil:
        return steps // stride + 1
    count = -(-steps // stride) + 1
    starts_beyond_the_image = (count - 1) * stride >= size + padding
    return count - 1 if starts_beyond_the_image else count


def max_pool(
    x: Float[Array, "images height width channels"],
    window: int,
    stride: int,
    *,
    ceil: bool = False,
    padding: int = 0,
) -> Float[Array, "images rows columns channels"]:
    """Takes the largest value of every window, channel by channel.

    It is written as the maximum of strided slices, first down the rows, then along the columns:
    on a CPU that is several times faster than `lax.reduce_window`, and equal to it to the bit.

    Args:
        x: Images, NHWC.
        window: Height and width of a window, in pixels.
        stride: Step between two windows, in pixels.
        ceil: Whether a last, partial window is kept (see `windows`).
        padding: Pixels of minus infinity added at each border, at most half the window, so that
            every window holds a pixel.

    Returns:
        The pooled images, NHWC.

    Raises:
        ValueError: If no window fits into the image, or the padding exceeds half the window.

    Example:
        >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
        >>> max_pool(x, 2, 2)[0, :, :, 0]
        Array([[ 5.,  7.],
               [13., 15.]], dtype=float32)
    """
    if 2 * padding > window:
        raise ValueError(
            f"max_pool: a padding of {padding} exceeds half of the window ({window}), "
            "so some windows would hold no pixel"
        )
    for axis in (1, 2):
        x = _max_along(x, axis, window, stride, padding, ceil)
    return x


def _max_along(x: Array, axis: int, window: int, stride: int, padding: int, ceil: bool) -> Array:
    size = x.shape[axis]
    count = windows(size, window, stride, padding=padding, ceil=ceil)
    if count < 1:
        raise ValueError(
            f"max_pool: a window of {window} does not fit into an image of shape {x.shape[1:3]} "
            f"with a padding of {padding}"
        )
    covered = (count - 1) * stride + window
    overhang = max(0, covered - size - padding)
    if padding or overhang:
        borders = [(0, 0, 0)] * x.ndim
        borders[axis] = (padding, overhang, 0)
        x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), borders)
    last = (count - 1) * stride + 1
    slices = (lax.slice_in_dim(x, offset, offset + last, stride, axis) for offset in range(window))
    return functools.reduce(jnp.maximum, slices)


def global_average_pool(
    x: Float[Array, "images height width channels"],
) -> Float[Array, "images channels"]:
    """Averages each channel over the whole image.

    Args:
        x: Images, NHWC.

    Returns:
        One number per image and channel.
    """
    return jnp.mean(x, axis=(1, 2))
