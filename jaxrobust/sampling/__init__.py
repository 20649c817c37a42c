"""How many seeds, and which images each sees, until every cell is known to a given precision.

Statistics on arrays, with numpy and scipy alone.

The estimand is the mean over damage draws of a metric on the given images. The seed is the only
unit of replication: each looks at its own few blocks, and the interval is Student's over seeds.
For one group of layers, cells [perturbations, strengths] and a half-width that is asked for:

    seeds, blocks = pilot(len(images), root)                   # at most 2 blocks of each seed
    parts = variance_parts(means [..., seeds, blocks], clean means, images, seeds, blocks)
    k = blocks_per_seed(parts, costs, images, half_width)      # settled for good
    shown, n = block_schedule(len(images), k, many, root), FEWEST for every cell
    loop: run what is lacking: seeds below n on their rows of `shown`
        found = estimate(sums over each seed's row, their images, luck, n, half_width)
        if found.met is everywhere true, or time is up: end
        n = where(found.met, n, next_seeds(n))                 # 32, 48, 72, 108, …

Nothing but the counts per (trial, block), the root and k is needed to come to the same numbers.
"""

from jaxrobust.sampling.allocation import Allocation
from jaxrobust.sampling.block_schedule import block_schedule
from jaxrobust.sampling.estimate import Estimate, estimate
from jaxrobust.sampling.pilot import Costs, VarianceParts, blocks_per_seed, pilot, variance_parts
from jaxrobust.sampling.rounds import FEWEST, next_seeds, seeds_needed, unseen_events
from jaxrobust.sampling.rule import FixedSeeds, SamplingRule, UntilHalfWidth, rule_from_json

__all__ = [
    "FEWEST",
    "Allocation",
    "Costs",
    "Estimate",
    "FixedSeeds",
    "SamplingRule",
    "UntilHalfWidth",
    "VarianceParts",
    "block_schedule",
    "blocks_per_seed",
    "estimate",
    "next_seeds",
    "pilot",
    "rule_from_json",
    "seeds_needed",
    "unseen_events",
    "variance_parts",
]
