"""AlexNet: five convolutions and three dense layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import jax
from flax import nnx

from jaxrobust.networks.definitions.common import convolution, dense, max_pool, windows
from jaxrobust.networks.definitions.normalisation import local_response_norm

if TYPE_CHECKING:
    from jaxtyping import Array, Float

Place = Literal["none", "before pooling", "after pooling"]


class AlexNet(nnx.Module):
    """AlexNet in all its published forms, at any size.

    `conv1` to `conv5`, each followed by ReLU, with 3×3 stride-2 max-pooling after the first, the
    second and the fifth, and local response normalisation before or after the first two poolings,
    if asked for; then `fc6`, `fc7` (each with ReLU on its output) and `fc8`, which gives the
    logits. The last image is flattened row by row, channels innermost.

    The defaults are torchvision's `alexnet`, 61,100,840 parameters: no groups, no normalisation.
    Source: A. Krizhevsky, One weird trick for parallelizing convolutional neural networks,
    arXiv 1404.5997 (2014). The network of 2012 has two groups and normalisation: A. Krizhevsky,
    I. Sutskever, G. Hinton, ImageNet Classification with Deep Convolutional Neural Networks.

    Args:
        classes: Number of logits.
        image_size: Height and width of an image, in pixels.
        channels: Channels of an image.
        conv1_kernel: Height and width of the first kernel, in pixels.
        conv1_stride: Step of the first convolution, in pixels.
        conv1_padding: Zeros added at each border before the first convolution.
        widths: Output channels of `conv1` to `conv5`.
        dense_width: Outputs of `fc6` and of `fc7`.
        groups: Groups of `conv2`, `conv4` and `conv5`.
        response_norm: Where local response normalisation stands, if anywhere.
        norm_alpha: Its factor of the sum of squares.
        norm_offset: What it adds to that.
        dropout: Probability that an input of the layers of `dropout_before` is dropped in training
            mode.
        dropout_before: Names of the dense layers whose inputs are dropped.
        rngs: Source of the starting weights. Dropout draws from the one given in the call.

    Raises:
        ValueError: If there aren't five widths, the images are too small for the poolings, or
            `response_norm` is unknown.

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
        groups: int = 1,
        response_norm: Place = "none",
        norm_alpha: float = 1e-4,
        norm_offset: float = 2.0,
        dropout: float = 0.5,
        dropout_before: Sequence[str] = ("fc6", "fc7"),
        rngs: nnx.Rngs,
    ):
        if len(widths) != 5:
            raise ValueError(f"AlexNet has five convolutions, but {len(widths)} widths were given")
        if response_norm not in get_args(Place):
            raise ValueError(
                f"AlexNet: response_norm={response_norm!r}; possible: {', '.join(get_args(Place))}"
            )
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
        self.conv2 = convolution(first, second, 5, padding=2, groups=groups, rngs=rngs)
        self.conv3 = convolution(second, third, 3, padding=1, rngs=rngs)
        self.conv4 = convolution(third, fourth, 3, padding=1, groups=groups, rngs=rngs)
        self.conv5 = convolution(fourth, fifth, 3, padding=1, groups=groups, rngs=rngs)
        self.fc6 = dense(height * width * fifth, dense_width, rngs=rngs)
        self.fc7 = dense(dense_width, dense_width, rngs=rngs)
        self.fc8 = dense(dense_width, classes, rngs=rngs)
        self.response_norm = response_norm
        self.norm_alpha = norm_alpha
        self.norm_offset = norm_offset
        self.dropout = nnx.Dropout(dropout)
        self.dropout_before = tuple(dropout_before)

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
        x = self._pooled(jax.nn.relu(self.conv1(images)))
        x = self._pooled(jax.nn.relu(self.conv2(x)))
        x = jax.nn.relu(self.conv3(x))
        x = jax.nn.relu(self.conv4(x))
        x = max_pool(jax.nn.relu(self.conv5(x)), 3, 2)
        x = x.reshape(x.shape[0], -1)
        x = jax.nn.relu(self.fc6(self._dropped("fc6", x, rngs)))
        x = jax.nn.relu(self.fc7(self._dropped("fc7", x, rngs)))
        return self.fc8(self._dropped("fc8", x, rngs))

    def _pooled(self, x: Array) -> Array:
        if self.response_norm == "before pooling":
            x = self._normalised(x)
        x = max_pool(x, 3, 2)
        return self._normalised(x) if self.response_norm == "after pooling" else x

    def _normalised(self, x: Array) -> Array:
        return local_response_norm(x, alpha=self.norm_alpha, offset=self.norm_offset)

    def _dropped(self, layer: str, x: Array, rngs: nnx.Rngs | None) -> Array:
        return self.dropout(x, rngs=rngs) if layer in self.dropout_before else x


def _flattened_side(side: int, kernel: int, stride: int, padding: int) -> int:
    side = windows(side, kernel, stride, padding=padding)
    for _ in range(3):
        side = windows(side, 3, 2)
    return side
