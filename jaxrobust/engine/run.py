"""The loop over groups of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain
from typing import Any

import jax
import numpy as np

from jaxrobust.engine.allocator import keep_freed_memory
from jaxrobust.engine.clean import Clean, evaluate_clean
from jaxrobust.engine.compiling import one_ahead
from jaxrobust.engine.group import Group, Sums
from jaxrobust.engine.job import Job, Swept
from jaxrobust.engine.plan import Plan
from jaxrobust.engine.spec import Specification
from jaxrobust.engine.state import State
from jaxrobust.layers import Layer

Plans = list[dict[str, Any]]
"""For each group of layers what it was planned for, and how it was run."""


def run(job: Job, state: State, plans: Plans, added: Callable[[int, int], None]) -> None:
    """Runs a sweep, adding every step's sums to its state as they come.

    Args:
        job: what to run, on what.
        state: what was counted before: its complete trials are not run again, others from where
            they were carried over.
        plans: of what was run before, which are followed as long as device and options are the
            same; those of other groups are added.
        added: called after every step with the trial-images that are done, and all of them.
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
    if not state.clean["images"].any():
        state.clean.update(clean.sums)
    swept = Swept.of(spec, job.perturbations)
    for each in swept:
        if each.identity is not None:
            state.fill_identity(each.row, each.identity, each.seeds)

    state.rewind(spec)
    complete = state.complete(spec)
    swept = [each for each in swept if each.trials]
    total = sum(len(each.trials) for each in swept) * len(spec.layers) * spec.images
    seen = state.trials["images"].sum(-1)
    done = sum(int(seen[each.row][:, each.columns, : each.seeds].sum()) for each in swept)
    # Compiling a group's programs takes as long as hundreds of its steps: it begins early.
    parts = list(_parts(spec, swept, state.carried, complete))
    for group, described, steps in one_ahead(_begun(job, clean, parts, list(plans))):
        name, _ = spec.layers[group.number]
        job.report(name, done, total)
        entry = {**described, **asdict(group.plan)}
        if entry not in plans:
            plans.append(entry)
        for step in steps:
            for position, (column, seed) in enumerate(step.trials):
                trial = (step.row, group.number, column, seed)
                if not complete[trial]:
                    own = {quantity: value[position] for quantity, value in step.values.items()}
                    state.add(trial, step.first_block, own)
                    done += int(own["images"].sum())
            added(done, total)
            job.report(name, done, total)


@dataclass(frozen=True)
class _Part:
    """The trials on one group of layers that begin with the same image.

    Attributes:
        number: index of the group of layers.
        first_image: the first one that they have not seen.
        swept: the perturbations, without other trials.
    """

    number: int
    first_image: int
    swept: list[Swept]


def _parts(
    spec: Specification, swept: Sequence[Swept], carried: np.ndarray, complete: np.ndarray
) -> Iterator[_Part]:
    for number in range(len(spec.layers)):
        for first_image in np.unique(carried[:, number]).tolist():
            if first_image == spec.images:
                continue
            begin = carried[:, number] == first_image
            own = [each.part(begin[each.row], complete[each.row, number]) for each in swept]
            if not all(each.are_done(each.trials) for each in own):
                yield _Part(number, first_image, [each for each in own if each.trials])


def _begun(
    job: Job, clean: Clean, parts: Iterable[_Part], plans: Plans
) -> Iterator[tuple[Group, dict[str, Any], Iterator[Sums]]]:
    """Each group, what its plan is for, and its steps, the first ones under way already."""
    for part in parts:
        number, first_image = part.number, part.first_image
        layers = [job.network.layers[name] for name in job.spec.layers[number][1]]
        for touched, alike in by_leaves(layers, part.swept).items():
            if all(each.are_done(each.trials) for each in alike):
                continue
            described = {
                "layers": job.spec.layers[number][0],
                "perturbations": [each.perturbation.name for each in alike],
                "first_image": first_image,
                "device": jax.devices()[0].device_kind,
                "options": asdict(job.options),
            }
            plan = _settled(plans, described)
            group = Group(job, clean, number, layers, touched, alike, first_image, plan)
            steps = group.steps()
            yield group, described, chain([next(steps)], steps)


def _settled(plans: Plans, described: dict[str, Any]) -> Plan | None:
    names = [field.name for field in fields(Plan)]
    for each in plans:
        if all(each.get(name) == value for name, value in described.items()):
            return Plan(**{name: each[name] for name in names})
    return None


def by_leaves(
    layers: Sequence[Layer], swept: Sequence[Swept]
) -> dict[tuple[str, ...], list[Swept]]:
    """The perturbations by the leaves that they touch: those alike share compiled programs."""
    alike: dict[tuple[str, ...], list[Swept]] = {}
    for each in swept:
        paths = {leaf.path for layer in layers for leaf in each.perturbation.leaves(layer)}
        alike.setdefault(tuple(sorted(paths)), []).append(each)
    return alike
