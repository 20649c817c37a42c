"""The engine against a loop written without it: perturb the tree, run the network, count."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np
import pytest
import xarray
from networks_for_tests import CLASSES, NETWORKS, SIDE

import jaxrobust as jr
from jaxrobust.execution import plan
from jaxrobust.perturbations import REGISTRY

STRENGTHS = (0, 0.3, 0.75)
SEEDS = 2


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> jr.ImageSource:
    """37 random images: no whole number of any block."""
    path = tmp_path_factory.mktemp("images") / "random.npz"
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (37, SIDE, SIDE, 3), np.uint8)
    np.savez(path, images=images, labels=random.permutation(np.arange(37) % CLASSES))
    return jr.images(f"npz:{path}")


def count_by_hand(logits: np.ndarray, labels: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """The published definitions, one image after the other."""
    top1 = top5 = changed = 0
    loss = 0.0
    for row, label, undamaged in zip(logits.astype(np.float64), labels, clean, strict=True):
        order = sorted(range(len(row)), key=lambda k: (-row[k], k))
        top1 += order[0] == label
        top5 += label in order[:5]
        changed += order[0] != int(np.argmax(undamaged))
        loss -= row[label] - np.log(np.exp(row - row.max()).sum()) - row.max()
    return dict(images=len(labels), top1=top1, top5=top5, changed=changed, loss=loss, nonfinite=0)


@lru_cache
def forward(network: str) -> tuple[jr.Network, Callable]:
    net = NETWORKS[network]()
    return net, jax.jit(net.apply)


@lru_cache
def brute_force(network: str, source: jr.ImageSource, name: str, layer: str) -> list[dict]:
    net, apply = forward(network)
    batch, labels = net.prepare(source)
    rows = []
    with jax.default_matmul_precision("highest"):
        clean = np.asarray(apply(net.params, batch))
        for strength in STRENGTHS:
            for seed in range(SEEDS):
                damaged = jr.perturb(net, name, layer=layer, strength=strength, seed=seed)
                logits = np.asarray(apply(damaged, batch))
                rows.append(count_by_hand(logits, labels, clean))
    return rows


def check(result: xarray.Dataset, network: str, source: jr.ImageSource, names: list[str]) -> None:
    for name in names:
        for layer in result.layer.values:
            expected = iter(brute_force(network, source, name, str(layer)))
            for strength in STRENGTHS:
                for seed in range(SEEDS):
                    found = result.sel(perturbation=name, layer=layer, strength=strength, seed=seed)
                    by_hand = next(expected)
                    for quantity in ("images", "top1", "top5", "changed", "nonfinite"):
                        where = (name, layer, strength, seed, quantity)
                        assert int(found[quantity]) == by_hand[quantity], where
                    np.testing.assert_allclose(float(found["loss"]), by_hand["loss"], rtol=1e-5)


EVERY_NETWORK = pytest.mark.parametrize(
    "network",
    [pytest.param(n, marks=pytest.mark.slow) if n == "wide" else n for n in NETWORKS],
)


@EVERY_NETWORK
def test_sweep_counts_what_a_loop_counts(network: str, source: jr.ImageSource) -> None:
    net, _ = forward(network)
    names = ["synapse_knockout", "weight_noise"]
    result = jr.sweep(net, source, perturbations=names, strengths=STRENGTHS, seeds=SEEDS, block=10)
    assert list(result.layer.values) == [n for n, x in net.layers.items() if x.kernel is not None]
    check(result, network, source, names)


@EVERY_NETWORK
def test_a_network_in_one_piece_is_one_program_for_all_layers(
    network: str, source: jr.ImageSource, monkeypatch: pytest.MonkeyPatch, recorded: Callable
) -> None:
    monkeypatch.setattr(plan, "_WORTH_SEGMENTS", 2**60)
    programs = set()
    recorded(lambda name, program, _: programs.add(program) if name == "made" else None)
    net, _ = forward(network)
    result = jr.sweep(net, source, perturbations=["weight_noise"], strengths=STRENGTHS, seeds=SEEDS)
    assert len(result.layer) >= 2
    # One for the sweep's images, and those with which the network is checked.
    assert len(programs) <= 3
    check(result, network, source, ["weight_noise"])


def test_every_perturbation_counts_what_a_loop_counts(source: jr.ImageSource) -> None:
    net, _ = forward("normalised")
    with pytest.warns(UserWarning, match="node_knockout on conv1: .* unit_silencing"):
        result = jr.sweep(
            net,
            source,
            perturbations=list(REGISTRY),
            layers=["conv1", "norm1", "fc"],
            strengths=STRENGTHS,
            seeds=SEEDS,
            block=16,
        )
    check(result, "normalised", source, list(REGISTRY))


def test_a_layer_damaged_with_its_normalisation_counts_what_a_loop_counts(
    source: jr.ImageSource,
) -> None:
    net, apply = forward("normalised")
    names = ["weight_noise", "node_knockout"]
    group = {"both": ["conv1", "norm1"]}
    with pytest.warns(UserWarning, match="unit_silencing"):
        result = jr.sweep(net, source, perturbations=names, layers=group, strengths=[0.5], seeds=2)
    batch, labels = net.prepare(source)
    with jax.default_matmul_precision("highest"):
        clean = np.asarray(apply(net.params, batch))
        for name in names:
            for seed in range(2):
                damaged = jr.perturb(net, name, layer=group["both"], strength=0.5, seed=seed)
                by_hand = count_by_hand(np.asarray(apply(damaged, batch)), labels, clean)
                found = result.sel(perturbation=name, layer="both", strength=0.5, seed=seed)
                for quantity in ("top1", "top5", "changed"):
                    assert int(found[quantity]) == by_hand[quantity], (name, seed, quantity)
                np.testing.assert_allclose(float(found["loss"]), by_hand["loss"], rtol=1e-5)


WAYS = {
    "one block": (64, jr.Options()),
    "single images": (1, jr.Options(images_per_step=1)),
    "blocks together": (5, jr.Options(images_per_step=20)),
    "parts of a block": (20, jr.Options(images_per_step=5)),
    "steps across blocks": (8, jr.Options(images_per_step=11)),
    "one trial at a time": (10, jr.Options(trials_per_step=1)),
    "padded trials": (10, jr.Options(trials_per_step=3)),
    "more trials than there are": (10, jr.Options(trials_per_step=64)),
    "no sharing": (10, jr.Options(share=False)),
    "no sharing, padded trials": (10, jr.Options(share=False, trials_per_step=3)),
    "no hoisting": (10, jr.Options(hoist=False)),
    "next to no memory": (10, jr.Options(memory=2**20)),
}


@pytest.mark.parametrize("way", WAYS)
def test_counts_do_not_depend_on_how_it_is_run(way: str, source: jr.ImageSource) -> None:
    block, options = WAYS[way]
    net, _ = forward("branches")
    names = ["synapse_knockout", "node_knockout", "weight_noise"]
    result = jr.sweep(
        net,
        source,
        perturbations=names,
        layers=["stem", "right"],
        strengths=STRENGTHS,
        seeds=SEEDS,
        block=block,
        options=options,
    )
    check(result, "branches", source, names)


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize(("width", "devices"), [(1, 1), (2, 4), (5, 1)])
def test_damaged_weights_equal_those_of_perturb_to_the_bit(
    name: str, width: int, devices: int, source: jr.ImageSource, record_leaves: Callable
) -> None:
    net, _ = forward("chain")
    with jax.default_device(None):
        seen = record_leaves(net, source, name, width, devices)
    assert len(seen) == 2 * 3
    for (strength, seed), leaves in seen.items():
        damaged = jr.perturb(net, name, layer="conv2", strength=strength, seed=seed)
        for leaf, path in (("w", "conv2/w"), ("b", "conv2/b")):
            assert np.array_equal(leaves[path], damaged["conv2"][leaf]), (strength, seed, path)


@pytest.fixture
def record_leaves(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Runs a sweep and collects the very leaves that its suffix was called with."""
    from jaxrobust.execution.steps import chunks

    def record(
        net: jr.Network, source: jr.ImageSource, name: str, width: int, devices: int
    ) -> dict:
        seen = {}
        step = chunks.Step

        def recording(trials: Any, leaves: Any, *rest: Any) -> Any:
            for position, trial in enumerate(trials):
                if trial:
                    column, seed = trial
                    own = {path: np.asarray(leaf[position]) for path, leaf in leaves.items()}
                    seen[(0.3, 0.7)[column], seed] = own
            return step(trials, leaves, *rest)

        monkeypatch.setattr(chunks, "Step", recording)
        options = jr.Options(trials_per_step=width, share=False, devices=devices)
        jr.sweep(
            net,
            source[:10],
            perturbations=[name],
            layers="conv2",
            strengths=[0.3, 0.7],
            seeds=3,
            block=10,
            options=options,
        )
        return seen

    return record
