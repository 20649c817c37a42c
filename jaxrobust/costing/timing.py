"""How long a sweep takes here: measured on a few of its steps."""

from __future__ import annotations

import statistics
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Literal, cast

import jax

from jaxrobust.costing.costs import making_times
from jaxrobust.costing.work import Target, Work
from jaxrobust.design.trials import TrialSet
from jaxrobust.execution.baseline.answers import Baseline
from jaxrobust.execution.baseline.forward import forward
from jaxrobust.execution.chain import Chains
from jaxrobust.execution.group import Group, Sums, Task
from jaxrobust.execution.job import Job
from jaxrobust.execution.plan import images_per_step, noise_bytes
from jaxrobust.execution.routes import operations_per_image, route_of
from jaxrobust.runtime.load import Load

# Passes over one step's images, of a few steps each, until they have taken this long.
_SECONDS_PER_TARGET = 0.5
_MOST_PASSES = 8
# Where the prefix outweighs a step, so many steps that the difference can be seen.
_MOST_STEPS = 32

# A few steps stand for all of them: so much more or less besides the spread that is seen.
_MARGIN = 1.2

# Drawing and damaging takes about as long, roughly; it only decides what is timed first.
_OPERATIONS_PER_BYTE = 16


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
class Rates:
    """What one target takes here, in seconds.

    Attributes:
        per_operation: (per trial-image in a network without any) of the trials.
        damage: per trial and byte of its leaves.
        draws: perturbation -> per seed and byte of noise.
        compiling: until its programs have run for the first time.
        spread: of the passes that were timed.
    """

    per_operation: float
    damage: float
    draws: Mapping[str, float]
    compiling: float
    spread: Spread


@dataclass(frozen=True)
class Timing:
    """What a sweep takes here.

    Attributes:
        undamaged: seconds per image of the undamaged network.
        spread: of these.
        whole: its operations per image.
        rates: of each target, in the order of the sweep.
        timed: whether it was measured; the others have the means of those that were.
    """

    undamaged: float
    spread: Spread
    whole: float
    rates: tuple[Rates, ...]
    timed: tuple[bool, ...]

    def seconds(self, work: Sequence[Work], images: int) -> float:
        """Of the undamaged network and of all trials; compilation not counted.

        Args:
            work: the trials, of the same targets and in the same order.
            images: that the undamaged network looks at.
        """
        return self.undamaged * images + sum(map(self.of_one, work, self.rates))

    def at(self, end: Literal["low", "high"], work: Sequence[Work], images: int) -> float:
        """The least or the most that `seconds` may be, by the spread of what was timed."""
        own = self.undamaged * images * getattr(self.spread, end)
        for each, rates in zip(work, self.rates, strict=True):
            own += self.of_one(each, rates) * getattr(rates.spread, end)
        return own

    def of_one(self, work: Work, rates: Rates) -> float:
        """Seconds that the trials of one target take."""
        target = work.target
        own = rates.per_operation * operations_of_trials(work)
        per_image = work.passes * self.shared(target) + own
        draws = sum(
            work.drawn(each) * noise_bytes(each.perturbation, target.layers) * per_byte
            for each in work.trial_sets
            if (per_byte := rates.draws.get(each.perturbation.name))
        )
        return work.images * per_image + draws + rates.damage * work.trials * target.leaf_bytes

    def shared(self, target: Target) -> float:
        """Seconds per image of what the trials share, by its part of the undamaged network."""
        if not self.whole:
            return self.undamaged if target.options.hoist else 0.0
        return self.undamaged * target.prefix_operations / self.whole


def operations_of_trials(work: Work) -> float:
    """What the time of the steps is proportional to, per image, within one target."""
    return work.target.trial_operations(work.trial_sets) or work.trials


def measure(job: Job, clean: Baseline, work: Sequence[Work], seconds: float) -> Timing:
    """Runs a few steps of each target with the engine itself.

    Args:
        job: the sweep, with a few of its images; they stand for all others.
        clean: the undamaged network's answers to them.
        work: every target with its trials.
        seconds: when they are over, no other target is begun; at least one is measured.
    """
    started = perf_counter()
    whole = operations_per_image(job.network, job.spec.block, job.machine.platform)
    segmented = any(each.target.segmented for each in work)
    timing = Timing(*_undamaged(job, segmented), whole, (), ())
    found: dict[int, Rates] = {}
    for number in _most_first(work):
        if found and perf_counter() - started > seconds:
            break
        job.report(f"timing {work[number].target.name}", 0, 0)
        found[number] = _rates(job, clean, work[number], timing)
    others = _mean([work[number] for number in found], list(found.values())) if found else None
    rates = tuple(found.get(number) or cast(Rates, others) for number in range(len(work)))
    return replace(timing, rates=rates, timed=tuple(n in found for n in range(len(work))))


