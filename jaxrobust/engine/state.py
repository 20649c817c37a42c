"""The state of a sweep: sums per trial and block, which add up in any order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxrobust.engine.spec import Specification
from jaxrobust.errors import SpecificationError

COUNTS = ("images", "top1", "top5", "changed", "nonfinite")


@dataclass(frozen=True)
class State:
    """Sums over the images of each block.

    Attributes:
        trials: by quantity: int32 counts (`images`, `top1`, `top5`, `changed`, `nonfinite`) and
            float64 sums (`loss`, the user's metrics), each
            [perturbation, layer, strength, seed, block]. A trial that was not run has seen 0
            images.
        clean: the same of the undamaged network, each [block].
        carried: int32 [perturbation, layer, strength, seed], how many of the first images were
            counted by the sweep that this one extends: whole blocks, or all images.
    """

    trials: dict[str, np.ndarray]
    clean: dict[str, np.ndarray]
    carried: np.ndarray

    @staticmethod
    def check_size(spec: Specification, memory: int) -> None:
        """Raises SpecificationError if the state would not fit into a quarter of the memory."""
        cells, size = State._cells(spec), State.size_in_bytes(spec)
        if size > memory // 4:
            raise SpecificationError(
                f"{cells:,} trials × blocks need {size / 2**30:.1f} GiB of sums, more than a "
                f"quarter of {memory / 2**30:.1f} GiB: use a larger block (now {spec.block}), "
                "fewer seeds, strengths or layers"
            )

    @staticmethod
    def size_in_bytes(spec: Specification) -> int:
        """Bytes of the sums of all trials, on the host."""
        return State._cells(spec) * (4 * len(COUNTS) + 8 * (1 + len(spec.metrics)))

    @staticmethod
    def _cells(spec: Specification) -> int:
        trials = len(spec.strengths) * len(spec.layers) * len(spec.grid) * spec.seeds
        return trials * spec.blocks

    @staticmethod
    def empty(spec: Specification) -> State:
        """Nothing has been seen yet."""
        shape = (len(spec.strengths), len(spec.layers), len(spec.grid), spec.seeds, spec.blocks)
        kinds = dict.fromkeys(COUNTS, np.int32) | dict.fromkeys(("loss", *spec.metrics), np.float64)
        return State(
            trials={name: np.zeros(shape, kind) for name, kind in kinds.items()},
            clean={name: np.zeros(spec.blocks, kind) for name, kind in kinds.items()},
            carried=np.zeros(shape[:-1], np.int32),
        )

    def complete(self, spec: Specification) -> np.ndarray:
        """Which trials have seen all images: bool [perturbation, layer, strength, seed]."""
        return self.trials["images"].sum(-1) == spec.images

    def rewind(self, spec: Specification) -> None:
        """Takes back what trials have counted that did not come to their end."""
        new = np.arange(spec.blocks) >= -(-self.carried[..., None] // spec.block)
        unfinished = new & ~self.complete(spec)[..., None]
        for values in self.trials.values():
            values[unfinished] = 0

    def add(
        self, trial: tuple[int, int, int, int], first_block: int, sums: Mapping[str, np.ndarray]
    ) -> None:
        """Adds the sums of consecutive blocks, each [blocks], to one trial (its four indices).

        Blocks behind the last one are padding and left out.
        """
        for name, values in sums.items():
            own = self.trials[name][trial][first_block : first_block + len(values)]
            own += values[: len(own)]

    def fill_identity(self, row: int, column: int, seeds: int) -> None:
        """Gives all trials of a perturbation's row and strength's column the undamaged sums."""
        for quantity, values in self.clean.items():
            self.trials[quantity][row, :, column, :seeds] = values
