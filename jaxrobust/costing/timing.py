"""How long a sweep takes here, from what its work items cost."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

from jaxrobust.execution.executor import Executor
from jaxrobust.execution.profile import CostModel, Spread, Undamaged, operations_of_trials
from jaxrobust.execution.work import Work

_SECONDS_PER_ITEM = 0.5
# Drawing and damaging takes about as long, roughly; it only decides what is timed first.
_OPERATIONS_PER_BYTE = 16


@dataclass(frozen=True)
class Timing:
    """What a sweep takes here.

    Attributes:
        undamaged: what the undamaged network costs.
        models: what each work item costs, in the order of the sweep.
        timed: whether it was measured; the others have the means of those that were.
    """

    undamaged: Undamaged
    models: tuple[CostModel, ...]
    timed: tuple[bool, ...]

    def seconds(self, work: Sequence[Work], images: int) -> float:
        """Of the undamaged network and of all trials; compilation not counted.

        Args:
            work: the trials, of the same targets and in the same order.
            images: that the undamaged network looks at.
        """
        return self.undamaged.seconds * images + sum(map(seconds_of, work, self.models))

    def at(self, end: Literal["low", "high"], work: Sequence[Work], images: int) -> float:
        """The least or the most that `seconds` may be, by the spread of what was timed."""
        own = self.undamaged.seconds * images * getattr(self.undamaged.spread, end)
        for each, model in zip(work, self.models, strict=True):
            own += seconds_of(each, model) * getattr(model.spread, end)
        return own


def seconds_of(work: Work, model: CostModel) -> float:
    """Seconds that the trials of one work item take."""
    own = model.per_operation * operations_of_trials(work.target, work.trial_sets)
    making = sum(
        work.drawn(each) * model.draws.get(each.perturbation.name, 0.0)
        + len(each.trials) * model.damage.get(each.perturbation.name, 0.0)
        for each in work.trial_sets
    )
    return work.images * (work.passes * model.shared + own) + making


def measure(executor: Executor, work: Sequence[Work], seconds: float) -> Timing:
    """Has a few steps of each work item run.

    Args:
        executor: of the sweep, with a few of its images; they stand for all others.
        work: every target with its trials.
        seconds: when they are over, no other item is begun; at least one is measured.
    """
    started = perf_counter()
    found: dict[int, CostModel] = {}
    undamaged = executor.undamaged
    for number in _most_first(work):
        if found and perf_counter() - started > seconds:
            break
        item = work[number].target.item
        executor.job.report(f"timing {item.name}", 0, 0)
        found[number] = executor.profile(item, _SECONDS_PER_ITEM)
    timed = [(work[number], model) for number, model in found.items()]
    models = tuple(
        found[number] if number in found else _like(each, timed, undamaged)
        for number, each in enumerate(work)
    )
    return Timing(undamaged, models, tuple(n in found for n in range(len(work))))


def _most_first(work: Sequence[Work]) -> list[int]:
    """Those first that will take longest, as far as can be said before."""

    def cost(number: int) -> float:
        each = work[number]
        made = each.trials * each.target.item.leaf_bytes
        return each.operations + _OPERATIONS_PER_BYTE * made

    return sorted(range(len(work)), key=cost, reverse=True)


def _like(work: Work, timed: Sequence[tuple[Work, CostModel]], undamaged: Undamaged) -> CostModel:
    """What an item costs by the means of those that were timed."""
    size = work.target.item.leaf_bytes

    def mean(values: Sequence[float], weights: Sequence[float]) -> float:
        total = sum(weights)
        return sum(v * w for v, w in zip(values, weights, strict=True)) / total if total else 0.0

    def per_byte(costs_of: str) -> Mapping[str, float]:
        """By perturbation; in proportion to the bytes of the leaves."""
        having = [(each.target.item.leaf_bytes, getattr(model, costs_of)) for each, model in timed]
        return {
            name: size
            * sum(own[name] for _, own in having if name in own)
            / sum(bytes for bytes, own in having if name in own)
            for name in {name for _, own in having for name in own}
        }

    models = [model for _, model in timed]
    operations = [
        each.images * operations_of_trials(each.target, each.trial_sets) for each, _ in timed
    ]
    per_operation = mean([model.per_operation for model in models], operations)
    return CostModel(
        shared=undamaged.shared(work.target),
        per_operation=per_operation,
        draws=per_byte("draws"),
        damage=per_byte("damage"),
        compiling=statistics.fmean(model.compiling for model in models),
        spread=_spread_of_others(models, per_operation),
    )


def _spread_of_others(models: Sequence[CostModel], usual: float) -> Spread:
    """Of an item that was not timed: it may be as fast or as slow as any that was."""
    operations = [each.per_operation / usual for each in models]
    lows = [each * model.spread.low for each, model in zip(operations, models, strict=True)]
    highs = [each * model.spread.high for each, model in zip(operations, models, strict=True)]
    return Spread(min(lows), max(highs))
