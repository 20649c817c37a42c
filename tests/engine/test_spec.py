"""What a sweep can be asked for, what it refuses, and what of it is the same however it is run."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from networks_for_tests import CLASSES, NETWORKS, PREPROCESSING, SIDE

import jaxrobust as jr
from jaxrobust.engine import resolve_perturbations, resolve_strengths
from jaxrobust.engine.spec import Specification, parse_grid, specify
from jaxrobust.errors import SpecificationError
from jaxrobust.perturbations import REGISTRY, entry_counts, perturbation, scales

IMAGES, BLOCK = 23, 10


@pytest.fixture(scope="module")
def net() -> jr.Network:
    return NETWORKS["chain"]()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


def save(path: Path, side: int = SIDE, classes: int = CLASSES) -> jr.ImageSource:
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (IMAGES, side, side, 3), np.uint8)
    np.savez(path, images=images, labels=np.arange(IMAGES) % classes)
    return jr.images(f"npz:{path}")


@pytest.fixture(scope="module")
def source(folder: Path) -> jr.ImageSource:
    return save(folder / "right.npz")


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Perturbations that a test registers are gone after it."""
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


def small_sweep(net: jr.Network, source: jr.ImageSource, **changes: Any) -> xarray.Dataset:
    arguments: dict[str, Any] = dict(
        perturbations=["synapse_knockout"], layers="fc", strengths=[0.5], seeds=2, block=BLOCK
    )
    return jr.sweep(net, source, **{**arguments, **changes})


def refusal(function: Callable, *arguments: Any, **options: Any) -> str:
    with pytest.raises(SpecificationError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Grids


@pytest.mark.parametrize(
    ("text", "strengths"),
    [
        ("0:0.9:0.1", "0 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9"),
        ("0:2:0.5", "0 0.5 1 1.5 2"),
        ("1:0:-0.25", "1 0.75 0.5 0.25 0"),
        ("0.3:0.3:1", "0.3"),
        ("0.29,0.7", "0.29 0.7"),
        ("1e-3", "0.001"),
    ],
)
def test_grids_are_exact_and_include_both_ends(text: str, strengths: str) -> None:
    assert parse_grid(text) == [Decimal(s) for s in strengths.split()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0:1", "start:stop:step is needed"),
        ("0:1:0.1:2", "start:stop:step is needed"),
        ("0:1:0.3", "steps of 0.3 do not lead from 0 to 1"),
        ("0:1:0", "steps of 0 do not lead"),
        ("0:1:-0.1", "steps of -0.1 do not lead"),
        ("0:1:0.00001", "at most 10001"),
        ("", "strength '' is not a number"),
        ("a:b:c", "strength 'a' is not a number"),
        ("0.1,,0.2", "strength '' is not a number"),
        ("nan", "is not a finite number"),
        ("0:inf:1", "is not a finite number"),
    ],
)
def test_grids_that_are_none_are_refused(text: str, message: str) -> None:
    assert message in refusal(parse_grid, text)


def test_strengths_are_sorted_and_each_perturbation_has_its_own() -> None:
    chosen = resolve_perturbations(["synapse_knockout", "weight_noise"])
    found = resolve_strengths(chosen, {"weight_noise": [2, np.float32(0.3), 0.3, "0.1"]})
    assert found["weight_noise"] == (Decimal("0.1"), Decimal("0.3"), Decimal(2))
    assert found["synapse_knockout"] == tuple(Decimal(i) / 10 for i in range(10))
    same = resolve_strengths(chosen, "0:0.5:0.5")
    assert set(same.values()) == {(Decimal(0), Decimal("0.5"))}


# The specification


@pytest.fixture(scope="module")
def spec(net: jr.Network, source: jr.ImageSource) -> Specification:
    return specification(net, source, [0, 0.1, 0.2])


def specification(net: jr.Network, source: jr.ImageSource, strengths: Any) -> Specification:
    chosen = resolve_perturbations(["synapse_knockout"])
    return specify(
        net,
        source,
        perturbations=chosen,
        layers={"both": ["conv1", "fc"]},
        strengths=resolve_strengths(chosen, strengths),
        seeds=2,
        root=3,
        block=BLOCK,
        metrics={"margin": lambda logits, labels, clean: logits[:, 0]},
    )


def test_a_specification_survives_json(spec: Specification) -> None:
    read = Specification.from_json(json.loads(json.dumps(spec.to_json())))
    assert read == spec and read.hash == spec.hash
    assert spec.images == IMAGES and spec.blocks == 3
    assert spec.layers == (("both", ("conv1", "fc")),)


OTHER: dict[str, Any] = {
    "preprocessing": "{}",
    "network": "another",
    "parameters": "0" * 32,
    "data": "npz:another",
    "data_fingerprint": "0" * 32,
    "images": 1,
    "block": 11,
    "layers": (("both", ("fc", "conv1")),),
    "strengths": (("synapse_knockout", ("0", "0.1")),),
    "import_paths": (("mine", "module:mine"),),
    "seeds": 3,
    "root": 4,
    "metrics": (),
    "precision": "default",
}


def test_every_field_has_another_value_to_try() -> None:
    assert set(OTHER) == {field.name for field in dataclasses.fields(Specification)}


@pytest.mark.parametrize("field", OTHER)
def test_a_specification_that_differs_has_another_hash(field: str, spec: Specification) -> None:
    assert dataclasses.replace(spec, **{field: OTHER[field]}).hash != spec.hash


