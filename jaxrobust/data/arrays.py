"""Images that are in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.data.store import Store
from jaxrobust.errors import SpecificationError

if TYPE_CHECKING:
    from jaxtyping import Integer, UInt8


class ArrayStore(Store):
    """Images and labels in two arrays; labels are the network's class indices.

    Args:
        images: uint8 [images, height, width], [images, height, width, 1] (both grey, repeated to
            three channels) or [images, height, width, 3].
        labels: Integers [images], 0 or greater.

    Raises:
        SpecificationError: If a shape, a type or a label is not as above, or if there is no image.

    Example:
        >>> from jaxrobust.data import ImageSource
        >>> noise = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
        >>> ImageSource.from_store("noise", ArrayStore(noise, np.arange(6) % 2))
        <ImageSource noise: 6 images, 2 classes>
    """

    def __init__(
        self, images: UInt8[np.ndarray, "images ..."], labels: Integer[np.ndarray, " images"]
    ) -> None:
        grey = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 1)
        if images.dtype != np.uint8 or not (grey or (images.ndim == 4 and images.shape[3] == 3)):
            raise SpecificationError(
                "images must be uint8 [images, height, width], [images, height, width, 1] or "
                f"[images, height, width, 3], not {images.dtype} {images.shape}"
            )
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
            raise SpecificationError(
                f"labels must be integers, one for each of the {len(images)} images, "
                f"not {labels.dtype} {labels.shape}"
            )
        if images.size == 0:
            raise SpecificationError(f"there are no images: shape {images.shape}")
        if labels.min() < 0 or labels.max() > np.iinfo(np.int32).max:
            raise SpecificationError(
                f"labels must be class indices from 0, not {labels.min()} to {labels.max()}"
            )
        self._images = images
        self._repeats = 3 if grey else 1
        self.keys = [str(index) for index in range(len(images))]
        self.folders = None
        self.labels = labels.astype(np.int32)

    def content(self, index: int) -> bytes:
        row = self._images[index]
        # The shape, because the same bytes in another shape are another image.
        return f"{row.shape}".encode() + row.tobytes()

    def pixels(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        row = self._images[index]
        return np.repeat(row.reshape(*row.shape[:2], -1), self._repeats, axis=2)

    def describe(self, index: int) -> str:
        return f"image {index}"
