"""Which blocks of the images each seed looks at."""

from __future__ import annotations

import math
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int


def block_schedule(
    blocks: int, per_seed: int, seeds: int, root: int = 0
) -> Int[np.ndarray, "seeds shown"]:
    """The blocks of seeds 0, 1, …: consecutive ones, the first following upon the last.

    Seed i begins with block (start + i · stride) mod `blocks`. The stride is coprime to `blocks`,
    so that each block is the first one of exactly one of every `blocks` consecutive seeds, and of
    those it has the smallest sum of partial quotients of stride / blocks, which keeps the first
    blocks of any run of seeds evenly spread (Niederreiter, "Random Number Generation and
    Quasi-Monte Carlo Methods", 1992, chapter 3). Rows and columns of a smaller schedule are the
    first ones of a larger one. The start follows from the root, so that sweeps with other roots
    see other images where not all are seen.

    Args:
        blocks: how many there are; the source's order of images is random and class-balanced.
        per_seed: how many of them each seed sees, from 1 to `blocks`.
        seeds: how many seeds.
        root: the root of the sweep's random keys.

    Returns:
        int64 [seeds, per_seed].

    Example:
        >>> block_schedule(5, 2, 5).tolist()
        [[3, 4], [0, 1], [2, 3], [4, 0], [1, 2]]
    """
    digest = blake2b(f"rota\0{root}".encode(), digest_size=8).digest()
    start = int.from_bytes(digest, "big") % blocks
    first = start + np.arange(seeds) * _stride(blocks)
    return (first[:, None] + np.arange(per_seed)) % blocks


@cache
def _stride(blocks: int) -> int:
    coprime = (s for s in range(1, blocks // 2 + 1) if math.gcd(s, blocks) == 1)
    return min(coprime, key=lambda stride: _sum_of_quotients(stride, blocks), default=1)


def _sum_of_quotients(numerator: int, denominator: int) -> int:
    total = 0
    while numerator:
        total += denominator // numerator
        numerator, denominator = denominator % numerator, numerator
    return total
