"""The kinds of source, found by the prefix of a source string."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from jaxrobust.data.messages import about
from jaxrobust.data.source import ImageSource
from jaxrobust.data.store import Store
from jaxrobust.ground.errors import SpecificationError


@dataclass(frozen=True)
class SourceKind:
    """One kind of source: how its string is written, what it is, and how it is opened."""

    usage: str
    summary: str
    open: Callable[[str], Store]


SOURCES: dict[str, SourceKind] = {}
Opener = TypeVar("Opener", bound=Callable[[str], Store])


def register(usage: str) -> Callable[[Opener], Opener]:
    """Adds a kind of source to what `jaxrobust.images` understands.

    Args:
        usage: How the source string is written, such as "npz:PATH". What stands before the first
            colon is the prefix; without a colon the source takes no argument.

    Returns:
        A decorator for the function that opens the source: it takes what follows the prefix and
        returns a `Store`. The first line of its docstring becomes the summary.

    Example:
        >>> import numpy as np
        >>> from jaxrobust.data import SOURCES, ArrayStore, images, register
        >>> @register("plain:COUNT")
        ... def open_plain(count):
        ...     '''Black squares of one class.'''
        ...     return ArrayStore(np.zeros((int(count), 8, 8), np.uint8), np.zeros(int(count), int))
        >>> images("plain:5")
        <ImageSource plain:5: 5 images, 1 class>
        >>> del SOURCES["plain"]
    """

    def add(opener: Opener) -> Opener:
        summary = (opener.__doc__ or "").strip().split("\n")[0]
        SOURCES[usage.partition(":")[0]] = SourceKind(usage, summary, opener)
        return opener

    return add


def open_source(source: str) -> ImageSource:
    """Opens the source of a source string, without decoding any image.

    Args:
        source: A source string, such as `tar:PATH`; `SOURCES` holds every kind.

    Returns:
        The images, in the source's fixed, class-balanced order.

    Raises:
        SpecificationError: If the kind of source is unknown, or its path is missing, unreadable
            or holds no images.
    """
    prefix, _, argument = source.partition(":")
    if prefix not in SOURCES:
        possible = ", ".join(SOURCES[name].usage for name in sorted(SOURCES))
        raise SpecificationError(f"{source!r} is not a data source; possible: {possible}")
    kind = SOURCES[prefix]
    if bool(argument) != (":" in kind.usage):
        raise SpecificationError(f"{source!r} is not a data source; possible: {kind.usage}")
    with about(source):
        return ImageSource.from_store(source, kind.open(argument))
