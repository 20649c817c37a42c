"""The images on the host, and batches of them on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxrobust.data.decoded.crops import Crops
from jaxrobust.data.progress import Report
from jaxrobust.data.source import ImageSource
from jaxrobust.network import Network
from jaxrobust.preprocessing import Preprocessing

if TYPE_CHECKING:
    from jaxtyping import Array


@dataclass(frozen=True)
class Batch:
    """Some consecutive images as they are counted.

    Attributes:
        index: int [batch], their positions.
        labels: int32 [batch].
        present: bool [batch], False for the padding at the end.
        first_block: the block of the first image.
        place_of: int32 [batch], the place of each, counted from the first one of its block.
    """

    index: np.ndarray
    labels: np.ndarray
    present: np.ndarray
    first_block: int
    place_of: np.ndarray


def blocks_per_step(images: int, block: int) -> int:
    """In how many blocks some consecutive images can lie at most."""
    return (images - 2) // block + 2


@dataclass(frozen=True)
class Images:
    """Cropped images and their labels, on the host.

    Attributes:
        pixels: uint8 [images, height, width, channels], perhaps on the disk.
        labels: int32 [images].
    """

    pixels: Crops | np.ndarray
    labels: np.ndarray

    @staticmethod
    def decode(network: Network, source: ImageSource, report: Report) -> Images:
        """Decodes all images of a source whose labels are the network's classes.

        Args:
            network: says how to crop them.
            source: the images.
            report: called with what is being done, images done and all of them.
        """
        return Images(source.crops(network.preprocessing, report), source.labels)

    def batch(self, start: int, size: int, block: int, stop: int | None = None) -> Batch:
        """`size` images from `start`, the last one repeated; those from `stop` are padding."""
        index = np.arange(start, start + size)
        present, first = index < (stop or len(self.labels)), start // block
        place_of = (index - first * block).astype(np.int32)
        index = np.minimum(index, len(self.labels) - 1)
        return Batch(index, self.labels[index], present, first, place_of)

    def inputs(self, network: Network, index: np.ndarray, parts: int) -> Array:
        """Images as the network takes them.

        Args:
            network: says how.
            index: int [batch], their positions.
            parts: how many devices share them.

        Returns:
            float32 [parts, batch / parts, height, width, channels], on the device.
        """
        pixels = self.pixels[index]
        pixels = pixels.reshape(parts, -1, *pixels.shape[1:])
        # On the device, where it is faster, and where bytes are four times quicker to bring.
        return _normalised(network.preprocessing)(pixels)


@lru_cache(maxsize=64)
def _normalised(preprocessing: Preprocessing) -> Callable[[np.ndarray], Array]:
    return jax.jit(jax.vmap(preprocessing.normalise))
