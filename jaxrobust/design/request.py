"""What was asked for, checked before any long work starts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrobust.data import images as source_of
from jaxrobust.data.progress import Report
from jaxrobust.data.source import ImageSource
from jaxrobust.design.code import SweepCode
from jaxrobust.design.options import Options
from jaxrobust.design.specification import (
    Grid,
    Keep,
    Specification,
    resolve_perturbations,
    resolve_strengths,
    specify,
)
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.ground.text import printable
from jaxrobust.layers import Selector
from jaxrobust.metrics import Metric, Wanted, resolve
from jaxrobust.network import Network, check_network
from jaxrobust.perturbations import Perturbation
from jaxrobust.program.rounding import PrecisionMode
from jaxrobust.sampling import FixedSeeds, SamplingRule, UntilHalfWidth

_SEEDS = 5


@dataclass(frozen=True)
class SweepRequest:
    """A sweep that can be run as asked.

    Attributes:
        network: what is damaged.
        source: its images, none of them decoded yet; labels are the network's classes.
        spec, perturbations, metrics, options, report: see `jaxrobust.execution.job.Job`.
    """

    network: Network
    source: ImageSource
    spec: Specification
    perturbations: Sequence[Perturbation]
    metrics: Mapping[str, Metric]
    options: Options
    report: Report

    @property
    def code(self) -> SweepCode:
        """The functions that the sweep runs."""
        return SweepCode(self.network, self.perturbations, self.metrics)


def resolve_request(
    network: Network,
    images: Any,
    *,
    perturbations: Sequence[str | Perturbation],
    layers: Selector,
    strengths: Grid | Mapping[str, Grid] | None,
    seeds: int | None,
    root: int,
    block: int,
    metrics: Wanted,
    precision_mode: PrecisionMode,
    keep: Keep,
    half_width: float | None = None,
    options: Options | None,
    report: Report,
) -> SweepRequest:
    """Checks the arguments of `jaxrobust.sweep`, where they are explained.

    Raises:
        SpecificationError: anything that cannot be run as asked.

    Warns:
        UserWarning: what a perturbation has to say about a layer, on the line that called the
            caller.
    """
    check_network(network)
    chosen = resolve_perturbations(perturbations)
    grids = resolve_strengths(chosen, strengths)
    chosen_metrics, options = resolve(metrics), options or Options()
    sampling: SamplingRule = FixedSeeds(_SEEDS if seeds is None else seeds)
    if half_width is not None:
        sampling = UntilHalfWidth(float(half_width))
    source = source_of(images).with_classes(network.class_names, network.classes)
    spec = specify(
        network,
        source,
        perturbations=chosen,
        layers=layers,
        strengths=grids,
        sampling=sampling,
        root=root,
        block=block,
        metrics=chosen_metrics,
        precision=precision_mode,
        keep=keep,
        report=report,
    )
    _warn(network, spec, chosen)
    return SweepRequest(network, source, spec, chosen, chosen_metrics, options, report)


def check_precision(precision: float | None, max_seconds: float | None, seeds: int | None) -> None:
    """Raises SpecificationError where these arguments of `jaxrobust.sweep` make no sense."""
    number = int | float | np.number
    if precision is not None and not (isinstance(precision, number) and 0 < precision < 0.5):
        raise SpecificationError(
            f"precision {precision!r}: the half-width of an interval of accuracies is needed, "
            "between 0 and 0.5"
        )
    if precision is not None and seeds is not None:
        raise SpecificationError(
            f"precision {precision} and seeds {seeds}: a sweep to a precision decides itself how "
            "many seeds each cell needs; leave one of them out"
        )
    if max_seconds is not None and precision is None:
        raise SpecificationError(
            f"max_seconds {max_seconds} without precision: only a sweep to a precision can end "
            "early with a result"
        )
    if max_seconds is not None and not (isinstance(max_seconds, number) and max_seconds > 0):
        raise SpecificationError(f"max_seconds {max_seconds!r}: more than 0 seconds are needed")


def _warn(network: Network, spec: Specification, perturbations: Sequence[Perturbation]) -> None:
    names = dict.fromkeys(name for _, members in spec.layers for name in members)
    for perturbation in perturbations:
        notes = [note for name in names if (note := perturbation.warning(network.layers[name]))]
        more = f" (and so on {len(notes) - 1} more layers)" if len(notes) > 1 else ""
        if notes:
            warnings.warn(printable(notes[0] + more), stacklevel=4)
