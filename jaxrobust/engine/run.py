"""The loop over groups of layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

from jaxrobust.engine.allocator import keep_freed_memory
from jaxrobust.engine.clean import Clean, evaluate_clean
from jaxrobust.engine.compiling import one_ahead
from jaxrobust.engine.group import Group, Sums
from jaxrobust.engine.job import Job, Swept
from jaxrobust.engine.state import State
from jaxrobust.layers import Layer


def run(job: Job, state: State, plans: list[dict[str, Any]]) -> None:
    """Runs a sweep, adding every step's sums to its state as they come.

    Args:
        job: what to run, on what.
        state: empty at first; after an interruption it holds what was done.
        plans: filled with the plan of each group of layers.
    """
    keep_freed_memory()
    spec = job.spec
    job.report("undamaged", 0, 0)
    clean = evaluate_clean(
        job.network,
        job.images,
        spec.block,
        metrics=job.metrics,
        precision=spec.precision,
        memory=job.options.memory,
    )
    state.clean.update(clean.sums)
    swept = Swept.of(spec, job.perturbations)
    for each in swept:
        if each.identity is not None:
            state.fill_identity(each.row, each.identity, each.seeds)

    swept = [each for each in swept if each.trials]
    total = sum(len(each.trials) for each in swept) * len(spec.layers) * spec.images
    done = 0
    # Compiling a group's programs takes as long as hundreds of its steps: it begins early.
    for group, steps in one_ahead(_begun(_groups(job, clean, swept))):
        name, _ = spec.layers[group.number]
        job.report(name, done, total)
        names = [each.perturbation.name for each in group.swept]
        plans.append({"layers": name, "perturbations": names, **asdict(group.plan)})
        for step in steps:
            for position, (column, seed) in enumerate(step.trials):
                own = {quantity: value[position] for quantity, value in step.values.items()}
                state.add((step.row, group.number, column, seed), step.first_block, own)
                done += int(own["images"].sum())
            job.report(name, done, total)


def _begun(groups: Iterable[Group]) -> Iterator[tuple[Group, Iterator[Sums]]]:
    """Each group and its steps, the first ones under way already."""
    for group in groups:
        steps = group.steps()
        yield group, chain([next(steps)], steps)


def _groups(job: Job, clean: Clean, swept: Sequence[Swept]) -> Iterator[Group]:
    for number, (_, members) in enumerate(job.spec.layers):
        layers = [job.network.layers[name] for name in members]
        for touched, alike in _by_leaves(layers, swept).items():
            yield Group(job, clean, number, layers, touched, alike)


def _by_leaves(
    layers: Sequence[Layer], swept: Sequence[Swept]
) -> dict[tuple[str, ...], list[Swept]]:
    """The perturbations by the leaves that they touch: those alike share compiled programs."""
    alike: dict[tuple[str, ...], list[Swept]] = {}
    for each in swept:
        paths = {leaf.path for layer in layers for leaf in each.perturbation.leaves(layer)}
        alike.setdefault(tuple(sorted(paths)), []).append(each)
    return alike
