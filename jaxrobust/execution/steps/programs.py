"""Compiled programs: one for each distinct piece of a network, whichever layer is damaged.

What a program is given of the parameters has an axis for trials, of length 1 where they share it.
Values that depend on the images have an axis with one entry for each device that has a part of the
images, and behind it one for trials where these differ. Where a device runs one trial at a time on
its own there is none: these trials are run by the programs that run the undamaged network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrobust.counts.score import score
from jaxrobust.design.specification import Keep
from jaxrobust.execution.images import blocks_per_step
from jaxrobust.execution.steps.ordinary import Limits, is_strange
from jaxrobust.metrics import Metric
from jaxrobust.perturbations.linear import Affine, Overlaps, PerUnit
from jaxrobust.program.segments import Piece
from jaxrobust.runtime.meshes import (
    IMAGES,
    IMAGES_AND_TRIALS,
    TRIALS,
    WHOLE,
    divided,
    network_on_mesh,
)

STRANGE = "strange"
_NO_LIMIT = np.float32(-1)
Own = tuple[bool, ...]
"""For each of some values whether every trial has its own."""


@lru_cache(maxsize=4096)
def derivation_program(piece: Piece, own: Own, mesh: Mesh) -> Any:
    """`given -> made`, of what depends on parameters only.

    Args:
        piece: reads nothing that depends on the images.
        own: for each of `given` whether it is [trials, …] rather than [1, …]; if one is, so is all
            that is made.
        mesh: the devices.
    """

    def derived(*given: Array) -> list[Array]:
        values = _shared(given, own)
        if any(own):
            return jax.vmap(lambda given: piece(given, ()), (_axes(own),))(values)
        return [value[None] for value in piece(values, ())]

    how = [TRIALS if each else WHOLE for each in own]
    return network_on_mesh(derived, mesh, how, TRIALS if any(own) else WHOLE)


@lru_cache(maxsize=4096)
def piece_program(piece: Piece, own: Own, reached: Own, mesh: Mesh) -> Any:
    """`(given, reads) -> made`, of a piece of the network.

    Args:
        piece: what is computed.
        own: for each of `given` whether it is [trials, …] rather than [1, …].
        reached: for each of `reads` whether it is [devices, trials, …] rather than [devices, …].
        mesh: the devices.
    """
    batched = any((*own, *reached))

    def made(given: list[Array], reads: list[Array]) -> list[Array]:
        compute = jax.vmap(piece, (_axes(own), _axes(reached))) if batched else piece
        values = compute(_shared(given, own), [each[0] for each in reads])
        return [value[None] for value in values]

    given = [TRIALS if each else WHOLE for each in own]
    reads = [IMAGES_AND_TRIALS if each else IMAGES for each in reached]
    return network_on_mesh(made, mesh, [given, reads], IMAGES_AND_TRIALS if batched else IMAGES)


def _axes(own: Own) -> list[int | None]:
    return [0 if each else None for each in own]


def _shared(values: Sequence[Any], own: Own) -> list[Any]:
    """The values, those that all trials share without an axis for trials."""
    return [value if each else value[0] for value, each in zip(values, own, strict=True)]


class Shared(NamedTuple):
    """What the products of trials follow from.

    Attributes:
        infinite: [devices], whether the undamaged product is not finite.
        directions: their products, [devices, rows, …], in the single case [devices, …]; or None.
        overlaps: of the directions with the kernel, or None.
        rows: int32 [trials], which direction is a trial's.
        own: what each trial has of its own, [trials, …].
    """

    infinite: Any
    directions: Array | None
    overlaps: Overlaps | None
    rows: Array
    own: Array


@lru_cache(maxsize=4096)
def sharing_program(
    piece: Piece,
    own: Own,
    acts: Affine | PerUnit,
    product: int,
    unit_axis: int,
    single: bool,
    mesh: Mesh,
) -> Any:
    """`(given, reads, shared) -> (made, strange)`: the piece that reads a shared product.

    Args:
        piece: reads the undamaged product, and otherwise what no damage reaches.
        own: for each of `given` whether it is [trials, …] rather than [1, …].
        acts: how the product of a trial follows.
        product: the place of the product among `reads`.
        unit_axis: the axis of the product that counts the kernel's output units.
        single: there is one trial, and an axis for it only in `shared`.
        mesh: the devices.
    """

    def made(given: list[Any], reads: list[Any], shared: Shared) -> tuple[list[Array], Array]:
        given, reads = _shared(given, own), [each[0] for each in reads]

        def one_trial(given: Any, row: Array, own: Any) -> Any:
            direction, overlaps = None, None
            if shared.directions is not None and shared.overlaps is not None:
                direction = shared.directions[0] if single else shared.directions[0][row]
                overlaps = shared.overlaps.of(row)
            value = acts.product(reads[product], direction, own, unit_axis)
            odd = shared.infinite[0] | acts.is_strange(overlaps, own)
            return piece(given, [*reads[:product], value, *reads[product + 1 :]]), odd

        trials = (shared.rows, shared.own)
        if single:
            values, odd = one_trial(given, *(jax.tree.map(lambda x: x[0], each) for each in trials))
            odd = odd[None]
        else:
            values, odd = jax.vmap(one_trial, (_axes(own), 0, 0))(given, *trials)
        return [value[None] for value in values], odd[None]

    given = [TRIALS if each else WHOLE for each in own]
    out = IMAGES if single else IMAGES_AND_TRIALS
    how = Shared(IMAGES, out, TRIALS, TRIALS, TRIALS)  # pyright: ignore[reportArgumentType]
    reads = [IMAGES] * len(piece.reads)
    return network_on_mesh(made, mesh, [given, reads, how], (out, IMAGES_AND_TRIALS))


@lru_cache(maxsize=64)
def infinite_program(mesh: Mesh) -> Any:
    """`[devices, …] -> [devices]`: whether something of an array is not a finite number.

    Of a unit that is silent nothing is left, unless it is infinite: 0 · inf is not a number.
    """

    def infinite(array: Array) -> Array:
        return ~jnp.all(jnp.isfinite(array))[None]

    return network_on_mesh(infinite, mesh, [IMAGES], IMAGES)


@lru_cache(maxsize=64)
def _strange_leaves_program(mesh: Mesh) -> Any:
    """`(leaves [trials, …], limits) -> [trials]`: whether one of a trial's leaves is strange."""

    def strange(leaves: list[Array], limits: list[Array]) -> Array:
        def one_trial(leaves: list[Array]) -> Array:
            found = [is_strange(*each) for each in zip(leaves, limits, strict=True)]
            return jnp.stack(found).any()

        return jax.vmap(one_trial)(leaves)

    return network_on_mesh(strange, mesh, [TRIALS, WHOLE], TRIALS)


