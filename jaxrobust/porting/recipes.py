"""Recipes: what a network's parameters are called in a weight file, and how they lie there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Recipe:
    """Maps parameter paths to the names in a weight file of Caffe's or PyTorch's layout.

    There, a convolution's kernel lies as (outputs, inputs, height, width), a dense one as
    (outputs, inputs), and images are flattened as (channels, height, width). Here it is (height,
    width, inputs, outputs), (inputs, outputs) and (height, width, channels).

    Args:
        leaves: Name of a layer's leaf -> its name in the file.
        separator: What stands between layer and leaf in the file's names.
        layers: Name of a layer -> its name in the file, for the layers whose name differs.
        flattened: Name of a dense layer that reads a flattened image -> that image's
            (channels, height, width).

    Example:
        >>> recipe = Recipe({"kernel": "weight"}, ".", {"conv1": "features.0"})
        >>> recipe.source("conv1/kernel")
        'features.0.weight'
        >>> recipe.source_shape((11, 11, 3, 64))
        (64, 3, 11, 11)
    """

    leaves: Mapping[str, str]
    separator: str
    layers: Mapping[str, str] = field(default_factory=dict)
    flattened: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    def source(self, path: str) -> str:
        """The name in the file of the parameter at `path` (`conv1/kernel`)."""
        layer, leaf = path.rsplit("/", 1)
        return f"{self.layers.get(layer, layer)}{self.separator}{self.leaves[leaf]}"

    def source_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in the file of a parameter that has `shape` here."""
        if len(shape) == 4:
            height, width, inputs, outputs = shape
            return outputs, inputs, height, width
        return shape[::-1]

    def convert(self, path: str, array: np.ndarray) -> np.ndarray:
        """Brings the array of the parameter at `path` from the file's layout into ours."""
        image = self.flattened.get(path.rsplit("/", 1)[0])
        if array.ndim == 2 and image is not None:
            outputs, inputs = array.shape
            return array.reshape(outputs, *image).transpose(2, 3, 1, 0).reshape(inputs, outputs)
        return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


CAFFE_NPZ = Recipe({"kernel": "w", "bias": "b"}, "/")

TORCHVISION_ALEXNET = Recipe(
    {"kernel": "weight", "bias": "bias"},
    ".",
    layers={
        "conv1": "features.0",
        "conv2": "features.3",
        "conv3": "features.6",
        "conv4": "features.8",
        "conv5": "features.10",
        "fc6": "classifier.1",
        "fc7": "classifier.4",
        "fc8": "classifier.6",
    },
    flattened={"fc6": (256, 6, 6)},
)
