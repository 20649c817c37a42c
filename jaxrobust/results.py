"""The labelled result of a sweep, and what is known of each of its cells."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxrobust.errors import SpecificationError, unknown
from jaxrobust.precision import FEWEST, Goal, estimate
from jaxrobust.statistics import seed_and_image_interval, seed_interval

if TYPE_CHECKING:
    import pandas
    import xarray

# Prefixes of the names of arrays in a checkpoint: sums of trials, and of the undamaged network.
TRIALS, CLEAN = "trials/", "clean/"
LABELS, GOAL = "labels", "goal/"
# Which images were right, a bit for each: they add up over blocks, but not to one number.
BITS = ("top1_bits", "top5_bits")
_SEEN = "seen_bits"
# Of the undamaged network, on just the images that a trial saw: with a precision, not all of them.
CONTROL, CONTROLLED = "control_", ("top1", "top5")
DIMENSIONS = ("perturbation", "layer", "strength", "seed", "block")
_MEANING = {
    "images": "images seen; 0 for a trial that was not run",
    "top1": "images whose label has the greatest logit",
    "top5": "images whose label is among the five greatest logits",
    "changed": "images whose predicted class differs from the undamaged network's",
    "nonfinite": "images with a logit that is not finite (wrong, and not in the loss)",
    "loss": "summed cross entropy in nats, over images with finite logits",
}


def make_dataset(
    trials: Mapping[str, np.ndarray],
    clean: Mapping[str, np.ndarray],
    coordinates: Mapping[str, list[Any]],
    attributes: Mapping[str, Any],
) -> xarray.Dataset:
    """Labels the sums of a sweep.

    Args:
        trials: quantity -> sums [perturbation, layer, strength, seed, block].
        clean: quantity -> sums of the undamaged network [block].
        coordinates: perturbation, layer, strength -> values; seed and block count from 0.
        attributes: of the dataset.
    """
    import xarray

    variables = {name: (DIMENSIONS, values) for name, values in trials.items()}
    variables |= {f"clean_{name}": (("block",), values) for name, values in clean.items()}
    seeds, blocks = trials["images"].shape[-2:]
    result = xarray.Dataset(
        variables,
        coords={**coordinates, "seed": np.arange(seeds), "block": np.arange(blocks)},
        attrs=dict(attributes),
    )
    for name in result.data_vars:
        short = str(name).removeprefix("clean_").removeprefix(CONTROL)
        result[name].attrs["long_name"] = _MEANING.get(short, f"summed {short}")
    return result


def labelled(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> xarray.Dataset:
    """Labels the arrays of a checkpoint with its record.

    Of a sweep to a precision only what each trial was to see: what was counted besides, before
    that sweep or to settle how many blocks a seed sees, would give some images and seeds more
    weight than others.
    """
    if precise := "half_width" in record["attributes"]:
        arrays = _as_wanted(arrays, record)
    trials, clean = (
        {
            name.removeprefix(prefix): values
            for name, values in arrays.items()
            if name.startswith(prefix) and name.removeprefix(prefix) not in BITS
        }
        for prefix in (TRIALS, CLEAN)
    )
    if precise:
        for name in CONTROLLED:
            share = trials["images"] / np.maximum(clean["images"], 1)
            trials[CONTROL + name] = share * clean[name]
    result = make_dataset(trials, clean, record["coordinates"], record["attributes"])
    if LABELS not in arrays:
        return result
    labels, block = arrays[LABELS], record["specification"]["block"]
    whole = trials["images"] == clean["images"]
    byte = np.where(whole, np.uint8(255), np.uint8(0))[..., None]
    seen = _join_blocks(np.broadcast_to(byte, arrays[TRIALS + BITS[0]].shape), block, len(labels))
    meaning = {"long_name": "whether each image was seen, 8 images in a byte"}
    result[_SEEN] = ((*DIMENSIONS[:4], "byte"), seen, meaning)
    for name in BITS:
        meaning = {"long_name": f"whether each image was right at {name[:4]}, 8 images in a byte"}
        for prefix, own, dimensions in ((TRIALS, "", DIMENSIONS[:4]), (CLEAN, "clean_", ())):
            values = _join_blocks(arrays[prefix + name], block, len(labels))
            result[own + name] = ((*dimensions, "byte"), values, meaning)
    return result.assign_coords(image=np.arange(len(labels)), label=("image", labels))


def _as_wanted(
    arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The arrays with zeros for blocks that trials were not to see, and for trials under way.

    Trials at the strength that changes nothing were not run, and have seen all that there is.
    """
    names, strengths = (record["coordinates"][each] for each in ("perturbation", "strength"))
    random = ~np.isin(names, json.loads(record["attributes"]["exact"]))
    counted = arrays[TRIALS + "images"] == arrays[CLEAN + "images"]
    seeds, blocks = counted.shape[-2:]

    def whole(goal: Goal) -> np.ndarray:
        """What was wanted of the trials that have seen all that they were to see."""
        wanted = goal.wanted(seeds, blocks, record["specification"]["root"], random)
        return wanted & np.all(counted | ~wanted, axis=-1, keepdims=True)

    goal = Goal(arrays[GOAL + "seeds"], arrays[GOAL + "shown"])
    wanted = whole(goal)
    # Until a cell's first round is over there is more of the pilot: a block of each seed.
    few = wanted.any(-1).sum(-1) < np.minimum(goal.seeds, FEWEST)
    few[:, goal.unsettled] = True
    wanted = np.where(few[..., None, None], whole(goal.of_pilot), wanted)
    wanted |= _undamaged(names, strengths, record["attributes"])[:, None, :, None, None]
    masked = dict(arrays)
    for name, values in arrays.items():
        if name.startswith(TRIALS):
            own = wanted.reshape(wanted.shape + (1,) * (values.ndim - wanted.ndim))
            masked[name] = np.where(own, values, np.zeros((), values.dtype))
    return masked


