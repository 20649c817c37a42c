"""`Network`: what the adapters make of a module, and what is refused."""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr
from networks_for_tests import (
    CLASSES,
    NETWORKS,
    PREPROCESSING,
    SIDE,
    normalised_module,
)

import jaxrobust as jr
from jaxrobust import Network, Preprocessing
from jaxrobust.ground.errors import SpecificationError


def images(count: int) -> jax.Array:
    random = np.random.default_rng(count)
    return jnp.asarray(random.normal(0, 1, (count, SIDE, SIDE, 3)), jnp.float32)


def refusal(function: Callable, *arguments: Any, **options: Any) -> str:
    with pytest.raises(SpecificationError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_nnx_module_stays_as_it_is_and_its_network_evaluates() -> None:
    module = normalised_module()
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngState))))
    net = Network.from_nnx(module, name="normalised", preprocessing=PREPROCESSING)
    batch = images(5)
    found = jax.jit(net.apply)(net.params, batch)

    assert module.norm1.use_running_average is False and module.dropout.deterministic is False
    after = nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngState)))
    jax.tree.map(np.testing.assert_array_equal, after, before)

    call = nnx.jit(lambda module, batch: module(batch))
    in_training = call(module, batch)  # moves the module's running statistics
    module = normalised_module()
    module.eval()
    np.testing.assert_allclose(found, call(module, batch), rtol=1e-5, atol=1e-6)
    assert not np.allclose(found, in_training, atol=1e-2)


def test_an_nnx_network_is_a_pure_function_of_its_parameters() -> None:
    net = NETWORKS["normalised"]()
    apply = jax.jit(net.apply)
    batch, first = images(4), apply(net.params, images(4))
    zero = jax.tree.map(jnp.zeros_like, net.params)
    assert not np.asarray(apply(zero, batch)).any()
    np.testing.assert_array_equal(apply(net.params, batch), first)


def test_a_linen_network_is_the_modules_apply() -> None:
    class Module(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, images: jax.Array, train: bool = True, scale: float = 1.0) -> jax.Array:
            x = flax.linen.BatchNorm(use_running_average=not train)(images.mean((1, 2)))
            return scale * flax.linen.Dense(CLASSES)(x)

    module = Module()
    variables = module.init(jax.random.key(0), images(2))
    variables = jax.tree.map(lambda leaf: leaf + 0.25, variables)
    net = Network.from_linen(
        module, variables, name="linen", preprocessing=PREPROCESSING, train=False, scale=2.0
    )
    expected = module.apply(variables, images(3), train=False, scale=2.0)
    found = net.apply(net.params, images(3))
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_prepare_gives_the_networks_input_and_class_indices(tmp_path: Any) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (12, SIDE, SIDE, 3), np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels, labels=np.arange(12) % CLASSES)
    source = jr.images(f"npz:{tmp_path / 'images.npz'}")
    batch, labels = NETWORKS["chain"]().prepare(source[:5])
    assert batch.shape == (5, SIDE, SIDE, 3) and batch.dtype == np.float32
    assert labels.dtype == np.int32
    for index, (image, label) in enumerate(source[:5]):
        expected = (image.astype(np.float64) - 120) / 60
        np.testing.assert_allclose(batch[index], expected, rtol=1e-6, atol=1e-6)
        assert labels[index] == label


def small(apply: Callable, **options: Any) -> Network:
    params = {"fc": {"w": jnp.ones((3, 5))}}
    return Network(apply, params, name="small", preprocessing=PREPROCESSING, **options)


def averaged(params: Any, images: jax.Array) -> jax.Array:
    return images.mean((1, 2)) @ params["fc"]["w"]


