"""Normalisation: of batches by their statistics, of responses across channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import nnx
from jax import lax

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def batch_norm(channels: int, *, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """Makes a batch normalisation with PyTorch's constants.

    Args:
        channels: Channels that it reads and gives.
        rngs: Source of the starting weights.

    Returns:
        The layer, with a `scale` and a `bias` of shape `[channels]`, and the running statistics
        `mean` and `var`, which it uses in evaluation mode.
    """
    return nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, rngs=rngs)


def local_response_norm(
    x: Float[Array, "images height width channels"], *, alpha: float, offset: float, size: int = 5
) -> Float[Array, "images height width channels"]:
    """Divides each channel by a power of the activity of its neighbours.

    `x[c] / (offset + alpha · Σ x[d]²)^0.75`, summed over the `size` channels `d` around `c`, as
    many of them as there are. Source: A. Krizhevsky, I. Sutskever, G. Hinton, ImageNet
    Classification with Deep Convolutional Neural Networks (2012), section 3.3. PyTorch and Caffe
    divide their alpha by `size`; the authors, and convnets-keras, do not.

    Args:
        x: Images, NHWC.
        alpha: Factor of the sum of squares.
        offset: What is added to it; the paper's k.
        size: Number of neighbouring channels, itself among them; odd.

    Returns:
        The normalised images, NHWC.

    Example:
        >>> x = jnp.asarray([3.0, 0.0, 0.0, 3.0]).reshape(1, 1, 1, 4)
        >>> local_response_norm(x, alpha=1.0, offset=7.0, size=3).round(4).tolist()
        [[[[0.375, 0.0, 0.0, 0.375]]]]
    """
    # Shifted copies added up, and two square roots for the power: on a CPU this takes a fifth of
    # the time of a windowed sum or a banded matrix product with a general power.
    half = size // 2
    channels = x.shape[-1]
    squares = jnp.pad(x * x, ((0, 0), (0, 0), (0, 0), (half, half)))
    around = [lax.slice_in_dim(squares, i, i + channels, axis=3) for i in range(size)]
    root = lax.rsqrt(offset + alpha * sum(around))
    return x * (root * jnp.sqrt(root))
