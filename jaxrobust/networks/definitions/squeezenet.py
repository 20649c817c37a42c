"""SqueezeNet: small kernels, and a global average in place of dense layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrobust.networks.definitions.common import convolution, global_average_pool, max_pool

if TYPE_CHECKING:
    from jaxtyping import Array, Float

# Kernels of conv1, their height and width, and the numbers of the fire modules before a pooling.
_VERSIONS = {"1.0": (96, 7, (4, 8)), "1.1": (64, 3, (3, 5))}


class Fire(nnx.Module):
    """A squeezing 1×1 convolution, and two that expand its output side by side.

    Args:
        inputs: Channels that it reads.
        squeezed: Channels between `squeeze1x1` and the two expanding convolutions.
        expanded: Channels that each of `expand1x1` and `expand3x3` gives; they are concatenated in
            this order.
        rngs: Source of the starting weights.
    """

    def __init__(self, inputs: int, squeezed: int, expanded: int, *, rngs: nnx.Rngs):
        self.squeeze1x1 = convolution(inputs, squeezed, 1, rngs=rngs)
        self.expand1x1 = convolution(squeezed, expanded, 1, rngs=rngs)
        self.expand3x3 = convolution(squeezed, expanded, 3, padding=1, rngs=rngs)

    def __call__(
        self, x: Float[Array, "images height width inputs"]
    ) -> Float[Array, "images height width outputs"]:
        """Applies the three convolutions, with ReLU after each."""
        x = jax.nn.relu(self.squeeze1x1(x))
        branches = [jax.nn.relu(self.expand1x1(x)), jax.nn.relu(self.expand3x3(x))]
        return jnp.concatenate(branches, axis=-1)


class SqueezeNet(nnx.Module):
    """SqueezeNet 1.0 or 1.1, as its authors trained it in Caffe and as in torchvision.

    `conv1`, eight `Fire` modules and `conv10`, ReLU after every convolution (`conv10` too), then
    the average over the image. 3×3 stride-2 max-pooling keeps partial windows, as Caffe does; it
    stands after `conv1`, `fire3` and `fire5` in version 1.1 and after `conv1`, `fire4` and `fire8`
    in version 1.0, whose `conv1` has 96 kernels of 7×7 instead of 64 of 3×3. With 1,000 classes
    they have 1,235,496 and 1,248,424 parameters. Source: F. Iandola et al., SqueezeNet,
    arXiv 1602.07360 (2016), and the authors' version 1.1 of it.

    Args:
        version: `1.0` or `1.1`.
        classes: Number of logits.
        conv10_padding: Zeros added at each border before `conv10`: 1 in the authors' version 1.0,
            where they enter the average, otherwise 0.
        dropout: Probability that an input of `conv10` is dropped in training mode.
        rngs: Source of the starting weights. Dropout draws from the one given in the call.

    Raises:
        ValueError: If there is no such version.

    Example:
        >>> network = nnx.eval_shape(lambda: SqueezeNet(classes=10, rngs=nnx.Rngs(0)))
        >>> network.fire9.expand3x3.kernel.shape, network.conv10.kernel.shape
        ((3, 3, 64, 256), (1, 1, 512, 10))
    """

    def __init__(
        self,
        *,
        version: str = "1.1",
        classes: int = 1000,
        conv10_padding: int = 0,
        dropout: float = 0.5,
        rngs: nnx.Rngs,
    ):
        if version not in _VERSIONS:
            raise ValueError(
                f"SqueezeNet: version {version!r} is unknown; possible: {', '.join(_VERSIONS)}"
            )
        width, kernel, self.pooled = _VERSIONS[version]
        self.conv1 = convolution(3, width, kernel, stride=2, rngs=rngs)
        self.fire2 = Fire(width, 16, 64, rngs=rngs)
        self.fire3 = Fire(128, 16, 64, rngs=rngs)
        self.fire4 = Fire(128, 32, 128, rngs=rngs)
        self.fire5 = Fire(256, 32, 128, rngs=rngs)
        self.fire6 = Fire(256, 48, 192, rngs=rngs)
        self.fire7 = Fire(384, 48, 192, rngs=rngs)
        self.fire8 = Fire(384, 64, 256, rngs=rngs)
        self.fire9 = Fire(512, 64, 256, rngs=rngs)
        self.conv10 = convolution(512, classes, 1, padding=conv10_padding, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self, images: Float[Array, "images height width channels"], rngs: nnx.Rngs | None = None
    ) -> Float[Array, "images classes"]:
        """Classifies images.

        Args:
            images: Preprocessed images, NHWC, of any size from 17×17 pixels (version 1.0: 21×21).
            rngs: Source of the dropout, needed in training mode only.

        Returns:
            The logits.
        """
        x = max_pool(jax.nn.relu(self.conv1(images)), 3, 2, ceil=True)
        for number in range(2, 10):
            x = getattr(self, f"fire{number}")(x)
            if number in self.pooled:
                x = max_pool(x, 3, 2, ceil=True)
        x = jax.nn.relu(self.conv10(self.dropout(x, rngs=rngs)))
        return global_average_pool(x)
