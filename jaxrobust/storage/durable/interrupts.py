"""Ctrl-C while a sweep ends: what is being saved is saved, however often it is pressed."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def ends_in_peace() -> Iterator[Callable[[], None]]:
    """Lets what is done within come to its end once it has begun to end.

    Yields:
        A function to call when it begins to end: from then on Ctrl-C waits until it has. Python
        gives signals to the main thread; on other threads nothing is changed.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed meanwhile.
    """
    pressed: list[int] = []
    before: list[Any] = []

    def hold() -> None:
        if not before and threading.current_thread() is threading.main_thread():
            before.append(signal.signal(signal.SIGINT, lambda number, _: pressed.append(number)))

    try:
        yield hold
    finally:
        if before:
            signal.signal(signal.SIGINT, before[0] or signal.SIG_DFL)
    if pressed:
        raise KeyboardInterrupt


def at_most_once_a_second() -> None:
    """From now on Ctrl-C that is pressed again at once does not disturb what ends after the first.

    One a second later counts: Python may lose one, in a callback of its garbage collector.
    """
    last = -math.inf

    def interrupt(*_: Any) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before >= 1:
            raise KeyboardInterrupt

    _set(interrupt)


def never_again() -> None:
    """Ctrl-C does nothing any more: this process is about to end, which it would only disturb."""
    _set(signal.SIG_IGN)


def _set(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)
