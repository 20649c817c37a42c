"""What parameters a network may have: finite ones, and float64 becomes float32 everywhere."""

import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks_for_tests import CLASSES, PREPROCESSING, SIDE, normalised_module
from sweeps_for_tests import refusal, save, small_sweep

import jaxrobust as jr
from jaxrobust import Network


def apply(params: Any, images: jax.Array) -> jax.Array:
    return images.mean((1, 2)) @ params["fc"]["w"] + params["fc"]["b"][None]


def made(params: Any, **options: Any) -> Network:
    return Network(apply, params, name="small", preprocessing=PREPROCESSING, **options)


def parameters(dtype: Any = np.float32) -> dict[str, dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return {"fc": {"w": random.normal(0, 1, (3, CLASSES)).astype(dtype), "b": np.zeros(7, dtype)}}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float32, np.float16, jnp.bfloat16, np.float64, np.complex64])
@pytest.mark.parametrize("to", [np.asarray, jnp.asarray])
def test_undamaged_parameters_that_are_not_finite_are_refused(value: Any, kind: Any, to: Any):
    params = parameters(kind)
    params["fc"]["w"][1, 2:4] = value
    params = jax.tree.map(to, params)
    message = refusal(made, params)
    assert "small has undamaged parameters that are NaN or infinite: fc/w (2 of 21)" in message
    assert "allow_nonfinite=True" in message
    assert made(params, allow_nonfinite=True).name == "small"


def test_several_leaves_that_are_not_finite_are_named_and_counted():
    bad = {f"layer{i}": np.full((2, 3), np.nan, np.float32) for i in range(9)}
    message = refusal(made, bad | {"fine": np.ones(2, np.float32)})
    assert "layer0 (6 of 6), layer1 (6 of 6)" in message and "and 3 more leaves" in message
    assert "fine" not in message


def test_modules_that_are_not_finite_are_refused_too():
    module = normalised_module()
    module.norm2.var[...] = module.norm2.var[...].at[1].set(jnp.nan)
    options: dict[str, Any] = dict(name="normalised", preprocessing=PREPROCESSING)
    assert "norm2/var (1 of 4)" in refusal(Network.from_nnx, module, **options)
    assert Network.from_nnx(module, **options, allow_nonfinite=True).layers


def test_other_parameters_of_a_network_are_looked_at_too():
    bad = parameters()
    bad["fc"]["b"][3] = np.inf
    assert "fc/b (1 of 7)" in refusal(made(parameters()).with_params, bad)


def test_a_network_can_be_made_of_traced_parameters():
    images = jnp.ones((2, SIDE, SIDE, 3))

    @jax.jit
    def logits(params: Any) -> jax.Array:
        net = made(params)
        return net.apply(net.params, images)

    np.testing.assert_allclose(logits(parameters()), apply(parameters(), images), rtol=1e-6)
    net = made(jax.eval_shape(lambda: jax.tree.map(jnp.asarray, parameters())))
    assert list(net.layers) == ["fc"]


def test_a_sharded_network_can_be_made():
    mesh = jax.make_mesh((7,), ("x",), devices=jax.devices()[:7])
    place = jax.NamedSharding(mesh, jax.P(None, "x"))
    params = parameters()
    params["fc"]["w"][0, 0] = np.nan
    params["fc"]["w"] = jax.device_put(params["fc"]["w"], place)
    assert "fc/w (1 of 21)" in refusal(made, params)


def test_float64_parameters_are_the_same_parameters_in_float32_everywhere(tmp_path: Path):
    double, single = parameters(np.float64), parameters(np.float32)
    for value in double["fc"].values():
        value += 1e-12  # what float32 cannot hold
    net, expected = made(double), made(single)
    assert {leaf.dtype for leaf in jax.tree.leaves(net.params)} == {np.dtype(np.float32)}
    assert {leaf.dtype for leaf in net.layers["fc"].leaves} == {np.dtype(np.float32)}
    source = save(tmp_path / "images.npz")
    assert jr.evaluate(net, source) == jr.evaluate(expected, source)
    for name in ("synapse_knockout", "weight_noise", "resample"):
        assert small_sweep(net, source, perturbations=[name]).equals(
            small_sweep(expected, source, perturbations=[name])
        )
        of_network = jr.perturb(net, name, layer="fc", strength=0.5)
        of_pytree = jr.perturb(double, name, layer="fc", strength=0.5)
        for one, other in zip(*map(jax.tree.leaves, (of_network, of_pytree)), strict=True):
            assert one.dtype == other.dtype == np.float32
            np.testing.assert_array_equal(one, other)
    assert "changed" in repr(jr.describe(net, "weight_noise", layer="fc", strength=1))


def test_float64_parameters_become_float32_with_64_bits_switched_on_too():
    with jax.enable_x64(True):
        double = jax.tree.map(jnp.asarray, parameters(np.float64))
        assert double["fc"]["w"].dtype == np.float64
        with pytest.warns(UserWarning, match="small: 2 float64 parameter leaves, such as 'fc/b'"):
            net = made(double)
        assert net.params["fc"]["w"].dtype == np.float32
        with pytest.warns(UserWarning, match="float64 parameter leaves"):
            damaged = jr.perturb(double, "weight_noise", layer="fc", strength=1)
        assert damaged["fc"]["w"].dtype == np.float32
        traced = jax.jit(lambda params: made(params).params)
        with pytest.warns(UserWarning, match="float64 parameter leaves"):
            assert traced(double)["fc"]["w"].dtype == np.float32


def test_values_too_large_for_float32_are_refused():
    params = parameters(np.float64)
    params["fc"]["w"][0, :3] = 1e39
    expected = "fc/w holds 3 of 21 values that are too large for float32"
    assert expected in refusal(made, params)
    assert expected in refusal(made, params, allow_nonfinite=True)
    assert expected in refusal(jr.perturb, params, "resample", layer="fc", strength=0.5)
    steps = {**parameters(), "steps": np.asarray([2**40])}
    assert "steps holds 1 of 1 values that are too large for int32" in refusal(made, steps)


def test_parameters_that_are_right_stay_the_same_objects():
    params = {**parameters(), "key": jax.random.key(0), "half": jnp.ones(3, jnp.bfloat16)}
    assert made(params).params is params
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numbers = made({**parameters(), "scale": 2.0, "steps": 3}).params
    assert (numbers["scale"].dtype, numbers["steps"].dtype) == (np.float32, np.int32)


@pytest.mark.parametrize("leaf", ["text", b"bytes", object(), np.asarray(["a"])])
def test_leaves_that_are_no_numbers_are_refused(leaf: Any):
    message = refusal(made, {**parameters(), "odd": leaf})
    assert message.startswith("small: odd is a ") and "arrays of numbers are needed" in message
