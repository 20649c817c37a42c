"""The loop: groups of layers, rounds of damaged leaves, images, steps of trials."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.data.progress import Report
from jaxrobust.engine.clean import Clean, Images, evaluate_clean
from jaxrobust.engine.plan import Options, make_plan
from jaxrobust.engine.score import score
from jaxrobust.engine.spec import Metric, Specification
from jaxrobust.engine.state import State
from jaxrobust.hoist import split
from jaxrobust.layers import Layer
from jaxrobust.network import Network
from jaxrobust.perturbations import Perturbation, damage, draw

if TYPE_CHECKING:
    from jaxtyping import Array

_Item = TypeVar("_Item")

# Steps that are under way on the device while the host adds up the sums of earlier ones.
_UNDER_WAY = 2


@dataclass(frozen=True)
class _Swept:
    """A perturbation in the sweep.

    Attributes:
        row: its index in the specification.
        columns: the indices of the strengths that are run.
        identity: the index of the strength that changes nothing, if it is asked for.
        seeds: how many seeds are run: one if it is deterministic.
    """

    row: int
    perturbation: Perturbation
    columns: list[int]
    identity: int | None
    seeds: int

    @staticmethod
    def of(spec: Specification, perturbations: Sequence[Perturbation]) -> list[_Swept]:
        swept = []
        for row, (perturbation, (_, strengths)) in enumerate(
            zip(perturbations, spec.strengths, strict=True)
        ):
            columns = [spec.grid.index(Decimal(strength)) for strength in strengths]
            nothing = Decimal(str(perturbation.identity))
            identity = next((c for c in columns if spec.grid[c] == nothing), None)
            columns = [column for column in columns if column != identity]
            seeds = spec.seeds if perturbation.draw else 1
            swept.append(_Swept(row, perturbation, columns, identity, seeds))
        return swept

    @property
    def trials(self) -> list[tuple[int, int]]:
        """The (strength column, seed) of every trial, seed by seed."""
        return self.of_seeds(0, self.seeds)

    def of_seeds(self, first: int, count: int) -> list[tuple[int, int]]:
        """Those of some consecutive seeds, as far as they are run."""
        seeds = range(first, min(first + count, self.seeds))
        return [(column, seed) for seed in seeds for column in self.columns]


@dataclass(frozen=True)
class _Chunk:
    """The damaged leaves of one step's trials, [trials, …] each, padded at the end."""

    row: int
    trials: tuple[tuple[int, int], ...]
    leaves: dict[str, Array]


@dataclass(frozen=True)
class _Sums:
    """What one step gave: quantity -> [trials, blocks], padding not yet cut off."""

    chunk: _Chunk
    first_block: int
    values: dict[str, Array]


@dataclass(frozen=True)
class Job:
    """Everything that a sweep is run from.

    Attributes:
        network, images: what is damaged and what it looks at.
        spec: what to run.
        perturbations: those that the specification names, in its order.
        metrics: the user's own metrics by name.
        options: how to run it.
        report: called with what is being done, trial-images done and all of them.
    """

    network: Network
    images: Images
    spec: Specification
    perturbations: Sequence[Perturbation]
    metrics: Mapping[str, Metric]
    options: Options
    report: Report


def run(job: Job, state: State, plans: list[dict[str, Any]]) -> None:
    """Runs a sweep, adding every step's sums to its state as they come.

    Args:
        job: what to run, on what.
        state: empty at first; after an interruption it holds what was done.
        plans: filled with the plan of each group of layers.
    """
    spec = job.spec
    job.report("undamaged", 0, 0)
    clean = evaluate_clean(
        job.network, job.images, spec.block, metrics=job.metrics, memory=job.options.memory
    )
    state.clean.update(clean.sums)
    swept = _Swept.of(spec, job.perturbations)
    for each in swept:
        if each.identity is not None:
            state.fill_identity(each.row, each.identity, each.seeds)

    swept = [each for each in swept if each.trials]
    total = sum(len(each.trials) for each in swept) * len(spec.layers) * spec.images
    done = 0
    for number, (group, members) in enumerate(spec.layers):
        layers = [job.network.layers[name] for name in members]
        job.report(group, done, total)
        for touched, alike in _by_leaves(layers, swept).items():
            work = _Group(job, clean, layers, touched, alike)
            names = [each.perturbation.name for each in alike]
            plans.append({"layers": group, "perturbations": names, **asdict(work.plan)})
            for step in work.steps():
                values = {name: np.asarray(value) for name, value in step.values.items()}
                for position, (column, seed) in enumerate(step.chunk.trials):
                    own = {name: value[position] for name, value in values.items()}
                    state.add((step.chunk.row, number, column, seed), step.first_block, own)
                    done += int(own["images"].sum())
                job.report(group, done, total)


