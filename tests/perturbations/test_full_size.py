"""The largest layer of the study: AlexNet's fc6, 9216 × 4096."""

import resource

import jax.numpy as jnp
import numpy as np
import pytest

import jaxrobust as jr
from jaxrobust.layers import layer_table
from jaxrobust.perturbations import REGISTRY, draw

INPUTS, OUTPUTS = 9216, 4096


@pytest.mark.slow
@pytest.mark.parametrize("strength", ["0.7", "0.1234567"])
def test_synapse_knockout_is_exact_at_38_million_entries(strength: str) -> None:
    params = {"fc6": {"kernel": jnp.ones((INPUTS, OUTPUTS)), "bias": jnp.ones(OUTPUTS)}}
    after = jr.perturb(params, "synapse_knockout", layer="fc6", strength=strength, seed=1)
    kernel = np.asarray(after["fc6"]["kernel"])
    fraction = int(strength[2:]), 10 ** len(strength[2:])
    assert (kernel == 0).sum() == INPUTS * OUTPUTS * fraction[0] // fraction[1]
    assert (np.asarray(after["fc6"]["bias"]) == 0).sum() == OUTPUTS * fraction[0] // fraction[1]
    share = fraction[0] / fraction[1]
    for axis, n in ((0, INPUTS), (1, OUTPUTS)):  # binomial within 6 standard deviations
        spread = (kernel == 0).mean(axis) - share
        assert np.abs(spread).max() < 6 * np.sqrt(share * (1 - share) / n)


@pytest.mark.slow
def test_ranks_of_38_million_entries_need_little_memory() -> None:
    params = {"fc6": {"kernel": jnp.ones((INPUTS, OUTPUTS))}}
    layer = layer_table(params)["fc6"]
    size = INPUTS * OUTPUTS * 4
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    ranks = np.asarray(
        draw(REGISTRY["synapse_knockout"], [layer], 0, np.arange(1))[0]["fc6/kernel"]
    )
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert np.array_equal(np.bincount(ranks.ravel()), np.ones(ranks.size))
    assert used < 4 * size
