"""Reading what another may have written: only what the files themselves hold, or an error."""

from __future__ import annotations

import io
import json
import math
import numbers
import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrobust.porting.readers.hdf5 import arrays_of

if TYPE_CHECKING:
    import h5py
    import xarray

# What `sweep.json` says, and in which kinds of JSON; the first is always there.
_KINDS: dict[str, type] = {
    "finished": bool,
    "specification": dict,
    "hash": str,
    "files": dict,
    "extends": list,
    "plan": list,
    "versions": dict,
    "device": dict,
    "left_out": list,
}
_FILES = ("results.nc", "results.csv", "cells.csv")
# Attributes of a result that are JSON, as netCDF has no lists of text and no mappings.
# Of which kinds they and their values are.
_PACKED: dict[str, tuple[type, type]] = {
    "depth": (list, str),
    "identity": (dict, numbers.Real),
    "exact": (list, str),
    "damaged": (dict, list),
    "warnings": (list, str),
}
_NUMBERS = ("half_width", "classes", "finished")
# What a result says of its metrics: see `Metric.to_attributes`.
_METRIC_TEXTS = ("label", "unit", "best")
_METRIC_NUMBERS = ("share", "finite", "bins", "low", "high", "chance")
_BEST = ("high", "low", "")
# Of no trial more images than it has seen.
_COUNTS = ("top1", "top5", "changed", "nonfinite")
# Deflate can make a thousand bytes of one; the rest is for what is not stored at all.
_MOST_OF_A_BYTE, _MOST_OF_NOTHING = 1100, 2**20


def read_json(text: str) -> dict[str, Any]:
    """The content of a `sweep.json`.

    Raises:
        ValueError: it is no JSON, or says something else than a sweep's.
    """
    try:
        record = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError(f"it holds {_kind(record)}, not what a sweep writes")
    if "finished" not in record:
        raise ValueError("it does not say whether a sweep is finished")
    for name, kind in _KINDS.items():
        if not isinstance(record.get(name, kind()), kind):
            raise ValueError(f"{name} in it is {_kind(record[name])}")
    for name, digest in record.get("files", {}).items():
        if not isinstance(digest, str) or name not in _FILES:
            raise ValueError("files in it are not those of a sweep with their digests")
    return record


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def read_netcdf(content: bytes) -> xarray.Dataset:
    """The content of a `results.nc`.

    HDF5 can lead out of a file, to others and to programs: external storage, external links,
    virtual arrays, filters that are loaded when they are met. None of these is followed.

    Raises:
        ValueError: it is damaged, leads out of itself, or its labels cannot be shown.
    """
    import h5py
    import xarray

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            claimed = sum(_bytes_within(name, array) for name, array in arrays_of(file))
        if claimed > _MOST_OF_A_BYTE * len(content) + _MOST_OF_NOTHING:
            raise ValueError(f"its arrays claim {claimed:,} bytes, more than it can hold")
        result = xarray.load_dataset(io.BytesIO(content), engine="h5netcdf")
    except Exception as error:  # whatever the libraries make of a damaged file
        reason = f"{error}".strip().partition("\n")[0] or type(error).__name__
        raise ValueError(reason if reason.isprintable() else ascii(reason)[1:-1]) from error
    _check_text(result)
    _check_numbers(result)
    return result


def _bytes_within(name: str, array: h5py.Dataset) -> int:
    """The bytes of an array that lies in its own file, in a form that HDF5 itself can read."""
    from h5py import h5d, h5z  # pyright: ignore[reportAttributeAccessIssue]

    plist = array.id.get_create_plist()
    own = (h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32)
    filters = [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]
    if plist.get_layout() == h5d.VIRTUAL or plist.get_external_count():
        raise ValueError(f"{name} lies in another file")
    if not set(filters) <= set(own):
        raise ValueError(f"{name} needs a filter that is not part of HDF5")
    return math.prod(array.shape or ()) * array.dtype.itemsize


def _check_text(result: xarray.Dataset) -> None:
    """Makes sure that what tables show of a result is text, and its packed attributes JSON."""
    labels = [
        (name, label)
        for name in ("perturbation", "layer")
        if name in result.coords
        for label in result.coords[name].values.ravel().tolist()
    ]
    labels += [
        (name, result.attrs[name])
        for name in ("network", "data", "half_width_metric")
        if name in result.attrs
    ]
    for name, label in labels:
        if not _can_be_shown(label):
            raise ValueError(f"{label!r} is no name of a {name}")
    for name, values in result.data_vars.items():
        if "share" in values.attrs and not _describes_a_metric(values):
            raise ValueError(f"what it says of the metric {name} is damaged")
    for name, (kind, inner) in _PACKED.items():
        if name in result.attrs:
            try:
                value = json.loads(result.attrs[name])
            except (TypeError, ValueError, RecursionError):
                value = None
            values = list(value.values()) if isinstance(value, dict) else value
            fits = (
                _can_be_shown if inner is str else lambda each, kind=inner: isinstance(each, kind)
            )
            if not isinstance(value, kind) or not all(map(fits, values or ())):
                raise ValueError(f"its attribute {name} is damaged")


def _describes_a_metric(values: xarray.DataArray) -> bool:
    """Whether a variable's attributes are those of a metric, safe to show and to compute with."""
    told = values.attrs
    figures = [told.get(name, 0) for name in _METRIC_NUMBERS]
    return (
        all(_can_be_shown(told.get(name)) for name in _METRIC_TEXTS)
        and told["best"] in _BEST
        and all(isinstance(each, numbers.Real) and math.isfinite(each) for each in figures)
        and told.get("bins", 0) == values.sizes.get("bin", 0)
    )


def _can_be_shown(label: Any) -> bool:
    """Whether something is text without characters that a terminal would obey."""
    return isinstance(label, str) and all(unicodedata.category(each) != "Cc" for each in label)


def _check_numbers(result: xarray.Dataset) -> None:
    """Makes sure that what is calculated with is numbers, and counts are those of images."""
    for name in _NUMBERS:
        value = result.attrs.get(name, 0)
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ValueError(f"its attribute {name} is no number")
    for name, values in result.variables.items():
        if name not in ("perturbation", "layer") and values.dtype.kind not in "biuf":
            raise ValueError(f"{name!r} in it holds no numbers")
    if "strength" in result.coords and not np.isfinite(result["strength"].values).all():
        raise ValueError("a strength in it is no finite number")
    for prefix in ("", "clean_"):
        if prefix + "images" not in result:
            continue
        images = result[prefix + "images"]
        if (images < 0).any():
            raise ValueError(f"{images.name} in it is below 0")
        for name in (prefix + each for each in _COUNTS):
            if name not in result:
                continue
            if result[name].dims != images.dims:
                raise ValueError(f"{name} in it has other dimensions than {images.name}")
            if ((result[name] < 0) | (result[name] > images)).any():
                raise ValueError(f"{name} in it is below 0 or more than {images.name}")
