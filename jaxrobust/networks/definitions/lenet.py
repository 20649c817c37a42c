"""LeNet-5: two convolutions and two dense layers, for handwritten digits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
from flax import nnx

from jaxrobust.networks.definitions.common import convolution, dense, max_pool

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class LeNet(nnx.Module):
    """LeNet-5 as in Caffe's example.

    `conv1` and `conv2` (5×5), each followed by 2×2 max-pooling, then `ip1`, ReLU and `ip2`, which
    gives the logits. It has 431,080 parameters. Source: Y. LeCun et al., Gradient-Based Learning
    Applied to Document Recognition (1998), with the rectifier, pooling and names of Caffe's
    examples/mnist.

    Args:
        classes: Number of logits.
        rngs: Source of the starting weights.

    Example:
        >>> network = nnx.eval_shape(lambda: LeNet(rngs=nnx.Rngs(0)))
        >>> network.ip1.kernel.shape, network.ip2.kernel.shape
        ((800, 500), (500, 10))
    """

    def __init__(self, *, classes: int = 10, rngs: nnx.Rngs):
        self.conv1 = convolution(1, 20, 5, rngs=rngs)
        self.conv2 = convolution(20, 50, 5, rngs=rngs)
        self.ip1 = dense(4 * 4 * 50, 500, rngs=rngs)
        self.ip2 = dense(500, classes, rngs=rngs)

    def __call__(
        self, images: Float[Array, "images 28 28 1"], rngs: nnx.Rngs | None = None
    ) -> Float[Array, "images classes"]:
        """Classifies images.

        Args:
            images: Grey images, NHWC, 0 to 1.
            rngs: Not used: there is no dropout.

        Returns:
            The logits.
        """
        x = max_pool(self.conv1(images), 2, 2)
        x = max_pool(self.conv2(x), 2, 2)
        x = x.reshape(x.shape[0], -1)
        return self.ip2(jax.nn.relu(self.ip1(x)))
