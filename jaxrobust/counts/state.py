"""The state of a sweep: sums per trial and block, which add up in any order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxrobust.design.specification import Specification
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.ground.text import binary_size
from jaxrobust.results import BITS, NONFINITE


@dataclass(frozen=True)
class State:
    """Sums over the images of each block.

    Which images were right, where that is kept, is a sum as well: each image has a bit of its own.

    Attributes:
        trials: by quantity: int32 counts (`images`, `nonfinite`, metrics that are shares, and
            `nonfinite_…` of metrics that are not over finite logits) and float64 sums (the other
            metrics), each [perturbation, layer, strength, seed, block], behind that [bin] for
            metrics with bins, and uint8 bits (`top1_bits`, `top5_bits`), each [perturbation,
            layer, strength, seed, block, byte]. A trial that was not run has seen 0 images.
        clean: the same of the undamaged network, each [block], [block, bin] or [block, byte].
        carried: bool [perturbation, layer, strength, seed, block], which blocks were counted by the
            sweep that this one extends.
    """

    trials: dict[str, np.ndarray]
    clean: dict[str, np.ndarray]
    carried: np.ndarray

    @staticmethod
    def check_size(spec: Specification, seeds: int, memory: int) -> None:
        """Raises SpecificationError if the sums of so many seeds take over a quarter of memory."""
        cells, size = State._cells(spec, seeds), State.size_in_bytes(spec, seeds)
        if size > memory // 4:
            raise SpecificationError(
                f"{cells:,} trials × blocks need {binary_size(size)} of sums, more than a "
                f"quarter of {binary_size(memory)}: use a larger block (now {spec.block}), "
                "fewer seeds, strengths or layers"
            )

    @staticmethod
    def size_in_bytes(spec: Specification, seeds: int) -> int:
        """Bytes of the sums of all trials of so many seeds, on the host."""
        kinds = sum(kind.itemsize * max(bins, 1) for kind, bins in _kinds(spec).values())
        return State._cells(spec, seeds) * (kinds + 1 + _bytes_of_bits(spec))

    @staticmethod
    def _cells(spec: Specification, seeds: int) -> int:
        trials = len(spec.strengths) * len(spec.layers) * len(spec.grid) * seeds
        return trials * spec.blocks

    @staticmethod
    def empty(spec: Specification, seeds: int) -> State:
        """Nothing has been seen yet; there is room for so many seeds."""
        shape = (len(spec.strengths), len(spec.layers), len(spec.grid), seeds, spec.blocks)
        trials = {
            name: np.zeros((*shape, bins) if bins else shape, kind)
            for name, (kind, bins) in _kinds(spec).items()
        }
        if spec.keep == "images":
            bits = (*shape, _bytes_of_bits(spec) // len(BITS))
            trials |= {name: np.zeros(bits, np.uint8) for name in BITS}
        return State(
            trials=trials,
            clean={name: np.zeros_like(values[0, 0, 0, 0]) for name, values in trials.items()},
            carried=np.zeros(shape, bool),
        )

    @property
    def seeds(self) -> int:
        """How many seeds there is room for."""
        return self.carried.shape[3]

    @property
    def counted(self) -> np.ndarray:
        """Which blocks trials have seen wholly: bool, as `carried`."""
        seen = self.trials["images"]
        return (seen > 0) & (seen == self.clean["images"])

    def complete(self, wanted: np.ndarray) -> np.ndarray:
        """Which trials have seen all that they are to see.

        Args:
            wanted: the blocks that each trial is to see: bool, as `carried`.

        Returns:
            Bool [perturbation, layer, strength, seed].
        """
        return np.all(self.counted | ~wanted, axis=-1)

    def settle(self) -> None:
        """What was counted stays, whatever trials are to see from now on."""
        self.carried[self.counted] = True

    def rewind(self, wanted: np.ndarray) -> None:
        """Takes back what trials have counted that did not come to their end, to run it anew."""
        unfinished = ~self.carried & ~self.complete(wanted)[..., None]
        for values in self.trials.values():
            values[unfinished] = 0

    def add(
        self, trial: tuple[int, int, int, int], first_block: int, sums: Mapping[str, np.ndarray]
    ) -> None:
        """Adds the sums of consecutive blocks to one trial (its four indices).

        Args:
            trial, first_block: where to.
            sums: quantity -> [blocks], [blocks, bins] or [blocks, bytes].

        Blocks behind the last one are padding and left out.
        """
        for name, values in sums.items():
            own = self.trials[name][trial][first_block : first_block + len(values)]
            with np.errstate(invalid="ignore"):  # infinities of both signs add up to NaN
                own += values[: len(own)]

    def fill_identity(self, row: int, column: int, seeds: int) -> None:
        """Gives all trials of a perturbation's row and strength's column the undamaged sums."""
        for quantity, values in self.clean.items():
            self.trials[quantity][row, :, column, :seeds] = values


def _kinds(spec: Specification) -> dict[str, tuple[np.dtype, int]]:
    """The dtype of every sum, and how many bins it has."""
    count, total = np.dtype(np.int32), np.dtype(np.float64)
    kinds: dict[str, tuple[np.dtype, int]] = dict.fromkeys(("images", "nonfinite"), (count, 0))
    for name, share, finite, bins in spec.metrics:
        kinds[name] = (count if share else total, bins)
        if not (share or finite):
            kinds[NONFINITE + name] = (count, bins)
    return kinds


def _bytes_of_bits(spec: Specification) -> int:
    """What the bits of one trial and block take."""
    return len(BITS) * -(-spec.block // 8) if spec.keep == "images" else 0
