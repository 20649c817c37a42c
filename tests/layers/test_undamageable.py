"""Layers and leaves that can't be damaged: the table shows them, and naming them is refused."""

import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array
from networks_for_tests import CLASSES, PREPROCESSING
from sweeps_for_tests import refusal, save, small_sweep

import jaxrobust as jr
from jaxrobust import Network
from jaxrobust.layers import select

WIDTH = 6
RANDOM = np.random.default_rng(0)


def apply(params: Any, images: Array) -> Array:
    """A first layer whose kernel is made of something else than floats, and a plain second one."""
    q = params["quant"]
    if q["w"].size == 0:
        x = jnp.zeros((len(images), 0)) @ q["w"].astype(jnp.float32) + images.mean((1, 2))
    else:
        real = jnp.abs(q["w"]) if jnp.iscomplexobj(q["w"]) else q["w"]
        x = images.mean((1, 2)) @ (real.astype(jnp.float32) * q["scale"])
    return (x + q["b"]) @ params["fc"]["w"]


def network(kernel: Any) -> Network:
    width = 3 if kernel.size == 0 else WIDTH
    params = {
        "quant": {"w": kernel, "scale": jnp.full((1, width), 0.1), "b": jnp.ones((1, width))},
        "fc": {"w": jnp.asarray(RANDOM.normal(0, 1, (width, CLASSES)), jnp.float32)},
    }
    return Network(apply, params, name="quantised", preprocessing=PREPROCESSING)


WHOLE = RANDOM.integers(-100, 100, (3, WIDTH))
KERNELS = {
    "int8": (WHOLE.astype(np.int8), "its w holds int8, not floats"),
    "uint8": (np.abs(WHOLE).astype(np.uint8), "its w holds uint8, not floats"),
    "int4": (jnp.asarray(WHOLE % 8, jnp.int4), "its w holds int4, not floats"),
    "bool": (WHOLE > 0, "its w holds bool, not floats"),
    "complex": (WHOLE.astype(np.complex64), "its w holds complex64, not floats"),
    "empty": (np.zeros((0, 3), np.float32), "its w is empty"),
}


@pytest.mark.parametrize(("kernel", "why"), KERNELS.values(), ids=KERNELS)
def test_a_kernel_that_is_no_float_is_listed_and_refused_by_name(
    kernel: Any, why: str, tmp_path: Path
) -> None:
    net, source = network(kernel), save(tmp_path / "images.npz")
    assert list(net.layers) == ["quant", "fc"]
    row = repr(net.layers).splitlines()[1]
    assert f"can't be damaged: {why}" in row and "scale" in row and str(kernel.dtype) in row
    expected = f"layer quant can't be damaged: {why}"
    for name in ("weight_noise", "synapse_knockout", "node_knockout"):
        assert expected in refusal(jr.perturb, net, name, layer="quant", strength=0.5)
    assert expected in refusal(jr.describe, net, "resample", layer=["fc", "quant"], strength=0.5)
    assert expected in refusal(jr.plan, net, source, layers=["quant"])
    for layers in ("quant", "qua*", {"both": ["fc", "quant"]}):
        assert expected in refusal(small_sweep, net, source, layers=layers)


@pytest.mark.parametrize(("kernel", "why"), KERNELS.values(), ids=KERNELS)
def test_all_leaves_such_layers_out_and_says_so(kernel: Any, why: str) -> None:
    layers = network(kernel).layers
    for pattern in ("all", "*"):
        with pytest.warns(UserWarning, match=f"leaves out layer quant, .*: {why}"):
            assert list(select(layers, pattern)) == ["fc"]


def test_a_network_of_nothing_that_can_be_damaged_says_why() -> None:
    params = {"fc": {"w": np.ones((3, CLASSES), np.int8)}}
    net = Network(
        lambda p, x: x.mean((1, 2)) @ p["fc"]["w"].astype(jnp.float32),
        params,
        name="whole",
        preprocessing=PREPROCESSING,
    )
    message = refusal(lambda: net.layers)
    assert "no float parameters" in message and "fc: its w holds int8" in message