@pytest.mark.parametrize("strengths", ["0:0.2:0.1", "0.20,0.10,0.0", [0.0, "0.1", np.float32(0.2)]])
def test_a_strength_is_the_same_however_it_is_written(
    strengths: Any, net: jr.Network, source: jr.ImageSource, spec: Specification
) -> None:
    assert specification(net, source, strengths).hash == spec.hash


def test_parameters_and_images_are_part_of_the_specification(
    net: jr.Network, source: jr.ImageSource, spec: Specification
) -> None:
    params = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].add(1e-3), net.params)
    changed = dataclasses.replace(net, params=params)
    assert specification(changed, source, [0]).parameters != spec.parameters
    assert specification(net, source[1:], [0]).data_fingerprint != spec.data_fingerprint


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": "conv9"}, "unknown layer 'conv9': did you mean conv2 or conv1"),
        ({"layers": []}, "no layers were asked for: possible: conv1, conv2, fc"),
        ({"layers": {"early": []}}, "no layers"),
        (
            {"perturbations": ["synapse_knockuot"]},
            "unknown perturbation 'synapse_knockuot': did you mean synapse_knockout",
        ),
        ({"perturbations": ["no_such_module:it"]}, "cannot import the perturbation"),
        ({"perturbations": ["json:loads"]}, "not a jaxrobust.Perturbation"),
        ({"perturbations": ["resample", "resample"]}, "named twice"),
        ({"perturbations": []}, "no perturbations were asked for"),
        (
            {"strengths": [0.5, 1.01]},
            "strength 1.01 of synapse_knockout is outside its range 0 to 1",
        ),
        ({"strengths": [-0.1]}, "outside its range"),
        ({"strengths": []}, "no strengths for synapse_knockout"),
        ({"strengths": ["much"]}, "strength 'much' is not a number"),
        ({"strengths": {"weight_noise": [1]}}, "unknown perturbation in strengths 'weight_noise'"),
        ({"seeds": 0}, "seeds 0: a whole number from 1 is needed"),
        ({"seeds": 1.5}, "seeds 1.5: a whole number"),
        ({"block": 0}, "block 0: a whole number from 1"),
        ({"root": -1}, "root -1: a whole number from 0"),
        ({"metrics": {"top1": lambda *_: 0}}, "metric 'top1': that name is taken"),
        ({"metrics": {"images": lambda *_: 0}}, "metric 'images': that name is taken"),
        ({"metrics": {"clean_x": lambda *_: 0}}, "metric 'clean_x': that name is taken"),
        ({"metrics": {"strength": lambda logits, *_: logits[:, 0]}}, "'strength'"),
        ({"metrics": {"mean": lambda logits, *_: logits.mean()}}, "metric 'mean'"),
        ({"metrics": {"rows": lambda logits, *_: logits}}, "metric 'rows'"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line_before_anything_runs(
    changes: dict[str, Any], message: str, net: jr.Network, source: jr.ImageSource
) -> None:
    reports = []
    options = {**changes, "report": lambda *report: reports.append(report)}
    assert message in refusal(small_sweep, net, source, **options)
    assert not any(total for _, _, total in reports), "no trial was begun"


def test_images_that_do_not_fit_are_refused(
    net: jr.Network, source: jr.ImageSource, folder: Path
) -> None:
    assert "no images in npz:" in refusal(small_sweep, net, source[:0])
    assert "no images in npz:" in refusal(jr.evaluate, net, source[:0])
    message = refusal(small_sweep, net, save(folder / "classes.npz", classes=CLASSES + 1))
    assert f"outside the network's {CLASSES} classes" in message
    message = refusal(small_sweep, net, save(folder / "size.npz", side=SIDE + 1))
    assert f"{SIDE + 1} x {SIDE + 1}" in message and f"takes {SIDE} x {SIDE}" in message
    assert "block 0" in refusal(jr.evaluate, net, source, block=0)


def test_a_folder_in_use_is_refused(net: jr.Network, source: jr.ImageSource, folder: Path) -> None:
    assert "choose a folder that is new" in refusal(small_sweep, net, source, run_dir=folder)


def batch_normalised(params: Any, images: jax.Array) -> jax.Array:
    x = images.mean((1, 2)) @ params["fc"]["w"]
    return x - x.mean(0, keepdims=True)


def dropped_out(params: Any, images: jax.Array) -> jax.Array:
    x = images.mean((1, 2))
    kept = jax.random.bernoulli(jax.random.key(0), 0.5, x.shape)
    return jnp.where(kept, x, 0) @ params["fc"]["w"]


@pytest.mark.parametrize("apply", [batch_normalised, dropped_out])
@pytest.mark.parametrize("block", [1, 3, 10, 50])
def test_answers_that_depend_on_the_batch_or_on_chance_are_refused(
    apply: Callable, block: int, source: jr.ImageSource
) -> None:
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, CLASSES)), jnp.float32)
    params = {"fc": {"w": kernel}}
    training = jr.Network(apply, params, name="training", preprocessing=PREPROCESSING)
    message = refusal(small_sweep, training, source, block=block)
    assert message.startswith("training gives an image other logits")
    assert message.endswith(
        "normalisation in training mode or live dropout? Pass the network in evaluation mode"
    )


# Perturbations and metrics of the user's own


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
        assert total in (0, 2 * 2 * 3 * IMAGES)
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
    assert record["specification"]["precision"] == "highest"
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
