"""`jr.perturb` under jit, vmap and grad: strength, seed and root may all be traced."""

from decimal import Decimal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sweeps_for_tests import refusal

import jaxrobust as jr
from jaxrobust.layers import Layer
from jaxrobust.perturbations import REGISTRY, entry_counts
from jaxrobust.perturbations.shares import floor_share

COUNTED = ("synapse_knockout", "node_knockout", "unit_silencing", "resample")
random = np.random.default_rng(0)
PARAMS = {
    "layer": {
        "kernel": jnp.asarray(random.normal(1, 1, (20, 50)), jnp.float32),
        "bias": jnp.asarray(random.normal(1, 1, 50), jnp.float32),
    }
}


def perturbed(name: Any, strength: Any, seed: Any = 0, root: Any = 0, params: Any = PARAMS) -> Any:
    return jr.perturb(params, name, layer="layer", strength=strength, seed=seed, root=root)["layer"]


@pytest.mark.parametrize("name", REGISTRY)
def test_a_traced_strength_gives_the_weights_of_the_number(name: str) -> None:
    strengths = [0.0, 0.07, 0.1, 0.29, 0.3, 0.55, 0.7, 0.9, 1.0]
    rows = jax.jit(jax.vmap(lambda s: perturbed(name, s)))(jnp.asarray(strengths))
    for row, strength in enumerate(strengths):
        for leaf, value in perturbed(name, strength).items():
            if name in COUNTED:
                np.testing.assert_array_equal(rows[leaf][row], value)
            else:
                np.testing.assert_allclose(rows[leaf][row], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("total", [1, 7, 10, 64, 100, 999, 1000, 2401, 10_000])
def test_counts_of_traced_strengths_are_those_of_the_decimals(total: int) -> None:
    exact = [Decimal(number) / 1000 for number in range(1001)]
    traced = jax.jit(jax.vmap(lambda s: floor_share(s, total)))
    found = traced(jnp.asarray([float(strength) for strength in exact], jnp.float32))
    np.testing.assert_array_equal(found, [floor_share(strength, total) for strength in exact])


@pytest.mark.parametrize("total", [999_983, 2**24 + 3, 37_748_736, 2**32 - 1])
def test_counts_of_many_entries_are_exact_to_float32(total: int) -> None:
    exact = [Decimal(number) / 1000 for number in range(1001)]
    traced = jax.jit(jax.vmap(lambda s: floor_share(s, total)))
    found = np.asarray(traced(jnp.asarray([float(each) for each in exact], jnp.float32)), np.int64)
    expected = np.asarray([floor_share(strength, total) for strength in exact])
    assert (abs(found - expected) <= np.ceil(expected * 2.0**-23)).all()
    assert found[0] == 0 and found[-1] == total


def test_counts_of_strengths_outside_the_range_stay_inside() -> None:
    traced = jax.jit(lambda s: floor_share(s, 100))
    assert [int(traced(s)) for s in (-1.0, -0.0, 1e-30, 1e-45, 2.0, np.inf, np.nan)] == [
        *[0] * 4,
        *[100] * 2,
        0,
    ]


def test_noise_differentiates_with_respect_to_strength() -> None:
    def total(strength: Any) -> Any:
        return jnp.sum(perturbed("weight_noise", strength)["kernel"] ** 2)

    slope = jax.grad(total)(0.3)
    numeric = (total(0.31) - total(0.29)) / 0.02
    np.testing.assert_allclose(slope, numeric, rtol=1e-3)
    both = jax.jit(jax.vmap(jax.value_and_grad(total)))(jnp.asarray([0.3, 0.5]))
    np.testing.assert_allclose(both[0], [total(0.3), total(0.5)], rtol=1e-5)
    assert jax.grad(lambda s: perturbed("synapse_knockout", s)["kernel"].sum())(0.3) == 0


@pytest.mark.parametrize("name", REGISTRY)
def test_root_and_seed_can_be_traced(name: str) -> None:
    roots, seeds = [0, 3, 2**32 - 1], [1, 0, 2**32 - 1]
    over_both = jax.vmap(lambda root, seed: perturbed(name, 0.4, seed, root))
    rows = jax.jit(over_both)(jnp.asarray(roots, jnp.uint32), jnp.asarray(seeds, jnp.uint32))
    for row, (root, seed) in enumerate(zip(roots, seeds, strict=True)):
        for leaf, value in perturbed(name, 0.4, seed, root).items():
            np.testing.assert_allclose(rows[leaf][row], value, rtol=1e-5, atol=1e-6)
    jitted = jax.jit(lambda s, seed, root: perturbed(name, s, seed, root))(0.4, 2, 3)
    for leaf, value in perturbed(name, 0.4, 2, 3).items():
        np.testing.assert_allclose(jitted[leaf], value, rtol=1e-5, atol=1e-6)


def test_everything_can_be_traced_at_once() -> None:
    def loss(params: Any, strength: Any, seed: Any, root: Any) -> Any:
        return jnp.sum(perturbed("weight_noise", strength, seed, root, params)["bias"] ** 2)

    slopes = jax.jit(jax.grad(loss, argnums=(0, 1)))(PARAMS, 0.5, 1, 2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    np.testing.assert_allclose(jax.jit(loss)(PARAMS, 0.5, 1, 2), loss(PARAMS, 0.5, 1, 2), rtol=1e-5)


def test_numbers_in_arrays_are_numbers() -> None:
    expected = perturbed("resample", 0.5, 3, 4)["kernel"]
    for kind in (np.int64, jnp.int32, np.uint32):
        found = perturbed("resample", jnp.float32(0.5), kind(3), kind(4))
        np.testing.assert_array_equal(found["kernel"], expected)


@pytest.mark.parametrize("name", ["seed", "root"])
@pytest.mark.parametrize("value", [-1, 2**32, 1.5, "3", jnp.int32(-1), np.arange(2), None])
def test_seeds_and_roots_that_are_no_whole_numbers_are_refused(name: str, value: Any) -> None:
    message = refusal(perturbed, "resample", 0.5, **{name: value})
    assert message.startswith(f"{name} {value}: a whole number from 0")
    traced = jax.jit(lambda root: perturbed("resample", 0.5, root=root))
    assert "a whole number" in refusal(traced, 1.5)


@pytest.mark.parametrize("name", ["strength", "seed", "root"])
@pytest.mark.parametrize("values", [np.arange(2), np.ones((1,), np.int32), np.ones((2, 1), int)])
def test_several_traced_numbers_need_vmap(name: str, values: np.ndarray) -> None:
    def several(value: Any) -> Any:
        return perturbed("weight_noise", **{"strength": 0.5, name: value})

    message = refusal(jax.jit(several), jnp.asarray(values))
    assert message.startswith(f"{name}: one number of shape () is needed")
    assert str(values.shape) in message and "jax.vmap" in message
    assert jax.jit(jax.vmap(several))(jnp.asarray([0, 1]))["bias"].shape == (2, 50)


def whole(layer: Layer, strength: Any) -> dict[str, int]:
    return {leaf.path: int(strength * leaf.size) for leaf in layer.leaves}


def as_float(layer: Layer, strength: Any) -> dict[str, float]:
    return {leaf.path: float(strength) for leaf in layer.leaves}


def rounded(layer: Layer, strength: Any) -> dict[str, float]:
    return {leaf.path: strength.quantize(Decimal("0.1")) for leaf in layer.leaves}


def multiplied(layer: Layer, strength: Any) -> dict[str, float]:
    return {leaf.path: Decimal("0.5") * strength for leaf in layer.leaves}


@pytest.mark.parametrize("amount", [whole, as_float, rounded, multiplied])
def test_an_amount_that_needs_an_exact_strength_says_so_in_one_line(amount: Any) -> None:
    own = jr.Perturbation("own", amount, None, lambda leaves, noise, amounts: dict(leaves))
    assert perturbed(own, 0.3)
    message = refusal(jax.jit(lambda strength: perturbed(own, strength)), 0.3)
    assert message.startswith("the amount of own takes exact strengths (Decimal)")
    assert "give a number" in message and "entry_counts" in message


def test_an_amount_of_ones_own_can_be_traced() -> None:
    def halved(leaves: Any, noise: Any, amounts: Any) -> Any:
        return {path: leaf * (1 - amounts[path]) for path, leaf in leaves.items()}

    def amount(layer: Layer, strength: Any) -> Any:
        return {path: count / 2000 for path, count in entry_counts(layer, strength).items()}

    def shares(layer: Layer, strength: Any) -> Any:
        return {leaf.path: strength / 2 for leaf in layer.leaves}

    for own_amount in (amount, shares):
        own = jr.Perturbation("own", own_amount, None, halved)
        found = jax.jit(lambda strength, own=own: perturbed(own, strength))(0.5)
        np.testing.assert_allclose(found["kernel"], perturbed(own, 0.5)["kernel"], rtol=1e-6)
