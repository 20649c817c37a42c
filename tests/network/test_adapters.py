"""What makes a network of a framework's module, and what is said to one that is none."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks_for_tests import CLASSES, PREPROCESSING, SIDE
from sweeps_for_tests import refusal, save

import jaxrobust as jr
from jaxrobust import Network

OPTIONS: dict[str, Any] = dict(name="mine", preprocessing=PREPROCESSING)


class Module(nnx.Module):
    """Takes arguments in its call, and gives more than logits."""

    def __init__(self) -> None:
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
        self.fc = nnx.Linear(3, CLASSES, rngs=nnx.Rngs(1))

    def __call__(self, images: jax.Array, train: bool = True, scale: float = 1.0) -> jax.Array:
        x = self.norm(images.mean((1, 2)), use_running_average=not train)
        return scale * self.fc(x)

    def both(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
        return {"logits": self(images, train), "images": images}


MODULE = Module()
MODULE.norm.mean[...] = jnp.asarray([0.5, -0.5, 1.0])
IMAGES = jnp.asarray(np.random.default_rng(0).normal(0, 1, (4, SIDE, SIDE, 3)), jnp.float32)
HOLDER = {"module": MODULE}


class Wrapper:
    def __init__(self) -> None:
        self.module = MODULE

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.module(images, train=False)


WRAPPER = Wrapper()


def helper(images: jax.Array) -> jax.Array:
    return MODULE(images, train=False) if len(images) else helper(images)


def closed_over() -> Callable:
    module = MODULE
    return lambda images: module(images, train=False)


def with_default(images: jax.Array, module: Module = MODULE) -> jax.Array:
    return module(images, train=False)


def forward(module: Module, images: jax.Array, train: bool) -> jax.Array:
    return module(images, train)


def test_a_module_takes_arguments_in_its_call():
    net = Network.from_nnx(MODULE, **OPTIONS, train=False, scale=2.0)
    expected = MODULE(IMAGES, train=False, scale=2.0)
    np.testing.assert_allclose(net.apply(net.params, IMAGES), expected, rtol=1e-6)
    assert sorted(net.layers) == ["fc", "norm"]


def test_a_function_says_how_a_module_is_called():
    net = Network.from_nnx(
        MODULE,
        **OPTIONS,
        call=lambda module, images, train: module.both(images, train)["logits"],
        train=False,
    )
    expected = MODULE(IMAGES, train=False)
    np.testing.assert_allclose(net.apply(net.params, IMAGES), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda images: MODULE(images, train=False),
        lambda images: MODULE.both(images, train=False)["logits"],
        lambda images: (lambda x: MODULE(x, train=False))(images),
        lambda images: helper(images),
        lambda images: HOLDER["module"](images, train=False),
        closed_over(),
        with_default,
        partial(MODULE, train=False),
        partial(forward, MODULE, train=False),
        partial(MODULE.__call__, train=False),
        jax.tree_util.Partial(MODULE, train=False),
    ],
)
def test_the_module_in_a_function_is_found(function: Callable):
    net = Network.from_nnx(function, **OPTIONS)
    expected = MODULE(IMAGES, train=False)
    np.testing.assert_allclose(net.apply(net.params, IMAGES), expected, rtol=1e-6)
    # Its parameters are the network's, not constants.
    assert sorted(net.layers) == ["fc", "norm"] and not net.program(2).constants
    silent = jax.tree.map(jnp.zeros_like, net.params)
    assert not np.asarray(jax.jit(net.apply)(silent, IMAGES)).any()
    assert MODULE.norm.use_running_average is False


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda images: images, "none"),
        (lambda images: Module()(images), "none"),
        (lambda images: MODULE(images) + OTHER(images), "Linear, Module"),
        (lambda images: WRAPPER(images), "through another object"),
        (WRAPPER, "through another object"),
        (jax.jit(lambda images: MODULE(images, train=False)), "through another object"),
        (nnx.jit(lambda images: MODULE(images, train=False)), "through another object"),
        (lambda images: nnx.merge(*SPLIT)(images, train=False), "State"),
    ],
)
def test_a_function_whose_parameters_would_be_constants_is_refused(function: Any, found: str):
    message = refusal(Network.from_nnx, function, **OPTIONS)
    assert found in message and "call=lambda module, images" in message


OTHER = nnx.Linear(3, CLASSES, rngs=nnx.Rngs(2))
SPLIT = nnx.split(MODULE)


def test_a_call_that_does_not_use_the_module_that_it_is_given_is_refused() -> None:
    for call in (lambda module, images: MODULE(images, train=False), helper, "text", MODULE):
        message = refusal(Network.from_nnx, MODULE, **OPTIONS, call=call)
        assert "call must be a function that uses the module which it is given" in message


class Linen(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return flax.linen.Dense(CLASSES)(images.mean((1, 2)))


def foreign(module: str, name: str) -> Any:
    """An object of a class that derives from another framework's, which need not be installed."""
    base = type(name, (), {"__module__": module, "__call__": lambda self, x: x})
    return type("Mine", (base,), {"__module__": "__main__"})()


