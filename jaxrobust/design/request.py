"""What was asked for, checked before any long work starts."""

from __future__ import annotations

import math
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
from jaxrobust.metrics import Metric, Wanted, always, resolve
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
    sampling: SamplingRule,
    root: int,
    block: int,
    metrics: Wanted,
    precision_mode: PrecisionMode,
    keep: Keep,
    options: Options | None,
    report: Report,
) -> SweepRequest:
    """Checks the arguments of `jaxrobust.sweep`, where they are explained.

    Args:
        sampling: from `sampling_rule`; the others are those of `jaxrobust.sweep`.

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


def sampling_rule(
    *,
    seeds: int | None = None,
    precision: float | None = None,
    precision_metric: str = "top1",
    max_seconds: float | None = None,
    metrics: Wanted = None,
) -> SamplingRule:
    """How many seeds each cell gets, from the arguments of `jaxrobust.sweep`.

    Raises:
        SpecificationError: they make no sense, alone or together.
    """
    if precision is None:
        for name, value, usual in (
            ("max_seconds", max_seconds, None),
            ("precision_metric", precision_metric, "top1"),
        ):
            if value != usual:
                raise SpecificationError(
                    f"{name} {value} without precision: give the precision, too, or leave this out"
                )
        return FixedSeeds(_SEEDS if seeds is None else seeds)
    measured = {each.name: each for each in (*always(), *resolve(metrics).values())}
    if precision_metric not in measured:
        raise SpecificationError(
            f"precision_metric {precision_metric!r} is not measured, only {', '.join(measured)}: "
            "name it in metrics, too"
        )
    _check_half_width(precision, measured[precision_metric])
    if seeds is not None:
        raise SpecificationError(
            f"precision {precision} and seeds {seeds}: a sweep to a precision decides itself how "
            "many seeds each cell needs; leave one of them out"
        )
    if max_seconds is not None and not (_is_number(max_seconds) and max_seconds > 0):
        raise SpecificationError(f"max_seconds {max_seconds!r}: more than 0 seconds are needed")
    return UntilHalfWidth(float(precision), precision_metric)


def _check_half_width(precision: Any, metric: Metric) -> None:
    if not metric.is_mean:
        raise SpecificationError(
            f"precision_metric {metric.name!r} is no mean over images, as a precision needs: "
            "take another metric"
        )
    most = (metric.high - metric.low) / 2
    if not (_is_number(precision) and 0 < precision < most):
        between = f"between 0 and {most:g}" if math.isfinite(most) else "finite and above 0"
        raise SpecificationError(
            f"precision {precision!r}: the half-width of an interval of the mean {metric.label} is "
            f"needed, {between}"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _warn(network: Network, spec: Specification, perturbations: Sequence[Perturbation]) -> None:
    names = dict.fromkeys(name for _, members in spec.layers for name in members)
    for perturbation in perturbations:
        notes = [note for name in names if (note := perturbation.warning(network.layers[name]))]
        more = f" (and so on {len(notes) - 1} more layers)" if len(notes) > 1 else ""
        if notes:
            warnings.warn(printable(notes[0] + more), stacklevel=4)
