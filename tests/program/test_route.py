"""What damage reaches: the pieces make the whole, and nothing is run that need not be."""

import re
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks_for_tests import CLASSES, NETWORKS, SIDE

import jaxrobust as jr
from jaxrobust.execution.routes import route_of
from jaxrobust.layers import leaf_paths
from jaxrobust.program.jaxprs import run
from jaxrobust.program.route import Route
from jaxrobust.program.segments import Piece

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
    "wide": {"conv1": [(8, 8, 3)], "conv2": [(7, 8, 100)], "fc": [(112,)]},
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
def route_to(name: str, layer: str, reformulate: bool = False, share: bool = False) -> Route:
    net = network(name)
    paths = [leaf.path for leaf in net.layers[layer].leaves]
    return route_of(net, paths, IMAGES, platform="cpu", reformulate=reformulate, share=share)


def images() -> jax.Array:
    random = np.random.default_rng(3)
    return jnp.asarray(random.normal(0, 1, (IMAGES, SIDE, SIDE, 3)), jnp.float32)


def convolutions(equations: Any) -> int:
    return sum(equation.primitive == "conv_general_dilated" for equation in equations)


def test_every_network_and_layer_is_in_the_tables() -> None:
    found = {name: list(network(name).layers) for name in NETWORKS}
    assert found == {name: list(layers) for name, layers in CONVOLUTIONS.items()}


def values_of(route: Route, params: Any, images: Any) -> dict[int, Any]:
    """Every variable of the network."""
    program = route.cut.program
    values = dict(zip(program.parameters, jax.tree.leaves(params), strict=True))
    values |= {**program.constants, program.images: images}
    wanted = [v for equation in program.equations for v in equation.outputs]
    return values | dict(zip(wanted, run(program.equations, values, wanted), strict=True))


def made_by(route: Route, piece: Piece, leaves: dict[int, Any], values: dict[int, Any]) -> Any:
    """What a piece makes of damaged leaves and of what it reads."""
    derivation = route.cut.derivation(piece.given)
    given = derivation([leaves.get(v, values[v]) for v in derivation.given], ())
    made = piece(given, [values[v] for v in piece.reads])
    return dict(zip(piece.makes, made, strict=True))


def logits_of(route: Route, params: Any, damaged: dict[str, Any], images: Any) -> Any:
    """The logits of one trial, of the route's residuals and pieces alone."""
    program = route.cut.program
    undamaged = values_of(route, params, images)
    fixed = {*program.parameters, *program.constants, *route.residuals}
    depends = route.cut.from_images
    values = {v: x for v, x in undamaged.items() if v in fixed or v not in depends}
    leaves = {program.variables[path]: leaf for path, leaf in damaged.items()}
    pieces = [*([route.multiply] if route.product else []), *route.pieces]
    for piece in pieces:
        values |= made_by(route, piece, leaves, values)
    return values[program.output]


def damaged_leaves(name: str, layer: str) -> tuple[Any, dict[str, Any]]:
    net = network(name)
    tree = jr.perturb(net, "synapse_knockout", layer=layer, strength=0.5)
    leaves = dict(zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True))
    return tree, {leaf.path: leaves[leaf.path] for leaf in net.layers[layer].leaves}


