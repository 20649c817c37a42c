"""`plan`: what a sweep would cost, before it is launched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import jax

from jaxrobust.costing.accelerators import EFFICIENCY, Accelerator, find_accelerator
from jaxrobust.costing.cost_estimate import AcceleratorEstimate, Estimate, TargetEstimate
from jaxrobust.costing.timing import Timing, measure, seconds_of
from jaxrobust.counts.state import State
from jaxrobust.data.progress import Report, silent
from jaxrobust.design.options import Options
from jaxrobust.design.request import SweepRequest, resolve_request, sampling_rule
from jaxrobust.design.specification import DEFAULT_BLOCK, Grid, Keep, Specification
from jaxrobust.design.trials import TrialSet
from jaxrobust.execution.executor import Executor
from jaxrobust.execution.images import Images
from jaxrobust.execution.items import all_items
from jaxrobust.execution.job import Job
from jaxrobust.execution.work import Target, Work
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.layers import Selector
from jaxrobust.metrics import Wanted
from jaxrobust.network import Network
from jaxrobust.perturbations import Perturbation
from jaxrobust.program.rounding import PrecisionMode
from jaxrobust.runtime.compiling import keep_compiled_programs
from jaxrobust.runtime.machine import Machine

# Decoded for the timed steps, where they stand for all images.
_DECODED = 8


def plan(
    network: Network,
    images: Any,
    *,
    perturbations: Sequence[str | Perturbation] = (
        "synapse_knockout",
        "node_knockout",
        "weight_noise",
    ),
    layers: Selector = "all",
    strengths: Grid | Mapping[str, Grid] | None = None,
    seeds: int | None = None,
    root: int = 0,
    block: int = DEFAULT_BLOCK,
    metrics: Wanted = None,
    precision_mode: PrecisionMode = "float32",
    keep: Keep = "counts",
    accelerator: str | None = None,
    devices: int = 1,
    efficiency: float = EFFICIENCY,
    timing_seconds: float = 15.0,
    options: Options | None = None,
    report: Report = silent,
) -> Estimate:
    """Says what a sweep would cost, from its specification and a few timed steps.

    No trial is finished, no count is kept and nothing is written but compiled programs to the
    cache, where the sweep finds them.

    Args:
        network, images, perturbations, layers, strengths, seeds, root, block, metrics,
            precision_mode, keep, options, report: as for `sweep`.
        accelerator: also estimate the time on such devices, by their stated peak: a name of
            `jaxrobust.costing.accelerators.ACCELERATORS`.
        devices: how many of them.
        efficiency: the share of the stated peak that is assumed.
        timing_seconds: when they are over, layers that were not timed yet are estimated by their
            operations, and named.

    Raises:
        SpecificationError: anything that `sweep` would refuse before its first trial; an unknown
            accelerator.

    Warns:
        UserWarning: as for `sweep`.
    """
    keep_compiled_programs()
    there = None
    if accelerator is not None:
        there = find_accelerator(accelerator, devices, efficiency)
    if not timing_seconds >= 0:
        raise SpecificationError(f"timing_seconds {timing_seconds}: 0 or more are needed")
    request = resolve_request(
        network,
        images,
        perturbations=perturbations,
        layers=layers,
        strengths=strengths,
        sampling=sampling_rule(seeds=seeds),
        root=root,
        block=block,
        metrics=metrics,
        precision_mode=precision_mode,
        keep=keep,
        options=options,
        report=report,
    )
    spec = request.spec
    machine = Machine.of(request.options.devices, request.options.memory)
    State.check_size(spec, spec.sampling.first_seeds, machine.memory)
    few, decoding = _decode(request)
    executor = Executor(Job.of(request, few, machine))
    items = all_items(network, spec, TrialSet.of(spec, request.perturbations))
    work = [executor.work_of(item) for item in items]
    timing = measure(executor, work, timing_seconds)
    trials = sum(each.trials for each in work)
    found = [
        TargetEstimate(
            layers=each.target.item.name,
            trials=each.trials,
            operations=each.operations,
            seconds=seconds_of(each, model),
            timed=timed,
            trials_per_step=each.plan.trials_per_step,
            images_per_step=each.plan.images_per_step,
            memory=each.bytes,
        )
        for each, model, timed in zip(work, timing.models, timing.timed, strict=True)
    ]
    return Estimate(
        trials=trials,
        trial_images=trials * spec.images,
        operations=_operations(work, timing, spec.images),
        operations_without_hoisting=timing.undamaged.operations * trials * spec.images,
        parameters=sum(leaf.nbytes for leaf in jax.tree.leaves(network.params)),
        sums=State.size_in_bytes(spec, spec.sampling.first_seeds),
        seconds=timing.seconds(work, spec.images),
        fastest=timing.at("low", work, spec.images),
        slowest=timing.at("high", work, spec.images),
        compiling=sum(model.compiling for model in timing.models),
        decoding=decoding * spec.images,
        device=machine.kind,
        precision=spec.precision,
        targets=tuple(found),
        doubled=_doubled(work, timing, spec.images),
        accelerator=there
        and _on(
            there,
            devices,
            efficiency,
            spec,
            [_in_segments(network, spec, each) for each in work],
            timing,
        ),
    )


def _in_segments(network: Network, spec: Specification, work: Work) -> Work:
    """The same in segments, as accelerators always run it."""
    here = work.target
    target = Target.of(network, spec, here.item, here.options, here.machine, True)
    return Work.of(target, work.trial_sets, work.images)


def _decode(request: SweepRequest) -> tuple[Images, float]:
    """A few images, and the seconds that one of them took, past the cache."""
    count = min(_DECODED, len(request.source))
    crop = request.network.preprocessing.crop
    request.source.decode(0, 1, crop)  # what the first needs besides is not counted
    begun = perf_counter()
    pixels, labels = request.source.decode(0, count, crop)
    return Images(pixels, labels), (perf_counter() - begun) / count


def _operations(work: Sequence[Work], timing: Timing, images: int) -> float:
    return timing.undamaged.operations * images + sum(each.operations for each in work)


def _doubled(work: Sequence[Work], timing: Timing, images: int) -> dict[str, tuple[float, float]]:
    """The factors of operations and seconds, each specification planned anew."""

    def seeds(each: TrialSet) -> TrialSet:
        return replace(each, seeds=2 * each.seeds) if each.perturbation.draw else each

    def strengths(each: TrialSet) -> TrialSet:
        return replace(each, columns=[*each.columns, *each.columns])

    def changed(change: Callable[[TrialSet], TrialSet], factor: int = 1) -> list[Work]:
        return [
            Work.of(
                each.target, [change(trial_sets) for trial_sets in each.trial_sets], factor * images
            )
            for each in work
        ]

    def same(each: TrialSet) -> TrialSet:
        return each

    twice = {
        "seeds": (changed(seeds), images, 1),
        "images": (changed(same, 2), 2 * images, 1),
        "strengths": (changed(strengths), images, 1),
        "layers": (list(work), images, 2),
    }
    operations, seconds = _operations(work, timing, images), timing.seconds(work, images)
    undamaged = timing.undamaged.operations * images, timing.undamaged.seconds * images
    factors = {}
    for name, (planned, count, times) in twice.items():
        more = _operations(planned, timing, count) * times - undamaged[0] * (times - 1)
        longer = timing.seconds(planned, count) * times - undamaged[1] * (times - 1)
        factors[name] = (more / operations if operations else 1.0, longer / seconds)
    return factors


def _on(
    accelerator: Accelerator,
    devices: int,
    efficiency: float,
    spec: Specification,
    work: Sequence[Work],
    timing: Timing,
) -> AcceleratorEstimate:
    total = 0.0
    for each in work:
        fits = each.target.kept_bytes(each.images) <= accelerator.memory / 4
        passes = 1 if fits else each.passes
        per_device = [_share(trial_sets, devices) for trial_sets in each.trial_sets]
        own = sum(
            each.target.trial_operations([trial_sets]) * share
            for trial_sets, share in zip(each.trial_sets, per_device, strict=True)
        )
        total += each.images * (passes * each.target.prefix_operations + own)
    peak = accelerator.peaks[spec.precision]
    seconds = (total + timing.undamaged.operations * spec.images) / (peak * efficiency)
    return AcceleratorEstimate(accelerator.label, devices, peak, efficiency, seconds)


def _share(trial_sets: TrialSet, devices: int) -> float:
    """The part of a perturbation's trials that the busiest device runs.

    Images are divided only where there are fewer trials than devices.
    """
    trials = len(trial_sets.trials)
    return -(-trials // devices) / trials / max(devices // trials, 1)
