"""Digests of what functions compute: blind to how they are written, not to what they do."""

import dataclasses
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax
from jax.experimental import pallas
from networks_for_tests import NETWORKS

from jaxrobust.program.digests import digest, digest_of, digest_of_program

X = jax.ShapeDtypeStruct((4, 6), jnp.float32)
IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
KERNEL = jax.ShapeDtypeStruct((3, 3, 3, 6), jnp.float32)
NUMBERS = ("NHWC", "HWIO", "NHWC")


def first(x: Array) -> Array:
    scaled = jnp.tanh(x) * 2.0
    shifted = x + 3.0
    return (scaled - shifted).sum(1)


def renamed(values: Array) -> Array:
    """The same with other names, in another order, with something that nobody needs."""
    nobody_reads = jnp.exp(values)  # noqa: F841

    moved = values + 3.0
    return (jnp.tanh(values) * 2.0 - moved).sum(1)


@jax.jit
def in_parts(x: Array) -> Array:
    half = jax.jit(lambda x: jnp.tanh(x) * 2.0)
    return (jax.checkpoint(half)(x) - (x + 3.0)).sum(1)


def with_arrays(x: Array) -> Array:
    two = np.float32(2)
    return (jnp.tanh(x) * two - (x + jnp.float32(3))).sum(1)


def printing(x: Array) -> Array:
    jax.debug.print("{}", x.sum())
    return first(x)


SAME = [renamed, in_parts, with_arrays, printing, functools.partial(first)]


@pytest.mark.parametrize("same", SAME)
def test_how_a_function_is_written_does_not_matter(same: Callable) -> None:
    assert digest_of(same, X) == digest_of(first, X)


def test_where_a_function_lies_does_not_matter(tmp_path: Path) -> None:
    text = "import jax.numpy as jnp\ndef f(x):\n    return jnp.tanh(x) * 2.0 - x\n"
    moved = "'''Elsewhere.'''\nimport jax.numpy as jnp\n\n\n\n\n" + text.partition("\n")[2]
    digests = set()
    for number, source in enumerate((text, moved)):
        file = tmp_path / f"file{number}.py"
        file.write_text(source)
        found: dict[str, Any] = {}
        exec(compile(source, str(file), "exec"), found)
        digests.add(digest_of(found["f"], X))
    assert len(digests) == 1


# Functions of a number, everything else being the same, and two of these numbers.
def _literal(n: float) -> Callable:
    return lambda x: x * n


def _closed_over(n: float) -> Callable:
    table = jnp.arange(6.0).at[3].set(n)
    return lambda x: x + table[None]


def _numpy(n: float) -> Callable:
    table = np.full((1, 6), n, np.float32)
    return lambda x: x + table


def _in_scan(n: float) -> Callable:
    return lambda x: lax.scan(lambda carry, row: (carry * n + row, None), jnp.zeros(6), x)[0]


def _table_in_scan(n: float) -> Callable:
    table = jnp.full(6, n)
    return lambda x: lax.scan(lambda carry, row: (carry + row * table, None), jnp.zeros(6), x)[0]


def _in_while(n: float) -> Callable:
    return lambda x: lax.while_loop(lambda x: x.sum() < n, lambda x: x + 1.0, x)


def _in_cond(n: float) -> Callable:
    return lambda x: lax.cond(x.sum() > 0, lambda x: x * n, lambda x: x, x)


def _in_jit(n: float) -> Callable:
    return lambda x: jax.jit(jax.checkpoint(lambda x: x - n))(x)


def _in_custom_jvp(n: float) -> Callable:
    @jax.custom_jvp
    def own(x: Array) -> Array:
        return jnp.sin(x) * n

    own.defjvp(lambda primals, tangents: (own(*primals), tangents[0]))
    return own


def _in_custom_vjp(n: float) -> Callable:
    @jax.custom_vjp
    def own(x: Array) -> Array:
        return jnp.sin(x) * n

    own.defvjp(lambda x: (own(x), None), lambda _, g: (g,))
    return lambda x: jax.jit(own)(x)


def _deep(n: float) -> Callable:
    inner = _in_custom_jvp(n)

    def step(carry: Array, row: Array) -> tuple[Array, None]:
        return lax.cond(row[0] > 0, lambda c: jax.jit(inner)(c), lambda c: c, carry), None

    return lambda x: lax.scan(step, jnp.zeros(6), x)[0]


def _dtype(n: float) -> Callable:
    return lambda x: x.astype([jnp.bfloat16, jnp.float16][int(n)]).astype(jnp.float32)


def _shape(n: float) -> Callable:
    return lambda x: jnp.broadcast_to(x.sum(), (int(n) + 2,))


def _axis(n: float) -> Callable:
    return lambda x: x[:4, :4].sum(int(n))


def _sorted(n: float) -> Callable:
    return lambda x: x[:4, :4].sort(int(n))


def _random(n: float) -> Callable:
    return lambda x: x + jax.random.normal(jax.random.key(int(n)), x.shape)


def _key(n: float) -> Callable:
    key = jax.random.key(int(n))
    return lambda x: x + jax.random.normal(key, x.shape)


