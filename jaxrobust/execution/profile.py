"""What the trials of a work item cost, measured on a few of their steps."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, cast

import jax
import numpy as np

from jaxrobust.design.trials import TrialSet
from jaxrobust.execution.baseline.answers import Baseline
from jaxrobust.execution.baseline.forward import forward
from jaxrobust.execution.items import Task
from jaxrobust.execution.job import Job
from jaxrobust.execution.plan import images_per_step
from jaxrobust.execution.routes import operations_per_image, route_of
from jaxrobust.execution.steps.chain import Chains
from jaxrobust.execution.steps.chunks import is_linear
from jaxrobust.execution.steps.group import Group, Sums
from jaxrobust.execution.work import Target, Work
from jaxrobust.perturbations import damage, draw
from jaxrobust.runtime.load import Load

# Passes over one step's images, of a few steps each, until they have taken as long as is asked.
_MOST_PASSES = 8
_SECONDS_OF_UNDAMAGED = 0.5
# Where the prefix outweighs a step, so many steps that the difference can be seen.
_MOST_STEPS = 32
# A few steps stand for all of them: so much more or less besides the spread that is seen.
_MARGIN = 1.2


@dataclass(frozen=True)
class Spread:
    """Between which multiples of a time it may lie.

    Attributes:
        low: the fastest of what was timed, or as it would be if no other program ran.
        high: the slowest.
    """

    low: float = 1.0
    high: float = 1.0

    @staticmethod
    def of(seconds: Sequence[float], usual: float, load: Load) -> Spread:
        """Of a few times that something took, and what it usually takes."""
        fastest, slowest = min(seconds) / usual, max(seconds) / usual
        return Spread(min(fastest, load.share_if_alone) / _MARGIN, slowest * _MARGIN)


@dataclass(frozen=True)
class Undamaged:
    """What the undamaged network costs.

    Attributes:
        seconds: per image.
        spread: of these.
        operations: per image, in convolutions and matrix products.
    """

    seconds: float
    spread: Spread
    operations: float

    def shared(self, target: Target) -> float:
        """Seconds per image of what trials share, by its part of the operations."""
        if not self.operations:
            return self.seconds if target.options.hoist else 0.0
        return self.seconds * target.prefix_operations / self.operations


@dataclass(frozen=True)
class CostModel:
    """What the trials of one work item cost, in seconds.

    Attributes:
        shared: per image, of what the trials share.
        per_operation: (per trial-image in a network without any) of the trials themselves.
        draws: perturbation -> per seed.
        damage: perturbation -> per trial.
        compiling: until its programs have run for the first time.
        spread: of the passes that were timed.
    """

    shared: float
    per_operation: float
    draws: Mapping[str, float]
    damage: Mapping[str, float]
    compiling: float
    spread: Spread


def operations_of_trials(target: Target, trial_sets: Sequence[TrialSet]) -> float:
    """What the time of steps is proportional to, per image, within one target."""
    return target.trial_operations(trial_sets) or sum(len(each.trials) for each in trial_sets)


def profile_undamaged(job: Job, segmented: bool) -> Undamaged:
    """Runs the undamaged network a few times on a step's images."""
    spec, network = job.spec, job.network
    whole = route_of(
        network, (), spec.block, platform=job.machine.platform, precision=spec.precision
    )
    size = images_per_step(whole, spec.block, images=spec.images, machine=job.machine)
    index = job.images.batch(0, size, spec.block).index
    inputs = job.images.inputs(network, index, 1)
    logits_of, _ = forward(
        network,
        size,
        job.machine.devices[0],
        segmented=segmented,
        precision=spec.precision,
    )
    jax.block_until_ready(logits_of(inputs))
    took, load = [], Load(job.machine.is_cpu)
    while sum(took) < _SECONDS_OF_UNDAMAGED and len(took) < _MOST_PASSES:
        begun = perf_counter()
        jax.block_until_ready(logits_of(inputs))
        took.append(perf_counter() - begun)
    usual = statistics.median(took)
    operations = operations_per_image(network, spec.block, job.machine.platform)
    return Undamaged(usual / size, Spread.of(took, usual, load), operations)


