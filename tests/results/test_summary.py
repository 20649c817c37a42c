"""What a result says in short, against brute force over its counts."""

import json
import re
from typing import Any

import numpy as np
import pytest
import xarray
from results_for_tests import (
    ALEXNET,
    CLEAN,
    IMAGES,
    KNOCKOUTS,
    NOISES,
    STUDY,
    against_the_study,
    like_the_study,
    made,
    made_precise,
)
from scipy import stats

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.results import accuracy
from jaxrobust.sampling import unseen_events
from jaxrobust.summary import (
    by_layer,
    chance,
    curves,
    findings,
    half_text,
    known,
    main_metric,
    middle,
    text_table,
)


@pytest.fixture(scope="module")
def study() -> xarray.Dataset:
    return made(like_the_study, STUDY)


def test_a_curve_starts_undamaged_whether_or_not_the_grid_does(study: xarray.Dataset) -> None:
    without = made(like_the_study, {name: grid[1:] for name, grid in STUDY.items()})
    for found in (curves(study, "top5"), curves(without, "top5")):
        assert [each.perturbation for each in found] == list(STUDY)
        for each, grid in zip(found, STUDY.values(), strict=True):
            np.testing.assert_array_equal(each.strengths, grid)
            np.testing.assert_array_equal(each.values[..., 0], CLEAN / IMAGES)
            assert each.values.shape == (8, 4, len(grid)) and np.isfinite(each.values).all()
    counts = study["top5"].sel(perturbation="weight_noise", layer="conv3", strength=0.6, seed=2)
    assert curves(study, "top5")[1].values[2, 2, 3] == int(counts.sum()) / IMAGES


def test_a_seed_that_was_not_run_has_no_undamaged_point() -> None:
    def partly(perturbation: str, layer: int, strength: float, seed: int) -> float:
        return np.nan if layer == 1 and seed >= 2 else 0.5

    (found,) = curves(made(partly, {"resample": KNOCKOUTS}), "top1")
    assert np.isfinite(found.values[0]).all() and np.isfinite(found.values[1, :2]).all()
    assert np.isnan(found.values[1, 2:]).all()


def test_layers_come_in_order_of_depth_and_groups_behind_them() -> None:
    layers = ("fc8", "early", "conv1")
    result = made(lambda *_: 0.5, {"resample": KNOCKOUTS}, layers, depth=json.dumps(list(ALEXNET)))
    assert curves(result, "top1")[0].layers == ("conv1", "fc8", "early")
    lines = text_table(result).splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["conv1", "fc8", "early"]


def test_the_undamaged_point_stands_where_damage_is_nothing() -> None:
    result = made(
        lambda p, layer, strength, seed: strength,
        {"keep": (0.2, 0.6)},
        ("conv",),
        identity='{"keep": 1}',
    )
    (found,) = curves(result, "top5")
    np.testing.assert_array_equal(found.strengths, [0.2, 0.6, 1])
    np.testing.assert_allclose(found.values[0, 0], [0.18, 0.54, 0.9])
    row = by_layer(result, "top5").isel(perturbation=0, layer=0)
    assert (float(row["first"]), float(row["last"])) == (1, 0.2)
    np.testing.assert_allclose(row["half"], 0.5)  # from 1 downwards
    np.testing.assert_allclose(row["area"], 0.54)


def test_damage_on_both_sides_of_the_identity_has_no_half_strength() -> None:
    result = made(lambda *_: 0.1, {"gain": (0.5, 2.0)}, ("conv",), identity='{"gain": 1}')
    with pytest.warns(UserWarning, match="gain lie on both sides of the undamaged one"):
        row = by_layer(result, "top5").isel(perturbation=0, layer=0)
    assert np.isnan(row["half"]) and int(row["beyond"]) == 0 and half_text(row) == "–"
    np.testing.assert_allclose(row["area"], (0.5 * (0.09 + 0.9) / 2 + (0.9 + 0.09) / 2) / 1.5)


