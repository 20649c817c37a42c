"""How many blocks each seed had best see, from the pilot's spread and the measured costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

from jaxrobust.sampling.block_schedule import block_schedule
from jaxrobust.sampling.estimate import reach
from jaxrobust.sampling.rounds import FEWEST

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# A round of half as many seeds again ends on average so far beyond the number that is needed:
# the mean of 1.5^u, u uniform between 0 and 1.
_OVERSHOOT = 0.5 / np.log(1.5)
# More would tell better how many images to use, but cost more than that saves (simulated).
_SECOND_LOOKS = 8


@dataclass(frozen=True)
class VarianceParts:
    """Variances of a metric's mean over a block, less what its undamaged mean explains.

    Attributes:
        seed: of the seeds' means over all blocks.
        block: of the blocks' means over all seeds.
        rest: of what is left of one seed's mean on one block.
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


def pilot(
    blocks: int, root: int = 0
) -> tuple[Int[np.ndarray, " looks"], Int[np.ndarray, " looks"]]:
    """What is run before the number of blocks per seed is chosen.

    The first round's seeds on the first block of their rows, so that nothing is wasted where that
    will do, and the first of them on their second block, to tell seeds from what is left.

    Returns:
        Seeds and the blocks that they see, by which sums [..., seed, block] may be indexed.
    """
    rows = block_schedule(blocks, min(2, blocks), FEWEST, root)
    second = rows[:_SECOND_LOOKS, 1:].ravel()
    seeds = np.concatenate([np.arange(FEWEST), np.arange(len(second))])
    return seeds, np.concatenate([rows[:, 0], second])


def variance_parts(
    values: Float[np.ndarray, "*cells looks"],
    clean: Float[np.ndarray, " blocks"],
    images: Int[np.ndarray, " blocks"],
    seeds: Int[np.ndarray, " looks"],
    blocks: Int[np.ndarray, " looks"],
) -> VarianceParts:
    """Variance components of an incomplete two-way layout, from squared differences of pairs.

    Half the mean squared difference is block + rest in pairs of one seed, seed + rest in pairs on
    one block, and all three in other pairs. What comes out below 0 is set to 0. Only blocks of
    full size count. Where no two seeds saw one block, its part is in the rest; where no seed saw
    two blocks, everything is in the seed's part.

    Args:
        values: the metric's means of the seeds on the blocks; NaN for a cell that is not run.
        clean: the undamaged network's mean on each block.
        images: how many images each block holds.
        seeds, blocks: of each entry of the values, from `pilot`.
    """
    full = images[blocks] == images.max()
    values, seeds, blocks = values[..., full], seeds[full], blocks[full]
    control = clean[blocks]
    control = control - control.mean()
    values = values - values.mean(-1, keepdims=True)
    slope = np.clip((values * control).sum(-1) / ((control**2).sum() or 1), 0, 1)
    values = values - slope[..., None] * control

    everything, own_seed, own_block = (
        _pairs(values, group) for group in (np.zeros_like(seeds), seeds, blocks)
    )
    squares = everything[0] - own_seed[0] - own_block[0]
    pairs = everything[1] - own_seed[1] - own_block[1]
    total = _half_mean(squares, pairs) if pairs else _half_mean(*everything)
    within_seed = _half_mean(*own_seed)
    within_block = _half_mean(*own_block) if own_block[1] else total
    block = np.clip(total - within_block, 0, within_seed)
    return VarianceParts(np.maximum(total - within_seed, 0), block, within_seed - block)


def _pairs(values: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, int]:
    """Sum of squared differences over ordered pairs within groups, and how many pairs."""
    count = np.bincount(group)
    member = group[:, None] == np.arange(len(count))
    sums = 2 * (count * ((values**2) @ member) - (values @ member) ** 2)
    return sums.sum(-1), int((count * (count - 1)).sum())


def _half_mean(squares: np.ndarray, pairs: int) -> np.ndarray:
    return np.maximum(squares, 0) / (2 * max(pairs, 1))


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
    bounds: tuple[float, float] = (0.0, 1.0),
    confidence: float = 0.95,
) -> int:
    """The number of blocks per seed with which all cells reach a half-width at the least cost.

    A cell with variance v(k) over seeds of k blocks of m images needs the n for which
    t² v / n + (3 range / (n k m))² = target², a round's overshoot more, and at least FEWEST. A draw
    serves all strengths of a perturbation, a prefix all its seed's trials. With N the most seeds
    of a perturbation's cells:

        cost(k) = Σ draw · N + k · m · (prefix · max N + suffix · Σ n)

    Args:
        parts: of the cells, each [perturbations, strengths]; NaN for a cell that is not run.
        costs: measured.
        images: how many images each block holds.
        target: the half-width that is asked for.
        bounds, confidence: as for `estimate`.

    Returns:
        From 1 to the number of blocks; the smallest of equally good ones.
    """
    shown = np.arange(1, len(images) + 1)
    t = stdtrit(FEWEST - 1, 0.5 + confidence / 2)
    spread = t**2 * parts.per_seed(shown, len(images))
    per_seed = shown * images.mean()
    needed = (spread + np.sqrt(spread**2 + (6 * reach(bounds) * target / per_seed) ** 2)) / (
        2 * target**2
    )
    seeds = np.nan_to_num(np.maximum(needed * _OVERSHOOT, FEWEST))
    most = seeds.max(-2)
    cost = costs.draw @ most + per_seed * (
        costs.prefix * most.max(0) + costs.suffix * seeds.sum((0, 1))
    )
    return int(shown[cost.argmin()])