MODULES = [
    (MODULE, "a Flax NNX module: jaxrobust.Network.from_nnx(module"),
    (Module, "the class Module of a Flax NNX module"),
    (Linen(), "a Flax Linen module: jaxrobust.Network.from_linen(module, variables"),
    (foreign("torch.nn.modules.module", "Module"), "a PyTorch module: "),
    (foreign("keras.src.models.model", "Model"), "a Keras model: "),
    (foreign("tf_keras.src.engine.training", "Model"), "a Keras model: "),
    (foreign("equinox._module", "Module"), "an Equinox module: "),
    ("alexnet-glyphs", "jaxrobust.load('alexnet-glyphs') gives the network"),
    (Path("runs/mine"), "jaxrobust.load('runs/mine') gives the network"),
    (lambda images: images, "jaxrobust.Network(function, params"),
]


@pytest.mark.parametrize(("given", "way"), MODULES)
def test_what_is_no_network_is_told_how_to_become_one(given: Any, way: str, tmp_path: Path):
    source = save(tmp_path / "images.npz")
    assert way in refusal(jr.sweep, given, source)
    assert way in refusal(jr.evaluate, given, source)
    assert way in refusal(jr.plan, given, source)
    for function in (jr.perturb, jr.describe):
        assert way in refusal(function, given, "resample", layer="fc", strength=0.5)


def test_parameters_alone_are_no_network_except_to_perturb(tmp_path: Path):
    message = refusal(jr.evaluate, {"fc": {"w": jnp.ones((3, 4))}}, save(tmp_path / "images.npz"))
    assert message == (
        "a jaxrobust.Network is needed, not a dict: "
        "jaxrobust.Network(apply, params, name=…, preprocessing=…)"
    )
    assert "needed, not None" in refusal(jr.sweep, None, save(tmp_path / "images.npz"))


def test_each_adapter_names_the_right_one_for_another_frameworks_module():
    variables = Linen().init(jax.random.key(0), IMAGES)
    assert "Network.from_linen" in refusal(Network.from_nnx, Linen(), **OPTIONS)
    assert "Network.from_nnx" in refusal(Network.from_linen, MODULE, variables, **OPTIONS)
    assert "Network.from_nnx" in refusal(Network, MODULE, {}, **OPTIONS)
    assert "PyTorch" in refusal(Network.from_nnx, MODULES[3][0], **OPTIONS)
    message = refusal(Network.from_linen, Linen(), variables["params"], **OPTIONS)
    assert "the collection params" in message and "found Dense_0" in message


def test_a_module_alone_is_told_how_to_become_a_network() -> None:
    for options in ({}, OPTIONS):
        assert "jaxrobust.Network.from_nnx(module" in refusal(Network, MODULE, **options)
        assert "jaxrobust.Network.from_linen(module" in refusal(Network, Linen(), **options)
    message = refusal(Network.from_linen, Linen(), **OPTIONS)
    assert "from_linen needs the variables of module.init" in message and "found None" in message


class Trained(flax.linen.Module):
    drop: bool

    @flax.linen.compact
    def __call__(self, images: jax.Array, train: bool = True) -> jax.Array:
        x = flax.linen.Dense(CLASSES)(images.mean((1, 2)))
        if self.drop:
            return flax.linen.Dropout(0.5, deterministic=not train)(x)
        return flax.linen.BatchNorm(use_running_average=not train)(x)


class Dropped(nnx.Module):
    def __init__(self) -> None:
        self.fc = nnx.Linear(3, CLASSES, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, images: jax.Array, train: bool = True) -> jax.Array:
        return self.dropout(self.fc(images.mean((1, 2))), deterministic=not train)


def test_a_module_that_is_called_in_training_mode_is_refused_in_one_line() -> None:
    networks = [Network.from_nnx(Dropped(), **OPTIONS)]
    for drop in (False, True):
        module = Trained(drop)
        variables = module.init(jax.random.key(0), IMAGES, train=False)
        networks += [
            Network.from_linen(module, variables, **OPTIONS),
            Network.from_linen(module, variables, train=True, **OPTIONS),
            Network(module.apply, variables, **OPTIONS),
        ]
        assert Network.from_linen(module, variables, train=False, **OPTIONS).classes == CLASSES
    for network in networks:
        message = refusal(lambda network=network: network.layers)
        assert "mine is called in training mode" in message and "train=False" in message


def test_variables_that_a_module_cannot_use_are_refused_in_one_line() -> None:
    variables = Trained(False).init(jax.random.key(0), IMAGES, train=False)
    lacking = {"params": variables["params"]}
    network = Network.from_linen(Trained(False), lacking, train=False, **OPTIONS)
    assert 'collection "batch_stats"' in refusal(lambda: network.classes)


def test_a_module_may_draw_in_its_call() -> None:
    """As a recurrent network does for the state that it starts from."""

    class Recurrent(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.rnn = nnx.RNN(nnx.SimpleCell(3 * SIDE, 5, rngs=rngs))
            self.fc = nnx.Linear(5, CLASSES, rngs=rngs)

        def __call__(self, images: jax.Array) -> jax.Array:
            rows: Any = self.rnn(images.reshape(len(images), SIDE, -1))
            return self.fc(rows[:, -1])

    net = Network.from_nnx(Recurrent(), **OPTIONS)
    assert list(net.layers) == ["rnn/cell/dense_i", "rnn/cell/dense_h", "fc"]
    assert [layer.units for layer in net.layers.values()] == [5, 5, CLASSES]
    assert net.layers["rnn/cell/dense_h"].loop == "scan"
    jax.jit(net.apply)(net.params, IMAGES)
