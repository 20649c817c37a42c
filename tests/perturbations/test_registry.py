"""What must hold for every perturbation in the registry, whatever the layer, strength and seed."""

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec
from scipy import stats

import jaxrobust as jr
from jaxrobust.layers import Layer, layer_table
from jaxrobust.perturbations import REGISTRY, Perturbation, damage, draw
from jaxrobust.perturbations.trials import trial_key

KNOCKOUTS = ("synapse_knockout", "node_knockout", "unit_silencing")
COUNTED = (*KNOCKOUTS, "resample")

# Kernel shapes; the bias has one entry per output. The last two are long enough for the keyed
# bijection, one of them of a length with no good factors.
SHAPES = {
    "dense": (7, 10),
    "one output": (12, 1),
    "convolution": (3, 3, 4, 6),
    "volume": (2, 2, 2, 3, 4),
    "long": (53, 61),
    "longer": (64, 100),
}


@lru_cache
def params(shape: str) -> dict[str, dict[str, jax.Array]]:
    random = np.random.default_rng(0)
    size = SHAPES[shape]
    return {
        "layer": {
            "kernel": jnp.asarray(random.normal(1, 1, size), jnp.float32),
            "bias": jnp.asarray(random.normal(1, 1, size[-1]), jnp.float32),
        },
        "other": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
    }


@lru_cache
def layer_of(shape: str) -> Layer:
    return layer_table(params(shape))["layer"]


def damaged(name: str, shape: str, strength: Any, seed: int) -> dict[str, np.ndarray]:
    """The damaged leaves by the public function, identity included."""
    tree = jr.perturb(params(shape), name, layer="layer", strength=strength, seed=seed)
    return {leaf: np.asarray(value) for leaf, value in tree["layer"].items()}


def undamaged(shape: str) -> dict[str, np.ndarray]:
    return {leaf: np.asarray(value) for leaf, value in params(shape)["layer"].items()}


def programs(
    name: str, shape: str, strength: Decimal, seed: int
) -> tuple[Perturbation, dict, Any, dict]:
    """The arguments with which `apply` is called for one trial."""
    p, layer = REGISTRY[name], layer_of(shape)
    noise = jax.tree.map(lambda rows: rows[0], draw(p, [layer], 0, np.asarray([seed]))[0])
    leaves = {leaf.path: leaf.value for leaf in p.leaves(layer)}
    amounts = {
        path: np.uint32(amount) if isinstance(amount, int) else np.float32(amount)
        for path, amount in p.amount(layer, strength).items()
    }
    return p, leaves, noise, amounts


names = pytest.mark.parametrize("name", REGISTRY)
shapes = st.sampled_from(sorted(SHAPES))
seeds = st.integers(0, 2**32 - 1)
strengths = st.decimals(0, 1, places=3)


@names
@given(shape=shapes, seed=seeds)
def test_identity_to_the_bit(name: str, shape: str, seed: int) -> None:
    p, leaves, noise, amounts = programs(name, shape, Decimal(str(REGISTRY[name].identity)), seed)
    after = jax.jit(p.apply)(leaves, noise, amounts)
    for path, leaf in leaves.items():
        assert np.array_equal(after[path], leaf)
    tree = jr.perturb(params(shape), name, layer="layer", strength=p.identity, seed=seed)
    for before, same in zip(jax.tree.leaves(params(shape)), jax.tree.leaves(tree), strict=True):
        assert before is same


@names
@given(shape=shapes, strength=strengths, seed=seeds)
def test_other_leaves_are_the_same_objects(
    name: str, shape: str, strength: Decimal, seed: int
) -> None:
    tree = jr.perturb(params(shape), name, layer="layer", strength=strength, seed=seed)
    for leaf, value in params(shape)["other"].items():
        assert tree["other"][leaf] is value
    for leaf, value in params(shape)["layer"].items():
        assert tree["layer"][leaf].dtype == value.dtype
        assert tree["layer"][leaf].shape == value.shape


@pytest.mark.parametrize("name", KNOCKOUTS)
@given(shape=shapes, seed=seeds)
def test_full_knockout_is_all_zeros(name: str, shape: str, seed: int) -> None:
    for leaf in damaged(name, shape, 1, seed).values():
        assert not leaf.any()