def check_composed(name: str, routes: dict[str, Route]) -> None:
    """Compares the pieces for each damaged layer with the plain network."""
    net = network(name)
    plain, damaged = jax.jit(net.apply), {layer: damaged_leaves(name, layer) for layer in routes}

    @jax.jit
    def from_pieces(params: Any, damaged: Any, images: jax.Array) -> dict[str, jax.Array]:
        return {
            layer: logits_of(route, params, damaged[layer], images)
            for layer, route in routes.items()
        }

    found = from_pieces(net.params, {k: own for k, (_, own) in damaged.items()}, images())
    with jax.default_matmul_precision("highest"):
        undamaged = plain(net.params, images())
        for layer, (tree, _) in damaged.items():
            expected = plain(tree, images())
            assert not np.allclose(expected, undamaged, atol=1e-2), layer
            np.testing.assert_allclose(found[layer], expected, rtol=1e-5, atol=1e-5, err_msg=layer)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("reformulate", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_pieces_make_the_whole(name: str, reformulate: bool, share: bool) -> None:
    routes = {layer: route_to(name, layer, reformulate, share) for layer in CONVOLUTIONS[name]}
    check_composed(name, routes)


@pytest.mark.parametrize("reformulate", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_product_is_linear_in_the_kernel(name: str, reformulate: bool) -> None:
    routes = {layer: route_to(name, layer, reformulate, share=True) for layer in CONVOLUTIONS[name]}
    assert {layer for layer, route in routes.items() if route.product} == SHARED[name]
    for layer in SHARED[name]:
        route = routes[layer]
        values = values_of(route, network(name).params, images())
        assert route.product
        kernel = route.cut.program.variables[route.product.kernel]
        _, leaves = damaged_leaves(name, layer)
        one = {kernel: leaves[route.product.kernel]}
        two = {kernel: 2 * leaves[route.product.kernel]}
        [product] = made_by(route, route.multiply, one, values).values()
        [doubled] = made_by(route, route.multiply, two, values).values()
        np.testing.assert_allclose(doubled - 2 * product, 0, atol=1e-4, err_msg=layer)
        [undamaged] = made_by(route, route.multiply, {}, values).values()
        assert np.abs(undamaged - product).max() > 1e-2, layer


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_damaged_before_a_segment_reaches_all_of_it_or_nothing(name: str) -> None:
    for layer in CONVOLUTIONS[name]:
        route = route_to(name, layer)
        own = {
            route.cut.program.variables[leaf.path] for leaf in network(name).layers[layer].leaves
        }
        for segment in route.cut.segments:
            derivation = route.cut.derivation(segment.given)
            if own.isdisjoint((*segment.given, *derivation.given)):
                reached = [v in route.reached for v in segment.makes]
                assert all(reached) or not any(reached)


def test_segments_that_compute_the_same_are_equal() -> None:
    first, second = (route_to("skip", "stem").cut.segments for _ in range(2))
    assert list(map(hash, first)) == list(map(hash, second)) and list(first) == list(second)
    assert len(set(first)) == len(first)


@every_layer
def test_the_suffix_runs_no_more_convolutions_than_damage_reaches(name: str, layer: str) -> None:
    route = route_to(name, layer)
    whole = max(CONVOLUTIONS[name].values())
    needed = CONVOLUTIONS[name][layer]
    assert convolutions(route.suffix_equations) == needed
    assert convolutions(route.prefix_equations) == whole - needed


@every_layer
def test_residuals_are_what_the_suffix_reads_and_nothing_else(name: str, layer: str) -> None:
    route = route_to(name, layer)
    shapes = [route.cut.program.shapes[v].shape for v in route.residuals]
    assert all(shape[0] == IMAGES for shape in shapes)
    assert sorted(shape[1:] for shape in shapes) == sorted(RESIDUALS[name][layer])
    read = {v for equation in route.suffix_equations for v in equation.reads}
    assert set(route.residuals) <= read
    assert not set(route.residuals) & set(route.cut.program.parameters)
    entries = sum(int(np.prod(shape)) for shape in RESIDUALS[name][layer])
    assert route.residual_bytes == 4 * IMAGES * entries


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_layer_reads_the_images_themselves(name: str) -> None:
    route = route_to(name, next(iter(CONVOLUTIONS[name])))
    assert route.residuals == (route.cut.program.images,)
    assert route.prefix_equations == ()


@every_layer
def test_a_piece_mixes_parameters_with_images_and_makes_nothing_of_parameters_alone(
    name: str, layer: str
) -> None:
    route = route_to(name, layer)
    shapes, images = route.cut.program.shapes, route.cut.from_images
    for piece in (*route.pieces, *route.cut.segments):
        assert all(IMAGES not in shapes[v].shape for v in piece.given)
        for equation in piece.equations:
            if not images.intersection(equation.reads):
                # Planes spread out from something smaller.
                layouts = ("broadcast_in_dim", "iota", "reshape", "squeeze", "expand_dims")
                assert equation.primitive in layouts, equation.primitive


@pytest.mark.parametrize("name", NETWORKS)
def test_no_parameter_is_stored_a_second_time(name: str) -> None:
    # A reshaped parameter costs nothing to make again.
    spreads = ("reshape", "squeeze", "expand_dims", "broadcast_in_dim", "copy")
    cut = route_to(name, next(iter(CONVOLUTIONS[name]))).cut
    for segment in cut.segments:
        derivation = cut.derivation(segment.given)
        copies = [
            str(equation.source)
            for equation in derivation.equations
            if equation.primitive in spreads
            and set(equation.outputs) & set(segment.given)
            and set(equation.reads) <= set(cut.program.parameters)
        ]
        assert copies == []


@pytest.mark.parametrize("name", ["branches", "normalised"])
def test_without_hoisting_everything_is_run_again(name: str) -> None:
    net = network(name)
    layer = list(net.layers)[-1]
    paths = [leaf.path for leaf in net.layers[layer].leaves]
    route = route_of(net, paths, IMAGES, platform="cpu", hoist=False)
    assert route.residuals == (route.cut.program.images,)
    assert route.prefix_equations == ()
    assert convolutions(route.suffix_equations) == max(CONVOLUTIONS[name].values())
    check_composed(name, {layer: route})


def test_layers_of_a_group_are_split_together() -> None:
    net = network("branches")
    route = route_of(net, ["left/w", "left/b", "right/w", "right/b"], IMAGES, platform="cpu")
    assert convolutions(route.suffix_equations) == 2
    assert [route.cut.program.shapes[v].shape for v in route.residuals] == [(IMAGES, 4, 4, 4)]


def test_without_damage_there_is_nothing_to_run_again() -> None:
    route = route_of(network("chain"), [], IMAGES, platform="cpu")
    assert route.suffix_equations == ()
    assert route.residuals == (route.cut.program.output,)


def test_operations_are_counted_as_by_hand() -> None:
    route = route_to("chain", "conv2")
    conv1 = 2 * IMAGES * 4 * 4 * 6 * (3 * 3 * 3)
    conv2 = 2 * IMAGES * 4 * 4 * 5 * (3 * 3 * 6)
    fc = 2 * IMAGES * CLASSES * 80
    assert (route.prefix_operations, route.suffix_operations) == (conv1, conv2 + fc)


def test_the_estimate_of_memory_covers_the_largest_moment() -> None:
    # conv2's output and its sum with the bias are alive at once, in float32.
    route = route_to("chain", "conv2")
    plane = 4 * IMAGES * 4 * 4 * 5
    assert 2 * plane <= route.suffix_peak_bytes <= 4 * plane


def groups_in(lowered: str) -> set[int]:
    found = re.findall(r"(?:feature|batch)_group_count\s*=\s*(\d+)", lowered)
    assert found, "the program holds no convolution that can be read"
    return {int(count) for count in found}


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_batching_one_layers_kernel_makes_no_grouped_convolution(layer: str) -> None:
    net, route = network("chain"), route_to("chain", layer)
    own = {path: jnp.stack([leaf] * 3) for path, leaf in damaged_leaves("chain", layer)[1].items()}

    def step(own: Any, params: Any, images: Any) -> jax.Array:
        return jax.vmap(lambda leaves: logits_of(route, params, leaves, images))(own)

    assert groups_in(jax.jit(step).lower(own, net.params, images()).as_text()) == {1}


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
    route = route_of(net, ["fc2/w"], IMAGES, platform="cpu", reformulate=False)
    assert route.product is None
    assert route_of(net, ["fc/w"], IMAGES, platform="cpu", reformulate=False).product is not None
    damaged = {"fc2/w": 2 * params["fc2"]["w"]}
    found = logits_of(route, net.params, damaged, images())
    np.testing.assert_allclose(found, 2 * apply(params, images()), rtol=1e-5)
