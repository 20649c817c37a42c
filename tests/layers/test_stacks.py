"""Stacks of layers that a network runs in a loop, and kernels of several heads."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array, lax
from networks_for_tests import CLASSES, NETWORKS, PREPROCESSING, SIDE
from sweeps_for_tests import refusal, save, small_sweep

import jaxrobust as jr
from jaxrobust import Network
from jaxrobust.layers import layer_table, leaf_paths, select

WIDTH, HEADS, DEPTH = 8, 2, 3


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return x + self.attn(self.norm(x))


class Scanned(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        @nnx.split_rngs(splits=DEPTH)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make(rngs: nnx.Rngs) -> Block:
            return Block(rngs)

        self.stem = nnx.Linear(3, WIDTH, rngs=rngs)
        self.blocks = make(rngs)
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, images: Array) -> Array:
        x = self.stem(images[:, ::4, ::4].reshape(len(images), -1, 3))
        run = nnx.scan(lambda block, x: block(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        return self.head(run(self.blocks, x).mean(1))


class LinenBlock(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x: Array, _: None) -> tuple[Array, None]:
        x = flax.linen.LayerNorm(name="norm")(x)
        return x + flax.linen.MultiHeadDotProductAttention(HEADS, name="attn")(x), None


class LinenScanned(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, images: Array) -> Array:
        x = flax.linen.Dense(WIDTH, name="stem")(images[:, ::4, ::4].reshape(len(images), -1, 3))
        blocks = flax.linen.scan(
            LinenBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=DEPTH
        )
        x, _ = blocks(name="blocks")(x, None)
        return flax.linen.Dense(CLASSES, name="head")(x.mean(1))


def nnx_network() -> Network:
    return Network.from_nnx(Scanned(nnx.Rngs(0)), name="nnx", preprocessing=PREPROCESSING)


def linen_network() -> Network:
    module = LinenScanned()
    variables = module.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
    return Network.from_linen(module, variables, name="linen", preprocessing=PREPROCESSING)


def looped(how: str) -> Network:
    """A stack of dense layers without attention, run in each of the ways that JAX has."""

    def apply(params: Any, images: Array) -> Array:
        stack, x = params["stack"], images.mean((1, 2)) @ params["stem"]["w"]

        def layer(x: Array, one: Any) -> Array:
            return jnp.tanh(x @ one["w"] + one["b"][None])

        def at(i: Any) -> Any:
            return jax.tree.map(lambda leaf: leaf[i], stack)

        if how == "scan":
            x, _ = lax.scan(lambda x, one: (layer(x, one), None), x, stack)
        elif how == "scan from zero":  # the first turn does not yet depend on the images
            start = jnp.zeros_like(x)
            x, _ = lax.scan(lambda h, one: (layer(h, one) + x, None), start, stack)
        elif how == "indices":
            x, _ = lax.scan(lambda x, i: (layer(x, at(i)), None), x, jnp.arange(DEPTH))
        elif how == "fori":
            x = lax.fori_loop(0, DEPTH, lambda i, x: layer(x, at(i)), x)
        elif how == "while":
            x, _ = lax.while_loop(
                lambda state: state[1] < DEPTH,
                lambda state: (layer(state[0], at(state[1])), state[1] + 1),
                (x, 0),
            )
        elif how == "cond in scan":
            turn = lambda x, one: (lax.cond(x.sum() > 0, layer, layer, x, one), None)  # noqa: E731
            x, _ = lax.scan(turn, x, stack)
        elif how == "unstacked":
            for w, b in zip(jnp.unstack(stack["w"]), jnp.unstack(stack["b"]), strict=True):
                x = layer(x, {"w": w, "b": b})
        elif how == "unrolled":
            for i in range(DEPTH):
                x = layer(x, at(i))
        return x @ params["head"]["w"]

    random = np.random.default_rng(0)

    def drawn(*shape: int) -> Array:
        return jnp.asarray(random.normal(0, 0.7, shape), jnp.float32)

    params = {
        "stem": {"w": drawn(3, WIDTH)},
        "stack": {"w": drawn(DEPTH, WIDTH, WIDTH), "b": drawn(DEPTH, WIDTH)},
        "head": {"w": drawn(WIDTH, CLASSES)},
    }
    return Network(apply, params, name=how, preprocessing=PREPROCESSING)


SCANNED: dict[str, Callable[[], Network]] = {
    "nnx": cache(nnx_network),
    "linen": cache(linen_network),
}


@pytest.mark.parametrize("make", SCANNED.values(), ids=SCANNED)
def test_units_of_scanned_attention_are_those_of_every_depth(make: Callable[[], Network]) -> None:
    layers = make().layers
    assert list(layers)[0] == "stem" and list(layers)[-1] == "head"
    for name in ("query", "key", "value"):
        layer = layers[f"blocks/attn/{name}"]
        assert [(x.name, x.role, x.output_axes) for x in layer.leaves] == [
            ("kernel", "kernel", (0, 2, 3)),
            ("bias", "bias", (0, 1, 2)),
        ]
        assert layer.units == DEPTH * WIDTH and layer.depths == DEPTH and layer.loop == "scan"
    out = layers["blocks/attn/out"]
    assert (out.kernel and out.kernel.output_axes, out.units) == ((0, 3), DEPTH * WIDTH)
    assert {x.role for x in layers["blocks/norm"].leaves} == {"scale", "bias"}


@pytest.mark.parametrize("make", SCANNED.values(), ids=SCANNED)
def test_node_knockout_in_a_stack_silences_units(make: Callable[[], Network]) -> None:
    net = make()
    damaged = jr.perturb(net, "node_knockout", layer="blocks/attn/value", strength=0.5)
    leaves = dict(zip(leaf_paths(damaged), jax.tree.leaves(damaged), strict=True))
    (kernel,) = (np.asarray(x) for path, x in leaves.items() if path.endswith("attn/value/kernel"))
    silent = (kernel == 0).all(1)
    assert silent.sum() == DEPTH * WIDTH // 2 and (kernel == 0).sum() == silent.sum() * WIDTH


def test_kernels_that_are_put_together_keep_their_units() -> None:
    def apply(params: Any, images: Array) -> Array:
        both = jnp.concatenate([params["one"]["v"], params["two"]["v"]], 1)
        x = images.mean((1, 2)) @ both
        stack = jnp.stack([params[name]["v"] for name in ("three", "four")])
        x, _ = lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel.T), None), x, stack)
        return x @ params["head"]["w"]

    shapes = {"one": (3, 2), "two": (3, 4), "three": (6, 6), "four": (6, 6)}
    params = {name: {"v": jnp.ones(shape)} for name, shape in shapes.items()}
    params["head"] = {"w": jnp.ones((6, CLASSES))}
    layers = Network(apply, params, name="joined", preprocessing=PREPROCESSING).layers
    assert [layers[name].units for name in shapes] == [2, 4, 6, 6]
    found = [(layers[name].leaves[0].output_axes, layers[name].depths) for name in shapes]
    assert found == [((1,), 0), ((1,), 0), ((0,), 0), ((0,), 0)]
    assert not any(leaf.assumed for layer in layers.values() for leaf in layer.leaves)


def stacked_along_the_second_axis(params: Any, images: Array) -> Array:
    def turn(x: Array, one: Any) -> tuple[Array, None]:
        return jnp.tanh(x @ one["w"] + one["b"][None]), None

    # As `nnx.scan` with an axis that isn't the first: the axis is moved to the front.
    first = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), params["stack"])
    return lax.scan(turn, images.mean((1, 2)), first)[0] @ params["head"]


def with_turned_heads(params: Any, images: Array) -> Array:
    kernel = params["stack"]["w"].transpose(0, 2, 1)
    return (
        jnp.einsum("nd,dhk->nhk", images.mean((1, 2)), kernel) + params["stack"]["b"][None]
    ).sum(2) @ params["head"]


@pytest.mark.parametrize(
    ("apply", "shapes", "head"),
    [
        (stacked_along_the_second_axis, ((3, 4, 3), (3, 4)), 3),
        (with_turned_heads, ((3, 4, 5), (5, 4)), 5),
    ],
)
def test_units_are_numbered_alike_in_kernel_and_bias(
    apply: Callable, shapes: tuple[Any, Any], head: int
) -> None:
    random = np.random.default_rng(0)
    stack = {name: random.normal(2, 0.1, shape) for name, shape in zip("wb", shapes, strict=True)}
    params = {"stack": stack, "head": random.normal(0, 1, (head, CLASSES))}
    net = Network(apply, params, name="turned", preprocessing=PREPROCESSING)
    for seed in range(3):
        damaged = jr.perturb(net, "node_knockout", layer="stack", strength=0.4, seed=seed)["stack"]
        kernel, bias = np.asarray(damaged["w"]) == 0, np.asarray(damaged["b"]) == 0
        assert bias.sum() == int(0.4 * bias.size)
        # The kernel's second and third axes are the bias's second and first.
        np.testing.assert_array_equal(kernel, np.broadcast_to(bias.T[None], kernel.shape))


@pytest.mark.parametrize(
    "how",
    ["scan", "scan from zero", "indices", "fori", "while", "cond in scan", "unrolled", "unstacked"],
)
def test_a_stack_is_seen_however_it_is_run(how: str) -> None:
    layers = looped(how).layers
    assert list(layers) == ["stem", "stack", "head"]
    stack = layers["stack"]
    assert [(x.name, x.role, x.output_axes) for x in stack.leaves] == [
        ("w", "kernel", (0, 2)),
        ("b", "bias", (0, 1)),
    ]
    assert (stack.units, stack.depths, stack.uses) == (DEPTH * WIDTH, DEPTH, 1)
    assert not any(leaf.assumed for leaf in stack.leaves)
    assert (layers["stem"].depths, layers["head"].depths) == (0, 0)


def test_a_normalisation_in_a_loop_belongs_to_the_layer_before_it_there() -> None:
    def apply(params: Any, images: Array) -> Array:
        def layer(x: Array, one: Any) -> tuple[Array, None]:
            return jnp.tanh((x @ one["fc"]["w"]) * one["norm"]["scale"][None]), None

        x, _ = lax.scan(layer, images.mean((1, 2)) @ params["stem"]["w"], params["blocks"])
        return x @ params["head"]["w"]

    blocks = {"fc": {"w": jnp.ones((3, 4, 4))}, "norm": {"scale": jnp.ones((3, 4))}}
    # The stem has as many units as the normalisation: 12.
    params = {"stem": {"w": jnp.ones((3, 12))[:, :4]}, "blocks": blocks}
    params["head"] = {"w": jnp.ones((4, CLASSES))}
    layers = Network(apply, params, name="small", preprocessing=PREPROCESSING).layers
    assert [x.path for x in layers["blocks/fc"].normalisation] == ["blocks/norm/scale"]
    assert [x.path for x in layers["blocks/fc[1]"].normalisation] == ["blocks/norm/scale"]
    assert layers["stem"].normalisation == () and layers["head"].normalisation == ()


def test_one_entry_of_a_kernel_is_no_stack() -> None:
    def apply(params: Any, images: Array) -> Array:
        return images.mean((1, 2)) @ params["fc"]["w"][1]

    params = {"fc": {"w": jnp.ones((3, 3, CLASSES))}}
    layer = Network(apply, params, name="small", preprocessing=PREPROCESSING).layers["fc"]
    assert (layer.depths, layer.units) == (0, CLASSES)


DEPTHS = [("blocks/attn/query", 1), ("blocks/attn/value", 2), ("blocks/attn/out", 0)]


@pytest.mark.parametrize("make", SCANNED.values(), ids=SCANNED)
@pytest.mark.parametrize("name", ["synapse_knockout", "node_knockout", "weight_noise", "resample"])
def test_damage_of_one_depth_leaves_the_others_as_they_are(
    make: Callable[[], Network], name: str
) -> None:
    net = make()
    for layer, depth in DEPTHS:
        damaged = jr.perturb(net, name, layer=f"{layer}[{depth}]", strength=0.5, seed=3)
        touched = {leaf.path for leaf in net.layers[layer].leaves}
        changed = set()
        before = jax.tree.leaves(net.params)
        for path, old, new in zip(
            leaf_paths(damaged), before, jax.tree.leaves(damaged), strict=True
        ):
            old, new = np.asarray(old), np.asarray(new)
            if path in touched:
                changed |= {path} if (old[depth] != new[depth]).any() else set()
                old, new = np.delete(old, depth, 0), np.delete(new, depth, 0)
            np.testing.assert_array_equal(old, new)
        assert changed


def test_one_depth_is_damaged_as_if_it_were_alone() -> None:
    net = looped("scan")
    alone = {"stack[1]": jax.tree.map(lambda leaf: leaf[1], net.params["stack"])}
    for name in ("synapse_knockout", "node_knockout", "weight_noise", "resample"):
        whole = jr.perturb(net, name, layer="stack[1]", strength=0.5, seed=7)["stack"]
        expected = jr.perturb(alone, name, layer="stack[1]", strength=0.5, seed=7)["stack[1]"]
        jax.tree.map(np.testing.assert_array_equal, expected, jax.tree.map(lambda x: x[1], whole))
    described = jr.describe(net, "synapse_knockout", layer="stack[1]", strength=0.5)
    assert [row[2:] for row in described.rows] == [(64, 32, 32), (8, 4, 4)]


@pytest.mark.parametrize("how", ["scan", "unrolled"])
def test_a_sweep_of_single_depths_counts_what_perturb_gives(how: str, tmp_path: Path) -> None:
    net, source = looped(how), save(tmp_path / "images.npz")
    layers = {"one": "stack[1]", "two": ["stack[0]", "stack[2]"], "mixed": ["stack", "stack[2]"]}
    names = ["synapse_knockout", "weight_noise"]
    result = small_sweep(
        net, source, layers=layers, perturbations=names, strengths=[0.6, 1.0], blocks=False
    )
    batch, labels = net.prepare(source)
    for (group, chosen), name in ((item, name) for item in layers.items() for name in names):
        for strength in (0.6, 1.0):
            for seed in range(2):
                at = dict(layer=group, perturbation=name, strength=strength, seed=seed)
                damaged = jr.perturb(net, name, layer=chosen, strength=strength, seed=seed)
                right = (np.asarray(net.apply(damaged, batch)).argmax(1) == labels).sum()
                assert int(result["top1"].sel(at)) == right, at


def test_stacks_in_stacks_are_chosen_one_after_the_other() -> None:
    def apply(params: Any, images: Array) -> Array:
        def inner(x: Array, one: Array) -> tuple[Array, None]:
            return jnp.tanh(x @ one), None

        x = images.mean((1, 2))
        x, _ = lax.scan(lambda x, some: lax.scan(inner, x, some), x, params["stack"]["w"])
        return x @ params["head"]["w"]

    random = np.random.default_rng(0)
    params = {"stack": {"w": random.normal(0, 1, (2, 4, 3, 3))}, "head": {"w": np.ones((3, 7))}}
    net = Network(apply, params, name="nested", preprocessing=PREPROCESSING)
    assert (net.layers["stack"].units, net.layers["stack[1]"].units) == (24, 12)
    assert net.layers["stack[1][2]"].units == 3 and net.layers["stack[1][2]"].depths == 0
    damaged = jr.perturb(net, "weight_noise", layer="stack[1][2]", strength=1)["stack"]["w"]
    changed = np.asarray(damaged) != net.params["stack"]["w"]
    assert changed[1, 2].all() and changed.sum() == 9


LAYERS = looped("scan").layers
ATTENTION = SCANNED["nnx"]().layers


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("stack", ["stack"]),
        ("stack[1]", ["stack[1]"]),
        ("stack[*]", ["stack[0]", "stack[1]", "stack[2]"]),
        (["stack[2]", "head"], ["stack[2]", "head"]),
        ("all", ["stem", "stack", "head"]),
        ("s*[0]", ["stack[0]"]),
        ("st[ae]m", ["stem"]),
    ],
)
def test_selectors_of_depths(selector: Any, found: list[str]) -> None:
    assert list(select(LAYERS, selector)) == found


def test_selectors_of_one_depth_of_many_layers() -> None:
    names = [f"blocks/attn/{name}[1]" for name in ("query", "key", "value", "out")]
    assert list(select(ATTENTION, "blocks/attn/*[1]")) == names
    assert select(ATTENTION, {"second": "blocks/*[1]"}) == {"second": tuple(names)}


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("stack[3]", "layer stack has no depth [3]: it is a stack of 3 layers, [0] to [2]"),
        ("stack[-1]", "layer stack has no depth [-1]: it is a stack of 3"),
        ("head[0]", "layer head has no depth [0]: it is no stack"),
        ("head[*]", "layer head has no depth [0]"),
        ("stack[1][0]", "layer stack[1] has no depth [0]: it is no stack"),
        ("stuck[1]", "unknown layer 'stuck[1]': did you mean stack"),
    ],
)
def test_depths_that_are_not_there_are_refused(selector: str, message: str) -> None:
    assert message in refusal(select, LAYERS, selector)


def test_the_table_says_what_is_a_stack() -> None:
    assert "stack of 3; inside scan: not hoisted" in repr(NETWORKS["looped"]().layers)
    assert "stack[1]" in LAYERS and "stack[3]" not in LAYERS and list(LAYERS)[1] == "stack"
    assert LAYERS["stack[1]"] is LAYERS["stack[1]"]


def test_parameters_alone_say_nothing_of_stacks() -> None:
    table = layer_table(looped("scan").params)
    assert "is no stack" in refusal(select, table, "stack[1]")
