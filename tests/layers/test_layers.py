"""The layer table: what is found in a network."""

from collections.abc import Callable
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax
from networks_for_tests import NETWORKS, PREPROCESSING, SIDE

from jaxrobust import Network
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.layers import Layer, Leaf, layer_table, leaf_paths

NHWC = ("NHWC", "HWIO", "NHWC")


def network(apply: Callable[[Any, Array], Array], params: Any, **options: Any) -> Network:
    return Network(apply, params, name="small", preprocessing=PREPROCESSING, **options)


def ones(*shape: int) -> Array:
    return jnp.ones(shape, jnp.float32)


def leaf(net: Network, layer: str, path: str) -> Leaf:
    return next(x for x in net.layers[layer].leaves if x.path == path)


def refusal(function: Callable, *arguments: Any, **options: Any) -> str:
    with pytest.raises(SpecificationError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def unit_axes_by_derivative(apply: Callable[[Array], Array], kernel: Array) -> tuple[int, ...]:
    """The axes of a kernel along which each output feature reads one place only.

    Independent of the traced program: entry i of the kernel feeds the outputs at which the
    derivative by it is not zero, and a unit is a slice of the kernel that feeds its own feature.
    """
    jacobian = np.asarray(jax.jacobian(apply)(kernel))
    features = jacobian.shape[-1 - kernel.ndim]
    touches = (jacobian.reshape(-1, features, *kernel.shape) != 0).any(0)
    return tuple(
        axis
        for axis, n in enumerate(kernel.shape)
        if n == features
        and all(
            not np.delete(np.moveaxis(touches[f], axis, 0), f, axis=0).any()
            for f in range(features)
        )
    )


def convolution(x: Array, w: Array) -> Array:
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)


def oihw_convolution(x: Array, w: Array) -> Array:
    return convolution(x, w.transpose(2, 3, 1, 0))


def grouped_convolution(x: Array, w: Array) -> Array:
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=3
    )


def upward(x: Array, w: Array) -> Array:
    return lax.conv_transpose(x, w, (2, 2), "SAME", dimension_numbers=NHWC)


def upward_by_transposed_kernel(x: Array, w: Array) -> Array:
    return lax.conv_transpose(x, w, (2, 2), "SAME", dimension_numbers=NHWC, transpose_kernel=True)


def product(x: Array, w: Array) -> Array:
    return x @ w


def transposed_product(x: Array, w: Array) -> Array:
    return x @ w.T


def half_precision_product(x: Array, w: Array) -> Array:
    return (x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16).T).astype(jnp.float32)


@pytest.mark.parametrize(
    ("use", "shape", "axis"),
    [
        (convolution, (3, 3, 3, 5), 3),
        (oihw_convolution, (5, 3, 3, 3), 0),
        (grouped_convolution, (3, 3, 1, 6), 3),
        (upward, (3, 3, 3, 5), 3),
        (upward_by_transposed_kernel, (3, 3, 5, 3), 2),
        (product, (3, 5), 1),
        (transposed_product, (5, 3), 0),
        (half_precision_product, (5, 3), 0),
    ],
)
def test_the_output_axis_is_the_one_that_counts_units(
    use: Callable[[Array, Array], Array], shape: tuple[int, ...], axis: int
) -> None:
    kernel = jnp.asarray(np.random.default_rng(0).normal(1, 0.1, shape), jnp.float32)
    image = ones(1, 4, 4, 3)
    assert unit_axes_by_derivative(lambda w: use(image, w), kernel) == (axis,)
    # Under a name that says nothing: what counts is how the leaf is used.
    net = network(lambda p, x: use(x, p["layer"]["v"]).mean((1, 2)), {"layer": {"v": kernel}})
    found = leaf(net, "layer", "layer/v")
    assert (found.role, found.output_axes) == ("kernel", (axis,))
    assert found.units == shape[axis]
    assert found.unit_shape == tuple(n if i == axis else 1 for i, n in enumerate(shape))
    assert found.groups == (3 if use is grouped_convolution else 1)


