"""All trials on one group of layers: its compiled programs and the loop over images and steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.engine.chunks import Chunk, Step, chunks, is_linear
from jaxrobust.engine.clean import Clean, blocks_per_step
from jaxrobust.engine.compiling import on_this_device
from jaxrobust.engine.job import Job, Swept, batches
from jaxrobust.engine.plan import Plan, make_plan
from jaxrobust.engine.score import score
from jaxrobust.hoist import split
from jaxrobust.layers import Layer

if TYPE_CHECKING:
    from jaxtyping import Array

# One program alone leaves a CPU's cores idle between its loops, and an accelerator idle while the
# host adds up sums.
SIDE_BY_SIDE = 3


@dataclass(frozen=True)
class Sums:
    """What one step gave.

    Attributes:
        row: index of the perturbation.
        trials: the (strength column, seed) of each trial.
        first_block: the block that the first sums are of.
        values: quantity -> [trials, blocks], on the host, padding not yet cut off.
    """

    row: int
    trials: tuple[tuple[int, int], ...]
    first_block: int
    values: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Data:
    """Some images, as far as the steps need them.

    Attributes:
        first_block: the block of the first image.
        residuals: what the undamaged network hands on to the suffix.
        product: that of the undamaged kernel, if trials share it.
        scoring: what the logits are compared with, and the block of each image.
    """

    first_block: int
    residuals: list[Array]
    product: Array | None
    scoring: tuple[Array, ...]


class Group:
    """All trials on one group of layers that touch the same leaves.

    Three compiled programs: `multiply` gives the products of what reaches the layer with the
    kernels of a chunk, `mix` the products of trials that share them, `finish` the sums from there.

    Args:
        job: the sweep.
        clean: the undamaged network's answers.
        number: index of the group of layers.
        layers: those that are damaged together.
        touched: paths of the damaged leaves.
        swept: the perturbations that touch them.
        first_image: the first one that is run, the first of a block.
        plan: how to run it, if that was settled before.
    """

    def __init__(
        self,
        job: Job,
        clean: Clean,
        number: int,
        layers: Sequence[Layer],
        touched: Sequence[str],
        swept: Sequence[Swept],
        first_image: int = 0,
        plan: Plan | None = None,
    ) -> None:
        self.job, self.clean, self.number = job, clean, number
        self.layers, self.swept, self.first_image = layers, swept, first_image
        network, spec = job.network, job.spec
        how = {"hoist": job.options.hoist, "precision": spec.precision}
        self.plan = plan = plan or make_plan(
            split(network, touched, spec.block, **how),
            layers,
            [(each.perturbation, len(each.trials)) for each in swept],
            images=spec.images - first_image,
            batch=spec.block,
            seeds=spec.seeds,
            options=job.options,
        )
        parts = split(network, touched, plan.images_per_step, **how)
        self._kernel = None
        if parts.product and job.options.share:
            leaves = {leaf.path: leaf for layer in layers for leaf in layer.leaves}
            self._kernel = leaves[parts.product.kernel]
        kernel = self._kernel
        sharing = bool(kernel) and any(
            is_linear(each.perturbation, layers, kernel) for each in swept
        )
        blocks = blocks_per_step(plan.images_per_step, spec.block)

        def prefix(params: Any, shared: Any, inputs: Array) -> tuple[list[Array], Array | None]:
            residuals = parts.prefix(params, shared, inputs)
            product = parts.multiply(None, params, shared, residuals) if sharing else None
            return residuals, product

        def multiply(kernels: Array, params: Any, shared: Any, residuals: list[Array]) -> Array:
            return jax.vmap(lambda kernel: parts.multiply(kernel, params, shared, residuals))(
                kernels
            )

        def mix(product: Array, directions: Any, rows: Any, scales: Any, factors: Any) -> Array:
            def one_trial(row: Array, scale: Any, factor: Any) -> Array:
                own = product if scale is None else product + scale * directions[row]
                if factor is None:
                    return own
                shape = [1] * own.ndim
                shape[parts.unit_axis] = -1
                factor = factor.reshape(shape)
                return jnp.where(factor == 0, jnp.zeros((), own.dtype), own * factor)

            return jax.vmap(one_trial)(rows, scales, factors)

        def finish(
            product: Any, leaves: Any, params: Any, shared: Any, residuals: Any, *scoring: Array
        ) -> dict[str, Array]:
            def one_trial(product: Any, leaves: dict[str, Array]) -> dict[str, Array]:
                logits = parts.suffix(leaves, params, shared, residuals, product)
                return score(logits, *scoring, blocks=blocks, metrics=job.metrics)

            return jax.vmap(one_trial)(product, leaves)

        self._shared = jax.jit(parts.shared)(network.params)
        self._prefix, self._multiply = jax.jit(prefix), jax.jit(multiply)
        self._mix, self._finish = jax.jit(mix), jax.jit(finish)

    def steps(self) -> Iterator[Sums]:
        """Runs everything; some steps are under way while the caller adds up earlier ones."""
        under_way: deque[Future[Sums]] = deque()
        run = on_this_device(self._run)
        pool = ThreadPoolExecutor(SIDE_BY_SIDE)
        try:
            for work in self._work():
                under_way.append(pool.submit(run, *work))
                if len(under_way) > self.plan.steps_under_way:
                    yield under_way.popleft().result()
            for sums in under_way:
                yield sums.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _work(self) -> Iterator[tuple[Chunk, Step, _Data, Array | None]]:
        """Every step, with the images that it looks at and what its chunk was multiplied to."""
        plan = self.plan
        made = chunks(self.job.spec, plan, self.layers, self._kernel, self.swept)
        held: dict[int, _Data] = {}
        for round in batches(made, plan.steps_per_round):
            for start in range(self.first_image, self.job.spec.images, plan.images_per_step):
                data = held.get(start) or self._data(start)
                if plan.keep_residuals:
                    held[start] = data
                for chunk in round:
                    products = None
                    if chunk.kernels is not None:
                        products = self._multiply(chunk.kernels, *self._given(data))
                    for step in chunk.steps:
                        yield chunk, step, data, products

    def _run(self, chunk: Chunk, step: Step, data: _Data, products: Array | None) -> Sums:
        if linear := step.linear:
            products = self._mix(data.product, products, step.rows, linear.scales, linear.factors)
        found = self._finish(products, step.leaves, *self._given(data), *data.scoring)
        values = {name: np.asarray(value) for name, value in found.items()}
        return Sums(chunk.row, step.trials, data.first_block, values)

    def _given(self, data: _Data) -> tuple[Any, Any, list[Array]]:
        return self.job.network.params, self._shared, data.residuals

    def _data(self, start: int) -> _Data:
        job = self.job
        batch = job.images.batch(job.network, start, self.plan.images_per_step, job.spec.block)
        residuals, product = self._prefix(job.network.params, self._shared, batch.inputs)
        logits = self.clean.logits[batch.index]
        logits = logits if job.metrics else logits[:, :0]  # only metrics read them
        predictions = self.clean.predictions[batch.index]
        scoring = (batch.labels, batch.present, predictions, logits, batch.block_of)
        return _Data(batch.first_block, residuals, product, tuple(map(jnp.asarray, scoring)))