def test_a_quantised_kernel_that_is_no_parameter_of_its_module_is_refused_too() -> None:
    class Quantised(nnx.Variable):
        pass

    class Module(nnx.Module):
        def __init__(self) -> None:
            self.kernel = Quantised(jnp.asarray(WHOLE, jnp.int8))
            self.scale = nnx.Param(jnp.ones((1, WIDTH)))
            self.fc = nnx.Linear(WIDTH, CLASSES, rngs=nnx.Rngs(0))

        def __call__(self, images: Array) -> Array:
            kernel = self.kernel[...].astype(jnp.float32) * self.scale[...]
            return self.fc(images.mean((1, 2)) @ kernel)

    class Outer(nnx.Module):
        def __init__(self) -> None:
            self.inner = Module()

        def __call__(self, images: Array) -> Array:
            return self.inner(images)

    net = Network.from_nnx(Outer(), name="quantised", preprocessing=PREPROCESSING)
    message = refusal(jr.perturb, net, "weight_noise", layer="inner", strength=1)
    assert message == "layer inner can't be damaged: its kernel holds int8, not floats"


def test_what_lies_beside_a_float_kernel_stays_as_it_is() -> None:
    def masked(params: Any, images: Array) -> Array:
        conv = params["conv"]
        x = images.mean((1, 2)) @ (conv["w"] * conv["mask"].astype(jnp.float32))
        return x + jnp.take(conv["table"], conv["index"])[None]

    conv = {
        "w": jnp.asarray(RANDOM.normal(0, 1, (3, CLASSES)), jnp.float32),
        "mask": WHOLE[:, :1] > np.arange(CLASSES)[None],
        "table": jnp.arange(4.0),
        "index": np.arange(CLASSES) % 4,
        "steps": np.asarray(3),
    }
    net = Network(masked, {"conv": conv}, name="masked", preprocessing=PREPROCESSING)
    layer = net.layers["conv"]
    assert sorted(x.name for x in layer.leaves) == ["table", "w"]
    assert sorted(x.name for x in layer.fixed) == ["index", "mask"]
    assert "can't be damaged" in repr(net.layers) and not layer.refusal
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(select(net.layers, "all")) == ["conv"]
        damaged = jr.perturb(net, "weight_noise", layer="conv", strength=1)["conv"]
    assert damaged["mask"] is net.params["conv"]["mask"]
    assert not np.array_equal(damaged["w"], conv["w"])


def convolve(params: Any, kernel: Array, images: Array) -> Array:
    kernel = kernel.reshape(3, 3, 3, 8)
    dimensions = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=dimensions)
    return (x + params["conv"]["bias"][None, None, None]).mean((1, 2)) @ params["fc"]["w"]


PACKED = RANDOM.integers(-100, 100, 216).astype(np.int8)
SCALE, BIAS = np.full(8, 0.1, np.float32), np.ones(8, np.float32)
FC = {"w": np.ones((8, CLASSES), np.float32)}


def packed(params: Any, images: Array) -> Array:
    conv = params["conv"]
    kernel = (
        conv["packed"].astype(jnp.float32).reshape(3, 3, 3, 8) * conv["scale"][None, None, None]
    )
    return convolve(params, kernel, images)


def halves(params: Any, images: Array) -> Array:
    """Two numbers of four bits in each byte."""
    conv = params["conv"]
    both = jnp.stack([conv["packed"] & jnp.uint8(15), conv["packed"] >> jnp.uint8(4)], -1)
    return convolve(
        params,
        both.reshape(3, 3, 3, 8).astype(jnp.float32) * conv["scale"][None, None, None],
        images,
    )


