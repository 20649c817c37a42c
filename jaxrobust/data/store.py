"""What a kind of source has to provide: images by number, in any fixed order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int32, UInt8


class Store(ABC):
    """All images of one source, addressed by number; `ImageSource` gives them their order.

    Attributes:
        keys: One name per image, unlike all others of its class.
        folders: Names of the classes in their order, such as those of the class folders, or None
            where labels are the network's class indices already.
        labels: int32, one per image: positions in `folders`, or class indices.
        named: What has the names in `folders`, for messages.
    """

    keys: Sequence[str]
    folders: tuple[str, ...] | None
    labels: Int32[np.ndarray, " images"]
    named: str = "class folders"
    threads: bool = True

    @abstractmethod
    def content(self, index: int) -> bytes:
        """The bytes that stand for an image in a fingerprint."""

    @abstractmethod
    def pixels(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        """The decoded image; called from several threads at once.

        Raises:
            SpecificationError: If the image cannot be read or decoded.
        """

    def cropped(
        self, index: int, crop: Callable[[UInt8[np.ndarray, "height width 3"]], np.ndarray]
    ) -> np.ndarray:
        """What `crop` makes of the decoded image; where decoding takes much memory, within a bound.

        Raises:
            SpecificationError: As for `pixels`, or by `crop`.
        """
        return crop(self.pixels(index))

    @abstractmethod
    def describe(self, index: int) -> str:
        """What to call the image in a message: its path, for instance."""

    def digest(self, index: int) -> bytes:
        """A hash of an image's `content`, 16 bytes, computed once."""
        if index not in self._digests:
            self._digests[index] = blake2b(self.content(index), digest_size=16).digest()
        return self._digests[index]

    @cached_property
    def _digests(self) -> dict[int, bytes]:
        return {}
