"""Counts the trials of a sweep: from work items to sums in a state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from jaxrobust.counts.state import State
from jaxrobust.design.trials import TrialSet
from jaxrobust.execution.executor import Executor, Plans
from jaxrobust.execution.items import wanted_by, work_items
from jaxrobust.runtime.partition import Follower


def run_trials(
    executor: Executor,
    state: State,
    plans: Plans,
    follower: Follower,
    wanted: np.ndarray | None = None,
) -> None:
    """Adds every step's sums to a state as they come.

    Args:
        executor: of the sweep.
        state: what was counted before, which is not counted again; it has room for the seeds that
            are run.
        plans: of what was run before, which are followed as long as device and options are the
            same; those of other items are added.
        follower: told how far it has come; says which trials are run here.
        wanted: the blocks that each trial is to see, bool [perturbation, layer, strength, seed,
            block]; all by default.
    """
    job = executor.job
    if not state.clean["images"].any():
        state.clean.update(executor.clean.sums)
    trial_sets = [
        replace(each, seeds=state.seeds if each.perturbation.draw else 1)
        for each in TrialSet.of(job.spec, job.perturbations)
    ]
    _fill_identity(state, trial_sets)
    exist = wanted_by(job.spec, trial_sets, state.seeds)
    wanted = exist if wanted is None else exist & wanted

    state.rewind(wanted)
    complete = state.complete(wanted)
    total = int((wanted * state.clean["images"]).sum())
    done = int((wanted * state.trials["images"]).sum())
    here = follower.begins(wanted.any(-1) & ~complete, done, total)
    lacking = wanted & ~state.carried & here[..., None]
    items = work_items(job.network, job.spec, trial_sets, lacking, complete)
    shown = done
    for item, plan, steps in executor.run(items, list(plans)):
        job.report(item.name, shown, total)
        entry: dict[str, Any] = {**executor.described(item), **asdict(plan)}
        if entry not in plans:
            plans.append(entry)
        for step in steps:
            for position, named in enumerate(step.trials):
                trial = named and (step.row, item.number, *named)
                if trial and not complete[trial]:
                    own = {key: values[position] for key, values in step.values.items()}
                    state.add(trial, step.first_block, own)
                    done += int(own["images"].sum())
            shown = follower.added(done)
            job.report(item.name, shown, total)
    for shown in follower.ends():
        job.report("other processes", shown, total)


def _fill_identity(state: State, trial_sets: Sequence[TrialSet]) -> None:
    for each in trial_sets:
        if each.identity is not None:
            state.fill_identity(each.row, each.identity, each.seeds)
