"""The compiled programs of the trials on one group of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxrobust.counts.score import score
from jaxrobust.design.specification import Keep, Metric
from jaxrobust.execution.images import blocks_per_step
from jaxrobust.execution.ordinary import (
    Limits,
    are_strange,
    factors_are_strange,
    is_strange,
    sum_is_strange,
)
from jaxrobust.execution.plan import Plan
from jaxrobust.hoist import Split
from jaxrobust.runtime.compiling import network_options
from jaxrobust.runtime.meshes import IMAGES, IMAGES_AND_TRIALS, TRIALS, WHOLE, on_mesh

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
            kernel and whether it is strange, None where it is not shared.
        multiply: `(kernels [trials, …], params, shared, residuals, limits) -> (products, strange)`,
            what reaches the layer times each kernel.
        mix: `(undamaged, products of directions, overlaps, rows [trials], scales [trials], factors
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
            # Of what is silent nothing is left, unless it is infinite: 0 · inf is not a number.
            return _placed((residuals, (product, ~jnp.all(jnp.isfinite(product)))))

        def strange(leaves: Mapping[str, Array], logits: Any, limits: Limits) -> Array:
            if parts.exact:
                return jnp.zeros((), bool)
            return are_strange(leaves, limits.leaves) | is_strange(logits, limits.logits)

        def multiply(
            kernels: Array, params: Any, shared: Any, residuals: Any, limits: Limits
        ) -> tuple[Array, Array]:
            def one_trial(kernel: Array) -> tuple[Array, Array]:
                product = parts.multiply(kernel, params, shared, _own(residuals))
                return product, strange({parts.kernel: kernel}, (), limits)

            return _placed(jax.vmap(one_trial)(kernels))

        def mix(
            undamaged: Any, directions: Any, overlaps: Any, rows: Any, scales: Any, factors: Any
        ) -> tuple[Array, Array]:
            # A direction has no limit of its own: it is looked at together with the kernel.
            (product, infinite), (directions, _) = _own((undamaged, directions or (None, None)))

            def one_trial(row: Array, scale: Any, factor: Any) -> tuple[Array, Array]:
                own, odd = product, infinite
                if scale is not None:
                    own = product + scale * directions[row]
                    odd |= sum_is_strange(overlaps.of(row), scale)
                if factor is not None:
                    odd |= factors_are_strange(factor)
                    shape = [1] * own.ndim
                    shape[parts.unit_axis] = -1
                    factor = factor.reshape(shape)
                    own = jnp.where(factor == 0, jnp.zeros((), own.dtype), own * factor)
                return own, odd

            return _placed(jax.vmap(one_trial)(rows, scales, factors))

        def finish(
            products: Any,
            leaves: Any,
            params: Any,
            shared: Any,
            residuals: Any,
            limits: Limits,
            *scoring: Array,
        ) -> dict[str, Array]:
            def one_trial(product: Any, leaves: dict[str, Array]) -> dict[str, Array]:
                product, odd = product or (None, jnp.zeros((), bool))
                logits = parts.suffix(leaves, params, shared, _own(residuals), product)
                odd |= strange(leaves, logits, limits)
                how = dict(block=block, blocks=blocks, metrics=metrics, keep=keep)
                return {**score(logits, *scoring, **how), STRANGE: odd.astype(jnp.int32)}

            sums = jax.vmap(one_trial)(_own(products), leaves)
            return jax.lax.psum(sums, "image") if plan.image_devices > 1 else sums

        scoring = [IMAGES] * 5
        both = IMAGES_AND_TRIALS

        def compiled(function: Callable[..., Any], given: list[Any], made: Any) -> Any:
            return on_mesh(function, mesh, given, made, network_options())

        self.shared = compiled(shared, [WHOLE], WHOLE)
        self.prefix = compiled(prefix, [WHOLE, WHOLE, IMAGES], IMAGES)
        self.multiply = compiled(multiply, [TRIALS, WHOLE, WHOLE, IMAGES, WHOLE], both)
        self.mix = compiled(mix, [IMAGES, both, TRIALS, TRIALS, TRIALS, TRIALS], both)
        given = [both, TRIALS, WHOLE, WHOLE, IMAGES, WHOLE, *scoring]
        self.finish = compiled(finish, given, TRIALS)


def _placed(values: Any) -> Any:
    return jax.tree.map(lambda value: value[None], values)


def _own(values: Any) -> Any:
    return jax.tree.map(lambda value: value[0], values)