def _generator(n: float) -> Callable:
    kind = ["threefry2x32", "rbg"][int(n)]
    return lambda x: x + jax.random.normal(jax.random.key(0, impl=kind), x.shape)


def _scattered(n: float) -> Callable:
    way = ["add", "multiply"][int(n)]
    return lambda x: getattr(x.at[0], way)(2.0)


def _called_back(n: float) -> Callable:
    def on_host(x: Any) -> Any:
        return np.asarray(x) * np.float32(n)

    return lambda x: jax.pure_callback(on_host, X, x)


def _written(n: float) -> Callable:
    def kept(x: Array) -> Array:
        memory = jax.new_ref(x)
        memory[0] = memory[1] * n
        return memory[...]

    return kept


def _kernel(n: float) -> Callable:
    def multiplied(x: Any, y: Any) -> None:
        y[...] = x[...] * n

    return pallas.pallas_call(multiplied, out_shape=X, interpret=True)


def _precision(n: float) -> Callable:
    precision = [lax.Precision.DEFAULT, lax.Precision.HIGHEST][int(n)]
    return lambda x: jnp.matmul(x, x.T, precision=precision)


ANY = [
    _literal,
    _closed_over,
    _numpy,
    _in_scan,
    _table_in_scan,
    _in_while,
    _in_cond,
    _in_jit,
    _in_custom_jvp,
    _in_custom_vjp,
    _deep,
    _dtype,
    _shape,
    _axis,
    _sorted,
    _random,
    _key,
    _generator,
    _scattered,
    _called_back,
    _written,
    _kernel,
    _precision,
]


@pytest.mark.parametrize("make", ANY)
def test_a_changed_number_changes_the_digest_wherever_it_hides(make: Callable) -> None:
    assert digest_of(make(0.0), X) == digest_of(make(0.0), X)
    assert digest_of(make(0.0), X) != digest_of(make(1.0), X)


@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (2, 1)},
        {"padding": "VALID"},
        {"rhs_dilation": (2, 2)},
        {"dimension_numbers": ("NWHC", "HWIO", "NWHC")},
        {"precision": "highest"},
    ],
)
def test_every_parameter_of_a_convolution_counts(options: dict[str, Any]) -> None:
    usual: dict[str, Any] = dict(
        window_strides=(1, 1), padding="SAME", dimension_numbers=NUMBERS, rhs_dilation=(1, 1)
    )

    def convolved(images: Array, kernel: Array, **changed: Any) -> Array:
        return lax.conv_general_dilated(images, kernel, **{**usual, **changed})

    plain = digest_of(convolved, IMAGES, KERNEL)
    assert digest_of(functools.partial(convolved, **options), IMAGES, KERNEL) != plain


def test_the_shapes_and_names_of_arguments_and_results_count() -> None:
    wider, halves = jax.ShapeDtypeStruct((4, 7), jnp.float32), jax.ShapeDtypeStruct(X.shape, "f2")
    assert len({digest_of(jnp.abs, kind) for kind in (X, wider, halves)}) == 3
    assert digest_of(lambda x: {"a": x}, X) != digest_of(lambda x: {"b": x}, X)
    assert digest_of(lambda x: (x, -x), X) != digest_of(lambda x: (-x, x), X)
    assert digest_of(lambda x, y: x - y, X, X) != digest_of(lambda x, y: y - x, X, X)


def test_a_number_that_is_not_part_of_the_function_is_read_anew() -> None:
    scale = [2.0]

    def scaled(x: Array) -> Array:
        return x * scale[0]

    before = digest_of(scaled, X)
    scale[0] = 3.0
    assert digest_of(scaled, X) != before


def test_every_network_has_a_digest_of_its_own_whatever_its_weights() -> None:
    networks = [NETWORKS[name]() for name in ("chain", "skip", "nested", "tied", "looped", "wide")]
    digests = [digest_of_program(net.program(2)) for net in networks]
    assert len(set(digests)) == len(networks)
    for net, found in zip(networks, digests, strict=True):
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), net.params)
        assert digest_of_program(dataclasses.replace(net, params=zeros).program(2)) == found


def test_plain_values_are_told_apart() -> None:
    values = [0, 1, 1.0, True, None, "1", b"1", (1,), (1, 1), {"a": 1}, {"a": 2}, 1e-300]
    values += [np.float32(1), np.float64(1), np.ones(1, np.float32), np.ones((1, 1), np.float32)]
    assert len({digest(value) for value in values}) == len(values)
    assert digest({"a": 1, "b": {3, 1, 2}}) == digest({"b": {2, 3, 1}, "a": 1})


_IN_ANOTHER_PROCESS = """
import jax
jax.config.update("jax_numpy_dtype_promotion", "strict")
from test_digests import ANY, X, digest_of
print(*[digest_of(make(1.0), X) for make in ANY])
"""


def test_a_digest_is_the_same_in_every_process() -> None:
    here = [digest_of(make(1.0), X) for make in ANY]
    done = subprocess.run(
        [sys.executable, "-c", _IN_ANOTHER_PROCESS],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "helpers")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == here