class Scoring:
    """Makes sums of logits.

    Args:
        images: of one step, on all devices that divide them.
        trials: of one step, on all devices that divide them.
        block: images that are counted together.
        metrics: what is measured of each image.
        keep: "images" for bits of which images were right, too.
        mesh: the devices.
    """

    def __init__(
        self,
        images: int,
        trials: int,
        *,
        block: int,
        metrics: Sequence[Metric],
        keep: Keep,
        mesh: Mesh,
    ) -> None:
        self._mesh = mesh
        self._ordinary = divided(np.zeros(trials, bool), mesh, TRIALS)
        nothing = np.zeros((mesh.shape["image"], trials), bool)
        self._shared = divided(nothing, mesh, IMAGES_AND_TRIALS)
        how = (block, blocks_per_step(images, block), tuple(metrics), keep, mesh)
        self._program = partial(_scoring_program, *how)

    def __call__(
        self,
        logits: tuple[Array | np.ndarray, bool],
        leaves: Mapping[str, Array],
        strange: Array | None,
        limits: Limits | None,
        scoring: Sequence[Array | np.ndarray],
    ) -> dict[str, Array]:
        """The sums of a step.

        Args:
            logits: [devices, trials, images, classes], or without the trials' axis, and whether it
                is there.
            leaves: path -> damaged leaf [trials, …].
            strange: trials that are so for other reasons, [devices, trials].
            limits: None where the plain definition was computed.
            scoring: see `score`.

        Returns:
            Quantity -> [trials, blocks]; bits are [trials, blocks, bytes]; `strange` [trials] is 0
            for ordinary trials.
        """
        values, per_trial = logits
        odd, limit = self._ordinary, _NO_LIMIT
        if limits is not None:
            limit = limits.logits
            if leaves:
                most = [limits.leaves[path] for path in leaves]
                odd = _strange_leaves_program(self._mesh)(list(leaves.values()), most)
        strange = self._shared if strange is None else strange
        return self._program(per_trial)(values, odd, strange, limit, list(scoring))


@lru_cache(maxsize=256)
def _scoring_program(
    block: int,
    blocks: int,
    metrics: tuple[Metric, ...],
    keep: Keep,
    mesh: Mesh,
    per_trial: bool,
) -> Any:
    """`(logits, strange leaves, strange products, limit, scoring) -> sums` of `Scoring`."""

    def sums(logits: Any, leaves: Any, products: Any, limit: Any, scoring: Any) -> Any:
        def one_trial(logits: Any, leaves: Any, products: Any) -> dict[str, Array]:
            odd = leaves | products | (is_strange(logits, limit) & (limit != _NO_LIMIT))
            how = dict(block=block, blocks=blocks, metrics=metrics, keep=keep)
            return {**score(logits, *scoring, **how), STRANGE: odd.astype(jnp.int32)}

        found = jax.vmap(one_trial, (0 if per_trial else None, 0, 0))(
            logits[0], leaves, products[0]
        )
        return jax.lax.psum(found, "image") if mesh.shape["image"] > 1 else found

    made = IMAGES_AND_TRIALS if per_trial else IMAGES
    given = [made, TRIALS, IMAGES_AND_TRIALS, WHOLE, IMAGES]
    return network_on_mesh(sums, mesh, given, TRIALS)
