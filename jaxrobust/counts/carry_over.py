"""What a larger sweep takes over from a smaller one that it extends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrobust.counts.state import State
from jaxrobust.design.specification import Specification


def carry_over(state: State, held: Specification, asked: Specification, seeds: int) -> State:
    """The state of a sweep that begins with everything that a smaller one has counted.

    Args:
        state: of the smaller one; blocks that were not counted wholly are left.
        held, asked: both specifications, of which the second one adds to the first.
        seeds: how many there is room for afterwards, at least as many as before.
    """
    new = State.empty(asked, seeds)
    place = (
        _places([name for name, _ in held.strengths], [name for name, _ in asked.strengths]),
        _places([name for name, _ in held.layers], [name for name, _ in asked.layers]),
        _places(held.grid, asked.grid),
        range(state.seeds),
    )
    # A last block that was not full is run again with the images that fill it.
    grown = asked.images > held.images
    blocks = held.images // held.block if grown else held.blocks
    carried = state.counted[..., :blocks]
    for name, values in state.trials.items():
        own = carried.reshape(carried.shape + (1,) * (values.ndim - carried.ndim))
        kept = np.where(own, values[:, :, :, :, :blocks], np.zeros((), values.dtype))
        new.trials[name][np.ix_(*place, range(blocks))] = kept
    new.carried[np.ix_(*place, range(blocks))] = carried
    if not grown:
        new.clean.update(state.clean)
    return new


def _places(few: Sequence[Any], many: Sequence[Any]) -> list[int]:
    return [list(many).index(each) for each in few]