@pytest.mark.parametrize("name", ["synapse_knockout", "resample"])
@given(shape=shapes, strength=strengths, seed=seeds)
def test_entry_counts_are_exact(name: str, shape: str, strength: Decimal, seed: int) -> None:
    after = damaged(name, shape, strength, seed)
    for leaf, before in undamaged(shape).items():
        wanted = int(Fraction(strength) * before.size)
        changed = int((after[leaf] != before).sum())
        if name == "synapse_knockout":
            assert changed == wanted
        else:  # an entry may be given its own value
            assert wanted - 10 - wanted // 10 <= changed <= wanted


@pytest.mark.parametrize("name", ["node_knockout", "unit_silencing"])
@given(shape=shapes, strength=strengths, seed=seeds)
def test_unit_counts_are_exact_and_the_same_for_kernel_and_bias(
    name: str, shape: str, strength: Decimal, seed: int
) -> None:
    before, after = undamaged(shape), damaged(name, shape, strength, seed)
    gone = after["bias"] == 0
    assert gone.sum() == int(Fraction(strength) * gone.size)
    assert not after["kernel"][..., gone].any()
    assert np.array_equal(after["kernel"][..., ~gone], before["kernel"][..., ~gone])


@pytest.mark.parametrize(
    ("strength", "entries", "count"),
    [(0.7, 10, 7), (0.29, 100, 29), (0.57, 100, 57), (0.7, 37_748_736, 26_424_115)],
)
def test_counts_are_those_of_decimal_arithmetic(strength: float, entries: int, count: int) -> None:
    shape = jax.ShapeDtypeStruct((entries,), np.float32)
    layer = layer_table({"flat": {"bias": shape}})["flat"]
    from jaxrobust.perturbations import decimal

    for value in (strength, str(strength), np.float32(strength), np.float64(strength)):
        assert REGISTRY["synapse_knockout"].amount(layer, decimal(value)) == {"flat/bias": count}


@pytest.mark.parametrize("name", COUNTED)
@given(shape=shapes, pair=st.tuples(strengths, strengths).map(sorted), seed=seeds)
def test_knockouts_nest(name: str, shape: str, pair: list[Decimal], seed: int) -> None:
    before = undamaged(shape)
    less, more = (damaged(name, shape, strength, seed) for strength in pair)
    for leaf in before:
        changed = less[leaf] != before[leaf]
        assert np.array_equal(more[leaf][changed], less[leaf][changed])


@given(shape=shapes, strength=st.floats(0.01, 5), seed=seeds)
def test_noise_is_one_direction_scaled(shape: str, strength: float, seed: int) -> None:
    before = undamaged(shape)
    one = damaged("weight_noise", shape, 1.0, seed)
    other = damaged("weight_noise", shape, strength, seed)
    for leaf, value in before.items():
        direction = (one[leaf] - value).astype(np.float64)
        tolerance = 1e-5 * (1 + strength) * np.abs(value).max()
        np.testing.assert_allclose(other[leaf] - value, strength * direction, atol=tolerance)


def test_noise_is_standard_normal_times_the_standard_deviation() -> None:
    before = undamaged("longer")["kernel"]
    drawn = np.concatenate(
        [
            (damaged("weight_noise", "longer", 0.5, seed)["kernel"] - before).ravel()
            for seed in range(5)
        ]
    ) / (0.5 * before.astype(np.float64).std())
    assert stats.kstest(drawn, "norm").pvalue > 1e-3


def test_noise_leaves_a_constant_leaf_alone() -> None:
    constant = {"layer": {"kernel": jnp.full((3, 4), 0.1), "bias": jnp.zeros(4)}}
    after = jr.perturb(constant, "weight_noise", layer="layer", strength=2)
    for leaf, value in constant["layer"].items():
        assert np.array_equal(after["layer"][leaf], value)


