"""The damaged leaves of trials, made a few trials at a time on every device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxrobust.design.specification import Specification
from jaxrobust.design.trials import Trial, TrialSet, batches
from jaxrobust.execution.plan import BatchPlan
from jaxrobust.execution.steps.ordinary import overlaps
from jaxrobust.layers import Layer, Leaf
from jaxrobust.perturbations import LinearDamage, Perturbation, damage, draw, linear_damage
from jaxrobust.perturbations.linear import Overlaps
from jaxrobust.runtime.meshes import TRIALS, WHOLE, on_mesh

if TYPE_CHECKING:
    from jaxtyping import Array


@dataclass(frozen=True)
class Step:
    """What one call of the compiled program runs, the same number of trials on every device.

    Attributes:
        trials: the (strength column, seed) of each, device by device; None where it is padding.
        leaves: path -> damaged leaf [trials, …], without a kernel that enters a product.
        linear: how the product follows from that of the undamaged kernel; None if it is the
            chunk's own.
        rows: for each trial the row of its device's kernels that is its direction.
        damaged: makes all damaged leaves, path -> [trials, …].
    """

    trials: tuple[Trial | None, ...]
    leaves: dict[str, Array]
    linear: LinearDamage | None
    rows: np.ndarray
    damaged: Callable[[], dict[str, Array]]


@dataclass(frozen=True)
class Chunk:
    """Steps that share what is multiplied.

    Attributes:
        row: index of the perturbation.
        kernels: [n, …], multiplied with what reaches the layer before the steps are run: the
            damaged kernels of the only step's trials, or the directions of some seeds; None if
            there is nothing to multiply.
        overlaps: of the directions with the kernel.
        steps: at least one.
    """

    row: int
    kernels: Array | None
    overlaps: Overlaps | None
    steps: tuple[Step, ...]


def is_linear(perturbation: Perturbation, layers: Sequence[Layer], kernel: Leaf) -> bool:
    """Whether trials that damage these layers can share the product that the kernel enters."""
    return perturbation.linear is not None and len(layers) == 1 and kernel.dtype == np.float32


def chunks(
    spec: Specification,
    plan: BatchPlan,
    layers: Sequence[Layer],
    kernel: Leaf | None,
    trial_sets: Sequence[TrialSet],
    mesh: Mesh,
) -> Iterator[Chunk]:
    """Draws the noise of some seeds at a time and damages leaves.

    Args:
        spec, plan: what to run and how.
        layers: those that are damaged together.
        kernel: the kernel whose product trials may share; None if every trial damages and
            multiplies its own.
        trial_sets: perturbations that touch the same leaves of the layers.
        mesh: the devices among which the trials of each perturbation are divided.
    """
    for each in trial_sets:
        shares = each.shares(mesh.shape["trial"])
        seeds = [sorted({seed for _, seed in share}) for share in shares]
        most = max(map(len, seeds))
        count = min(plan.seeds_per_draw, most)
        for start in range(0, most, count):
            drawn = [own[start : start + count] for own in seeds]
            trials = _of_seeds(shares, drawn)
            if each.are_done(chain(*trials)):
                continue
            # The last group is padded with draws that nobody uses, so nothing is recompiled.
            padded = [own + [0] * (count - len(own)) for own in drawn]
            keys = np.asarray(padded, np.uint32).ravel()
            noise = draw(each.perturbation, layers, spec.root, keys, mesh)
            cut = _Cut(spec, plan, each, mesh, noise, count, drawn, trials)
            if kernel is not None and is_linear(each.perturbation, layers, kernel):
                yield from cut.linear(layers[0], kernel)
            else:
                yield from cut.general(layers, kernel)


@dataclass(frozen=True)
class _Cut:
    """Trials whose noise is held at once, to be cut into steps.

    Attributes:
        spec, plan, each, mesh: what is run, how, where.
        noise: of each layer, [devices · count, …].
        count: how many draws each device holds.
        drawn: the seeds that they are for, of each device.
        trials: those of each device.
    """

    spec: Specification
    plan: BatchPlan
    each: TrialSet
    mesh: Mesh
    noise: list[Any]
    count: int
    drawn: list[list[int]]
    trials: list[list[Trial]]

    def general(self, layers: Sequence[Layer], kernel: Leaf | None) -> Iterator[Chunk]:
        for trials in self._steps(self.trials):
            padded, rows, strengths = self._padded(trials)
            damaged = self._damaged(layers, rows, strengths)
            leaves = damaged()
            kernels = leaves.pop(kernel.path) if kernel else None
            step = Step(padded, leaves, None, rows, damaged)
            yield Chunk(self.each.row, kernels, None, (step,))

    def linear(self, layer: Layer, kernel: Leaf) -> Iterator[Chunk]:
        (noise,) = self.noise
        together = min(max(self.plan.trials_per_step // len(self.each.columns), 1), self.count)
        for start in range(0, self.count, together):
            steps = []
            seeds = [own[start : start + together] for own in self.drawn]
            for trials in self._steps(_of_seeds(self.trials, seeds)):
                padded, rows, strengths = self._padded(trials)
                linear = linear_damage(
                    self.each.perturbation, layer, kernel, noise, rows, strengths, self.mesh
                )
                damaged = self._damaged([layer], rows, strengths)
                steps.append(Step(padded, linear.leaves, linear, rows - start, damaged))
            if steps:
                directions, found = None, None
                if steps[0].linear.acts.directions_per_seed:
                    directions = self._rows(noise[kernel.path], start, together)
                    found = overlaps(kernel, directions, self.mesh)
                yield Chunk(self.each.row, directions, found, tuple(steps))

    def _damaged(
        self, layers: Sequence[Layer], rows: np.ndarray, strengths: list[Any]
    ) -> Callable[[], dict[str, Array]]:
        given = (self.each.perturbation, layers, self.noise, rows, strengths, self.mesh)
        return partial(damage, *given)

    def _steps(self, trials: Sequence[Sequence[Trial]]) -> Iterator[Sequence[Sequence[Trial]]]:
        """What each device runs in one step after the other, without those that are done."""
        width = self.plan.trials_per_step
        for step in zip_longest(*(batches(own, width) for own in trials), fillvalue=()):
            if not self.each.are_done(chain(*step)):
                yield step

    def _padded(
        self, trials: Sequence[Sequence[Trial]]
    ) -> tuple[tuple[Trial | None, ...], np.ndarray, list[Any]]:
        """The trials of a step, for each the row of its seed's noise on its device, its strength.

        A device with too few repeats its last one.
        """
        width = self.plan.trials_per_step
        padded, rows, columns = [], [], []
        for drawn, own in zip(self.drawn, trials, strict=True):
            row_of = {seed: row for row, seed in enumerate(drawn)}
            column, row = (own[-1][0], row_of[own[-1][1]]) if own else (self.each.columns[0], 0)
            padded += [*own, *[None] * (width - len(own))]
            for trial in padded[-width:]:
                rows.append(row_of[trial[1]] if trial else row)
                columns.append(trial[0] if trial else column)
        strengths = [self.spec.grid[column] for column in columns]
        return tuple(padded), np.asarray(rows, np.int32), strengths

    def _rows(self, values: Array, start: int, count: int) -> Array:
        """Some rows of every device, the last one repeated behind the end; never a copy of all."""
        if count == self.count:
            return values
        index = np.minimum(np.arange(start, start + count), self.count - 1)
        return _take(self.mesh)(values, index)


@cache
def _take(mesh: Mesh) -> Callable[[Array, np.ndarray], Array]:
    return on_mesh(partial(jnp.take, axis=0), mesh, [TRIALS, WHOLE], TRIALS)


def _of_seeds(
    shares: Sequence[Sequence[Trial]], seeds: Sequence[Sequence[int]]
) -> list[list[Trial]]:
    """Each device's trials of some of its seeds."""
    return [
        [(column, seed) for column, seed in share if seed in own]
        for share, own in zip(shares, seeds, strict=True)
    ]
