"""Intervals against scipy's, their coverage in simulated sweeps; crossings and areas of curves."""

import numpy as np
import pytest
from scipy import stats

from jaxrobust.statistics import (
    censored_seed_interval,
    first_crossing,
    mean_over_range,
    rank_correlation,
    seed_and_image_interval,
    seed_interval,
    wilson_interval,
)

IMAGES = 10.0


def over_images(means: np.ndarray) -> tuple[np.ndarray, ...]:
    """The interval over seeds and images of blocks of one size, from their means."""
    return seed_and_image_interval(means * IMAGES, np.full(means.shape, IMAGES))


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("seeds", [3, 4, 30])
def test_the_seed_interval_is_scipys(seeds: int, confidence: float) -> None:
    values = np.random.default_rng(seeds).normal(0.6, 0.1, (2, 5, seeds))
    mean, low, high, std, count = seed_interval(values, confidence)
    expected = stats.t.interval(confidence, seeds - 1, values.mean(-1), stats.sem(values, -1))
    np.testing.assert_allclose([low, high], expected, rtol=1e-10)
    np.testing.assert_allclose(mean, values.mean(-1), rtol=1e-14)
    np.testing.assert_allclose(std, values.std(-1, ddof=1), rtol=1e-12)
    assert (count == seeds).all()


def test_seeds_that_were_not_run_do_not_count() -> None:
    values = np.array([0.2, 0.5, 0.9, 0.4])
    with_gaps = np.array([0.2, np.nan, 0.5, np.nan, 0.9, 0.4])
    for found, expected in zip(seed_interval(with_gaps), seed_interval(values), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("row", "finite", "seeds"),
    [
        ([np.nan, np.nan, np.nan], [], 0),
        ([0.5, np.nan, np.nan], ["mean"], 1),
        ([0.5, 0.7, np.nan], ["mean", "std"], 2),
        ([0.5, 0.7, 0.9], ["mean", "low", "high", "std"], 3),
    ],
)
def test_too_few_seeds_give_no_interval(row: list[float], finite: list[str], seeds: int) -> None:
    blocks = np.repeat(np.asarray(row)[None, :, None], 4, -1)
    for result in (seed_interval(np.asarray([row])), over_images(blocks)):
        *found, count = result
        names = ("mean", "low", "high", "std")
        assert [n for n, x in zip(names, found, strict=True) if np.isfinite(x[0])] == finite
        assert count[0] == seeds


def test_one_block_says_nothing_about_images() -> None:
    _, low, high, std, _ = over_images(np.array([[0.1], [0.2], [0.4]]))
    assert np.isnan(low) and np.isnan(high) and np.isfinite(std)


