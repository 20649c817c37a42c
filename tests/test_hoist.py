"""Splitting a network: the parts make the whole, and no part holds more than it must."""

import re
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks_for_tests import CLASSES, NETWORKS, SIDE

import jaxrobust as jr
from jaxrobust.hoist import Split, split
from jaxrobust.layers import leaf_paths

# A number that no shape inside the networks has: it marks what grows with the images.
IMAGES = 11

# How many convolutions a trial has to run again, by network and layer.
CONVOLUTIONS = {
    "chain": {"conv1": 2, "conv2": 1, "fc": 0},
    "skip": {"stem": 2, "residual": 1, "fc": 0},
    "branches": {"stem": 3, "left": 1, "right": 1, "fc": 0},
    "nested": {"a": 2, "b": 1, "fc": 0},
    "tied": {"stem": 3, "twice": 2, "fc": 0},
    "looped": {"stem": 1, "stack": 0, "fc": 0},
    "normalised": {"conv1": 2, "norm1": 1, "conv2": 1, "norm2": 0, "fc": 0},
    "linen": {"conv1": 1, "norm1": 0, "fc": 0},
    "wide": {"conv1": 2, "conv2": 1, "fc": 0},
}
# The images that one trial's suffix reads: the shapes of its residuals, without the images' axis.
RESIDUALS = {
    "chain": {"conv1": [(8, 8, 3)], "conv2": [(4, 4, 6)], "fc": [(80,)]},
    "skip": {"stem": [(8, 8, 3)], "residual": [(8, 8, 6)], "fc": [(6,)]},
    "branches": {
        "stem": [(8, 8, 3)],
        "left": [(4, 4, 4), (4, 4, 5)],
        "right": [(4, 4, 3), (4, 4, 4)],
        "fc": [(12,)],
    },
    "nested": {"a": [(8, 8, 3)], "b": [(8, 8, 4)], "fc": [(4,)]},
    "tied": {"stem": [(8, 8, 3)], "twice": [(4, 4, 5)], "fc": [(5,)]},
    "looped": {"stem": [(8, 8, 3)], "stack": [(6,)], "fc": [(6,)]},
    "normalised": {
        "conv1": [(8, 8, 3)],
        "norm1": [(4, 4, 6)],
        "conv2": [(4, 4, 6)],
        "norm2": [(4, 4, 4)],
        "fc": [(4,)],
    },
    "linen": {"conv1": [(8, 8, 3)], "norm1": [(4, 4, 5)], "fc": [(5,)]},
    "wide": {"conv1": [(8, 8, 3)], "conv2": [(7, 8, 32)], "fc": [(40,)]},
}
# Layers whose kernel enters exactly one product.
SHARED = {
    "chain": {"conv1", "conv2", "fc"},
    "skip": {"stem", "residual", "fc"},
    "branches": {"stem", "left", "right", "fc"},
    "nested": {"a", "b", "fc"},
    "tied": {"stem", "fc"},
    "looped": {"stem", "fc"},
    "normalised": {"conv1", "conv2", "fc"},
    "linen": {"conv1", "fc"},
    "wide": {"conv1", "conv2", "fc"},
}
EVERY_LAYER = [(name, layer) for name, layers in CONVOLUTIONS.items() for layer in layers]
every_layer = pytest.mark.parametrize(("name", "layer"), EVERY_LAYER)


@lru_cache
def network(name: str) -> jr.Network:
    return NETWORKS[name]()


@lru_cache
def parts_of(name: str, layer: str, reformulate: bool = False) -> Split:
    net = network(name)
    paths = [leaf.path for leaf in net.layers[layer].leaves]
    return split(net, paths, IMAGES, reformulate=reformulate)


def images() -> jax.Array:
    random = np.random.default_rng(3)
    return jnp.asarray(random.normal(0, 1, (IMAGES, SIDE, SIDE, 3)), jnp.float32)


def convolutions(equations: Any) -> int:
    return sum(equation.primitive == "conv_general_dilated" for equation in equations)


def test_every_network_and_layer_is_in_the_tables() -> None:
    found = {name: list(network(name).layers) for name in NETWORKS}
    assert found == {name: list(layers) for name, layers in CONVOLUTIONS.items()}


def check_composed(name: str, splits: dict[str, Split]) -> None:
    """Compares the parts for each damaged layer with the plain network; one compilation for all."""
    net = network(name)
    plain = jax.jit(net.apply)
    trees = {
        layer: jr.perturb(net, "synapse_knockout", layer=layer, strength=0.5) for layer in splits
    }

    @jax.jit
    def from_parts(params: Any, damaged: Any, images: jax.Array) -> dict[str, jax.Array]:
        logits = {}
        for layer, parts in splits.items():
            shared = parts.shared(params)
            residuals = parts.prefix(params, shared, images)
            logits[layer] = parts.suffix(damaged[layer], params, shared, residuals)
        return logits

    damaged = {}
    for layer, tree in trees.items():
        leaves = dict(zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True))
        damaged[layer] = {path: leaves[path] for path in splits[layer].damaged}
    found = from_parts(net.params, damaged, images())
    with jax.default_matmul_precision("highest"):
        undamaged = plain(net.params, images())
        for layer, tree in trees.items():
            expected = plain(tree, images())
            assert not np.allclose(expected, undamaged, atol=1e-2), layer
            np.testing.assert_allclose(found[layer], expected, rtol=1e-5, atol=1e-5, err_msg=layer)


