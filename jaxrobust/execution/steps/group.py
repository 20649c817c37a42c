"""All trials of one work item: the loop over images and steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrobust.design.trials import Trial, batches
from jaxrobust.execution.baseline.answers import Baseline
from jaxrobust.execution.items import Task, WorkItem
from jaxrobust.execution.job import Job
from jaxrobust.execution.plan import BatchPlan, plan_batches
from jaxrobust.execution.steps.chain import Chains, Images
from jaxrobust.execution.steps.chunks import Chunk, Step, chunks, is_linear
from jaxrobust.execution.steps.damaged import Damaged
from jaxrobust.execution.steps.ordinary import Limits
from jaxrobust.execution.steps.programs import STRANGE, Scoring, Shared, infinite_program
from jaxrobust.layers import leaf_paths
from jaxrobust.program.route import Route
from jaxrobust.runtime.compiling import on_this_device
from jaxrobust.runtime.meshes import IMAGES, TRIALS, divided, mesh_of

if TYPE_CHECKING:
    from jaxtyping import Array

# One program alone leaves a CPU's cores idle between its loops, and an accelerator idle while the
# host adds up sums.
SIDE_BY_SIDE = 2
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
class _Data:
    """Some images, as far as the steps need them.

    Attributes:
        images: the first of them, and where those that are counted end.
        first_block: the block of the first image.
        undamaged: the undamaged network's variables that trials read, with the product.
        infinite: whether the product is not finite, if trials share it.
        scoring: what the logits are compared with, and the place of each image.
    """

    images: Images
    first_block: int
    undamaged: Mapping[int, Array]
    infinite: Array | None
    scoring: tuple[Array, ...]


class Group:
    """All trials on one group of layers that damage the same leaves.

    Args:
        job: the sweep; its parameters are on all devices.
        clean: the undamaged network's answers.
        chains: the network on its devices.
        item: the trials that are run first; later ones damage the same leaves.
        segmented: whether to run the network in segments, if that was not settled before.
        plan: how to run it, if that was settled before.

    Attributes:
        job, clean, item, plan: see above.
        route: what the damage reaches, for the images of one device in one step.
        kernel: the kernel whose product trials may share, if there is one.
        mesh: the devices.
    """

    def __init__(
        self,
        job: Job,
        clean: Baseline,
        chains: Chains,
        item: WorkItem,
        segmented: bool,
        plan: BatchPlan | None = None,
    ) -> None:
        self.job, self.clean, self.item, self._chains = job, clean, item, chains
        spec, layers, touched = job.spec, item.layers, item.touched
        perturbations = [each for each in job.perturbations if each.touched(layers) == touched]
        params = job.network.params
        leaves = dict(zip(leaf_paths(params), jax.tree.leaves(params), strict=True))
        how = {"segmented": plan.segmented if plan else segmented, "reformulate": clean.ordinary}
        self.plan = plan or plan_batches(
            chains.route(touched, spec.block, **how),
            chains.route((), spec.block, **how),
            layers,
            list(item.trials.items()),
            images=spec.images,
            run=item.images,
            batch=spec.block,
            seeds=item.seeds,
            segmented=segmented,
            machine=job.machine,
            options=job.options,
        )
        self.mesh: Mesh = mesh_of(job.machine.devices, self.plan.image_devices)
        undamaged = {path: leaves[path] for path in touched}
        self._limits = Limits.of(undamaged, clean.logits)
        self.route: Route = chains.route(touched, self.plan.images_per_step, **how)
        self.kernel = None
        if self.route.product:
            leaves = {leaf.path: leaf for layer in layers for leaf in layer.leaves}
            self.kernel = leaves[self.route.product.kernel]
        linear = self.kernel is not None and any(
            is_linear(each, layers, self.kernel) for each in perturbations
        )
        self._damaged = self._on_devices(self.route, shares=linear)
        self._scoring = Scoring(
            self._together,
            self.plan.trials_per_step * self.plan.trial_devices,
            block=spec.block,
            metrics=job.measured,
            keep=spec.keep,
            mesh=self.mesh,
        )
        # For trials that are not ordinary, by the definition: made when the first one needs them.
        self._plain: Damaged | None = None
        self._plain_data: dict[Images, _Data] = {}
        self._making_plain = Lock()

    @property
    def _together(self) -> int:
        return self.plan.images_per_step * self.plan.image_devices

    def _on_devices(self, route: Route, shares: bool) -> Damaged:
        single = self.plan.trials_per_step == 1 and self.mesh.size == 1
        chain = self._chains.chain(route.cut, self.mesh)
        return Damaged(chain, route, single=single, shares=shares)

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
            self._plain_data.clear()

    def _work(self, tasks: Iterable[Task]) -> Iterator[tuple[Chunk, Step, _Data, Any]]:
        """Every step, with the images that it looks at and what its chunk was multiplied to."""
        spec, plan = self.job.spec, self.plan
        held: dict[Images, _Data] = {}
        for task in tasks:
            made = chunks(spec, plan, self.item.layers, self.kernel, task.trial_sets, self.mesh)
            for round in batches(made, plan.steps_per_round):
                for images in self._images(task):
                    data = held.get(images) or self._data(self._damaged, images)
                    if plan.keep_residuals:
                        held[images] = data
                    for chunk in round:
                        products = None
                        if chunk.kernels is not None:
                            products = self._damaged.multiply(chunk.kernels, data.undamaged)
                        for step in chunk.steps:
                            yield chunk, step, data, products

    def _images(self, task: Task) -> Iterator[Images]:
        """The first image of each step, and where those that it counts end."""
        for first, stop in task.runs:
            for start in range(first, stop, self._together):
                yield start, min(start + self._together, stop)

    def _run(self, chunk: Chunk, step: Step, data: _Data, products: Any) -> Sums:
        leaves, linear = step.leaves, step.linear
        if linear is None:
            logits = self._damaged.logits(leaves, data.undamaged, products)
            odd = None
            if products is not None:
                kernel = self._damaged.route.the_product.kernel
                leaves = {**leaves, kernel: chunk.kernels}
        else:
            rows, own = divided((step.rows, linear.own), self.mesh, TRIALS)
            shared = Shared(data.infinite, products, chunk.overlaps, rows, own)
            logits, odd = self._damaged.logits_of_shared(
                linear.acts, leaves, data.undamaged, shared
            )
        values = self._scored(self._damaged, logits, leaves, odd, data)
        strange = values.pop(STRANGE) > 0
        if any(trial for trial, own in zip(step.trials, strange, strict=True) if own):
            plain = self._by_definition(step, data.images)
            for name, own in values.items():
                chosen = strange.reshape(-1, *[1] * (own.ndim - 1))
                values[name] = np.where(chosen, plain[name], own)
        return Sums(chunk.row, step.trials, data.first_block, values)

    def _by_definition(self, step: Step, images: Images) -> dict[str, np.ndarray]:
        """The sums of a step, computed in no faster way than the network itself."""
        with self._making_plain:
            if self._plain is None:
                how = {"segmented": self.plan.segmented, "reformulate": False}
                route = self._chains.route(self.item.touched, self.plan.images_per_step, **how)
                self._plain = self._on_devices(route, shares=False)
            plain, data = self._plain, self._plain_data.get(images)
            if data is None:
                data = self._data(plain, images)
                if not self.plan.keep_residuals:
                    self._plain_data.clear()
                self._plain_data[images] = data
        leaves, products = step.damaged(), None
        others = dict(leaves)
        if self.kernel is not None:
            products = plain.multiply(others.pop(self.kernel.path), data.undamaged)
        logits = plain.logits(others, data.undamaged, products)
        return self._scored(plain, logits, leaves, None, data)

    def _scored(
        self, damaged: Damaged, logits: Any, leaves: Any, odd: Any, data: _Data
    ) -> dict[str, np.ndarray]:
        limits = None if damaged.route.exact else self._limits
        with _WAITING_FOR_ALL if self.plan.image_devices > 1 else nullcontext():
            found = self._scoring(logits, leaves, odd, limits, data.scoring)
            return {name: np.asarray(value) for name, value in found.items()}

    def _data(self, damaged: Damaged, images: Images) -> _Data:
        job, (start, stop) = self.job, images
        batch = job.images.batch(start, self._together, job.spec.block, stop)
        undamaged = damaged.undamaged(images, keep=self.plan.keep_residuals)
        infinite = None
        if damaged.shares:
            infinite = infinite_program(self.mesh)(undamaged[damaged.route.the_product.output])
        logits = self.clean.logits[batch.index]
        scoring = (batch.labels, batch.present, logits, batch.place_of)
        scoring = divided(scoring, self.mesh, IMAGES)
        return _Data(images, batch.first_block, undamaged, infinite, scoring)