def test_a_dense_layer_can_have_two_output_axes() -> None:
    class Heads(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, images: Array) -> Array:
            x = flax.linen.DenseGeneral((2, 5), name="heads")(images.mean((1, 2)))
            return flax.linen.DenseGeneral(4, axis=(-2, -1), name="joined")(x)

    module = Heads()
    variables = module.init(jax.random.key(0), ones(1, SIDE, SIDE, 3))
    net = Network.from_linen(module, variables, name="heads", preprocessing=PREPROCESSING)
    heads, joined = net.layers["heads"], net.layers["joined"]
    assert [(x.shape, x.role, x.output_axes) for x in heads.leaves] == [
        ((3, 2, 5), "kernel", (1, 2)),
        ((2, 5), "bias", (0, 1)),
    ]
    assert heads.units == 10
    assert [(x.shape, x.role, x.output_axes) for x in joined.leaves] == [
        ((2, 5, 4), "kernel", (2,)),
        ((4,), "bias", (0,)),
    ]


def test_roles_follow_from_use_where_names_say_nothing() -> None:
    def apply(params: Any, images: Array) -> Array:
        x = images.mean((1, 2)) @ params["one"]["r"]
        return x * params["one"]["q"][None] + params["one"]["p"][None]

    net = network(apply, {"one": {"p": ones(4), "q": ones(4), "r": ones(3, 4)}})
    assert {x.name: x.role for x in net.layers["one"].leaves} == {
        "r": "kernel",
        "q": "scale",
        "p": "bias",
    }
    assert net.layers["one"].leaves[0].name == "r", "kernels come first"


def test_roles_follow_from_names_and_rank_without_a_network() -> None:
    table = layer_table(
        {
            "conv": {"kernel": ones(3, 3, 2, 4), "bias": ones(4)},
            "norm": {"scale": ones(4), "beta": ones(4), "mean": ones(4), "var": ones(4)},
            "other": {"x": ones(2, 3), "y": ones(3)},
        }
    )
    roles = {x.path: x.role for layer in table.values() for x in layer.leaves}
    assert roles == {
        "conv/kernel": "kernel",
        "conv/bias": "bias",
        "norm/scale": "scale",
        "norm/beta": "bias",
        "other/x": "kernel",
        "other/y": "bias",
    }
    assert table["conv"].units == 4 and table["conv"].leaves[0].output_axes == (3,)


def test_layers_come_in_order_of_first_use() -> None:
    def apply(params: Any, images: Array) -> Array:
        x = images.mean((1, 2))
        for name in ("zebra", "middle", "aardvark"):
            x = x @ params[name]["w"]
        return x

    params = {name: {"w": ones(3, 3)} for name in ("aardvark", "middle", "zebra")}
    net = network(apply, {**params, "unused": {"w": ones(3, 3)}})
    assert list(net.layers) == ["zebra", "middle", "aardvark"]
    assert list(layer_table(params)) == ["aardvark", "middle", "zebra"]


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"block": {"conv": {"w": ones(2, 2), "b": ones(2)}}}, {"block/conv": ["w", "b"]}),
        (
            {"blocks": [{"w": ones(2, 2)}, {"w": ones(2, 2)}]},
            {"blocks/0": ["w"], "blocks/1": ["w"]},
        ),
        (
            {"features.0.weight": ones(2, 2), "features.0.bias": ones(2), "fc.weight": ones(2, 2)},
            {"features.0": ["weight", "bias"], "fc": ["weight"]},
        ),
        ({"w": ones(2, 2)}, {"w": ["w"]}),
    ],
    ids=["nested", "lists", "dotted", "top level"],
)
def test_leaves_that_share_a_path_are_one_layer(params: Any, names: dict[str, list[str]]) -> None:
    table = layer_table(params)
    assert {n: sorted(x.name for x in layer.leaves) for n, layer in table.items()} == {
        n: sorted(leaves) for n, leaves in names.items()
    }
    paths = [x.path for layer in table.values() for x in layer.leaves]
    assert sorted(paths) == sorted(leaf_paths(params))


