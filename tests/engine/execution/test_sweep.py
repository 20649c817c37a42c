"""Perturbations and metrics of the user's own, and what a sweep counts."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from networks_for_tests import CLASSES, PREPROCESSING
from sweeps_for_tests import BLOCK, IMAGES, refusal, small_sweep

import jaxrobust as jr
from jaxrobust.data.progress import PREPARING
from jaxrobust.design.specification import Specification
from jaxrobust.execution.plan import images_per_step
from jaxrobust.execution.routes import route_of
from jaxrobust.perturbations import entry_counts, perturbation, scales
from jaxrobust.runtime.machine import Machine


def count_by_hand(net: jr.Network, params: Any, source: jr.ImageSource) -> int:
    batch, labels = net.prepare(source)
    with jax.default_matmul_precision("highest"):
        logits = np.asarray(jax.jit(net.apply)(params, batch))
    return int((logits.argmax(1) == labels).sum())


def negated(leaves: Any, noise: Any, amounts: Any) -> Any:
    """Every entry times 1 - 2 · strength."""
    return {path: leaf * (1 - 2 * amounts[path]) for path, leaf in leaves.items()}


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("how", ["decorator", "object", "import path"])
def test_a_perturbation_of_the_users_is_swept_like_a_built_in_one(
    how: str,
    net: jr.Network,
    source: jr.ImageSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted: Any = "negated"
    if how == "decorator":
        perturbation("negated", amount=scales, draw=None)(negated)
    elif how == "object":
        wanted = jr.Perturbation("negated", scales, None, negated)
    else:
        (tmp_path / "perturbations_of_mine.py").write_text(
            "from jaxrobust.perturbations import perturbation, scales\n"
            '@perturbation("negated", amount=scales, draw=None)\n'
            "def turned(leaves, noise, amounts):\n"
            "    return {path: leaf * (1 - 2 * amounts[path]) for path, leaf in leaves.items()}\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        wanted = "perturbations_of_mine:turned"
    run = tmp_path / "run"
    result = small_sweep(
        net, source, perturbations=[wanted], strengths=[0.25, 1], seeds=3, run_dir=run
    )
    assert list(result.perturbation.values) == ["negated"]

    # It draws nothing, so there is one trial and not one per seed.
    assert result.images.values[0, 0].tolist() == [[IMAGES, 0, 0]] * 2
    cells = jr.accuracy(result)
    assert cells.seeds.values[0, 0].tolist() == [1, 1]
    for strength in (0.25, 1):
        factor = np.float32(1 - 2 * strength)
        params = {**net.params, "fc": jax.tree.map(lambda x, f=factor: x * f, net.params["fc"])}
        trial = result.sel(perturbation="negated", layer="fc", strength=strength, seed=0)
        assert int(trial.top1) == count_by_hand(net, params, source)
    paths = json.loads((run / "sweep.json").read_text())["specification"]["import_paths"]
    if how == "import path":
        assert paths == [["negated", wanted]]


def test_a_perturbation_whose_amounts_miss_a_leaf_is_refused(
    net: jr.Network, source: jr.ImageSource
) -> None:
    def kernels(layer: Any, strength: Decimal) -> dict[str, int]:
        return {k: v for k, v in entry_counts(layer, strength).items() if k.endswith("w")}

    wrong = jr.Perturbation("wrong", kernels, None, negated)
    message = refusal(small_sweep, net, source, perturbations=[wrong])
    assert "wrong on layer fc: amounts must be for exactly the leaves that it touches" in message
    assert "fc/b is not in both" in message


def test_a_metric_of_the_users_is_summed_over_images(
    net: jr.Network, source: jr.ImageSource
) -> None:
    def lost(logits: jax.Array, labels: jax.Array, clean: jax.Array) -> jax.Array:
        rows = jnp.arange(len(labels))
        return clean[rows, labels] - logits[rows, labels]

    result = small_sweep(net, source, metrics={"lost": lost}, strengths=[0, 0.5])
    batch, labels = net.prepare(source)
    apply = jax.jit(net.apply)
    with jax.default_matmul_precision("highest"):
        clean = np.asarray(apply(net.params, batch))
        for seed in range(2):
            damaged = jr.perturb(net, "synapse_knockout", layer="fc", strength=0.5, seed=seed)
            logits = np.asarray(apply(damaged, batch))
            expected = sum(
                float(c[k]) - float(x[k]) for x, c, k in zip(logits, clean, labels, strict=True)
            )
            found = float(result.lost.sel(strength=0.5, seed=seed).squeeze())
            assert found == pytest.approx(expected, rel=1e-4)
    assert float(result.clean_lost) == 0 and not result.lost.sel(strength=0).values.any()
    cells = jr.accuracy(result, "lost")
    mean = float(result.lost.sel(strength=0.5).mean()) / IMAGES
    np.testing.assert_allclose(cells["mean"].sel(strength=0.5).squeeze(), mean, rtol=1e-12)


# What is counted


def test_logits_that_are_not_finite_are_wrong_and_counted(source: jr.ImageSource) -> None:
    def divided(params: Any, images: jax.Array) -> jax.Array:
        return images.mean((1, 2)) @ params["fc"]["w"] / jnp.abs(params["fc"]["w"]).sum()

    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, CLASSES)), jnp.float32)
    net = jr.Network(divided, {"fc": {"w": kernel}}, name="nan", preprocessing=PREPROCESSING)
    result = small_sweep(net, source, strengths=[0.5, 1], seeds=1)
    gone = result.sel(strength=1).squeeze()
    assert [int(gone[name]) for name in ("images", "nonfinite", "changed")] == [IMAGES] * 3
    assert (int(gone.top1), int(gone.top5), float(gone.loss)) == (0, 0, 0.0)
    left = result.sel(strength=0.5).squeeze()
    assert int(left.nonfinite) == 0 and float(left.loss) > 0
    cells = jr.accuracy(result, "loss").squeeze()
    assert np.isnan(cells["mean"].sel(strength=1)) and np.isfinite(cells["mean"].sel(strength=0.5))


def test_a_group_is_damaged_together(net: jr.Network, source: jr.ImageSource) -> None:
    ends = ["conv1", "fc"]
    result = small_sweep(net, source, perturbations="node_knockout", layers={"ends": ends})
    assert list(result.layer.values) == ["ends"]
    for seed in range(2):
        damaged = jr.perturb(net, "node_knockout", layer=ends, strength=0.5, seed=seed)
        trial = result.sel(layer="ends", seed=seed).squeeze()
        assert int(trial.top1) == count_by_hand(net, damaged, source), seed
        assert int(trial.changed) > 0


def test_seeds_and_layers_and_strengths_added_later_change_no_earlier_trial(
    net: jr.Network, source: jr.ImageSource
) -> None:
    few = small_sweep(net, source, blocks=True)
    more = small_sweep(
        net,
        source,
        layers=["conv2", "fc"],
        strengths=[0, 0.3, 0.5],
        seeds=4,
        blocks=True,
    )
    same = {name: few[name].values for name in ("perturbation", "layer", "strength", "seed")}
    for name in ("images", "top1", "top5", "changed", "nonfinite"):
        np.testing.assert_array_equal(more[name].sel(same), few[name])
    np.testing.assert_allclose(more.loss.sel(same), few.loss, rtol=1e-5)


def test_the_undamaged_strength_has_the_undamaged_networks_counts(
    net: jr.Network, source: jr.ImageSource
) -> None:
    result = small_sweep(net, source, strengths=[0, 0.5], blocks=True)
    undamaged = result.sel(strength=0)
    for name in ("images", "top1", "top5", "changed", "loss"):
        expected = np.broadcast_to(result[f"clean_{name}"], undamaged[name].shape)
        np.testing.assert_array_equal(undamaged[name], expected)
    assert result.clean_images.values.tolist() == [10, 10, 3]
    assert int(result.clean_top1.sum()) == count_by_hand(net, net.params, source)


def test_an_interrupted_sweep_keeps_what_was_done(
    net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    arguments = dict(
        layers=["conv2", "fc"],
        strengths=[0.3, 0.6],
        seeds=3,
        blocks=True,
        options=jr.Options(trials_per_step=2, images_per_step=BLOCK),
    )
    whole = small_sweep(net, source, **arguments)
    reported = []

    def interrupt(what: str, done: int, total: int) -> None:
        reported.append((what, done))
        assert total in (0, IMAGES if what in PREPARING else 2 * 2 * 3 * IMAGES)
        if what == "fc" and done > 6 * IMAGES:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_sweep(net, source, **arguments, run_dir=tmp_path / "run", report=interrupt)
    assert json.loads((tmp_path / "run" / "sweep.json").read_text())["finished"] is False
    found = jr.open_run(tmp_path / "run", blocks=True)
    assert found.attrs["finished"] == 0 and whole.attrs["finished"] == 1
    assert int(found.images.sum()) == reported[-1][1]

    # conv2 is complete, one step of fc is there: two trials on the first block.
    np.testing.assert_array_equal(found.images.sel(layer="conv2"), whole.images.sel(layer="conv2"))
    assert int(found.images.sel(layer="fc").sum()) == 2 * BLOCK
    done = found.images.values > 0
    for name in whole.data_vars:
        if "seed" in whole[name].dims:
            expected = np.where(done, whole[name].values, 0)
            np.testing.assert_array_equal(found[name], expected, err_msg=str(name))
        else:
            np.testing.assert_array_equal(found[name], whole[name], err_msg=str(name))


def test_a_run_says_what_it_was(net: jr.Network, source: jr.ImageSource, tmp_path: Path) -> None:
    result = small_sweep(net, source, run_dir=tmp_path / "run")
    record = json.loads((tmp_path / "run" / "sweep.json").read_text())
    assert record["finished"] is True
    assert record["hash"] == Specification.from_json(record["specification"]).hash
    assert record["hash"] == result.attrs["specification"]
    assert record["specification"]["precision"] == "float32"
    assert record["specification"]["data_fingerprint"] == source.fingerprint()
    assert record["versions"]["jax"] == jax.__version__
    assert record["device"]["platform"] == jax.devices()[0].platform
    [plan] = record["plan"]
    assert plan["layers"] == "fc" and plan["perturbations"] == ["synapse_knockout"]
    xarray.testing.assert_identical(jr.open_run(tmp_path / "run"), result)


def test_an_evaluation_counts_what_a_loop_counts(net: jr.Network, source: jr.ImageSource) -> None:
    found = jr.evaluate(net, source, block=BLOCK)
    assert found.images == IMAGES and found.nonfinite == 0
    assert found.top1 == count_by_hand(net, net.params, source)
    low, high = found.top1_interval
    assert 0 <= low <= found.top1 / IMAGES <= high <= 1
    text = str(found)
    assert f"{found.top1:,} of {IMAGES:,} images" in text and "Wilson" in text


def test_the_undamaged_pass_takes_no_larger_steps_for_more_images(net: jr.Network) -> None:
    whole = route_of(net, (), 10, platform="cpu")
    machine = Machine.of(1, memory=2**20)
    sizes = [images_per_step(whole, 10, images=n, machine=machine) for n in (10**3, 10**5)]
    assert 1 <= max(sizes) < 1000 and abs(sizes[0] - sizes[1]) < 0.1 * sizes[1]
