"""What is known of each cell of a sweep."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxrobust.errors import SpecificationError, unknown
from jaxrobust.precision import estimate
from jaxrobust.results.labels import (
    BITS,
    CONTROL,
    DIMENSIONS,
    SEEN,
    sum_blocks,
    undamaged_cells,
)
from jaxrobust.statistics import seed_and_image_interval, seed_interval

if TYPE_CHECKING:
    import pandas
    import xarray


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
        In a sweep to a precision each seed sees images of its own, which have a part in `std`;
        for `top1` and `top5` there are also `half_width`, `met`, whether that of the 95 % interval
        is what was asked for, and `trial_images`, all that the cell's trials saw.

    Raises:
        SpecificationError: an unknown metric, or blocks that are needed and not there.
    """
    import xarray

    known = [str(n) for n in result.data_vars if "seed" in result[n].dims]
    others = ("images", "nonfinite", SEEN, *BITS)
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
        if sees_some(result):
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
    exact = exact | undamaged_cells(names, summed["strength"].values, summed.attrs)[:, None]
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
            estimand="mean over damage draws on exactly these images"
            + ", of which each draw saw some" * sees_some(summed),
            method="Student-t over seeds, each corrected for how the undamaged network does on "
            "its images",
            confidence=confidence,
            half_width=target,
            clean=undamaged,
        ),
    )


def cell_rows(result: xarray.Dataset) -> pandas.DataFrame:
    """The top-1 accuracy of each cell of a sweep to a precision, as `cells.csv` has it.

    Returns:
        A row for each damaged cell: `mean`, `low`, `high`, `half_width`, `seeds`, `images` (all
        that its trials saw) and `met`, whether the half-width is the one asked for.
    """
    import xarray

    damaged = xarray.DataArray(_damaged_cells(result), dims=("perturbation", "strength"))
    names = ["mean", "low", "high", "half_width", "seeds", "images", "met"]
    cells = accuracy(result).drop_vars("images").rename(trial_images="images")
    rows = cells[names].assign(damaged=damaged).to_dataframe(dim_order=list(DIMENSIONS[:3]))
    return rows.loc[rows["damaged"], names]


def sees_some(result: xarray.Dataset) -> bool:
    """Whether it is a sweep to a precision in which trials were to see only some of the images."""
    images = sum_blocks(result)["images"].values
    every = (images == 0) | (images == int(result["clean_images"].sum()))
    return "half_width" in result.attrs and not every.all()


def _damaged_cells(result: xarray.Dataset) -> np.ndarray:
    """The cells for which a sweep to a precision runs trials, bool [perturbation, strength]."""
    damaged = json.loads(result.attrs["damaged"])
    names, strengths = result["perturbation"].values, result["strength"].values
    return np.asarray([np.isin(strengths, damaged[name]) for name in names])


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