@pytest.mark.parametrize("reformulate", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_parts_make_the_whole(name: str, reformulate: bool) -> None:
    check_composed(
        name, {layer: parts_of(name, layer, reformulate) for layer in CONVOLUTIONS[name]}
    )


@pytest.mark.parametrize("reformulate", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_suffix_can_be_cut_behind_the_product(name: str, reformulate: bool) -> None:
    net = network(name)
    cut = {layer: parts_of(name, layer, reformulate) for layer in CONVOLUTIONS[name]}
    assert {layer for layer, parts in cut.items() if parts.product} == SHARED[name]

    @jax.jit
    def both(params: Any, damaged: Any, images: jax.Array) -> dict[str, Any]:
        logits = {}
        for layer in SHARED[name]:
            parts, leaves = cut[layer], damaged[layer]
            shared = parts.shared(params)
            given = (params, shared, parts.prefix(params, shared, images))
            assert parts.product
            path = parts.product.kernel
            others = {other: leaf for other, leaf in leaves.items() if other != path}
            product = parts.multiply(leaves[path], *given)
            whole, in_two = parts.suffix(leaves, *given), parts.suffix(others, *given, product)
            doubled = parts.multiply(2 * leaves[path], *given) - 2 * product
            undamaged = parts.multiply(None, *given)
            logits[layer] = (whole, in_two, doubled, undamaged - product)
        return logits

    damaged = {}
    for layer in SHARED[name]:
        tree = jr.perturb(net, "synapse_knockout", layer=layer, strength=0.5)
        leaves = dict(zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True))
        damaged[layer] = {path: leaves[path] for path in cut[layer].damaged}
    for layer, found in both(net.params, damaged, images()).items():
        whole, in_two, doubled, difference = found
        np.testing.assert_allclose(in_two, whole, rtol=1e-5, atol=1e-5, err_msg=layer)
        np.testing.assert_allclose(doubled, 0, atol=1e-4, err_msg=layer)
        assert np.abs(difference).max() > 1e-2, layer


@every_layer
def test_the_suffix_runs_no_more_convolutions_than_damage_reaches(name: str, layer: str) -> None:
    parts = parts_of(name, layer)
    whole = max(CONVOLUTIONS[name].values())
    needed = CONVOLUTIONS[name][layer]
    assert convolutions(parts.suffix_equations) == needed
    assert convolutions(parts.prefix_equations) == whole - needed


@every_layer
def test_residuals_are_what_the_suffix_reads_and_nothing_else(name: str, layer: str) -> None:
    parts = parts_of(name, layer)
    shapes = [parts.program.shapes[v].shape for v in parts.residuals]
    assert all(shape[0] == IMAGES for shape in shapes)
    assert sorted(shape[1:] for shape in shapes) == sorted(RESIDUALS[name][layer])
    read = {v for equation in parts.suffix_equations for v in equation.reads}
    assert set(parts.residuals) <= read
    assert not set(parts.residuals) & set(parts.program.parameters)
    entries = sum(int(np.prod(shape)) for shape in RESIDUALS[name][layer])
    assert parts.residual_bytes == 4 * IMAGES * entries


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_layer_reads_the_images_themselves(name: str) -> None:
    parts = parts_of(name, next(iter(CONVOLUTIONS[name])))
    assert parts.residuals == (parts.program.images,)
    assert parts.prefix_equations == ()


@every_layer
def test_what_depends_on_parameters_only_is_shared(name: str, layer: str) -> None:
    parts = parts_of(name, layer)
    shapes = parts.program.shapes
    assert not set(parts.derived) & {*parts.program.parameters, parts.program.images}
    assert all(IMAGES not in shapes[v].shape for v in parts.derived)
    # Whatever is left to a trial or a batch mixes parameters with images or damage, but for
    # planes spread out from something smaller.
    touched = set(parts.residuals) | {parts.program.images}
    touched |= {parts._variables[path] for path in parts.damaged}
    for equations in (parts.prefix_equations, parts.suffix_equations):
        reached = set(touched)
        for equation in equations:
            if reached.intersection(equation.reads):
                reached.update(equation.outputs)
            else:
                layouts = ("broadcast_in_dim", "iota", "reshape", "squeeze", "expand_dims")
                assert equation.primitive in layouts, equation.primitive


@pytest.mark.parametrize("name", NETWORKS)
def test_no_parameter_is_stored_a_second_time(name: str) -> None:
    # A reshaped parameter costs nothing to make again.
    spreads = ("reshape", "squeeze", "expand_dims", "broadcast_in_dim", "copy")
    for layer in CONVOLUTIONS[name]:
        parts = parts_of(name, layer)
        makers = {v: equation for equation in parts.shared_equations for v in equation.outputs}
        copies = [
            str(makers[v].source)
            for v in parts.derived
            if makers[v].primitive in spreads
            and set(makers[v].reads) <= set(parts.program.parameters)
        ]
        assert copies == [], layer


@pytest.mark.parametrize("name", ["branches", "normalised"])
def test_without_hoisting_everything_is_run_again(name: str) -> None:
    net = network(name)
    layer = list(net.layers)[-1]
    paths = [leaf.path for leaf in net.layers[layer].leaves]
    parts = split(net, paths, IMAGES, hoist=False)
    assert parts.residuals == (parts.program.images,)
    assert parts.prefix_equations == ()
    assert convolutions(parts.suffix_equations) == max(CONVOLUTIONS[name].values())
    check_composed(name, {layer: parts})


def test_layers_of_a_group_are_split_together() -> None:
    net = network("branches")
    parts = split(net, ["left/w", "left/b", "right/w", "right/b"], IMAGES)
    assert convolutions(parts.suffix_equations) == 2
    assert [parts.program.shapes[v].shape for v in parts.residuals] == [(IMAGES, 4, 4, 4)]


def test_without_damage_there_is_nothing_to_run_again() -> None:
    parts = split(network("chain"), [], IMAGES)
    assert parts.suffix_equations == ()
    assert parts.residuals == (parts.program.output,)


def test_operations_are_counted_as_by_hand() -> None:
    parts = parts_of("chain", "conv2")
    conv1 = 2 * IMAGES * 4 * 4 * 6 * (3 * 3 * 3)
    conv2 = 2 * IMAGES * 4 * 4 * 5 * (3 * 3 * 6)
    fc = 2 * IMAGES * CLASSES * 80
    assert (parts.prefix_operations, parts.suffix_operations) == (conv1, conv2 + fc)


def test_the_estimate_of_memory_covers_the_largest_moment() -> None:
    # conv2's output and its sum with the bias are alive at once, in float32.
    parts = parts_of("chain", "conv2")
    plane = 4 * IMAGES * 4 * 4 * 5
    assert 2 * plane <= parts.suffix_peak_bytes <= 4 * plane


def groups_in(lowered: str) -> set[int]:
    found = re.findall(r"(?:feature|batch)_group_count\s*=\s*(\d+)", lowered)
    assert found, "the program holds no convolution that can be read"
    return {int(count) for count in found}


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_batching_one_layers_kernel_makes_no_grouped_convolution(layer: str) -> None:
    net, parts = network("chain"), parts_of("chain", layer)
    trials = {
        path: jnp.stack([net.params[layer][path.split("/")[1]]] * 3) for path in parts.damaged
    }
    shapes = [parts.program.shapes[v] for v in parts.residuals]

    def step(trials: Any, params: Any, residuals: Any) -> jax.Array:
        return jax.vmap(lambda leaves: parts.suffix(leaves, params, [], residuals))(trials)

    assert groups_in(jax.jit(step).lower(trials, net.params, shapes).as_text()) == {1}


def test_batching_all_kernels_makes_grouped_convolutions() -> None:
    # The other side of the test above: such a program would be seen.
    net = network("chain")
    trees = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), net.params)
    lowered = jax.jit(jax.vmap(net.apply, (0, None))).lower(trees, images())
    assert max(groups_in(lowered.as_text())) > 1


