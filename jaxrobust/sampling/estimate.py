"""The mean of each cell and its interval, from what each seed counted over its own blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

from jaxrobust.sampling.rounds import FEWEST, round_ends
from jaxrobust.statistics import FEWEST_SEEDS

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Estimate:
    """What is known of each cell.

    Attributes:
        mean: the mean over damage draws of a metric on all images, estimated.
        low, high: its interval, cut off where the metric ends.
        half_width: of the interval before it is cut off: what a sweep stops on.
        seeds: how many were counted.
        images: how many trial-images they saw.
        met: whether the half-width is the one asked for, after FEWEST seeds or more.
    """

    mean: Float[np.ndarray, "*cells"]
    low: Float[np.ndarray, "*cells"]
    high: Float[np.ndarray, "*cells"]
    half_width: Float[np.ndarray, "*cells"]
    seeds: Int[np.ndarray, "*cells"]
    images: Int[np.ndarray, "*cells"]
    met: Bool[np.ndarray, "*cells"]


def estimate(
    sums: Float[np.ndarray, "*cells seeds"],
    images: Int[np.ndarray, "*#cells seeds"],
    luck: Float[np.ndarray, "*#cells seeds"],
    counted: Int[np.ndarray, "*cells"],
    target: float,
    confidence: float = 0.95,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Estimate:
    """Estimates cells of which each has its own number of seeds.

    From each seed's sum the luck with its images is taken: a[i] = sums[i] - c[i] · luck[i], a
    control variate of known mean 0. The coefficient c, within 0 and 1, is the slope of the metric
    on its undamaged value over the seeds of earlier rounds; the halves of the first round take
    each other's. So no seed has a part in its own coefficient, and the mean, Σa / Σimages, stays
    unbiased. With r[i] = a[i] - mean · images[i] in units of the mean number of images of a seed,
    their variance s² and their third central moment m3, the half-width is

        √((t(1 - α/2, n - 1) · s / √n + |m3| (1 + 2 t²) / (6 s² n))² + (3 range / trial-images)²)

    The first term is Student's, for a ratio (Cochran, "Sampling Techniques", 1977, chapter 6). The
    second is how far skewness shifts it (Johnson, "Modified t tests and confidence intervals for
    asymmetrical populations", 1978), here allowed for on both sides: damage is skewed, and a sweep
    stops too early where the bad draws happen to be missing. The third is the rule of three, so
    that equal counts leave the precision that so many images can have; `range` is how far apart the
    metric's bounds are, and of a metric without bounds, of which no two values are equal by chance,
    there is no such term.

    A seed's images are in its own value, and distinct seeds' blocks overlap no more than chance
    would have it, so that the spread over seeds covers the choice of images. It holds none where
    every seed sees all of them.

    Args:
        sums: of the metric over the images of each seed's row of the block schedule; those not
            counted are not read.
        images: how many images of that row count for the metric.
        luck: the undamaged network's sum over that row, less what so many images have on average.
        counted: how many seeds have been run, the first ones.
        target: the half-width that is asked for.
        confidence: the nominal coverage.
        bounds: the least and the greatest value that the metric can have, perhaps infinite.

    Returns:
        With no images the mean is NaN, below 3 seeds interval and half-width too. A value that is
        not finite makes its cell NaN.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # of values that are not finite
        return _estimate(sums, images, luck, counted, target, confidence, bounds)


def _estimate(
    sums: np.ndarray,
    images: np.ndarray,
    luck: np.ndarray,
    counted: np.ndarray,
    target: float,
    confidence: float,
    bounds: tuple[float, float],
) -> Estimate:
    run = np.arange(sums.shape[-1]) < counted[..., None]
    sums, per_image = np.where(run, sums, 0), np.maximum(images, 1)
    coefficients = _coefficients(sums / per_image, luck / per_image, run)
    values = np.where(run, sums - coefficients * luck, 0)
    own_images = np.where(run, images, 0)
    seen = own_images.sum(-1)
    n, per_seed = np.maximum(counted, 1), np.maximum(seen, 1) / np.maximum(counted, 1)
    mean = values.sum(-1) / np.maximum(seen, 1)
    rest = (values - mean[..., None] * own_images) / per_seed[..., None]
    variance = (rest**2).sum(-1) / np.maximum(n - 1, 1)
    third = (rest**3).sum(-1) * n / np.maximum((n - 1) * (n - 2), 1)
    t = stdtrit(np.maximum(n - 1, 1), 0.5 + confidence / 2)
    skewed = np.abs(third) * (1 + 2 * t**2) / (6 * np.where(variance > 0, variance, 1) * n)
    half = np.hypot(t * np.sqrt(variance / n) + skewed, 3 * reach(bounds) / np.maximum(seen, 1))
    half = np.where((counted < FEWEST_SEEDS) | (seen == 0), np.nan, half)
    mean = np.where(seen > 0, mean, np.nan)
    return Estimate(
        mean=np.clip(mean, *bounds),
        low=np.clip(mean - half, *bounds),
        high=np.clip(mean + half, *bounds),
        half_width=half,
        seeds=counted,
        images=seen,
        met=(half <= target) & (counted >= FEWEST),
    )


def reach(bounds: tuple[float, float]) -> float:
    """How far apart two bounds are; 0 where one of them is infinite."""
    low, high = bounds
    return high - low if np.isfinite(high - low) else 0.0


def _coefficients(values: np.ndarray, control: np.ndarray, run: np.ndarray) -> np.ndarray:
    """The coefficient of each seed, [*cells, seeds], from seeds that do not take it."""
    seed = np.arange(run.shape[-1])
    early, late = seed < FEWEST // 2, (FEWEST // 2 <= seed) & (seed < FEWEST)
    shares = [(early, late), (late, early)]
    ends = round_ends(len(seed))
    for start, end in zip(ends, ends[1:], strict=False):
        shares.append(((start <= seed) & (seed < end), seed < start))
    coefficients = np.zeros(run.shape)
    for takers, givers in shares:
        coefficients[..., takers] = _slope(values, control, run & givers)[..., None]
    return coefficients


def _slope(values: np.ndarray, control: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Least squares over the chosen ones; within 0 and 1, as damage helps no image on average."""
    count = np.maximum(chosen.sum(-1, keepdims=True), 1)
    centre = np.where(chosen, control, 0).sum(-1, keepdims=True) / count
    x = np.where(chosen, control - centre, 0)
    squares = (x**2).sum(-1)
    return np.clip((x * values).sum(-1) / np.where(squares > 0, squares, 1), 0, 1)
