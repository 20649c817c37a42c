"""What a planned sweep is said to cost, against counts by hand and what a sweep really does."""

import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from networks_for_tests import CLASSES, NETWORKS, PREPROCESSING, SIDE
from sweeps_for_tests import IMAGES, refusal, small_sweep

import jaxrobust as jr
from jaxrobust.costing.accelerators import ACCELERATORS
from jaxrobust.ground.text import duration
from jaxrobust.runtime.load import Load, share_if_alone

# Of the network `chain` on one image, two for a multiply-add.
CONV1 = 2 * (4 * 4 * 6) * (3 * 3 * 3)
CONV2 = 2 * (4 * 4 * 5) * (3 * 3 * 6)
FC = 2 * CLASSES * (4 * 4 * 5)
WHOLE = CONV1 + CONV2 + FC


def small_plan(net: jr.Network, source: jr.ImageSource, **changes: Any) -> jr.Estimate:
    arguments: dict[str, Any] = dict(
        perturbations=["synapse_knockout"], strengths=[0.5], seeds=2, block=10, timing_seconds=0
    )
    return jr.plan(net, source, **{**arguments, **changes})


@pytest.mark.parametrize(
    ("perturbation", "products"),
    [("synapse_knockout", 6), ("node_knockout", 1), ("weight_noise", 1 + 3)],
)
def test_operations_are_those_counted_by_hand(
    perturbation: str, products: int, net: jr.Network, source: jr.ImageSource
) -> None:
    """Every trial has its own product, all share one, or one for each seed and the undamaged."""
    estimate = small_plan(
        net, source, perturbations=[perturbation], strengths=[0, 0.25, 0.5], seeds=3
    )
    trials = 3 * 2  # strength 0 changes nothing
    expected = {
        "conv1": products * CONV1 + trials * (CONV2 + FC),
        "conv2": CONV1 + products * CONV2 + trials * FC,
        "fc": CONV1 + CONV2 + products * FC,
    }
    assert {e.layers: e.operations for e in estimate.targets} == {
        name: IMAGES * operations for name, operations in expected.items()
    }
    assert estimate.operations == IMAGES * (WHOLE + sum(expected.values()))
    assert estimate.trials == 3 * trials
    assert estimate.operations_without_hoisting == WHOLE * IMAGES * estimate.trials


def test_without_hoisting_every_trial_runs_the_whole_network(
    net: jr.Network, source: jr.ImageSource
) -> None:
    estimate = small_plan(net, source, options=jr.Options(hoist=False))
    undamaged = WHOLE * IMAGES
    assert estimate.operations == undamaged + estimate.operations_without_hoisting


def test_trial_images_are_those_that_a_sweep_counts(
    net: jr.Network, source: jr.ImageSource
) -> None:
    doubled = jr.Perturbation(
        "doubled",
        lambda layer, strength: {leaf.path: float(strength) for leaf in layer.leaves},
        None,
        lambda leaves, noise, amounts: {p: leaf * (1 + amounts[p]) for p, leaf in leaves.items()},
        high=2.0,
    )
    asked: dict[str, Any] = dict(
        perturbations=["synapse_knockout", doubled], layers=["conv2", "fc"], strengths=[0, 0.5, 1]
    )
    reported: list[tuple[int, int]] = []
    small_sweep(net, source, **asked, report=lambda _, *counts: reported.append(counts))
    assert reported[-1] == (small_plan(net, source, **asked).trial_images,) * 2


def test_what_trials_share_is_not_doubled_with_them(
    net: jr.Network, source: jr.ImageSource
) -> None:
    doubled = small_plan(net, source, layers="fc", strengths=[0.5, 0.7]).doubled
    shared, own = 2 * (CONV1 + CONV2) + FC, 4 * FC  # the undamaged network and the prefix
    assert doubled["seeds"][0] == pytest.approx((shared + 2 * own) / (shared + own))
    assert doubled["strengths"][0] == doubled["seeds"][0]
    assert doubled["images"][0] == 2
    assert doubled["layers"][0] == pytest.approx(2 - WHOLE / (shared + own))
    assert all(1 <= seconds < 2.5 for _, seconds in doubled.values())


def test_layers_that_were_not_timed_are_estimated_from_those_that_were(
    net: jr.Network, source: jr.ImageSource
) -> None:
    estimate = small_plan(net, source)
    assert [each.timed for each in estimate.targets] == [True, False, False]
    shown = " ".join(str(estimate).split())
    assert f"1 of 3 layers were timed, which take {estimate.timed_share:.0%} of it" in shown
    assert "not timed (*), as fast as these: conv2, fc" in shown
    assert sum(each.seconds for each in estimate.targets) < estimate.seconds
    assert 0 < estimate.timed_share < 1
    complete = small_plan(net, source, timing_seconds=100)
    assert all(each.timed for each in complete.targets) and "(*)" not in str(complete)
    assert complete.timed_share == 1 and "steps of every layer were timed" in str(complete)


def test_the_time_is_a_range(net: jr.Network, source: jr.ImageSource) -> None:
    for seconds in (0, 100):
        estimate = small_plan(net, source, timing_seconds=seconds)
        assert 0 < estimate.fastest < estimate.seconds < estimate.slowest
        shown = f"{duration(estimate.fastest)} to {duration(estimate.slowest)}"
        assert f"time here {shown}, {duration(estimate.seconds)} if it" in (
            " ".join(str(estimate).split())
        )
        values = json.loads(json.dumps(estimate.to_json()))
        assert values["fastest"] == estimate.fastest and values["slowest"] == estimate.slowest


