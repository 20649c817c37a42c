"""How a design says how many seeds each cell gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxrobust.sampling.rounds import FEWEST


@dataclass(frozen=True)
class FixedSeeds:
    """Every cell gets the same seeds, 0 … seeds - 1, each on all images.

    Attributes:
        seeds: how many, at least 1.
    """

    seeds: int

    @property
    def first_seeds(self) -> int:
        """How many seeds there is room for at first."""
        return self.seeds


@dataclass(frozen=True)
class UntilHalfWidth:
    """Each cell gets as many seeds as it takes until its 95 % interval is narrow enough.

    Attributes:
        half_width: of the interval of a metric's mean.
        metric: the metric's name.
    """

    half_width: float
    metric: str = "top1"

    @property
    def first_seeds(self) -> int:
        """How many seeds there is room for at first: those of the first round."""
        return FEWEST


SamplingRule = FixedSeeds | UntilHalfWidth


def rule_from_json(values: Any) -> SamplingRule:
    """The inverse of `dataclasses.asdict`.

    Raises:
        TypeError: these are not the values of a rule.
    """
    if not isinstance(values, Mapping):
        raise TypeError("a sampling rule is a mapping")
    rule = (UntilHalfWidth if "half_width" in values else FixedSeeds)(**values)
    if isinstance(rule, FixedSeeds):
        if type(rule.seeds) is not int or rule.seeds < 1:
            raise TypeError("the seeds of a sampling rule are a whole number from 1")
    elif type(rule.half_width) not in (int, float) or not isinstance(rule.metric, str):
        raise TypeError("the half-width of a sampling rule is a number, its metric a name")
    return rule