@pytest.mark.parametrize("kind", ["broadcast", "constant"])
def test_a_product_without_images_is_not_shared(kind: str) -> None:
    # A learned query that meets the images only behind its dense layer.
    def apply(params: Any, images: jax.Array) -> jax.Array:
        hidden = images.mean((1, 2)) @ params["fc"]["w"]
        query = {
            "broadcast": jnp.broadcast_to(params["query"]["b"][None], (len(images), 3)),
            "constant": jnp.ones((len(images), 3)),
        }[kind]
        return hidden * (query @ params["fc2"]["w"])

    params = {
        "fc": {"w": jnp.ones((3, 4))},
        "query": {"b": jnp.ones(3)},
        "fc2": {"w": jnp.ones((3, 4))},
    }
    net = jr.Network(apply, params, name="query", preprocessing=jr.Preprocessing((SIDE, SIDE)))
    parts = split(net, ["fc2/w"], IMAGES)
    assert parts.product is None
    assert split(net, ["fc/w"], IMAGES).product is not None
    shared = parts.shared(params)
    residuals = parts.prefix(params, shared, images())
    found = parts.suffix({"fc2/w": 2 * params["fc2"]["w"]}, params, shared, residuals)
    np.testing.assert_allclose(found, 2 * apply(params, images()), rtol=1e-5)
