"""Images of a data set that gives one image and its label for each number."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrobust.data.decoded.decoding import to_rgb
from jaxrobust.data.decoded.pixels import as_rgb, check_pixels
from jaxrobust.data.store import Store
from jaxrobust.ground.errors import SpecificationError, first_line

if TYPE_CHECKING:
    from jaxtyping import UInt8

# What data sets call them, in PyTorch's and Hugging Face's worlds.
IMAGE_NAMES, LABEL_NAMES = ("image", "images", "img"), ("label", "labels")


class ItemStore(Store):
    """Images of anything with a length and items by number, PyTorch's or Hugging Face's data sets.

    An item is a pair of image and label, or a mapping with both. Each is read once now, for its
    label and its fingerprint, and again when its pixels are needed.

    Args:
        items: Has `len(items)` and `items[i]`. An image is a PIL image or an array, uint8
            [height, width], [height, width, 1] or [height, width, 3]; a label is a class index.
            Class names that the data set knows (`classes`, or the names in its `features`) are
            matched with the network's, as those of class folders are.

    Raises:
        SpecificationError: If an item cannot be read or is not as above, or if there is none.
    """

    named = "classes of the data"
    threads = False  # nobody promises that items may be read from several

    def __init__(self, items: Any) -> None:
        self._items = items
        self.keys = [str(index) for index in range(len(items))]
        if not self.keys:
            raise SpecificationError("there are no images: its length is 0")
        self.labels = np.empty(len(self.keys), np.int32)
        for index in range(len(self.keys)):
            pixels, self.labels[index] = self._read(index)
            self._digests[index] = _digest(pixels)
        names = _class_names(items)
        self.folders = names if names and self.labels.max() < len(names) else None

    def content(self, index: int) -> bytes:
        return _content(self._read(index)[0])

    def pixels(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        pixels, label = self._read(index)
        if _digest(pixels) != self._digests[index] or label != self.labels[index]:
            raise SpecificationError(
                "is another one than when it was read before; possible: a data set without random "
                "augmentation, whose items stay as they are"
            )
        return pixels

    def describe(self, index: int) -> str:
        return f"item {index}"

    def _read(self, index: int) -> tuple[np.ndarray, int]:
        try:
            image, label = _parts(self._items[index])
            return _pixels(image), _label(label)
        except SpecificationError as error:
            raise SpecificationError(f"item {index}: {error}") from error
        except Exception as error:  # it is anybody's code
            raise SpecificationError(
                f"item {index} cannot be read ({type(error).__name__}: {first_line(error)})"
            ) from error


def column(table: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The value of the one name that a mapping has.

    Raises:
        SpecificationError: If it has none of them, or several.
    """
    found = [name for name in names if name in table]
    if len(found) != 1:
        raise SpecificationError(
            f"a mapping with one of {', '.join(names)} is needed; "
            f"it holds {', '.join(map(str, table)) or 'nothing'}"
        )
    return table[found[0]]


def _parts(item: Any) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        return column(item, IMAGE_NAMES), column(item, LABEL_NAMES)
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    of = f" of {len(item)}" if isinstance(item, tuple | list) else ""
    raise SpecificationError(
        f"a pair of image and label, or a mapping with both, is needed, not a {kind(item)}{of}"
    )


def _pixels(image: Any) -> np.ndarray:
    from PIL import Image

    if isinstance(image, Image.Image):
        return np.array(to_rgb(image))
    if isinstance(image, str | bytes | os.PathLike):
        raise SpecificationError(
            f"the image must be an array or a PIL image, not a {kind(image)}; possible: "
            "folder:PATH, for files"
        )
    array = np.asarray(image)
    check_pixels(array, many=False)
    if not array.size:
        raise SpecificationError(f"the image has no pixels: shape {array.shape}")
    return as_rgb(array)


def _label(label: Any) -> int:
    try:
        index = operator.index(label)
    except TypeError:
        index = -1
    if not 0 <= index <= np.iinfo(np.int32).max:
        raise SpecificationError(
            f"the label must be a class index, a whole number from 0, not {label!r:.60}"
        )
    return index


def kind(value: Any) -> str:
    """What something is, for a message: its type, and its shape if it has one."""
    shape = getattr(value, "shape", None)
    name = type(value).__name__
    return name if shape is None else f"{name} of shape {tuple(shape)}"


def _class_names(items: Any) -> tuple[str, ...] | None:
    """The names of the classes in the order of the labels, where a data set tells them."""
    if getattr(items, "target_transform", None) is not None:
        return None  # the labels are others than those that have names
    names = getattr(items, "classes", None)
    features = getattr(items, "features", None)
    if names is None and isinstance(features, Mapping):
        label = next((features[name] for name in LABEL_NAMES if name in features), None)
        names = getattr(label, "names", None)
    if names is None and hasattr(items, "dataset") and hasattr(items, "indices"):
        # PyTorch's subset of another. What else holds another may number its classes anew.
        return _class_names(items.dataset)
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names) or None


def _digest(pixels: np.ndarray) -> bytes:
    return blake2b(_content(pixels), digest_size=16).digest()


def _content(pixels: np.ndarray) -> bytes:
    return f"{pixels.shape}".encode() + pixels.tobytes()
