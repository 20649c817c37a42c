"""The labelled result: what is derived from its sums, and how it is written and read."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import xarray
from results_for_tests import STUDY, like_the_study, made, made_precise, written

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.results import accuracy, make_dataset, per_image, sum_blocks
from jaxrobust.statistics import seed_and_image_interval
from jaxrobust.storage.durable.files import write_whole
from jaxrobust.storage.run_folder import check_run_folder, open_run, write_run

# Two perturbations with strengths of their own: "noise" was not run at 0.3, nor "knockout" at 2.
PERTURBATIONS, LAYERS, STRENGTHS = ["knockout", "noise"], ["conv1", "fc"], [0.1, 0.3, 2.0]
SEEDS, BLOCK_SIZES = 3, (10, 10, 5)
NOT_RUN = [(0, 2), (1, 1)]


@pytest.fixture
def result() -> xarray.Dataset:
    random = np.random.default_rng(0)
    shape = (2, 2, 3, SEEDS, len(BLOCK_SIZES))
    images = np.broadcast_to(np.array(BLOCK_SIZES), shape).astype(np.int64)
    top1 = random.integers(0, 6, shape)
    trials: dict[str, np.ndarray] = {
        "images": images.copy(),
        "top1": top1,
        "top5": top1 + random.integers(0, 5, shape) * (images >= 10),
        "changed": random.integers(0, 6, shape),
        "nonfinite": random.integers(0, 2, shape),
        "loss": random.uniform(1, 9, shape),
        "margin": random.normal(0, 1, shape),
    }
    for values in trials.values():
        for perturbation, strength in NOT_RUN:
            values[perturbation, :, strength] = 0
    clean: dict[str, np.ndarray] = {
        "images": np.array(BLOCK_SIZES),
        "top1": np.array([8, 9, 3]),
        "top5": np.array([10, 9, 5]),
        "changed": np.zeros(3, np.int64),
        "nonfinite": np.array([0, 1, 0]),
        "loss": np.array([1.5, 2.5, 0.8]),
        "margin": np.array([3.0, 2.0, 1.0]),
    }
    coordinates = dict(perturbation=PERTURBATIONS, layer=LAYERS, strength=STRENGTHS)
    return make_dataset(trials, clean, coordinates, {"network": "small", "finished": 1})


def refusal(function: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(SpecificationError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_comes_back_as_it_was_written(tmp_path: Path, result: xarray.Dataset) -> None:
    write_run(tmp_path / "runs" / "mine", result, {"hash": "abc", "finished": True})
    folder = tmp_path / "runs" / "mine"
    assert sorted(p.name for p in folder.iterdir()) == ["results.csv", "results.nc", "sweep.json"]
    with_blocks = open_run(folder, blocks=True)
    xarray.testing.assert_identical(with_blocks, result)
    assert {n: v.dtype for n, v in with_blocks.items()} == {n: v.dtype for n, v in result.items()}
    xarray.testing.assert_identical(open_run(folder), sum_blocks(result))
    record = json.loads((folder / "sweep.json").read_text())
    assert set(record.pop("files")) == {"results.nc", "results.csv"}
    assert record == {"hash": "abc", "finished": True}


def test_blocks_are_summed_once(result: xarray.Dataset) -> None:
    summed = sum_blocks(result)
    assert dict(summed.sizes) == {"perturbation": 2, "layer": 2, "strength": 3, "seed": 3}
    np.testing.assert_array_equal(summed.top1, result.top1.values.sum(-1))
    assert int(summed.clean_top1) == 20 and summed.attrs == result.attrs
    assert summed.top1.attrs["long_name"] == "top-1 accuracy: images that count for it"
    xarray.testing.assert_identical(sum_blocks(summed), summed)


def test_the_table_has_a_row_for_each_trial_that_ran(
    tmp_path: Path, result: xarray.Dataset
) -> None:
    write_run(tmp_path / "run", result, {})
    rows = pandas.read_csv(tmp_path / "run" / "results.csv")
    assert list(rows.columns[:4]) == ["perturbation", "layer", "strength", "seed"]
    assert set(rows.columns[4:]) == {
        *("images", "top1", "top5", "changed", "nonfinite", "loss", "margin")
    }
    assert len(rows) == (2 * 3 - len(NOT_RUN)) * 2 * SEEDS
    for row in rows.to_dict("records"):
        where = {name: row[name] for name in ("perturbation", "layer", "strength", "seed")}
        trial = result.sel(where)
        for quantity in rows.columns[4:]:
            expected = float(trial[quantity].values.sum())
            np.testing.assert_allclose(row[quantity], expected, rtol=1e-12)


def test_accuracy_is_the_mean_of_seeds(result: xarray.Dataset) -> None:
    cells = accuracy(result, "top5")
    cell = cells.sel(perturbation="noise", layer="fc", strength=0.1)
    per_seed = result.top5.values[1, 1, 0].sum(-1) / 25
    mean = (per_seed[0] + per_seed[1] + per_seed[2]) / 3
    std = np.sqrt(sum((x - mean) ** 2 for x in per_seed) / 2)
    half = 4.302652729749464 * std / np.sqrt(3)  # Student's t at 0.975 with 2 degrees of freedom
    np.testing.assert_allclose(
        [cell["mean"], cell["low"], cell["high"], cell["std"]],
        [mean, mean - half, mean + half, std],
        rtol=1e-12,
    )
    assert (int(cell["seeds"]), int(cell["images"])) == (3, 25)
    assert cells.attrs["clean"] == 24 / 25
    assert cells.attrs["metric"] == "top5" and cells.attrs["confidence"] == 0.95
    assert "these images" in cells.attrs["estimand"] and "Student" in cells.attrs["method"]


def test_the_loss_is_the_mean_over_finite_rows(result: xarray.Dataset) -> None:
    cell = accuracy(result, "loss").sel(perturbation="knockout", layer="conv1", strength=0.3)
    finite = 25 - result.nonfinite.values[0, 0, 1].sum(-1)
    expected = (result.loss.values[0, 0, 1].sum(-1) / finite).mean()
    np.testing.assert_allclose(cell["mean"], expected, rtol=1e-12)
    np.testing.assert_allclose(accuracy(result, "loss").attrs["clean"], 4.8 / 24, rtol=1e-12)


def test_a_metric_of_the_users_is_a_mean_too(result: xarray.Dataset) -> None:
    values = per_image(sum_blocks(result), "margin").sel(perturbation="knockout", strength=0.1)
    np.testing.assert_allclose(values, result.margin.values[0, :, 0].sum(-1) / 25, rtol=1e-12)


def test_trials_that_were_not_run_are_not_a_number(result: xarray.Dataset) -> None:
    for over in ("seeds", "seeds+images"):
        cells = accuracy(result, over=over)
        ran = np.ones((2, 2, 3), bool)
        for perturbation, strength in NOT_RUN:
            ran[perturbation, :, strength] = False
        for name in ("mean", "low", "high", "std"):
            np.testing.assert_array_equal(np.isfinite(cells[name].values), ran, err_msg=name)
        np.testing.assert_array_equal(cells["seeds"].values, 3 * ran)
        np.testing.assert_array_equal(cells["images"].values, 25 * ran)


def test_intervals_over_images_use_the_blocks(result: xarray.Dataset) -> None:
    cells = accuracy(result, "top1", over="seeds+images", confidence=0.9)
    for index in np.ndindex(2, 2, 3):
        cell = cells.isel(perturbation=index[0], layer=index[1], strength=index[2])
        if (index[0], index[2]) not in NOT_RUN:
            sums = result.top1.values[index].astype(float)
            expected = seed_and_image_interval(sums, result.images.values[index].astype(float), 0.9)
            found = [cell[name] for name in ("mean", "low", "high", "std")]
            np.testing.assert_allclose(found, expected[:4], rtol=1e-12)
    assert "images like these" in cells.attrs["estimand"]
    message = refusal(accuracy, sum_blocks(result), over="seeds+images")
    assert "needs the blocks" in message and "open_run(..., blocks=True)" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "top3"}, "unknown metric 'top3': did you mean top5 or top1"),
        ({"metric": "images"}, "unknown metric 'images'"),
        ({"metric": "clean_top1"}, "unknown metric 'clean_top1'"),
        ({"over": "images"}, "unknown over 'images'"),
    ],
)
def test_unknown_metrics_and_estimands_are_refused(
    result: xarray.Dataset, options: dict[str, Any], message: str
) -> None:
    assert message in refusal(accuracy, result, **options)


def test_a_folder_that_holds_something_else_is_refused(
    tmp_path: Path, result: xarray.Dataset
) -> None:
    assert check_run_folder(tmp_path / "new") == tmp_path / "new"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".lock").touch()
    check_run_folder(tmp_path / "empty")
    write_run(tmp_path / "run", result, {})
    check_run_folder(tmp_path / "run")
    (tmp_path / "file").touch()
    assert "something else" in refusal(check_run_folder, tmp_path / "file")
    assert "file is a file" in refusal(check_run_folder, tmp_path / "file" / "run")
    assert "something else" in refusal(check_run_folder, tmp_path)


def test_a_folder_without_a_result_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no results\.nc") as caught:
        open_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.csv"
    write_whole(path, b"old")

    def interrupted(*_: Any) -> None:
        assert path.read_text() == "old", "nothing is seen before it is complete"
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_whole(path, b"half")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["results.csv"], "nothing is left behind"
    write_whole(path, b"new")
    assert path.read_text() == "new"


def test_a_run_that_cannot_be_written_leaves_the_older_one(
    tmp_path: Path, result: xarray.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path, result, {"finished": True})

    def fail(self: Any, *arguments: Any, **options: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(xarray.Dataset, "to_netcdf", fail)
    with pytest.raises(OSError, match="no space left"):
        write_run(tmp_path, result.isel(seed=[0]), {"finished": True})
    xarray.testing.assert_identical(open_run(tmp_path, blocks=True), result)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_sweep_to_a_precision_has_a_row_for_each_cell(tmp_path: Path) -> None:
    result = made_precise(lambda layer, _: 48 if layer == 0 else 32, 0.011)
    folder = written(result, tmp_path / "run")
    rows = pandas.read_csv(folder / "cells.csv")
    names = "perturbation layer strength metric mean low high half_width seeds images met"
    assert list(rows.columns) == names.split()
    cells = accuracy(result)
    assert len(rows) == cells["mean"].sel(strength=[0.3, 0.6]).size
    for row in rows.to_dict("records"):
        own = cells.sel({name: row[name] for name in names.split()[:3]})
        assert (row["met"], row["seeds"]) == (bool(own.met), int(own.seeds))
        assert row["images"] == int(own.trial_images)
        assert row["half_width"] == pytest.approx(float(own.half_width))
    # A sweep of a fixed number of seeds that extends it has none.
    written(made(like_the_study, STUDY), folder)
    assert not (folder / "cells.csv").exists()
