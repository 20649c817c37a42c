"""What a sweep is run from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxrobust.data.progress import Report
from jaxrobust.design.options import Options
from jaxrobust.design.request import SweepRequest
from jaxrobust.design.specification import Specification
from jaxrobust.execution.images import Images
from jaxrobust.metrics import Metric, always
from jaxrobust.network import Network
from jaxrobust.perturbations import Perturbation
from jaxrobust.runtime.machine import Machine


@dataclass(frozen=True)
class Job:
    """Everything that a sweep is run from.

    Attributes:
        network, images: what is damaged and what it looks at.
        spec: what to run.
        perturbations: those that the specification names, in its order.
        metrics: beside those that are always counted, by name.
        options: how to run it.
        machine: what it runs on.
        report: called with what is being done, trial-images done and all of them.
    """

    network: Network
    images: Images
    spec: Specification
    perturbations: Sequence[Perturbation]
    metrics: Mapping[str, Metric]
    options: Options
    machine: Machine
    report: Report

    @property
    def measured(self) -> tuple[Metric, ...]:
        """All metrics."""
        return (*always(), *self.metrics.values())

    @staticmethod
    def of(request: SweepRequest, images: Images, machine: Machine) -> Job:
        """What was asked for, on decoded images."""
        return Job(
            request.network,
            images,
            request.spec,
            request.perturbations,
            request.metrics,
            request.options,
            machine,
            request.report,
        )
