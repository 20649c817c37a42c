"""What trials take here, by what it is spent on: measured on trials that were run."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import jax
import numpy as np

from jaxrobust.design.trials import TrialSet
from jaxrobust.execution.chunks import is_linear
from jaxrobust.execution.group import Group
from jaxrobust.execution.run import Runner
from jaxrobust.perturbations import damage, draw
from jaxrobust.sampling import Costs

# What is left for the trials themselves, however much of the time was spent on making leaves.
_LEAST_SHARE = 0.1


def costs_of(runner: Runner, number: int) -> Costs:
    """What a seed costs on a group of layers.

    The time of its trials is known from the run; drawing and damaging are timed here, and what the
    trials share follows from its part of the operations.

    Args:
        runner: has run trials on this group of layers.
        number: the group's index.
    """
    spec = runner.job.spec
    making = np.zeros(len(spec.strengths))
    trials, shared, own = 0, 0.0, 0.0
    for group in runner.groups_of(number):
        for each in runner.trial_sets:
            perturbation = each.perturbation
            random = perturbation in group.perturbations and perturbation.draw is not None
            if not (random and each.columns):
                continue
            drawing, damaging = making_times(group, each)
            making[each.row] = drawing + damaging * len(each.columns)
            trials += len(each.columns)
            own += len(each.columns) * group.route.suffix_operations
        if not group.plan.keep_residuals:
            shared += group.route.prefix_operations
    per_image = runner.seconds_per_trial_image(number) * trials
    per_image = max(per_image - making.sum() / spec.block, per_image * _LEAST_SHARE)
    prefix = per_image * shared / (shared + own) if shared + own else 0.0
    return Costs(making, prefix, (per_image - prefix) / max(trials, 1))


def making_times(group: Group, each: TrialSet) -> tuple[float, float]:
    """Seconds to draw the noise of a seed, and to damage the leaves of a trial.

    Args:
        group: has been run, so that its programs are compiled.
        each: one of its perturbations.
    """
    perturbation, layers, plan = each.perturbation, group.layers, group.plan
    seeds = np.arange(plan.seeds_per_draw * plan.trial_devices, dtype=np.uint32)
    noise, took = _timed(lambda: draw(perturbation, layers, group.job.spec.root, seeds, group.mesh))
    if group.kernel is not None and is_linear(perturbation, layers, group.kernel):
        return took / len(seeds), 0.0
    rows = np.zeros(plan.trials_per_step * plan.trial_devices, np.int32)
    strengths = [group.job.spec.grid[each.columns[0]]] * len(rows)
    _, damaging = _timed(lambda: damage(perturbation, layers, noise, rows, strengths, group.mesh))
    return took / len(seeds), damaging / len(rows)


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What the second call gives, and its seconds; the first one may compile."""
    jax.block_until_ready(function())
    begun = perf_counter()
    return jax.block_until_ready(function()), perf_counter() - begun
