"""What there is to run: the trials of a sweep by what they damage and which images they look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from jaxrobust.design.specification import Specification
from jaxrobust.design.trials import TrialSet
from jaxrobust.layers import Layer
from jaxrobust.network import Network
from jaxrobust.perturbations import Perturbation


@dataclass(frozen=True)
class Task:
    """Trials on a group of layers that look at the same images.

    Attributes:
        trial_sets: the perturbations, without other trials.
        runs: the first image of each run of consecutive ones, and the one behind its last.
    """

    trial_sets: tuple[TrialSet, ...]
    runs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class WorkItem:
    """Trials on one group of layers that damage the same leaves: they share compiled programs.

    Attributes:
        name, number: of the group of layers in the specification.
        layers: those that are damaged together.
        touched: paths of the damaged leaves.
        tasks: the trials, by the images that they look at; at least one.
    """

    name: str
    number: int
    layers: tuple[Layer, ...]
    touched: tuple[str, ...]
    tasks: tuple[Task, ...]

    @property
    def trial_sets(self) -> tuple[TrialSet, ...]:
        """Those of all tasks."""
        return tuple(chain.from_iterable(task.trial_sets for task in self.tasks))

    @property
    def trials(self) -> dict[Perturbation, int]:
        """Each perturbation with the most trials that are run together."""
        most: dict[Perturbation, int] = {}
        for each in self.trial_sets:
            most[each.perturbation] = max(most.get(each.perturbation, 0), len(each.trials))
        return most

    @property
    def seeds(self) -> int:
        """The most seeds that are run together."""
        return max(len({seed for _, seed in each.trials}) for each in self.trial_sets)

    @property
    def images(self) -> int:
        """How many consecutive images most trials look at: steps are padded to it."""
        trials: Counter[int] = Counter()
        for task in self.tasks:
            first, stop = task.runs[0]
            trials[stop - first] += sum(len(each.trials) for each in task.trial_sets)
        return max(trials, key=lambda length: (trials[length], length))

    @property
    def leaf_bytes(self) -> int:
        """Bytes of the leaves that one trial damages."""
        return sum(leaf.nbytes for layer in self.layers for leaf in layer.leaves)


def all_items(
    network: Network, spec: Specification, trial_sets: Sequence[TrialSet]
) -> list[WorkItem]:
    """Every trial of a sweep on all of its images, in the order in which they are run."""
    seeds = max((each.seeds for each in trial_sets), default=0)
    lacking = wanted_by(spec, trial_sets, seeds)
    return list(work_items(network, spec, trial_sets, lacking, np.zeros(lacking.shape[:-1], bool)))


def wanted_by(spec: Specification, trial_sets: Sequence[TrialSet], seeds: int) -> np.ndarray:
    """The blocks of all trials: bool [perturbation, layer, strength, seed, block].

    Args:
        spec: of the sweep.
        trial_sets: its perturbations.
        seeds: at least as many as any of them has.
    """
    shape = (len(spec.strengths), len(spec.layers), len(spec.grid), seeds, spec.blocks)
    wanted = np.zeros(shape, bool)
    for each in trial_sets:
        wanted[each.row][:, each.columns, : each.seeds] = True
    return wanted


def work_items(
    network: Network,
    spec: Specification,
    trial_sets: Sequence[TrialSet],
    lacking: np.ndarray,
    complete: np.ndarray,
) -> Iterator[WorkItem]:
    """What is still to be run, layer by layer.

    Trials of the first seeds come first: if a sweep to a precision is stopped, the seeds that were
    run have seen images from everywhere.

    Args:
        network, spec: of the sweep.
        trial_sets: its perturbations.
        lacking: the blocks that each trial has not seen, as `wanted_by` gives them.
        complete: bool [perturbation, layer, strength, seed], trials that need not be run again;
            steps are cut as if they were.
    """
    for number, (name, members) in enumerate(spec.layers):
        layers = tuple(network.layers[member] for member in members)
        by_leaves: dict[tuple[str, ...], list[Task]] = {}
        for task in _tasks(spec, trial_sets, lacking[:, number], complete[:, number]):
            for touched, own in _by_leaves(layers, task.trial_sets).items():
                by_leaves.setdefault(touched, []).append(replace(task, trial_sets=own))
        for touched, tasks in by_leaves.items():
            if not all(_are_done(task.trial_sets) for task in tasks):
                yield WorkItem(name, number, layers, touched, tuple(tasks))


def _tasks(
    spec: Specification, trial_sets: Sequence[TrialSet], lacking: np.ndarray, complete: np.ndarray
) -> Iterator[Task]:
    """The trials on one group of layers by the blocks that they have not seen."""
    by_seed = np.moveaxis(lacking, 2, 0)
    sets, first, which = np.unique(
        by_seed.reshape(-1, spec.blocks), axis=0, return_index=True, return_inverse=True
    )
    which = np.moveaxis(which.reshape(by_seed.shape[:-1]), 0, 2)
    for index in np.argsort(first):
        blocks = sets[index]
        if not blocks.any():
            continue
        those = which == index
        own = [each.part(those[each.row], complete[each.row]) for each in trial_sets]
        own = tuple(each for each in own if each.trials)
        if not _are_done(own):
            yield Task(own, _runs(spec, np.flatnonzero(blocks)))


def _are_done(trial_sets: Iterable[TrialSet]) -> bool:
    return all(each.are_done(each.trials) for each in trial_sets)


def _runs(spec: Specification, blocks: np.ndarray) -> tuple[tuple[int, int], ...]:
    """The images of some blocks: all from a first one on, or block by block.

    Trials that see different blocks share what the undamaged network makes of each block.
    """
    first = int(blocks[0])
    if len(blocks) == spec.blocks - first:
        return ((first * spec.block, spec.images),)
    return tuple((b * spec.block, min((b + 1) * spec.block, spec.images)) for b in blocks.tolist())


def _by_leaves(
    layers: Sequence[Layer], trial_sets: Iterable[TrialSet]
) -> dict[tuple[str, ...], tuple[TrialSet, ...]]:
    """The perturbations by the leaves that they touch."""
    alike: dict[tuple[str, ...], tuple[TrialSet, ...]] = {}
    for each in trial_sets:
        touched = each.perturbation.touched(layers)
        alike[touched] = (*alike.get(touched, ()), each)
    return alike
