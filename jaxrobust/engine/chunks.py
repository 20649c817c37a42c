"""The damaged leaves of trials, made a few trials at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxrobust.engine.job import Swept, batches
from jaxrobust.engine.plan import Plan
from jaxrobust.engine.spec import Specification
from jaxrobust.layers import Layer, Leaf
from jaxrobust.perturbations import LinearDamage, Perturbation, damage, draw, linear_damage

if TYPE_CHECKING:
    from jaxtyping import Array


@dataclass(frozen=True)
class Step:
    """What one call of the compiled program runs; padded at the end by repeating the last trial.

    Attributes:
        trials: the (strength column, seed) of each, without padding.
        leaves: path -> damaged leaf [trials, …], without a kernel that enters a product.
        linear: how the product follows from that of the undamaged kernel; None if it is the
            chunk's own.
        rows: for each trial the row of the chunk's kernels that is its direction.
    """

    trials: tuple[tuple[int, int], ...]
    leaves: dict[str, Array]
    linear: LinearDamage | None
    rows: np.ndarray


@dataclass(frozen=True)
class Chunk:
    """Steps that share what is multiplied.

    Attributes:
        row: index of the perturbation.
        kernels: [n, …], multiplied with what reaches the layer before the steps are run: the
            damaged kernels of the only step's trials, or the directions of some seeds; None if
            there is nothing to multiply.
        steps: at least one.
    """

    row: int
    kernels: Array | None
    steps: tuple[Step, ...]


def is_linear(perturbation: Perturbation, layers: Sequence[Layer], kernel: Leaf) -> bool:
    """Whether trials that damage these layers can share the product that the kernel enters."""
    return perturbation.acts is not None and len(layers) == 1 and kernel.dtype == np.float32


def chunks(
    spec: Specification,
    plan: Plan,
    layers: Sequence[Layer],
    kernel: Leaf | None,
    swept: Sequence[Swept],
) -> Iterator[Chunk]:
    """Draws the noise of some seeds at a time and damages leaves.

    Args:
        spec, plan: what to run and how.
        layers: those that are damaged together.
        kernel: the kernel whose product trials may share; None if every trial damages and
            multiplies its own.
        swept: perturbations that touch the same leaves of the layers.
    """
    for each in swept:
        count = min(plan.seeds_per_draw, each.seeds)
        for first in range(0, each.seeds, count):
            if each.are_done(each.of_seeds(first, count)):
                continue
            # The last group is padded with draws that nobody uses, so nothing is recompiled.
            seeds = np.arange(first, first + count, dtype=np.uint32)
            noise = draw(each.perturbation, layers, spec.root, seeds)
            if kernel is not None and is_linear(each.perturbation, layers, kernel):
                yield from _linear(spec, plan, layers[0], kernel, each, seeds, noise[0])
            else:
                yield from _general(spec, plan, layers, kernel, each, seeds, noise)


def _general(
    spec: Specification,
    plan: Plan,
    layers: Sequence[Layer],
    kernel: Leaf | None,
    each: Swept,
    seeds: np.ndarray,
    noise: list[Any],
) -> Iterator[Chunk]:
    first = int(seeds[0])
    for trials in batches(each.of_seeds(first, len(seeds)), plan.trials_per_step):
        if each.are_done(trials):
            continue
        rows, strengths = _padded(spec, trials, first, plan.trials_per_step)
        leaves = damage(each.perturbation, layers, noise, rows, strengths)
        kernels = leaves.pop(kernel.path) if kernel else None
        yield Chunk(each.row, kernels, (Step(trials, leaves, None, rows),))


def _linear(
    spec: Specification,
    plan: Plan,
    layer: Layer,
    kernel: Leaf,
    each: Swept,
    seeds: np.ndarray,
    noise: Any,
) -> Iterator[Chunk]:
    width = plan.trials_per_step
    together = min(max(width // len(each.columns), 1), len(seeds))
    for start in range(0, len(seeds), together):
        first = int(seeds[start])
        steps = []
        for trials in batches(each.of_seeds(first, together), width):
            if each.are_done(trials):
                continue
            rows, strengths = _padded(spec, trials, first, width)
            linear = linear_damage(each.perturbation, layer, kernel, noise, rows + start, strengths)
            steps.append(Step(trials, linear.leaves, linear, rows))
        if steps:
            directions = None
            if each.perturbation.acts == "affine":
                directions = _rows(noise[kernel.path], start, together)
            yield Chunk(each.row, directions, tuple(steps))


def _padded(
    spec: Specification, trials: Sequence[tuple[int, int]], first: int, width: int
) -> tuple[np.ndarray, list[Any]]:
    """For each of `width` trials the row of its seed, counted from `first`, and its strength."""
    full = [*trials, *[trials[-1]] * (width - len(trials))]
    rows = np.asarray([seed - first for _, seed in full], np.int32)
    return rows, [spec.grid[column] for column, _ in full]


def _rows(values: Array, start: int, count: int) -> Array:
    """Some consecutive rows, the last one repeated behind the end; all of them are not copied."""
    if count == len(values):
        return values
    return jnp.take(values, np.minimum(np.arange(start, start + count), len(values) - 1), axis=0)
