"""What a sweep can be asked for, and what it refuses."""

import dataclasses
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks_for_tests import CLASSES, PREPROCESSING, SIDE
from sweeps_for_tests import BLOCK, IMAGES, refusal, save, small_sweep

import jaxrobust as jr
from jaxrobust.design.specification import (
    Specification,
    parse_grid,
    resolve_perturbations,
    resolve_strengths,
    specify,
)
from jaxrobust.metrics import resolve
from jaxrobust.perturbations import decimal
from jaxrobust.sampling import FixedSeeds, UntilHalfWidth

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


@pytest.mark.parametrize("kind", [float, np.float32, jnp.float32])
@pytest.mark.parametrize(
    ("grid", "strengths"),
    [
        (lambda: np.arange(0, 1, 0.1), "0 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9"),
        (lambda: np.linspace(0, 0.9, 10), "0 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9"),
        (lambda: np.cumsum([0.1] * 10), "0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 1"),
        (lambda: np.arange(0, 0.2, 0.05), "0 0.05 0.1 0.15"),
        (lambda: 1 - np.arange(0, 1, 0.25), "0.25 0.5 0.75 1"),
    ],
)
def test_strengths_from_arithmetic_are_the_decimals_that_were_meant(
    grid: Callable[[], np.ndarray], strengths: str, kind: Any
) -> None:
    chosen = resolve_perturbations(["synapse_knockout"])
    array = jnp.asarray(grid(), kind) if kind is jnp.float32 else grid().astype(kind)
    for given in (array, list(array)):
        found = resolve_strengths(chosen, given)["synapse_knockout"]
        assert found == tuple(Decimal(s) for s in strengths.split())


@pytest.mark.parametrize(
    "strength", [1 / 3, 0.1 + 1e-12, 0.123456789012345, 1e-17, "0.30000000000000004", 1e-9, 12.5]
)
def test_other_strengths_stay_what_they_are(strength: float | str) -> None:
    assert decimal(strength) == Decimal(str(strength))


def test_strengths_around_zero_meet_it() -> None:
    found = [decimal(strength) for strength in np.arange(-1, 1, 0.1)]
    assert found == [Decimal(step) / 10 for step in range(-10, 10)]


def test_a_strength_of_a_range_is_found_by_its_decimal(
    net: jr.Network, source: jr.ImageSource
) -> None:
    result = small_sweep(net, source, strengths=np.arange(0, 1, 0.1)[2:8], seeds=1)
    assert result.strength.values.tolist() == [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert jr.accuracy(result).sel(strength=0.3)["seeds"].item() == 1
    by_range = jr.perturb(net, "resample", layer="fc", strength=np.arange(0, 1, 0.1)[3])
    by_hand = jr.perturb(net, "resample", layer="fc", strength=0.3)
    np.testing.assert_array_equal(by_range["fc"]["w"], by_hand["fc"]["w"])


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
        sampling=FixedSeeds(2),
        root=3,
        block=BLOCK,
        metrics=resolve({"first": lambda logits, labels, clean: logits[:, 0]}),
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
    "sampling": UntilHalfWidth(0.01),
    "root": 4,
    "metrics": (),
    "precision": "default",
    "keep": "images",
    "code": (("network chain", "apply", "0" * 32),),
}


@pytest.mark.parametrize("rule", [FixedSeeds(3), UntilHalfWidth(0.02), UntilHalfWidth(1, "loss")])
def test_every_sampling_rule_survives_json(spec: Specification, rule: Any) -> None:
    changed = dataclasses.replace(spec, sampling=rule)
    assert Specification.from_json(json.loads(json.dumps(changed.to_json()))) == changed
    assert changed.hash != spec.hash


@pytest.mark.parametrize(
    "values", [None, {}, {"seeds": 0}, {"seeds": 2.5}, {"half_width": "0.1"}, {"other": 1}]
)
def test_what_is_no_sampling_rule_is_refused(spec: Specification, values: Any) -> None:
    with pytest.raises(TypeError):
        Specification.from_json({**spec.to_json(), "sampling": values})


def test_every_field_has_another_value_to_try() -> None:
    compared = {field.name for field in dataclasses.fields(Specification) if field.compare}
    assert set(OTHER) == compared


@pytest.mark.parametrize("field", OTHER)
def test_a_specification_that_differs_has_another_hash(field: str, spec: Specification) -> None:
    assert dataclasses.replace(spec, **{field: OTHER[field]}).hash != spec.hash