def test_a_seed_with_a_missing_block_is_left_out() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, (5, 6))
    missing = values.copy()
    missing[2, 4] = np.nan
    complete = np.delete(values, 2, 0)
    for found, expected in zip(over_images(missing), over_images(complete), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_smaller_last_block_counts_by_its_images() -> None:
    random = np.random.default_rng(3)
    images = np.broadcast_to(np.array([10, 10, 10, 4]), (5, 4)).astype(float)
    sums = random.binomial(images.astype(int), 0.6).astype(float)
    mean, low, high, std, _ = seed_and_image_interval(sums, images)
    per_seed = sums.sum(-1) / 34
    np.testing.assert_allclose((mean, std), (per_seed.mean(), per_seed.std(ddof=1)), rtol=1e-12)
    # How wide the interval is, the full blocks tell.
    _, full_low, full_high, _, _ = seed_and_image_interval(sums[:, :3], images[:, :3])
    np.testing.assert_allclose(high - low, full_high - full_low, rtol=1e-12)


def test_cells_do_not_depend_on_the_cells_beside_them() -> None:
    random = np.random.default_rng(4)
    sums, images = random.uniform(0, 10, (3, 4, 5)), np.full((3, 4, 5), IMAGES)
    sums[1], images[1] = 0, np.nan  # a cell that was not run
    together = seed_and_image_interval(sums, images)
    for cell in range(3):
        alone = seed_and_image_interval(sums[cell], images[cell])
        for found, expected in zip(together, alone, strict=True):
            np.testing.assert_allclose(found[cell], expected, rtol=1e-12)
    assert np.isfinite(together[1][[0, 2]]).all() and np.isnan(together[1][1])


def test_equal_values_give_an_interval_of_no_width() -> None:
    for found in (seed_interval(np.full(4, 0.25)), over_images(np.full((4, 3), 0.25))):
        mean, low, high, std, _ = found
        assert (mean, low, high, std) == (0.25, 0.25, 0.25, 0.0)


def coverage(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    return float(((low <= truth) & (truth <= high)).mean())


def test_the_seed_interval_covers_as_often_as_it_says() -> None:
    # 40,000 sweeps of 4 seeds: the standard error of a coverage of 0.95 is 0.0011. With the
    # normal distribution in place of Student's it would be 0.86.
    values = np.random.default_rng(1).normal(0.7, 0.1, (40_000, 4))
    _, low, high, _, _ = seed_interval(values)
    assert coverage(low, high, 0.7) == pytest.approx(0.95, abs=0.005)


# Spread over seeds, over blocks and of the rest, with tolerances for coverage: Satterthwaite's
# degrees of freedom are an approximation, and the floor under the variance makes it cautious.
LAYOUTS = {
    "seeds vary": ((0.1, 0.0, 0.05), (0.94, 0.99)),
    "images vary": ((0.0, 0.1, 0.05), (0.94, 0.99)),
    "both vary": ((0.1, 0.1, 0.05), (0.935, 0.985)),
    "neither varies": ((0.0, 0.0, 0.1), (0.95, 1.0)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_interval_over_seeds_and_images_covers_as_often_as_it_says(name: str) -> None:
    (seed, block, rest), (least, most) = LAYOUTS[name]
    random = np.random.default_rng(2)
    values = (
        0.6
        + random.normal(0, 1, (20_000, 8, 1)) * seed
        + random.normal(0, 1, (20_000, 1, 10)) * block
        + random.normal(0, 1, (20_000, 8, 10)) * rest
    )
    mean, low, high, std, count = over_images(values)
    assert least <= coverage(low, high, 0.6) <= most
    np.testing.assert_allclose(mean, values.mean((-2, -1)), rtol=1e-12)
    np.testing.assert_allclose(std, values.mean(-1).std(-1, ddof=1), rtol=1e-9)
    assert (count == 8).all()
    if block:  # what generalising over images is for
        _, low, high, _, _ = seed_interval(values.mean(-1))
        assert coverage(low, high, 0.6) < 0.9


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize(("hits", "images"), [(0, 7), (1, 1), (90, 100), (643, 1000)])
def test_the_interval_of_a_proportion_is_scipys(hits: int, images: int, confidence: float) -> None:
    expected = stats.binomtest(hits, images).proportion_ci(confidence, method="wilson")
    found = wilson_interval(np.asarray(hits), np.asarray(images), confidence)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_the_interval_of_a_proportion_lies_within_0_and_1() -> None:
    images = np.arange(1, 200)
    for hits in (np.zeros_like(images), images):
        low, high = wilson_interval(hits, images)
        assert (low >= 0).all() and (high <= 1).all() and not np.signbit(low).any()


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.8, 0.6, 0.2, 0.1], 0.15),  # between 0.1 and 0.2
        ([0.8, 0.4, 0.4, 0.1], 0.1),  # on a point
        ([0.8, 0.2, 0.9, 0.1], 0.1 * 0.4 / 0.6),  # the first of two crossings
        ([0.8, 0.7, 0.6, 0.41], np.inf),
        ([0.3, 0.2, 0.1, 0.0], 0.0),  # there from the start
        ([0.8, np.nan, 0.2, 0.1], np.nan),
        ([0.8, 0.2, 0.1, np.nan], np.nan),
    ],
)
def test_where_a_curve_first_falls_to_a_level(curve: list[float], expected: float) -> None:
    strengths = np.array([0.0, 0.1, 0.2, 0.4])
    np.testing.assert_allclose(first_crossing(strengths, np.asarray(curve), 0.4), expected)


