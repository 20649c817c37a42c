"""Curves over strength with the undamaged point in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.results import (
    SweepInfo,
    accuracy,
    is_whole,
    metric_of,
    per_image,
    sum_blocks,
    whole_grid,
)
from jaxrobust.statistics import FEWEST_SEEDS

if TYPE_CHECKING:
    import xarray
    from jaxtyping import Bool, Float

_PARTS = ("mean", "low", "high", "std", "seeds")


@dataclass(frozen=True)
class Curve:
    """One perturbation's curves, a curve for each layer and seed.

    Attributes:
        perturbation: its name.
        identity: the strength that changes nothing.
        layers: names, the network's own in order of depth, then groups as the run orders them.
        strengths: those that were asked for and `identity`, ascending.
        values: a metric's mean per image; NaN where a trial has not seen all images. At
            `identity` the undamaged value, for every curve that has another point.
        run: where there is such a value, be it NaN that was measured.
        cells: mean, low, high, std and number of seeds, as `results.accuracy` gives them.
    """

    perturbation: str
    identity: float
    layers: tuple[str, ...]
    strengths: Float[np.ndarray, " strengths"]
    values: Float[np.ndarray, "layers seeds strengths"]
    run: Bool[np.ndarray, "layers seeds strengths"]
    cells: Float[np.ndarray, "parts layers strengths"]

    def interval(self) -> tuple[Float[np.ndarray, "layers strengths"], ...]:
        """Mean, low, high, std and number of seeds; at `identity` the undamaged value."""
        return tuple(self.cells)

    @property
    def not_finite(self) -> Bool[np.ndarray, "layers strengths"]:
        """Where something was measured whose mean is NaN or infinite."""
        mean, *_, seeds = self.cells
        return (seeds > 0) & ~np.isfinite(mean)

    def growing(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Strengths and values in the order in which the damage grows, the undamaged first.

        None where strengths lie on both sides of the identity.
        """
        if self.identity == self.strengths[0]:
            return self.strengths, self.values
        if self.identity == self.strengths[-1]:
            return self.strengths[::-1], self.values[..., ::-1]
        return None


def curves(result: xarray.Dataset, metric: str) -> list[Curve]:
    """The curves of each perturbation of a result.

    Args:
        result: from `sweep` or `open_run`, or a part of it.
        metric: one of its metrics.

    Raises:
        SpecificationError: an unknown metric, something else than a part of a result.
    """
    result = in_depth_order(sum_blocks(whole_grid(result))).sortby("strength")
    cells = accuracy(result, metric)
    clean = cells.attrs["clean"]
    values, whole = per_image(result, metric), is_whole(result)
    found = []
    for name in result.perturbation.values:
        heights, run = (
            each.sel(perturbation=name).transpose("layer", "seed", "strength").values
            for each in (values, whole)
        )
        asked = (result["images"].sel(perturbation=name) > 0).any(("layer", "seed")).values
        identity = _identity(result, str(name))
        damaged = asked & (result.strength.values != identity)
        strengths, heights = result.strength.values[damaged], heights[..., damaged]
        run = run[..., damaged]
        place = int(np.searchsorted(strengths, identity))
        undamaged = np.where(run.any(-1), clean, np.nan)
        parts = cells[list(_PARTS)].sel(perturbation=name, strength=strengths).to_array()
        parts = parts.transpose("variable", "layer", "strength").values
        seeds = parts[-1].max(-1, initial=0)
        level = np.where(seeds > 0, clean, np.nan)
        bound = np.where(seeds >= FEWEST_SEEDS, level, np.nan)
        spread = np.where((seeds > 1) & np.isfinite(level), 0.0, np.nan)
        known = np.stack([level, bound, bound, spread, seeds])
        found.append(
            Curve(
                perturbation=str(name),
                identity=identity,
                layers=tuple(map(str, result.layer.values)),
                strengths=np.insert(strengths, place, identity),
                values=np.insert(heights, place, undamaged, axis=-1),
                run=np.insert(run, place, run.any(-1), axis=-1),
                cells=np.insert(parts, place, known, axis=-1),
            )
        )
    return found


def _identity(result: xarray.Dataset, perturbation: str) -> float:
    """The strength that changes nothing; a concatenation has only the first result's attributes."""
    identities = SweepInfo.of(result).identity
    if perturbation in identities or not identities:
        return float(identities.get(perturbation, 0))
    from jaxrobust.perturbations import REGISTRY

    if perturbation not in REGISTRY:
        raise SpecificationError(
            f"the attributes of this result do not say which strength of {perturbation} changes "
            'nothing: join results along a new dimension, as in xr.concat([a, b], "run")'
        )
    return REGISTRY[perturbation].identity


def most_seeds(found: Iterable[Curve]) -> int:
    """The greatest number of seeds behind any point."""
    return max(int(each.interval()[-1].max(initial=0)) for each in found)


def in_depth_order(result: xarray.Dataset) -> xarray.Dataset:
    """The result with the network's own layers from the first to the last, then its groups."""
    result = whole_grid(result)
    names = [str(name) for name in result.layer.values]
    place = {name: index for index, name in enumerate(depth(result))}
    return result.sel(layer=sorted(names, key=lambda name: place.get(name, len(place))))


def depth(result: xarray.Dataset) -> list[str]:
    """The network's layers from the first to the last; those of the run where it doesn't say."""
    told = SweepInfo.of(result).depth
    return [str(name) for name in result.layer.values.ravel()] if told is None else list(told)


def undamaged(result: xarray.Dataset, metric: str) -> float:
    """The undamaged network's mean per image.

    Raises:
        SpecificationError: an unknown metric.
    """
    return accuracy(result, metric).attrs["clean"]


def chance(result: xarray.Dataset, metric: str) -> float | None:
    """What guessing gets; None where that cannot be said, or the classes aren't known."""
    classes, guessing = SweepInfo.of(result).classes, metric_of(result, metric).chance
    return None if classes is None or guessing is None else guessing(classes)


def main_metric(result: xarray.Dataset) -> str:
    """Top-5 accuracy, as in the study, but top-1 where a sweep to a precision has aimed at that,
    and where there are so few classes that top-5 says nothing.
    """
    return "top1" if chance(result, "top5") == 1 or SweepInfo.of(result).is_precise else "top5"
