"""Intervals over seeds and images; numpy and scipy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import bdtr, bdtrc, ndtri, stdtrit

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

FEWEST_SEEDS = 3


def seed_interval(
    values: Float[np.ndarray, "*cells seeds"],
    confidence: float = 0.95,
    run: Bool[np.ndarray, "*cells seeds"] | None = None,
) -> tuple[Float[np.ndarray, "*cells"], ...]:
    """Student-t interval of the mean over seeds.

    mean ± t(1 - α/2, n - 1) · s / √n, with s the sample standard deviation over the n seeds that
    were run. The images are taken as given: all seeds saw the same ones.

    Args:
        values: of each seed.
        confidence: the nominal coverage.
        run: the seeds that were run. Of these one that is NaN or infinite makes the mean so. By
            default all but those that are NaN.

    Returns:
        mean, low, high, std and number of seeds, each [*cells]. With no seeds the mean is NaN,
        with one seed the std too, below 3 seeds low and high too.
    """
    run = ~np.isnan(values) if run is None else run
    n = run.sum(-1)
    safe = np.maximum(n, 1)
    with np.errstate(invalid="ignore", over="ignore"):  # of values that are not finite
        mean = np.where(n > 0, np.where(run, values, 0).sum(-1) / safe, np.nan)
        squares = np.where(run, values - mean[..., None], 0) ** 2
        std = np.where(n > 1, np.sqrt(squares.sum(-1) / np.maximum(n - 1, 1)), np.nan)
        half = stdtrit(safe - 1 + (n < 2), 0.5 + confidence / 2) * std / np.sqrt(safe)
        half = np.where(n < FEWEST_SEEDS, np.nan, half)
        return mean, mean - half, mean + half, std, n


@dataclass(frozen=True)
class Censored:
    """What is known of a mean over seeds of which some lie beyond what was measured.

    Attributes:
        mean, low, high, std: as `seed_interval` gives them; NaN where a seed lies beyond, as a
            mean over the others would be too small.
        median: over all seeds, infinity where it lies beyond itself.
        bound: the mean with the seeds beyond counted at the end of the range: it is at least that.
        seeds: how many were run, those beyond among them.
        beyond: how many lie beyond.
    """

    mean: Float[np.ndarray, "*cells"]
    low: Float[np.ndarray, "*cells"]
    high: Float[np.ndarray, "*cells"]
    std: Float[np.ndarray, "*cells"]
    median: Float[np.ndarray, "*cells"]
    bound: Float[np.ndarray, "*cells"]
    seeds: Int[np.ndarray, "*cells"]
    beyond: Int[np.ndarray, "*cells"]


def censored_seed_interval(
    values: Float[np.ndarray, "*cells seeds"],
    end: Float[np.ndarray, "*#cells"] | float,
    confidence: float = 0.95,
    run: Bool[np.ndarray, "*cells seeds"] | None = None,
) -> Censored:
    """`seed_interval` of values that may lie beyond what was measured (infinity).

    Args:
        values, confidence, run: as for `seed_interval`.
        end: where the range that was measured ends.
    """
    run = ~np.isnan(values) if run is None else run
    past = np.isinf(values) & run
    beyond = past.sum(-1)
    mean, low, high, std, seeds = seed_interval(np.where(past, 0, values), confidence, run)
    mean, low, high, std = (np.where(beyond > 0, np.nan, x) for x in (mean, low, high, std))
    bound = seed_interval(np.where(past, np.asarray(end)[..., None], values), confidence, run)[0]
    # Sorted, seeds beyond come behind the others, and those that were not run behind all.
    ordered = np.sort(np.where(run, values, np.nan), axis=-1)
    middle = [
        np.take_along_axis(ordered, np.maximum(place, 0)[..., None], -1)[..., 0]
        for place in ((seeds - 1) // 2, seeds // 2)
    ]
    median = np.where(np.isnan(bound), np.nan, (middle[0] + middle[1]) / 2)
    return Censored(mean, low, high, std, median, bound, seeds, beyond)


def first_crossing(
    strengths: Float[np.ndarray, " points"],
    values: Float[np.ndarray, "*curves points"],
    level: float,
) -> Float[np.ndarray, "*curves"]:
    """The strength at which each curve first falls to a level, by linear interpolation.

    Args:
        strengths: in the order in which the damage grows.
        values: the curves at these strengths.
        level: what is to be reached.

    Returns:
        Infinity for a curve that stays above the level, NaN for one with a point that is missing
        or not finite.

    Example:
        >>> curve = np.array([0.9, 0.7, 0.3])
        >>> float(first_crossing(np.array([0.0, 0.1, 0.2]), curve, 0.4).round(6))
        0.175
    """
    finite = np.isfinite(values)
    values = np.where(finite, values, 0)
    reached = values <= level
    after = reached.argmax(-1)
    before = np.maximum(after - 1, 0)
    upper, lower = (np.take_along_axis(values, i[..., None], -1)[..., 0] for i in (before, after))
    drop = upper - lower
    share = np.where(drop > 0, (upper - level) / np.where(drop > 0, drop, 1), 0)
    found = strengths[before] + share * (strengths[after] - strengths[before])
    found = np.where(reached.any(-1), found, np.inf)
    return np.where(finite.all(-1), found, np.nan)


def mean_over_range(
    strengths: Float[np.ndarray, " points"], values: Float[np.ndarray, "*curves points"]
) -> Float[np.ndarray, "*curves"]:
    """The area under each curve over the width of the range: its mean height.

    Trapezoidal rule. NaN for a curve with a missing point, or of a single point.
    """
    if len(strengths) < 2:
        return np.full(values.shape[:-1], np.nan)
    with np.errstate(invalid="ignore", over="ignore"):  # of values that are not finite
        return np.trapezoid(values, strengths, axis=-1) / (strengths[-1] - strengths[0])


def rank_correlation(
    first: Float[np.ndarray, " items"], second: Float[np.ndarray, " items"]
) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; NaN if all of one are equal.

    Example:
        >>> round(rank_correlation(np.array([1, 2, 3, 4]), np.array([10, 30, 20, 40])), 6)
        0.8
    """
    ranks = _mean_ranks(first), _mean_ranks(second)
    if np.ptp(ranks[0]) == 0 or np.ptp(ranks[1]) == 0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    # Not scipy.stats.rankdata: importing scipy.stats takes longer than a report's whole text.
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def seed_and_image_interval(
    sums: Float[np.ndarray, "*cells seeds blocks"],
    images: Float[np.ndarray, "*cells seeds blocks"],
    confidence: float = 0.95,
    run: Bool[np.ndarray, "*cells seeds"] | None = None,
) -> tuple[Float[np.ndarray, "*cells"], ...]:
    """Interval of the mean over seeds and over images like these, from a two-way layout.

    y[s, b] = μ + seed[s] + block[b] + rest[s, b], all random. With the mean squares of a two-way
    analysis of variance, Var(ȳ) = (MS_seed + MS_block - MS_rest) / (n_s · n_b), never below the
    largest of the three over n_s · n_b, and Satterthwaite's degrees of freedom. The mean counts
    every image; the mean squares come from the blocks of full size. Source: Searle, Casella and
    McCulloch, "Variance Components" (1992), chapter 4.

    Args:
        sums: of a quantity over the images of each seed and block.
        images: how many images each sum is over.
        confidence, run: as for `seed_interval`.

    Returns:
        As `seed_interval`; std is over seeds. NaN intervals below 3 seeds or 2 full blocks.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # of values that are not finite
        return _seed_and_image_interval(sums, images, confidence, run)


def _seed_and_image_interval(
    sums: np.ndarray, images: np.ndarray, confidence: float, run: np.ndarray | None
) -> tuple[np.ndarray, ...]:
    images = np.where(images > 0, images, np.nan)  # no image that counts, no mean
    seen = np.nansum(images, -1)
    totals = sums.sum(-1) / np.where(seen > 0, seen, np.nan)
    counted = ~np.isnan(totals) if run is None else run
    mean, _, _, std, n = seed_interval(totals, confidence, counted)
    size = np.fmax.reduce(images.reshape(-1, images.shape[-1]), axis=0)
    full = (size == np.fmax.reduce(size)) | np.isnan(size).all()
    blocks = int(full.sum())
    values = (sums / images)[..., full]
    per_seed = values.mean(-1)
    ran = counted[..., None]
    seeds = np.maximum(n, 1)
    per_block = np.where(ran, values, 0).sum(-2) / seeds[..., None]
    centre = per_block.mean(-1)
    fitted = per_seed[..., None] + per_block[..., None, :] - centre[..., None, None]
    rest = np.where(ran, values - fitted, 0)
    freedom_seed, freedom_block = np.maximum(n - 1, 1), max(blocks - 1, 1)
    freedom_rest = freedom_seed * freedom_block
    around = np.where(counted, per_seed - centre[..., None], 0)
    ms_seed = blocks * (around**2).sum(-1) / freedom_seed
    ms_block = seeds * ((per_block - centre[..., None]) ** 2).sum(-1) / freedom_block
    ms_rest = (rest**2).sum((-2, -1)) / freedom_rest
    total = ms_seed + ms_block - ms_rest
    total = np.maximum(total, np.maximum(np.maximum(ms_seed, ms_block), ms_rest))
    spread = ms_seed**2 / freedom_seed + ms_block**2 / freedom_block + ms_rest**2 / freedom_rest
    freedom = np.where(spread > 0, total**2 / np.where(spread > 0, spread, 1), 1)
    half = stdtrit(freedom, 0.5 + confidence / 2) * np.sqrt(total / (seeds * max(blocks, 1)))
    half = np.where((n < FEWEST_SEEDS) | (blocks < 2), np.nan, half)
    return mean, mean - half, mean + half, std, n


def wilson_interval(
    hits: Int[np.ndarray, "*cells"], images: Int[np.ndarray, "*cells"], confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of a proportion, over images like these.

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference".

    Example:
        >>> low, high = wilson_interval(np.asarray(90), np.asarray(100))
        >>> round(float(low), 4), round(float(high), 4)
        (0.8256, 0.9448)
    """
    z = ndtri(0.5 + confidence / 2)
    p = hits / images
    centre = (p + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * np.sqrt(p * (1 - p) / images + z**2 / (4 * images**2))
    # Rounding may leave a bound of 0 or 1 just outside.
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def binomial_at_least(hits: int, trials: int, chance: float) -> float:
    """The probability of so many hits or more, each trial one with the given chance.

    Example:
        >>> binomial_at_least(2, 2, 0.5), binomial_at_least(0, 2, 0.5)
        (0.25, 1.0)
    """
    return float(bdtrc(hits - 1, trials, chance)) if hits else 1.0


def binomial_at_most(hits: int, trials: int, chance: float) -> float:
    """The probability of so many hits or fewer, each trial one with the given chance.

    Example:
        >>> binomial_at_most(0, 2, 0.5), binomial_at_most(2, 2, 0.5)
        (0.25, 1.0)
    """
    return float(bdtr(hits, trials, chance))
