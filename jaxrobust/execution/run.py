"""The loop over groups of layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from itertools import chain
from time import perf_counter
from typing import Any

import numpy as np

from jaxrobust.counts.state import State
from jaxrobust.design.specification import Specification
from jaxrobust.design.trials import TrialSet
from jaxrobust.execution.baseline.answers import run_baseline
from jaxrobust.execution.chain import Chains
from jaxrobust.execution.group import Group, Sums, Task
from jaxrobust.execution.job import Job
from jaxrobust.execution.plan import BatchPlan, is_segmented
from jaxrobust.layers import Layer
from jaxrobust.perturbations import Perturbation
from jaxrobust.runtime.allocator import give_back_freed_memory, keep_freed_memory
from jaxrobust.runtime.compiling import one_ahead
from jaxrobust.runtime.meshes import WHOLE, divided, mesh_of
from jaxrobust.runtime.partition import Follower

Plans = list[dict[str, Any]]
"""For each group of layers what it was planned for, and how it was run."""


class Runner:
    """Runs trials of a job, as often as it is asked to.

    Args:
        job: what to run, on what.

    Attributes:
        job: the same, its parameters on all devices.
        clean: the undamaged network's answers.
        trial_sets: every perturbation with its trials.
    """

    def __init__(self, job: Job) -> None:
        if job.machine.is_cpu:
            keep_freed_memory()
        spec = job.spec
        job.report("undamaged", 0, 0)
        self.trial_sets = TrialSet.of(spec, job.perturbations)
        trials = len(spec.layers) * sum(len(each.trials) for each in self.trial_sets)
        self._segmented = is_segmented(
            job.network, spec.block, trials * spec.images, machine=job.machine, options=job.options
        )
        self.clean = run_baseline(
            job.network,
            job.images,
            spec.block,
            job.machine,
            segmented=self._segmented,
            metrics=job.measured,
            keep=spec.keep,
            precision=spec.precision,
        )
        params = divided(job.network.params, mesh_of(job.machine.devices, 1), WHOLE)
        self.job = replace(job, network=job.network.with_params(params))
        self._chains = Chains(self.job)
        self._groups: dict[tuple[int, tuple[str, ...]], Group] = {}
        # By group of layers: seconds and trial-images, from the first step's end on.
        self._took: dict[int, tuple[float, int]] = {}

    def groups_of(self, number: int) -> list[Group]:
        """What has been run on a group of layers."""
        return [group for (layers, _), group in self._groups.items() if layers == number]

    def seconds_per_trial_image(self, number: int) -> float:
        """On a group of layers so far, 0 where too little was run to tell."""
        seconds, images = self._took.get(number, (0.0, 0))
        return seconds / images if images else 0.0

    def run(
        self,
        state: State,
        seeds: int,
        plans: Plans,
        follower: Follower,
        wanted: np.ndarray | None = None,
    ) -> None:
        """Adds every step's sums to a state as they come.

        Args:
            state: what was counted before, which is not counted again.
            seeds: how many the state has room for.
            plans: of what was run before, which are followed as long as device and options are
                the same; those of other groups are added.
            follower: told how far it has come; says which trials are run here.
            wanted: the blocks that each trial is to see, bool [perturbation, layer, strength,
                seed, block]; all by default.
        """
        job = self.job
        if not state.clean["images"].any():
            state.clean.update(self.clean.sums)
        trial_sets = [
            replace(each, seeds=seeds if each.perturbation.draw else 1) for each in self.trial_sets
        ]
        exist = np.zeros_like(state.carried)
        for each in trial_sets:
            if each.identity is not None:
                state.fill_identity(each.row, each.identity, each.seeds)
            exist[each.row][:, each.columns, : each.seeds] = True
        wanted = exist if wanted is None else exist & wanted

        state.rewind(wanted)
        complete = state.complete(wanted)
        total = int((wanted * state.clean["images"]).sum())
        done = int((wanted * state.trials["images"]).sum())
        here = follower.begins(wanted.any(-1) & ~complete, done, total)
        lacking = wanted & ~state.carried & here[..., None]
        tasks = list(_tasks(job.spec, trial_sets, lacking, complete))
        shown = done
        # Compiling a group's programs takes as long as hundreds of its steps: it begins early.
        for group, described, steps in one_ahead(self._begun(tasks, list(plans))):
            name, _ = job.spec.layers[group.number]
            job.report(name, shown, total)
            entry = {**described, **asdict(group.plan)}
            if entry not in plans:
                plans.append(entry)
            begun, before = None, 0
            for step in steps:
                for position, named in enumerate(step.trials):
                    trial = named and (step.row, group.number, *named)
                    if trial and not complete[trial]:
                        own = {key: values[position] for key, values in step.values.items()}
                        state.add(trial, step.first_block, own)
                        done += int(own["images"].sum())
                if begun is None:
                    begun, before = perf_counter(), done
                shown = follower.added(done)
                job.report(name, shown, total)
            if begun is not None:
                seconds, images = self._took.get(group.number, (0.0, 0))
                took = perf_counter() - begun
                self._took[group.number] = seconds + took, images + done - before
        for shown in follower.ends():
            job.report("other processes", shown, total)

    def _begun(
        self, tasks: Iterable[tuple[int, list[Task]]], plans: Plans
    ) -> Iterator[tuple[Group, dict[str, Any], Iterator[Sums]]]:
        """Each group, what its plan is for, and its steps, the first ones under way already."""
        for number, on_layers in tasks:
            name, members = self.job.spec.layers[number]
            layers = [self.job.network.layers[each] for each in members]
            for touched, alike in _tasks_by_leaves(layers, on_layers).items():
                if all(_are_done(task.trial_sets) for task in alike):
                    continue
                trials: dict[Perturbation, int] = {}
                seeds = 1
                for each in chain.from_iterable(task.trial_sets for task in alike):
                    before = trials.get(each.perturbation, 0)
                    trials[each.perturbation] = max(before, len(each.trials))
                    seeds = max(seeds, len({seed for _, seed in each.trials}))
                images = _usual_run(alike)
                described = {
                    "layers": name,
                    "perturbations": [each.name for each in trials],
                    "trials": list(trials.values()),
                    "images": images,
                    "seeds": seeds,
                    "device": self.job.machine.kind,
                    "devices": len(self.job.machine.devices),
                    "options": asdict(self.job.options),
                }
                group = self._groups.get((number, touched))
                if group is None:
                    if self.job.machine.is_cpu:
                        give_back_freed_memory()
                    group = self._groups[number, touched] = Group(
                        self.job,
                        self.clean,
                        self._chains,
                        number,
                        layers,
                        touched,
                        list(trials.items()),
                        images,
                        seeds,
                        self._segmented,
                        _settled(plans, described),
                    )
                steps = group.steps(alike)
                yield group, described, chain([next(steps)], steps)


def _tasks(
    spec: Specification, trial_sets: Sequence[TrialSet], lacking: np.ndarray, complete: np.ndarray
) -> Iterator[tuple[int, list[Task]]]:
    """For each group of layers its trials by the blocks that they have not seen.

    Those of the first seeds come first: if a sweep to a precision is stopped, the seeds that were
    run have seen images from everywhere.
    """
    for number in range(len(spec.layers)):
        on_layer = lacking[:, number]
        by_seed = np.moveaxis(on_layer, 2, 0)
        sets, first, which = np.unique(
            by_seed.reshape(-1, spec.blocks), axis=0, return_index=True, return_inverse=True
        )
        which = np.moveaxis(which.reshape(by_seed.shape[:-1]), 0, 2)
        on_layers = []
        for index in np.argsort(first):
            blocks = sets[index]
            if not blocks.any():
                continue
            those = which == index
            own = [each.part(those[each.row], complete[each.row, number]) for each in trial_sets]
            own = [each for each in own if each.trials]
            if not _are_done(own):
                on_layers.append(Task(own, _runs(spec, np.flatnonzero(blocks))))
        if on_layers:
            yield number, on_layers


def _are_done(trial_sets: Iterable[TrialSet]) -> bool:
    return all(each.are_done(each.trials) for each in trial_sets)


def _runs(spec: Specification, blocks: np.ndarray) -> tuple[tuple[int, int], ...]:
    """The images of some blocks: all from a first one on, or block by block.

    Trials that see different blocks share what the undamaged network makes of each block.
    """
    first = int(blocks[0])
    if len(blocks) == spec.blocks - first:
        return ((first * spec.block, spec.images),)
    return tuple((b * spec.block, min((b + 1) * spec.block, spec.images)) for b in blocks.tolist())


def _usual_run(tasks: Iterable[Task]) -> int:
    """The length of the runs of images that most trials look at: steps are padded to it."""
    trials: Counter[int] = Counter()
    for task in tasks:
        first, stop = task.runs[0]
        trials[stop - first] += sum(len(each.trials) for each in task.trial_sets)
    return max(trials, key=lambda length: (trials[length], length))


def _settled(plans: Plans, described: dict[str, Any]) -> BatchPlan | None:
    names = [field.name for field in fields(BatchPlan)]
    for each in plans:
        if all(each.get(name) == value for name, value in described.items()):
            return BatchPlan(**{name: each[name] for name in names})
    return None


def _tasks_by_leaves(
    layers: Sequence[Layer], tasks: Sequence[Task]
) -> dict[tuple[str, ...], list[Task]]:
    alike: dict[tuple[str, ...], list[Task]] = {}
    for task in tasks:
        for touched, trial_sets in by_leaves(layers, task.trial_sets).items():
            alike.setdefault(touched, []).append(replace(task, trial_sets=trial_sets))
    return alike


def by_leaves(
    layers: Sequence[Layer], trial_sets: Sequence[TrialSet]
) -> dict[tuple[str, ...], list[TrialSet]]:
    """The perturbations by the leaves that they touch: those alike share compiled programs."""
    alike: dict[tuple[str, ...], list[TrialSet]] = {}
    for each in trial_sets:
        alike.setdefault(each.perturbation.touched(layers), []).append(each)
    return alike