def test_a_linen_collection_is_no_part_of_a_name_and_statistics_are_never_damaged() -> None:
    net = NETWORKS["linen"]()
    assert list(net.layers) == ["conv1", "norm1", "fc"]
    assert [(x.name, x.path) for x in net.layers["norm1"].leaves] == [
        ("bias", "params/norm1/bias"),
        ("scale", "params/norm1/scale"),
    ]


def test_statistics_of_an_nnx_module_are_parameters_that_are_never_damaged() -> None:
    net = NETWORKS["normalised"]()
    assert {"mean", "var"} <= set(net.params["norm1"])
    assert [x.name for x in net.layers["norm1"].leaves] == ["bias", "scale"]


def test_frozen_leaves_are_not_damageable_and_a_frozen_layer_is_none() -> None:
    net = NETWORKS["chain"]()
    frozen = layer_table(net.params, net.program(1), frozen=["conv1/b", "conv2/w", "conv2/b"])
    assert list(frozen) == ["conv1", "fc"]
    assert [x.path for x in frozen["conv1"].leaves] == ["conv1/w"]


def test_integer_leaves_are_no_part_of_a_layer() -> None:
    table = layer_table({"a": {"w": ones(2, 2), "steps": jnp.zeros((), jnp.int32)}})
    assert [x.name for x in table["a"].leaves] == ["w"]
    assert "no float parameters" in refusal(layer_table, {"steps": jnp.zeros(3, jnp.int32)})


def attention(params: Any, images: Array) -> Array:
    x = images.mean((1, 2))
    return (x @ params["q"]["w"]) * (x @ params["k"]["w"]) @ params["fc"]["w"]


ATTENTION = {"q": {"w": ones(3, 6)}, "k": {"w": ones(3, 6)}, "fc": {"w": ones(6, 4)}}


def test_leaves_of_says_which_leaves_belong_together() -> None:
    leaves_of = {"attention": ["q/w", "k/w"], "head": ["fc/w"]}
    net = network(attention, ATTENTION, leaves_of=leaves_of)
    assert list(net.layers) == ["attention", "head"]
    assert sorted(x.path for x in net.layers["attention"].leaves) == ["k/w", "q/w"]
    message = refusal(layer_table, ATTENTION, layers={"attention": ["q/v"]})
    assert "unknown parameter leaf 'q/v': did you mean q/w" in message


def test_names_of_leaves_are_unique_in_their_layer() -> None:
    # A leaf's draw depends on its name: two of one name would be damaged in the same places.
    net = network(attention, ATTENTION, leaves_of={"attention": ["q/w", "k/w"]})
    names = [x.name for x in net.layers["attention"].leaves]
    assert len(set(names)) == 2, names


def norm_network(apply: Callable[[Any, Array], Array]) -> Network:
    norm = {"scale": ones(4), "bias": ones(4)}
    convolutions = {"c1": {"w": ones(3, 3, 3, 4)}, "c2": {"w": ones(3, 3, 4, 4)}}
    params = convolutions | {"n1": norm, "n2": norm, "fc": {"w": ones(4, 5)}}
    return network(apply, params)


def normalise(x: Array, params: Any) -> Array:
    return x * params["scale"][None, None, None] + params["bias"][None, None, None]


def normalised_paths(net: Network) -> dict[str, list[str]]:
    return {n: sorted(x.path for x in layer.normalisation) for n, layer in net.layers.items()}


def test_a_normalisation_that_reads_one_layer_belongs_to_it() -> None:
    def apply(params: Any, images: Array) -> Array:
        x = jax.nn.relu(normalise(convolution(images, params["c1"]["w"]), params["n1"]))
        x = jax.nn.relu(convolution(x, params["c2"]["w"]))
        x = x - x.mean((1, 2, 3), keepdims=True)
        return normalise(x, params["n2"]).mean((1, 2)) @ params["fc"]["w"]

    assert normalised_paths(norm_network(apply)) == {
        "c1": ["n1/bias", "n1/scale"],
        "n1": [],
        "c2": ["n2/bias", "n2/scale"],
        "n2": [],
        "fc": [],
    }


