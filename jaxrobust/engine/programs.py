"""The compiled programs of the trials on one group of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxrobust.engine.clean import blocks_per_step
from jaxrobust.engine.compiling import network_options
from jaxrobust.engine.ordinary import are_ordinary, may_be_added, may_be_multiplied, unit_peaks
from jaxrobust.engine.plan import Plan
from jaxrobust.engine.score import score
from jaxrobust.engine.spec import Keep, Metric
from jaxrobust.hoist import Split, peaks
from jaxrobust.meshes import IMAGES, IMAGES_AND_TRIALS, TRIALS, WHOLE, on_mesh

if TYPE_CHECKING:
    from jaxtyping import Array

STRANGE = "strange"


class Programs:
    """What a group of layers is run with, on every device of a mesh.

    Each device has its part of the trials and of the images. What it makes of them stays there and
    gets an axis in front for its place along `image`: which axis of an activation counts the
    images is not known. Nothing is passed between devices but sums over images, where these are
    divided.

    Args:
        parts: the network split for the images of one device in one step.
        plan: how many images that is.
        mesh: the devices.
        sharing: whether trials share the product of the undamaged kernel.
        block: images that are counted together.
        metrics: the user's own by name.
        keep: "images" for bits of which images were right, too.

    A trial is strange where faster ways of computing it may not be accurate (see `ordinary`).

    Attributes:
        shared: `params -> shared`.
        prefix: `(params, shared, images) -> (residuals, undamaged)`: the product of the undamaged
            kernel with its `unit_peaks`, None where it is not shared.
        multiply: `(kernels [trials, …], params, shared, residuals, limits) -> (products, strange)`,
            what reaches the layer times each kernel.
        mix: `(undamaged, products of directions, rows [trials], scales [trials], factors
            [trials, …]) -> (products, strange)` of trials that share them.
        finish: `((products, strange) or None, damaged leaves [trials, …], params, shared,
            residuals, limits, *scoring) -> sums [trials, blocks]` by quantity, bits
            [trials, blocks, bytes], and `strange` [trials], which is 0 for ordinary trials.
    """

    def __init__(
        self,
        parts: Split,
        plan: Plan,
        mesh: Mesh,
        *,
        sharing: bool,
        block: int,
        metrics: Mapping[str, Metric],
        keep: Keep,
    ) -> None:
        blocks = blocks_per_step(plan.images_per_step * plan.image_devices, block)

        def shared(params: Any) -> Any:
            return parts.shared(params)

        def prefix(params: Any, shared: Any, images: Array) -> Any:
            residuals = parts.prefix(params, shared, images)
            if not sharing:
                return _placed((residuals, None))
            product = parts.multiply(None, params, shared, residuals)
            return _placed((residuals, (product, unit_peaks(product, parts.unit_axis))))

        def multiply(
            kernels: Array, params: Any, shared: Any, residuals: Any, limits: Array
        ) -> tuple[Array, Array]:
            watched = parts.watched_kernel

            def one_trial(kernel: Array) -> tuple[Array, Array]:
                product = parts.multiply(kernel, params, shared, _own(residuals))
                if watched is None:
                    return product, jnp.zeros((), bool)
                return product, ~are_ordinary(peaks([kernel])[0], limits[watched])

            return _placed(jax.vmap(one_trial)(kernels))

        def mix(
            undamaged: tuple[Array, Array], directions: Any, rows: Any, scales: Any, factors: Any
        ) -> tuple[Array, Array]:
            # A direction has no limit of its own: what it makes of the product is looked at.
            (product, greatest), (directions, _) = _own((undamaged, directions or (None, None)))

            def one_trial(row: Array, scale: Any, factor: Any) -> tuple[Array, Array]:
                own, ordinary = product, jnp.ones((), bool)
                if scale is not None:
                    own = product + scale * directions[row]
                    mixed = unit_peaks(own, parts.unit_axis)
                    ordinary = may_be_added(mixed, greatest)
                if factor is None:
                    return own, ~ordinary
                ordinary &= may_be_multiplied(factor.ravel(), greatest)
                shape = [1] * own.ndim
                shape[parts.unit_axis] = -1
                factor = factor.reshape(shape)
                own = jnp.where(factor == 0, jnp.zeros((), own.dtype), own * factor)
                return own, ~ordinary

            return _placed(jax.vmap(one_trial)(rows, scales, factors))

        def finish(
            products: Any,
            leaves: Any,
            params: Any,
            shared: Any,
            residuals: Any,
            limits: Array,
            *scoring: Array,
        ) -> dict[str, Array]:
            watched = np.asarray(parts.watched_in_suffix(products is not None), int)

            def one_trial(product: Any, leaves: dict[str, Array]) -> dict[str, Array]:
                product, strange = product or (None, jnp.zeros((), bool))
                logits, found = parts.watched_suffix(
                    leaves, params, shared, _own(residuals), product
                )
                strange |= ~are_ordinary(found, limits[watched])
                how = dict(block=block, blocks=blocks, metrics=metrics, keep=keep)
                return {**score(logits, *scoring, **how), STRANGE: strange.astype(jnp.int32)}

            sums = jax.vmap(one_trial)(_own(products), leaves)
            return jax.lax.psum(sums, "image") if plan.image_devices > 1 else sums

        scoring = [IMAGES] * 5
        both = IMAGES_AND_TRIALS

        def compiled(function: Callable[..., Any], given: list[Any], made: Any) -> Any:
            return on_mesh(function, mesh, given, made, network_options())

        self.shared = compiled(shared, [WHOLE], WHOLE)
        self.prefix = compiled(prefix, [WHOLE, WHOLE, IMAGES], IMAGES)
        self.multiply = compiled(multiply, [TRIALS, WHOLE, WHOLE, IMAGES, WHOLE], both)
        self.mix = compiled(mix, [IMAGES, both, TRIALS, TRIALS, TRIALS], both)
        given = [both, TRIALS, WHOLE, WHOLE, IMAGES, WHOLE, *scoring]
        self.finish = compiled(finish, given, TRIALS)


def _placed(values: Any) -> Any:
    return jax.tree.map(lambda value: value[None], values)


def _own(values: Any) -> Any:
    return jax.tree.map(lambda value: value[0], values)