def test_where_a_perturbation_lies_is_no_part_of_it(spec: Specification) -> None:
    moved = dataclasses.replace(spec, import_paths=(("mine", "module:mine"),))
    assert moved.hash == spec.hash and moved == spec


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
        ({"strengths": "0.1,0.10000000000000000001"}, "is 0.1 as a float64, as 0.1 is"),
        ({"strengths": ["1e-400", 0.5]}, "is 0.0 as a float64, as 0.0 is"),
        ({"strengths": ["0.5", "0.50000000000000000001"]}, "tell them apart; leave one out"),
        (
            {
                "perturbations": ["synapse_knockout", "node_knockout"],
                "strengths": {"synapse_knockout": "0.3", "node_knockout": "0.30000000000000000001"},
            },
            "strength 0.30000000000000000001 of node_knockout is 0.3 as a float64",
        ),
        ({"strengths": []}, "no strengths for synapse_knockout"),
        ({"strengths": ["much"]}, "strength 'much' is not a number"),
        ({"strengths": {"weight_noise": [1]}}, "unknown perturbation in strengths 'weight_noise'"),
        ({"seeds": 0}, "seeds 0: a whole number from 1 to 2^32 - 1 is needed"),
        ({"seeds": 1.5}, "seeds 1.5: a whole number"),
        ({"block": 0}, "block 0: a whole number from 1 to 1,000,000"),
        ({"block": 2**32 - 1}, "block 4294967295: a whole number from 1 to 1,000,000"),
        ({"block": 10.0}, "block 10.0: a whole number"),
        ({"root": -1}, "root -1: a whole number from 0"),
        ({"seeds": 2**32}, "seeds 4294967296: a whole number from 1 to 2^32 - 1 is needed"),
        ({"root": 2**32}, "root 4294967296: a whole number from 0 to 2^32 - 1 is needed"),
        ({"metrics": {"top1": lambda *_: 0}}, "metric 'top1': that name is taken"),
        ({"metrics": {"images": lambda *_: 0}}, "metric 'images': that name is taken"),
        ({"metrics": {"clean_x": lambda *_: 0}}, "metric 'clean_x': that name is taken"),
        ({"metrics": {"control_x": lambda *_: 0}}, "metric 'control_x': that name is taken"),
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
    assert "block 4294967296" in refusal(jr.evaluate, net, source, block=2**32)


def test_the_largest_block_holds_all_images(net: jr.Network, source: jr.ImageSource) -> None:
    assert small_sweep(net, source, block=10**6).top1.equals(small_sweep(net, source).top1)
    found = jr.evaluate(net, source, block=10**6)
    assert found.top1 == jr.evaluate(net, source, block=1).top1


def test_a_folder_in_use_is_refused(net: jr.Network, source: jr.ImageSource, folder: Path) -> None:
    assert "choose a folder that is new" in refusal(small_sweep, net, source, run_dir=folder)


def batch_normalised(params: Any, images: jax.Array) -> jax.Array:
    x = images.mean((1, 2)) @ params["fc"]["w"]
    return x - x.mean(0, keepdims=True)


def dropped_out(params: Any, images: jax.Array) -> jax.Array:
    x = images.mean((1, 2))
    kept = jax.random.bernoulli(jax.random.key(0), 0.5, x.shape)
    return jnp.where(kept, x, 0) @ params["fc"]["w"]


def normalised_if_many(params: Any, images: jax.Array) -> jax.Array:
    x = images.mean((1, 2)) @ params["fc"]["w"]
    return x - x.mean(0, keepdims=True) if len(x) > 8 else x


def normalised_behind_the_tenth(params: Any, images: jax.Array) -> jax.Array:
    x = images.mean((1, 2)) @ params["fc"]["w"]
    return x.at[10:].add(-x[10:].mean(0, keepdims=True))


def divided_by_how_many(params: Any, images: jax.Array) -> jax.Array:
    return images.mean((1, 2)) @ params["fc"]["w"] * (8 / len(images))


def training(apply: Callable) -> jr.Network:
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, CLASSES)), jnp.float32)
    return jr.Network(apply, {"fc": {"w": kernel}}, name="training", preprocessing=PREPROCESSING)


DEPENDENT = [batch_normalised, dropped_out]
DEPENDENT += [normalised_if_many, normalised_behind_the_tenth, divided_by_how_many]


@pytest.mark.parametrize("apply", DEPENDENT)
@pytest.mark.parametrize("block", [1, 3, 8, 10, 50])
def test_answers_that_depend_on_the_batch_or_on_chance_are_refused(
    apply: Callable, block: int, source: jr.ImageSource
) -> None:
    message = refusal(small_sweep, training(apply), source, block=block)
    assert message.startswith("training gives an image other logits")
    assert message.endswith(
        "normalisation in training mode or live dropout? Pass the network in evaluation mode"
    )


@pytest.mark.parametrize("images", [2, 5, 8])
def test_a_few_images_are_checked_in_batches_of_two_sizes(
    images: int, source: jr.ImageSource
) -> None:
    message = refusal(jr.evaluate, training(divided_by_how_many), source[:images])
    assert f"other logits in a batch of {images} images than in one of" in message


@pytest.mark.parametrize(
    "metric",
    [
        lambda logits, labels, clean: logits[:, 0] - logits[:, 0].mean(),
        lambda logits, labels, clean: jnp.argsort(logits[:, 0]).astype(jnp.float32),
        lambda logits, labels, clean: logits[:, 0] / len(logits),
        lambda logits, labels, clean: logits[:, 0] * jnp.arange(len(logits)).astype(jnp.float32),
        lambda logits, labels, clean: clean[::-1, 0],
        lambda logits, labels, clean: (labels == labels[0]).astype(jnp.float32),
        lambda logits, labels, clean: 1 / (labels[:, None] == labels[None]).sum(1),
        lambda logits, labels, clean: logits[:, 0] * float(len(logits) > 8),
    ],
)
def test_a_metric_that_looks_at_other_images_is_refused(
    metric: Callable, net: jr.Network, source: jr.ImageSource
) -> None:
    good = {"good": lambda logits, labels, clean: logits[:, 0] - clean[:, 1]}
    message = refusal(small_sweep, net, source, metrics={**good, "odd": metric})
    assert message.startswith("metric 'odd' gives an image another number ")
    assert "it must look at each image on its own" in message
