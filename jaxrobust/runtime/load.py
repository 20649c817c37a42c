"""How busy other programs keep the processor while something is timed."""

from __future__ import annotations

import os
from time import perf_counter, process_time


class Load:
    """What other programs take of the processor from now on.

    Args:
        on_cpu: whether what is timed runs on it.
    """

    def __init__(self, on_cpu: bool) -> None:
        self._on_cpu = on_cpu
        self._began, self._own, self._busy = perf_counter(), process_time(), _busy_seconds()

    @property
    def share_if_alone(self) -> float:
        """Which part of the time it would take, at the least, if no other program ran."""
        if not self._on_cpu:
            return 1.0
        own, busy = process_time() - self._own, _busy_seconds() - self._busy
        return share_if_alone(own, busy - own, (perf_counter() - self._began) * _cores())


def share_if_alone(own: float, others: float, available: float) -> float:
    """Which part of a time something takes that also gets what other programs had.

    Args:
        own, others: seconds of processor time that it and all other programs had.
        available: seconds that all cores had together which it may use.

    Example:
        >>> share_if_alone(2.0, 6.0, 8.0), share_if_alone(2.0, 0.0, 8.0)
        (0.25, 1.0)
    """
    return own / max(min(own + max(others, 0.0), available), own) if own > 0 else 1.0


def _cores() -> int:
    has_affinity = hasattr(os, "sched_getaffinity")  # not on every system
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def _busy_seconds() -> float:
    """Processor time of all programs since the machine was started; 0 where nothing tells."""
    try:
        with open("/proc/stat") as lines:
            user, nice, system, _, _, *interrupts = map(int, next(lines).split()[1:9])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
