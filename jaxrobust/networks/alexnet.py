"""AlexNet: five convolutions and three dense layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
from flax import nnx

from jaxrobust.networks.common import convolution, dense, max_pool, windows

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class AlexNet(nnx.Module):
    """AlexNet without groups and without response normalisation, at any size.

    `conv1` to `conv5`, each followed by ReLU, with 3×3 stride-2 max-pooling after the first, the
    second and the fifth; then `fc6`, `fc7` (each with dropout on its input and ReLU on its output)
    and `fc8`, which gives the logits. The last image is flattened row by row, channels innermost.

    The defaults are torchvision's `alexnet`, 61,100,840 parameters. Source: A. Krizhevsky, One
    weird trick for parallelizing convolutional neural networks, arXiv 1404.5997 (2014).

    Args:
        classes: Number of logits.
        image_size: Height and width of an image, in pixels.
        channels: Channels of an image.
        conv1_kernel: Height and width of the first kernel, in pixels.
        conv1_stride: Step of the first convolution, in pixels.
        conv1_padding: Zeros added at each border before the first convolution.
        widths: Output channels of `conv1` to `conv5`.
        dense_width: Outputs of `fc6` and of `fc7`.
        dropout: Probability that an input of `fc6` or `fc7` is dropped in training mode.
        rngs: Source of the starting weights. Dropout draws from the one given in the call.

    Raises:
        ValueError: If there aren't five widths or the images are too small for the poolings.

    Example:
        >>> small = nnx.eval_shape(lambda: AlexNet(
        ...     classes=10, image_size=(64, 64), conv1_kernel=5, conv1_stride=2,
        ...     widths=(8, 8, 8, 8, 8), dense_width=32, rngs=nnx.Rngs(0)))
        >>> small.fc6.kernel.shape, small.fc8.kernel.shape
        ((72, 32), (32, 10))
    """

    def __init__(
        self,
        *,
        classes: int = 1000,
        image_size: Sequence[int] = (224, 224),
        channels: int = 3,
        conv1_kernel: int = 11,
        conv1_stride: int = 4,
        conv1_padding: int = 2,
        widths: Sequence[int] = (64, 192, 384, 256, 256),
        dense_width: int = 4096,
        dropout: float = 0.5,
        rngs: nnx.Rngs,
    ):
        if len(widths) != 5:
            raise ValueError(f"AlexNet has five convolutions, but {len(widths)} widths were given")
        height, width = (
            _flattened_side(side, conv1_kernel, conv1_stride, conv1_padding) for side in image_size
        )
        if height < 1 or width < 1:
            raise ValueError(
                f"AlexNet: images of {image_size[0]}×{image_size[1]} pixels are too small for a "
                f"first convolution of {conv1_kernel}×{conv1_kernel} with stride {conv1_stride} "
                "and three poolings"
            )
        first, second, third, fourth, fifth = widths
        self.conv1 = convolution(
            channels, first, conv1_kernel, stride=conv1_stride, padding=conv1_padding, rngs=rngs
        )
        self.conv2 = convolution(first, second, 5, padding=2, rngs=rngs)
        self.conv3 = convolution(second, third, 3, padding=1, rngs=rngs)
        self.conv4 = convolution(third, fourth, 3, padding=1, rngs=rngs)
        self.conv5 = convolution(fourth, fifth, 3, padding=1, rngs=rngs)
        self.fc6 = dense(height * width * fifth, dense_width, rngs=rngs)
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
        x = max_pool(jax.nn.relu(self.conv1(images)), 3, 2)
        x = max_pool(jax.nn.relu(self.conv2(x)), 3, 2)
        x = jax.nn.relu(self.conv3(x))
        x = jax.nn.relu(self.conv4(x))
        x = max_pool(jax.nn.relu(self.conv5(x)), 3, 2)
        x = x.reshape(x.shape[0], -1)
        x = jax.nn.relu(self.fc6(self.dropout(x, rngs=rngs)))
        x = jax.nn.relu(self.fc7(self.dropout(x, rngs=rngs)))
        return self.fc8(x)


def _flattened_side(side: int, kernel: int, stride: int, padding: int) -> int:
    side = windows(side, kernel, stride, padding=padding)
    for _ in range(3):
        side = windows(side, 3, 2)
    return side
