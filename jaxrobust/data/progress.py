"""Telling the caller how far long work has come."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str, int, int], None]
"""Called with what is being done, how many images are done, and how many there are."""

# What there is to do before the trials; the engine reports what it damages instead.
READING, SEARCHING, DECODING = "reading images", "looking for broken images", "decoding images"
PREPARING = (READING, SEARCHING, DECODING)


def silent(what: str, done: int, total: int) -> None:
    """Tells nobody."""
