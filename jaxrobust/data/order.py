"""The fixed order of a source's images."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int64

_SEED = 0


def balanced_order(classes: Sequence[str], keys: Sequence[str]) -> Int64[np.ndarray, " images"]:
    """Permutes images so that every prefix holds each class equally often, to within one image.

    An image's place follows from hashes of (seed, class, key) only, not from the order in which
    the images were listed: within a class the images are sorted by hash, and round after round
    takes the next one of each class that has any left, the classes of a round sorted by hash.

    Args:
        classes: The name of each image's class.
        keys: The name of each image within its class.

    Returns:
        int64, the images' indices in their new order.

    Example:
        >>> order = balanced_order(["cat", "dog", "cat", "dog"], ["a", "a", "b", "b"])
        >>> sorted((order % 2)[:2].tolist())  # one image of each class comes first
        [0, 1]
    """
    hashes = np.array(
        [_hash(name, key) for name, key in zip(classes, keys, strict=True)], dtype=np.uint64
    )
    number_of = {name: number for number, name in enumerate(sorted(set(classes)))}
    class_numbers = np.array([number_of[name] for name in classes], np.int64)
    by_class = np.lexsort((hashes, class_numbers))
    counts = np.bincount(class_numbers)
    firsts = np.cumsum(counts) - counts
    rounds = np.empty(len(hashes), np.int64)
    rounds[by_class] = np.arange(len(hashes)) - np.repeat(firsts, counts)
    return np.lexsort((hashes, rounds))


def _hash(name: str, key: str) -> int:
    # surrogateescape: file names need not be valid text.
    text = f"{_SEED}\0{name}\0{key}".encode(errors="surrogateescape")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")
