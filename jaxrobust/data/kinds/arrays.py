"""Images that are in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.data.decoded.pixels import as_rgb, check_pixels
from jaxrobust.data.store import Store
from jaxrobust.ground.errors import SpecificationError

if TYPE_CHECKING:
    from jaxtyping import Integer, UInt8


class ArrayStore(Store):
    """Images and labels in two arrays; labels are the network's class indices.

    Args:
        images: uint8 [images, height, width], [images, height, width, 1] (both grey, repeated to
            three channels) or [images, height, width, 3]. They are copied, unless the array is
            read-only (`images.flags.writeable = False`).
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
        check_pixels(images, many=True)
        check_labels(labels, len(images))
        if images.size == 0:
            raise SpecificationError(f"there are no images: shape {images.shape}")
        # A copy, as a sweep reads them for hours: other pixels would not be those of its record.
        self._images = images.copy() if images.flags.writeable else images
        self.keys = [str(index) for index in range(len(images))]
        self.folders = None
        self.labels = labels.astype(np.int32)

    def content(self, index: int) -> bytes:
        row = self._images[index]
        # The shape, because the same bytes in another shape are another image.
        return f"{row.shape}".encode() + row.tobytes()

    def pixels(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        return as_rgb(self._images[index])

    def describe(self, index: int) -> str:
        return f"image {index}"


def check_labels(labels: np.ndarray, images: int) -> None:
    """Refuses anything but one class index from 0 for each image.

    Args:
        labels: What may be labels.
        images: How many there must be.

    Raises:
        SpecificationError: If they are not integers [images] from 0.
    """
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (images,):
        hint = ""
        if labels.ndim == 2 and len(labels) == images:
            hint = f"; possible: labels.{'ravel()' if labels.shape[1] == 1 else 'argmax(1)'}"
        elif labels.shape == (images,) and labels.dtype.kind in "fb":
            hint = "; possible: labels.astype(int)"
        raise SpecificationError(
            f"labels must be integers, one for each of the {images} images, "
            f"not {labels.dtype} {labels.shape}{hint}"
        )
    if images and (labels.min() < 0 or labels.max() > np.iinfo(np.int32).max):
        raise SpecificationError(
            f"labels must be class indices from 0, not {labels.min()} to {labels.max()}"
        )
