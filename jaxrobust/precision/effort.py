"""How many blocks each seed had best see, from the pilot's spread and the measured costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

from jaxrobust.precision.rounds import FEWEST

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# A round of half as many seeds again ends on average so far beyond the number that is needed:
# the mean of 1.5^u, u uniform between 0 and 1.
_OVERSHOOT = 0.5 / np.log(1.5)


@dataclass(frozen=True)
class VarianceParts:
    """Variances of a block's accuracy, less what its undamaged accuracy explains.

    Attributes:
        seed: of the seeds' means over all blocks.
        block: of the blocks' means over all seeds.
        rest: of what is left of one seed's accuracy on one block.
    """

    seed: Float[np.ndarray, "*cells"]
    block: Float[np.ndarray, "*cells"]
    rest: Float[np.ndarray, "*cells"]

    def per_seed(
        self, shown: Int[np.ndarray, " choices"], blocks: int
    ) -> Float[np.ndarray, "*cells choices"]:
        """The variance of the mean of `shown` of `blocks` blocks, over seeds with such rows."""
        seed, block, rest = (part[..., None] for part in (self.seed, self.block, self.rest))
        return seed + block * (1 / shown - 1 / blocks) + rest / shown


def variance_parts(
    hits: Int[np.ndarray, "*cells seeds shown"],
    images: Int[np.ndarray, " blocks"],
    clean: Int[np.ndarray, " blocks"],
    rota: Int[np.ndarray, "seeds shown"],
) -> VarianceParts:
    """Variance components of an incomplete two-way layout, from squared differences of pairs.

    Half the mean squared difference is block + rest in pairs within a seed, seed + rest within a
    block, and all three in other pairs; components below 0 are set to 0. Only blocks of full size
    count. Without pairs within a block, its part is in the rest; without pairs within a seed (one
    block each), all of it is in the seed's part.

    Args:
        hits: right answers of each seed on each block of its row.
        images, clean: how many images each block holds, and how many are right undamaged.
        rota: which blocks the rows are, from `rota`.
    """
    full = (images == images.max())[rota]
    control = np.where(full, (clean / images)[rota], 0)
    control = np.where(full, control - control[full].mean(), 0)
    values = np.where(full, hits / images[rota], 0)
    values = np.where(full, values - values[..., full].mean(-1)[..., None, None], 0)
    squares = (control**2).sum()
    slope = np.clip((values * control).sum((-2, -1)) / (squares or 1), 0, 1)
    values = values - slope[..., None, None] * control

    everything = _pairs(values, full, np.zeros_like(rota))
    seeds = _pairs(values, full, np.broadcast_to(np.arange(len(rota))[:, None], rota.shape))
    blocks = _pairs(values, full, rota)
    others = tuple(a - b - c for a, b, c in zip(everything, seeds, blocks, strict=True))
    total = _half_mean(others if others[1] else everything)
    within_seed = _half_mean(seeds) if seeds[1] else np.zeros_like(total)
    within_block = _half_mean(blocks) if blocks[1] else total
    block = np.clip(total - within_block, 0, within_seed)
    return VarianceParts(np.maximum(total - within_seed, 0), block, within_seed - block)


def _pairs(values: np.ndarray, full: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, int]:
    """Sum of squared differences over ordered pairs within groups, and how many pairs."""
    own = group[full]
    count = np.bincount(own)
    member = own[:, None] == np.arange(len(count))
    chosen = values[..., full]
    sums = 2 * (count * ((chosen**2) @ member) - (chosen @ member) ** 2)
    return sums.sum(-1), int((count * (count - 1)).sum())


def _half_mean(pairs: tuple[np.ndarray, int]) -> np.ndarray:
    return np.maximum(pairs[0], 0) / (2 * max(pairs[1], 1))


@dataclass(frozen=True)
class Costs:
    """What the work on a group of layers takes.

    Attributes:
        draw: seconds of a seed's draw and whatever else it costs once, for each perturbation.
        prefix: seconds per image that a seed sees, whatever the strengths: near 0 where the
            residuals of all images are kept.
        suffix: seconds per trial-image.
    """

    draw: Float[np.ndarray, " perturbations"]
    prefix: float
    suffix: float


def blocks_per_seed(
    parts: VarianceParts,
    costs: Costs,
    images: Int[np.ndarray, " blocks"],
    target: float,
    least: int = 1,
    confidence: float = 0.95,
) -> int:
    """The number of blocks per seed with which all cells reach a half-width at the least cost.

    A cell with variance v(k) over seeds of k blocks of m images needs the n for which
    t² v / n + (3 / (n k m))² = target², a round's overshoot more, and at least FEWEST. A draw
    serves all strengths of a perturbation, a prefix all its seed's trials. With N the most seeds
    of a perturbation's cells:

        cost(k) = Σ draw · N + k · m · (prefix · max N + suffix · Σ n)

    Args:
        parts: of the cells, each [perturbations, strengths]; NaN for a cell that is not run.
        costs: measured.
        images: how many images each block holds.
        target: the half-width that is asked for.
        least: the blocks that each seed has seen already.

    Returns:
        From `least` to the number of blocks; the smallest of equally good ones.
    """
    shown = np.arange(least, len(images) + 1)
    t = stdtrit(FEWEST - 1, 0.5 + confidence / 2)
    spread = t**2 * parts.per_seed(shown, len(images))
    per_seed = shown * images.mean()
    needed = (spread + np.sqrt(spread**2 + (6 * target / per_seed) ** 2)) / (2 * target**2)
    seeds = np.nan_to_num(np.maximum(needed * _OVERSHOOT, FEWEST))
    most = seeds.max(-2)
    cost = costs.draw @ most + per_seed * (
        costs.prefix * most.max(0) + costs.suffix * seeds.sum((0, 1))
    )
    return int(shown[cost.argmin()])
