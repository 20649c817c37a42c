"""What a sweep has counted, and its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrobust.counts.carry_over import carry_over
from jaxrobust.counts.state import State
from jaxrobust.design.specification import Specification
from jaxrobust.design.trials import TrialSet
from jaxrobust.execution.executor import Plans
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.metrics import Metric
from jaxrobust.network import Network
from jaxrobust.perturbations import Perturbation
from jaxrobust.results import CLEAN, GOAL, LABELS, TRIALS, SweepInfo, labelled
from jaxrobust.sampling import Allocation

if TYPE_CHECKING:
    import xarray

_CARRIED = "carried"


class SweepProgress:
    """What a sweep has counted.

    Args:
        network, spec, perturbations: of the sweep.
        labels: int32 [images], of its images.
        metrics: what is measured of each image.

    Attributes:
        state: sums.
        plans: how they were run.
        finished: whether that is everything.
        metrics: what is measured of each image, by name.
        random: bool [perturbation], which of them draw at random.
        allocation: of seeds and blocks, in a sweep to a precision, else None.
        warnings: what is suspicious about the undamaged network.
        written: the finished result, where that is all that is left of it.
    """

    def __init__(
        self,
        network: Network,
        spec: Specification,
        perturbations: Sequence[Perturbation],
        labels: np.ndarray,
        metrics: Sequence[Metric],
    ) -> None:
        self.spec, self._labels = spec, labels
        self.state = State.empty(spec, spec.sampling.first_seeds)
        self.allocation = None
        self.plans: Plans = []
        self.finished = False
        self.warnings: tuple[str, ...] = ()
        self.written: xarray.Dataset | None = None
        self.metrics = {each.name: each for each in metrics}
        self._classes = network.classes
        self.random = np.asarray([each.draw is not None for each in perturbations])
        self._coordinates = {
            "perturbation": [name for name, _ in spec.strengths],
            "layer": [name for name, _ in spec.layers],
            "strength": [float(strength) for strength in spec.grid],
        }
        info = SweepInfo(
            network=spec.network,
            data=spec.data,
            classes=network.classes,
            depth=tuple(n for n, layer in network.layers.items() if layer.kernel is not None),
            identity={each.name: each.identity for each in perturbations},
        )
        if spec.half_width is not None:
            trial_sets = TrialSet.of(spec, perturbations)
            asked = np.zeros((len(spec.strengths), len(spec.layers), len(spec.grid)), bool)
            for each in trial_sets:
                asked[each.row][:, each.columns] = True
            self.allocation = Allocation.first(asked)
            info = replace(
                info,
                half_width=spec.half_width,
                half_width_metric=spec.half_width_metric,
                exact=tuple(each.name for each in perturbations if each.draw is None),
                damaged={
                    each.perturbation.name: tuple(float(spec.grid[c]) for c in each.columns)
                    for each in trial_sets
                },
            )
        self._info = info

    @property
    def result(self) -> xarray.Dataset:
        """The labelled result, with its blocks."""
        return labelled(self.arrays, self.record) if self.written is None else self.written

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The sums by name, and the labels if bits of images are among them."""
        arrays = {TRIALS + name: values for name, values in self.state.trials.items()}
        arrays |= {CLEAN + name: values for name, values in self.state.clean.items()}
        if self.spec.keep == "images":
            arrays[LABELS] = self._labels
        if self.allocation is not None:
            arrays |= {GOAL + "seeds": self.allocation.seeds, GOAL + "shown": self.allocation.shown}
        return {**arrays, _CARRIED: self.state.carried}

    @property
    def record(self) -> dict[str, Any]:
        """What the sums are of, for `json`."""
        info = replace(self._info, finished=self.finished, warnings=self.warnings)
        return {
            "specification": self.spec.to_json(),
            "plan": self.plans,
            "finished": self.finished,
            "seeds": self.state.seeds,
            "coordinates": self._coordinates,
            "metrics": {n: each.to_attributes(self._classes) for n, each in self.metrics.items()},
            "attributes": {**info.to_attributes(), "specification": self.spec.hash},
        }

    def take(self, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
        """Goes on from the arrays and the record of the same sweep or one that it extends."""

        def those(prefix: str) -> dict[str, np.ndarray]:
            return {n.removeprefix(prefix): v for n, v in arrays.items() if n.startswith(prefix)}

        held = Specification.from_json(record["specification"])
        self.state = State(those(TRIALS), those(CLEAN), arrays[_CARRIED])
        if held == self.spec:
            self.plans, self.finished = record["plan"], record["finished"]
            self.warnings = SweepInfo.read(record["attributes"]).warnings
            if self.allocation is not None:
                self.allocation = Allocation(**those(GOAL))
        else:
            seeds = max(self.state.seeds, self.spec.sampling.first_seeds)
            if self.allocation is None and seeds > self.spec.sampling.first_seeds:
                raise SpecificationError(
                    f"the sweep to a precision that this one extends has come to {seeds:,} seeds, "
                    f"not {self.spec.sampling.first_seeds:,}: ask for at least as many"
                )
            self.state = carry_over(self.state, held, self.spec, seeds)
            alike = held.sampling == self.spec.sampling and held.images == self.spec.images
            if self.allocation is not None and alike:
                self._take_shown(held, those(GOAL)["shown"])

    def take_written(self, result: xarray.Dataset) -> None:
        """Takes the finished result of the same sweep, with its blocks, as it was written."""
        self.written, self.finished = result, True
        self.warnings = SweepInfo.of(result).warnings

    def _take_shown(self, held: Specification, shown: np.ndarray) -> None:
        """What was settled of layers of the same sweep stays, so that their cells do, too."""
        names = [name for name, _ in self.spec.layers]
        for (name, _), count in zip(held.layers, shown, strict=True):
            self.the_allocation.shown[names.index(name)] = count

    @property
    def the_allocation(self) -> Allocation:
        """That of a sweep to a precision."""
        if self.allocation is None:
            raise ValueError("a sweep of a fixed number of seeds has no allocation")
        return self.allocation

    @property
    def wanted(self) -> np.ndarray:
        """The blocks that each trial of a sweep to a precision is to see: see `Allocation`."""
        spec = self.spec
        return self.the_allocation.wanted(self.state.seeds, spec.blocks, spec.root, self.random)

    def check_room(self, seeds: int, memory: int) -> None:
        """Raises SpecificationError if so many seeds' sums would not fit into so much memory."""
        if seeds > self.state.seeds:
            State.check_size(self.spec, seeds, memory)

    def grow(self, seeds: int) -> None:
        """Makes room for so many seeds."""
        if seeds > self.state.seeds:
            self.state = carry_over(self.state, self.spec, self.spec, seeds)
