"""Which trials a sweep has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import islice
from typing import TypeVar

import numpy as np

from jaxrobust.design.specification import Specification
from jaxrobust.perturbations import Perturbation

_Item = TypeVar("_Item")

Trial = tuple[int, int]
"""The index of a strength in the specification's grid, and a seed."""


@dataclass(frozen=True)
class TrialSet:
    """A perturbation in the sweep.

    Attributes:
        row: its index in the specification.
        columns: the indices of the strengths that are run.
        identity: the index of the strength that changes nothing, if it is asked for.
        seeds: how many seeds are run: one if it is deterministic.
        chosen: the trials that are run here, seed by seed; None for all.
        done: trials that need not be run again; steps are cut as if they were, since a trial's
            sums may differ in the last bits with what is beside it.
    """

    row: int
    perturbation: Perturbation
    columns: list[int]
    identity: int | None
    seeds: int
    chosen: tuple[Trial, ...] | None = None
    done: frozenset[Trial] = frozenset()

    @staticmethod
    def of(spec: Specification, perturbations: Sequence[Perturbation]) -> list[TrialSet]:
        """Those of a sweep, with the seeds that there is room for at first."""
        trial_sets = []
        for row, (perturbation, (_, strengths)) in enumerate(
            zip(perturbations, spec.strengths, strict=True)
        ):
            columns = [spec.grid.index(Decimal(strength)) for strength in strengths]
            nothing = Decimal(str(perturbation.identity))
            identity = next((c for c in columns if spec.grid[c] == nothing), None)
            columns = [column for column in columns if column != identity]
            seeds = spec.sampling.first_seeds if perturbation.draw else 1
            trial_sets.append(TrialSet(row, perturbation, columns, identity, seeds))
        return trial_sets

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial that is run, seed by seed."""
        if self.chosen is not None:
            return self.chosen
        return tuple((column, seed) for seed in range(self.seeds) for column in self.columns)

    def shares(self, count: int) -> list[tuple[Trial, ...]]:
        """The trials in as many parts, as even as can be; the last ones may be empty."""
        trials = self.trials
        size = -(-len(trials) // count)
        return [trials[start * size : (start + 1) * size] for start in range(count)]

    def are_done(self, trials: Iterable[Trial]) -> bool:
        """Whether none of these trials has to be run."""
        return all(trial in self.done for trial in trials)

    def part(self, wanted: np.ndarray, done: np.ndarray) -> TrialSet:
        """Some of the trials.

        Args:
            wanted, done: bool [strength, seed].
        """
        every = np.zeros_like(wanted)
        every[self.columns, : self.seeds] = True
        chosen = None if (wanted == every).all() else _trials(wanted)
        return replace(self, chosen=chosen, done=frozenset(_trials(wanted & done)))


def _trials(mask: np.ndarray) -> tuple[Trial, ...]:
    return tuple((column, seed) for seed, column in np.argwhere(mask.T).tolist())


def batches(items: Iterable[_Item], size: int) -> Iterator[tuple[_Item, ...]]:
    """Runs of `size` items, the last one perhaps shorter; no more is asked for than is given."""
    items = iter(items)
    while batch := tuple(islice(items, size)):
        yield batch
