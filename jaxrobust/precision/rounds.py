"""How many seeds: geometric rounds, and what so many cannot show."""

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


def unseen_events(seeds: int) -> str:
    """The warning that goes with intervals over so many seeds.

    By the rule of three, n draws miss an event of probability 3 / n in 5 % of sweeps, one that is
    rarer more often. No interval can allow for what has not been seen: where 1 draw in 30 ruins a
    network that is otherwise as good as undamaged, a third of the sweeps stop at 32 seeds without
    having met it, and only 0.65 of the 95 % intervals hold the mean (simulated).

    Args:
        seeds: the fewest that any cell has.

    Example:
        >>> unseen_events(32).partition(": ")[0]
        'with 32 seeds, damage that strikes less than about 1 draw in 11 may not have been seen'
    """
    rarest = max(round(seeds / 3), 1)
    return (
        f"with {seeds} seeds, damage that strikes less than about 1 draw in {rarest} may not have "
        "been seen: no interval allows for it"
    )
