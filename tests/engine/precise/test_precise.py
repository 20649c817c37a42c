"""Sweeps to a precision: how long they go on, and that they count what a fixed sweep counts."""

from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from networks_for_tests import CLASSES, SIDE
from sweeps_for_tests import refusal

import jaxrobust as jr
from jaxrobust import rounds as precise
from jaxrobust.perturbations import scales
from jaxrobust.results import cell_rows
from jaxrobust.sampling import FEWEST, Costs, next_seeds

IMAGES, BLOCK, HALF_WIDTH = 58, 5, 0.05
CELLS: dict[str, Any] = dict(
    perturbations=["synapse_knockout", "weight_noise"],
    layers=["conv2", "fc"],
    strengths=[0, 0.2, 0.6],
    block=BLOCK,
    blocks=True,
)
COUNTS = ("images", "top1", "top5", "changed", "nonfinite")


@pytest.fixture(scope="module")
def source(net: jr.Network, folder: Path) -> jr.ImageSource:
    """Random images, of which the network is right about three quarters."""
    random = np.random.default_rng(2)
    images = random.integers(0, 256, (IMAGES, SIDE, SIDE, 3), np.uint8)
    mean, std = net.preprocessing.mean[0], net.preprocessing.std[0]
    labels = np.array(
        net.apply(net.params, jnp.asarray((images - mean) / std, jnp.float32))
    ).argmax(1)
    wrong = random.random(IMAGES) < 0.25
    labels[wrong] = random.integers(0, CLASSES, wrong.sum())
    np.savez(folder / "labelled.npz", images=images, labels=labels)
    return jr.images(f"npz:{folder}/labelled.npz")


def precise_sweep(net: jr.Network, source: jr.ImageSource, **changes: Any) -> xarray.Dataset:
    return jr.sweep(net, source, **{**CELLS, "precision": HALF_WIDTH, **changes})


@pytest.fixture(scope="module")
def found(net: jr.Network, source: jr.ImageSource) -> xarray.Dataset:
    return precise_sweep(net, source)


@pytest.fixture(scope="module")
def fixed(net: jr.Network, source: jr.ImageSource) -> xarray.Dataset:
    """Every trial of any of these sweeps, on all images."""
    every = dict(layers=["conv1", "conv2", "fc"], strengths=[0, 0.2, 0.4, 0.6], seeds=400)
    return jr.sweep(net, source, **{**CELLS, **every})


def check_counts(found: xarray.Dataset, fixed: xarray.Dataset) -> None:
    """Each block that a trial has seen is counted as in the fixed sweep, to the last image."""
    names = ("perturbation", "layer", "strength", "seed")
    same = fixed.sel({name: found[name].values for name in names})
    seen = found.images.values > 0
    assert seen.any()
    for name in COUNTS:
        np.testing.assert_array_equal(found[name].values[seen], same[name].values[seen], name)
    np.testing.assert_allclose(found.loss.values[seen], same.loss.values[seen], rtol=1e-4)


@pytest.fixture
def alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """All sweeps choose how many blocks seeds see by the same costs, whatever they measure."""
    costs = Costs(np.full(2, 0.02), 0.0, 0.001)
    monkeypatch.setattr(precise, "costs_of", lambda *_: costs)


def ran(result: xarray.Dataset) -> xarray.Dataset:
    """Without seeds behind the last one that was run."""
    seeds = np.flatnonzero((damaged(result).images > 0).any(set(result.images.dims) - {"seed"}))
    return result.isel(seed=slice(seeds[-1] + 1))


def check_same(found: xarray.Dataset, expected: xarray.Dataset) -> None:
    """The same trials on the same blocks, counted the same."""
    found, expected = ran(found), ran(expected)
    xarray.testing.assert_identical(
        found[list(COUNTS)].drop_attrs(), expected[list(COUNTS)].drop_attrs()
    )
    cells, others = jr.accuracy(found), jr.accuracy(expected)
    for name in ("mean", "low", "high", "seeds", "met"):
        np.testing.assert_array_equal(cells[name], others[name], name)


