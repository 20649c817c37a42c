"""How a sweep is to be run, as far as the user wants to say."""

from __future__ import annotations

from dataclasses import dataclass

from jaxrobust.ground.errors import SpecificationError


@dataclass(frozen=True)
class Options:
    """How a sweep is to be run; never what it measures. None leaves the choice to the planner.

    Attributes:
        memory: bytes that the sweep may use of each device's memory, which the devices of a CPU
            share; by default half of what is free.
        images_per_step: images in one call of the compiled program on each device.
        trials_per_step: trials in one call on each device.
        hoist: False runs the whole network for every trial, one after the other, to compare with:
            trials in one batch would share what the damage cannot reach.
        share: False computes the damaged layer's product for every trial, also where trials could
            share it, to compare with.
        devices: how many devices of this process are used; all of them by default.

    Raises:
        SpecificationError: a number below 1.
    """

    memory: int | None = None
    images_per_step: int | None = None
    trials_per_step: int | None = None
    hoist: bool = True
    share: bool = True
    devices: int | None = None

    def __post_init__(self) -> None:
        for name in ("memory", "images_per_step", "trials_per_step", "devices"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SpecificationError(f"option {name}={value}: at least 1 is needed")
