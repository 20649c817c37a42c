"""The labels of what a sweep has counted."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrobust.metrics import Metric
from jaxrobust.results.info import SweepInfo
from jaxrobust.sampling import FEWEST, Allocation

if TYPE_CHECKING:
    import xarray

# Prefixes of the names of arrays in a checkpoint: sums of trials, and of the undamaged network.
TRIALS, CLEAN = "trials/", "clean/"
LABELS, GOAL = "labels", "goal/"
# Which images were right, a bit for each: they add up over blocks, but not to one number.
BITS = ("top1_bits", "top5_bits")
SEEN = "seen_bits"
# Of the undamaged network, on just the images that a trial saw: with a precision, not all of them.
CONTROL = "control_"
_ALWAYS_CONTROLLED = ("top1", "top5")
# Of a metric of the user's: how many images it was no finite number for.
NONFINITE = "nonfinite_"
DIMENSIONS = ("perturbation", "layer", "strength", "seed", "block")
_MEANING = {
    "images": "images seen; 0 for a trial that was not run",
    "nonfinite": "images with a logit that is not finite (wrong, and in no mean over finite ones)",
}
BIN = "bin"


def make_dataset(
    trials: Mapping[str, np.ndarray],
    clean: Mapping[str, np.ndarray],
    coordinates: Mapping[str, list[Any]],
    attributes: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> xarray.Dataset:
    """Labels the sums of a sweep.

    Args:
        trials: quantity -> sums [perturbation, layer, strength, seed, block], perhaps [bin].
        clean: quantity -> sums of the undamaged network [block], perhaps [bin].
        coordinates: perturbation, layer, strength -> values; seed and block count from 0.
        attributes: of the dataset.
        metrics: of the variables that are sums of metrics: see `Metric.to_attributes`.
    """
    import xarray

    def variable(dimensions: tuple[str, ...], values: np.ndarray) -> Any:
        bins = () if values.ndim == len(dimensions) else (BIN,)
        return (*dimensions, *bins), values

    variables = {name: variable(DIMENSIONS, values) for name, values in trials.items()}
    variables |= {f"clean_{name}": variable(("block",), values) for name, values in clean.items()}
    seeds, blocks = trials["images"].shape[3:5]
    result = xarray.Dataset(
        variables,
        coords={**coordinates, "seed": np.arange(seeds), "block": np.arange(blocks)},
        attrs=dict(attributes),
    )
    for name in result.data_vars:
        short = str(name).removeprefix("clean_").removeprefix(CONTROL)
        result[name].attrs.update(metrics.get(short) or {"long_name": _meaning(short)})
    return result


def metric_of(result: xarray.Dataset, name: str) -> Metric:
    """A metric as a result describes it, without its function.

    Args:
        result: any result or part of one.
        name: of a metric, which the result need not hold.
    """
    return Metric.from_attributes(name, result[name].attrs if name in result else {})


def _meaning(name: str) -> str:
    if name.startswith(NONFINITE):
        return f"images for which {name.removeprefix(NONFINITE)} is not finite"
    return _MEANING.get(name) or Metric.from_attributes(name, {}).long_name


def labelled(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> xarray.Dataset:
    """Labels the arrays of a checkpoint with its record.

    Of a sweep to a precision only what each trial was to see: what was counted besides, before
    that sweep or to settle how many blocks a seed sees, would give some images and seeds more
    weight than others.
    """
    info = SweepInfo.read(record["attributes"])
    if info.is_precise:
        arrays = as_wanted(arrays, record)
    trials, clean = (
        {
            name.removeprefix(prefix): values
            for name, values in arrays.items()
            if name.startswith(prefix) and name.removeprefix(prefix) not in BITS
        }
        for prefix in (TRIALS, CLEAN)
    )
    if info.is_precise:
        metric = info.half_width_metric
        told = Metric.from_attributes(metric, record.get("metrics", {}).get(metric, {}))
        finite = ["nonfinite"] if told.finite else []
        for name in dict.fromkeys((*_ALWAYS_CONTROLLED, metric, *finite)):
            trials[CONTROL + name] = control(name, trials["images"], clean)
    told = (record["coordinates"], record["attributes"], record.get("metrics", {}))
    result = make_dataset(trials, clean, *told)
    if LABELS not in arrays:
        return result
    labels, block = arrays[LABELS], record["specification"]["block"]
    whole = trials["images"] == clean["images"]
    byte = np.where(whole, np.uint8(255), np.uint8(0))[..., None]
    seen = _join_blocks(np.broadcast_to(byte, arrays[TRIALS + BITS[0]].shape), block, len(labels))
    meaning = {"long_name": "whether each image was seen, 8 images in a byte"}
    result[SEEN] = ((*DIMENSIONS[:4], "byte"), seen, meaning)
    for name in BITS:
        meaning = {"long_name": f"whether each image was right at {name[:4]}, 8 images in a byte"}
        for prefix, own, dimensions in ((TRIALS, "", DIMENSIONS[:4]), (CLEAN, "clean_", ())):
            values = _join_blocks(arrays[prefix + name], block, len(labels))
            result[own + name] = ((*dimensions, "byte"), values, meaning)
    return result.assign_coords(image=np.arange(len(labels)), label=("image", labels))


def control(name: str, seen: np.ndarray, clean: Mapping[str, np.ndarray]) -> np.ndarray:
    """The undamaged network's sums over exactly the images that trials saw.

    Args:
        name: of the quantity.
        seen: how many images of each block, [..., block].
        clean: quantity -> the undamaged network's sums, [block].
    """
    return np.where(seen > 0, seen / np.maximum(clean["images"], 1) * clean[name], 0)


def as_wanted(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a sweep to a precision without what its trials were not to see.

    Zeros for blocks that trials were not to see, and for trials under way.

    Trials at the strength that changes nothing were not run, and have seen all that there is.
    """
    names, strengths = (record["coordinates"][each] for each in ("perturbation", "strength"))
    info = SweepInfo.read(record["attributes"])
    random = ~np.isin(names, info.exact)
    counted = arrays[TRIALS + "images"] == arrays[CLEAN + "images"]
    seeds, blocks = counted.shape[-2:]

    def whole(allocation: Allocation) -> np.ndarray:
        """What was wanted of the trials that have seen all that they were to see."""
        wanted = allocation.wanted(seeds, blocks, record["specification"]["root"], random)
        return wanted & np.all(counted | ~wanted, axis=-1, keepdims=True)

    allocation = Allocation(arrays[GOAL + "seeds"], arrays[GOAL + "shown"])
    wanted = whole(allocation)
    # Until a cell's first round is over there is more of the pilot: a block of each seed.
    few = wanted.any(-1).sum(-1) < np.minimum(allocation.seeds, FEWEST)
    few[:, allocation.unsettled] = True
    wanted = np.where(few[..., None, None], whole(allocation.of_pilot), wanted)
    wanted |= info.undamaged_cells(names, strengths)[:, None, :, None, None]
    masked = dict(arrays)
    for name, values in arrays.items():
        if name.startswith(TRIALS):
            own = wanted.reshape(wanted.shape + (1,) * (values.ndim - wanted.ndim))
            masked[name] = np.where(own, values, np.zeros((), values.dtype))
    return masked


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
    with np.errstate(invalid="ignore"):  # infinities of both signs add up to NaN
        # A NaN of a user's metric must not turn into a smaller sum.
        summed = result.sum("block", skipna=False, keep_attrs=True)
    return summed.assign(
        {name: values for name, values in result.items() if "block" not in values.dims}
    )
