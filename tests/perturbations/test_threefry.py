"""The random numbers of a draw are JAX's own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.perturbations.random.threefry import written_out

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "bits": lambda key: jax.random.bits(key, (3, 5)),
    "bits of 8": lambda key: jax.random.bits(key, (7,), jnp.uint8),
    "bits of 16": lambda key: jax.random.bits(key, (7,), jnp.uint16),
    "nothing": lambda key: jax.random.bits(key, (0, 3)),
    "scalar": lambda key: jax.random.uniform(key),
    "normal": lambda key: jax.random.normal(key, (1000,)),
    "bfloat16": lambda key: jax.random.normal(key, (9,), jnp.bfloat16),
    "split": lambda key: jax.random.key_data(jax.random.split(key, (2, 3))),
    "fold_in": lambda key: jax.random.bits(jax.random.fold_in(key, 2**32 - 1), (4,)),
    "permutation": lambda key: jax.random.permutation(key, 100),
    "choice": lambda key: jax.random.choice(key, 20, (5,), replace=False),
    "gamma": lambda key: jax.random.gamma(key, 2.0, (9,)),
    "several keys": lambda key: jax.vmap(jax.random.normal)(jax.random.split(key, 3)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_gives_what_jax_gives(name: str) -> None:
    with jax.threefry_partitionable(True):
        key = jax.random.key(7, impl="threefry2x32")
        expected, found = (jax.jit(FUNCTIONS[name])(each) for each in (key, written_out(key)))
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_bits_of_64_are_those_of_jax() -> None:
    with jax.threefry_partitionable(True), jax.enable_x64(True):
        key = jax.random.key(7, impl="threefry2x32")
        expected, found = (jax.random.bits(k, (5,), jnp.uint64) for k in (key, written_out(key)))
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
