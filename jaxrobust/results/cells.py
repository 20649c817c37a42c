"""What is known of each cell of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxrobust.ground.errors import SpecificationError, unknown
from jaxrobust.results.info import SweepInfo
from jaxrobust.results.labels import (
    BIN,
    BITS,
    CONTROL,
    DIMENSIONS,
    NONFINITE,
    SEEN,
    metric_of,
    sum_blocks,
)
from jaxrobust.results.parts import of_any_part, whole_grid
from jaxrobust.results.seed_sums import SeedSums
from jaxrobust.statistics import seed_and_image_interval, seed_interval

if TYPE_CHECKING:
    import pandas
    import xarray


@of_any_part
def accuracy(
    result: xarray.Dataset,
    metric: str = "top1",
    *,
    over: Literal["seeds", "seeds+images"] = "seeds",
    confidence: float = 0.95,
) -> xarray.Dataset:
    """The mean of a metric per image, per cell, with its interval.

    Args:
        result: from `sweep` or `open_run`, any part of it (`result.sel(layer="conv1")`), or
            several (`xr.concat([a, b], "run")`).
        metric: any that the result holds: `top1`, `top5`, `changed`, `loss` and those that were
            asked for.
        over: what the interval generalises over: "seeds", random damage on exactly these images;
            "seeds+images", also images like these (needs the result with its blocks).
        confidence: the nominal coverage.

    Returns:
        Dims perturbation, layer, strength; variables `mean`, `low`, `high`, `std` (over seeds),
        `seeds` and `images` (per seed), NaN where no trial has seen all images; `clean`, the
        undamaged network's mean, is an attribute, as are `estimand`, `method` and `confidence`.
        A value that was measured and is NaN or infinite makes its cell so; `nonfinite` counts the
        images (of all seeds) for which the metric, or for shares and means over finite logits a
        logit, is not a finite number.
        In a sweep to a precision each seed sees images of its own, which have a part in `std`;
        for `top1`, `top5` and the metric that the precision is of there are also `half_width` and
        `trial_images`, all that the cell's trials saw, and for the latter `met`, whether the 95 %
        interval is as narrow as was asked for.

    Raises:
        SpecificationError: an unknown metric, blocks that are needed and not there, something
            else than a result.
    """
    _check_metric(result, metric)
    summed = sum_blocks(result)
    if over == "seeds" and CONTROL + metric in result:
        made = _precise_accuracy(summed, metric, confidence)
    elif over == "seeds":
        made = _mean_over_seeds(summed, metric, confidence)
    elif over == "seeds+images":
        made = _mean_over_seeds_and_images(result, metric, confidence)
    else:
        raise SpecificationError(unknown("over", over, ("seeds", "seeds+images")))
    if (count := nonfinite_of(result, metric)) in summed:
        made["nonfinite"] = summed[count].where(is_whole(summed), 0).sum("seed").astype(int)
    return made


def metrics_of(result: xarray.Dataset) -> list[str]:
    """The metrics that a result holds."""
    names = [str(n) for n in result.data_vars if "seed" in result[n].dims]
    others = ("images", "nonfinite", SEEN, *BITS)
    return [n for n in names if n not in others and not n.startswith((CONTROL, NONFINITE))]


def nonfinite_of(result: xarray.Dataset, metric: str) -> str:
    """The count of the images for which a metric, or a logit that it needs, is not finite."""
    told = metric_of(result, metric)
    return "nonfinite" if told.share or told.finite else NONFINITE + metric


def _check_metric(result: xarray.Dataset, metric: str) -> None:
    known = metrics_of(result)
    if metric not in known:
        raise SpecificationError(unknown("metric", metric, known))
    needed = [f"clean_{metric}"]
    needed += ["nonfinite", "clean_nonfinite"] if metric_of(result, metric).finite else []
    told, held = metric_of(result, metric), result[metric].sizes.get(BIN, 0)
    if told.bins != held:
        raise SpecificationError(
            f"this result has {held} of the {told.bins} bins of {metric}, which needs all of them"
        )
    if lacking := [name for name in needed if name not in result]:
        raise SpecificationError(
            f"this result has no {lacking[0]}, which {metric} needs: take all of its variables"
        )


def _mean_over_seeds(summed: xarray.Dataset, metric: str, confidence: float) -> xarray.Dataset:
    values, run = per_image(summed, metric), is_whole(summed)
    found = seed_interval(values.values, confidence, run.values)
    estimand = "mean over damage draws on exactly these images"
    if sees_some(summed):
        estimand = "mean over damage draws, each on its own ones of these images"
    told = {"estimand": estimand, "method": "Student-t over per-seed means"}
    return _cells(summed, metric, found, confidence, told)


def _mean_over_seeds_and_images(
    result: xarray.Dataset, metric: str, confidence: float
) -> xarray.Dataset:
    if SweepInfo.of(result).is_precise:
        raise SpecificationError(
            'over="seeds+images": seeds of a sweep to a precision see different images; '
            'over="seeds" is possible'
        )
    if "block" not in result.dims:
        raise SpecificationError(
            'over="seeds+images" needs the blocks: sweep(..., blocks=True) or '
            "open_run(..., blocks=True)"
        )
    if not metric_of(result, metric).is_mean:
        raise SpecificationError(
            f'over="seeds+images": {metric} is no mean over images; over="seeds" is possible'
        )
    run = is_whole(result)
    seen = _counted(result, metric).where(run, np.nan)
    sums = result[metric].values.astype(np.float64)
    found = seed_and_image_interval(sums, seen.values, confidence, run.values)
    told = {
        "estimand": "mean over damage draws and over images like these",
        "method": "two-way random effects (seed, block), Satterthwaite",
    }
    return _cells(sum_blocks(result), metric, found, confidence, told)


def _cells(
    summed: xarray.Dataset,
    metric: str,
    found: Sequence[np.ndarray],
    confidence: float,
    told: Mapping[str, str],
) -> xarray.Dataset:
    import xarray

    names = ("mean", "low", "high", "std", "seeds")
    made = xarray.Dataset(
        {name: (DIMENSIONS[:3], value) for name, value in zip(names, found, strict=True)},
        coords={name: summed.coords[name] for name in DIMENSIONS[:3]},
        attrs={"metric": metric, **told, "confidence": confidence},
    )
    made["images"] = summed["images"].where(is_whole(summed), 0).max("seed").astype(int)
    made.attrs["clean"] = float(per_image(summed, metric, "clean_"))
    return made


def _precise_accuracy(summed: xarray.Dataset, metric: str, confidence: float) -> xarray.Dataset:
    """The same of a sweep to a precision: each seed has seen images of its own."""
    import xarray

    info = SweepInfo.of(summed)
    own = SeedSums.of_result(summed, metric)
    target = info.half_width or 0.0  # which a sweep to a precision always has
    found = own.estimate(target, confidence)
    cells = dict(
        mean=found.mean,
        low=found.low,
        high=found.high,
        std=seed_interval(per_image(summed, metric).values, confidence)[3],
        seeds=found.seeds,
        half_width=found.half_width,
        images=own.seen.max(-1),
        trial_images=own.seen.sum(-1),
    )
    if metric == info.half_width_metric:
        cells["met"] = own.estimate(target).met
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
            clean=own.undamaged,
        ),
    )


def cell_rows(result: xarray.Dataset) -> pandas.DataFrame:
    """The metric that a sweep to a precision is about, in each cell, as `cells.csv` has it.

    Returns:
        A row for each damaged cell: `metric`, which one it is, `mean`, `low`, `high`, `half_width`,
        `seeds`, `images` (all that its trials saw) and `met`, whether the half-width is the one
        asked for.
    """
    import xarray

    result = whole_grid(result)
    damaged = xarray.DataArray(_damaged_cells(result), dims=("perturbation", "strength"))
    metric = SweepInfo.of(result).half_width_metric
    names = ["mean", "low", "high", "half_width", "seeds", "images", "met"]
    cells = accuracy(result, metric).drop_vars("images").rename(trial_images="images")
    rows = cells[names].assign(damaged=damaged).to_dataframe(dim_order=list(DIMENSIONS[:3]))
    rows.insert(0, "metric", metric)
    return rows.loc[rows["damaged"], ["metric", *names]]


def sees_some(result: xarray.Dataset) -> bool:
    """Whether it is a sweep to a precision in which trials were to see only some of the images."""
    if not SweepInfo.of(result).is_precise:
        return False
    images = sum_blocks(result)["images"].values
    every = (images == 0) | (images == int(result["clean_images"].sum()))
    return not every.all()


def _damaged_cells(result: xarray.Dataset) -> np.ndarray:
    """The cells for which a sweep to a precision runs trials, bool [perturbation, strength]."""
    damaged = SweepInfo.of(result).damaged
    names, strengths = result["perturbation"].values, result["strength"].values
    return np.asarray([np.isin(strengths, damaged[name]) for name in names])


def per_image(result: xarray.Dataset, metric: str, prefix: str = "") -> xarray.DataArray:
    """A metric's mean over the images that count for it, of trials that have seen all images.

    NaN for the others, see `is_whole`: a trial that was not run, or one that was interrupted and
    has seen other images than the trial beside it. A sum that is NaN stays so, and a mean without
    any image that counts is NaN. Of a metric with bins the sum of its means' absolute values.

    Args:
        result: any result, its blocks added.
        metric: one of its metrics.
        prefix: "clean_" for the undamaged network.
    """
    seen = _counted(result, metric, prefix)
    means = (result[prefix + metric] / seen.where(seen > 0)).astype(np.float64)
    if not metric_of(result, metric).is_mean:
        means = abs(means).sum(BIN, skipna=False)
    return means if prefix else means.where(is_whole(result))


def _counted(result: xarray.Dataset, metric: str, prefix: str = "") -> xarray.DataArray:
    """The images that count for a metric."""
    seen, finite = result[f"{prefix}images"], metric_of(result, metric).finite
    return seen - result[f"{prefix}nonfinite"] if finite else seen


def is_whole(result: xarray.Dataset) -> xarray.DataArray:
    """Which trials have seen all images; with a precision, those that they were to see."""
    summed = sum_blocks(result)
    if SweepInfo.of(result).is_precise:
        return summed["images"] > 0
    return summed["images"] == summed["clean_images"]