def test_half_strength_and_area_are_per_seed_and_then_averaged(study: xarray.Dataset) -> None:
    table = by_layer(study, "top5", confidence=0.9)
    for name, grid in (("synapse_knockout", KNOCKOUTS), ("weight_noise", NOISES)):
        halves, areas = [], []
        for seed in range(4):
            trials = study.sel(perturbation=name, layer="conv2", seed=seed, strength=list(grid))
            left = trials["top5"].sum("block").values / IMAGES
            dense = np.linspace(0, grid[-1], 1_000_001)
            halves.append(dense[np.argmax(np.interp(dense, grid, left) <= CLEAN / IMAGES / 2)])
            areas.append(sum((a + b) / 2 for a, b in zip(left[1:], left[:-1], strict=True)))
            areas[-1] /= len(grid) - 1
        row = table.sel(perturbation=name, layer="conv2")
        for what, values in (("half", halves), ("area", areas)):
            low, high = stats.t.interval(0.9, 3, np.mean(values), stats.sem(values))
            found = [row[what], row[f"{what}_low"], row[f"{what}_high"], row[f"{what}_std"]]
            expected = [np.mean(values), low, high, np.std(values, ddof=1)]
            np.testing.assert_allclose(found, expected, atol=3e-6)
            np.testing.assert_allclose(row[f"{what}_of_seed"], values, atol=3e-6)
        assert (int(row["seeds"]), int(row["beyond"])) == (4, 0)


def test_a_layer_that_stays_above_half_is_said_to_be_beyond() -> None:
    def some(perturbation: str, layer: int, strength: float, seed: int) -> float:
        stays = (0, 2, 4)[layer]
        return 0.8 if seed < stays else 1 - strength

    result = made(some, {"resample": KNOCKOUTS}, ("conv1", "conv2", "fc"))
    table = by_layer(result, "top5").isel(perturbation=0)
    assert table["beyond"].values.tolist() == [0, 2, 4]
    assert np.isfinite(table["half"].values).tolist() == [True, False, False]
    assert np.isnan(table["half_low"].values).tolist() == [False, True, True]
    texts = [half_text(table.isel(layer=layer)) for layer in range(3)]
    assert texts == ["0.50 (0.50 to 0.50)", "> 0.9 in 2 of 4 seeds", "> 0.9"]
    assert np.isfinite(table["area"].values).all()


def test_one_seed_beyond_the_range_leaves_a_median_and_a_bound() -> None:
    def one_stays(perturbation: str, layer: int, strength: float, seed: int) -> float:
        return 0.8 if seed == 0 else 1 - strength - 0.02 * seed

    result = made(one_stays, {"resample": KNOCKOUTS}, ("conv",), seeds=5)
    row = by_layer(result, "top5").isel(perturbation=0, layer=0)
    halves = sorted(row["half_of_seed"].values.tolist())
    assert halves[-1] == np.inf and (int(row["beyond"]), int(row["seeds"])) == (1, 5)
    assert np.isnan(row["half"])
    assert float(row["half_median"]) == halves[2]
    np.testing.assert_allclose(row["half_bound"], (sum(halves[:4]) + 0.9) / 5)
    assert half_text(row) == f"median {halves[2]:.2f} (> 0.9 in 1 of 5 seeds)"


@pytest.mark.parametrize("metric", ["loss", "changed"])
def test_a_metric_that_damage_raises_has_an_area_and_a_warning(metric: str) -> None:
    result = made(lambda p, layer, strength, seed: 1 - strength, {"resample": KNOCKOUTS}, ("fc",))
    with pytest.warns(UserWarning, match=f"no half-strength of {metric}: damage raises it") as told:
        table = by_layer(result, metric)
    assert told[0].filename == __file__
    assert np.isnan(table["half"]).all() and int(table["beyond"].sum()) == 0
    area = {"loss": 1.45, "changed": 0.45}[metric]
    np.testing.assert_allclose(table["area"], area, rtol=1e-12)


@pytest.mark.parametrize("clean", [0.0, -2.0, np.nan])
def test_half_of_what_is_not_above_0_says_why_there_is_none(clean: float) -> None:
    result = made(like_the_study, {"resample": KNOCKOUTS}, ("fc",))
    own = result.assign(margin=result["loss"], clean_margin=("block", [IMAGES * clean]))
    with pytest.warns(UserWarning, match=f"no half-strength of margin: undamaged it is {clean:g}"):
        assert np.isnan(by_layer(own, "margin")["half"]).all()


def test_intervals_are_shown_as_they_are_within_0_and_100() -> None:
    def spread(perturbation: str, layer: int, strength: float, seed: int) -> float:
        return (0.0, 0.02, 1.0)[seed] if layer else 0.5

    result = made(spread, STUDY, ALEXNET[:4], seeds=3)
    assert float(accuracy(result)["low"].min()) < 0 and float(accuracy(result)["high"].max()) > 1
    first, at_chance, *_ = map(str, findings(result))
    shown = [text_table(result), first, at_chance]
    assert "27.2% (0.0 to 100.0)" in shown[0] and "±" not in shown[0]
    numbers = [float(n) for text in shown for n in re.findall(r"(-?[\d.]+) to ", text)]
    assert numbers and min(numbers) >= 0


