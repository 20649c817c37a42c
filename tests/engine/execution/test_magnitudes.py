"""Faster ways of computing a sweep give the definition's counts, whatever the weights become."""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

import jaxrobust as jr
from jaxrobust.perturbations import REGISTRY
from jaxrobust.perturbations.linear import Affine, Overlaps, PerUnit

SIDE, CLASSES, WIDTH, IMAGES = 10, 6, 100, 40
SPECIAL = [0.0, 1e-40, 1e-30, 1e4, 1e12, -1e25, 3e38, np.inf, -np.inf, np.nan]
PLAIN = jr.Options(hoist=False, share=False)


def _apply(params: Any, images: Array, normalised: bool) -> Array:
    def conv(x: Array, name: str) -> Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        made = lax.conv_general_dilated(
            x, params[name]["w"], (1, 1), "SAME", dimension_numbers=numbers
        )
        if normalised:
            made -= made.mean((1, 2), keepdims=True)
            made /= jnp.sqrt(jnp.square(made).mean((1, 2), keepdims=True) + 1e-9)
        return made + params[name]["b"][None, None, None]

    x = jax.nn.relu(conv(images, "stem"))
    x = jax.nn.relu(conv(x, "first"))
    x = jax.nn.relu(conv(x, "second"))
    # No maximum over pixels: what XLA's gives on a CPU where one is not a number is chance.
    pooled = x.reshape(-1, 2, 5, 2, 5, WIDTH).mean((2, 4))
    return pooled.reshape(len(x), -1) @ params["dense"]["w"] + params["dense"]["b"][None]


def network(normalised: bool = False) -> jr.Network:
    """Two 3×3 convolutions of 100 channels, which a CPU computes by Winograd's filtering."""
    random = np.random.default_rng(5)

    def layer(*shape: int) -> dict[str, Array]:
        spread = 1.6 / np.sqrt(np.prod(shape[:-1]))
        return {
            "w": jnp.asarray(random.normal(0, spread, shape), jnp.float32),
            "b": jnp.asarray(random.normal(0, 0.2, shape[-1]), jnp.float32),
        }

    params = {
        "stem": layer(3, 3, 3, WIDTH),
        "first": layer(3, 3, WIDTH, WIDTH),
        "second": layer(3, 3, WIDTH, WIDTH),
        "dense": layer(2 * 2 * WIDTH, CLASSES),
    }
    preprocessing = jr.Preprocessing((SIDE, SIDE), mean=(120.0,), std=(60.0,))
    apply = partial(_apply, normalised=normalised)
    return jr.Network(apply, params, name="magnitudes", preprocessing=preprocessing)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("images") / "random.npz"
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (IMAGES, SIDE, SIDE, 3), np.uint8)
    np.savez(path, images=pixels, labels=np.arange(IMAGES) % CLASSES)
    return jr.images(f"npz:{path}")


def _one_entry(name: str, changed: Any, acts: Any = None, **options: Any) -> jr.Perturbation:
    """Changes one random entry of the kernel; the strength chooses how."""

    def draw(key: Any, layer: Any) -> dict[str, Array]:
        keys = jax.random.split(key, len(layer.leaves))
        return {
            leaf.path: jax.random.randint(one, (), 0, leaf.size)
            for leaf, one in zip(layer.leaves, keys, strict=True)
        }

    def amount(layer: Any, strength: Any) -> dict[str, int]:
        return {leaf.path: int(strength) for leaf in layer.leaves}

    def apply(leaves: Any, noise: Any, amounts: Any) -> Any:
        made = {}
        for path, leaf in leaves.items():
            flat = leaf.reshape(-1)
            own = changed(flat[noise[path]], amounts[path])
            made[path] = (
                flat.at[noise[path]].set(own).reshape(leaf.shape) if leaf.ndim > 1 else leaf
            )
        return made

    return jr.Perturbation(name, amount, draw, apply, identity=-1.0, low=0, high=99, **options)


def _flipped(value: Array, bit: Array) -> Array:
    bits = lax.bitcast_convert_type(value, jnp.uint32) ^ (jnp.uint32(1) << bit.astype(jnp.uint32))
    return lax.bitcast_convert_type(bits, jnp.float32)