def damaged(result: xarray.Dataset) -> xarray.Dataset:
    return result.sel(strength=result.strength > 0)


def check_met(found: xarray.Dataset, half_width: float = HALF_WIDTH) -> None:
    cells = jr.accuracy(found)
    assert found.attrs["finished"] == 1 and cells.met.all()
    assert (cells.half_width <= half_width).all()
    assert ((damaged(cells).seeds >= FEWEST) | (damaged(cells).half_width == 0)).all()


def test_every_cell_has_the_seeds_that_it_takes_and_no_more(found: xarray.Dataset) -> None:
    check_met(found)
    cells = damaged(jr.accuracy(found))
    before = cells.seeds.values - 1
    np.testing.assert_array_equal(next_seeds(before), cells.seeds, "rounds end there")
    assert len(np.unique(cells.seeds)) > 1
    for place in zip(*np.nonzero(cells.seeds.values > FEWEST), strict=True):
        own = {name: [at] for name, at in zip(cells["mean"].dims, place, strict=True)}
        ends = [FEWEST]
        while ends[-1] < cells.seeds.values[place]:
            shorter = damaged(found).isel(own, drop=False).isel(seed=slice(ends[-1]))
            assert not jr.accuracy(shorter).met.any(), "it would have stopped"
            ends.append(int(next_seeds(np.asarray(ends[-1]))))


def test_all_trials_of_a_seed_have_seen_the_same_blocks(found: xarray.Dataset) -> None:
    seen = damaged(found).images > 0
    for layer in seen.layer:
        own = seen.sel(layer=layer)
        ran = own.any("block")
        assert (own == own.any(("perturbation", "strength"))).where(ran, True).all()
        # Seeds without gaps.
        assert (ran.cumsum("seed") == ran.seed + 1).where(ran, True).all()
        # As many blocks as another, but for those of the pilot that saw a second one.
        assert len(np.unique(own.sum("block").values[ran.values])) <= 2


def test_it_counts_what_a_fixed_sweep_counts(found: xarray.Dataset, fixed: xarray.Dataset) -> None:
    check_counts(found, fixed)
    # Its means are those of many more seeds on all images, within what both do not know.
    cells, many = jr.accuracy(found), jr.accuracy(fixed)
    off = np.abs(cells["mean"] - many["mean"])
    assert (off <= 2 * HALF_WIDTH).all()


class Stopped:
    """A report that interrupts a sweep once it has run some trial-images."""

    def __init__(self, after: int) -> None:
        self.after, self.first = after, None

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in ("undamaged", "decoding") and total:
            self.first = done if self.first is None else self.first
            if done >= self.first + self.after:
                raise KeyboardInterrupt


@pytest.mark.parametrize("after", [100, 700, 2500])
def test_an_interrupted_one_goes_on(
    after: int,
    alike: None,
    net: jr.Network,
    source: jr.ImageSource,
    fixed: xarray.Dataset,
    tmp_path: Path,
) -> None:
    few = jr.Options(trials_per_step=3, images_per_step=BLOCK)
    with pytest.raises(KeyboardInterrupt):
        precise_sweep(net, source, run_dir=tmp_path, options=few, report=Stopped(after))
    assert jr.open_run(tmp_path).attrs["finished"] == 0
    result = precise_sweep(net, source, run_dir=tmp_path, options=few)
    check_met(result)
    check_counts(result, fixed)
    check_same(result, precise_sweep(net, source, options=few))
    assert jr.open_run(tmp_path, blocks=True).identical(result)


