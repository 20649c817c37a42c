"""Which images were right, kept by a sweep: against a loop, resumed, extended, refused."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import xarray
from networks_for_tests import CLASSES
from sweeps_for_tests import BLOCK, IMAGES, refusal, small_sweep

import jaxrobust as jr
from jaxrobust.data.progress import PREPARING

ARGUMENTS: dict[str, Any] = dict(
    perturbations=["synapse_knockout", "weight_noise"],
    layers=["conv2", "fc"],
    strengths=[0, 0.3, 0.6],
    seeds=3,
    keep="images",
)
CELL = ("perturbation", "layer", "strength", "seed")


def sweep(net: jr.Network, source: jr.ImageSource, **changes: Any) -> xarray.Dataset:
    return small_sweep(net, source, **{**ARGUMENTS, "blocks": True, **changes})


def check_sums(result: xarray.Dataset, block: int = BLOCK) -> None:
    """In every trial and block as many images are right as were counted."""
    starts = np.arange(0, result.sizes["image"], block)
    for metric in ("top1", "top5", "clean_top1", "clean_top5"):
        found = jr.right(result, metric).values.astype(int)
        np.testing.assert_array_equal(np.add.reduceat(found, starts, -1), result[metric])


@pytest.fixture(scope="module")
def by_hand(net: jr.Network, source: jr.ImageSource) -> dict[str, np.ndarray]:
    """By a loop over trials: metric -> bool [perturbation, layer, strength, seed, image]."""
    batch, labels = net.prepare(source)
    apply = jax.jit(net.apply)
    grid = [ARGUMENTS[name] for name in ("perturbations", "layers", "strengths")]
    shape = (*map(len, grid), ARGUMENTS["seeds"], IMAGES)
    found = {"top1": np.zeros(shape, bool), "top5": np.zeros(shape, bool)}
    for place in np.ndindex(shape[:-1]):
        name, layer, strength = (values[at] for values, at in zip(grid, place[:3], strict=True))
        damaged = jr.perturb(net, name, layer=layer, strength=strength, seed=place[3])
        with jax.default_matmul_precision("highest"):
            logits = np.asarray(apply(damaged, batch))
        best = np.argsort(-logits, axis=1, kind="stable")
        found["top1"][place] = best[:, 0] == labels
        found["top5"][place] = (best[:, :5] == np.asarray(labels)[:, None]).any(1)
    return found


@pytest.mark.parametrize(
    ("block", "options"),
    [
        (8, jr.Options(images_per_step=3, trials_per_step=4)),
        (1, jr.Options(images_per_step=11)),
        (7, jr.Options(images_per_step=10, trials_per_step=1)),
        (5, jr.Options(images_per_step=1, share=False)),
        (64, jr.Options(images_per_step=5, hoist=False)),
    ],
)
def test_the_right_images_are_those_of_a_loop(
    block: int,
    options: jr.Options,
    net: jr.Network,
    source: jr.ImageSource,
    by_hand: dict[str, np.ndarray],
) -> None:
    result = sweep(net, source, block=block, options=options)
    for metric, expected in by_hand.items():
        found = jr.right(result, metric)
        assert found.dims == (*CELL, "image")
        np.testing.assert_array_equal(found, expected)
        undamaged = jr.right(result, f"clean_{metric}")
        np.testing.assert_array_equal(undamaged, expected[0, 0, 0, 0])
    check_sums(result, block)


def test_accuracy_per_class(
    net: jr.Network, source: jr.ImageSource, by_hand: dict[str, np.ndarray], tmp_path: Path
) -> None:
    result = sweep(net, source, run_dir=tmp_path, blocks=False)
    assert jr.open_run(tmp_path).identical(result)
    assert "bits" not in (tmp_path / "results.csv").read_text()
    found = jr.right(result)
    classes = found.where(found.seen).groupby("label").mean("image")
    labels = np.asarray(source.labels)
    for label in range(CLASSES):
        expected = by_hand["top1"][..., labels == label].mean(-1)
        np.testing.assert_allclose(classes.sel(label=label), expected)
    trial = dict(perturbation="weight_noise", layer="fc", strength=0.3, seed=1)
    part = jr.right(result.sel(trial))
    np.testing.assert_array_equal(part, by_hand["top1"][1, 1, 1, 1])
    assert part.seen.all()


def test_a_sweep_that_was_interrupted_has_the_images_that_it_has_counted(
    net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what not in PREPARING and done > 15.5 * IMAGES:
            raise KeyboardInterrupt

    options = jr.Options(trials_per_step=2, images_per_step=7)
    with pytest.raises(KeyboardInterrupt):
        sweep(net, source, options=options, run_dir=tmp_path, report=stop)
    found = jr.open_run(tmp_path, blocks=True)
    check_sums(found)
    right = jr.right(found)
    assert right.seen.any() and not right.seen.all() and not right.where(~right.seen, False).any()
    result = sweep(net, source, options=options, run_dir=tmp_path)
    check_sums(result)
    assert result.identical(sweep(net, source, options=options))


@pytest.mark.parametrize(
    "less",
    [dict(images=13), dict(images=20, seeds=2), dict(layers=["fc"], strengths=[0.6])],
    ids=str,
)
def test_an_extended_sweep_has_the_images_of_the_larger_one(
    less: dict[str, Any], net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    less = dict(less)
    options = jr.Options(trials_per_step=2, images_per_step=7)
    few = source[: less.pop("images", IMAGES)]
    check_sums(sweep(net, few, options=options, run_dir=tmp_path, **less))
    result = sweep(net, source, options=options, run_dir=tmp_path, extend=True)
    check_sums(result)
    whole = sweep(net, source, options=options)
    for metric in ("top1", "top5", "clean_top1", "clean_top5"):
        assert jr.right(result, metric).identical(jr.right(whole, metric))


def test_a_sweep_to_a_precision_has_the_images_that_its_seeds_saw(
    net: jr.Network, source: jr.ImageSource, by_hand: dict[str, np.ndarray]
) -> None:
    result = sweep(net, source, block=5, seeds=None, precision=0.15)
    found = jr.right(result)
    summed = result.sum("block")
    np.testing.assert_array_equal(found.seen.sum("image"), summed.images)
    np.testing.assert_array_equal(found.sum("image"), summed.top1)
    assert found.seen.any() and not found.seen.all() and not found.where(~found.seen, False).any()
    first = found.isel(seed=slice(ARGUMENTS["seeds"]))
    seen = first.seen.values
    np.testing.assert_array_equal(first.values[seen], by_hand["top1"][seen])


def test_what_is_kept_cannot_be_changed_later(
    net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    for held, asked in (("counts", "images"), ("images", "counts")):
        run = tmp_path / held
        small_sweep(net, source, keep=held, run_dir=run)
        for extend in (False, True):
            message = refusal(
                small_sweep, net, source, keep=asked, seeds=4, run_dir=run, extend=extend
            )
            assert f"keep {held}, not {asked}: choose another folder" in message
    message = refusal(jr.right, jr.open_run(tmp_path / "counts"))
    assert 'sweep(..., keep="images") or --keep images' in message
    message = refusal(jr.right, jr.open_run(tmp_path / "images"), "loss")
    assert message.startswith("unknown metric 'loss': possible: top1, top5, clean_top1, ")
    message = refusal(jr.accuracy, jr.open_run(tmp_path / "images"), "top1_bits")
    assert "possible: top1, top5, changed, loss" in message
    assert "unknown keep 'all'" in refusal(small_sweep, net, source, keep="all")


def test_images_that_would_not_fit_into_memory_are_refused(
    net: jr.Network, source: jr.ImageSource
) -> None:
    # 30,000 trials × blocks of 28 bytes, with images of 32.
    arguments = dict(seeds=10_000, options=jr.Options(memory=4 * 30_000 * 30))
    assert "B of sums" in refusal(small_sweep, net, source, keep="images", **arguments)