BIT_FLIP = _one_entry("bit_flip", _flipped)
SET = _one_entry("set", lambda value, which: jnp.asarray(SPECIAL, jnp.float32)[which])


def compare(net: jr.Network, images: Any, **asked: Any) -> None:
    """Compares a sweep with the plain forward pass of each damaged network, image by image."""
    fast = jr.sweep(net, images, block=10, **asked)
    plain = jr.sweep(net, images, block=10, options=PLAIN, **asked)
    assert int(fast["images"].sum()) == int(plain["images"].sum()) > 0
    for quantity in ("top1", "top5", "changed", "nonfinite"):
        differing = np.abs(fast[quantity].values - plain[quantity].values)
        where = np.argwhere(differing > 1)
        assert not len(where), (quantity, where[:5], fast[quantity].values.max())
        assert differing.sum() <= 2e-3 * int(fast["images"].sum()), (quantity, differing.sum())


LAYERS = ["stem", "second"]
both_networks = pytest.mark.parametrize(
    "normalised", [False, pytest.param(True, marks=pytest.mark.slow)]
)


@both_networks
def test_a_flip_of_any_bit_counts_as_the_definition_counts(normalised: bool, images: Any) -> None:
    asked: dict[str, Any] = dict(
        perturbations=[BIT_FLIP], layers=LAYERS, strengths=list(range(32)), seeds=3
    )
    compare(network(normalised), images, **asked)


def test_a_sweep_counts_what_the_network_itself_gives(images: Any) -> None:
    net = network()
    batch, labels = net.prepare(images)
    strengths = {"bit_flip": [30, 31], "set": [4, 7, 9]}
    asked: dict[str, Any] = dict(
        perturbations=[BIT_FLIP, SET], layers=["first"], strengths=strengths, seeds=3
    )
    result = jr.sweep(net, images, **asked)
    for damage, strength, seed in itertools.product([BIT_FLIP, SET], [4, 7, 9, 30, 31], range(3)):
        if strength in strengths[damage.name]:
            damaged = jr.perturb(net, damage, layer="first", strength=strength, seed=seed)
            # One equation after the other: what XLA fuses by default loses what is not a number.
            with jax.default_matmul_precision("highest"):
                logits = np.asarray(net.apply(damaged, batch))
            finite = np.isfinite(logits).all(1)
            found = result.sel(perturbation=damage.name, strength=strength, seed=seed)
            assert int(found["top1"].sum()) == (finite & (logits.argmax(1) == labels)).sum()
            assert int(found["nonfinite"].sum()) == (~finite).sum()


@both_networks
def test_weights_of_any_size_count_as_the_definition_counts(normalised: bool, images: Any) -> None:
    strengths = list(range(len(SPECIAL)))
    asked: dict[str, Any] = dict(perturbations=[SET], layers=LAYERS, strengths=strengths, seeds=3)
    compare(network(normalised), images, **asked)


@pytest.mark.slow
@pytest.mark.parametrize("normalised", [False, True])
def test_built_in_damage_counts_as_the_definition_counts(normalised: bool, images: Any) -> None:
    asked: dict[str, Any] = dict(
        perturbations=list(REGISTRY), layers=LAYERS, strengths=[0.3, 1], seeds=2
    )
    compare(network(normalised), images, **asked)


def _scaled(factor: float, name: str, acts: Any) -> jr.Perturbation:
    """Adds a multiple of the leaf itself, or multiplies every unit, by so much at strength 1."""

    def amount(layer: Any, strength: Any) -> dict[str, float]:
        return {leaf.path: float(strength) * factor for leaf in layer.leaves}

    def draw(key: Any, layer: Any) -> dict[str, Array]:
        return {leaf.path: jnp.asarray(VALUES[leaf.path]) for leaf in layer.leaves}

    def add(leaves: Any, noise: Any, amounts: Any) -> Any:
        return {path: leaf + amounts[path] * noise[path] for path, leaf in leaves.items()}

    def multiply(leaves: Any, noise: Any, amounts: Any) -> Any:
        return {path: leaf * amounts[path] for path, leaf in leaves.items()}

    apply = add if acts == "affine" else multiply
    made = jr.Perturbation(name, amount, draw, apply, high=2.0, acts=acts)
    return made


