"""How to run: batch sizes, what is held in memory, how trials are batched."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import jax

from jaxrobust.errors import SpecificationError, unknown
from jaxrobust.hoist import Split
from jaxrobust.layers import Layer
from jaxrobust.perturbations import Perturbation, draw_shapes

Mode = Literal["vmap", "map"]

# On a CPU larger working sets only leave the caches; an accelerator wants them as large as fits.
_CPU_WORKING_SET = 256 * 2**20
# A kernel above this, damaged in several trials at once, costs more to lay out than it saves.
_LARGEST_VMAPPED_LEAF = 4 * 2**20
_MOST_VMAPPED_TRIALS = 256
_MOST_MAPPED_TRIALS = 8
# An interrupted round leaves trials that have not seen all images: few enough to lose.
_MOST_STEPS_PER_ROUND = 32


@dataclass(frozen=True)
class Options:
    """How a sweep is to be run; never what it measures. None leaves the choice to the planner.

    Attributes:
        memory: bytes that the sweep may use; by default half of what is free.
        images_per_step: images in one call of the compiled program; a multiple or a divisor of
            the block.
        trials_per_step: trials in one call.
        mode: `vmap` runs the trials of a step as one batch, `map` one after the other.
        hoist: False runs the whole network for every trial, one after the other, to compare with:
            trials in one batch would share what the damage cannot reach.

    Raises:
        SpecificationError: a number below 1, or an unknown mode.
    """

    memory: int | None = None
    images_per_step: int | None = None
    trials_per_step: int | None = None
    mode: Mode | None = None
    hoist: bool = True

    def __post_init__(self) -> None:
        for name in ("memory", "images_per_step", "trials_per_step"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SpecificationError(f"option {name}={value}: at least 1 is needed")
        if self.mode not in (None, *get_args(Mode)):
            raise SpecificationError(unknown("mode", str(self.mode), get_args(Mode)))

    def check_block(self, block: int) -> None:
        """Raises SpecificationError for steps that are neither whole blocks nor parts of one."""
        size = self.images_per_step
        if size is not None and size % block and block % size:
            raise SpecificationError(
                f"option images_per_step={size}: a multiple or a divisor of the block, {block}, "
                "is needed"
            )

    @property
    def budget(self) -> int:
        """Bytes that the sweep may use."""
        return self.memory or free_memory() // 2


@dataclass(frozen=True)
class Plan:
    """How the trials of one group of layers are run.

    Attributes:
        images_per_step, trials_per_step, mode: as in `Options`.
        seeds_per_draw: seeds whose draws are held at once.
        steps_per_round: steps' worth of damaged leaves that are made before the images are gone
            through.
        keep_residuals: the residuals of all images are held at once rather than made anew for
            every round.
    """

    images_per_step: int
    trials_per_step: int
    mode: Mode
    seeds_per_draw: int
    steps_per_round: int
    keep_residuals: bool


def free_memory() -> int:
    """Bytes of memory that are free on the device that runs the sweep."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    try:
        with open("/proc/meminfo") as lines:
            amounts = dict(line.split(":") for line in lines)
        return int(amounts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def make_plan(
    split: Split,
    layers: Sequence[Layer],
    perturbations: Sequence[tuple[Perturbation, int]],
    *,
    images: int,
    block: int,
    seeds: int,
    options: Options,
) -> Plan:
    """Plans the trials of one group of layers.

    Args:
        split: the network split at what is damaged, for a batch of one block.
        layers: the layers of the group.
        perturbations: each with its number of trials on this group.
        images, block, seeds: of the specification.
        options: what the user has fixed.
    """
    memory = options.budget
    sizes = [leaf.size * leaf.dtype.itemsize for layer in layers for leaf in layer.leaves]
    mode = options.mode or _mode(layers, max(sizes))
    per_trial = sum(sizes)
    counts = [trials for _, trials in perturbations]

    # Trials × images that fit beside each other in the suffix.
    fit = max(int(_working_set(memory) * block / max(split.suffix_peak_bytes, 1)), 1)
    size = options.images_per_step or images_per_step(
        split, fit if mode == "map" else min(fit, block), images=images, block=block, memory=memory
    )
    held = max(memory // 8 // per_trial, 1)
    if mode == "map":
        trials = min(held, _MOST_MAPPED_TRIALS, max(counts))
    else:
        trials = min(held, _MOST_VMAPPED_TRIALS, max(counts), max(fit // size, 1))
        trials = _least_padding(counts, trials)
    trials = options.trials_per_step or (trials if options.hoist else 1)

    noise = max(max(_noise_bytes(p, layers) for p, _ in perturbations), 1)
    groups = -(-seeds // min(max(memory // 8 // noise, 1), seeds))
    return Plan(
        images_per_step=size,
        trials_per_step=trials,
        mode=mode,
        seeds_per_draw=-(-seeds // groups),
        steps_per_round=min(max(held // trials, 1), _MOST_STEPS_PER_ROUND),
        keep_residuals=split.residual_bytes / block * images <= memory / 2,
    )


def images_per_step(split: Split, fit: int, *, images: int, block: int, memory: int) -> int:
    """How many images one call runs: whole blocks or an equal part of one.

    Args:
        split: the network split for a batch of one block.
        fit: the most that the suffix can take.
        images, block: of the specification.
        memory: bytes that the sweep may use.
    """
    prefix = int(_working_set(memory) * block / max(split.prefix_peak_bytes, 1))
    most = max(min(fit, prefix), 1)
    if most >= block and images > block:
        return min(most // block, -(-images // block)) * block
    parts = [part for part in range(1, block + 1) if block % part == 0]
    enough = next((part for part in parts if part >= images), block)
    return max(part for part in parts if part <= min(most, enough))


def _working_set(memory: int) -> int:
    cpu = jax.default_backend() == "cpu"
    return min(memory // 4, _CPU_WORKING_SET) if cpu else memory // 4


def _mode(layers: Sequence[Layer], largest: int) -> Mode:
    """Batching more than one kernel turns later convolutions into slow grouped ones."""
    kernels = sum(leaf.role == "kernel" for layer in layers for leaf in layer.leaves)
    twice = any(layer.uses > 1 or layer.loop is not None for layer in layers)
    return "map" if kernels > 1 or twice or largest > _LARGEST_VMAPPED_LEAF else "vmap"


def _least_padding(counts: Sequence[int], most: int) -> int:
    """The step width, at least half of `most`, that pads the given numbers of trials least."""
    return min(
        range(max(1, most // 2), most + 1),
        key=lambda width: (sum(-(-n // width) * width for n in counts), -width),
    )


def _noise_bytes(perturbation: Perturbation, layers: Sequence[Layer]) -> int:
    if perturbation.draw is None:
        return 0
    drawn = [draw_shapes(perturbation, layer) for layer in layers]
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(drawn))
