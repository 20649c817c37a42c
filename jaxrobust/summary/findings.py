"""The study's claims, compared with what a run measured, in plain words.

Source of the claims: Cheney, Schrimpf and Kreiman (2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxrobust.results import metric_of, whole_grid
from jaxrobust.statistics import mean_over_range, rank_correlation, seed_interval
from jaxrobust.summary.curves import Curve, chance, curves, depth, main_metric, undamaged
from jaxrobust.summary.words import percent

if TYPE_CHECKING:
    import xarray

Verdict = Literal["seen", "contradicted", "undecided", "not measured"]

KNOCKOUT, NOISE = "synapse_knockout", "weight_noise"
# The claims are about 70 % knockout; strengths as near as this stand for it.
_STRENGTH, _NEAR = 0.7, 0.05
# How far the ranges reach that are compared for severity: the study's go to 0.9 and to 2.
_KNOCKOUT_REACH, _NOISE_REACH = (0.7, 1.0), (1.5, 2.5)
# What is left is "about chance" below this share of what the undamaged network has over chance.
_ABOUT_CHANCE = 0.1
_SMALL_LOSS = 0.3
_SAME_ORDER = 0.5
_FEWEST_LAYERS = 4


@dataclass(frozen=True)
class Finding:
    """One claim and what became of it.

    Attributes:
        claim: what the study says.
        verdict: "undecided" where the intervals allow both.
        evidence: the numbers, or what is missing, in sentences.
    """

    claim: str
    verdict: Verdict
    evidence: str

    def __str__(self) -> str:
        return f"{self.claim}: {self.verdict}. {self.evidence}"


def findings(result: xarray.Dataset) -> list[Finding]:
    """What a run says about the study's claims on which layers are fragile.

    The measure is top-5 accuracy, as in the study (top-1 below six classes). The claims are
    about a network's layers one by one: groups of layers and normalisation layers are left out.

    Args:
        result: from `sweep` or `open_run`.
    """
    run = _Run.of(result)
    return [
        Finding(claim, *judge(run))
        for claim, judge in (
            ("The first layer is the most fragile under synapse knockout", _first_is_weakest),
            ("The first layer is about at chance at 70 % synapse knockout", _first_at_chance),
            ("Late layers lose less than 30 % at 70 % synapse knockout", _late_lose_little),
            ("Weight noise shows the same order of layers", _noise_same_order),
            ("Weight noise does less harm than synapse knockout", _noise_is_milder),
        )
    ]


@dataclass(frozen=True)
class _Interval:
    """A mean share over seeds and its 95 % interval within 0 and 1, NaN below three seeds."""

    mean: float
    low: float
    high: float

    @staticmethod
    def of(values: np.ndarray) -> _Interval:
        mean, low, high, *_ = seed_interval(values)
        return _Interval(float(mean), float(np.maximum(low, 0)), float(np.minimum(high, 1)))

    def __str__(self) -> str:
        if np.isnan(self.low):
            return percent(self.mean)
        return f"{percent(self.mean)} ({100 * self.low:.1f} to {100 * self.high:.1f})"

    def lost(self, clean: float) -> _Interval:
        """What is lost, relative to the undamaged value."""
        return _Interval(1 - self.mean / clean, 1 - self.high / clean, 1 - self.low / clean)

    def below(self, other: _Interval | float) -> bool | None:
        """Whether this is less; None if the intervals overlap. Without intervals the means tell."""
        other = other if isinstance(other, _Interval) else _Interval(other, other, other)
        if self.mean < other.mean:
            return None if self.high >= other.low else True
        return None if self.low <= other.high else False


@dataclass(frozen=True)
class _Run:
    """What the claims are judged by.

    Attributes:
        label: what the metric is called.
        clean, chance: its undamaged value and that of guessing, None if not known.
        depth: the network's layers, from the first to the last.
        curves: by perturbation, of those of these layers that the run damaged one by one.
    """

    label: str
    clean: float
    chance: float | None
    depth: list[str]
    curves: dict[str, Curve]

    @staticmethod
    def of(result: xarray.Dataset) -> _Run:
        result = whole_grid(result)
        metric, order = main_metric(result), depth(result)
        own = result.sel(layer=[name for name in result.layer.values if str(name) in order])
        found = {each.perturbation: each for each in curves(own, metric)} if own.layer.size else {}
        found = {name: each for name, each in found.items() if np.isfinite(each.values).any()}
        label, guessing = metric_of(result, metric).label, chance(result, metric)
        return _Run(label, undamaged(result, metric), guessing, order, found)

    def areas(self, perturbation: str) -> dict[str, np.ndarray]:
        """Layer -> mean height of each seed's curve, of the layers with a whole curve."""
        curve = self.curves[perturbation]
        heights = mean_over_range(curve.strengths, curve.values)
        rows = zip(curve.layers, heights, strict=True)
        return {name: row for name, row in rows if np.isfinite(row).any()}

    def near_claimed(self) -> tuple[float, dict[str, _Interval]] | None:
        """The strength of knockout nearest 0.7 and what each layer has left; None if none is."""
        curve = self.curves.get(KNOCKOUT)
        if curve is None:
            return None
        column = int(np.abs(curve.strengths - _STRENGTH).argmin())
        if round(abs(curve.strengths[column] - _STRENGTH), 9) > _NEAR:
            return None
        rows = zip(curve.layers, curve.values[..., column], strict=True)
        left = {name: _Interval.of(row) for name, row in rows if np.isfinite(row).any()}
        return float(curve.strengths[column]), left


