"""GoogLeNet: Inception modules, four branches side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrobust.networks.definitions.common import convolution, dense, global_average_pool, max_pool
from jaxrobust.networks.definitions.normalisation import local_response_norm

if TYPE_CHECKING:
    from jaxtyping import Array, Float

# Output channels of 1x1, 3x3_reduce, 3x3, 5x5_reduce, 5x5 and pool_proj; a pooling follows 3b, 4e.
_MODULES = {
    "inception_3a": (64, 96, 128, 16, 32, 32),
    "inception_3b": (128, 128, 192, 32, 96, 64),
    "inception_4a": (192, 96, 208, 16, 48, 64),
    "inception_4b": (160, 112, 224, 24, 64, 64),
    "inception_4c": (128, 128, 256, 24, 64, 64),
    "inception_4d": (112, 144, 288, 32, 64, 64),
    "inception_4e": (256, 160, 320, 32, 128, 128),
    "inception_5a": (256, 160, 320, 32, 128, 128),
    "inception_5b": (384, 192, 384, 48, 128, 128),
}
_POOLED = ("inception_3b", "inception_4e")


class Inception(nnx.Module):
    """Four branches on one input: 1×1, 3×3 and 5×5 convolutions, and max-pooling.

    The layers are `1x1`; `3x3_reduce` and `3x3`; `5x5_reduce` and `5x5`; `pool_proj`, a 1×1
    convolution behind the 3×3 pooling. ReLU follows each; the four outputs are concatenated.

    Args:
        inputs: Channels that it reads.
        outputs: Channels that `1x1`, `3x3_reduce`, `3x3`, `5x5_reduce`, `5x5` and `pool_proj` give.
        rngs: Source of the starting weights.
    """

    def __init__(self, inputs: int, outputs: tuple[int, ...], *, rngs: nnx.Rngs):
        single, reduce3, triple, reduce5, quintuple, projection = outputs
        layers = {
            "1x1": convolution(inputs, single, 1, rngs=rngs),
            "3x3_reduce": convolution(inputs, reduce3, 1, rngs=rngs),
            "3x3": convolution(reduce3, triple, 3, padding=1, rngs=rngs),
            "5x5_reduce": convolution(inputs, reduce5, 1, rngs=rngs),
            "5x5": convolution(reduce5, quintuple, 5, padding=2, rngs=rngs),
            "pool_proj": convolution(inputs, projection, 1, rngs=rngs),
        }
        for name, layer in layers.items():
            setattr(self, name, layer)

    def __call__(
        self, x: Float[Array, "images height width inputs"]
    ) -> Float[Array, "images height width outputs"]:
        """Applies the four branches."""

        def rectified(name: str, x: Array) -> Array:
            return jax.nn.relu(getattr(self, name)(x))

        branches = [
            rectified("1x1", x),
            rectified("3x3", rectified("3x3_reduce", x)),
            rectified("5x5", rectified("5x5_reduce", x)),
            rectified("pool_proj", max_pool(x, 3, 1, padding=1)),
        ]
        return jnp.concatenate(branches, axis=-1)


class GoogLeNet(nnx.Module):
    """GoogLeNet as in Caffe's `bvlc_googlenet`, without the heads that only training uses.

    `conv1/7x7_s2`, `conv2/3x3_reduce` and `conv2/3x3`, nine `Inception` modules, `inception_3a` to
    `inception_5b`, the average over the image, dropout and `loss3/classifier`, which gives the
    logits. ReLU follows every convolution, local response normalisation the first pooling and
    `conv2/3x3`; 3×3 stride-2 max-pooling keeps partial windows, as Caffe does. With 1,000 classes
    it has 6,998,552 parameters. Source: C. Szegedy et al., Going Deeper with Convolutions,
    arXiv 1409.4842 (2014), table 1; the names are those of Caffe's model.

    Args:
        classes: Number of logits.
        dropout: Probability that an input of `loss3/classifier` is dropped in training mode.
        rngs: Source of the starting weights. Dropout draws from the one given in the call.

    Example:
        >>> network = nnx.eval_shape(lambda: GoogLeNet(classes=10, rngs=nnx.Rngs(0)))
        >>> getattr(network.inception_5b, "5x5").kernel.shape
        (5, 5, 48, 128)
    """

    def __init__(self, *, classes: int = 1000, dropout: float = 0.4, rngs: nnx.Rngs):
        self.conv1 = nnx.Dict({"7x7_s2": convolution(3, 64, 7, stride=2, padding=3, rngs=rngs)})
        self.conv2 = nnx.Dict(
            {
                "3x3_reduce": convolution(64, 64, 1, rngs=rngs),
                "3x3": convolution(64, 192, 3, padding=1, rngs=rngs),
            }
        )
        inputs = 192
        for name, outputs in _MODULES.items():
            setattr(self, name, Inception(inputs, outputs, rngs=rngs))
            single, _, triple, _, quintuple, projection = outputs
            inputs = single + triple + quintuple + projection
        self.dropout = nnx.Dropout(dropout)
        self.loss3 = nnx.Dict({"classifier": dense(inputs, classes, rngs=rngs)})

    def __call__(
        self, images: Float[Array, "images height width channels"], rngs: nnx.Rngs | None = None
    ) -> Float[Array, "images classes"]:
        """Classifies images.

        Args:
            images: Preprocessed images, NHWC, of any size.
            rngs: Source of the dropout, needed in training mode only.

        Returns:
            The logits.
        """
        x = max_pool(jax.nn.relu(self.conv1["7x7_s2"](images)), 3, 2, ceil=True)
        x = jax.nn.relu(self.conv2["3x3_reduce"](_normalised(x)))
        x = jax.nn.relu(self.conv2["3x3"](x))
        x = max_pool(_normalised(x), 3, 2, ceil=True)
        for name in _MODULES:
            x = getattr(self, name)(x)
            if name in _POOLED:
                x = max_pool(x, 3, 2, ceil=True)
        return self.loss3["classifier"](self.dropout(global_average_pool(x), rngs=rngs))


def _normalised(x: Array) -> Array:
    return local_response_norm(x, alpha=1e-4 / 5, offset=1.0)
