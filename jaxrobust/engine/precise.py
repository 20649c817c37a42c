"""Sweeps that run until every cell's accuracy is known to the precision that is asked for."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxrobust.engine.costs import costs_of
from jaxrobust.engine.job import Job
from jaxrobust.engine.kept import Kept
from jaxrobust.engine.run import Runner
from jaxrobust.engine.share import Follower
from jaxrobust.errors import SpecificationError
from jaxrobust.precision import blocks_per_seed, next_seeds, pilot, variance_parts
from jaxrobust.results import accuracy


def run_to_precision(
    job: Job, kept: Kept, half_width: float, max_seconds: float | None, follower: Follower
) -> None:
    """Adds seeds to the cells that need them, in rounds, until all are known well enough.

    Args:
        job: what to run, on what.
        kept: what was counted before, which is not counted again; has a goal.
        half_width: of the 95 % interval of each cell's mean accuracy.
        max_seconds: trials that are not complete by then are left, those that are stay.
        follower: told how far it has come.

    Warns:
        UserWarning: the counts of the seeds that are needed do not fit into memory; what was
            counted stays.
    """
    runner = Runner(job)
    clock = _Deadline(follower, None if max_seconds is None else time.monotonic() + max_seconds)
    goal = kept.the_goal
    try:
        while not kept.finished:
            state = kept.state
            state.settle()
            wanted = goal.wanted(kept.spec, job.perturbations)
            runner.run(state, kept.spec.seeds, kept.plans, clock, wanted)
            if goal.unsettled:
                for layer in goal.unsettled:
                    goal.shown[layer] = _blocks_per_seed(runner, kept, layer, half_width)
                continue
            met = accuracy(kept.result)["met"].values
            kept.finished = bool(met.all())
            if not kept.finished:
                clock.check()
                seeds = np.where(met, goal.seeds, next_seeds(goal.seeds)).astype(np.int32)
                try:
                    kept.grow(int(seeds.max()), job.options.budget)
                except SpecificationError as error:
                    why = f"not all cells are known to ±{half_width:g}: {error}"
                    warnings.warn(why, stacklevel=3)
                    break
                goal.seeds = seeds
    except _TimeIsUp:
        kept.state.rewind(goal.wanted(kept.spec, job.perturbations))


def _blocks_per_seed(runner: Runner, kept: Kept, layer: int, half_width: float) -> int:
    """From the spread of the pilot's sums and from what its parts took."""
    spec, state = kept.spec, kept.state
    seeds, blocks = pilot(spec.blocks, spec.root)
    own = state.trials["top1"][:, layer][..., seeds, blocks].astype(float)
    drawn = np.zeros(own.shape[:2], bool)
    for each in runner.swept:
        if each.perturbation.draw is not None:
            drawn[each.row, each.columns] = True
    if not drawn.any():
        return spec.blocks
    own[~drawn] = np.nan
    images, clean = state.clean["images"], state.clean["top1"]
    parts = variance_parts(own, images, clean, seeds, blocks)
    return blocks_per_seed(parts, costs_of(runner, layer), images, half_width)


class _TimeIsUp(Exception):
    pass


@dataclass(frozen=True)
class _Deadline:
    """Follows a run as another follower does, and stops it when the time is up.

    Attributes:
        follower: the other one.
        end: of the monotonic clock; None for never.
    """

    follower: Follower
    end: float | None

    def begins(self, pending: np.ndarray, done: int, total: int) -> np.ndarray:
        return self.follower.begins(pending, done, total)

    def added(self, done: int) -> int:
        shown = self.follower.added(done)
        self.check()
        return shown

    def ends(self) -> Iterator[int]:
        return self.follower.ends()

    def check(self) -> None:
        """Raises _TimeIsUp if it is."""
        if self.end is not None and time.monotonic() > self.end:
            raise _TimeIsUp
