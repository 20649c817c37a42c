"""Whatever xarray makes of a result is a result, or is refused in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from results_for_tests import (
    ALEXNET,
    KNOCKOUTS,
    STUDY,
    like_the_study,
    made,
    made_precise,
)

import jaxrobust as jr
from jaxrobust.figures import accuracy_curves, caption, heat_map, layer_summary
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.summary import findings, half_text, text_table

SLICES: list[dict[str, Any]] = [
    {"layer": "conv2"},
    {"perturbation": "weight_noise"},
    {"strength": 0.2},
    {"layer": "conv2", "perturbation": "synapse_knockout"},
    {"layer": "conv2", "perturbation": "synapse_knockout", "strength": 0.2},
    {"layer": ["conv2", "conv1"], "strength": [0.2, 0.4]},
]


@pytest.fixture(scope="module")
def result() -> xarray.Dataset:
    return made(like_the_study, STUDY, ALEXNET[:3])


@pytest.mark.parametrize("where", SLICES, ids=str)
def test_accuracy_of_a_part_is_the_part_of_the_accuracy(
    result: xarray.Dataset, where: dict[str, Any]
) -> None:
    for over in ("seeds", "seeds+images"):
        whole = jr.accuracy(result, "top5", over=over)
        xarray.testing.assert_identical(
            jr.accuracy(result.sel(where), "top5", over=over), whole.sel(where)
        )
    precise = made_precise(lambda *_: 48, 0.01)
    if "weight_noise" not in where.values() and where.get("strength") in (None, 0.3):
        xarray.testing.assert_identical(
            jr.accuracy(precise.sel(where)), jr.accuracy(precise).sel(where)
        )


@pytest.mark.parametrize("where", SLICES[:2] + SLICES[3:4], ids=str)
def test_by_layer_of_a_part_is_the_part_of_by_layer(
    result: xarray.Dataset, where: dict[str, Any]
) -> None:
    found, expected = jr.by_layer(result.sel(where)), jr.by_layer(result).sel(where)
    xarray.testing.assert_allclose(found, expected, rtol=1e-13)
    assert found.attrs == expected.attrs and set(found.coords) == set(expected.coords)


def test_one_seed_alone_or_in_a_list(result: xarray.Dataset) -> None:
    one, few = jr.accuracy(result.isel(seed=0)), jr.accuracy(result.isel(seed=[0]))
    xarray.testing.assert_identical(one, few)
    expected = result["top1"].isel(seed=0, block=0) / 1000
    expected = expected.where(result["images"].isel(seed=0, block=0) > 0)
    np.testing.assert_array_equal(one["mean"], expected)
    assert int(one["seeds"].max()) == 1 and np.isnan(one["low"]).all()
    xarray.testing.assert_identical(
        jr.by_layer(result.isel(seed=0)), jr.by_layer(result.isel(seed=[0])).isel(seed=0)
    )


def test_the_order_of_dimensions_and_of_labels_does_not_matter(result: xarray.Dataset) -> None:
    turned = result.transpose("block", "seed", "strength", "layer", "perturbation")
    turned = turned.isel(strength=slice(None, None, -1))
    for derived in (jr.accuracy, jr.by_layer):
        expected = derived(result)
        xarray.testing.assert_identical(derived(turned).reindex_like(expected), expected)


def test_a_mask_leaves_what_it_keeps(result: xarray.Dataset) -> None:
    masked, whole = result.where(result["layer"] == "conv1"), jr.accuracy(result)
    found = jr.accuracy(masked)
    xarray.testing.assert_identical(found.sel(layer="conv1"), whole.sel(layer="conv1"))
    assert int(found["seeds"].sel(layer=["conv2", "conv3"]).sum()) == 0
    assert np.isnan(found["mean"].sel(layer=["conv2", "conv3"])).all()
    few = jr.accuracy(result.where(result["seed"] < 3, drop=True))
    xarray.testing.assert_identical(few, jr.accuracy(result.isel(seed=slice(3))))
    good = result.where(result["top1"] > 400)  # some trials of a cell
    assert {0, 4} < set(jr.accuracy(good)["seeds"].values.ravel().tolist())
    expected = jr.by_layer(result).sel(layer="conv1")
    xarray.testing.assert_identical(jr.by_layer(masked).sel(layer="conv1"), expected)


def test_several_results_have_a_dimension_of_their_own(result: xarray.Dataset) -> None:
    other = made(like_the_study, STUDY, ALEXNET[:3], seeds=2).assign(clean_top1=("block", [700]))
    joined = xarray.concat([result, other], "run", join="outer")
    for derived in (jr.accuracy, jr.by_layer):
        found = derived(joined)
        assert found["clean"].values.tolist() == [0.8, 0.7]
        for index, alone in enumerate((result, other)):
            expected = derived(alone)
            own = found.isel(run=index).drop_vars(["clean", "run"], errors="ignore")
            if "seed" in own.dims:
                own = own.sel(seed=expected["seed"])
            xarray.testing.assert_equal(own, expected)
    named = xarray.concat([result, result], xarray.Variable("run", ["a", "b"]))
    assert jr.accuracy(named).sel(run="b")["mean"].shape == (2, 3, 16)
    with pytest.raises(SpecificationError, match="also has the dimension 'run'.*isel.run=0.$"):
        accuracy_curves(joined)


@pytest.mark.parametrize("along", ["perturbation", "layer", "strength", "seed"])
def test_parts_join_to_the_whole(result: xarray.Dataset, along: str) -> None:
    parts = [result.isel({along: slice(1, None)}), result.isel({along: slice(1)})]
    joined = xarray.concat(parts, along, data_vars="all")
    order = {} if along == "seed" else {along: result[along]}
    xarray.testing.assert_allclose(jr.accuracy(joined).sel(order), jr.accuracy(result))
    table, expected = jr.by_layer(joined), jr.by_layer(result)
    if along == "perturbation":
        table = table.sel(order)
    xarray.testing.assert_allclose(table["area"], expected["area"])


REFUSED: dict[str, tuple[Callable[[xarray.Dataset], Any], str]] = {
    "mean": (lambda r: r.mean("seed"), "no labels 'seed'.*a mean.*is no result"),
    "sum": (lambda r: r.sum("layer"), "no labels 'layer'"),
    "drop": (lambda r: r.sel(layer="conv1", drop=True), "no labels 'layer'.*without drop=True"),
    "no coordinate": (lambda r: r.drop_vars("strength"), "no labels 'strength'"),
    "empty": (lambda r: r.isel(layer=[]), "is empty: it holds no layer"),
    "twice": (
        lambda r: xarray.concat([r, r], "layer", data_vars="all"),
        "holds the layer 'conv1' twice: join",
    ),
    "an array": (lambda r: r["top1"], "is needed, not a DataArray"),
    "a path": (lambda r: "runs/mine", "is needed, not a str"),
    "nothing": (lambda r: None, "is needed, not a NoneType"),
    "no images": (lambda r: r[["top1", "clean_images"]], "this dataset has no images"),
    "no undamaged": (lambda r: r.drop_vars("clean_top1"), "no clean_top1, which top1 needs"),
    "other networks": (
        lambda r: xarray.concat(
            [r, r.assign(clean_top1=r["clean_top1"] - 1)], "seed", data_vars="all"
        ),
        "clean_top1 differs along seed: these results are of other images or networks",
    ),
    "no attributes": (
        lambda r: made_precise(lambda *_: 48, 0.01).drop_attrs(),
        "a sweep to a precision has lost its attributes",
    ),
}


@pytest.mark.parametrize("how", REFUSED)
@pytest.mark.parametrize("derived", [jr.accuracy, jr.by_layer, text_table, accuracy_curves])
def test_what_is_no_part_of_a_result_is_refused_in_one_line(
    result: xarray.Dataset, how: str, derived: Callable[..., Any]
) -> None:
    make, message = REFUSED[how]
    metric = () if derived is text_table else ("top1",)
    with pytest.raises(SpecificationError, match=message) as caught:
        derived(make(result), *metric)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "where", [{"layer": "conv1"}, {"seed": 0}, {"perturbation": "weight_noise"}], ids=str
)
def test_a_part_can_be_drawn_and_told(result: xarray.Dataset, where: dict[str, Any]) -> None:
    part = result.sel(where)
    for draw in (accuracy_curves, heat_map, layer_summary):
        assert draw(part, "top1").axes
    assert caption(part, "curves") and caption(part, "heat") and caption(part, "layers")
    assert text_table(part).startswith("top-1 accuracy left (undamaged: 80.0%)")
    assert len(findings(part)) == 5
    if "layer" in where:
        table = jr.by_layer(part)
        assert "layer" not in table.dims and half_text(table.isel(perturbation=0))


def test_a_part_survives_netcdf(result: xarray.Dataset, tmp_path: Path) -> None:
    for number, part in enumerate(
        (result.sel(layer="conv1"), result.isel(seed=0), result.where(result["strength"] < 1))
    ):
        part.to_netcdf(tmp_path / f"{number}.nc", engine="h5netcdf")
        read = xarray.open_dataset(tmp_path / f"{number}.nc", engine="h5netcdf")
        for derived in (jr.accuracy, jr.by_layer):
            xarray.testing.assert_identical(derived(read), derived(part))
        read.close()
    derived = jr.by_layer(result)
    derived.to_netcdf(tmp_path / "derived.nc", engine="h5netcdf")
    xarray.testing.assert_identical(
        xarray.load_dataset(tmp_path / "derived.nc", engine="h5netcdf"), derived
    )


def with_images() -> xarray.Dataset:
    """11 images that seeds get right as the bits of their number say."""
    result = made(lambda *_: 0.5, {"resample": KNOCKOUTS[:2]}, ("fc",), seeds=3)
    right = np.arange(11) % 4 == np.arange(3)[:, None]
    bits = np.packbits(np.broadcast_to(right, (1, 1, 2, 3, 11)), axis=-1)
    dims = (*result["images"].dims[:4], "byte")
    seen = np.full_like(bits, 255)
    own = {"top1_bits": (dims, bits), "top5_bits": (dims, bits), "seen_bits": (dims, seen)}
    clean = {f"clean_top{k}_bits": (("byte",), seen[0, 0, 0, 0]) for k in (1, 5)}
    labels = {"image": np.arange(11), "label": ("image", np.arange(11) % 5)}
    return result.assign(own | clean).assign_coords(labels)


def test_which_images_were_right_in_a_part() -> None:
    result = with_images()
    whole = jr.right(result)
    xarray.testing.assert_identical(jr.right(result.sel(seed=1)), whole.sel(seed=1))
    some = [9, 2, 10]
    xarray.testing.assert_identical(jr.right(result.isel(image=some)), whole.isel(image=some))
    xarray.testing.assert_identical(jr.right(result.isel(image=9)), whole.isel(image=9))
    masked = jr.right(result.where(result["seed"] == 2))
    assert not masked["seen"].sel(seed=[0, 1]).any()
    xarray.testing.assert_equal(masked.sel(seed=2), whole.sel(seed=2))
    clean = jr.right(result.where(result["seed"] == 2), "clean_top5")
    assert clean.dims == ("image",) and clean.all()
    joined = xarray.concat([result, result], "run", data_vars="all")
    xarray.testing.assert_equal(jr.right(joined).isel(run=1), whole)
    with pytest.raises(SpecificationError, match="counts are of all images"):
        jr.accuracy(result.isel(image=[1, 2]))
    with pytest.raises(SpecificationError, match="packed bits of this result were sliced"):
        jr.right(result.isel(byte=[0]))
    with pytest.raises(SpecificationError, match="has no images"):
        jr.right(whole)  # pyright: ignore[reportArgumentType]
