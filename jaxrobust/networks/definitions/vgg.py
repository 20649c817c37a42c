"""VGG: blocks of 3×3 convolutions, three dense layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
from flax import nnx

from jaxrobust.networks.definitions.common import convolution, dense, max_pool
from jaxrobust.networks.definitions.normalisation import batch_norm

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class VGG(nnx.Module):
    """VGG with 11 to 19 layers, with or without batch normalisation, at any size.

    Five blocks of convolutions, `conv1_1` to `conv5_4`, each followed by ReLU and each block by
    2×2 max-pooling; with batch normalisation, `bn1_1` to `bn5_4` stand between a convolution and
    its ReLU. Then `fc6` and `fc7`, each with ReLU and dropout on its output, and `fc8`, which
    gives the logits. The last image is flattened row by row, channels innermost.

    The defaults are VGG-16, 138,357,544 parameters. Source: K. Simonyan, A. Zisserman, Very Deep
    Convolutional Networks for Large-Scale Image Recognition, arXiv 1409.1556 (2014), table 1.

    Args:
        convolutions: Number of convolutions in each of the five blocks.
        widths: Output channels of the convolutions of each block.
        batch_normalised: Whether a batch normalisation follows each convolution.
        classes: Number of logits.
        image_size: Height and width of an image, in pixels, at least 32.
        dense_width: Outputs of `fc6` and of `fc7`.
        dropout: Probability that an input of `fc7` or `fc8` is dropped in training mode.
        rngs: Source of the starting weights. Dropout draws from the one given in the call.

    Raises:
        ValueError: If there aren't five blocks or the images are too small for the poolings.

    Example:
        >>> small = nnx.eval_shape(lambda: VGG(
        ...     convolutions=(1, 1, 2, 2, 2), widths=(8, 8, 8, 8, 8), image_size=(64, 64),
        ...     dense_width=16, classes=10, rngs=nnx.Rngs(0)))
        >>> small.conv5_2.kernel.shape, small.fc6.kernel.shape
        ((3, 3, 8, 8), (32, 16))
    """

    def __init__(
        self,
        *,
        convolutions: Sequence[int] = (2, 2, 3, 3, 3),
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        batch_normalised: bool = False,
        classes: int = 1000,
        image_size: Sequence[int] = (224, 224),
        dense_width: int = 4096,
        dropout: float = 0.5,
        rngs: nnx.Rngs,
    ):
        if not len(convolutions) == len(widths) == 5:
            raise ValueError(
                f"VGG has five blocks, but {len(convolutions)} numbers of convolutions and "
                f"{len(widths)} widths were given"
            )
        height, width = (side // 2**5 for side in image_size)
        if height < 1 or width < 1:
            raise ValueError(
                f"VGG: images of {image_size[0]}×{image_size[1]} pixels are too small for five "
                "poolings"
            )
        self.convolutions = tuple(convolutions)
        self.batch_normalised = batch_normalised
        inputs = 3
        for block, (count, outputs) in enumerate(zip(convolutions, widths, strict=True), 1):
            for number in range(1, count + 1):
                layer = convolution(inputs, outputs, 3, padding=1, rngs=rngs)
                setattr(self, f"conv{block}_{number}", layer)
                if batch_normalised:
                    setattr(self, f"bn{block}_{number}", batch_norm(outputs, rngs=rngs))
                inputs = outputs
        self.fc6 = dense(height * width * inputs, dense_width, rngs=rngs)
        self.fc7 = dense(dense_width, dense_width, rngs=rngs)
        self.fc8 = dense(dense_width, classes, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self, images: Float[Array, "images height width channels"], rngs: nnx.Rngs | None = None
    ) -> Float[Array, "images classes"]:
        """Classifies images.

        Args:
            images: Preprocessed images, NHWC, of the size that the network was made for.
            rngs: Source of the dropout, needed in training mode only.

        Returns:
            The logits.
        """
        x = images
        for block, count in enumerate(self.convolutions, 1):
            for number in range(1, count + 1):
                x = getattr(self, f"conv{block}_{number}")(x)
                if self.batch_normalised:
                    x = getattr(self, f"bn{block}_{number}")(x)
                x = jax.nn.relu(x)
            x = max_pool(x, 2, 2)
        x = x.reshape(x.shape[0], -1)
        x = self.dropout(jax.nn.relu(self.fc6(x)), rngs=rngs)
        x = self.dropout(jax.nn.relu(self.fc7(x)), rngs=rngs)
        return self.fc8(x)
