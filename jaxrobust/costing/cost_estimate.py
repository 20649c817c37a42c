"""What `plan` says that a sweep would cost, as numbers and as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from textwrap import wrap
from typing import Any

from jaxrobust.ground.text import aligned, binary_size, duration, scaled
from jaxrobust.program.rounding import PrecisionMode

_WIDTH = 72


@dataclass(frozen=True)
class TargetEstimate:
    """What the trials on some layers cost that touch the same leaves.

    Attributes:
        layers: name of the group of layers.
        trials: how many.
        operations: on all images, with what they share.
        seconds: on this machine.
        timed: whether steps of it were run; otherwise its time follows from that of the others.
        trials_per_step, images_per_step: in one call of the compiled program.
        memory: bytes on the device by what takes them; estimates from above.
    """

    layers: str
    trials: int
    operations: float
    seconds: float
    timed: bool
    trials_per_step: int
    images_per_step: int
    memory: dict[str, int]


@dataclass(frozen=True)
class AcceleratorEstimate:
    """What a sweep takes on devices that are not here.

    Attributes:
        label: the accelerator's name.
        devices: how many.
        peak: operations per second of one device, as its maker states.
        efficiency: the share of it that is assumed.
        seconds: operations / (peak · efficiency), trials divided over the devices; what the trials
            share is computed on each of them.
    """

    label: str
    devices: int
    peak: float
    efficiency: float
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What a sweep would cost.

    Attributes:
        trials: that are run; the strength that changes nothing is not.
        trial_images: trials × images.
        operations: in convolutions and matrix products, two for a multiply-add, as the engine
            runs the sweep here: the undamaged network once, what trials share once in each pass
            over the images, the rest for each trial.
        operations_without_hoisting: the whole network for every trial-image.
        parameters: bytes of the network's parameters.
        sums: bytes of the sweep's counts, on the host.
        seconds: on this machine, all programs compiled, as busy as it was meanwhile.
        fastest, slowest: between which it may lie, by the spread of the timed steps and by what
            other programs took of the processor meanwhile.
        compiling: seconds to compile them for the first time; most of it while others run.
        decoding: seconds to decode the images, where they are not in the cache.
        device: kind of this machine's devices.
        precision: of matrix products and convolutions.
        targets: by what is damaged.
        doubled: what is doubled -> factors of operations and of seconds on this machine.
        accelerator: the same on other devices.
    """

    trials: int
    trial_images: int
    operations: float
    operations_without_hoisting: float
    parameters: int
    sums: int
    seconds: float
    fastest: float
    slowest: float
    compiling: float
    decoding: float
    device: str
    precision: PrecisionMode
    targets: tuple[TargetEstimate, ...]
    doubled: dict[str, tuple[float, float]]
    accelerator: AcceleratorEstimate | None

    @property
    def memory(self) -> dict[str, int]:
        """Bytes on the device by what takes them, for the layers that take most."""
        most = max(self.targets, key=lambda each: sum(each.memory.values()), default=None)
        return {"parameters": self.parameters, **(most.memory if most else {})}

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json`."""
        return {**asdict(self), "memory": self.memory, "timed_share": self.timed_share}

    def __str__(self) -> str:
        saved = self.operations_without_hoisting / self.operations if self.operations else 1.0
        takes = sorted(self.memory.items(), key=lambda item: -item[1])
        parts = ", ".join(f"{name} {binary_size(size)}" for name, size in takes)
        rows = [
            ("trials", f"{self.trials:,}, {self.trial_images:,} trial-images"),
            (
                "operations",
                f"{scaled(self.operations)}; {scaled(self.operations_without_hoisting)} without "
                f"hoisting, {saved:.1f} times as many",
            ),
            ("memory", f"up to {binary_size(sum(self.memory.values()))} on each device:"),
            *(("", line) for line in wrap(parts, _WIDTH, break_long_words=False)),
            ("", f"{binary_size(self.sums)} of counts on the host"),
            (
                "time here",
                f"{duration(self.fastest)} to {duration(self.slowest)}, {duration(self.seconds)} "
                f"if it stays as busy; on {self.device}, {self.precision}",
            ),
            *(("", line) for line in wrap(self._timed, _WIDTH, break_long_words=False)),
            (
                "once before",
                f"up to {duration(self.compiling)} of compiling, {duration(self.decoding)} of "
                "decoding images",
            ),
        ]
        if there := self.accelerator:
            rows += [
                (
                    "time elsewhere",
                    f"{duration(there.seconds)} on {there.devices} × {there.label}, "
                    f"{self.precision}",
                ),
                (
                    "",
                    f"not measured: assumes {there.efficiency:.0%} of the stated "
                    f"{scaled(there.peak)}FLOP/s",
                ),
            ]
        return f"{aligned(rows)}\n\n{self._targets_table()}\n\n{self._doubled_table()}"

    @property
    def timed_share(self) -> float:
        """The part of `seconds` that layers take of which steps were timed."""
        rest = sum(each.seconds for each in self.targets if not each.timed)
        return 1 - rest / self.seconds

    @property
    def _timed(self) -> str:
        names = [each.layers for each in self.targets if not each.timed]
        if not names:
            return "a few steps of every layer were timed"
        return (
            f"a few steps of {len(self.targets) - len(names)} of {len(self.targets)} layers were "
            f"timed, which take {self.timed_share:.0%} of it; not timed (*), as fast as these: "
            f"{', '.join(names)}"
        )

    def _targets_table(self) -> str:
        rows = [("layers", "trials", "operations", "time", "share", "trials × images in a step")]
        for each in self.targets:
            share = each.seconds / self.seconds
            rows.append(
                (
                    each.layers,
                    f"{each.trials:,}",
                    scaled(each.operations),
                    duration(each.seconds) + ("" if each.timed else " *"),
                    f"{share:.1%}",
                    f"{each.trials_per_step} × {each.images_per_step}",
                )
            )
        return aligned(rows)

    def _doubled_table(self) -> str:
        rows = [("twice as many", "operations", "time here")]
        for name, (operations, seconds) in self.doubled.items():
            rows.append((name, f"× {operations:.2f}", f"× {seconds:.2f}"))
        return aligned(rows)