def profile_item(
    job: Job, clean: Baseline, work: Work, undamaged: Undamaged, seconds: float
) -> CostModel:
    """Runs a few steps of a work item: see `Executor.profile`."""
    sample = _sample(work)
    target, plan = sample.target, sample.plan
    # A pass takes all sampled trials through one step's images, in programs of the same shapes.
    rounds = replace(plan, keep_residuals=False, steps_per_round=sample.trials)
    # More of them than are waited for, or the last would have less beside it than the others.
    passes = _MOST_PASSES + 1 + plan.steps_under_way
    in_a_pass = plan.images_per_step * plan.image_devices
    task = Task(sample.trial_sets, ((0, passes * in_a_pass),))
    item = replace(target.item, tasks=(task,))
    group = Group(job, clean, Chains(job), item, rounds.segmented, rounds)
    begun = perf_counter()
    with closing(cast("Generator[Sums, None, None]", group.steps([task]))) as steps:
        ends = _passes(steps, sample.trials)
        first = last = next(ends)
        took, load = [], Load(job.machine.is_cpu)
        while sum(took) < seconds and len(took) < _MOST_PASSES or len(took) < 2:
            before, last = last, next(ends)
            took.append(last - before)
        one_pass = statistics.fmean(took)
        spread = Spread.of(took, one_pass, load)
    # What the trials share is known from the undamaged network, the rest is the trials' own.
    shared = undamaged.shared(target)
    own = max(one_pass - shared * in_a_pass, one_pass / 10)
    making = {each.perturbation.name: _making_times(group, each) for each in sample.trial_sets}
    return CostModel(
        shared=shared,
        per_operation=own / in_a_pass / operations_of_trials(target, sample.trial_sets),
        draws={name: drawing for name, (drawing, _) in making.items()},
        damage={name: damaging for name, (_, damaging) in making.items()},
        compiling=max(first - begun - one_pass, 0.0),
        spread=spread,
    )


def _sample(work: Work) -> Work:
    """A few full steps of each perturbation; the plan is the same."""
    width, target = work.plan.trials_per_step, work.target
    one = operations_of_trials(target, _first(work, width))
    fit = max(target.machine.memory // 8 // (target.item.leaf_bytes * width), 1)
    steps = max(int(2 * target.prefix_operations / one), 1)
    steps = min(steps, max(fit // len(work.trial_sets), 1), _MOST_STEPS)
    return replace(work, trial_sets=_first(work, width * steps))


def _first(work: Work, trials: int) -> tuple[TrialSet, ...]:
    return tuple(replace(each, chosen=each.trials[:trials]) for each in work.trial_sets)


def _passes(steps: Iterator[Sums], trials: int) -> Iterator[float]:
    """When each pass of so many trials was over."""
    seen = 0
    for sums in steps:
        seen += sum(trial is not None for trial in sums.trials)
        if seen % trials == 0:
            yield perf_counter()


def _making_times(group: Group, each: TrialSet) -> tuple[float, float]:
    """Seconds to draw the noise of a seed, and to damage the leaves of a trial.

    Args:
        group: has been run, so that its programs are compiled.
        each: one of its perturbations.
    """
    perturbation, layers, plan = each.perturbation, group.item.layers, group.plan
    root, grid = group.job.spec.root, group.job.spec.grid
    seeds = np.arange(plan.seeds_per_draw * plan.trial_devices, dtype=np.uint32)
    noise, drawing = _timed(lambda: draw(perturbation, layers, root, seeds, group.mesh))
    drawing = drawing / len(seeds) if perturbation.draw else 0.0
    if group.kernel is not None and is_linear(perturbation, layers, group.kernel):
        return drawing, 0.0
    rows = np.zeros(plan.trials_per_step * plan.trial_devices, np.int32)
    strengths = [grid[each.columns[0]]] * len(rows)
    _, damaging = _timed(lambda: damage(perturbation, layers, noise, rows, strengths, group.mesh))
    return drawing, damaging / len(rows)


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What the second call gives, and its seconds; the first one may compile."""
    jax.block_until_ready(function())
    begun = perf_counter()
    return jax.block_until_ready(function()), perf_counter() - begun