def test_the_lower_end_is_that_of_a_machine_without_other_programs(
    net: jr.Network, source: jr.ImageSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Load, "share_if_alone", 0.1)
    busy = small_plan(net, source)
    assert busy.fastest / busy.seconds < 0.1


@pytest.mark.parametrize(
    ("own", "others", "available", "share"),
    [
        (4.0, 0.0, 8.0, 1.0),  # it cannot use all cores
        (2.0, 6.0, 8.0, 0.25),
        (2.0, 2.0, 8.0, 0.5),
        (2.0, 600.0, 8.0, 0.25),  # on cores that it may not use
        (9.0, 1.0, 8.0, 1.0),
        (0.0, 5.0, 8.0, 1.0),  # nothing to tell from
        (2.0, -1.0, 8.0, 1.0),
    ],
)
def test_what_other_programs_take_is_counted_once(
    own: float, others: float, available: float, share: float
) -> None:
    assert share_if_alone(own, others, available) == share


@pytest.mark.parametrize("name", ["tied", "looped", "branches"])
def test_every_shape_of_network_can_be_planned(name: str, source: jr.ImageSource) -> None:
    net = NETWORKS[name]()
    everything = {"whole": list(net.layers), "last": list(net.layers)[-1:]}
    names = ["node_knockout", "synapse_knockout"]
    estimate = small_plan(net, source, layers=everything, perturbations=names)
    assert {each.layers for each in estimate.targets} == set(everything)
    assert all(0 < each.seconds < math.inf for each in estimate.targets)
    assert all(1 <= factor < 2.5 for pair in estimate.doubled.values() for factor in pair)
    assert all(size >= 0 for size in estimate.memory.values())
    assert json.loads(json.dumps(estimate.to_json()))["trials"] == estimate.trials


def test_a_sweep_of_nothing_costs_the_undamaged_network(
    net: jr.Network, source: jr.ImageSource
) -> None:
    estimate = small_plan(net, source, strengths=[0])
    assert (estimate.trials, estimate.targets, estimate.operations) == (0, (), WHOLE * IMAGES)
    assert str(estimate)


# Other devices


def test_time_on_an_accelerator_follows_from_the_stated_peak(
    net: jr.Network, source: jr.ImageSource
) -> None:
    found = {
        (mode, devices): small_plan(
            net,
            source,
            seeds=4,
            precision_mode=mode,
            accelerator="A100",
            devices=devices,
            efficiency=0.5,
        )
        for mode, devices in (("float32", 1), ("float32", 4), ("bfloat16", 1))
    }
    one = found["float32", 1]
    there = one.accelerator
    assert there and there.seconds == pytest.approx(one.operations / (19.5e12 * 0.5))
    shown = " ".join(str(one).split())
    assert "1 × NVIDIA A100 SXM" in shown and "assumes 50% of the stated 19.5 TFLOP/s" in shown
    faster = found["bfloat16", 1].accelerator
    assert faster and faster.peak == 312e12
    four = found["float32", 4].accelerator
    shared = IMAGES * (WHOLE + CONV1 + (CONV1 + CONV2))
    divided = (shared + (one.operations - shared) / 4) / (19.5e12 * 0.5)
    assert four and four.seconds == pytest.approx(divided)


def test_no_accelerator_is_faster_in_float32_than_in_a_shorter_format() -> None:
    for each in ACCELERATORS.values():
        peaks = each.peaks
        assert 0 < peaks["float32"] <= peaks["tensorfloat32"] <= peaks["bfloat16"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accelerator": "h20"}, "unknown accelerator 'h20': did you mean h200"),
        ({"accelerator": "h200", "devices": 0}, "devices 0: a whole number from 1"),
        ({"accelerator": "h200", "efficiency": 1.5}, "efficiency 1.5: above 0 and at most 1"),
        ({"timing_seconds": math.nan}, "timing_seconds nan: 0 or more"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    changes: dict[str, Any], message: str, net: jr.Network, source: jr.ImageSource
) -> None:
    assert refusal(small_plan, net, source, **changes).startswith(message)


# Beside a sweep


@pytest.mark.parametrize(
    "changes",
    [
        {"perturbations": ["synapse_knockot"]},
        {"layers": "conv9"},
        {"strengths": "0:1:0.3"},
        {"strengths": [1.5]},
        {"seeds": 0},
        {"block": 0},
        {"root": -1},
        {"precision_mode": "float16"},
        {"metrics": {"top1": lambda logits, labels, clean: labels}},
        {"options": jr.Options(memory=1)},
    ],
)
def test_a_plan_is_refused_for_what_a_sweep_is(
    changes: dict[str, Any], net: jr.Network, source: jr.ImageSource
) -> None:
    expected = refusal(small_sweep, net, source, **changes)
    assert refusal(small_plan, net, source, **{"layers": "fc", **changes}) == expected


def test_a_network_in_training_mode_is_refused_as_by_a_sweep(source: jr.ImageSource) -> None:
    def apply(params: Any, images: Any) -> Any:
        centred = images - images.mean(0, keepdims=True)
        return centred.reshape(len(images), -1) @ params["fc"]["w"]

    weights = np.random.default_rng(0).normal(size=(SIDE * SIDE * 3, CLASSES))
    params = {"fc": {"w": jnp.asarray(weights, jnp.float32)}}
    net = jr.Network(apply, params, name="training", preprocessing=PREPROCESSING)
    assert "in evaluation mode" in refusal(small_plan, net, source)


def test_planning_writes_nothing(
    net: jr.Network, source: jr.ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXROBUST_CACHE", str(tmp_path / "cache"))
    small_plan(net, source, layers="fc")
    assert not (tmp_path / "cache" / "images").exists()
    assert [path.name for path in tmp_path.iterdir()] in ([], ["cache"])