def test_crossings_are_those_of_a_search_along_each_curve() -> None:
    random = np.random.default_rng(5)
    strengths = np.sort(random.uniform(0, 2, 9))
    values = random.uniform(0, 1, (3, 4, 9)) - strengths * 0.2
    found = first_crossing(strengths, values, 0.2)
    fine = np.linspace(strengths[0], strengths[-1], 400_001)
    for index in np.ndindex(3, 4):
        below = np.interp(fine, strengths, values[index]) <= 0.2
        expected = fine[below.argmax()] if below.any() else np.inf
        np.testing.assert_allclose(found[index], expected, atol=1e-5)
    # Strengths may also fall, as those of a fraction that is kept.
    mirrored = first_crossing(-strengths, values, 0.2)
    np.testing.assert_allclose(mirrored, -found)


def test_the_mean_over_the_range_is_the_area_over_its_width() -> None:
    strengths, values = np.array([0.0, 1.0, 4.0]), np.array([[1.0, 0.5, 0.5], [0.0, 1.0, np.nan]])
    np.testing.assert_allclose(mean_over_range(strengths, values), [(0.75 + 1.5) / 4, np.nan])
    np.testing.assert_allclose(mean_over_range(strengths[::-1], values[:, ::-1])[0], 2.25 / 4)
    assert np.isnan(mean_over_range(strengths[:1], values[:, :1])).all()


def test_a_seed_beyond_the_range_leaves_no_mean_but_a_bound_and_a_median() -> None:
    values = np.array([[0.2, 0.5, 0.9], [0.2, np.inf, 0.9], [np.inf] * 3, [np.nan, 0.5, np.inf]])
    found = censored_seed_interval(values, 1.0)
    assert found.seeds.tolist() == [3, 3, 3, 2] and found.beyond.tolist() == [0, 1, 3, 1]
    whole = seed_interval(values[0])
    for part, expected in zip((found.mean, found.low, found.high, found.std), whole, strict=False):
        np.testing.assert_allclose(part[0], expected)
        assert np.isnan(part[1:]).all()
    np.testing.assert_allclose(found.median, [0.5, 0.9, np.inf, np.inf])
    np.testing.assert_allclose(found.bound, [1.6 / 3, 0.7, 1, 0.75])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_seed_that_was_run_and_is_not_finite_makes_the_mean_so(bad: float) -> None:
    values, run = np.array([0.2, bad, 0.4, 0.5, 0.1]), np.array([True, True, True, True, False])
    mean, low, high, std, seeds = seed_interval(values, run=run)
    np.testing.assert_equal(mean, bad)
    assert np.isnan([low, high, std]).all() and seeds == 4
    blocks = np.repeat(values[:, None], 3, -1) * IMAGES
    mean, low, high, _, seeds = seed_and_image_interval(blocks, np.full((5, 3), IMAGES), run=run)
    np.testing.assert_equal(mean, bad)
    assert np.isnan([low, high]).all() and seeds == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_curve_with_a_point_that_is_not_finite_crosses_nothing(bad: float) -> None:
    curves = np.array([[0.9, bad, 0.1], [0.9, 0.5, 0.1]])
    found = first_crossing(np.array([0.0, 1.0, 2.0]), curves, 0.5)
    np.testing.assert_array_equal(found, [np.nan, 1])


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_the_rank_correlation_is_spearmans(levels: int) -> None:
    first, second = np.random.default_rng(levels).integers(0, levels, (2, 40))
    expected = stats.spearmanr(first, second)
    np.testing.assert_allclose(rank_correlation(first, second), expected[0], rtol=1e-12)  # pyright: ignore
    assert np.isnan(rank_correlation(first, np.zeros(40)))
