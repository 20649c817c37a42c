"""The compiled programs of the trials on one group of layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxrobust.engine.clean import blocks_per_step
from jaxrobust.engine.plan import Plan
from jaxrobust.engine.score import score
from jaxrobust.engine.spec import Keep, Metric
from jaxrobust.hoist import Split
from jaxrobust.meshes import IMAGES, IMAGES_AND_TRIALS, TRIALS, WHOLE, on_mesh

if TYPE_CHECKING:
    from jaxtyping import Array


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

    Attributes:
        shared: `params -> shared`.
        prefix: `(params, shared, images) -> (residuals, product or None)`.
        multiply: `(kernels [trials, …], params, shared, residuals) -> products`, what reaches the
            layer times each kernel.
        mix: `(product, products of directions, rows [trials], scales [trials], factors
            [trials, …]) -> products` of trials that share them.
        finish: `(products or None, damaged leaves [trials, …], params, shared, residuals, *scoring)
            -> sums [trials, blocks]` by quantity, bits [trials, blocks, bytes].
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
            product = parts.multiply(None, params, shared, residuals) if sharing else None
            return _placed((residuals, product))

        def multiply(kernels: Array, params: Any, shared: Any, residuals: Any) -> Array:
            def one_trial(kernel: Array) -> Array:
                return parts.multiply(kernel, params, shared, _own(residuals))

            return _placed(jax.vmap(one_trial)(kernels))

        def mix(product: Array, directions: Any, rows: Any, scales: Any, factors: Any) -> Array:
            product, directions = _own((product, directions))

            def one_trial(row: Array, scale: Any, factor: Any) -> Array:
                own = product if scale is None else product + scale * directions[row]
                if factor is None:
                    return own
                shape = [1] * own.ndim
                shape[parts.unit_axis] = -1
                factor = factor.reshape(shape)
                return jnp.where(factor == 0, jnp.zeros((), own.dtype), own * factor)

            return _placed(jax.vmap(one_trial)(rows, scales, factors))

        def finish(
            products: Any, leaves: Any, params: Any, shared: Any, residuals: Any, *scoring: Array
        ) -> dict[str, Array]:
            def one_trial(product: Any, leaves: dict[str, Array]) -> dict[str, Array]:
                logits = parts.suffix(leaves, params, shared, _own(residuals), product)
                how = dict(block=block, blocks=blocks, metrics=metrics, keep=keep)
                return score(logits, *scoring, **how)

            sums = jax.vmap(one_trial)(_own(products), leaves)
            return jax.lax.psum(sums, "image") if plan.image_devices > 1 else sums

        scoring = [IMAGES] * 5
        both = IMAGES_AND_TRIALS
        self.shared = on_mesh(shared, mesh, [WHOLE], WHOLE)
        self.prefix = on_mesh(prefix, mesh, [WHOLE, WHOLE, IMAGES], IMAGES)
        self.multiply = on_mesh(multiply, mesh, [TRIALS, WHOLE, WHOLE, IMAGES], both)
        self.mix = on_mesh(mix, mesh, [IMAGES, both, TRIALS, TRIALS, TRIALS], both)
        given = [both, TRIALS, WHOLE, WHOLE, IMAGES, *scoring]
        self.finish = on_mesh(finish, mesh, given, TRIALS)


def _placed(values: Any) -> Any:
    return jax.tree.map(lambda value: value[None], values)


def _own(values: Any) -> Any:
    return jax.tree.map(lambda value: value[0], values)
