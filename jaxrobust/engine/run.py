"""The loop over groups of layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from jaxrobust.engine.clean import Clean, evaluate_clean
from jaxrobust.engine.group import Group
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
    spec = job.spec
    job.report("undamaged", 0, 0)
    clean = evaluate_clean(
        job.network, job.images, spec.block, metrics=job.metrics, memory=job.options.memory
    )
    state.clean.update(clean.sums)
    swept = Swept.of(spec, job.perturbations)
    for each in swept:
        if each.identity is not None:
            state.fill_identity(each.row, each.identity, each.seeds)

    swept = [each for each in swept if each.trials]
    total = sum(len(each.trials) for each in swept) * len(spec.layers) * spec.images
    done = 0
    for group in _groups(job, clean, swept):
        name, _ = spec.layers[group.number]
        job.report(name, done, total)
        names = [each.perturbation.name for each in group.swept]
        plans.append({"layers": name, "perturbations": names, **asdict(group.plan)})
        for step in group.steps():
            values = {quantity: np.asarray(value) for quantity, value in step.values.items()}
            for position, (column, seed) in enumerate(step.trials):
                own = {quantity: value[position] for quantity, value in values.items()}
                state.add((step.row, group.number, column, seed), step.first_block, own)
                done += int(own["images"].sum())
            job.report(name, done, total)


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
