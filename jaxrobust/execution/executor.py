"""The one way to the devices: what runs work items, and says what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from functools import cached_property
from itertools import chain
from typing import Any

from jaxrobust.design.trials import TrialSet
from jaxrobust.execution.baseline.answers import run_baseline
from jaxrobust.execution.items import WorkItem
from jaxrobust.execution.job import Job
from jaxrobust.execution.plan import BatchPlan, is_segmented
from jaxrobust.execution.profile import CostModel, Undamaged, profile_item, profile_undamaged
from jaxrobust.execution.steps.chain import Chains
from jaxrobust.execution.steps.group import Group, Sums
from jaxrobust.execution.work import Target, Work
from jaxrobust.runtime.allocator import give_back_freed_memory, keep_freed_memory
from jaxrobust.runtime.compiling import one_ahead
from jaxrobust.runtime.meshes import WHOLE, divided, mesh_of

Plans = list[dict[str, Any]]
"""For each work item what it was planned for, and how it was run."""


class Executor:
    """Runs the work items of a job on its machine, as often as it is asked to.

    Args:
        job: what to run, on what.

    Attributes:
        job: the same, its parameters on all devices.
        clean: the undamaged network's answers.
        segmented: whether the network is run in segments.
    """

    def __init__(self, job: Job) -> None:
        if job.machine.is_cpu:
            keep_freed_memory()
        spec = job.spec
        job.report("undamaged", 0, 0)
        trial_sets = TrialSet.of(spec, job.perturbations)
        trials = len(spec.layers) * sum(len(each.trials) for each in trial_sets)
        self.segmented = is_segmented(
            job.network, spec.block, trials * spec.images, machine=job.machine, options=job.options
        )
        self.clean = run_baseline(
            job.network,
            job.images,
            spec.block,
            job.machine,
            segmented=self.segmented,
            metrics=job.measured,
            keep=spec.keep,
            precision=spec.precision,
        )
        params = divided(job.network.params, mesh_of(job.machine.devices, 1), WHOLE)
        self.job = replace(job, network=job.network.with_params(params))
        self._chains = Chains(self.job)
        self._groups: dict[tuple[int, tuple[str, ...]], Group] = {}

    def run(
        self, items: Iterable[WorkItem], plans: Plans
    ) -> Iterator[tuple[WorkItem, BatchPlan, Iterator[Sums]]]:
        """Runs work items one after the other.

        Args:
            items: what to run.
            plans: of what was run before, which are followed where they fit.

        Yields:
            Each item, how it is run, and the sums of its steps as they come.
        """
        # Compiling an item's programs takes as long as hundreds of its steps: it begins early.
        return one_ahead(self._begun(items, plans))

    def described(self, item: WorkItem) -> dict[str, Any]:
        """What a plan of a work item is for: one with the same description can be followed."""
        return {
            "layers": item.name,
            "perturbations": [each.name for each in item.trials],
            "trials": list(item.trials.values()),
            "images": item.images,
            "seeds": item.seeds,
            "device": self.job.machine.kind,
            "devices": len(self.job.machine.devices),
            "options": asdict(self.job.options),
        }

    def work_of(self, item: WorkItem) -> Work:
        """What a work item computes, each trial on all images, and how it is or would be run."""
        job = self.job
        how = (job.options, job.machine, self.segmented)
        target = Target.of(job.network, job.spec, item, *how)
        work = Work.of(target, item.trial_sets, job.spec.images, item.images)
        group = self._groups.get((item.number, item.touched))
        return work if group is None else replace(work, plan=group.plan)

    def profile(self, item: WorkItem, seconds: float) -> CostModel:
        """Measures what the trials of a work item cost, on a few of its steps.

        Args:
            item: trials of this job.
            seconds: for how long, at least.
        """
        work, undamaged = self.work_of(item), self.undamaged
        return profile_item(self.job, self.clean, work, undamaged, seconds)

    @cached_property
    def undamaged(self) -> Undamaged:
        """What the undamaged network costs, measured when it is first asked for."""
        return profile_undamaged(self.job, self.segmented)

    def _begun(
        self, items: Iterable[WorkItem], plans: Sequence[dict[str, Any]]
    ) -> Iterator[tuple[WorkItem, BatchPlan, Iterator[Sums]]]:
        """The same, the first step of each item under way already."""
        for item in items:
            key = (item.number, item.touched)
            if key not in self._groups:
                if self.job.machine.is_cpu:
                    give_back_freed_memory()
                settled = _settled(plans, self.described(item))
                self._groups[key] = Group(
                    self.job, self.clean, self._chains, item, self.segmented, settled
                )
            group = self._groups[key]
            steps = group.steps(item.tasks)
            yield item, group.plan, chain([next(steps)], steps)


def _settled(plans: Sequence[dict[str, Any]], described: dict[str, Any]) -> BatchPlan | None:
    names = [field.name for field in fields(BatchPlan)]
    for each in plans:
        if all(each.get(name) == value for name, value in described.items()):
            return BatchPlan(**{name: each[name] for name in names})
    return None
