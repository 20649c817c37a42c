"""Rotas, estimates, rounds and the choice of images per seed, against independent references."""

import numpy as np
import pytest
from scipy import stats

from jaxrobust.sampling import (
    FEWEST,
    Allocation,
    Costs,
    VarianceParts,
    block_schedule,
    blocks_per_seed,
    estimate,
    next_seeds,
    pilot,
    seeds_needed,
    unseen_events,
    variance_parts,
)

IMAGES = 100


@pytest.mark.parametrize("blocks", [1, 2, 3, 7, 20, 23, 64, 100, 1000])
def test_seeds_of_a_rota_overlap_no_more_than_by_chance(blocks: int) -> None:
    for shown in {1, 2, 3, blocks // 4, blocks // 2, blocks - 1, blocks} & set(
        range(1, blocks + 1)
    ):
        for seeds in (32, 48, 72, 108, 162, 243):
            uses = np.bincount(block_schedule(blocks, shown, seeds).ravel(), minlength=blocks)
            # The mean overlap of two seeds is shown² / blocks where each sees a sample of its own.
            ordered_pairs = (uses.astype(float) ** 2).sum() - seeds * shown
            assert ordered_pairs <= seeds * (seeds - 1) * shown**2 / blocks + 1e-6
            assert np.ptp(uses) <= 6


