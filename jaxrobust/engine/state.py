"""The state of a sweep: sums per trial and block, which add up in any order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from jaxrobust.engine.spec import Specification

COUNTS = ("images", "top1", "top5", "changed", "nonfinite")


@dataclass(frozen=True)
class State:
    """Sums over the images of each block.

    Attributes:
        trials: by quantity: int64 counts (`images`, `top1`, `top5`, `changed`, `nonfinite`) and
            float64 sums (`loss`, the user's metrics), each
            [perturbation, layer, strength, seed, block]. A trial that was not run has seen 0
            images.
        clean: the same of the undamaged network, each [block].
    """

    trials: dict[str, np.ndarray]
    clean: dict[str, np.ndarray]

    @staticmethod
    def empty(spec: Specification) -> State:
        """Nothing has been seen yet."""
        shape = (len(spec.strengths), len(spec.layers), len(spec.grid), spec.seeds, spec.blocks)
        kinds = dict.fromkeys(COUNTS, np.int64) | dict.fromkeys(("loss", *spec.metrics), np.float64)
        return State(
            trials={name: np.zeros(shape, kind) for name, kind in kinds.items()},
            clean={name: np.zeros(spec.blocks, kind) for name, kind in kinds.items()},
        )

    def add(
        self, trial: tuple[int, int, int, int], first_block: int, sums: Mapping[str, np.ndarray]
    ) -> None:
        """Adds the sums of consecutive blocks, each [blocks], to one trial (its four indices).

        Blocks behind the last one are padding and left out.
        """
        for name, values in sums.items():
            own = self.trials[name][trial][first_block : first_block + len(values)]
            own += values[: len(own)]

    def fill_identities(self, spec: Specification, identities: Mapping[str, Decimal]) -> None:
        """Gives every trial at a perturbation's identity the undamaged network's sums."""
        for row, (name, strengths) in enumerate(spec.strengths):
            if identities[name] in map(Decimal, strengths):
                column = spec.grid.index(identities[name])
                for quantity, values in self.clean.items():
                    self.trials[quantity][row, :, column] = values
