"""A metric that is no finite number for some images: kept, counted, and told."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest
import xarray
from networks_for_tests import CLASSES, PREPROCESSING
from results_for_tests import ALEXNET, KNOCKOUTS, made, record
from sweeps_for_tests import BLOCK, IMAGES, refusal, small_sweep

import jaxrobust as jr
from jaxrobust.figures import accuracy_curves, caption, heat_map, layer_summary
from jaxrobust.report.page import Picture, page
from jaxrobust.results import sum_blocks
from jaxrobust.summary import text_table

SEEDS = 4


def confident(logits: jax.Array, labels: jax.Array, clean: jax.Array) -> jax.Array:
    """NaN for the images whose largest logit has gone down."""
    best = logits.max(1)
    return jnp.where(best < clean.max(1), jnp.nan, best)


def ratio(logits: jax.Array, labels: jax.Array, clean: jax.Array) -> jax.Array:
    """Infinite, of either sign, for damaged images of class 0 and 1."""
    same = (logits == clean).all(1)
    sign = jnp.where(labels == 0, 1.0, jnp.where(labels == 1, -1.0, 0.0))
    return jnp.where(same | (sign == 0), 1.0, sign * jnp.inf)


METRICS = {"confident": confident, "ratio": ratio}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "nonfinite"


@pytest.fixture(scope="module")
def result(net: jr.Network, source: jr.ImageSource, run: Path) -> xarray.Dataset:
    options = {"metrics": METRICS, "seeds": SEEDS, "blocks": True, "run_dir": run}
    return small_sweep(net, source, perturbations=["weight_noise"], strengths=[0, 0.1], **options)


def by_hand(net: jr.Network, source: jr.ImageSource, metric: Any) -> np.ndarray:
    """Values of a metric at strength 0.1, [seed, image]."""
    batch, labels = net.prepare(source)
    clean = net.apply(net.params, batch)
    rows = []
    for seed in range(SEEDS):
        damaged = jr.perturb(net, "weight_noise", layer="fc", strength=0.1, seed=seed)
        rows.append(metric(net.apply(damaged, batch), jnp.asarray(labels), clean))
    return np.asarray(rows)


@pytest.mark.parametrize("name", METRICS)
def test_what_was_measured_stays_and_is_counted(
    net: jr.Network, source: jr.ImageSource, result: xarray.Dataset, name: str
) -> None:
    values = by_hand(net, source, METRICS[name])
    own = result.isel(perturbation=0, layer=0).sel(strength=0.1)
    for block in range(3):
        part = values[:, block * BLOCK : (block + 1) * BLOCK]
        odd = ~np.isfinite(part)
        assert odd.any()
        np.testing.assert_array_equal(own[f"nonfinite_{name}"].isel(block=block), odd.sum(1))
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(own[name].isel(block=block), part.sum(1), rtol=1e-5)
    cell = jr.accuracy(result, name).isel(perturbation=0, layer=0).sel(strength=0.1)
    assert np.isnan(cell["mean"]) and int(cell["seeds"]) == SEEDS
    assert int(cell["nonfinite"]) == (~np.isfinite(values)).sum()
    assert int(cell["images"]) == IMAGES
    undamaged = jr.accuracy(result, name).sel(strength=0)
    assert np.isfinite(undamaged["mean"]).all() and not undamaged["nonfinite"].any()
    over_images = jr.accuracy(result, name, over="seeds+images").sel(strength=0.1)
    assert np.isnan(over_images["mean"]).all() and (over_images["seeds"] == SEEDS).all()


def test_a_seed_with_a_nan_is_not_left_out(result: xarray.Dataset) -> None:
    summed = sum_blocks(result)
    values = summed["confident"].copy()
    values.loc[{"strength": 0.1, "seed": [0, 1, 3]}] = 1.0  # only seed 2 stays NaN
    assert np.isnan(values.sel(strength=0.1)).sum() == 1
    cells = jr.accuracy(summed.assign(confident=values), "confident").sel(strength=0.1)
    assert np.isnan(cells["mean"]).all() and np.isnan(cells["std"]).all()
    masked = summed.assign(confident=values).where(summed["seed"] != 2)  # as if it was not run
    cells = jr.accuracy(masked, "confident").sel(strength=0.1)
    np.testing.assert_allclose(cells["mean"], 1 / IMAGES)
    assert (cells["seeds"] == SEEDS - 1).all()


def test_half_strengths_and_areas_are_not_finite_either(result: xarray.Dataset) -> None:
    table = jr.by_layer(result, "confident").isel(perturbation=0, layer=0)
    assert np.isnan([table["half"], table["half_median"], table["half_bound"]]).all()
    assert np.isnan(table["area"])
    assert (int(table["nonfinite"]), int(table["seeds"]), int(table["beyond"])) == (4, 4, 0)


def test_the_files_tell_it(result: xarray.Dataset, run: Path) -> None:
    xarray.testing.assert_identical(jr.open_run(run, blocks=True), result)
    text = (run / "results.csv").read_text()
    assert ",nan," in text and ",," not in text
    damaged = pandas.read_csv(run / "results.csv").query("strength == 0.1")
    assert len(damaged) == SEEDS and np.isnan(damaged["confident"]).all()
    counts = sum_blocks(result)["nonfinite_confident"].sel(strength=0.1).values.ravel()
    assert damaged["nonfinite_confident"].tolist() == counts.tolist()


def test_table_and_report_say_so(result: xarray.Dataset) -> None:
    trials = sum_blocks(result)
    count = int(trials["nonfinite_confident"].sum())
    sentence = (
        f"the metric confident is NaN or infinite in 1 of 2 cells ({count} of "
        f"{2 * SEEDS * IMAGES} trial-images)"
    )
    assert sentence in text_table(result).splitlines()
    assert "ratio is NaN or infinite in 1 of 2 cells" in text_table(result)
    picture = Picture("A figure", "", "data:,", "data:,")
    undamaged = trials.assign(clean_confident=np.nan)
    assert f"{sentence} and undamaged" in text_table(undamaged)
    only = undamaged.sel(strength=[0])
    assert "confident is NaN or infinite undamaged" in text_table(only)
    assert sentence[1:] in page(trials, record(result), [picture], Path("runs/mine"))


def test_logits_that_are_not_finite_are_told_of() -> None:
    result = made(lambda *_: 0.5, {"resample": KNOCKOUTS[:3]}, ("fc",), seeds=3)
    counts = result["nonfinite"].copy()
    counts.loc[{"strength": 0.2, "seed": 1}] = 7
    told = "7 of 9,000 trial-images had a logit that is not finite: they count as wrong"
    assert told in text_table(result.assign(nonfinite=counts))
    assert "not finite" not in text_table(result)
    # A trial without any finite row has no loss; it is not as if it had not been run.
    counts.loc[{"strength": 0.2, "seed": 1}] = 1000
    worse = result.assign(nonfinite=counts)
    cells = jr.accuracy(worse, "loss").isel(perturbation=0, layer=0)
    assert np.isnan(cells["mean"].sel(strength=0.2)) and (cells["seeds"] == 3).all()
    assert "the metric loss is NaN or infinite in 1 of 3 cells" in text_table(worse)
    over_images = jr.accuracy(worse, "loss", over="seeds+images").sel(strength=0.2)
    assert np.isnan(over_images["mean"]).all()


def test_a_network_without_finite_logits_has_no_loss(source: jr.ImageSource) -> None:
    kernel = jnp.full((3, CLASSES), 1e30)

    def apply(params: Any, images: jax.Array) -> jax.Array:
        return (images.mean((1, 2)) @ params["fc"]["w"] + 1) * 1e30

    net = jr.Network(apply, {"fc": {"w": kernel}}, name="huge", preprocessing=PREPROCESSING)
    found = jr.evaluate(net, source)
    assert found.nonfinite == found.images and np.isnan(found.loss) and found.top1 == 0
    assert f"{IMAGES} images with a logit that is not finite" in str(found)


@pytest.mark.parametrize("clean", [5.0, np.nan, np.inf])
def test_figures_leave_gaps(clean: float) -> None:
    result = made(lambda *_: 0.5, {"resample": KNOCKOUTS}, ALEXNET[:2], seeds=3)
    margin = -result["loss"]
    for strength, bad in ((0.3, np.nan), (0.5, np.inf)):
        margin.loc[{"strength": strength, "seed": 1, "layer": "conv2"}] = bad
    own = result.assign(margin=margin, clean_margin=("block", [clean * 1000]))
    panel = accuracy_curves(own, "margin").axes[0]
    lines = {str(line.get_label()): np.asarray(line.get_data()) for line in panel.lines}
    x, y = lines["conv2"]
    gaps = x[np.isnan(y)].tolist()
    assert gaps == [0.3, 0.5] if np.isfinite(clean) else [0.0, 0.3, 0.5]
    low = np.concatenate([band.get_paths()[0].vertices for band in panel.collections])[:, 1].min()
    assert low < 0, "a band below zero is not cut off"
    heat = heat_map(own, "margin").axes[0]
    crosses = [text.get_position() for text in heat.texts if text.get_text() == "×"]
    assert crosses == [(2, 1), (4, 1)]
    assert "A cross: what was measured there is not a finite" in caption(own, "heat", "margin")
    assert "A gap in a line: what was measured" in caption(own, "curves", "margin")
    assert "A gap" not in caption(own, "curves", "top1")
    assert layer_summary(own, "margin").axes
    if not np.isfinite(clean):
        assert "there is no relative change" in refusal(
            accuracy_curves, own, "margin", relative=True
        )