def _by_leaves(
    layers: Sequence[Layer], swept: Sequence[_Swept]
) -> dict[tuple[str, ...], list[_Swept]]:
    """The perturbations by the leaves that they touch: those alike share a compiled suffix."""
    alike: dict[tuple[str, ...], list[_Swept]] = {}
    for each in swept:
        paths = {leaf.path for layer in layers for leaf in each.perturbation.leaves(layer)}
        alike.setdefault(tuple(sorted(paths)), []).append(each)
    return alike


def _batches(items: Iterable[_Item], size: int) -> Iterator[tuple[_Item, ...]]:
    """Runs of `size` items, the last one perhaps shorter; no more is asked for than is given."""
    items = iter(items)
    while batch := tuple(islice(items, size)):
        yield batch


class _Group:
    """All trials on one group of layers that touch the same leaves."""

    def __init__(
        self,
        job: Job,
        clean: Clean,
        layers: Sequence[Layer],
        touched: tuple[str, ...],
        swept: Sequence[_Swept],
    ) -> None:
        self.job, self.clean, self.layers, self.swept = job, clean, layers, swept
        network, spec, hoist = job.network, job.spec, job.options.hoist
        self.plan = plan = make_plan(
            split(network, touched, spec.block, hoist=hoist),
            layers,
            [(each.perturbation, len(each.trials)) for each in swept],
            images=spec.images,
            block=spec.block,
            seeds=spec.seeds,
            options=job.options,
        )
        parts = split(network, touched, plan.images_per_step, hoist=hoist)
        blocks = max(plan.images_per_step // spec.block, 1)
        self._shared = jax.jit(parts.shared)(network.params)
        self._prefix = jax.jit(parts.prefix)

        def step(
            leaves: dict[str, Array], params: Any, shared: Any, residuals: Any, *image_data: Array
        ) -> dict[str, Array]:
            def one_trial(leaves: dict[str, Array]) -> dict[str, Array]:
                logits = parts.suffix(leaves, params, shared, residuals)
                return score(logits, *image_data, blocks=blocks, metrics=job.metrics)

            if plan.mode == "map":
                return jax.lax.map(one_trial, leaves)
            return jax.vmap(one_trial)(leaves)

        self._step = jax.jit(step)

    def steps(self) -> Iterator[_Sums]:
        """Runs everything; a few steps are under way while the caller adds up earlier ones."""
        images, block = self.job.spec.images, self.job.spec.block
        held: dict[int, tuple[Any, ...]] = {}
        under_way: deque[_Sums] = deque()
        for chunks in _batches(self._chunks(), self.plan.steps_per_round):
            for start in range(0, images, self.plan.images_per_step):
                data = held.get(start) or self._image_data(start)
                if self.plan.keep_residuals:
                    held[start] = data
                for chunk in chunks:
                    values = self._step(chunk.leaves, self.job.network.params, self._shared, *data)
                    under_way.append(_Sums(chunk, start // block, values))
                    if len(under_way) > _UNDER_WAY:
                        yield under_way.popleft()
        yield from under_way

    def _image_data(self, start: int) -> tuple[Any, ...]:
        """Residuals of some images, and what their logits are compared with."""
        network = self.job.network
        batch = self.job.images.batch(network, start, self.plan.images_per_step)
        residuals = self._prefix(network.params, self._shared, batch.inputs)
        logits = self.clean.logits[batch.index]
        logits = logits if self.job.metrics else logits[:, :0]  # only metrics read them
        predictions = self.clean.predictions[batch.index]
        return residuals, *map(jnp.asarray, (batch.labels, batch.present, predictions, logits))

    def _chunks(self) -> Iterator[_Chunk]:
        """Draws the noise of some seeds at a time and damages the leaves of a step's trials."""
        spec, width = self.job.spec, self.plan.trials_per_step
        for each in self.swept:
            seeds_per_draw = min(self.plan.seeds_per_draw, each.seeds)
            for first in range(0, each.seeds, seeds_per_draw):
                # The last group is padded with draws that nobody uses, so nothing is recompiled.
                drawn = np.arange(first, first + seeds_per_draw, dtype=np.uint32)
                noise = draw(each.perturbation, self.layers, spec.root, drawn)
                for trials in _batches(each.of_seeds(first, seeds_per_draw), width):
                    full = [*trials, *[trials[-1]] * (width - len(trials))]
                    rows = np.asarray([seed - first for _, seed in full], np.int32)
                    strengths = [spec.grid[column] for column, _ in full]
                    leaves = damage(each.perturbation, self.layers, noise, rows, strengths)
                    yield _Chunk(each.row, trials, leaves)