VALUES = {
    f"{layer}/{leaf}": np.asarray(value)
    for layer, leaves in network().params.items()
    for leaf, value in leaves.items()
}


@pytest.mark.parametrize(
    "factor", [-1.0, *(pytest.param(f, marks=pytest.mark.slow) for f in (-0.999999, 1e6, 1e38))]
)
def test_sums_that_cancel_or_overflow_are_not_shared(factor: float, images: Any) -> None:
    damage = [_scaled(factor, "added", "affine"), _scaled(factor, "multiplied", "units")]
    compare(network(True), images, perturbations=damage, layers=LAYERS, strengths=[1, 2], seeds=1)


def test_a_network_with_a_huge_weight_is_computed_by_the_definition(images: Any) -> None:
    net = network()
    weights = np.array(net.params["first"]["w"])
    weights[1, 1, 3, 4] = 1e20
    damaged = {**net.params, "first": {**net.params["first"], "w": jnp.asarray(weights)}}
    net = net.with_params(damaged)
    batch, labels = net.prepare(images)
    with jax.default_matmul_precision("highest"):
        logits = np.asarray(jax.jit(net.apply)(damaged, batch))
    expected = (np.isfinite(logits).all(1) & (logits.argmax(1) == labels)).sum()
    assert jr.evaluate(net, images).top1 == expected
    asked: dict[str, Any] = dict(
        perturbations=["weight_noise"], layers=["stem", "second"], strengths=[1], seeds=3
    )
    compare(net, images, **asked)


def test_what_is_too_great_cancelled_or_no_number_is_not_shared() -> None:
    kernel = jnp.asarray([[3.0, 0.0], [4.0, 1.0]])
    direction = jnp.asarray([[1.0, 2.0], [0.0, -1.0]])

    def overlaps(direction: Array) -> Overlaps:
        pairs = [(kernel, kernel), (kernel, direction), (direction, direction)]
        return Overlaps(*((left * right).sum(0) for left, right in pairs))

    for scale in (0.0, 1.0, -2.0, 20.0):
        assert not Affine().is_strange(overlaps(direction), jnp.float32(scale)), scale
    for scale in (1e6, 1e30, jnp.inf, jnp.nan):
        assert Affine().is_strange(overlaps(direction), jnp.float32(scale)), scale
    for scale in (-1.0, -0.999999):
        assert Affine().is_strange(overlaps(kernel), jnp.float32(scale)), scale
    for factors in ([0.0, 1.0], [-2.0, 0.5], [0.0, 0.0]):
        assert not PerUnit().is_strange(None, jnp.asarray(factors)), factors
    for factors in ([jnp.nan, 1.0], [1e30, 0.0], [1e-30, 1.0]):
        assert PerUnit().is_strange(None, jnp.asarray(factors)), factors


def test_activations_that_a_saturating_network_brings_down_count_as_the_definition_counts() -> None:
    random = np.random.default_rng(0)

    def apply(params: Any, images: Array) -> Array:
        x = jnp.exp(20 * jax.nn.relu(images @ params["first"]["w"])) - 1
        x = lax.conv_general_dilated(
            x, params["second"]["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.tanh(x).reshape(len(x), -1) @ params["dense"]["w"]

    shapes = {"first": (3, WIDTH), "second": (3, 3, WIDTH, WIDTH), "dense": (SIDE**2 * WIDTH, 6)}
    params = {
        name: {"w": jnp.asarray(random.normal(0, shape[-2] ** -0.5, shape), jnp.float32)}
        for name, shape in shapes.items()
    }
    pixels = np.zeros((60, SIDE, SIDE, 3), np.uint8)
    for image in pixels:
        image[random.integers(0, SIDE, 8), random.integers(0, SIDE, 8)] = random.integers(
            99, 255, 3
        )
    preprocessing = jr.Preprocessing((SIDE, SIDE), mean=(0.0,), std=(128.0,))
    net = jr.Network(apply, params, name="saturating", preprocessing=preprocessing)
    source = jr.images(pixels, np.arange(60) % CLASSES)
    asked: dict[str, Any] = dict(perturbations=["synapse_knockout"], layers=["second"])
    compare(net, source, strengths=[0.3], seeds=3, **asked)
