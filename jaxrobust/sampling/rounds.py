"""How many seeds: geometric rounds, a prediction, and what so many cannot show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int

FEWEST = 32
"""Seeds of the first round; after fewer, sweeps stop on a spread that is too small by chance."""


def next_seeds(seeds: Int[np.ndarray, "*cells"]) -> Int[np.ndarray, "*cells"]:
    """The number of seeds at the end of the first round that adds to these.

    Example:
        >>> [int(next_seeds(np.asarray(n))) for n in (0, 32, 33, 48, 72)]
        [32, 48, 48, 72, 108]
    """
    ends = np.asarray(round_ends(int(np.max(seeds, initial=0)) + 1))
    return ends[np.searchsorted(ends, seeds, side="right")]


def round_ends(seeds: int) -> list[int]:
    """The numbers of seeds at the ends of rounds, up to the first that is at least `seeds`.

    Example:
        >>> round_ends(100)
        [32, 48, 72, 108]
    """
    ends = [FEWEST]
    while ends[-1] < seeds:
        ends.append((3 * ends[-1] + 1) // 2)
    return ends


def seeds_needed(half_width: float, seeds: int, target: float) -> int:
    """Predicts at how many seeds, a round's end, a cell will reach the half-width asked for.

    From n · (half-width / target)²: the half-width falls with the root of the number of seeds.

    Args:
        half_width: after `seeds` seeds, at least 3 of them.
        seeds: how many it has had.
        target: the half-width that is asked for.

    Example:
        >>> seeds_needed(0.02, 32, 0.01)
        162
    """
    needed = int(np.ceil(seeds * max(half_width / target, 1) ** 2))
    return int(next_seeds(np.asarray(needed - 1)))


def unseen_events(seeds: int) -> str:
    """The warning that goes with intervals over so many seeds.

    By the rule of three, n draws miss an event of probability 3 / n in 5 % of sweeps, one that is
    rarer more often. No interval can allow for what has not been seen: where 1 draw in 30 ruins a
    network that is otherwise as good as undamaged, a third of the sweeps stop at 32 seeds without
    having met it, and only 0.65 of the 95 % intervals hold the mean (simulated).

    Args:
        seeds: the fewest that any cell has.

    Example:
        >>> unseen_events(32).partition(" may ")[0]
        'in a cell with 32 seeds, what happens in fewer than about 1 random draw in 11'
    """
    rarest = max(round(seeds / 3), 1)
    return (
        f"in a cell with {seeds:,} seed{'s' * (seeds != 1)}, what happens in fewer than about "
        f"1 random draw in {rarest:,} may not have been seen: no interval allows for it"
    )