@pytest.mark.parametrize(
    ("apply", "array"),
    [(packed, PACKED), (packed, PACKED > 0), (halves, PACKED[:108].astype(np.uint8))],
)
def test_a_kernel_packed_in_one_axis_is_listed_and_refused(apply: Any, array: Any) -> None:
    params = {"conv": {"packed": array, "scale": SCALE, "bias": BIAS}, "fc": FC}
    net = Network(apply, params, name="packed", preprocessing=PREPROCESSING)
    why = f"can't be damaged: its packed holds {array.dtype}, not floats"
    assert why in repr(net.layers).splitlines()[1]
    message = refusal(jr.perturb, net, "weight_noise", layer="conv", strength=1)
    assert message == f"layer conv {why}"
    with pytest.warns(UserWarning, match="leaves out layer conv"):
        assert list(select(net.layers, "all")) == ["fc"]
    if array.dtype != bool:  # without a program it may be a mask
        assert message == refusal(jr.perturb, params, "weight_noise", layer="conv", strength=1)


def test_whole_numbers_beside_a_packed_float_kernel_do_not_refuse_it() -> None:
    def masked(params: Any, images: Array) -> Array:
        conv = params["conv"]
        mask, zero = (conv[name].astype(jnp.float32) for name in ("mask", "zero"))
        return convolve(params, conv["packed"] * mask * zero[0], images)

    conv = {"packed": PACKED / np.float32(9), "mask": PACKED > 0, "bias": BIAS, "zero": PACKED[:8]}
    net = Network(masked, {"conv": conv, "fc": FC}, name="masked", preprocessing=PREPROCESSING)
    assert [leaf.name for leaf in net.layers["conv"].leaves] == ["bias", "packed"]
    assert list(select(net.layers, "conv")) == ["conv"]


@pytest.mark.parametrize("shape", [(3, 3, 3, 8), (216,)])
@pytest.mark.parametrize("outer", [(), ("scale",)])
def test_the_bias_of_a_nested_quantised_kernel_is_refused_with_it(shape: Any, outer: Any) -> None:
    def nested(params: Any, images: Array) -> Array:
        conv = params["conv"]
        scale = (conv if outer else conv["kernel"])["scale"][None, None, None]
        return convolve(
            params, conv["kernel"]["q"].astype(jnp.float32).reshape(3, 3, 3, 8) * scale, images
        )

    conv: Any = {"kernel": {"q": PACKED.reshape(shape)}, "bias": BIAS}
    (conv if outer else conv["kernel"])["scale"] = SCALE
    net = Network(nested, {"conv": conv, "fc": FC}, name="nested", preprocessing=PREPROCESSING)
    expected = (
        "layer conv can't be damaged: its kernel is conv/kernel, which can't be damaged: "
        "its q holds int8, not floats"
    )
    for given in (net, net.params):
        for layer in ("conv", ["fc", "conv"]):
            assert expected == refusal(jr.perturb, given, "resample", layer=layer, strength=1)
    assert expected.removeprefix("layer conv ") in repr(net.layers)
    with pytest.warns(UserWarning, match="leaves out layer conv/kernel"):
        assert list(select(net.layers, "*")) == ["fc"]


def test_a_layer_with_a_float_kernel_below_it_keeps_its_own_leaves() -> None:
    block = {"gamma": BIAS, "fc": {"w": np.eye(8, dtype=np.float32)}, "q": {"w": PACKED[:64]}}
    params = {"block": block, "fc": FC}
    assert jr.perturb(params, "weight_noise", layer="block", strength=1)


def test_parameters_alone_are_refused_by_name_too() -> None:
    params = jax.tree.map(jnp.asarray, network(KERNELS["int8"][0]).params)
    message = refusal(jr.perturb, params, "weight_noise", layer="quant", strength=1)
    assert message == "layer quant can't be damaged: its w holds int8, not floats"


def test_frozen_and_unused_layers_are_no_layers_and_named_as_such() -> None:
    params = {name: {"w": jnp.ones((3, 3))} for name in ("one", "two", "three")}
    net = Network(
        lambda p, x: x.mean((1, 2)) @ p["one"]["w"] @ p["two"]["w"],
        params,
        name="small",
        preprocessing=PREPROCESSING,
        frozen=["two/w"],
    )
    assert list(net.layers) == ["one"]
    assert "layer two can't be damaged: two/w is frozen" in refusal(select, net.layers, "two")
    message = refusal(jr.perturb, net, "weight_noise", layer=["one", "three"], strength=1)
    assert message == "layer three can't be damaged: the network's answer does not depend on it"
