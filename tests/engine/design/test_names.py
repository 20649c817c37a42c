"""Names come back from a run folder as they were given, or are refused before anything runs."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas
import pytest
import xarray
from networks_for_tests import PREPROCESSING
from sweeps_for_tests import refusal, save, small_sweep

import jaxrobust as jr
from jaxrobust.perturbations import REGISTRY
from jaxrobust.report import write_report
from jaxrobust.storage.status import status

HELD = ["9 lives", "a.b", "a:b", "é", "日本語", "a{x}'[", "margin of 1", "x" * 150, "_%"]
# Labels and attributes can be what names of variables cannot.
LABELS = [*HELD, "loss/image", ".", "a ", "e\u0301", "{x}", "'", "["]
# No text, or text that cannot be stored: control characters and what was no UTF-8.
NEVER = ["a\0b", "\0", "a\udce9", "\ud800", "a\nb", "a\tb", "\x1b[2J", "\x7f", "a\x85b"]
NO_TEXT: list[Any] = [1, None, b"bytes", ("a", "b"), 0.5]
NO_VARIABLE = [
    "",
    " ",
    "loss/image",
    "/",
    "a/",
    ".",
    "..",
    ".x",
    "a ",
    " a",
    "a\u2028b",
    "a\u00a0b",
]
NO_VARIABLE += [
    "-x",
    "x" * 300,
    "é" * 150,
    "_nc4_non_coord_x",
    "nonfinite_x",
    "seen_bits",
    "{x}",
    "'",
]


def metric(logits: Any, labels: Any, clean: Any) -> Any:
    return logits[:, 0]


def test_metrics_come_back_under_their_names(
    net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    metrics, out = dict.fromkeys(HELD, metric), tmp_path / "run"
    result = small_sweep(net, source, metrics=metrics, run_dir=out, seeds=1, blocks=True)
    xarray.testing.assert_identical(jr.open_run(out, blocks=True), result)
    rows = pandas.read_csv(out / "results.csv")
    for name in HELD:
        assert rows[name].item() == pytest.approx(result[name].sum().item())
        assert jr.accuracy(result, name)["mean"].shape == (1, 1, 1)


@pytest.mark.parametrize("name", NEVER + NO_TEXT + NO_VARIABLE, ids=ascii)
def test_a_metric_that_netcdf_cannot_hold_is_refused(
    name: Any, net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    message = refusal(small_sweep, net, source, metrics={name: metric}, run_dir=out)
    assert message.startswith("metric ") and message.isprintable() and not out.exists()


def test_metrics_that_only_normalisation_tells_apart_are_refused(
    net: jr.Network, source: jr.ImageSource
) -> None:
    both = {"\u00e9": metric, "e\u0301": metric}
    assert "netCDF cannot tell it from" in refusal(small_sweep, net, source, metrics=both)
    for wrong in ([metric], metric, 5):
        message = refusal(small_sweep, net, source, metrics=wrong)
        assert "a mapping from names to functions is needed" in message


def given(what: str, name: Any, net: jr.Network) -> tuple[jr.Network, dict[str, Any]]:
    """A network and arguments of a sweep in which something has a name."""
    if what == "group of layers":
        return net, {"layers": {name: ["conv1", "fc"]}}
    if what == "layer":
        params = {name: net.params["fc"]}

        def apply(params: Any, images: Any) -> Any:
            x = jnp.tile(images.mean((1, 2)), (1, 27))[:, :80]
            return x @ params[name]["w"] + params[name]["b"][None]

        return jr.Network(apply, params, name="own", preprocessing=PREPROCESSING), {"layers": "all"}
    return replace(net, name=name), {}


def test_groups_of_layers_come_back_under_their_names(
    net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    layers = dict.fromkeys(LABELS, "fc")
    result = small_sweep(net, source, layers=layers, run_dir=tmp_path, seeds=1, blocks=True)
    xarray.testing.assert_identical(jr.open_run(tmp_path, blocks=True), result)
    assert result.layer.values.tolist() == LABELS and "finished" in status(tmp_path)


@pytest.mark.parametrize("what", ["layer", "network"])
def test_a_label_comes_back_as_it_was(
    what: str, net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    named, options = given(what, "".join(LABELS), net)
    result = small_sweep(named, source, **options, run_dir=tmp_path, seeds=1, blocks=True)
    xarray.testing.assert_identical(jr.open_run(tmp_path, blocks=True), result)
    label = result.attrs["network"] if what == "network" else result.layer.item()
    assert what == "layer" or label == "".join(LABELS)


@pytest.mark.parametrize("what", ["group of layers", "layer", "network"])
@pytest.mark.parametrize("name", [*NEVER, *NO_TEXT[:3]], ids=ascii)
def test_a_label_that_cannot_be_stored_is_refused(
    what: str, name: Any, net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    if what == "layer" and not isinstance(name, str):
        return  # paths of parameters are text
    out = tmp_path / "run"
    named, options = given(what, name, net)
    message = refusal(small_sweep, named, source, **options, run_dir=out)
    assert message.startswith(what) and message.isprintable() and not out.exists()


def test_a_group_without_a_name_is_refused(net: jr.Network, source: jr.ImageSource) -> None:
    assert "needs a name" in refusal(small_sweep, net, source, layers={"": ["fc"]})


@pytest.mark.usefixtures("own_registry")
def test_perturbations_have_names_that_can_be_stored(
    net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    made = REGISTRY["synapse_knockout"]
    for name in [*NEVER, *NO_TEXT, ""]:
        message = refusal(replace, made, name=name)
        assert "perturbation" in message and message.isprintable()
    held = [replace(made, name=name) for name in LABELS]
    result = small_sweep(net, source, perturbations=held, run_dir=tmp_path, seeds=1, blocks=True)
    xarray.testing.assert_identical(jr.open_run(tmp_path, blocks=True), result)
    assert result.perturbation.values.tolist() == [each.name for each in held]


def test_a_folder_of_images_that_is_not_utf_8(net: jr.Network, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    source = save(Path(os.fsdecode(folder)) / "images.npz")
    out = tmp_path / "run"
    message = refusal(small_sweep, net, source, run_dir=out)
    assert message.startswith("data source 'npz:") and "'\\udce9' in it" in message
    assert message.isprintable() and not out.exists()
    assert jr.evaluate(net, source).images == len(source)


def test_a_report_of_strange_names(net: jr.Network, source: jr.ImageSource, tmp_path: Path) -> None:
    layers = {name: ["fc"] for name in ("<b>&", "loss/image", "{}$x")}
    result = small_sweep(net, source, layers=layers, run_dir=tmp_path, metrics={"9%": metric})
    assert write_report(tmp_path)[0].exists() and np.isfinite(result["9%"]).all()
