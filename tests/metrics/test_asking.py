"""Metrics as a user asks for them: in Python, on the command line, and in what is drawn of them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from networks_for_tests import NETWORKS
from sweeps_for_tests import save

import jaxrobust as jr
from jaxrobust.figures import accuracy_curves, caption, heat_map, layer_summary
from jaxrobust.metrics import REGISTRY
from jaxrobust.results import metric_of, metrics_of

FURTHER = ["margin", "brier", "kl", "calibration_error"]
OWN = """
import jax.numpy as jnp
import jaxrobust as jr

def greatest(logits, labels, clean_logits):
    return jnp.max(logits, axis=1)

sure = jr.Metric("sure", lambda logits, *_: jnp.max(logits, 1) > 1, label="sure ones", share=True)
number = 5
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> jr.ImageSource:
    return save(tmp_path_factory.mktemp("images") / "right.npz")


@pytest.fixture(scope="module")
def run(source: jr.ImageSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    own = jr.Metric(
        "sure", lambda logits, *_: jnp.max(logits, 1) > 1, label="sure ones", share=True
    )
    jr.sweep(
        NETWORKS["chain"](),
        source,
        perturbations=["weight_noise", "synapse_knockout"],
        strengths=[0, 0.4, 0.8],
        seeds=3,
        block=5,
        metrics=[*FURTHER, own],
        run_dir=folder,
    )
    return folder


@pytest.fixture(scope="module")
def result(run: Path) -> xarray.Dataset:
    return jr.open_run(run)


def test_a_result_holds_what_was_asked_for(result: xarray.Dataset) -> None:
    assert metrics_of(result) == ["top1", "top5", "changed", "loss", *FURTHER, "sure"]
    assert metric_of(result, "sure").share and metric_of(result, "sure").label == "sure ones"
    for name in metrics_of(result):
        cells = jr.accuracy(result, name)
        assert np.isfinite(cells["mean"]).all() and (cells["seeds"] >= 1).all(), name
        assert np.isfinite(cells.attrs["clean"]), name


def test_blocks_of_any_size_add_up_to_the_same(source: jr.ImageSource) -> None:
    def found(block: int) -> xarray.Dataset:
        how: dict[str, Any] = dict(perturbations=["weight_noise"], strengths=[0.5], seeds=2)
        return jr.sweep(NETWORKS["chain"](), source, block=block, metrics=FURTHER, **how)

    one, other = found(4), found(9)
    for name in FURTHER:
        left, right = (jr.accuracy(each, name)["mean"] for each in (one, other))
        np.testing.assert_allclose(left, right, rtol=1e-5)


@pytest.mark.parametrize("name", [*REGISTRY, "sure"])
def test_every_metric_can_be_drawn(result: xarray.Dataset, name: str) -> None:
    label = metric_of(result, name).axis_label
    curves = accuracy_curves(result, name)
    assert curves.axes[0].get_ylabel() == label
    percent = "%" in curves.axes[0].yaxis.get_major_formatter()(0.5)
    assert percent == metric_of(result, name).share
    assert heat_map(result, name).axes
    assert layer_summary(result, name).axes
    assert metric_of(result, name).label.lower() in caption(result, "curves", name).lower()


def test_a_part_of_a_result_still_knows_its_metrics(run: Path, result: xarray.Dataset) -> None:
    part = jr.accuracy(result.sel(layer="fc", perturbation="weight_noise"), "calibration_error")
    assert part["mean"].dims == ("strength",)
    with pytest.raises(jr.SpecificationError, match="calibration_error is no mean over images"):
        jr.accuracy(jr.open_run(run, blocks=True), "calibration_error", over="seeds+images")
    both = jr.accuracy(jr.open_run(run, blocks=True), "brier", over="seeds+images")
    np.testing.assert_allclose(both["mean"], jr.accuracy(result, "brier")["mean"], rtol=1e-5)


def test_metrics_that_are_not_there_end_in_one_line(source: jr.ImageSource) -> None:
    def error(metrics: Any) -> str:
        with pytest.raises(jr.SpecificationError) as caught:
            jr.sweep(NETWORKS["chain"](), source, strengths=[0.5], seeds=1, metrics=metrics)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "unknown metric 'breir': did you mean brier" in error("breir")
    assert "a metric is named twice: kl, kl" in error(["kl", "kl"])
    assert "or names or jaxrobust.Metric objects" in error(5)
    assert "cannot import the metric 'nowhere:nothing'" in error("nowhere:nothing")
    assert "metric 'top1': that name is taken" in error({"top1": lambda *given: given[0][:, 0]})
    assert "shape (8, 3), are needed" in error(jr.Metric("m", lambda x, *_: x[:, 0], bins=3))
    assert "a name, a function or a Metric is needed" in error({"x": 3})
    assert "unknown metric ':foo'" in error(":foo") and "unknown metric 'm:'" in error("m:")
    two = [jr.Metric(f"m{n}", lambda x, *_, n=n: x[:, :n], bins=n) for n in (2, 3)]
    assert "other numbers of bins in one sweep: m2 2, m3 3" in error(two)
    assert "true or false is needed" in error(jr.Metric("m", lambda x, *_: x[:, 0], share=True))


def test_a_folder_with_other_metrics_is_refused_in_words(run: Path, source: jr.ImageSource) -> None:
    how: dict[str, Any] = dict(perturbations=["weight_noise", "synapse_knockout"], block=5)
    for extend in (False, True):
        with pytest.raises(jr.SpecificationError, match="metrics top1 .*, not top1 .* kl: choose"):
            jr.sweep(
                NETWORKS["chain"](),
                source,
                strengths=[0, 0.4, 0.8],
                seeds=3,
                metrics="kl",
                run_dir=run,
                extend=extend,
                **how,
            )


def test_a_registered_metric_of_the_users_is_checked(source: jr.ImageSource) -> None:
    @jr.metric("against the others")
    def against(logits: Any, labels: Any, clean_logits: Any) -> Any:
        return logits[:, 0] - logits[:, 0].mean()

    try:
        with pytest.raises(jr.SpecificationError, match="must look at each image on its own"):
            jr.sweep(NETWORKS["chain"](), source, strengths=[0.5], seeds=1, metrics=against)
    finally:
        REGISTRY.pop("against the others")


def test_the_command_takes_names_and_import_paths(source: jr.ImageSource, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    network = tmp_path / "network"
    command = [sys.executable, "-m", "jaxrobust", "sweep", "alexnet-glyphs", "--data", "glyphs"]
    command += ["--images", "20", "--layers", "fc8", "--strengths", "0.5", "--seeds", "3"]
    command += ["--perturbations", "node_knockout", "--out", str(network)]
    asked = ["--metrics", "brier", "mine:greatest", "mine:sure"]
    done = subprocess.run([*command, *asked], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = jr.open_run(network)
    assert metrics_of(found)[4:] == ["brier", "greatest", "sure"]
    assert found["sure"].dtype.kind == "i" and "nonfinite_greatest" in found
    (tmp_path / "mine.py").unlink()  # what is drawn does not need it
    report = [sys.executable, "-m", "jaxrobust", "report", str(network)]
    subprocess.run(report, cwd=tmp_path, check=True, capture_output=True)
    drawn = {file.stem for file in (network / "figures").glob("*.png")}
    assert {"brier", "greatest", "sure"} <= drawn
    assert "Sure ones under damage" in (network / "report.html").read_text()