_Judgement = tuple[Verdict, str]


def _missing(what: str) -> _Judgement:
    return "not measured", f"This needs {what}."


def _verdict(holds: bool | None) -> Verdict:
    return "undecided" if holds is None else "seen" if holds else "contradicted"


def _first_is_weakest(run: _Run) -> _Judgement:
    areas = run.areas(KNOCKOUT) if KNOCKOUT in run.curves else {}
    first = run.depth[0]
    if first not in areas or len(areas) < _FEWEST_LAYERS:
        return _missing(f"synapse knockout of {first} and of at least three other layers")
    kept = {name: _Interval.of(values) for name, values in areas.items()}
    mine = kept.pop(first)
    other = min(kept, key=lambda name: kept[name].mean)
    last = run.curves[KNOCKOUT].strengths[-1]
    return _verdict(mine.below(kept[other])), (
        f"Averaged over knockouts from 0 to {100 * last:g} %, {run.label} is {mine} in {first}; "
        f"of the {len(kept)} other layers measured it is lowest in {other}: {kept[other]}."
    )


def _first_at_chance(run: _Run) -> _Judgement:
    near, first = run.near_claimed(), run.depth[0]
    if near is None or first not in near[1]:
        return _missing(f"synapse knockout of {first} at a strength near 0.7")
    if run.chance is None:
        return _missing("the number of classes, which this run does not hold")
    strength, left = near
    bar = run.chance + _ABOUT_CHANCE * (run.clean - run.chance)
    return _verdict(left[first].below(bar)), (
        f"At {100 * strength:g} % knockout of {first}, {run.label} is {left[first]}; chance is "
        f"{percent(run.chance)}, undamaged {percent(run.clean)} (about chance: below "
        f"{percent(bar)}, a tenth of the way up)."
    )


def _late_lose_little(run: _Run) -> _Judgement:
    near = run.near_claimed()
    late = run.depth[(len(run.depth) + 1) // 2 :]
    if near is None or not set(late) & set(near[1]) or run.clean == 0:
        return _missing("synapse knockout of layers of the later half at a strength near 0.7")
    strength, left = near
    lost = {name: left[name].lost(run.clean) for name in late if name in left}
    below = [each.below(_SMALL_LOSS) for each in lost.values()]
    holds = False if False in below else None if None in below else True
    names = list(lost)
    which = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    worst = max(lost, key=lambda name: lost[name].mean)
    more = [name for name in lost if lost[name].mean >= _SMALL_LOSS]
    count = f" ({len(more)} of {len(lost)} lose more than 30 %)" if more else ""
    return _verdict(holds), (
        f"Of the layers of the later half ({which}), {worst} loses most at {100 * strength:g} % "
        f"knockout: {lost[worst]} of the undamaged {run.label}{count}."
    )


def _noise_same_order(run: _Run) -> _Judgement:
    both = [run.areas(name) for name in (KNOCKOUT, NOISE) if name in run.curves]
    shared = [name for name in run.depth if len(both) == 2 and name in both[0] and name in both[1]]
    if len(shared) < _FEWEST_LAYERS:
        return _missing("synapse knockout and weight noise of at least four layers")
    means = [np.array([np.nanmean(areas[name]) for name in shared]) for areas in both]
    order = rank_correlation(*means)
    if np.isnan(order):
        return "undecided", "All layers keep the same accuracy under one of the two."
    holds = True if order >= _SAME_ORDER else False if order <= 0 else None
    return _verdict(holds), (
        f"The rank correlation of the {len(shared)} layers' mean {run.label} under noise and under "
        f"knockout is {order:+.2f} (same order: from {_SAME_ORDER:+.1f})."
    )


def _noise_is_milder(run: _Run) -> _Judgement:
    wanted = (KNOCKOUT, _KNOCKOUT_REACH), (NOISE, _NOISE_REACH)
    for name, (least, most) in wanted:
        if name not in run.curves or not least <= run.curves[name].strengths[-1] <= most:
            return _missing("synapse knockout up to about 0.9 and weight noise up to about 2")
    both = [run.areas(name) for name, _ in wanted]
    shared = both[0].keys() & both[1].keys()
    if not shared:
        return _missing("a layer with whole curves under both")
    knockout, noise = (
        _Interval.of(np.mean([areas[name] for name in shared], axis=0)) for areas in both
    )
    reach = [run.curves[name].strengths[-1] for name, _ in wanted]
    return _verdict(knockout.below(noise)), (
        f"Averaged over strengths and layers, {run.label} is {noise} under noise of up to "
        f"{reach[1]:g} standard deviations and {knockout} under knockout of up to "
        f"{100 * reach[0]:g} %."
    )