@pytest.mark.parametrize("blocks", [1, 5, 20, 36])
def test_a_smaller_rota_is_the_beginning_of_a_larger_one(blocks: int) -> None:
    whole = block_schedule(blocks, blocks, 3 * blocks, root=7)
    assert (np.sort(whole, -1) == np.arange(blocks)).all()
    for shown, seeds in ((1, 1), (blocks, 2), (max(blocks // 3, 1), 2 * blocks)):
        np.testing.assert_array_equal(
            block_schedule(blocks, shown, seeds, 7), whole[:seeds, :shown]
        )
    # Every run of so many seeds begins with each block once: with one block each, all are seen.
    for start in (0, 2):
        assert sorted(whole[start : start + blocks, 0]) == list(range(blocks))


def test_every_block_comes_first_in_some_root() -> None:
    starts = np.array([block_schedule(20, 1, 1, root)[0, 0] for root in range(2000)])
    assert stats.chisquare(np.bincount(starts, minlength=20)).pvalue > 0.01


def test_the_interval_is_students_with_skewness_and_the_rule_of_three() -> None:
    random = np.random.default_rng(0)
    hits = random.binomial(IMAGES, 1 - random.exponential(0.1, (4, 50)).clip(0, 1))
    images = np.full(50, IMAGES)
    found = estimate(hits, images, 0 * images, np.full(4, 50), 0.03)
    values, t = hits / IMAGES, stats.t.ppf(0.975, 49)
    skewness = np.abs(stats.skew(values, axis=-1, bias=False)) * values.std(-1, ddof=1)
    half = t * stats.sem(values, -1) + skewness * (1 + 2 * t**2) / (6 * 50)
    np.testing.assert_allclose(found.mean, values.mean(-1), rtol=1e-12)
    np.testing.assert_allclose(found.half_width, np.hypot(half, 3 / 5000), rtol=1e-9)
    np.testing.assert_allclose(found.high - found.low, 2 * found.half_width, rtol=1e-9)
    assert (found.images == 5000).all() and (found.met == (found.half_width <= 0.03)).all()


@pytest.mark.parametrize("accuracy", [0.0, 0.4, 1.0])
def test_equal_counts_leave_the_precision_that_so_many_images_have(accuracy: float) -> None:
    hits = np.full((1, 40), accuracy * IMAGES)
    images = np.full(40, IMAGES)
    found = estimate(hits, images, 0 * images, np.array([40]), 3 / 4000)
    np.testing.assert_allclose(found.half_width, 3 / 4000, rtol=1e-9)
    assert found.mean[0] == pytest.approx(accuracy) and found.met[0]
    assert 0 <= found.low[0] <= accuracy <= found.high[0] <= 1


def test_few_seeds_meet_nothing() -> None:
    hits, images = np.full((5, 40), 50), np.full(40, IMAGES)
    counted = np.array([0, 2, 3, FEWEST - 1, FEWEST])
    found = estimate(hits, images, 0 * images, counted, 0.5)
    assert np.isfinite(found.mean).tolist() == [False, True, True, True, True]
    assert np.isfinite(found.half_width).tolist() == [False, False, True, True, True]
    assert found.met.tolist() == [False, False, False, False, True]


def test_a_cell_depends_on_its_own_seeds_only() -> None:
    random = np.random.default_rng(1)
    images = np.full(80, IMAGES)
    luck = random.binomial(IMAGES, 0.8, 80) - 0.8 * images
    hits = random.binomial(IMAGES, 0.6, (5, 80))
    counted = np.array([0, 7, 32, 50, 80])
    unread = np.where(np.arange(80) < counted[:, None], hits, np.nan)
    together = estimate(unread, images, luck, counted, 0.01)
    for cell, n in enumerate(counted):
        alone = estimate(hits[cell, :n], images[:n], luck[:n], counted[cell], 0.01)
        for name in ("mean", "low", "high", "half_width", "seeds", "images", "met"):
            np.testing.assert_allclose(getattr(together, name)[cell], getattr(alone, name))


def test_what_the_undamaged_network_finds_hard_is_allowed_for() -> None:
    random = np.random.default_rng(2)
    clean = random.binomial(IMAGES, 0.7, 48)
    images, counted = np.full(48, IMAGES), np.array([48, 48])
    # Harmless damage, and damage after which the answers have nothing to do with the images.
    hits = np.stack([clean, random.binomial(IMAGES, 0.1, 48)])
    found = estimate(hits, images, clean - 0.65 * images, counted, 0.01)
    assert found.mean[0] == pytest.approx(0.65)
    assert found.half_width[0] == pytest.approx(3 / 4800)
    without = estimate(hits, images, 0 * images, counted, 0.01)
    assert found.half_width[1] < 1.1 * without.half_width[1] < without.half_width[0]


def test_images_used_equally_often_have_no_part_in_the_mean() -> None:
    sizes, clean = np.array([10, 10, 10, 4]), np.array([9, 5, 7, 0])
    easy = np.array([0.9, 0.1, 0.5, 0.0])
    own = block_schedule(4, 3, 36)
    images, right = sizes[own].sum(-1), clean[own].sum(-1)
    hits = (easy * sizes)[own].sum(-1)[None]
    found = estimate(hits, images, right - images * 21 / 34, np.array([36]), 0.1)
    assert found.mean[0] == pytest.approx((easy * sizes).sum() / 34)


def test_rounds_grow_by_half_from_the_fewest() -> None:
    assert next_seeds(np.array([[0, 31, 32], [47, 48, 108]])).tolist() == [
        [32, 32, 48],
        [48, 72, 162],
    ]


def test_the_seeds_that_will_be_needed() -> None:
    # 32 · 1.2² = 46.08 and 32 · 4² = 512
    for half_width, seeds, needed in ((0.005, 32, 32), (0.01, 48, 48), (0.012, 32, 48)):
        assert seeds_needed(half_width, seeds, 0.01) == needed
    assert seeds_needed(0.04, 32, 0.01) == 548


def test_the_warning_says_how_rare() -> None:
    assert "with 32 seeds," in unseen_events(32) and "1 random draw in 11 " in unseen_events(32)
    assert "1 random draw in 100 " in unseen_events(300)
    assert "with 1 seed," in unseen_events(1)


@pytest.mark.parametrize("blocks", [1, 2, 20, 1000])
def test_the_pilot_is_the_beginning_of_any_choice(blocks: int) -> None:
    seeds, seen = pilot(blocks, root=3)
    np.testing.assert_array_equal(seeds[:FEWEST], np.arange(FEWEST))
    rows = block_schedule(blocks, min(2, blocks), FEWEST, root=3)
    np.testing.assert_array_equal(seen[:FEWEST], rows[:, 0])
    np.testing.assert_array_equal(seen[FEWEST:], rows[seeds[FEWEST:], 1:].ravel())
    assert (len(seeds) > FEWEST) == (blocks > 1)


def test_variances_of_a_whole_layout_are_those_of_its_analysis_of_variance() -> None:
    random = np.random.default_rng(3)
    seeds, blocks = 12, 5
    values = 50 + random.normal(0, 9, (3, seeds, 1)) + random.normal(0, 9, (3, 1, blocks))
    values += random.normal(0, 9, (3, seeds, blocks))
    images = np.full(blocks, IMAGES)
    looks = [index.ravel() for index in np.indices((seeds, blocks))]
    found = variance_parts(values.reshape(3, -1) / IMAGES, np.ones(blocks), images, *looks)
    by_seed, by_block = values.mean(-1), values.mean(-2)
    rest = values - by_seed[..., None] - by_block[:, None] + values.mean((-2, -1), keepdims=True)
    rest = (rest**2).sum((-2, -1)) / ((seeds - 1) * (blocks - 1))
    expected = by_seed.var(-1, ddof=1) - rest / blocks, by_block.var(-1, ddof=1) - rest / seeds
    parts = found.seed, found.block, found.rest
    for part, reference in zip(parts, (*expected, rest), strict=True):
        np.testing.assert_allclose(part, np.maximum(reference, 0) / IMAGES**2, rtol=1e-9)


def test_variances_of_a_rota_are_those_that_were_put_in() -> None:
    random = np.random.default_rng(4)
    cells, own = 300, block_schedule(41, 2, 1000).ravel()
    seeds = np.repeat(np.arange(1000), 2)
    seed, block, rest = 0.04, 0.06, 0.03
    values = (
        0.5
        + random.normal(0, seed, (cells, 1000))[:, seeds]
        + random.normal(0, block, (cells, 41))[:, own]
        + random.normal(0, rest, (cells, 2000))
    )
    # The last block is not full and scatters more.
    images = np.where(np.arange(41) == 40, IMAGES // 2, IMAGES)
    values[:, own == 40] += random.normal(0, 0.3, (cells, (own == 40).sum()))
    found = variance_parts(values, np.ones(41), images, seeds, own)
    for part, put_in in ((found.seed, seed), (found.block, block), (found.rest, rest)):
        assert np.mean(part) == pytest.approx(put_in**2, rel=0.05)
    # What undamaged accuracy explains is left out.
    clean = random.integers(50, 90, 41) * images // IMAGES
    values += 0.5 * (clean / images)[own]
    less = variance_parts(values, clean / images, images, seeds, own)
    assert np.mean(less.seed) == pytest.approx(seed**2, rel=0.05)
    assert np.mean(less.block) == pytest.approx(block**2, rel=0.1)


def test_a_cell_that_was_not_run_leaves_the_others_alone() -> None:
    looks, images = pilot(10), np.full(10, IMAGES)
    hits = np.random.default_rng(5).binomial(IMAGES, 0.5, (1, 2, len(looks[0]))).astype(float)
    hits[0, 1] = np.nan
    parts = variance_parts(hits / IMAGES, np.ones(10), images, *looks)
    alone = variance_parts(hits[:, :1] / IMAGES, np.ones(10), images, *looks)
    assert np.isnan(parts.seed[0, 1]) and parts.rest[0, 0] == pytest.approx(alone.rest[0, 0])
    costs = Costs(np.array([0.1]), 0.0, 0.001)
    chosen = [blocks_per_seed(each, costs, images, 0.01) for each in (parts, alone)]
    assert chosen[0] == chosen[1]


def test_a_goal_wants_the_pilot_first_and_then_rows_of_the_rota() -> None:
    asked = np.ones((2, 3, 4), bool)
    asked[0, :, 3] = False
    allocation = Allocation.first(asked)
    assert allocation.unsettled == [0, 1, 2]
    allocation.shown[1:] = 1, 3
    assert allocation.unsettled == [0]
    allocation.seeds[0, 1, 0] = 48
    random = np.array([True, False])
    wanted = allocation.wanted(50, 10, 7, random)
    assert wanted.shape == (2, 3, 4, 50, 10)
    looks = np.zeros((50, 10), bool)
    looks[pilot(10, 7)] = True
    for layer, shown in enumerate((None, 1, 3)):
        for strength, seeds in enumerate(allocation.seeds[0, layer]):
            rows = looks
            if shown is not None:
                rows = np.zeros((50, 10), bool)
                np.put_along_axis(rows, block_schedule(10, shown, 50, 7), True, -1)
            rows = rows & (np.arange(50) < seeds)[:, None]
            np.testing.assert_array_equal(wanted[0, layer, strength], rows)
    assert not wanted[0, :, 3].any()
    # Without random draws the first seed is all, and sees everything.
    assert wanted[1, :, :, 0].all() and not wanted[1, :, :, 1:].any()
    np.testing.assert_array_equal(allocation.wanted(20, 10, 7, random), wanted[:, :, :, :20])


def cell(seed: float, block: float, rest: float) -> VarianceParts:
    return VarianceParts(*(np.array([[value**2]]) for value in (seed, block, rest)))


def test_dear_draws_want_many_images_and_cheap_ones_few() -> None:
    images = np.full(20, 50)
    parts = cell(0.03, 0.02, 0.06)
    chosen = [
        blocks_per_seed(parts, Costs(np.array([draw]), 0.0, 1e-3), images, 0.01)
        for draw in (0, 0.01, 0.1, 1, 100)
    ]
    assert chosen == sorted(chosen) and chosen[0] == 1 and chosen[-1] == 20
    prefix = blocks_per_seed(parts, Costs(np.array([0.1]), 0.01, 1e-3), images, 0.01)
    assert prefix < chosen[2]


def test_images_are_added_only_as_far_as_they_help() -> None:
    costs, images = Costs(np.array([0.5]), 0.0, 1e-3), np.full(20, 50)
    # All spread between seeds, or hardly any at all: one block is as good as many.
    assert blocks_per_seed(cell(0.1, 0, 0), costs, images, 0.01) == 1
    assert blocks_per_seed(cell(0, 0, 0.001), costs, images, 0.01) == 1
    # The fewest seeds would do if each saw enough: 2.04² · 0.1² / k = 32 · 0.01² at k = 13.
    assert 10 <= blocks_per_seed(cell(0, 0, 0.1), costs, images, 0.01) <= 18


def test_one_block_needs_no_choice() -> None:
    looks, images = pilot(1), np.array([IMAGES])
    hits = np.random.default_rng(6).binomial(IMAGES, 0.5, (1, 1, FEWEST))
    parts = variance_parts(hits / IMAGES, np.full(1, 0.5), images, *looks)
    assert parts.seed[0, 0] == pytest.approx((hits / IMAGES).var(ddof=1))
    assert blocks_per_seed(parts, Costs(np.array([1.0]), 0.0, 1e-3), images, 0.01) == 1
