"""Recipes: what a network's parameters are called in a weight file, and how they lie there."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Recipe:
    """Maps parameter paths to the names in a weight file, and its layouts to ours.

    Here a convolution's kernel is (height, width, inputs, outputs), HWIO for short, a dense one
    (inputs, outputs), IO, and images are flattened as (height, width, channels).

    Args:
        name: The file's name of a parameter, with `{layer}` and `{leaf}` in it.
        leaves: Name of a layer's leaf -> what stands for `{leaf}`.
        layers: Name of a layer -> what stands for `{layer}`, for the layers whose name differs;
            several names if the file holds the layer in groups, first outputs first.
        flattened: Name of a dense layer that reads an image flattened in the order (channels,
            height, width) -> that image's shape in this order.
        convolution: Order of the axes of a convolution's kernel in the file.
        dense: Order of the axes of a dense kernel in the file.
        flipped: Whether kernels of convolutions lie upside down and mirrored in the file.
        ignored: Patterns of names in the file that the network has no use for.

    Example:
        >>> recipe = Recipe("{layer}.{leaf}", {"kernel": "weight"}, {"conv1": "features.0"})
        >>> recipe.sources("conv1/kernel")
        ('features.0.weight',)
        >>> recipe.source_shape("conv1/kernel", (11, 11, 3, 64))
        (64, 3, 11, 11)
    """

    name: str
    leaves: Mapping[str, str]
    layers: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    flattened: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    convolution: Literal["OIHW", "HWIO"] = "OIHW"
    dense: Literal["OI", "IO"] = "OI"
    flipped: bool = False
    ignored: tuple[str, ...] = ()

    def sources(self, path: str) -> tuple[str, ...]:
        """The names in the file of what makes the parameter at `path` (`conv1/kernel`)."""
        layer, leaf = path.rsplit("/", 1)
        named = self.layers.get(layer, layer)
        groups = (named,) if isinstance(named, str) else named
        return tuple(self.name.format(layer=group, leaf=self.leaves[leaf]) for group in groups)

    def source_shape(self, path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in the file of each of a parameter's arrays, if it has `shape` here."""
        *rest, outputs = shape
        sizes = dict(
            zip(_ours(len(shape)), (*rest, outputs // len(self.sources(path))), strict=True)
        )
        return tuple(sizes[axis] for axis in self._theirs(len(shape)))

    def convert(self, path: str, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Brings a parameter from the file's layout into ours.

        Args:
            path: The parameter's path here.
            arrays: The arrays of that parameter, in the order of `sources`.

        Returns:
            The parameter, perhaps a view of the array.
        """
        parts = [self._turned(path, array) for array in arrays]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def ignores(self, name: str) -> bool:
        """Whether the network has no use for the array of that name."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.ignored)

    def _theirs(self, rank: int) -> str:
        return {4: self.convolution, 2: self.dense}.get(rank, _ours(rank))

    def _turned(self, path: str, array: np.ndarray) -> np.ndarray:
        theirs = self._theirs(array.ndim)
        array = array.transpose([theirs.index(axis) for axis in _ours(array.ndim)])
        if array.ndim == 4 and self.flipped:
            return array[::-1, ::-1]
        image = self.flattened.get(path.rsplit("/", 1)[0])
        if array.ndim == 2 and image is not None:
            return array.reshape(*image, -1).transpose(1, 2, 0, 3).reshape(array.shape)
        return array


def _ours(rank: int) -> str:
    return {4: "HWIO", 2: "IO"}.get(rank, "O")


def pytorch(
    layers: Mapping[str, str] | None = None,
    flattened: Mapping[str, tuple[int, int, int]] | None = None,
) -> Recipe:
    """A PyTorch state dictionary, batch normalisation included.

    Args:
        layers: Names of the layers that are called otherwise there (see `Recipe`).
        flattened: Images that dense layers read (see `Recipe`).

    Returns:
        The recipe.
    """
    leaves = {
        "kernel": "weight",
        "bias": "bias",
        "scale": "weight",
        "mean": "running_mean",
        "var": "running_var",
    }
    ignored = ("num_batches_tracked", "*.num_batches_tracked")
    return Recipe("{layer}.{leaf}", leaves, layers or {}, flattened or {}, ignored=ignored)


def caffe(
    flattened: Mapping[str, tuple[int, int, int]] | None = None, ignored: tuple[str, ...] = ()
) -> Recipe:
    """A Caffe model, under the names that `read_weights` gives its blobs.

    Args:
        flattened: Images that dense layers read (see `Recipe`).
        ignored: Patterns of names that the network has no use for.

    Returns:
        The recipe.
    """
    return Recipe(
        "{layer}/{leaf}", {"kernel": "w", "bias": "b"}, flattened=flattened or {}, ignored=ignored
    )


def torchvision_alexnet() -> Recipe:
    """torchvision's `alexnet`."""
    convolutions = {f"conv{i}": f"features.{n}" for i, n in enumerate((0, 3, 6, 8, 10), 1)}
    dense = {"fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6"}
    return pytorch(convolutions | dense, {"fc6": (256, 6, 6)})


def torchvision_vgg(convolutions: Sequence[int], *, batch_normalised: bool) -> Recipe:
    """torchvision's `vgg11` to `vgg19_bn`, where every operation of the blocks counts.

    Args:
        convolutions: Number of convolutions in each of the five blocks.
        batch_normalised: Whether a batch normalisation follows each of them.

    Returns:
        The recipe.
    """
    layers = {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
    position = 0
    for block, count in enumerate(convolutions, 1):
        for number in range(1, count + 1):
            layers[f"conv{block}_{number}"] = f"features.{position}"
            if batch_normalised:
                layers[f"bn{block}_{number}"] = f"features.{position + 1}"
            position += 3 if batch_normalised else 2
        position += 1
    return pytorch(layers, {"fc6": (512, 7, 7)})


def torchvision_squeezenet(fires: Sequence[int]) -> Recipe:
    """torchvision's `squeezenet1_0` and `squeezenet1_1`.

    Args:
        fires: Position of `fire2` to `fire9` among the network's features.

    Returns:
        The recipe.
    """
    layers = {"conv1": "features.0", "conv10": "classifier.1"}
    parts = {"squeeze1x1": "squeeze", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}
    for number, position in enumerate(fires, 2):
        for ours, theirs in parts.items():
            layers[f"fire{number}/{ours}"] = f"features.{position}.{theirs}"
    return pytorch(layers)


def keras_vgg(convolutions: Sequence[int]) -> Recipe:
    """VGG of Keras Applications, under the names that `read_weights` gives its arrays.

    Args:
        convolutions: Number of convolutions in each of the five blocks.

    Returns:
        The recipe.
    """
    layers = {"fc6": "fc1", "fc7": "fc2", "fc8": "predictions"}
    for block, count in enumerate(convolutions, 1):
        for number in range(1, count + 1):
            layers[f"conv{block}_{number}"] = f"block{block}_conv{number}"
    leaves = {"kernel": "kernel", "bias": "bias"}
    return Recipe("{layer}/{leaf}", leaves, layers, convolution="HWIO", dense="IO")


# Its weights are for Theano's convolution, which flips kernels; with TensorFlow, its users call
# Keras's convert_all_kernels_in_model after loading them.
CONVNETS_KERAS_ALEXNET = Recipe(
    "{layer}/{leaf}",
    {"kernel": "kernel", "bias": "bias"},
    layers={
        "conv1": "conv_1",
        "conv2": ("conv_2_1", "conv_2_2"),
        "conv3": "conv_3",
        "conv4": ("conv_4_1", "conv_4_2"),
        "conv5": ("conv_5_1", "conv_5_2"),
        "fc6": "dense_1",
        "fc7": "dense_2",
        "fc8": "dense_3",
    },
    flattened={"fc6": (256, 6, 6)},
    dense="IO",
    flipped=True,
)
