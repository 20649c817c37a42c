"""How to run: batch sizes, what is held in memory, how many trials are batched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax

from jaxrobust.design.options import Options
from jaxrobust.execution.routes import operations_per_image
from jaxrobust.layers import Layer
from jaxrobust.network import Network
from jaxrobust.perturbations import Perturbation, draw_shapes
from jaxrobust.program.route import Route
from jaxrobust.runtime.machine import Machine

# On a CPU larger working sets only leave the caches; an accelerator wants them as large as fits.
_CPU_WORKING_SET = 96 * 2**20
# A call with less to compute than this spends its time on being called, so that trials go together;
# a CPU gains nothing from more.
_ENOUGH_OPERATIONS = 2**28
# Below so many operations of all trials together, whole forward passes, compiling the network's
# segments takes longer than running anew for every trial what the damage does not reach.
_WORTH_SEGMENTS = 2**38
# A kernel above this, damaged in several trials at once, costs more to lay out than it saves.
_LARGEST_BATCHED_LEAF = 4 * 2**20
_MOST_TRIALS_PER_STEP = 256
# Draws of small layers are made for many seeds in one call; large ones would only take memory.
_DRAWN_AT_ONCE = 256 * 2**20
# On a CPU, what the undamaged network hands on is quickly made anew for a round of many steps.
_CPU_KEPT = 512 * 2**20
# Steps that wait for others: enough for threads that become free to have one.
_MOST_UNDER_WAY = 5
_CPU_UNDER_WAY = 512 * 2**20
# An interrupted round leaves trials that have not seen all images: few enough to lose.
_MOST_STEPS_PER_ROUND = 32


@dataclass(frozen=True)
class BatchPlan:
    """How the trials of one group of layers are run.

    Attributes:
        trial_devices: among how many devices the trials are divided.
        image_devices: among how many the images of each of these trials are divided.
        images_per_step, trials_per_step: as in `Options`.
        seeds_per_draw: seeds whose draws a device holds at once.
        steps_per_round: steps' worth of damaged leaves that are made before the images are gone
            through.
        steps_under_way: steps that are begun before the first of them has been counted.
        keep_residuals: what the undamaged network hands on is held for all images at once rather
            than made anew for every round.
        segmented: the network is cut into segments, so that what the damage does not reach is not
            run again; otherwise it is one program for all layers.
    """

    trial_devices: int
    image_devices: int
    images_per_step: int
    trials_per_step: int
    seeds_per_draw: int
    steps_per_round: int
    steps_under_way: int
    keep_residuals: bool
    segmented: bool


def is_segmented(
    network: Network, batch: int, trial_images: int, *, machine: Machine, options: Options
) -> bool:
    """Whether it pays to cut a network into segments.

    Args:
        network: any network.
        batch: how many images it is traced for.
        trial_images: how many images all trials of the sweep look at together.
        machine: what they run on.
        options: what the user has fixed; to compare with, only segments are of use.
    """
    if not machine.is_cpu or len(machine.devices) > 1 or options.trials_per_step:
        return True
    one = operations_per_image(network, batch, machine.platform)
    return one * trial_images > _WORTH_SEGMENTS


def plan_batches(
    split: Route,
    whole: Route,
    layers: Sequence[Layer],
    perturbations: Sequence[tuple[Perturbation, int]],
    *,
    images: int,
    run: int,
    batch: int,
    seeds: int,
    segmented: bool,
    machine: Machine,
    options: Options,
) -> BatchPlan:
    """Plans the trials of one group of layers.

    Args:
        split: what the damage reaches, for a batch of `batch` images.
        whole: the undamaged network for as many.
        layers: the layers of the group.
        perturbations: each with its number of trials on this group.
        images, seeds: of the specification.
        run: how many consecutive images trials usually look at.
        batch: see `split`.
        segmented: see `Plan`.
        machine: what they run on.
        options: what the user has fixed.
    """
    memory, devices = machine.memory_per_device, len(machine.devices)
    most_trials = max(trials for _, trials in perturbations)
    trial_devices = max(n for n in range(1, devices + 1) if devices % n == 0 and n <= most_trials)
    images, run = (-(-count // (devices // trial_devices)) for count in (images, run))
    counts = [-(-trials // trial_devices) for _, trials in perturbations]
    held_bytes = (split.residual_bytes + split.product_bytes) / batch * images
    keep = held_bytes <= _at_most(memory // 2, _CPU_KEPT, machine)

    # Trials × images that fit beside each other in the suffix. On accelerators the same for all
    # layers, as the number of images is everywhere, so that they share compiled programs.
    peak = split.suffix_peak_bytes if machine.is_cpu else whole.prefix_peak_bytes
    fit = max(int(_working_set(machine) * batch / max(peak, 1)), 1)
    size = images_per_step(whole, batch, images=run, machine=machine)
    size = options.images_per_step or size

    leaves = [leaf for layer in layers for leaf in layer.leaves]
    per_trial = sum(leaf.nbytes for leaf in leaves)
    held = max(memory // 8 // per_trial, 1)
    trials = min(
        1 if _one_by_one(layers) or not segmented else fit // size or 1,
        _enough_trials(split.suffix_operations * size / batch, machine),
        held,
        _MOST_TRIALS_PER_STEP,
        max(counts),
    )
    trials = _least_padding(counts, trials)
    trials = options.trials_per_step or (trials if options.hoist else 1)

    waiting = _at_most(memory // 8, _CPU_UNDER_WAY, machine)
    per_step = max(int(trials * (per_trial + split.product_bytes * size / batch)), 1)

    noise = max(max(noise_bytes(p, layers) for p, _ in perturbations), 1)
    draws = -(-seeds // min(max(min(memory // 8, _DRAWN_AT_ONCE) // noise, 1), seeds))
    return BatchPlan(
        trial_devices=trial_devices,
        image_devices=devices // trial_devices,
        images_per_step=size,
        trials_per_step=trials,
        seeds_per_draw=-(-seeds // draws),
        steps_per_round=1 if keep else min(max(held // trials, 1), _MOST_STEPS_PER_ROUND),
        steps_under_way=max(min(waiting // per_step, _MOST_UNDER_WAY), 1),
        keep_residuals=keep,
        segmented=segmented,
    )


def images_per_step(whole: Route, batch: int, *, images: int, machine: Machine) -> int:
    """How many images one call runs, so that the last call has few to spare.

    Args:
        whole: the undamaged network for a batch of `batch` images.
        batch: see `whole`.
        images: how many there are in all.
        machine: what they run on.
    """
    peak = max(whole.prefix_peak_bytes, whole.suffix_peak_bytes, 1)
    fit = max(int(_working_set(machine) * batch / peak), 1)
    steps = -(-images // fit)
    return -(-images // steps)


def _working_set(machine: Machine) -> int:
    # Several steps run side by side, each with its own.
    return _at_most(machine.memory_per_device // 12, _CPU_WORKING_SET, machine)


def _at_most(size: int, on_cpu: int, machine: Machine) -> int:
    return min(size, on_cpu) if machine.is_cpu else size


def _enough_trials(operations: float, machine: Machine) -> int:
    """How many trials of that many operations keep the device busy."""
    if not machine.is_cpu:
        return _MOST_TRIALS_PER_STEP
    return math.ceil(_ENOUGH_OPERATIONS / max(operations, 1))


def _one_by_one(layers: Sequence[Layer]) -> bool:
    """Batching more than one kernel turns later convolutions into slow grouped ones."""
    leaves = [leaf for layer in layers for leaf in layer.leaves]
    kernels = sum(leaf.role == "kernel" for leaf in leaves)
    twice = any(layer.uses > 1 or layer.loop is not None for layer in layers)
    return kernels > 1 or twice or max(leaf.size for leaf in leaves) > _LARGEST_BATCHED_LEAF


def _least_padding(counts: Sequence[int], most: int) -> int:
    """The step width, at least half of `most`, that pads the given numbers of trials least."""
    return min(
        range(max(1, most // 2), most + 1),
        key=lambda width: (sum(-(-n // width) * width for n in counts), -width),
    )


def noise_bytes(perturbation: Perturbation, layers: Sequence[Layer]) -> int:
    """Bytes of what is drawn for one seed."""
    if perturbation.draw is None:
        return 0
    drawn = [draw_shapes(perturbation, layer) for layer in layers]
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(drawn))
