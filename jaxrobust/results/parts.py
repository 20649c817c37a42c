"""What xarray's own operations make of a result: slices, masks, concatenations."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import numpy as np

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.results.info import SweepInfo
from jaxrobust.results.labels import CONTROL, DIMENSIONS

if TYPE_CHECKING:
    import xarray

GRID = DIMENSIONS[:4]
_CLEAN = "clean_"
_ALONG_ANOTHER = 'join results along a new dimension, as in xr.concat([a, b], "run")'

_Arguments = ParamSpec("_Arguments")
_Derive = Callable[Concatenate["xarray.Dataset", _Arguments], "xarray.Dataset"]


def of_any_part(derive: _Derive[_Arguments]) -> _Derive[_Arguments]:
    """Decorates a function of a whole result, so that it takes any part and any concatenation.

    What is derived of a slice is the slice of what is derived: a dimension of the grid that was
    selected away is not in it either. Along a dimension that xarray has added (`xr.concat([a, b],
    "run")`) each result is taken on its own, and `clean` is a variable.
    """

    @wraps(derive)
    def derived(
        result: xarray.Dataset, *arguments: _Arguments.args, **options: _Arguments.kwargs
    ) -> xarray.Dataset:
        other = next(iter(_other_dimensions(result)), None)
        if other is None or other == "image":
            made = derive(whole_grid(result), *arguments, **options)
            gone = [name for name in GRID if name not in result.dims and name in made.dims]
            return made.isel(dict.fromkeys(gone, 0))
        places = range(result.sizes[other])
        parts = [derived(result.isel({other: i}), *arguments, **options) for i in places]
        return _joined(parts, result.coords.get(other, other))

    return derived


def _joined(parts: list[xarray.Dataset], along: Any) -> xarray.Dataset:
    import xarray

    return xarray.concat(
        [part if "clean" in part else part.assign(clean=part.attrs["clean"]) for part in parts],
        along,
        data_vars="all",
        coords="minimal",
        compat="override",
        join="outer",
        combine_attrs="drop_conflicts",
    )


def whole_grid(result: Any) -> xarray.Dataset:
    """A result or a part of one with all dimensions of its grid, in their order.

    Dimensions of which one label was selected come back with that label; trials that a mask has
    taken out have seen no images.

    Raises:
        SpecificationError: in one line, what cannot be a part of a result.
    """
    _check_result(result)
    for name in GRID:
        _check_dimension(result, name)
    if others := _other_dimensions(result):
        if "image" in others:
            raise SpecificationError(
                "counts are of all images, not of some that were selected: jaxrobust.right says "
                "which images were right"
            )
        raise SpecificationError(
            f"this result also has the dimension {others[0]!r}: take one of them, as in "
            f"result.isel({others[0]}=0)"
        )
    clean = [str(name) for name in result.data_vars if str(name).startswith(_CLEAN)]
    trials = result.drop_vars(clean)
    if missing := [name for name in GRID if name not in result.dims]:
        trials = trials.expand_dims(missing)
    trials = _unmasked(trials.transpose(*GRID, ...), "images")
    own = result[clean].reset_coords(drop=True)
    undamaged = _unmasked(own.map(_of_all_trials, keep_attrs=True), _CLEAN + "images")
    return trials.assign(undamaged).assign_attrs(result.attrs)


def _check_result(result: Any) -> None:
    import xarray

    what = "a result of jaxrobust.sweep or jaxrobust.open_run, or a part of one, is needed"
    if not isinstance(result, xarray.Dataset):
        raise SpecificationError(f"{what}, not a {type(result).__name__}")
    lacking = [name for name in ("images", _CLEAN + "images") if name not in result]
    if lacking:
        raise SpecificationError(f"{what}: this dataset has no {' and no '.join(lacking)}")
    controls = [name for name in result.data_vars if str(name).startswith(CONTROL)]
    if controls and not SweepInfo.of(result).is_precise:
        raise SpecificationError(
            "this result of a sweep to a precision has lost its attributes: keep_attrs=True, or "
            ".assign_attrs(result.attrs), keeps them"
        )
    if controls and "perturbation" in result.coords:
        told, names = SweepInfo.of(result).identity, result["perturbation"].values.ravel()
        if unknown := [str(name) for name in names if str(name) not in told]:
            raise SpecificationError(
                f"the attributes of this result of a sweep to a precision do not tell of "
                f"{unknown[0]}: {_ALONG_ANOTHER}"
            )
    if "image" in result.dims and "byte" in result.dims:
        if -(-result.sizes["image"] // 8) != result.sizes["byte"]:
            raise SpecificationError(
                "counts are of all images, not of some that were selected: jaxrobust.right says "
                "which images were right"
            )


def _check_dimension(result: xarray.Dataset, name: str) -> None:
    coordinate = result.coords[name] if name in result.coords else None
    if coordinate is None or (name not in result.dims and coordinate.ndim):
        raise SpecificationError(
            f"this dataset has no labels {name!r}: select parts of a result by .sel or .isel "
            "without drop=True; a sum, a mean or a stack over them is no result"
        )
    if not coordinate.size:
        raise SpecificationError(f"this part of a result is empty: it holds no {name}")
    labels = coordinate.values.ravel().tolist()
    if name != "seed" and len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise SpecificationError(f"this result holds the {name} {twice!r} twice: {_ALONG_ANOTHER}")


def _other_dimensions(result: Any) -> list[str]:
    """Dimensions of the counts that no sweep gives them."""
    images = result.get("images") if hasattr(result, "data_vars") else None
    return [] if images is None else [str(n) for n in images.dims if n not in DIMENSIONS]


def _unmasked(counts: xarray.Dataset, images: str) -> xarray.Dataset:
    """Zeros for what a mask or a concatenation has made NaN: it has seen no images."""
    if counts[images].dtype.kind != "f":
        return counts
    gone = counts[images].isnull()
    anywhere = gone.any("block") if "block" in gone.dims else gone
    return counts.map(
        lambda values: values.where(~(gone if "block" in values.dims else anywhere), 0),
        keep_attrs=True,
    )


def _of_all_trials(values: xarray.DataArray) -> xarray.DataArray:
    """Of the undamaged network, which a mask or a concatenation repeats along the grid."""
    repeated = [name for name in values.dims if name in GRID]
    if not repeated:
        return values
    least, most = values.min(repeated), values.max(repeated)
    if not np.allclose(least, most, rtol=1e-6, atol=0, equal_nan=True):
        raise SpecificationError(
            f"{values.name} differs along {' and '.join(map(str, repeated))}: these results are of "
            f"other images or networks; {_ALONG_ANOTHER}"
        )
    return most