@pytest.mark.parametrize(
    ("apply", "shape"),
    [
        (lambda p, x: averaged(p, x).sum(1), "(2,)"),
        (lambda p, x: averaged(p, x).T, "(5, 2)"),
        (lambda p, x: averaged(p, x)[:, :, None], "(2, 5, 1)"),
        (lambda p, x: averaged(p, x).mean(0, keepdims=True), "(1, 5)"),
    ],
)
def test_logits_of_a_wrong_shape_are_refused(apply: Callable, shape: str) -> None:
    message = refusal(small(apply).program, 2)
    assert message == (
        f"small turned 2 images into an array of shape {shape}: "
        "logits of shape (2, classes) are needed"
    )


def test_several_results_are_refused() -> None:
    with pytest.raises(
        jr.SpecificationError, match="a network returns one array of logits"
    ) as caught:
        small(lambda p, x: (averaged(p, x), x)).program(2)
    assert "\n" not in str(caught.value)


def test_images_of_a_shape_that_the_network_cannot_take_are_refused() -> None:
    def flat(params: Any, images: jax.Array) -> jax.Array:
        return images.reshape(len(images), -1) @ params["fc"]["w"]

    message = refusal(small(flat).program, 2)
    assert "small" in message and f"({SIDE}, {SIDE}, 3)" in message


def test_class_names_are_one_for_each_output() -> None:
    assert small(averaged, class_names="abcde").class_names == "abcde"
    message = refusal(small, averaged, class_names=["one", "two"])
    assert message == "small has 5 outputs, but 2 class names"


def test_a_network_needs_a_function() -> None:
    assert "needs a function" in refusal(
        Network, {"w": 1}, {}, name="none", preprocessing=Preprocessing((2, 2))
    )


def test_what_is_missing_or_swapped_is_said_in_one_short_line() -> None:
    kernel = {"fc": {"w": jnp.ones((30, 40))}}
    options = {"name": "small", "preprocessing": PREPROCESSING}
    for arguments in ((kernel, averaged), (kernel,)):
        message = refusal(Network, *arguments, **options)
        assert "needs a function, not a dict" in message and len(message) < 150
    assert "needs params too" in refusal(Network, averaged, **options)
    assert "needs name, preprocessing too" in refusal(Network, averaged, kernel)
    assert "needs a function" in refusal(Network, apply=kernel)


def test_whatever_a_function_raises_becomes_one_line() -> None:
    message = refusal(small(lambda p, x: x.mean((1, 2)) @ p["nowhere"]).program, 2)
    assert (
        message == f"small cannot take images of shape {PREPROCESSING.shape}: KeyError: 'nowhere'"
    )


def test_a_network_can_be_copied_and_pickled() -> None:
    net = small(averaged)
    assert copy.copy(net).apply is averaged
    assert pickle.loads(pickle.dumps(net)).name == "small"


def jaxprs_in(value: Any) -> Iterator[Jaxpr]:
    for each in value if isinstance(value, tuple | list) else [value]:
        if isinstance(each, ClosedJaxpr):
            yield each.jaxpr
        elif isinstance(each, Jaxpr):
            yield each


def precisions(equations: Any) -> Iterator[Any]:
    """The precision of every convolution and product, inside loops too."""
    for equation in equations:
        if "precision" in equation.params:
            yield equation.params["precision"]
        for parameter in equation.params.values():
            for jaxpr in jaxprs_in(parameter):
                yield from precisions(jaxpr.eqns)


@pytest.mark.parametrize(
    ("name", "products"), [("nested", 3), ("looped", 3), ("normalised", 3), ("linen", 2)]
)
def test_the_traced_program_is_pinned_to_full_precision(name: str, products: int) -> None:
    net = NETWORKS[name]()
    with jax.default_matmul_precision("bfloat16"):  # whatever the caller's own default
        found = list(precisions(net.program(2).equations))
    highest = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    assert len(found) == products and set(found) == {highest}


def test_a_program_is_traced_once_for_each_number_of_images() -> None:
    net = NETWORKS["chain"]()
    assert net.program(3) is net.program(3)
    assert net.program(3).shapes[net.program(3).images].shape == (3, SIDE, SIDE, 3)
    assert net.classes == CLASSES