def damaged_cells(result: xarray.Dataset) -> np.ndarray:
    """The cells for which a sweep to a precision runs trials, bool [perturbation, strength]."""
    damaged = json.loads(result.attrs["damaged"])
    names, strengths = result["perturbation"].values, result["strength"].values
    return np.asarray([np.isin(strengths, damaged[name]) for name in names])


def _undamaged(
    names: Iterable[str], strengths: Iterable[float], attributes: Mapping[str, Any]
) -> np.ndarray:
    """Where a strength changes nothing, bool [perturbation, strength]."""
    identity = json.loads(attributes["identity"])
    return np.asarray([[strength == identity[name] for strength in strengths] for name in names])


def _join_blocks(bits: np.ndarray, block: int, images: int) -> np.ndarray:
    """Bits [..., block, byte], each block from a byte's beginning, as [..., byte] without gaps."""
    trials = bits.shape[:-2]
    joined = np.empty((*trials, -(-images // 8)), np.uint8)
    for some in np.ndindex(trials[:-1]):  # unpacked they take eight times the memory
        unpacked = np.unpackbits(bits[some], axis=-1, count=block)
        unpacked = unpacked.reshape(*unpacked.shape[:-2], -1)[..., :images]
        joined[some] = np.packbits(unpacked, axis=-1)
    return joined


def sum_blocks(result: xarray.Dataset) -> xarray.Dataset:
    """The same result with the sums of all blocks added, in block order."""
    if "block" not in result.dims:
        return result
    # A NaN of a user's metric must not turn into a smaller sum.
    summed = result.sum("block", skipna=False, keep_attrs=True)
    return summed.assign(
        {name: values for name, values in result.items() if "block" not in values.dims}
    )


def accuracy(
    result: xarray.Dataset,
    metric: str = "top1",
    *,
    over: Literal["seeds", "seeds+images"] = "seeds",
    confidence: float = 0.95,
) -> xarray.Dataset:
    """The mean of a metric per image, per cell, with its interval.

    Args:
        result: from `sweep` or `open_run`.
        metric: `top1`, `top5`, `changed`, `loss` or one of the user's own.
        over: what the interval generalises over: "seeds", random damage on exactly these images;
            "seeds+images", also images like these (needs the result with its blocks).
        confidence: the nominal coverage.

    Returns:
        Dims perturbation, layer, strength; variables `mean`, `low`, `high`, `std` (over seeds),
        `seeds` and `images` (per seed), NaN where no trial has seen all images; `clean`, the
        undamaged network's mean, is an attribute, as are `estimand`, `method` and `confidence`.
        Of a sweep to a precision, for `top1` and `top5`, also `half_width`, `met`, whether that of
        the 95 % interval is what was asked for, and `trial_images`, all that the cell's trials saw.

    Raises:
        SpecificationError: an unknown metric, or blocks that are needed and not there.
    """
    import xarray

    known = [str(n) for n in result.data_vars if "seed" in result[n].dims]
    others = ("images", "nonfinite", _SEEN, *BITS)
    metrics = [n for n in known if n not in others and not n.startswith(CONTROL)]
    if metric not in metrics:
        raise SpecificationError(unknown("metric", metric, metrics))
    summed = sum_blocks(result)
    if over == "seeds" and CONTROL + metric in result:
        return _precise_accuracy(summed, metric, confidence)
    if over == "seeds":
        values = per_image(summed, metric)
        mean, low, high, std, seeds = seed_interval(values.values, confidence)
        estimand = "mean over damage draws on exactly these images"
        if "half_width" in result.attrs:
            estimand = "mean over damage draws, each on its own ones of these images"
        method = "Student-t over per-seed means"
    elif over == "seeds+images" and "half_width" in result.attrs:
        raise SpecificationError(
            'over="seeds+images": seeds of a sweep to a precision see different images; '
            'over="seeds" is possible'
        )
    elif over == "seeds+images":
        if "block" not in result.dims:
            raise SpecificationError(
                'over="seeds+images" needs the blocks: sweep(..., blocks=True) or '
                "open_run(..., blocks=True)"
            )
        seen = _counted(result, metric).where(_whole(result), np.nan)
        sums = result[metric].values.astype(np.float64)
        mean, low, high, std, seeds = seed_and_image_interval(sums, seen.values, confidence)
        estimand = "mean over damage draws and over images like these"
        method = "two-way random effects (seed, block), Satterthwaite"
    else:
        raise SpecificationError(unknown("over", over, ("seeds", "seeds+images")))
    cells = dict(mean=mean, low=low, high=high, std=std, seeds=seeds)
    made = xarray.Dataset(
        {name: (DIMENSIONS[:3], value) for name, value in cells.items()},
        coords={name: result.coords[name] for name in DIMENSIONS[:3]},
        attrs=dict(metric=metric, estimand=estimand, method=method, confidence=confidence),
    )
    made["images"] = summed["images"].where(_whole(summed), 0).max("seed")
    made.attrs["clean"] = float(per_image(summed, metric, "clean_"))
    return made


def cell_rows(result: xarray.Dataset) -> pandas.DataFrame:
    """The top-1 accuracy of each cell of a sweep to a precision, as `cells.csv` has it.

    Returns:
        A row for each damaged cell: `mean`, `low`, `high`, `half_width`, `seeds`, `images` (all
        that its trials saw) and `met`, whether the half-width is the one asked for.
    """
    import xarray

    damaged = xarray.DataArray(damaged_cells(result), dims=("perturbation", "strength"))
    names = ["mean", "low", "high", "half_width", "seeds", "images", "met"]
    cells = accuracy(result).drop_vars("images").rename(trial_images="images")
    rows = cells[names].assign(damaged=damaged).to_dataframe(dim_order=list(DIMENSIONS[:3]))
    return rows.loc[rows["damaged"], names]


def right(result: xarray.Dataset, metric: str = "top1") -> xarray.DataArray:
    """Which images were right: for analyses per image and per class, and for paired tests.

    Args:
        result: of a sweep with keep="images", or a part of it (`result.sel(layer="fc")`), as 1 byte
            per trial and image is made of it.
        metric: `top1` or `top5`; `clean_top1` or `clean_top5` for the undamaged network.

    Returns:
        bool [perturbation, layer, strength, seed, image] (clean: [image]), with the coordinates
        `label`, each image's class, and `seen`: whether a trial has seen an image, as it is False
        where it has not. Trials of a sweep to a precision do not see all of them.

    Raises:
        SpecificationError: an unknown metric, or a result without images.

    Example:
        Accuracy per class, in each trial:

            found = jr.right(result)
            found.where(found.seen).groupby("label").mean("image")

        McNemar's exact test of whether two cells differ, on the images on which they do (McNemar
        1947, Psychometrika 12): a sign test, here of two layers damaged with the same seed.

            one, other = found.sel(layer="conv1"), found.sel(layer="fc6")  # then one trial each
            both = one.seen & other.seen
            gained, lost = int((~one & other & both).sum()), int((one & ~other & both).sum())
            scipy.stats.binomtest(gained, gained + lost).pvalue
    """
    import xarray

    if BITS[0] not in result:
        raise SpecificationError(
            'this result has no images: sweep(..., keep="images") or --keep images keeps them'
        )
    metrics = [own + name.removesuffix("_bits") for own in ("", "clean_") for name in BITS]
    if metric not in metrics:
        raise SpecificationError(unknown("metric", metric, metrics))

    def unpacked(name: str) -> xarray.DataArray:
        bits = result[name].transpose(..., "byte")
        values = np.unpackbits(bits.values, axis=-1, count=result.sizes["image"])
        return xarray.DataArray(
            values.astype(bool),
            coords={**bits.coords, **{each: result.coords[each] for each in ("image", "label")}},
            dims=(*bits.dims[:-1], "image"),
            name=metric,
        )

    found = unpacked(f"{metric}_bits")
    return found if metric.startswith("clean_") else found.assign_coords(seen=unpacked(_SEEN))


def _precise_accuracy(summed: xarray.Dataset, metric: str, confidence: float) -> xarray.Dataset:
    """The same of a sweep to a precision: each seed has seen images of its own."""
    import xarray

    # Seeds that were run come first: after a sweep was stopped there may be others between them.
    order = np.argsort(summed["images"].values == 0, axis=-1, kind="stable")

    def in_order(name: str) -> np.ndarray:
        return np.take_along_axis(summed[name].values, order, -1)

    images, undamaged = in_order("images"), float(per_image(summed, metric, "clean_"))
    target = summed.attrs["half_width"]
    hits, controls, seeds = in_order(metric), in_order(CONTROL + metric), (images > 0).sum(-1)
    counts = hits, np.maximum(images, 1), controls, undamaged, seeds, target
    found = estimate(*counts, confidence)
    # Without random draws, or damage, one trial on all images is everything that there is to know.
    names = summed["perturbation"].values
    exact = np.isin(names, json.loads(summed.attrs["exact"]))[:, None, None]
    exact = exact | _undamaged(names, summed["strength"].values, summed.attrs)[:, None]
    exact = exact & (images[..., 0] == int(summed["clean_images"]))
    values = per_image(summed, metric)
    cells = dict(
        mean=found.mean,
        low=np.where(exact, found.mean, found.low),
        high=np.where(exact, found.mean, found.high),
        std=seed_interval(values.values, confidence)[3],
        seeds=found.seeds,
        half_width=np.where(exact, 0.0, found.half_width),
        images=images.max(-1),
        trial_images=found.images,
        met=estimate(*counts).met | exact,
    )
    return xarray.Dataset(
        {name: (DIMENSIONS[:3], value) for name, value in cells.items()},
        coords={name: summed.coords[name] for name in DIMENSIONS[:3]},
        attrs=dict(
            metric=metric,
            estimand="mean over damage draws on exactly these images, of which each draw saw some",
            method="Student-t over seeds, less the luck of the undamaged network with their images",
            confidence=confidence,
            half_width=target,
            clean=undamaged,
        ),
    )


def per_image(result: xarray.Dataset, metric: str, prefix: str = "") -> xarray.DataArray:
    """A metric's sum over the images that count for it, of trials that have seen all images.

    NaN for the others: a trial that was not run, or one that was interrupted and has seen other
    images than the trial beside it.

    Args:
        result: any result, its blocks added.
        metric: one of its metrics.
        prefix: "clean_" for the undamaged network.
    """
    seen = _counted(result, metric, prefix)
    shares = result[prefix + metric] / seen.where(seen > 0)
    return shares.astype(np.float64) if prefix else shares.where(_whole(result)).astype(np.float64)


def _counted(result: xarray.Dataset, metric: str, prefix: str = "") -> xarray.DataArray:
    """The images that count for a metric: a loss is over those with finite logits."""
    seen = result[f"{prefix}images"]
    return seen - result[f"{prefix}nonfinite"] if metric == "loss" else seen


def _whole(result: xarray.Dataset) -> xarray.DataArray:
    """Which trials have seen all images; with a precision, those that they were to see."""
    summed = sum_blocks(result)
    if "half_width" in result.attrs:
        return summed["images"] > 0
    return summed["images"] == summed["clean_images"]
