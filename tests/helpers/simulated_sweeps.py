"""Sweeps by precision of networks that are only counts, and how often their intervals hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxrobust.sampling import (
    FEWEST,
    Costs,
    block_schedule,
    blocks_per_seed,
    estimate,
    next_seeds,
    pilot,
    variance_parts,
)

IMAGES, BLOCK, CLASSES = 1000, 50, 10


@dataclass(frozen=True)
class World:
    """Everything that damage can do to the answers on one set of images.

    Attributes:
        hits: of each of the equally likely draws on each block, [draws, blocks].
        clean: of the undamaged network, [blocks].
    """

    hits: np.ndarray
    clean: np.ndarray

    @property
    def images(self) -> np.ndarray:
        """How many each block holds, [blocks]."""
        return np.full(len(self.clean), BLOCK)

    @property
    def undamaged(self) -> float:
        """Accuracy."""
        return float(self.clean.sum() / IMAGES)

    @property
    def truth(self) -> float:
        """The mean over all draws of accuracy on all images."""
        return float(self.hits.sum(-1).mean() / IMAGES)


def world(right: np.ndarray, clean: np.ndarray) -> World:
    """From the answers to each image.

    Args:
        right: bool [draws, images].
        clean: bool [images].
    """
    hits, clean = (each.reshape(*each.shape[:-1], -1, BLOCK).sum(-1) for each in (right, clean))
    return World(hits, clean)


def by_margins(
    random: np.random.Generator,
    severities: np.ndarray,
    margins: np.ndarray | None = None,
    noise: float = 0.5,
) -> World:
    """Damage lowers each image's margin by its severity and some noise; below 0 is wrong."""
    margins = random.normal(1, 1.5, IMAGES) if margins is None else margins
    moved = severities[:, None] + random.normal(0, noise, (len(severities), IMAGES))
    return world(margins > moved, margins > 0)


def at_chance(random: np.random.Generator, draws: int) -> World:
    """Each draw's network prefers some classes, whatever the image."""
    labels = np.arange(IMAGES) % CLASSES
    preference = random.dirichlet(np.full(CLASSES, 0.3), draws)[:, labels]
    return world(random.random((draws, IMAGES)) < preference, random.random(IMAGES) < 0.8)


@dataclass(frozen=True)
class Outcome:
    """What many sweeps of one world came to, an entry for each sweep."""

    covered: np.ndarray
    seeds: np.ndarray
    images: np.ndarray
    shown: np.ndarray

    @property
    def coverage(self) -> float:
        return float(self.covered.mean())


def run_sweeps(
    world: World, target: float, costs: Costs, sweeps: int, random: np.random.Generator
) -> Outcome:
    """Runs whole sweeps of one cell: pilot, choice of images per seed, rounds, until it is met.

    Args:
        world: draws are taken from it at random.
        target: the half-width that is asked for.
        costs: by which each sweep chooses how many blocks a seed sees.
        sweeps: how many, each with a root and draws of its own.
    """
    blocks = len(world.clean)
    drawn = random.integers(len(world.hits), size=(sweeps, FEWEST))
    shown = np.empty(sweeps, int)
    for root in range(sweeps):
        looks = pilot(blocks, root)
        hits = world.hits[drawn[root][looks[0]], looks[1]][None, None]
        parts = variance_parts(hits / BLOCK, world.clean / BLOCK, world.images, *looks)
        shown[root] = blocks_per_seed(parts, costs, world.images, target)
    covered, seeds, seen = np.zeros(sweeps, bool), np.zeros(sweeps, int), np.zeros(sweeps, int)
    going = np.arange(sweeps)
    n = FEWEST
    while len(going):
        more = random.integers(len(world.hits), size=(sweeps, n - drawn.shape[1]))
        drawn = np.concatenate([drawn, more], 1)
        counts = np.stack(
            [_counted(world, drawn[root], shown[root], int(root)) for root in going], 1
        )
        hits, images, right = counts
        luck = right - images * world.undamaged
        found = estimate(hits, images, luck, np.full(len(going), n), target)
        covered[going] = (found.low <= world.truth) & (world.truth <= found.high)
        seeds[going], seen[going] = found.seeds, found.images
        going, n = going[~found.met], int(next_seeds(np.asarray(n)))
    return Outcome(covered, seeds, seen, shown)


def _counted(world: World, drawn: np.ndarray, shown: int, root: int) -> np.ndarray:
    """Hits, images and undamaged hits of each seed on its own blocks, [3, seeds]."""
    own = block_schedule(len(world.clean), shown, len(drawn), root)
    hits = world.hits[drawn[:, None], own].sum(-1)
    return np.stack([hits, world.images[own].sum(-1), world.clean[own].sum(-1)])
