"""`images`: whatever a user may give as labelled images becomes an `ImageSource` here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust.data.kinds.arrays import ArrayStore, check_labels
from jaxrobust.data.kinds.items import IMAGE_NAMES, LABEL_NAMES, ItemStore, column, kind
from jaxrobust.data.registry import open_source
from jaxrobust.data.source import ImageSource
from jaxrobust.data.store import Store
from jaxrobust.ground.errors import SpecificationError

_NAME = "memory"
_POSSIBLE = (
    "possible: a source string such as folder:PATH, (images, labels), a mapping with images and "
    "labels, or a data set with a length whose items are pairs of image and label"
)


def images(source: Any, labels: Any = None) -> ImageSource:
    """Labelled images in a fixed, class-balanced order.

    Args:
        source: One of

            - a source string, such as `tar:PATH`; `SOURCES` holds every kind. Nothing is decoded;
            - images, with `labels`: uint8 [images, height, width, 3], or [images, height, width]
              or [images, height, width, 1] for grey ones; or a list of PIL images or such arrays;
            - `(images, labels)`, or a mapping that holds `images` and `labels`;
            - anything with a length and items by number: a list of pairs of image and label, or a
              data set in the manner of PyTorch or Hugging Face, whose items are pairs or mappings
              with `image` and `label`. Every item is read once now;
            - an `ImageSource`, which is returned as it is.

            Pixels are 8-bit numbers, since the network's own preprocessing normalises them:
            others are refused, with what turns them into pixels.
        labels: Integers [images] from 0, the network's class indices.

    Returns:
        The images.

    Raises:
        SpecificationError: If it is none of these, if a path is missing, unreadable or holds no
            images, or if images or labels are not as above.

    Example:
        >>> noise = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
        >>> images(noise, [0, 1, 2, 0, 1, 2])
        <ImageSource memory: 6 images, 3 classes>
    """
    if isinstance(source, ImageSource) and labels is None:
        return source
    if isinstance(source, str) and labels is None:
        return open_source(source)
    return ImageSource.from_store(_NAME, _store(source, labels))


def _store(source: Any, labels: Any) -> Store:
    if labels is not None:
        if isinstance(source, str | ImageSource):
            raise SpecificationError(f"{source} has labels of its own; possible: it alone")
        return _of_columns(source, labels)
    if isinstance(source, os.PathLike):
        raise SpecificationError(_for_path(Path(source)))
    if isinstance(source, Mapping):
        return _of_mapping(source)
    if isinstance(source, tuple | list) and len(source) == 2 and not _is_pair(source[1]):
        return _of_columns(*source)
    if hasattr(source, "dtype") and hasattr(source, "shape"):
        raise SpecificationError(
            f"images without labels ({kind(source)}); possible: (images, labels)"
        )
    if isinstance(source, Iterator):
        raise SpecificationError(
            f"an iterator ({kind(source)}) has no length and gives its images only once; possible: "
            "list(…) of it, if it ends and its items are pairs of image and label"
        )
    if isinstance(source, type) or not _has_length(source):
        without = " has no length" if hasattr(source, "__iter__") else " holds no labelled images"
        raise SpecificationError(f"a {kind(source)}{without}; {_POSSIBLE}")
    if not hasattr(source, "__getitem__"):
        inside = getattr(source, "dataset", None)  # PyTorch's loaders, whose items are batches
        way = "possible: its .dataset" if inside is not None else _POSSIBLE
        raise SpecificationError(f"a {kind(source)} has no items by number; {way}")
    return ItemStore(source)


def _has_length(source: Any) -> bool:
    try:
        return len(source) >= 0
    except Exception:  # some data sets have the method and refuse
        return False


def _of_mapping(source: Mapping[str, Any]) -> Store:
    if source and all(hasattr(part, "__getitem__") for part in source.values()):
        inside = [name for name, part in source.items() if _has_columns(part)]
        if inside:  # Hugging Face's data sets come in splits
            raise SpecificationError(
                f"a mapping of several data sets; possible: one of them, as [{inside[0]!r}]"
            )
    return _of_columns(column(source, IMAGE_NAMES), column(source, LABEL_NAMES))


def _has_columns(part: Any) -> bool:
    names = getattr(part, "column_names", None) or (part if isinstance(part, Mapping) else ())
    return any(name in names for name in IMAGE_NAMES)


def _of_columns(pixels: Any, labels: Any) -> Store:
    """Images and labels apart: as arrays where the images have one shape."""
    numbers = _array(labels, "labels")
    if hasattr(pixels, "dtype") and hasattr(pixels, "shape"):
        array = _array(pixels, "images")
        if array.dtype != object:  # an array of arrays is a list of images
            return ArrayStore(array, numbers)
        pixels = list(array)
    if not hasattr(pixels, "__len__") or not hasattr(pixels, "__getitem__"):
        raise SpecificationError(f"images are needed, an array or a list, not a {kind(pixels)}")
    check_labels(numbers, len(pixels))
    return ItemStore(_Columns(pixels, numbers))


class _Columns:
    """Images and labels as a data set of pairs."""

    def __init__(self, pixels: Any, labels: np.ndarray) -> None:
        self._pixels, self._labels = pixels, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self._pixels[index], self._labels[index]


def _array(values: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except Exception as error:  # lists of several lengths, tensors on a device
        raise SpecificationError(
            f"{what} cannot be made an array of NumPy ({kind(values)})"
        ) from error


def _is_pair(value: Any) -> bool:
    """Whether it is an item of a data set rather than a column of labels."""
    if isinstance(value, Mapping):
        return True
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    return not isinstance(value[0], int | float | np.number | str) and np.ndim(value[0]) != 0


def _for_path(path: Path) -> str:
    way = "folder" if path.is_dir() else "npz" if path.suffix == ".npz" else "tar"
    return f"a path alone does not say what it holds; possible: '{way}:{path}'"
