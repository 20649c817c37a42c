"""Sweeps that run until each cell is known to a given precision: the statistics; numpy and scipy.

The estimand is the mean over damage draws of accuracy on the given images. The seed is the only
unit of replication: each looks at its own few blocks, and the interval is Student's over seeds.
For one group of layers, cells [perturbations, strengths] and a half-width that is asked for:

    first = min(2, blocks)                                     # the pilot: 2 blocks of each seed
    run seeds 0 … FEWEST - 1 of all cells on rota(blocks, first, FEWEST, root)
    parts = variance_parts(hits [..., seeds, first], images, clean, rota)
    k = blocks_per_seed(parts, costs, images, half_width)      # at least `first`, settled for good
    shown, n = rota(blocks, k, many, root), FEWEST everywhere  # rows begin as the pilot's did
    loop: run what is lacking: seeds below n on their rows of `shown`
        found = estimate(hits summed over each seed's row, images, clean, undamaged, n, half_width)
        if found.met is everywhere true, or time is up: end
        n = where(found.met, n, next_seeds(n))                 # 32, 48, 72, 108, …

Nothing but the counts per (trial, block), the root and k is needed to come to the same numbers.
"""

from jaxrobust.precision.effort import Costs, VarianceParts, blocks_per_seed, variance_parts
from jaxrobust.precision.estimate import Estimate, estimate
from jaxrobust.precision.rota import rota
from jaxrobust.precision.rounds import FEWEST, next_seeds, seeds_needed, unseen_events

__all__ = [
    "FEWEST",
    "Costs",
    "Estimate",
    "VarianceParts",
    "blocks_per_seed",
    "estimate",
    "next_seeds",
    "rota",
    "seeds_needed",
    "unseen_events",
    "variance_parts",
]
