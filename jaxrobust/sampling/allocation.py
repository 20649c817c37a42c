"""What a sweep to a precision has decided to run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.sampling.block_schedule import block_schedule
from jaxrobust.sampling.pilot import pilot
from jaxrobust.sampling.rounds import FEWEST

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

_UNSETTLED = 0


@dataclass
class Allocation:
    """The trials that are wanted, and the images that each is to see.

    Attributes:
        seeds: how many each cell is to have; 0 for a cell that is not asked for.
        shown: how many blocks each seed is to see on each layer; 0 until that is settled.
    """

    seeds: Int[np.ndarray, "perturbations layers strengths"]
    shown: Int[np.ndarray, " layers"]

    @staticmethod
    def first(asked: Bool[np.ndarray, "perturbations layers strengths"]) -> Allocation:
        """The first round's seeds of the cells that are asked for, on the blocks of the pilot."""
        seeds = np.where(asked, FEWEST, 0).astype(np.int32)
        return Allocation(seeds, np.full(asked.shape[1], _UNSETTLED, np.int32))

    @property
    def unsettled(self) -> list[int]:
        """The layers of which it is not known yet how many blocks their seeds are to see."""
        return np.flatnonzero(self.shown == _UNSETTLED).tolist()

    @property
    def of_pilot(self) -> Allocation:
        """The same seeds, each on its first block, which the pilot has shown to the first ones."""
        return Allocation(self.seeds, np.ones_like(self.shown))

    def wanted(
        self, seeds: int, blocks: int, root: int, random: Bool[np.ndarray, " perturbations"]
    ) -> Bool[np.ndarray, "perturbations layers strengths seeds blocks"]:
        """The blocks that each trial is to see.

        Args:
            seeds: trials of seeds from there on are left out.
            blocks: of all images.
            root: of the sweep's random keys.
            random: which perturbations draw at random; of the others there is one trial in each
                cell, and it sees all blocks.
        """
        wanted = np.zeros((*self.seeds.shape, seeds, blocks), bool)
        counted = np.arange(seeds) < self.seeds[..., None]
        for layer, shown in enumerate(self.shown.tolist()):
            if shown == _UNSETTLED:
                rows = pilot(blocks, root)
            else:
                row = np.repeat(np.arange(seeds), shown)
                rows = row, block_schedule(blocks, shown, seeds, root).ravel()
            seen = np.zeros((max(seeds, FEWEST), blocks), bool)
            seen[rows] = True
            wanted[:, layer] = seen[:seeds] & counted[:, layer, :, :, None]
        wanted[~random] = (self.seeds[~random] > 0)[..., None, None]
        wanted[~random, :, :, 1:] = False
        return wanted
