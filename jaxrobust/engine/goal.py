"""What a sweep to a precision has decided to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxrobust.engine.spec import Specification
from jaxrobust.perturbations import Perturbation
from jaxrobust.precision import FEWEST, pilot, rota

_UNSETTLED = 0


@dataclass
class Goal:
    """The trials that are wanted, and the images that each is to see.

    Attributes:
        seeds: int32 [perturbation, layer, strength], how many seeds each cell is to have.
        shown: int32 [layer], how many blocks each seed is to see; 0 until that is settled.
    """

    seeds: np.ndarray
    shown: np.ndarray

    @staticmethod
    def first(spec: Specification) -> Goal:
        """The first round's seeds, on the blocks of the pilot."""
        cells = len(spec.strengths), len(spec.layers), len(spec.grid)
        return Goal(
            np.full(cells, FEWEST, np.int32), np.full(len(spec.layers), _UNSETTLED, np.int32)
        )

    @property
    def unsettled(self) -> list[int]:
        """The layers of which it is not known yet how many blocks their seeds are to see."""
        return np.flatnonzero(self.shown == _UNSETTLED).tolist()

    def wanted(self, spec: Specification, perturbations: Sequence[Perturbation]) -> np.ndarray:
        """The blocks that each trial is to see.

        Without random draws there is one trial, and it sees all of them.

        Returns:
            Bool [perturbation, layer, strength, seed, block].
        """
        shape = (*self.seeds.shape, spec.seeds, spec.blocks)
        wanted = np.zeros(shape, bool)
        counted = np.arange(spec.seeds) < self.seeds[..., None]
        for layer, shown in enumerate(self.shown.tolist()):
            seen = np.zeros((spec.seeds, spec.blocks), bool)
            if shown == _UNSETTLED:
                seeds, blocks = pilot(spec.blocks, spec.root)
                seen[seeds, blocks] = True
            else:
                rows = rota(spec.blocks, shown, spec.seeds, spec.root)
                seen[np.arange(spec.seeds)[:, None], rows] = True
            wanted[:, layer] = seen & counted[:, layer, :, :, None]
        for row, perturbation in enumerate(perturbations):
            if perturbation.draw is None:
                wanted[row] = np.arange(spec.seeds)[:, None] == 0
        return wanted
