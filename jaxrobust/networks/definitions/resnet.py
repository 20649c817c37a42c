"""ResNet: convolutions whose output is added to what they read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrobust.networks.definitions.common import convolution, dense, global_average_pool, max_pool
from jaxrobust.networks.definitions.normalisation import batch_norm

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class _Residual(nnx.Module):
    """Stages of residual blocks.

    A block's layers are attributes of the network under the names that PyTorch gives them
    (`layer1.0.conv1`), so that their parameters have these names too.

    Args:
        blocks: Number of blocks in each stage.
    """

    def __init__(self, blocks: Sequence[int]):
        self.blocks = tuple(blocks)

    def _add(
        self,
        conv: str,
        bn: str,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        rngs: nnx.Rngs,
    ) -> None:
        """Adds a convolution without a bias and the batch normalisation behind it."""
        padding = kernel // 2
        layer = convolution(
            inputs, outputs, kernel, stride=stride, padding=padding, bias=False, rngs=rngs
        )
        setattr(self, conv, layer)
        setattr(self, bn, batch_norm(outputs, rngs=rngs))

    def _add_branch(
        self, block: str, inputs: int, convolutions: Sequence[tuple[int, int, int]], rngs: nnx.Rngs
    ) -> None:
        """Adds a block's convolutions, each given as (outputs, kernel, stride)."""
        for number, (outputs, kernel, stride) in enumerate(convolutions, 1):
            conv, bn = f"{block}.conv{number}", f"{block}.bn{number}"
            self._add(conv, bn, inputs, outputs, kernel, stride, rngs)
            inputs = outputs

    def _normalised(self, conv: str, bn: str, x: Array) -> Array:
        return getattr(self, bn)(getattr(self, conv)(x))

    def _branch(self, block: str, x: Array, depth: int) -> Array:
        for number in range(1, depth + 1):
            x = x if number == 1 else jax.nn.relu(x)
            x = self._normalised(f"{block}.conv{number}", f"{block}.bn{number}", x)
        return x


class ResNet(_Residual):
    """ResNet for photographs, as in torchvision.

    `conv1` and `bn1`, 3×3 stride-2 max-pooling, four stages of blocks, the average over the image
    and `fc`, which gives the logits. A block is `layer1.0.conv1`, `layer1.0.bn1`, … with ReLU
    between them and after their output is added to the input; where the shape changes, the input
    goes through `layer2.0.downsample.0` (1×1) and `layer2.0.downsample.1`. The first block of every
    stage but the first has a stride of 2, in its 3×3 convolution.

    The defaults are ResNet-18, 11,689,512 parameters. Source: K. He et al., Deep Residual Learning
    for Image Recognition, arXiv 1512.03385 (2015), table 1.

    Args:
        blocks: Number of blocks in each of the four stages.
        bottleneck: Whether a block is 1×1, 3×3 and 1×1 convolutions, the last four times wider,
            rather than two 3×3.
        widths: Output channels of the 3×3 convolutions of each stage.
        classes: Number of logits.
        rngs: Source of the starting weights.

    Example:
        >>> network = nnx.eval_shape(lambda: ResNet(classes=10, rngs=nnx.Rngs(0)))
        >>> getattr(network, "layer2.0.downsample.0").kernel.shape, network.fc.kernel.shape
        ((1, 1, 64, 128), (512, 10))
    """

    def __init__(
        self,
        *,
        blocks: Sequence[int] = (2, 2, 2, 2),
        bottleneck: bool = False,
        widths: Sequence[int] = (64, 128, 256, 512),
        classes: int = 1000,
        rngs: nnx.Rngs,
    ):
        super().__init__(blocks)
        self.bottleneck = bottleneck
        inputs = widths[0]
        self._add("conv1", "bn1", 3, inputs, 7, 2, rngs)
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), 1):
            outputs = 4 * width if bottleneck else width
            for number in range(count):
                block = f"layer{stage}.{number}"
                stride = 2 if stage > 1 and number == 0 else 1
                if bottleneck:
                    convolutions = [(width, 1, 1), (width, 3, stride), (outputs, 1, 1)]
                else:
                    convolutions = [(width, 3, stride), (width, 3, 1)]
                self._add_branch(block, inputs, convolutions, rngs)
                if stride > 1 or inputs != outputs:
                    conv, bn = f"{block}.downsample.0", f"{block}.downsample.1"
                    self._add(conv, bn, inputs, outputs, 1, stride, rngs)
                inputs = outputs
        self.fc = dense(inputs, classes, rngs=rngs)

    def __call__(
        self, images: Float[Array, "images height width channels"], rngs: nnx.Rngs | None = None
    ) -> Float[Array, "images classes"]:
        """Classifies images.

        Args:
            images: Preprocessed images, NHWC, of any size.
            rngs: Not used: there is no dropout.

        Returns:
            The logits.
        """
        x = jax.nn.relu(self._normalised("conv1", "bn1", images))
        x = max_pool(x, 3, 2, padding=1)
        for stage, count in enumerate(self.blocks, 1):
            for number in range(count):
                block = f"layer{stage}.{number}"
                change = f"{block}.downsample.0", f"{block}.downsample.1"
                kept = self._normalised(*change, x) if hasattr(self, change[0]) else x
                x = jax.nn.relu(self._branch(block, x, 3 if self.bottleneck else 2) + kept)
        return self.fc(global_average_pool(x))