def _undamaged(job: Job, segmented: bool) -> tuple[float, Spread]:
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
    while sum(took) < _SECONDS_PER_TARGET and len(took) < _MOST_PASSES:
        begun = perf_counter()
        jax.block_until_ready(logits_of(inputs))
        took.append(perf_counter() - begun)
    usual = statistics.median(took)
    return usual / size, Spread.of(took, usual, load)


def _most_first(work: Sequence[Work]) -> list[int]:
    """Those first that will take longest, as far as can be said before."""

    def cost(number: int) -> float:
        each = work[number]
        made = each.trials * each.target.leaf_bytes
        return each.operations() + _OPERATIONS_PER_BYTE * made

    return sorted(range(len(work)), key=cost, reverse=True)


def _rates(job: Job, clean: Baseline, work: Work, timing: Timing) -> Rates:
    sample = _sample(work)
    target, plan = sample.target, sample.plan
    # A pass takes all sampled trials through one step's images, in programs of the same shapes.
    rounds = replace(plan, keep_residuals=False, steps_per_round=sample.trials)
    # More of them than are waited for, or the last would have less beside it than the others.
    passes = _MOST_PASSES + 1 + plan.steps_under_way
    in_a_pass = plan.images_per_step * plan.image_devices
    images = passes * in_a_pass
    group = Group(
        job,
        clean,
        Chains(job),
        target.number,
        target.layers,
        target.touched,
        [(each.perturbation, len(each.trials)) for each in sample.trial_sets],
        images,
        job.spec.sampling.first_seeds,
        rounds.segmented,
        rounds,
    )
    task = Task(list(sample.trial_sets), ((0, images),))
    begun = perf_counter()
    with closing(cast("Generator[Sums, None, None]", group.steps([task]))) as steps:
        ends = _passes(steps, sample.trials)
        first = last = next(ends)
        took, load = [], Load(job.machine.is_cpu)
        while sum(took) < _SECONDS_PER_TARGET and len(took) < _MOST_PASSES or len(took) < 2:
            before, last = last, next(ends)
            took.append(last - before)
        one_pass = statistics.fmean(took)
        spread = Spread.of(took, one_pass, load)
    # What the trials share is known from the undamaged network, the rest is the trials' own.
    own = max(one_pass - timing.shared(target) * in_a_pass, one_pass / 10)
    draws, damaging = _making(group, sample)
    return Rates(
        per_operation=own / in_a_pass / operations_of_trials(sample),
        damage=damaging,
        draws=draws,
        compiling=max(first - begun - one_pass, 0.0),
        spread=spread,
    )


def _making(group: Group, sample: Work) -> tuple[dict[str, float], float]:
    """Seconds per byte to draw noise, by perturbation, and to damage leaves, of all trials."""
    target = sample.target
    draws, damaging = {}, 0.0
    for each in sample.trial_sets:
        drawing, one_trial = making_times(group, each)
        if size := noise_bytes(each.perturbation, target.layers):
            draws[each.perturbation.name] = drawing / size
        damaging += one_trial * len(each.trials)
    return draws, damaging / (sample.trials * target.leaf_bytes)


def _sample(work: Work) -> Work:
    """A few full steps of each perturbation; the plan is the same."""
    width = work.plan.trials_per_step
    one = operations_of_trials(replace(work, trial_sets=_first(work, width)))
    shared = work.target.prefix_operations
    fit = max(work.target.machine.memory // 8 // (work.target.leaf_bytes * width), 1)
    steps = min(max(int(2 * shared / one), 1), max(fit // len(work.trial_sets), 1), _MOST_STEPS)
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


def _mean(work: Sequence[Work], rates: Sequence[Rates]) -> Rates:
    """The rates of some targets taken together."""

    def mean(values: Sequence[float], weights: Sequence[float]) -> float:
        total = sum(weights)
        return sum(v * w for v, w in zip(values, weights, strict=True)) / total if total else 0.0

    draws = {}
    for name in {name for each in rates for name in each.draws}:
        having = [(w, r) for w, r in zip(work, rates, strict=True) if name in r.draws]
        sizes = [float(w.target.leaf_bytes) for w, _ in having]
        draws[name] = mean([r.draws[name] for _, r in having], sizes)
    operations = [each.images * operations_of_trials(each) for each in work]
    per_operation = mean([each.per_operation for each in rates], operations)
    return Rates(
        per_operation=per_operation,
        damage=mean(
            [each.damage for each in rates],
            [float(each.trials * each.target.leaf_bytes) for each in work],
        ),
        draws=draws,
        compiling=statistics.fmean(each.compiling for each in rates),
        spread=_spread_of_others(rates, per_operation),
    )


def _spread_of_others(rates: Sequence[Rates], usual: float) -> Spread:
    """Of a target that was not timed: it may be as fast or as slow as any that was."""
    operations = [each.per_operation / usual for each in rates]
    lows = [each * rate.spread.low for each, rate in zip(operations, rates, strict=True)]
    highs = [each * rate.spread.high for each, rate in zip(operations, rates, strict=True)]
    return Spread(min(lows), max(highs))
