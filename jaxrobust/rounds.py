"""Sweeps that run until every cell is known to the precision that is asked for."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrobust.design.trials import TrialSet
from jaxrobust.execution.executor import Executor
from jaxrobust.execution.items import wanted_by, work_items
from jaxrobust.execution.profile import operations_of_trials
from jaxrobust.execution.run import run_trials
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.metrics import Metric
from jaxrobust.results.seed_sums import SeedSums
from jaxrobust.runtime.hosts import Processes
from jaxrobust.runtime.partition import Follower
from jaxrobust.sampling import (
    FEWEST,
    Costs,
    UntilHalfWidth,
    blocks_per_seed,
    next_seeds,
    pilot,
    variance_parts,
)
from jaxrobust.storage.progress import SweepProgress

# The choice of blocks needs no more than a rough idea of the costs.
_SECONDS_OF_PROFILE = 0.1


def run_to_precision(
    executor: Executor,
    progress: SweepProgress,
    rule: UntilHalfWidth,
    deadline: Deadline,
    follower: Follower,
    processes: Processes,
) -> None:
    """Adds seeds to the cells that need them, in rounds, until all are known well enough.

    Args:
        executor: of what to run, on what.
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
        if not _run_round(executor, progress, stopping, processes):
            return
        allocation = progress.the_allocation
        if allocation.unsettled:
            allocation.shown[:] = processes.decide(lambda: _settled(executor, progress, rule))
            continue
        seeds = np.asarray(processes.decide(lambda: _next_seeds(progress, rule)), np.int32)
        progress.finished = bool((seeds == allocation.seeds).all())
        if progress.finished or processes.decide(lambda: deadline.is_over):
            return
        try:
            _make_room(progress, int(seeds.max()), executor.job.machine.memory, processes)
        except SpecificationError as error:
            why = f"not all cells are known to ±{rule.half_width:g}: {error}"
            warnings.warn(why, stacklevel=3)
            return
        allocation.seeds = seeds


def _run_round(
    executor: Executor, progress: SweepProgress, follower: Follower, processes: Processes
) -> bool:
    """Runs what the allocation wants; whether that was done in time."""
    progress.state.settle()
    late = False
    try:
        run_trials(executor, progress.state, progress.plans, follower, progress.wanted)
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
    enough = found.met | unknowable | (seeds == 0)
    return np.where(enough, seeds, next_seeds(seeds)).tolist()


def _make_room(progress: SweepProgress, seeds: int, memory: int, processes: Processes) -> None:
    # Either all of them have room, or none grows.
    processes.each(lambda: progress.check_room(seeds, memory))
    progress.grow(seeds)


def _settled(executor: Executor, progress: SweepProgress, rule: UntilHalfWidth) -> list[int]:
    """How many blocks each seed is to see on each layer."""
    shown = progress.the_allocation.shown.copy()
    for layer in progress.the_allocation.unsettled:
        shown[layer] = _blocks_per_seed(executor, progress, layer, rule)
    return shown.tolist()


def _blocks_per_seed(
    executor: Executor, progress: SweepProgress, layer: int, rule: UntilHalfWidth
) -> int:
    """From the spread of the pilot's sums and from what its parts took."""
    spec, state = progress.spec, progress.state
    run = (progress.the_allocation.seeds[:, layer] > 0) & progress.random[:, None]
    if spec.blocks == 1 or not run.any():
        return spec.blocks
    seeds, blocks = pilot(spec.blocks, spec.root)
    metric = progress.metrics[rule.metric]
    values = _means(metric, state.trials)[:, layer][..., seeds, blocks]
    values[~run] = np.nan
    values[~np.isfinite(values)] = np.nan
    images, clean = state.clean["images"], _means(metric, state.clean)
    parts = variance_parts(values, clean, images, seeds, blocks)
    costs, bounds = costs_of(executor, layer), (metric.low, metric.high)
    return blocks_per_seed(parts, costs, images, rule.half_width, bounds)


def _means(metric: Metric, sums: Mapping[str, np.ndarray]) -> np.ndarray:
    """A metric's mean over the images of each sum that count for it."""
    counted = sums["images"] - (sums["nonfinite"] if metric.finite else 0)
    return sums[metric.name] / np.where(counted > 0, counted, np.nan)


def costs_of(executor: Executor, layer: int) -> Costs:
    """What a seed costs on a group of layers, measured.

    Args:
        executor: of the sweep.
        layer: the group's index.
    """
    job = executor.job
    making = np.zeros(len(job.spec.strengths))
    trials, shared, own = 0, 0.0, 0.0
    trial_sets = [
        each for each in TrialSet.of(job.spec, job.perturbations) if each.perturbation.draw
    ]
    # One block for each seed of that layer: as long a run of images as most trials will see.
    lacking = wanted_by(job.spec, trial_sets, FEWEST)
    lacking[..., 1:] = lacking[:, np.arange(lacking.shape[1]) != layer] = False
    complete = np.zeros(lacking.shape[:-1], bool)
    for item in work_items(job.network, job.spec, trial_sets, lacking, complete):
        work, model = executor.work_of(item), executor.profile(item, _SECONDS_OF_PROFILE)
        for each in item.trial_sets:
            name, columns = each.perturbation.name, len(each.columns)
            making[each.row] = model.draws[name] + model.damage[name] * columns
            operations = operations_of_trials(work.target, [each]) / len(each.trials)
            own += model.per_operation * operations * columns
            trials += columns
        if not work.plan.keep_residuals:
            shared += model.shared
    return Costs(making, shared, own / max(trials, 1))


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
