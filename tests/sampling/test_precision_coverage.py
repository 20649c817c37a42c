"""How often the intervals of whole simulated sweeps by precision hold the truth."""

import numpy as np
import pytest
from simulated_sweeps import IMAGES, World, at_chance, by_margins, run_sweeps

from jaxrobust.sampling import FEWEST, Costs, unseen_events

DRAWS, SWEEPS = 3000, 1000
CHEAP, DEAR = Costs(np.array([0.01]), 0.0, 0.001), Costs(np.array([0.4]), 0.0, 0.0005)


def high_variance(random: np.random.Generator) -> World:
    return by_margins(random, np.abs(random.normal(0, 1, DRAWS)))


def near_undamaged(random: np.random.Generator) -> World:
    return by_margins(random, random.exponential(0.02, DRAWS), noise=0.05)


def near_chance(random: np.random.Generator) -> World:
    return at_chance(random, DRAWS)


def hard_and_easy_images(random: np.random.Generator) -> World:
    """Half of the images break at the slightest damage, which undamaged answers do not show."""
    margins = np.where(random.random(IMAGES) < 0.5, 0.1, 2) + random.normal(0, 0.05, IMAGES)
    return by_margins(random, random.normal(0.5, 0.1, DRAWS), margins)


def hard_images_and_skewed_damage(random: np.random.Generator) -> World:
    margins = random.choice([-1, 1], IMAGES) * random.uniform(0.2, 4, IMAGES)
    return by_margins(random, random.exponential(0.5, DRAWS), margins)


SCENARIOS = (
    (high_variance, 0.03),
    (near_undamaged, 0.01),
    (near_undamaged, 0.003),
    (near_chance, 0.01),
    (hard_and_easy_images, 0.01),
    (hard_images_and_skewed_damage, 0.02),
)


@pytest.mark.parametrize("costs", [CHEAP, DEAR], ids=["cheap draws", "dear draws"])
@pytest.mark.parametrize(("scenario", "target"), SCENARIOS)
def test_nineteen_of_twenty_intervals_hold_the_truth(scenario, target, costs) -> None:
    for seed in (1, 2, 3):
        random = np.random.default_rng(seed)
        world = scenario(random)
        found = run_sweeps(world, target, costs, SWEEPS, random)
        assert found.coverage >= 0.93, seed
        assert found.seeds.min() >= FEWEST


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "target"), SCENARIOS)
def test_they_do_so_on_other_images_as_well(scenario, target) -> None:
    covered = []
    for seed in range(100, 120):
        random = np.random.default_rng(seed)
        covered.append(run_sweeps(scenario(random), target, CHEAP, SWEEPS, random).coverage)
    assert np.mean(covered) >= 0.94


def test_a_catastrophe_that_was_not_met_is_not_covered() -> None:
    random = np.random.default_rng(4)
    severities = np.where(np.arange(DRAWS) % 30 == 0, 3.0, 0.0)
    world = by_margins(random, severities, noise=0.05)
    found = run_sweeps(world, 0.01, CHEAP, SWEEPS, random)
    # As the documentation of the warning has it.
    assert unseen_events.__doc__ and "only 0.65 of the 95 % intervals" in unseen_events.__doc__
    assert found.coverage == pytest.approx(0.65, abs=0.03)
    assert (found.seeds == FEWEST).mean() == pytest.approx((29 / 30) ** FEWEST, abs=0.03)
    assert not found.covered[found.seeds == FEWEST].any()
