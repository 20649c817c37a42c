"""What a work item computes and holds: counted, not run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxrobust.design.options import Options
from jaxrobust.design.specification import Specification
from jaxrobust.design.trials import TrialSet
from jaxrobust.execution.items import WorkItem
from jaxrobust.execution.plan import BatchPlan, noise_bytes, plan_batches
from jaxrobust.execution.routes import route_of
from jaxrobust.execution.steps.chunks import is_linear
from jaxrobust.execution.steps.group import SIDE_BY_SIDE
from jaxrobust.network import Network
from jaxrobust.perturbations import Perturbation
from jaxrobust.program.route import Route
from jaxrobust.runtime.machine import Machine


@dataclass(frozen=True)
class Target:
    """A work item and what its damage reaches.

    Attributes:
        item: the trials.
        parts: the network split at the damage for a batch of `batch` images, as it is run.
        whole: the undamaged network for as many images, as it is run.
        written: as `parts`, without faster ways to compute convolutions: to count operations.
        batch: images of these.
        options: how to run it.
        segmented: whether it is run in segments.
        machine: what it runs on.
    """

    item: WorkItem
    parts: Route
    whole: Route
    written: Route
    batch: int
    options: Options
    segmented: bool
    machine: Machine

    @staticmethod
    def of(
        network: Network,
        spec: Specification,
        item: WorkItem,
        options: Options,
        machine: Machine,
        segmented: bool,
    ) -> Target:
        """That of a work item of a sweep, traced for a block of images."""
        how = {
            "platform": machine.platform,
            "segmented": segmented,
            "hoist": options.hoist,
            "share": options.share,
            "precision": spec.precision,
        }
        return Target(
            item,
            parts=route_of(network, item.touched, spec.block, **how),
            whole=route_of(network, (), spec.block, **how),
            written=route_of(network, item.touched, spec.block, reformulate=False, **how),
            batch=spec.block,
            options=options,
            segmented=segmented,
            machine=machine,
        )

    def is_linear(self, perturbation: Perturbation) -> bool:
        """Whether trials share the damaged layer's product."""
        product = self.parts.product
        if product is None:
            return False
        kernel = {leaf.path: leaf for layer in self.item.layers for leaf in layer.leaves}[
            product.kernel
        ]
        return is_linear(perturbation, self.item.layers, kernel)

    @property
    def shares(self) -> bool:
        """Whether the undamaged layer's product is computed for trials to share."""
        return any(self.is_linear(each) for each in self.item.trials)

    @property
    def prefix_operations(self) -> float:
        """Per image, of what the trials share; multiplications and additions count one each."""
        shared = self.written.product_operations if self.shares else 0
        return (self.written.prefix_operations + shared) / self.batch

    def kept_bytes(self, images: int) -> int:
        """Bytes of what the undamaged network hands on to the trials."""
        return (self.parts.residual_bytes + self.parts.product_bytes) * images // self.batch

    def trial_operations(self, trial_sets: Sequence[TrialSet]) -> float:
        """Per image, of all trials together: without what they share.

        Trials that damage a kernel linearly share its products with one direction for each seed.
        """
        suffix, product = self.written.suffix_operations, self.written.product_operations
        total = 0
        for each in trial_sets:
            trials = each.trials
            total += suffix * len(trials)
            if self.is_linear(each.perturbation):
                seeds = {seed for _, seed in trials}
                acts = each.perturbation.linear
                directions = len(seeds) * acts.directions_per_seed if acts else 0
                total += product * (directions - len(trials))
        return total / self.batch


@dataclass(frozen=True)
class Work:
    """What the trials of one target compute.

    Attributes:
        target: what is damaged.
        trial_sets: the trials.
        images: that each trial looks at.
        plan: how they are run here.
    """

    target: Target
    trial_sets: tuple[TrialSet, ...]
    images: int
    plan: BatchPlan

    @staticmethod
    def of(
        target: Target, trial_sets: Sequence[TrialSet], images: int, run: int | None = None
    ) -> Work:
        """Plans some trials of a target.

        Args:
            target: what they damage.
            trial_sets: the trials.
            images: that the sweep has.
            run: how many consecutive ones trials usually look at; all by default.
        """
        plan = plan_batches(
            target.parts,
            target.whole,
            target.item.layers,
            [(each.perturbation, len(each.trials)) for each in trial_sets],
            images=images,
            run=images if run is None else run,
            batch=target.batch,
            seeds=max(each.seeds for each in trial_sets),
            segmented=target.segmented,
            machine=target.machine,
            options=target.options,
        )
        return Work(target, tuple(trial_sets), images, plan)

    @property
    def trials(self) -> int:
        """How many trials are run."""
        return sum(len(each.trials) for each in self.trial_sets)

    @property
    def passes(self) -> int:
        """How often what the trials share is computed for each image."""
        if self.plan.keep_residuals:
            return 1
        return -(-sum(map(self._chunks, self.trial_sets)) // self.plan.steps_per_round)

    @property
    def operations(self) -> float:
        """In convolutions and matrix products, 2 for a multiply-add, padding not counted."""
        shared = self.passes * self.target.prefix_operations
        return self.images * (shared + self.target.trial_operations(self.trial_sets))

    def drawn(self, each: TrialSet) -> int:
        """Seeds whose noise is drawn, with those that fill the last draw up."""
        if each.perturbation.draw is None:
            return 0
        count = min(self.plan.seeds_per_draw, each.seeds)
        return -(-each.seeds // count) * count

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes on the device by what takes them, without parameters: estimates from above."""
        parts, plan, batch = self.target.parts, self.plan, self.target.batch
        size, width = plan.images_per_step, plan.trials_per_step
        held = self.images if plan.keep_residuals else size
        beside = min(SIDE_BY_SIDE, plan.steps_under_way + 1)
        leaves = width * (plan.steps_per_round + plan.steps_under_way) * self.target.item.leaf_bytes
        products = plan.steps_under_way * width * parts.product_bytes * size // batch
        noise = max(
            noise_bytes(each.perturbation, self.target.item.layers) for each in self.trial_sets
        )
        return {
            "undamaged values": self.target.kept_bytes(held),
            "prefix": parts.prefix_peak_bytes * size // batch,
            "steps": beside * width * parts.suffix_peak_bytes * size // batch,
            "waiting steps": leaves + products,
            "draws": plan.seeds_per_draw * noise,
        }

    def _chunks(self, each: TrialSet) -> int:
        width, columns = self.plan.trials_per_step, max(len(each.columns), 1)
        count = min(self.plan.seeds_per_draw, each.seeds)
        if self.target.is_linear(each.perturbation):
            in_one_draw = -(-count // min(max(width // columns, 1), count))
        else:
            in_one_draw = -(-count * columns // width)
        return -(-each.seeds // count) * in_one_draw