def test_a_normalisation_after_a_residual_addition_belongs_to_nobody() -> None:
    def apply(params: Any, images: Array) -> Array:
        x = jax.nn.relu(normalise(convolution(images, params["c1"]["w"]), params["n1"]))
        x = normalise(x + convolution(x, params["c2"]["w"]), params["n2"])
        return x.mean((1, 2)) @ params["fc"]["w"]

    found = normalised_paths(norm_network(apply))
    assert found["c1"] == ["n1/bias", "n1/scale"] and found["c2"] == []


def test_a_normalisation_of_other_units_belongs_to_nobody() -> None:
    def apply(params: Any, images: Array) -> Array:
        x = convolution(images, params["c1"]["w"]).reshape(len(images), -1)
        x = x * params["n1"]["scale"][None]
        return x @ params["fc"]["w"]

    entries = SIDE * SIDE * 4
    norm, fc = {"scale": ones(entries)}, {"w": ones(entries, 5)}
    net = network(apply, {"c1": {"w": ones(3, 3, 3, 4)}, "n1": norm, "fc": fc})
    assert normalised_paths(net)["c1"] == []


def test_uses_and_loops_are_counted() -> None:
    tied, looped = NETWORKS["tied"]().layers, NETWORKS["looped"]().layers
    assert {n: layer.uses for n, layer in tied.items()} == {"stem": 1, "twice": 2, "fc": 1}
    assert {n: layer.loop for n, layer in looped.items()} == {
        "stem": None,
        "stack": "scan",
        "fc": None,
    }


def test_a_layer_knows_the_shape_of_its_output() -> None:
    shapes = {n: layer.output_shape for n, layer in NETWORKS["branches"]().layers.items()}
    assert shapes == {"stem": (4, 4, 4), "left": (4, 4, 3), "right": (4, 4, 5), "fc": (7,)}


def test_the_standard_deviation_is_that_of_all_entries() -> None:
    net = NETWORKS["chain"]()
    kernel = net.layers["conv2"].leaves[0]
    expected = np.std(np.asarray(net.params["conv2"]["w"], np.float64))
    np.testing.assert_allclose(kernel.std, expected, rtol=1e-14)


def test_a_layer_without_values_is_the_same_key_for_the_same_shapes() -> None:
    def table(value: float) -> Layer:
        return layer_table({"a": {"w": jnp.full((2, 3), value)}})["a"]

    one, other = table(1.0).without_values(), table(2.0).without_values()
    assert one == other and hash(one) == hash(other)
    assert all(x.value is None for x in one.leaves)


CHAIN = NETWORKS["chain"]().layers


def test_an_unknown_layer_of_the_table_is_refused_with_the_closest_names() -> None:
    assert "conv1" in CHAIN and "conv9" not in CHAIN
    assert "did you mean" in refusal(CHAIN.__getitem__, "conv9")


def test_the_table_prints_as_a_table() -> None:
    assert repr(NETWORKS["tied"]().layers).splitlines() == [
        "layer  leaves          entries  units  output  note",
        "stem   w 3×3×3×5, b 5  140      5      4×4×5",
        "twice  w 3×3×5×5, b 5  230      5      4×4×5   used 2 times",
        "fc     w 5×7, b 7      42       7      7",
    ]
    assert "2 groups" in repr(NETWORKS["normalised"]().layers)
    assert "inside scan: not hoisted" in repr(NETWORKS["looped"]().layers)
    assert repr(layer_table({"a": {"scale": jnp.float32(1)}})).splitlines()[1].split() == [
        *("a", "scale", "scalar", "1", "1", "-")
    ]