def test_resample_takes_values_without_replacement_from_the_undamaged_leaf() -> None:
    before = undamaged("longer")["kernel"].ravel()
    full = damaged("resample", "longer", 1, 0)["kernel"].ravel()
    assert np.array_equal(np.sort(full), np.sort(before))
    half = damaged("resample", "longer", 0.5, 0)["kernel"].ravel()
    taken = half[half != before]
    assert len(np.unique(taken)) == len(taken)
    assert np.isin(taken, before).all()


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("shape", ["dense", "long"])
def test_what_is_chosen_is_uniform(name: str, shape: str) -> None:
    layer, p, draws = layer_of(shape), REGISTRY[name], 600
    noise = draw(p, [layer], 0, np.arange(draws))[0]["layer/kernel"]
    ranks = np.asarray(noise[0] if name == "resample" else noise).reshape(draws, -1)
    n = ranks.shape[1]
    chosen = (ranks < n // 3).sum(0)
    expected = draws * (n // 3) / n
    # Without replacement the counts of one draw add up to n // 3: variance (1 - p), n - 1 free.
    statistic = ((chosen - expected) ** 2).sum() / (expected * (1 - n // 3 / n)) * (n - 1) / n
    assert 1e-4 < stats.chi2.sf(statistic, n - 1) < 1 - 1e-4


@pytest.mark.parametrize("name", [n for n, p in REGISTRY.items() if p.draw])
def test_draws_of_layers_seeds_and_roots_are_independent(name: str) -> None:
    p, layer = REGISTRY[name], layer_of("longer")
    renamed = layer_table({"twin": params("longer")["layer"]})["twin"]

    def flat(layer: Layer, root: int, seed: int) -> np.ndarray:
        first = jax.tree.leaves(draw(p, [layer], root, np.asarray([seed])))[-1]
        return np.asarray(first, np.float64).ravel()

    draws = [flat(layer, 0, 0), flat(layer, 0, 1), flat(layer, 1, 0), flat(renamed, 0, 0)]
    for index, one in enumerate(draws):
        for other in draws[:index]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 4.5 / np.sqrt(len(one))


@pytest.mark.parametrize("name", [n for n, p in REGISTRY.items() if p.draw])
def test_a_draw_depends_on_nothing_else(name: str) -> None:
    """More layers, more leaves, other strengths and seeds beside it change no draw."""
    alone = damaged(name, "dense", 0.5, 3)
    grown = params("dense") | {"a new one": {"kernel": jnp.ones((4, 4))}}
    tree = jr.perturb(grown, name, layer="layer", strength=0.5, seed=3)
    for leaf, value in alone.items():
        assert np.array_equal(tree["layer"][leaf], value)
    if name in ("synapse_knockout", "weight_noise", "resample"):
        more = {"layer": params("dense")["layer"] | {"extra": jnp.ones((3, 2))}}
        tree = jr.perturb(more, name, layer="layer", strength=0.5, seed=3)
        for leaf, value in alone.items():
            assert np.array_equal(tree["layer"][leaf], value)


def test_the_first_draws_have_not_changed() -> None:
    """Published results name a root and a seed: these numbers must hold for ever."""
    key = jax.random.key_data(trial_key(0, "synapse_knockout", "conv1", 7))
    assert key.tolist() == GOLDEN_KEY
    ranks = draw(REGISTRY["synapse_knockout"], [layer_of("dense")], 0, np.asarray([0]))[0]
    assert np.asarray(ranks["layer/bias"])[0].tolist() == GOLDEN_SHORT
    ranks = draw(REGISTRY["synapse_knockout"], [layer_of("longer")], 0, np.asarray([0]))[0]
    assert np.asarray(ranks["layer/kernel"])[0, 0, :6].tolist() == GOLDEN_LONG


GOLDEN_KEY = [701446333, 1093466303]
GOLDEN_SHORT = [9, 2, 3, 8, 1, 7, 6, 0, 5, 4]
GOLDEN_LONG = [2148, 5663, 4502, 2299, 5389, 2316]


@pytest.mark.parametrize("name", [n for n, p in REGISTRY.items() if p.is_built_in])
def test_the_numbers_of_a_built_in_perturbation_change_only_with_its_version(name: str) -> None:
    """Run folders of an earlier version are refused, so that old and new trials are not mixed."""
    found = []
    for shape in ("dense", "longer"):
        after = damaged(name, shape, 0.3, 3)
        for leaf in sorted(after):
            values = after[leaf].astype(np.float64).ravel()
            found.append(values @ np.cos(np.arange(values.size)))
    np.testing.assert_allclose(found, NUMBERS[name, REGISTRY[name].version], rtol=1e-4)


# By name and version. When numbers are meant to change, the version has to change with them.
NUMBERS: dict[tuple[str, int | None], list[float]] = {
    ("synapse_knockout", 1): [-5.1262, -6.14893, 7.95939, 27.6567],
    ("node_knockout", 1): [-3.98328, 1.25784, -0.985807, -76.0631],
    ("unit_silencing", 1): [-0.179671, 0.183973, 1.1833, -16.0347],
    ("weight_noise", 1): [-0.531427, -0.537011, 6.18811, -3.40665],
    ("resample", 1): [-2.21137, -0.655023, -5.96928, -69.0913],
}


def _lax_map(p: Perturbation) -> Callable:
    return jax.jit(
        lambda leaves, noise, amounts: jax.lax.map(
            lambda each: p.apply(leaves, *each), (noise, amounts)
        )
    )


def _vmap(p: Perturbation) -> Callable:
    return jax.jit(jax.vmap(p.apply, in_axes=(None, 0, 0)))


def _shard_map(p: Perturbation) -> Callable:
    mesh = jax.make_mesh((2,), ("trial",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere, split = PartitionSpec(), PartitionSpec("trial")
    return jax.jit(
        jax.shard_map(
            jax.vmap(p.apply, in_axes=(None, 0, 0)),
            mesh=mesh,
            in_specs=(everywhere, split, split),
            out_specs=split,
        )
    )


@names
@pytest.mark.parametrize("shape", ["dense", "convolution", "longer"])
@pytest.mark.parametrize("way", [_vmap, _lax_map, _shard_map])
def test_transformations_agree_with_the_plain_call_to_the_bit(
    name: str, shape: str, way: Callable
) -> None:
    p, leaves, noise, amounts = programs(name, shape, Decimal("0.4"), 5)
    _, _, other_noise, other_amounts = programs(name, shape, Decimal("0.7"), 6)
    plain = jax.jit(p.apply)
    expected = [plain(leaves, noise, amounts), plain(leaves, other_noise, other_amounts)]
    stacked = jax.tree.map(
        lambda a, b: jnp.stack([jnp.asarray(a), jnp.asarray(b)]),
        (noise, amounts),
        (other_noise, other_amounts),
    )
    found = way(p)(leaves, *stacked)
    for path in leaves:
        for trial in range(2):
            assert np.array_equal(found[path][trial], expected[trial][path])
    eager = p.apply(leaves, noise, amounts)
    for path in leaves:
        np.testing.assert_allclose(eager[path], expected[0][path], rtol=1e-6, atol=1e-6)


@names
def test_perturb_works_under_jit_vmap_and_grad(name: str) -> None:
    tree = params("dense")

    def perturbed(tree: Any, seed: Any) -> Any:
        return jr.perturb(tree, name, layer="layer", strength=0.5, seed=seed)["layer"]

    rows = jax.jit(jax.vmap(perturbed, in_axes=(None, 0)))(tree, jnp.arange(3))
    for seed in range(3):
        for leaf, value in perturbed(tree, seed).items():
            np.testing.assert_allclose(rows[leaf][seed], value, rtol=1e-5, atol=1e-6)
    slope = jax.grad(lambda tree: perturbed(tree, 0)["kernel"].sum())(tree)["layer"]["kernel"]
    if name in KNOCKOUTS:
        kept = damaged(name, "dense", 0.5, 0)["kernel"] != 0
        assert np.array_equal(np.asarray(slope), kept.astype(np.float32))
    else:
        assert np.isfinite(slope).all() and slope.sum() > 0


@names
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_leaves_keep_their_type(name: str, dtype: Any) -> None:
    tree = jax.tree.map(lambda leaf: leaf.astype(dtype), params("dense"))
    after = jr.perturb(tree, name, layer="layer", strength=0.5)["layer"]
    assert after["kernel"].dtype == dtype
    assert not np.array_equal(after["kernel"], tree["layer"]["kernel"])


def test_several_trials_of_one_call_equal_single_ones() -> None:
    p, layer = REGISTRY["weight_noise"], layer_of("longer")
    noise = draw(p, [layer], 0, np.arange(3))
    strengths = [Decimal("0.1"), Decimal("0.9"), Decimal("1.7")]
    rows = damage(p, [layer], noise, np.asarray([2, 0, 1], np.int32), strengths)
    for position, (seed, strength) in enumerate(zip((2, 0, 1), strengths, strict=True)):
        alone = damaged("weight_noise", "longer", strength, seed)
        assert np.array_equal(rows["layer/kernel"][position], alone["kernel"])