@pytest.mark.slow
def test_one_whose_time_is_up_keeps_whole_trials_and_goes_on(
    net: jr.Network,
    source: jr.ImageSource,
    fixed: xarray.Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = count()
    monkeypatch.setattr(precise, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    states: list[xarray.Dataset] = []
    while not states or not states[-1].attrs["finished"]:
        assert len(states) < 40
        states.append(precise_sweep(net, source, run_dir=tmp_path, max_seconds=10))
        check_counts(states[-1], fixed)
        assert jr.open_run(tmp_path, blocks=True).identical(states[-1])
    assert len(states) > 2
    assert not jr.accuracy(states[0]).met.all()
    check_met(states[-1])
    # The first seeds were run first, so that they have seen images from everywhere.
    seen = (damaged(states[0]).images > 0).any(("perturbation", "strength")).sel(layer="conv2")
    blocks = int(seen.any("seed").sum())
    assert 1 < blocks < seen.sizes["block"] and seen.any("block")[: blocks - 1].all()


def test_a_finished_one_gives_its_result_at_once(
    net: jr.Network, source: jr.ImageSource, found: xarray.Dataset, tmp_path: Path
) -> None:
    told: list[str] = []
    first = precise_sweep(net, source, run_dir=tmp_path)
    again = precise_sweep(net, source, run_dir=tmp_path, report=lambda what, *_: told.append(what))
    assert again.identical(first)
    assert not set(told) & {"undamaged", "conv2", "fc"}


FIXED: dict[str, Any] = dict(precision=None, seeds=5)


@pytest.mark.parametrize(
    ("held", "changes"),
    [
        ({}, dict(precision=0.035)),
        (dict(precision=0.035), {}),
        (dict(images=30), {}),
        (FIXED, {}),
        pytest.param({**FIXED, "seeds": 60}, {}, marks=pytest.mark.slow),
    ],
    ids=["narrower", "wider", "images", "few seeds", "many seeds"],
)
def test_what_extends_a_sweep_is_what_it_would_have_been_from_scratch(
    held: dict[str, Any],
    changes: dict[str, Any],
    alike: None,
    net: jr.Network,
    source: jr.ImageSource,
    tmp_path: Path,
) -> None:
    before = dict(held)
    some = source[: before.pop("images", IMAGES)]
    first = precise_sweep(net, some, run_dir=tmp_path, **before)
    result = precise_sweep(net, source, run_dir=tmp_path, extend=True, **changes)
    check_met(result, changes.get("precision", HALF_WIDTH))
    check_same(result, precise_sweep(net, source, **changes))
    check_counted_once(first, result)


@pytest.mark.parametrize("held", [dict(strengths=[0, 0.2]), dict(layers=["fc"])], ids=str)
def test_what_is_added_leaves_other_cells_as_they_were(
    held: dict[str, Any], net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    first = precise_sweep(net, source, run_dir=tmp_path, **held)
    result = precise_sweep(net, source, run_dir=tmp_path, extend=True)
    check_met(result)
    check_same(result.sel(layer=first.layer, strength=first.strength), first)
    check_counted_once(first, result)


def check_counted_once(first: xarray.Dataset, result: xarray.Dataset) -> None:
    """What was counted first is the same to the last bit, which another run may not give."""
    full = first.clean_images == result.clean_images.sel(block=first.block)
    first, result = xarray.align(first, result)
    both = (first.images > 0) & (result.images > 0) & full.sel(block=first.block)
    assert both.any()
    np.testing.assert_array_equal(first.loss.values[both], result.loss.values[both])


def test_layers_that_were_counted_before_are_timed_again(
    net: jr.Network, source: jr.ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Costs] = []
    chosen_by = precise.blocks_per_seed

    def noted(parts: Any, costs: Costs, *others: Any) -> int:
        measured.append(costs)
        return chosen_by(parts, costs, *others)

    monkeypatch.setattr(precise, "blocks_per_seed", noted)
    precise_sweep(net, source, run_dir=tmp_path, precision=0.2)
    again = precise_sweep(net, source, run_dir=tmp_path, extend=True, precision=0.1)
    check_met(again, 0.1)
    assert len(measured) == 4
    for costs in measured:
        assert costs.suffix > 0 and (costs.draw > 0).all()


@pytest.mark.parametrize("knockouts", [[0.2], [0]], ids=str)
def test_perturbations_have_grids_of_their_own(
    knockouts: list[float], net: jr.Network, source: jr.ImageSource, fixed: xarray.Dataset
) -> None:
    grids = {"synapse_knockout": knockouts, "weight_noise": [0, 0.4, 0.6]}
    result = precise_sweep(net, source, strengths=grids)
    assert result.attrs["finished"] == 1
    check_counts(result, fixed)
    cells = jr.accuracy(result)
    for name, grid in grids.items():
        own = cells.sel(perturbation=name)
        assert own.met.sel(strength=grid).all()
        assert (own.seeds.drop_sel(strength=grid) == 0).all()
    rows = cell_rows(result)
    assert len(rows) == 2 * (2 + sum(strength > 0 for strength in knockouts)) and rows.met.all()


def test_a_fixed_sweep_extends_one_to_a_precision(
    net: jr.Network, source: jr.ImageSource, fixed: xarray.Dataset, tmp_path: Path
) -> None:
    before = precise_sweep(net, source, run_dir=tmp_path, precision=0.2)
    seeds = before.sizes["seed"]
    result = precise_sweep(net, source, run_dir=tmp_path, extend=True, precision=None, seeds=seeds)
    assert (result.images.sum("block") == IMAGES).all()
    check_counts(result, fixed)


def halved(leaves: Any, noise: Any, amounts: Any) -> Any:
    return {path: leaf * (1 - amounts[path]) for path, leaf in leaves.items()}


def shaken(leaves: Any, noise: Any, amounts: Any) -> Any:
    return {path: leaf * (1 + amounts[path] * noise) for path, leaf in leaves.items()}


def test_perturbations_of_the_users_and_what_is_exact(
    net: jr.Network, source: jr.ImageSource
) -> None:
    own: dict[str, Any] = dict(
        perturbations=[
            jr.Perturbation("halved", scales, None, halved),
            jr.Perturbation("shaken", scales, lambda key, _: jax.random.normal(key, ()), shaken),
        ],
        layers=["fc", "conv1"],
        strengths=[0, 0.9],
    )
    result = precise_sweep(net, source, **own)
    check_met(result)
    check_counts(result, jr.sweep(net, source, **{**CELLS, **own}, seeds=result.sizes["seed"]))
    cells = jr.accuracy(result)
    for exact in (cells.sel(perturbation="halved"), cells.sel(strength=0)):
        assert (exact.half_width == 0).all() and (exact.low == exact.high).all()
    assert (cells.sel(perturbation="halved", strength=0.9).seeds == 1).all()
    assert (cells["mean"].sel(strength=0) == cells.attrs["clean"]).all()
    assert (cells.half_width.sel(perturbation="shaken", strength=0.9) > 0).all()


def test_only_what_is_exact(net: jr.Network, source: jr.ImageSource) -> None:
    only = [jr.Perturbation("halved", scales, None, halved)]
    result = precise_sweep(net, source, perturbations=only, precision=0.001)
    assert (result.images.sel(seed=0).sum("block") == IMAGES).all()
    assert jr.accuracy(result).met.all()


@pytest.mark.parametrize("block", [BLOCK, IMAGES])
def test_an_interval_says_which_images_it_is_of(
    block: int, net: jr.Network, source: jr.ImageSource
) -> None:
    result = precise_sweep(net, source, layers="fc", block=block, precision=0.2)
    for metric in ("top1", "changed"):
        estimand = jr.accuracy(result, metric).attrs["estimand"]
        assert ("of which each" in estimand or "its own ones" in estimand) == (block < IMAGES)


def test_several_devices_change_no_count(
    net: jr.Network, source: jr.ImageSource, fixed: xarray.Dataset
) -> None:
    with jax.default_device(None):
        result = precise_sweep(net, source, options=jr.Options(devices=4))
    check_met(result)
    check_counts(result, fixed)


def test_seeds_that_do_not_fit_into_memory_leave_what_was_counted(
    net: jr.Network, source: jr.ImageSource
) -> None:
    little = jr.Options(memory=4 * 2**20)
    with pytest.warns(UserWarning, match="not all cells are known to ±0.002: .* need"):
        result = precise_sweep(net, source, precision=0.002, options=little)
    assert result.attrs["finished"] == 0
    assert not jr.accuracy(result).met.all()


def test_images_have_no_interval_of_their_own(found: xarray.Dataset) -> None:
    message = refusal(jr.accuracy, found, over="seeds+images")
    assert message.startswith('over="seeds+images": seeds of a sweep to a precision see different')
