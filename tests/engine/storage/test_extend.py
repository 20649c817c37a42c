"""Sweeps that add to the one in a run folder: what is there is not counted again."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from sweeps_for_tests import BLOCK, IMAGES, refusal, small_sweep

import jaxrobust as jr
from jaxrobust.counts.carry_over import carry_over
from jaxrobust.counts.state import State
from jaxrobust.data.progress import PREPARING
from jaxrobust.design.specification import Specification
from jaxrobust.sampling import FixedSeeds

SMALL: dict[str, Any] = dict(
    perturbations=["synapse_knockout", "node_knockout"],
    layers=["conv2", "fc"],
    strengths=[0, 0.2, 0.5],
    seeds=2,
)
COUNTS = ("images", "top1", "top5", "changed", "nonfinite")


def extended(
    net: jr.Network, source: jr.ImageSource, run: Path, images: int = IMAGES, **changes: Any
) -> tuple[xarray.Dataset, int]:
    """The result with its blocks, and how many trial-images were counted for it."""
    counted: list[int] = []

    def report(what: str, done: int, total: int) -> None:
        if what not in PREPARING and total:
            counted.append(done)

    arguments = {**SMALL, **changes}
    result = small_sweep(
        net, source[:images], **arguments, run_dir=run, extend=True, blocks=True, report=report
    )
    return result, counted[-1] - counted[0] if counted else 0


def check_equal(found: xarray.Dataset, expected: xarray.Dataset) -> None:
    for name in COUNTS:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
        np.testing.assert_array_equal(found[f"clean_{name}"], expected[f"clean_{name}"])
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
    for name in ("perturbation", "layer", "strength", "seed", "block"):
        np.testing.assert_array_equal(found[name], expected[name])


# What is added, and the trial-images that it takes; a trial has 23 images in blocks of 10.
ADDED = {
    "seeds": (dict(seeds=4), 2 * 2 * 2 * 2 * IMAGES),
    "strengths": (dict(strengths=[0, 0.1, 0.2, 0.5, 0.9]), 2 * 2 * 2 * 2 * IMAGES),
    "strength 0.3 of one": (
        dict(strengths={"synapse_knockout": [0, 0.2, 0.3, 0.5], "node_knockout": [0, 0.2, 0.5]}),
        2 * 2 * IMAGES,
    ),
    "layers": (dict(layers=["conv1", "conv2", "fc"]), 2 * 2 * 2 * IMAGES),
    "perturbations": (
        dict(perturbations=["weight_noise", "synapse_knockout", "node_knockout"]),
        2 * 2 * 2 * IMAGES,
    ),
    "seeds and layers": (
        dict(seeds=3, layers=["fc", "conv1", "conv2"]),
        (3 * 3 * 2 * 2 - 2 * 2 * 2 * 2) * IMAGES,
    ),
}


@pytest.fixture(scope="module")
def small(net: jr.Network, source: jr.ImageSource, tmp_path_factory: Any) -> xarray.Dataset:
    run = tmp_path_factory.mktemp("runs") / "small"
    result, _ = extended(net, source, run)
    result.attrs["run"] = str(run)
    return result


@pytest.mark.parametrize("what", ADDED)
def test_what_is_added_to_a_sweep_makes_the_larger_one(
    what: str,
    net: jr.Network,
    source: jr.ImageSource,
    small: xarray.Dataset,
    tmp_path: Path,
) -> None:
    run = shutil.copytree(small.attrs["run"], tmp_path / "run")
    changes, new = ADDED[what]
    found, counted = extended(net, source, run, **changes)
    assert counted == new
    check_equal(found, small_sweep(net, source, **{**SMALL, **changes}, blocks=True))
    # What was counted before is there to the last bit.
    same = {name: small[name].values for name in ("perturbation", "layer", "strength", "seed")}
    np.testing.assert_array_equal(found.loss.sel(same), small.loss)
    assert jr.open_run(run, blocks=True).identical(found)
    again, counted = extended(net, source, run, **changes)
    assert again.identical(found) and counted == 0


def test_images_are_appended_and_the_last_block_is_filled(
    net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    run, trials = tmp_path / "run", 2 * 2 * 2 * 2
    extended(net, source, run, images=13)
    found, counted = extended(net, source, run, images=IMAGES)
    assert counted == trials * (IMAGES - BLOCK), "the block of which 3 images were there is rerun"
    whole = small_sweep(net, source, **SMALL, blocks=True)
    check_equal(found, whole)
    assert found.images.sel(strength=0.5, seed=0, layer="fc")[0].values.tolist() == [10, 10, 3]

    # Images and seeds at once: trials begin with different images.
    run = tmp_path / "both"
    extended(net, source, run, images=20)
    found, counted = extended(net, source, run, seeds=3)
    assert counted == trials * (IMAGES - 20) + trials // 2 * IMAGES
    check_equal(found, small_sweep(net, source, **{**SMALL, "seeds": 3}, blocks=True))


def test_an_interrupted_extension_goes_on(
    net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = dict(
        seeds=4, options=jr.Options(trials_per_step=2, images_per_step=5)
    )
    outcomes = []
    for stop_after in (np.inf, 40, 200):
        run = tmp_path / str(stop_after)
        extended(net, source, run, images=13)
        first: list[int] = []

        def report(
            what: str, done: int, total: int, first: list[int] = first, most: float = stop_after
        ) -> None:
            if what not in PREPARING and total:
                first.append(done)
                if done > first[0] + most:
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) if stop_after < np.inf else nullcontext():
            small_sweep(
                net, source, **{**SMALL, **arguments}, run_dir=run, extend=True, report=report
            )
        small_sweep(net, source, **{**SMALL, **arguments}, run_dir=run)
        outcomes.append((run / "results.csv").read_bytes())
    assert outcomes[1] == outcomes[0] and outcomes[2] == outcomes[0]
    whole = small_sweep(net, source, **{**SMALL, **arguments}, blocks=True)
    check_equal(jr.open_run(tmp_path / "200", blocks=True), whole)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict(seeds=1), "seeds 2, not 1"),
        (dict(strengths=[0, 0.2, 0.6]), "strengths "),
        (dict(layers=["conv1", "conv2"]), "layers "),
        (dict(perturbations=["synapse_knockout"]), "strengths "),
        (dict(images=20), "images 23, not 20"),
        (dict(seeds=5, root=1), "root 0, not 1"),
        (dict(seeds=5, block=5), "block 10, not 5"),
        (dict(seeds=5, precision_mode="bfloat16"), "precision_mode float32, not bfloat16"),
    ],
)
def test_what_does_more_than_add_is_refused(
    changes: dict[str, Any],
    named: str,
    net: jr.Network,
    source: jr.ImageSource,
    small: xarray.Dataset,
) -> None:
    run = Path(small.attrs["run"])
    message = refusal(extended, net, source, run, **changes)
    assert message.startswith(f"{run} holds another sweep: {named}")
    assert message.endswith(": choose another folder: --extend only adds")


def test_other_images_are_refused(net: jr.Network, source: jr.ImageSource, tmp_path: Path) -> None:
    extended(net, source[3:], tmp_path, images=13)
    message = refusal(extended, net, source, tmp_path)
    assert "holds another sweep: data_fingerprint " in message


def test_a_trial_that_was_interrupted_carries_over_what_it_had_from_before() -> None:
    def spec(images: int) -> Specification:
        return Specification(
            network="n",
            preprocessing="",
            parameters="",
            data="",
            data_fingerprint="",
            images=images,
            block=10,
            layers=(("a", ("a",)),),
            strengths=(("p", ("0.5",)),),
            import_paths=(),
            sampling=FixedSeeds(2),
            root=0,
            metrics=(),
        )

    def counted(state: State, spec: Specification, seen: list[list[int]]) -> State:
        for block in range(spec.blocks):
            state.clean["images"][block] = min(10, spec.images - 10 * block)
        state.trials["images"][0, 0, 0] = seen
        return state

    first, second, third = spec(15), spec(25), spec(40)
    state = carry_over(counted(State.empty(first, 2), first, [[10, 5]] * 2), first, second, 2)
    assert state.carried[0, 0, 0].tolist() == [[True, False, False]] * 2
    # One of them comes to its end, the other one does not.
    state = carry_over(counted(state, second, [[10, 10, 5], [10, 3, 0]]), second, third, 2)
    assert state.carried[0, 0, 0].tolist() == [[True, True, False, False], [True] + [False] * 3]
    assert state.trials["images"][0, 0, 0].tolist() == [[10, 10, 0, 0], [10, 0, 0, 0]]
    assert not carry_over(State.empty(first, 2), first, second, 2).carried.any()
