"""Half-strength and area of each layer."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.metrics import Metric
from jaxrobust.results import metric_of, of_any_part
from jaxrobust.statistics import (
    censored_seed_interval,
    first_crossing,
    mean_over_range,
    seed_interval,
)
from jaxrobust.summary.curves import Curve, curves, undamaged

if TYPE_CHECKING:
    import xarray


def by_layer(
    result: xarray.Dataset, metric: str = "top1", *, confidence: float = 0.95
) -> xarray.Dataset:
    """Half-strength and area of each layer: computed on each seed's whole curve, then averaged.

    The half-strength is the strength at which half of the undamaged value is left, by linear
    interpolation, at the curve's first crossing. The area under the curve is divided by the range
    of strengths: it is the mean of the metric over that range. Intervals are Student-t over
    seeds; they take neighbouring strengths of a seed to be as correlated as they are. In a sweep to
    a precision a seed's curve is of the images that it saw, whose luck is in both measures, and
    only seeds that every strength has count.

    Args:
        result: from `sweep` or `open_run`, any part of it, or several (see `accuracy`).
        metric: any of its metrics. There is no half-strength (NaN, and a warning) of those that
            damage raises, as `loss` and `changed`, and of one that isn't above 0 undamaged.
        confidence: the nominal coverage.

    Returns:
        Dims perturbation, layer; `half` and `area` with `…_low`, `…_high` and `…_std`; `seeds`
        whose curve is complete; `beyond`, how many of them never come down to half before `last`,
        where the strengths of the perturbation end (`first` is where they begin, undamaged). One
        that does not leaves no mean: `half` is NaN, `half_bound`, in which it counts as `last`, is
        what the mean lies beyond, and `half_median` is the median over all seeds (infinity where
        that lies beyond). `nonfinite`: seeds with a value on their curve that was measured and is
        not finite, which makes both measures so. `half_of_seed` (infinity beyond) and
        `area_of_seed` also have the dimension seed.

    Raises:
        SpecificationError: an unknown metric, something else than a result.

    Warns:
        UserWarning: there is no half-strength, and why.
    """
    made = measures(result, metric, confidence=confidence)
    if why := made.attrs.get("no_half"):
        warnings.warn(f"no half-strength of {metric}: {why}", stacklevel=2)
    return made


@of_any_part
def measures(
    result: xarray.Dataset, metric: str = "top1", *, confidence: float = 0.95
) -> xarray.Dataset:
    """`by_layer` without its warning: the attribute `no_half` says it, where there is one."""
    import xarray

    found = curves(result, metric)
    clean = undamaged(result, metric)
    told = metric_of(result, metric)
    why = _why_no_half(told, clean, found)
    halves, ends = [], []
    for each in found:
        strengths, values = each.growing() or (each.strengths, np.full_like(each.values, np.nan))
        level = clean / 2 if _can_halve(told, clean) else np.nan
        half = first_crossing(strengths, values, level)
        halves.append(np.where(np.isnan(level), np.nan, half))
        ends.append((strengths[0], strengths[-1]))
    complete = np.stack([each.run.all(-1) for each in found])
    first, last = (np.asarray(end) for end in zip(*ends, strict=True))
    half = censored_seed_interval(np.stack(halves), last[:, None], confidence, complete)
    areas = np.stack([mean_over_range(each.strengths, each.values) for each in found])
    *area, seeds = seed_interval(areas, confidence, complete)
    parts = ("", "_low", "_high", "_std")
    known = (half.mean, half.low, half.high, half.std)
    cells = {f"half{part}": values for part, values in zip(parts, known, strict=True)}
    cells |= {"half_median": half.median, "half_bound": half.bound}
    cells |= {f"area{part}": values for part, values in zip(parts, area, strict=True)}
    odd = [(each.run & ~np.isfinite(each.values)).any(-1).sum(-1) for each in found]
    cells |= {"seeds": seeds, "beyond": half.beyond, "nonfinite": np.stack(odd)}
    variables = {name: (("perturbation", "layer"), values) for name, values in cells.items()}
    each_seed = ("perturbation", "layer", "seed")
    return xarray.Dataset(
        {
            **variables,
            "first": (("perturbation",), first),
            "last": (("perturbation",), last),
            "half_of_seed": (each_seed, np.stack(halves)),
            "area_of_seed": (each_seed, areas),
        },
        coords={
            "perturbation": [each.perturbation for each in found],
            "layer": list(found[0].layers),
            "seed": result.seed.values,
        },
        attrs={
            "metric": metric,
            "clean": clean,
            "confidence": confidence,
            "method": "Student-t over each seed's own half-strength and area",
            **({"no_half": why} if why else {}),
        },
    )


def _can_halve(metric: Metric, clean: float) -> bool:
    return metric.best != "low" and 0 < clean < np.inf


def _why_no_half(metric: Metric, clean: float, found: list[Curve]) -> str:
    """Why half-strengths make no sense, "" where they do."""
    if metric.best == "low":
        return "damage raises it; its mean over the range of strengths is given"
    if not _can_halve(metric, clean):
        return f"undamaged it is {clean:.3g}; its mean over the range of strengths is given"
    both = [each.perturbation for each in found if each.growing() is None]
    return f"strengths of {', '.join(both)} lie on both sides of the undamaged one" if both else ""
