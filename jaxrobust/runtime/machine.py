"""What a sweep runs on: the devices, and the memory that it may use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Machine:
    """The devices of this process that a sweep runs on.

    Attributes:
        devices: at least one, all of the same kind.
        memory: bytes that the sweep may use of each device's memory; the devices of a CPU share
            theirs.
    """

    devices: tuple[Any, ...]
    memory: int

    @staticmethod
    def of(devices: int | None = None, memory: int | None = None) -> Machine:
        """JAX's default device where one is set, else all devices of this process.

        Args:
            devices: use no more than so many.
            memory: bytes that the sweep may use; by default half of what is free.
        """
        default = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
        own = [default] if isinstance(default, jax.Device) else jax.local_devices()
        return Machine(tuple(own[:devices]), memory or _free_memory(own[0]) // 2)

    @property
    def platform(self) -> str:
        """ "cpu", "gpu" or "tpu"."""
        return self.devices[0].platform

    @property
    def is_cpu(self) -> bool:
        """Whether these are devices of a CPU."""
        return self.platform == "cpu"

    @property
    def kind(self) -> str:
        """The name of the devices' model."""
        return self.devices[0].device_kind

    @property
    def memory_per_device(self) -> int:
        """Bytes that the sweep may use for what one device runs."""
        return self.memory // (len(self.devices) if self.is_cpu else 1)


def _free_memory(device: Any) -> int:
    """Bytes of memory that are free on a device, or for one of the CPU."""
    statistics = device.memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    try:
        with open("/proc/meminfo") as lines:
            amounts = dict(line.split(":") for line in lines)
        return int(amounts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
