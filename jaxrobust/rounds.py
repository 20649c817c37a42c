"""Sweeps that run until every cell is known to the precision that is asked for."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrobust.costing.costs import costs_of
from jaxrobust.counts.state import State
from jaxrobust.execution.run import Runner
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.metrics import Metric
from jaxrobust.results.seed_sums import SeedSums
from jaxrobust.runtime.hosts import Processes
from jaxrobust.runtime.partition import Alone, Follower
from jaxrobust.sampling import (
    FEWEST,
    UntilHalfWidth,
    blocks_per_seed,
    next_seeds,
    pilot,
    variance_parts,
)
from jaxrobust.storage.progress import SweepProgress


def run_to_precision(
    runner: Runner,
    progress: SweepProgress,
    rule: UntilHalfWidth,
    deadline: Deadline,
    follower: Follower,
    processes: Processes,
) -> None:
    """Adds seeds to the cells that need them, in rounds, until all are known well enough.

    Args:
        runner: of what to run, on what.
        progress: what was counted before, which is not counted again.
        rule: what it takes for a cell to be known well enough.
        deadline: no step is begun after it.
        follower: told how far it has come.
        processes: those that share the trials; the first one decides for all of them.

    Warns:
        UserWarning: the counts of the seeds that are needed do not fit into memory; what was
            counted stays.
    """
    stopping = _Stopping(follower, deadline)
    while not progress.finished:
        if not _run_round(runner, progress, stopping, processes):
            return
        allocation = progress.the_allocation
        if allocation.unsettled:
            allocation.shown[:] = processes.decide(lambda: _settled(runner, progress, rule))
            continue
        seeds = np.asarray(processes.decide(lambda: _next_seeds(progress, rule)), np.int32)
        progress.finished = bool((seeds == allocation.seeds).all())
        if progress.finished or processes.decide(lambda: deadline.is_over):
            return
        try:
            _make_room(progress, int(seeds.max()), runner.job.machine.memory, processes)
        except SpecificationError as error:
            why = f"not all cells are known to ±{rule.half_width:g}: {error}"
            warnings.warn(why, stacklevel=3)
            return
        allocation.seeds = seeds


def _run_round(
    runner: Runner, progress: SweepProgress, follower: Follower, processes: Processes
) -> bool:
    """Runs what the allocation wants; whether that was done in time."""
    progress.state.settle()
    late = False
    try:
        runner.run(progress.state, progress.state.seeds, progress.plans, follower, progress.wanted)
    except _TimeIsUp:
        late = True
        for _ in follower.ends():
            pass
    follower.joins()
    return not processes.gather(late).any()


def _next_seeds(progress: SweepProgress, rule: UntilHalfWidth) -> list[Any]:
    """How many seeds each cell is to have next: as many as now where that is enough.

    More seeds do not help a cell with a value that is not finite, or without images that count.
    """
    seeds = progress.the_allocation.seeds
    sums = SeedSums.of_progress(progress.arrays, progress.record, progress.metrics[rule.metric])
    found = sums.estimate(rule.half_width)
    unknowable = ~np.isfinite(found.half_width) & (found.seeds >= FEWEST)
    enough = found.met | sums.exact | unknowable | (seeds == 0)
    return np.where(enough, seeds, next_seeds(seeds)).tolist()


def _make_room(progress: SweepProgress, seeds: int, memory: int, processes: Processes) -> None:
    # Either all of them have room, or none grows.
    processes.each(lambda: progress.check_room(seeds, memory))
    progress.grow(seeds)


def _settled(runner: Runner, progress: SweepProgress, rule: UntilHalfWidth) -> list[int]:
    """How many blocks each seed is to see on each layer."""
    shown = progress.the_allocation.shown.copy()
    for layer in progress.the_allocation.unsettled:
        shown[layer] = _blocks_per_seed(runner, progress, layer, rule)
    return shown.tolist()


def _blocks_per_seed(
    runner: Runner, progress: SweepProgress, layer: int, rule: UntilHalfWidth
) -> int:
    """From the spread of the pilot's sums and from what its parts took."""
    spec, state = progress.spec, progress.state
    run = (progress.the_allocation.seeds[:, layer] > 0) & progress.random[:, None]
    if spec.blocks == 1 or not run.any():
        return spec.blocks
    if not runner.seconds_per_trial_image(layer):
        _run_pilot_again(runner, progress, layer)
    seeds, blocks = pilot(spec.blocks, spec.root)
    metric = progress.metrics[rule.metric]
    values = _means(metric, state.trials)[:, layer][..., seeds, blocks]
    values[~run] = np.nan
    values[~np.isfinite(values)] = np.nan
    images, clean = state.clean["images"], _means(metric, state.clean)
    parts = variance_parts(values, clean, images, seeds, blocks)
    costs, bounds = costs_of(runner, layer), (metric.low, metric.high)
    return blocks_per_seed(parts, costs, images, rule.half_width, bounds)


def _means(metric: Metric, sums: Mapping[str, np.ndarray]) -> np.ndarray:
    """A metric's mean over the images of each sum that count for it."""
    counted = sums["images"] - (sums["nonfinite"] if metric.finite else 0)
    return sums[metric.name] / np.where(counted > 0, counted, np.nan)


def _run_pilot_again(runner: Runner, progress: SweepProgress, layer: int) -> None:
    """Runs the pilot of a layer that was counted before, only to see what it takes here."""
    wanted = progress.wanted[:, :, :, :FEWEST].copy()
    wanted[~progress.random] = False
    wanted[:, np.arange(len(progress.spec.layers)) != layer] = False
    runner.run(State.empty(progress.spec, FEWEST), FEWEST, list(progress.plans), Alone(), wanted)


class Deadline:
    """A time after which nothing more is begun.

    Args:
        seconds: from now on; None for never.
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self._end is not None and time.monotonic() > self._end


class _TimeIsUp(Exception):
    pass


@dataclass(frozen=True)
class _Stopping:
    """Follows a run as another follower does, and stops it when the time is up."""

    follower: Follower
    deadline: Deadline

    def begins(self, pending: np.ndarray, done: int, total: int) -> np.ndarray:
        return self.follower.begins(pending, done, total)

    def added(self, done: int) -> int:
        shown = self.follower.added(done)
        if self.deadline.is_over:
            raise _TimeIsUp
        return shown

    def ends(self) -> Iterator[int]:
        return self.follower.ends()

    def joins(self) -> None:
        self.follower.joins()
