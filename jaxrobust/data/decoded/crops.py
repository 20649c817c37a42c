"""Cropped images as one array that need not fit into memory."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.data.decoded.cache import BlockCache
from jaxrobust.data.progress import DECODING, Report

if TYPE_CHECKING:
    from jaxtyping import Integer, UInt8

    from jaxrobust.preprocessing import Preprocessing

# Images in one file of the cache. Slices of a source that begin alike share files.
_BLOCK = 256
# To be raised when decoding or cropping changes without a new version of anything.
_EDITION = 1
_WARNINGS = {
    "unwritable": "the cache of images in {0.folder} cannot be written: decoded images stay in "
    "memory (JAXROBUST_CACHE names another folder)",
    "full": "the cache of images in {0.folder} is full at {0.limit:.3g} bytes: images beyond are "
    "decoded anew each time they are read (JAXROBUST_CACHE_GB sets the limit)",
}


class Crops:
    """Images, decoded and cropped, kept in the cache and read from there.

    Read it with an array of positions: `crops[np.arange(50)]` is uint8 [50, height, width,
    channels]. An image is decoded once for all sweeps with the same resizing and crop. A file
    that vanished from the cache, or is damaged, is made again when it is needed. Without a cache
    the images are held in memory; those that a full one has no room for are decoded each time.

    Args:
        shape: (images, height, width, channels).
        decode: Gives the cropped images from one position up to another.
        cache: Where they are kept; None keeps them in memory.
        keys: In the cache, from `keys_of`; read only if there is one.

    Attributes:
        shape: See above.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        decode: Callable[[int, int], UInt8[np.ndarray, "images height width channels"]],
        cache: BlockCache | None,
        keys: Sequence[str] = (),
    ) -> None:
        self.shape, self._decode, self._cache, self._keys = shape, decode, cache, keys
        self._held: dict[int, np.ndarray] = {}
        self._warned = False

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(
        self, index: Integer[np.ndarray, " rows"]
    ) -> UInt8[np.ndarray, "rows height width channels"]:
        rows = np.empty((len(index), *self.shape[1:]), np.uint8)
        numbers = index // _BLOCK
        for number in np.unique(numbers).tolist():
            here = numbers == number
            rows[here] = self._block(number)[index[here] - number * _BLOCK]
        return rows

    def fill(self, report: Report) -> None:
        """Decodes what is not in the cache yet.

        Args:
            report: Called with what is being done, images done and all of them.

        Raises:
            SpecificationError: If an image is broken or cannot be cropped; it is named.
        """
        for number, start in enumerate(range(0, len(self), _BLOCK)):
            report(DECODING, start, len(self))
            if not (self._cache and self._cache.has(self._keys[number], self._shape(number))):
                self._make(number)
        report(DECODING, len(self), len(self))

    def _block(self, number: int) -> np.ndarray:
        if number in self._held:
            return self._held[number]
        stored = self._cache and self._cache.get(self._keys[number], self._shape(number))
        return self._make(number) if stored is None else stored

    def _shape(self, number: int) -> tuple[int, ...]:
        return (min(_BLOCK, len(self) - number * _BLOCK), *self.shape[1:])

    def _make(self, number: int) -> np.ndarray:
        start = number * _BLOCK
        pixels = self._decode(start, start + self._shape(number)[0])
        outcome = self._cache.add(self._keys[number], pixels) if self._cache else "unwritable"
        if outcome == "unwritable":
            self._held[number] = pixels
        if self._cache and outcome != "kept" and not self._warned:
            self._warned = True
            warnings.warn(_WARNINGS[outcome].format(self._cache), stacklevel=2)
        return pixels


def keys_of(digests: Sequence[bytes], preprocessing: Preprocessing) -> list[str]:
    """One key per block of images: of their content and of everything that makes pixels of it.

    Args:
        digests: One for each encoded image.
        preprocessing: How they are resized and cropped.
    """
    cropping = preprocessing.to_json()
    del cropping["mean"], cropping["std"]
    recipe = json.dumps([_EDITION, cropping, versions()], sort_keys=True).encode()
    return [
        blake2b(recipe + b"".join(digests[start : start + _BLOCK]), digest_size=16).hexdigest()
        for start in range(0, len(digests), _BLOCK)
    ]


@cache
def versions() -> dict[str, str]:
    """The versions of what makes pixels of an image file."""
    found = {}
    for package in ("jaxrobust", "numpy", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # jaxrobust itself, run from a folder
            found[package] = ""
    return found