def test_an_incomplete_curve_counts_for_nothing() -> None:
    def interrupted(perturbation: str, layer: int, strength: float, seed: int) -> float:
        return np.nan if seed == 3 and strength > 0.4 else 1 - strength

    row = by_layer(made(interrupted, {"resample": KNOCKOUTS}, ("conv",)), "top5").isel(
        perturbation=0, layer=0
    )
    assert int(row["seeds"]) == 3 and np.isnan(row["half_of_seed"].values[3])
    np.testing.assert_allclose(row["area"], 0.9 * 0.55)


def test_two_seeds_have_no_interval_and_one_says_so() -> None:
    row = by_layer(made(like_the_study, STUDY, seeds=2)).isel(perturbation=0, layer=0)
    assert np.isfinite(row["half"]) and np.isnan(row["half_low"])
    assert half_text(row) == f"{float(row['half']):.2f}"
    shown = text_table(made(like_the_study, STUDY, seeds=2))
    assert " to " not in shown and "in brackets" not in shown


def test_unknown_metrics_are_refused(study: xarray.Dataset) -> None:
    for function in (curves, by_layer):
        with pytest.raises(SpecificationError, match="unknown metric 'top3': did you mean top"):
            function(study, "top3")


@pytest.mark.parametrize(
    ("classes", "main", "level"), [(100, "top5", 0.05), (5, "top1", 0.2), (None, "top5", None)]
)
def test_chance_follows_the_classes(classes: Any, main: str, level: float | None) -> None:
    result = made(like_the_study, STUDY, classes=classes)
    assert main_metric(result) == main
    assert chance(result, main) == level
    assert chance(result, "loss") is None


def test_the_text_table_shows_what_is_left_near_half_strength(study: xarray.Dataset) -> None:
    lines = text_table(study).splitlines()
    assert lines[0] == "top-1 accuracy left (undamaged: 80.0%)"
    assert lines[1].split() == ["layer", "synapse_knockout", "0.5", "weight_noise", "1"]
    trials = study["top1"].sel(perturbation="weight_noise", layer="conv1", strength=1.0)
    values = trials.sum("block").values / IMAGES
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert lines[2].endswith(f" {values.mean():.1%} ({100 * low:.1f} to {100 * high:.1f})")
    assert lines[-1].startswith("in brackets: 95 % interval of the mean over damage draws")
    assert "early layers are the more fragile ones (rank correlation with depth +" in lines[10]
    assert max(map(len, lines[:-1])) <= 100


def test_many_perturbations_make_tables_that_fit_a_terminal() -> None:
    grids = {f"a_perturbation_called_{letter}": KNOCKOUTS for letter in "abcdef"}
    lines = text_table(made(like_the_study, grids)).splitlines()
    tables = [line for line in lines if line.startswith("layer")]
    assert len(tables) > 1 and max(map(len, lines[:-1])) <= 100
    named = [word for line in tables for word in line.split() if word.startswith("a_")]
    assert named == list(grids)


def test_the_middle_of_a_grid_is_never_the_undamaged_strength() -> None:
    for grid, expected in (((0, 0.9), 0.9), (KNOCKOUTS, 0.5), ((0.1, 0.3, 0.7), 0.3)):
        (found,) = curves(made(like_the_study, {"resample": grid}), "top1")
        assert middle(found) == expected


def verdicts(result: xarray.Dataset) -> list[str]:
    return [finding.verdict for finding in findings(result)]


def test_the_studys_claims_are_seen_where_they_hold(study: xarray.Dataset) -> None:
    assert verdicts(study) == ["seen"] * 5
    first, at_chance, late, order, milder = map(str, findings(study))
    counts = study["top5"].sum("block") / IMAGES

    def mean(perturbation: str, layer: str, strength: float) -> float:
        return float(counts.sel(perturbation=perturbation, layer=layer, strength=strength).mean())

    assert f"top-5 accuracy is {100 * mean('synapse_knockout', 'conv1', 0.7):.1f} %" in at_chance
    assert "chance is 5.0 %, undamaged 90.0 %" in at_chance
    lost = 100 * (1 - mean("synapse_knockout", "conv5", 0.7) / 0.9)
    assert f"(conv5 to fc8), conv5 loses most at 70 % knockout: {lost:.1f} % (" in late
    areas = by_layer(study, "top5")["area"]
    knockout = areas.sel(perturbation="synapse_knockout")
    assert f"is {100 * float(knockout.sel(layer='conv1')):.1f} % (" in first
    assert f"lowest in conv2: {100 * float(knockout.sel(layer='conv2')):.1f} % (" in first
    order_of_areas = stats.spearmanr(*areas.values).statistic  # pyright: ignore
    assert "of the 8 layers' mean top-5 accuracy" in order and f"{order_of_areas:+.2f}" in order
    for name in STUDY:
        assert f"{100 * float(areas.sel(perturbation=name).mean()):.1f} % (" in milder