class CifarResNet(_Residual):
    """ResNet for 32×32 images, its shortcuts without parameters.

    `conv1` and `bn1`, three stages of blocks of two 3×3 convolutions (`layer1.0.conv1`,
    `layer1.0.bn1`, …), the average over the image and `linear`, which gives the logits. The first
    block of the second and of the third stage has a stride of 2 and twice the channels; there the
    input is every other pixel, with zero channels on both sides (option A of the paper).

    The defaults are ResNet-20, 269,722 parameters. Source: K. He et al., Deep Residual Learning for
    Image Recognition, arXiv 1512.03385 (2015), section 4.2, with the names of Y. Idelbayev's
    implementation in PyTorch.

    Args:
        blocks: Number of blocks in each of the three stages.
        classes: Number of logits.
        rngs: Source of the starting weights.

    Example:
        >>> network = nnx.eval_shape(lambda: CifarResNet(rngs=nnx.Rngs(0)))
        >>> getattr(network, "layer3.2.conv2").kernel.shape, network.linear.kernel.shape
        ((3, 3, 64, 64), (64, 10))
    """

    def __init__(self, *, blocks: Sequence[int] = (3, 3, 3), classes: int = 10, rngs: nnx.Rngs):
        super().__init__(blocks)
        inputs = 16
        self._add("conv1", "bn1", 3, inputs, 3, 1, rngs)
        for stage, (count, width) in enumerate(zip(blocks, (16, 32, 64), strict=True), 1):
            for number in range(count):
                stride = width // inputs
                convolutions = [(width, 3, stride), (width, 3, 1)]
                self._add_branch(f"layer{stage}.{number}", inputs, convolutions, rngs)
                inputs = width
        self.linear = dense(inputs, classes, rngs=rngs)

    def __call__(
        self, images: Float[Array, "images height width channels"], rngs: nnx.Rngs | None = None
    ) -> Float[Array, "images classes"]:
        """Classifies images.

        Args:
            images: Preprocessed images, NHWC, of any size.
            rngs: Not used: there is no dropout.

        Returns:
            The logits.
        """
        x = jax.nn.relu(self._normalised("conv1", "bn1", images))
        for stage, count in enumerate(self.blocks, 1):
            for number in range(count):
                added = self._branch(f"layer{stage}.{number}", x, 2)
                x = jax.nn.relu(added + _widened(x, added.shape))
        return self.linear(global_average_pool(x))


def _widened(x: Array, shape: tuple[int, ...]) -> Array:
    """The input where the shape stays, else every other pixel between channels of zeros."""
    more = shape[3] - x.shape[3]
    if not more:
        return x
    return jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (more // 2, more // 2)))
