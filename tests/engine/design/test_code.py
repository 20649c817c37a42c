"""A run folder is gone on with only by code that computes the same."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from networks_for_tests import PREPROCESSING
from sweeps_for_tests import refusal, small_sweep

import jaxrobust as jr
from jaxrobust.design.specification import Specification
from jaxrobust.perturbations import REGISTRY
from jaxrobust.report import write_report
from jaxrobust.storage import in_folder
from jaxrobust.storage.status import status


def shrink(drawn: float = 1.0, applied: float = 1.0, amount: float = 1.0) -> jr.Perturbation:
    def draw(key: Any, layer: Any) -> Any:
        return {leaf.path: drawn * jax.random.uniform(key, leaf.shape) for leaf in layer.leaves}

    def apply(leaves: Any, noise: Any, amounts: Any) -> Any:
        return {p: leaf * (1 - applied * noise[p] * amounts[p]) for p, leaf in leaves.items()}

    def amounts(layer: Any, strength: Any) -> Any:
        return {leaf.path: amount * float(strength) for leaf in layer.leaves}

    return jr.Perturbation("shrink", amounts, draw, apply)


def renamed_shrink() -> jr.Perturbation:
    """The same in other words."""

    def how_much(part: Any, much: Any) -> Any:
        found = {}
        for each in part.leaves:
            found[each.path] = float(much)
        return found

    def damaged(given: Any, drawn: Any, amounts: Any) -> Any:
        made = {}
        for path in given:
            factor = 1 - 1.0 * drawn[path] * amounts[path]
            made[path] = given[path] * factor
        return made

    def drawn(k: Any, part: Any) -> Any:
        return {one.path: 1.0 * jax.random.uniform(k, one.shape) for one in part.leaves}

    return jr.Perturbation("shrink", how_much, drawn, damaged, import_path="elsewhere:shrink")


def margin(scale: float) -> Callable:
    return lambda logits, labels, clean: scale * logits[:, 0]


def network(scale: float = 2.0, hidden: float = 1.0) -> jr.Network:
    table = jnp.full((1, 7), hidden)

    def apply(params: Any, images: Any) -> Any:
        def step(x: Any, row: Any) -> Any:
            return jnp.tanh(x) * table + row, None

        x = images.mean((1, 2)) * scale
        return jax.lax.scan(step, x @ params["fc"]["w"], jnp.zeros((2, 1, 7)))[0]

    kernel = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    return jr.Network(
        apply, {"fc": {"w": jnp.asarray(kernel)}}, name="own", preprocessing=PREPROCESSING
    )


def run(
    source: jr.ImageSource, folder: Path, net: jr.Network | None = None, **changes: Any
) -> xarray.Dataset:
    asked: dict[str, Any] = dict(
        perturbations=[shrink()], metrics={"margin": margin(1.0)}, run_dir=folder
    )
    return small_sweep(net or network(), source, **{**asked, **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"perturbations": [shrink(drawn=0.9)]}, "perturbation shrink computes otherwise (draw)"),
        ({"perturbations": [shrink(applied=0.9)]}, "perturbation shrink computes otherwise (apply"),
        ({"perturbations": [shrink(amount=0.9)]}, "perturbation shrink computes otherwise (amount"),
        ({"metrics": {"margin": margin(2.0)}}, "metric margin computes otherwise (function)"),
        ({"net": network(scale=3.0)}, "network own computes otherwise (apply)"),
        ({"net": network(hidden=0.5)}, "network own computes otherwise (apply)"),
    ],
)
@pytest.mark.parametrize("extend", [False, True])
def test_code_that_computes_otherwise_is_refused(
    changes: dict[str, Any], named: str, extend: bool, source: jr.ImageSource, tmp_path: Path
) -> None:
    first = run(source, tmp_path)
    more = {"seeds": 3, "strengths": [0.2, 0.5]} if extend else {}
    message = refusal(run, source, tmp_path, extend=extend, **more, **changes)
    assert f"{tmp_path} holds another sweep: " in message and named in message
    assert message.count("otherwise") == 1 and "choose another folder" in message
    assert run(source, tmp_path).identical(first)


def test_code_that_computes_the_same_goes_on_whatever_it_looks_like(
    source: jr.ImageSource, tmp_path: Path
) -> None:
    first = run(source, tmp_path)

    def left(scores: Any, classes: Any, before: Any) -> Any:
        unused = jnp.exp(scores)  # noqa: F841
        return 1.0 * scores[:, 0]

    same: dict[str, Any] = dict(perturbations=[renamed_shrink()], metrics={"margin": jax.jit(left)})
    assert run(source, tmp_path, **same).identical(first)
    larger = run(source, tmp_path, **same, seeds=3, strengths=[0, 0.2, 0.5], extend=True)
    assert larger.top1.sel(strength=[0.5], seed=[0, 1]).equals(first.top1)


def test_a_perturbation_that_takes_the_name_of_a_built_in_one_is_another(
    net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    small_sweep(net, source, run_dir=tmp_path)
    own = dataclasses.replace(shrink(), name="synapse_knockout")
    message = refusal(small_sweep, net, source, perturbations=[own], run_dir=tmp_path)
    assert "perturbation synapse_knockout computes otherwise" in message


def test_a_built_in_perturbation_of_another_version_is_refused(
    net: jr.Network, source: jr.ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_sweep(net, source, run_dir=tmp_path)
    newer = dataclasses.replace(REGISTRY["synapse_knockout"], version=2)
    monkeypatch.setitem(REGISTRY, "synapse_knockout", newer)
    message = refusal(small_sweep, net, source, run_dir=tmp_path)
    assert "perturbation synapse_knockout computes otherwise (version)" in message


def test_an_upgrade_that_may_be_the_reason_is_named(
    source: jr.ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(source, tmp_path)
    versions = in_folder.versions()
    monkeypatch.setattr(in_folder, "versions", lambda: {**versions, "jax": "0.99"})
    assert "jax was" not in refusal(run, source, tmp_path, root=1)
    message = refusal(run, source, tmp_path, net=network(scale=3.0))
    assert f"jax was {versions['jax']} and is 0.99, which may be why" in message
    assert message.endswith("go on with the version before, or choose another folder")
    assert run(source, tmp_path).attrs["finished"], "an upgrade alone is no reason"


@pytest.mark.parametrize("finished", [True, False])
def test_folders_that_do_not_say_what_their_code_computes_are_only_read(
    finished: bool, source: jr.ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_json = Specification.to_json
    with monkeypatch.context() as before:
        before.setattr(
            Specification,
            "to_json",
            lambda spec: {name: each for name, each in to_json(spec).items() if name != "code"},
        )
        result = run(source, tmp_path)
    record = json.loads((tmp_path / "sweep.json").read_text())
    (tmp_path / "sweep.json").write_text(json.dumps({**record, "finished": finished}))
    for extend in (False, True):
        message = refusal(run, source, tmp_path, extend=extend, seeds=3)
        assert "did not record what its code computes" in message
        assert "it can be opened and reported, but not gone on with" in message
    np.testing.assert_array_equal(jr.open_run(tmp_path).top1, result.top1)
    assert "own" in write_report(tmp_path)[0].read_text()
    assert status(tmp_path)