def test_the_studys_claims_are_contradicted_where_they_do_not_hold() -> None:
    result = made(against_the_study, STUDY)
    assert verdicts(result) == ["contradicted"] * 5
    first, _, late, order, _ = map(str, findings(result))
    assert "of the 7 other layers measured it is lowest in fc8" in first
    assert "4 of 4 lose more than 30 %" in late and "fc8 loses most" in late
    assert "-1.00" in order


def test_a_claim_that_the_intervals_leave_open_is_undecided() -> None:
    def spread(perturbation: str, layer: int, strength: float, seed: int) -> float:
        return (0.02, 0.05, 0.1, 0.9)[seed]  # the same for all layers

    assert verdicts(made(spread, STUDY)) == ["undecided"] * 5


@pytest.mark.parametrize(
    ("strengths", "layers", "attributes", "measured"),
    [
        ({"resample": KNOCKOUTS}, ALEXNET, {}, []),
        ({"synapse_knockout": (0.1, 0.3)}, ALEXNET, {}, [0]),
        ({"synapse_knockout": (0.1, 0.72)}, ALEXNET, {}, [0, 1, 2]),
        ({"synapse_knockout": KNOCKOUTS}, ALEXNET, {"classes": None}, [0, 2]),
        ({"weight_noise": NOISES}, ALEXNET, {}, []),
        ({"synapse_knockout": KNOCKOUTS, "weight_noise": (1.0, 9.0)}, ALEXNET, {}, [0, 1, 2, 3]),
        (STUDY, ALEXNET[:3], {}, [1, 2, 4]),
        (STUDY, ALEXNET[1:], {"depth": json.dumps(ALEXNET)}, [2, 3, 4]),
        (STUDY, ("early", "late"), {"depth": json.dumps(ALEXNET)}, []),
    ],
)
def test_a_claim_is_judged_only_by_what_it_is_about(
    strengths: dict[str, tuple[float, ...]],
    layers: tuple[str, ...],
    attributes: dict[str, Any],
    measured: list[int],
) -> None:
    found = findings(made(like_the_study, strengths, layers, **attributes))
    assert [i for i, each in enumerate(found) if each.verdict != "not measured"] == measured
    missing = [i for i, each in enumerate(found) if each.evidence.startswith("This needs ")]
    assert sorted(measured + missing) == [0, 1, 2, 3, 4]


def test_the_table_says_what_is_known_and_what_cannot_have_been_seen(study: xarray.Dataset) -> None:
    result = made_precise(lambda layer, _: 48 if layer == 0 else 32, 0.011)
    cells = accuracy(result).sel(strength=[0.3, 0.6])
    assert cells.met.values.ravel().tolist() == [True, True] + [False] * 4
    lacking, unseen = known(result)
    # At 32 seeds the half-width is 0.0124: 32 · (0.0124 / 0.011)² is 41.
    assert lacking == (
        "4 of 6 cells are not known to ±1.1 % (top-1 accuracy); "
        "one is known to ±1.2 % with 32 seeds and may take about 48"
    )
    assert unseen == unseen_events(32)
    assert text_table(result).splitlines()[-2:] == [lacking, unseen]
    assert known(made_precise(lambda *_: 48, 0.1)) == [
        "every cell is known to ±10 % (top-1 accuracy)",
        unseen_events(48),
    ]
    assert known(result.assign_attrs(exact='["synapse_knockout"]'))[1:] == []
    assert known(study) == []


def test_curves_of_a_sweep_to_a_precision_have_its_means_and_intervals() -> None:
    result = made_precise(lambda layer, _: 48 if layer == 0 else 32, 0.011)
    cells = accuracy(result).sel(perturbation="synapse_knockout", strength=[0.3, 0.6])
    (found,) = curves(result, "top1")
    for part, values in zip(("mean", "low", "high", "std", "seeds"), found.interval(), strict=True):
        np.testing.assert_array_equal(values[:, 1:], cells[part])
    assert (found.interval()[0][:, 0] == cells.attrs["clean"]).all()
