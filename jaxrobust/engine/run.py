"""The loop: groups of layers, rounds of damaged leaves, images, steps of trials."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np

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

Report = Callable[[str, int, int], None]
_Item = TypeVar("_Item")

# Steps that are under way on the device while the host adds up the sums of earlier ones.
_UNDER_WAY = 2


@dataclass(frozen=True)
class _Swept:
    """A perturbation in the sweep: its row, and the (strength column, seed) of its trials."""

    row: int
    perturbation: Perturbation
    trials: list[tuple[int, int]]

    @staticmethod
    def of(spec: Specification, perturbations: Sequence[Perturbation]) -> list[_Swept]:
        return [_Swept(row, p, _trials(spec, row, p)) for row, p in enumerate(perturbations)]


def _trials(spec: Specification, row: int, perturbation: Perturbation) -> list[tuple[int, int]]:
    identity = Decimal(str(perturbation.identity))
    strengths = [Decimal(text) for text in spec.strengths[row][1]]
    columns = [spec.grid.index(strength) for strength in strengths if strength != identity]
    seeds = range(spec.seeds if perturbation.draw else 1)
    return [(column, seed) for seed in seeds for column in columns]


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


def run(
    network: Network,
    images: Images,
    spec: Specification,
    perturbations: Sequence[Perturbation],
    state: State,
    *,
    metrics: Mapping[str, Metric],
    options: Options,
    report: Report,
    plans: list[dict[str, Any]],
) -> None:
    """Runs a sweep, adding every step's sums to its state as they come.

    Args:
        network, images: what is damaged and what it looks at.
        spec: what to run.
        perturbations: those that the specification names, in its order.
        state: empty at first; after an interruption it holds what was done.
        metrics: the user's own metrics by name.
        options: how to run it.
        report: called with what is being done, trial-images done and all of them.
        plans: filled with the plan of each group of layers.
    """
    report("undamaged", 0, 0)
    clean = evaluate_clean(network, images, spec.block, metrics)
    state.clean.update(clean.sums)
    state.fill_identities(spec, {p.name: Decimal(str(p.identity)) for p in perturbations})

    swept = [each for each in _Swept.of(spec, perturbations) if each.trials]
    total = sum(len(each.trials) for each in swept) * len(spec.layers) * spec.images
    done = 0
    for number, (group, names) in enumerate(spec.layers):
        layers = [network.layers[name] for name in names]
        report(group, done, total)
        for touched, alike in _by_leaves(layers, swept).items():
            work = _Group(network, images, spec, metrics, options, layers, touched, alike)
            names = [each.perturbation.name for each in alike]
            plans.append({"layers": group, "perturbations": names, **asdict(work.plan)})
            for step in work.steps(clean):
                values = {name: np.asarray(value) for name, value in step.values.items()}
                for position, (column, seed) in enumerate(step.chunk.trials):
                    own = {name: value[position] for name, value in values.items()}
                    state.add((step.chunk.row, number, column, seed), step.first_block, own)
                    done += int(own["images"].sum())
                report(group, done, total)


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
        network: Network,
        images: Images,
        spec: Specification,
        metrics: Mapping[str, Metric],
        options: Options,
        layers: Sequence[Layer],
        touched: tuple[str, ...],
        swept: Sequence[_Swept],
    ) -> None:
        self.network, self.images, self.spec = network, images, spec
        self.layers, self.swept = layers, swept
        self.plan = plan = make_plan(
            split(network, touched, spec.block, hoist=options.hoist),
            layers,
            [(each.perturbation, len(each.trials)) for each in swept],
            images=spec.images,
            block=spec.block,
            seeds=spec.seeds,
            options=options,
        )
        parts = split(network, touched, plan.images_per_step, hoist=options.hoist)
        blocks = max(plan.images_per_step // spec.block, 1)
        self._shared = jax.jit(parts.shared)(network.params)
        self._prefix = jax.jit(parts.prefix)

        def step(
            leaves: dict[str, Array], params: Any, shared: Any, residuals: Any, *image_data: Array
        ) -> dict[str, Array]:
            def one_trial(leaves: dict[str, Array]) -> dict[str, Array]:
                logits = parts.suffix(leaves, params, shared, residuals)
                return score(logits, *image_data, blocks=blocks, metrics=metrics)

            if plan.mode == "map":
                return jax.lax.map(one_trial, leaves)
            return jax.vmap(one_trial)(leaves)

        self._step = jax.jit(step)

    def steps(self, clean: Clean) -> Iterator[_Sums]:
        """Runs everything; the damaged answers are compared with the clean ones."""
        size = self.plan.images_per_step
        predictions = clean.predictions
        logits = clean.logits if self.spec.metrics else clean.logits[:, :0]  # only metrics read it
        held: dict[int, list[Array]] = {}
        under_way: deque[_Sums] = deque()
        chunks = self._chunks()
        for batch in _batches(chunks, self.plan.steps_per_round):
            for start in range(0, self.spec.images, size):
                inputs, labels, present = self.images.batch(self.network, start, size)
                index = np.minimum(np.arange(start, start + size), self.spec.images - 1)
                residuals = held.get(start)
                if residuals is None:
                    residuals = self._prefix(self.network.params, self._shared, inputs)
                if self.plan.keep_residuals:
                    held[start] = residuals
                for chunk in batch:
                    values = self._step(
                        chunk.leaves,
                        self.network.params,
                        self._shared,
                        residuals,
                        labels,
                        present,
                        predictions[index],
                        logits[index],
                    )
                    under_way.append(_Sums(chunk, start // self.spec.block, values))
                    if len(under_way) > _UNDER_WAY:
                        yield under_way.popleft()
        yield from under_way

    def _chunks(self) -> Iterator[_Chunk]:
        """Draws the noise of some seeds at a time and damages the leaves of a step's trials."""
        for each in self.swept:
            seeds = sorted({seed for _, seed in each.trials})
            for held in _batches(seeds, self.plan.seeds_per_draw):
                width = min(self.plan.seeds_per_draw, len(seeds))
                drawn = np.asarray([*held, *[held[-1]] * (width - len(held))], np.uint32)
                noise = draw(each.perturbation, self.layers, self.spec.root, drawn)
                mine = [trial for trial in each.trials if trial[1] in held]
                for trials in _batches(mine, self.plan.trials_per_step):
                    full = [*trials, *[trials[-1]] * (self.plan.trials_per_step - len(trials))]
                    rows = np.asarray([held.index(seed) for _, seed in full], np.int32)
                    strengths = [self.spec.grid[column] for column, _ in full]
                    leaves = damage(each.perturbation, self.layers, noise, rows, strengths)
                    yield _Chunk(each.row, trials, leaves)
