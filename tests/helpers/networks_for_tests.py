"""Small networks of every shape that hoisting and the engine must get right."""

from collections.abc import Callable
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

from jaxrobust import Network, Preprocessing

SIDE, CLASSES = 8, 7
PREPROCESSING = Preprocessing((SIDE, SIDE), mean=(120.0,), std=(60.0,))


def _conv(images: Array, params: Any, stride: int = 1) -> Array:
    made = lax.conv_general_dilated(
        images, params["w"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return made + params["b"][None, None, None]


def _dense(values: Array, params: Any) -> Array:
    return values @ params["w"] + params["b"][None]


def _layer(seed: int, *shape: int) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    spread = 1.6 / np.sqrt(np.prod(shape[:-1]))
    return {
        "w": jnp.asarray(random.normal(0, spread, shape), jnp.float32),
        "b": jnp.asarray(random.normal(0, 0.3, shape[-1]), jnp.float32),
    }


def _pure(apply: Callable[[Any, Array], Array], params: Any, name: str) -> Network:
    return Network(apply, params, name=name, preprocessing=PREPROCESSING)


def chain() -> Network:
    def apply(params: Any, images: Array) -> Array:
        x = jax.nn.relu(_conv(images, params["conv1"], 2))
        x = jax.nn.relu(_conv(x, params["conv2"]))
        return _dense(x.reshape(len(x), -1), params["fc"])

    params = {
        "conv1": _layer(0, 3, 3, 3, 6),
        "conv2": _layer(1, 3, 3, 6, 5),
        "fc": _layer(2, 4 * 4 * 5, CLASSES),
    }
    return _pure(apply, params, "chain")


def skip() -> Network:
    def apply(params: Any, images: Array) -> Array:
        x = jax.nn.relu(_conv(images, params["stem"]))
        x = x + jnp.tanh(_conv(x, params["residual"]))
        return _dense(x.mean((1, 2)), params["fc"])

    params = {
        "stem": _layer(3, 3, 3, 3, 6),
        "residual": _layer(4, 3, 3, 6, 6),
        "fc": _layer(5, 6, CLASSES),
    }
    return _pure(apply, params, "skip")


def branches() -> Network:
    def apply(params: Any, images: Array) -> Array:
        x = jax.nn.relu(_conv(images, params["stem"], 2))
        left = jax.nn.relu(_conv(x, params["left"]))
        right = jax.nn.gelu(_conv(x, params["right"]))
        joined = jnp.concatenate([left, right, x], -1)
        return _dense(joined.mean((1, 2)), params["fc"])

    params = {
        "stem": _layer(6, 3, 3, 3, 4),
        "left": _layer(7, 1, 1, 4, 3),
        "right": _layer(8, 3, 3, 4, 5),
        "fc": _layer(9, 12, CLASSES),
    }
    return _pure(apply, params, "branches")


def nested() -> Network:
    """Layers inside jit, remat and a function with its own derivative."""

    @jax.custom_jvp
    def halved(x: Array) -> Array:
        return x * 0.5

    halved.defjvp(lambda primals, tangents: (halved(*primals), tangents[0]))

    @jax.custom_vjp
    def doubled(x: Array) -> Array:
        return x * 2

    doubled.defvjp(lambda x: (doubled(x), None), lambda _, g: (g,))

    @jax.jit
    def first(params: Any, x: Array) -> Array:
        return jax.nn.relu(_conv(x, params))

    @jax.checkpoint
    def second(params: Any, x: Array) -> Array:
        return doubled(first(params, halved(x)))

    def apply(params: Any, images: Array) -> Array:
        x = second(params["b"], first(params["a"], images))
        return jax.jit(_dense)(x.mean((1, 2)), params["fc"])

    params = {
        "a": _layer(10, 3, 3, 3, 4),
        "b": _layer(11, 3, 3, 4, 4),
        "fc": _layer(12, 4, CLASSES),
    }
    return _pure(apply, params, "nested")


def tied() -> Network:
    """One layer used twice."""

    def apply(params: Any, images: Array) -> Array:
        x = jax.nn.relu(_conv(images, params["stem"], 2))
        x = jax.nn.relu(_conv(x, params["twice"]))
        x = jax.nn.relu(_conv(x, params["twice"]))
        return _dense(x.mean((1, 2)), params["fc"])

    params = {
        "stem": _layer(13, 3, 3, 3, 5),
        "twice": _layer(14, 3, 3, 5, 5),
        "fc": _layer(15, 5, CLASSES),
    }
    return _pure(apply, params, "tied")


def looped() -> Network:
    """A stack of layers inside a scan."""

    def apply(params: Any, images: Array) -> Array:
        x = jnp.tanh(_conv(images, params["stem"], 2)).mean((1, 2))
        x, _ = lax.scan(lambda x, layer: (jnp.tanh(_dense(x, layer)), None), x, params["stack"])
        return _dense(x, params["fc"])

    stack = [_layer(16 + index, 6, 6) for index in range(3)]
    params = {
        "stem": _layer(19, 3, 3, 3, 6),
        "stack": jax.tree.map(lambda *leaves: jnp.stack(leaves), *stack),
        "fc": _layer(20, 6, CLASSES),
    }
    return _pure(apply, params, "looped")


class _Normalised(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(3, 6, (3, 3), strides=2, rngs=rngs)
        self.norm1 = nnx.BatchNorm(6, rngs=rngs)
        self.conv2 = nnx.Conv(6, 4, (3, 3), feature_group_count=2, rngs=rngs)
        self.norm2 = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.fc = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, images: Array) -> Array:
        x = jax.nn.relu(self.norm1(self.conv1(images)))
        x = jax.nn.relu(self.norm2(self.conv2(x)))
        return self.fc(self.dropout(x.mean((1, 2))))


def normalised_module() -> _Normalised:
    """In training mode, with statistics and offsets that are not the initial ones."""
    module = _Normalised(nnx.Rngs(0))
    random = np.random.default_rng(21)
    state = nnx.state(module, (nnx.Param, nnx.BatchStat))

    def shifted(path: Any, leaf: Array) -> Array:
        if "norm" not in str(path) and "bias" not in str(path):
            return leaf
        return leaf + jnp.asarray(np.abs(random.normal(0, 0.3, leaf.shape)), jnp.float32)

    nnx.update(module, jax.tree.map_with_path(shifted, state))
    return module


def normalised() -> Network:
    """Batch normalisation, dropout and a grouped convolution, as an NNX module."""
    return Network.from_nnx(normalised_module(), name="normalised", preprocessing=PREPROCESSING)


class _Linen(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        x = flax.linen.Conv(5, (3, 3), strides=2, name="conv1")(images)
        x = flax.linen.relu(flax.linen.BatchNorm(not train, name="norm1")(x))
        return flax.linen.Dense(CLASSES, name="fc")(x.mean((1, 2)))


def linen() -> Network:
    """A Linen module whose batch statistics travel beside its parameters."""
    module = _Linen()
    variables = module.init(jax.random.key(22), jnp.zeros((1, SIDE, SIDE, 3)))
    return Network.from_linen(
        module, variables, name="linen", preprocessing=PREPROCESSING, train=False
    )


def wide() -> Network:
    """Enough channels for Winograd's convolution, on maps of odd height with uneven padding."""

    def convolved(x: Array, params: Any, padding: Any) -> Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        made = lax.conv_general_dilated(x, params["w"], (1, 1), padding, dimension_numbers=numbers)
        return jax.nn.relu(made + params["b"][None, None, None])

    def apply(params: Any, images: Array) -> Array:
        x = convolved(images, params["conv1"], ((1, 0), (1, 1)))
        x = convolved(x, params["conv2"], ((0, 0), (2, 1)))
        return _dense(x.mean((1, 2)), params["fc"])

    params = {
        "conv1": _layer(23, 3, 3, 3, 100),
        "conv2": _layer(24, 3, 3, 100, 112),
        "fc": _layer(25, 112, CLASSES),
    }
    return _pure(apply, params, "wide")


NETWORKS: dict[str, Callable[[], Network]] = {
    f.__name__: f for f in (chain, skip, branches, nested, tied, looped, normalised, linen, wide)
}
