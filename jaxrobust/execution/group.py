"""All trials on one group of layers: the loop over images and steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrobust.design.trials import Swept, Trial, batches
from jaxrobust.execution.baseline import Clean
from jaxrobust.execution.chunks import Chunk, Step, chunks, is_linear
from jaxrobust.execution.job import Job
from jaxrobust.execution.ordinary import Limits
from jaxrobust.execution.plan import Plan, make_plan
from jaxrobust.execution.programs import STRANGE, Programs
from jaxrobust.hoist import Split, split
from jaxrobust.layers import Layer, leaf_paths
from jaxrobust.perturbations import Perturbation
from jaxrobust.runtime.compiling import on_this_device
from jaxrobust.runtime.meshes import IMAGES, TRIALS, divided, mesh_of, sweep_devices

if TYPE_CHECKING:
    from jaxtyping import Array

# One program alone leaves a CPU's cores idle between its loops, and an accelerator idle while the
# host adds up sums.
SIDE_BY_SIDE = 3
# Two programs that both wait for all devices, begun in another order on one of them, wait forever.
_WAITING_FOR_ALL = Lock()


@dataclass(frozen=True)
class Sums:
    """What one step gave.

    Attributes:
        row: index of the perturbation.
        trials: as in `Step`.
        first_block: the block that the first sums are of.
        values: quantity -> [trials, blocks] or [trials, blocks, bytes], on the host, padding with
            them.
    """

    row: int
    trials: tuple[Trial | None, ...]
    first_block: int
    values: dict[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """Trials on a group of layers that look at the same images.

    Attributes:
        swept: the perturbations, without other trials.
        runs: the first image of each run of consecutive ones, and the one behind its last.
    """

    swept: list[Swept]
    runs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Data:
    """Some images, as far as the steps need them.

    Attributes:
        images: the first of them, and where those that are counted end.
        first_block: the block of the first image.
        undamaged: the parameters, what depends on them alone, what the undamaged network hands on
            to the suffix, and the limits of what is ordinary.
        product: that of the undamaged kernel and whether it is strange, if trials share it.
        scoring: what the logits are compared with, and the place of each image.
    """

    images: tuple[int, int]
    first_block: int
    undamaged: tuple[Any, Any, list[Array], Limits]
    product: tuple[Array, Array] | None
    scoring: tuple[Array, ...]


class Group:
    """All trials on one group of layers that touch the same leaves.

    Args:
        job: the sweep; its parameters are on all devices.
        clean: the undamaged network's answers.
        number: index of the group of layers.
        layers: those that are damaged together.
        touched: paths of the damaged leaves.
        perturbations: those that touch them, each with the most trials that are run together.
        images: how many consecutive images they usually look at; longer runs take more steps.
        seeds: the most seeds that are run together.
        plan: how to run it, if that was settled before.

    Attributes:
        job, clean, number, layers, plan: see above.
        perturbations: all of the job that touch the same leaves.
        parts: the network split there, for the images of one device in one step.
        kernel: the kernel whose product trials may share, if there is one.
        mesh: the devices.
    """

    def __init__(
        self,
        job: Job,
        clean: Clean,
        number: int,
        layers: Sequence[Layer],
        touched: Sequence[str],
        perturbations: Sequence[tuple[Perturbation, int]],
        images: int,
        seeds: int,
        plan: Plan | None = None,
    ) -> None:
        self.job, self.clean, self.number, self.layers = job, clean, number, layers
        self.perturbations = [
            each for each in job.perturbations if each.touched(layers) == tuple(touched)
        ]
        spec, devices = job.spec, sweep_devices(job.options.devices)
        self._touched = tuple(touched)
        params = job.network.params
        leaves = dict(zip(leaf_paths(params), jax.tree.leaves(params), strict=True))
        self._limits = Limits.of({path: leaves[path] for path in touched}, clean.logits)
        reformulate = None if clean.ordinary else False
        self.plan = plan or make_plan(
            self._split(spec.block, reformulate),
            layers,
            perturbations,
            images=spec.images,
            run=images,
            batch=spec.block,
            seeds=seeds,
            devices=len(devices),
            options=job.options,
        )
        self.mesh: Mesh = mesh_of(tuple(devices), self.plan.image_devices)
        parts = self._split(self.plan.images_per_step, reformulate)
        self.parts, self.kernel = parts, None
        if parts.product and job.options.share:
            leaves = {leaf.path: leaf for layer in layers for leaf in layer.leaves}
            self.kernel = leaves[parts.product.kernel]
        linear = self.kernel is not None and any(
            is_linear(each, layers, self.kernel) for each in self.perturbations
        )
        self._programs = self._compiled(parts, sharing=linear)
        # For trials that are not ordinary, by the definition: made when the first one needs them.
        self._plain: Programs | None = None
        self._plain_data: dict[tuple[int, int], _Data] = {}
        self._making_plain = Lock()
        self._together = self.plan.images_per_step * self.plan.image_devices

    def _split(self, images: int, reformulate: bool | None) -> Split:
        return split(
            self.job.network,
            self._touched,
            images,
            hoist=self.job.options.hoist,
            reformulate=reformulate,
            precision=self.job.spec.precision,
        )

    def _compiled(self, parts: Split, sharing: bool) -> Programs:
        return Programs(
            parts,
            self.plan,
            self.mesh,
            sharing=sharing,
            block=self.job.spec.block,
            metrics=self.job.metrics,
            keep=self.job.spec.keep,
        )

    def steps(self, tasks: Iterable[Task]) -> Iterator[Sums]:
        """Runs tasks; some steps are under way while the caller adds up earlier ones."""
        under_way: deque[Future[Sums]] = deque()
        run = on_this_device(self._run)
        pool = ThreadPoolExecutor(SIDE_BY_SIDE)
        try:
            for work in self._work(tasks):
                under_way.append(pool.submit(run, *work))
                if len(under_way) > self.plan.steps_under_way:
                    yield under_way.popleft().result()
            for sums in under_way:
                yield sums.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _work(self, tasks: Iterable[Task]) -> Iterator[tuple[Chunk, Step, _Data, Any]]:
        """Every step, with the images that it looks at and what its chunk was multiplied to."""
        spec, plan = self.job.spec, self.plan
        shared = self._programs.shared(self.job.network.params)
        held: dict[tuple[int, int], _Data] = {}
        for task in tasks:
            made = chunks(spec, plan, self.layers, self.kernel, task.swept, self.mesh)
            for round in batches(made, plan.steps_per_round):
                for images in self._images(task):
                    data = held.get(images) or self._data(self._programs, images, shared)
                    if plan.keep_residuals:
                        held[images] = data
                    for chunk in round:
                        products = None
                        if chunk.kernels is not None:
                            products = self._programs.multiply(chunk.kernels, *data.undamaged)
                        for step in chunk.steps:
                            yield chunk, step, data, products

    def _images(self, task: Task) -> Iterator[tuple[int, int]]:
        """The first image of each step, and where those that it counts end."""
        for first, stop in task.runs:
            for start in range(first, stop, self._together):
                yield start, min(start + self._together, stop)

    def _run(self, chunk: Chunk, step: Step, data: _Data, products: Any) -> Sums:
        if linear := step.linear:
            own = divided((step.rows, linear.scales), self.mesh, TRIALS)
            products = self._programs.mix(
                data.product, products, chunk.overlaps, *own, linear.factors
            )
        values = self._finished(self._programs, products, step.leaves, data)
        strange = values.pop(STRANGE) > 0
        if any(trial for trial, own in zip(step.trials, strange, strict=True) if own):
            plain = self._by_definition(step, data.images)
            for name, own in values.items():
                chosen = strange.reshape(-1, *[1] * (own.ndim - 1))
                values[name] = np.where(chosen, plain[name], own)
        return Sums(chunk.row, step.trials, data.first_block, values)

    def _by_definition(self, step: Step, images: tuple[int, int]) -> dict[str, np.ndarray]:
        """The sums of a step, computed in no faster way than the network itself."""
        params = self.job.network.params
        with self._making_plain:
            if self._plain is None:
                parts = self._split(self.plan.images_per_step, reformulate=False)
                self._plain = self._compiled(parts, sharing=False)
            programs, data = self._plain, self._plain_data.get(images)
            if data is None:
                data = self._data(programs, images, programs.shared(params))
                if not self.plan.keep_residuals:
                    self._plain_data.clear()
                self._plain_data[images] = data
        leaves, products = step.damaged(), None
        if self.kernel is not None:
            products = programs.multiply(leaves.pop(self.kernel.path), *data.undamaged)
        return self._finished(programs, products, leaves, data)

    def _finished(
        self, programs: Programs, products: Any, leaves: Any, data: _Data
    ) -> dict[str, np.ndarray]:
        with _WAITING_FOR_ALL if self.plan.image_devices > 1 else nullcontext():
            found = programs.finish(products, leaves, *data.undamaged, *data.scoring)
            return {name: np.asarray(value) for name, value in found.items()}

    def _data(self, programs: Programs, images: tuple[int, int], shared: Any) -> _Data:
        job, params, (start, stop) = self.job, self.job.network.params, images
        batch = job.images.batch(job.network, start, self._together, job.spec.block, stop)
        residuals, product = programs.prefix(params, shared, batch.inputs)
        logits = self.clean.logits[batch.index]
        logits = logits if job.metrics else logits[:, :0]  # only metrics read them
        predictions = self.clean.predictions[batch.index]
        scoring = (batch.labels, batch.present, predictions, logits, batch.place_of)
        scoring = divided(scoring, self.mesh, IMAGES)
        undamaged = params, shared, residuals, self._limits
        return _Data(images, batch.first_block, undamaged, product, scoring)
