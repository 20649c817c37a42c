"""Finding the images that cannot be read or decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.data.decoded.cache import BlockCache
from jaxrobust.data.decoded.crops import versions
from jaxrobust.data.progress import READING, SEARCHING, Report
from jaxrobust.data.store import Store
from jaxrobust.ground.errors import SpecificationError

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64

Each = Callable[[Callable[[int], bool], Sequence[int]], Iterator[bool]]


def intact_images(
    store: Store, order: Int64[np.ndarray, " images"], each: Each, report: Report
) -> Bool[np.ndarray, " images"]:
    """Tells which images can be read and decoded.

    Args:
        store: The images.
        order: The position in the store of each image in question.
        each: A function that applies a function to many, such as `map`.
        report: Called with what is being done, images done and all of them.

    Returns:
        True for each image that can. The cache remembers the outcome.
    """
    intact = _tried(store.digest, order, each, report, READING)
    readable = order[intact]
    cache = BlockCache.default()
    digests = b"".join(map(store.digest, readable.tolist()))
    key = blake2b(f"intact {versions()}".encode() + digests, digest_size=16).hexdigest()
    outcome = cache.get(key, readable.shape) if cache and len(readable) else None
    if outcome is None:
        outcome = _tried(store.pixels, readable, each, report, SEARCHING)
        if cache and len(readable):
            cache.add(key, outcome.astype(np.uint8))
    intact[intact] = outcome.astype(bool)
    return intact


def _tried(
    function: Callable[[int], object], order: np.ndarray, each: Each, report: Report, what: str
) -> Bool[np.ndarray, " images"]:
    """Whether a function raises no `SpecificationError`, for each image."""

    def succeeds(index: int) -> bool:
        try:
            function(index)
        except SpecificationError:
            return False
        return True

    outcome = np.empty(len(order), bool)
    for done, success in enumerate(each(succeeds, order.tolist())):
        if done % 50 == 0:
            report(what, done, len(order))
        outcome[done] = success
    return outcome
