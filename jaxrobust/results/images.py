"""Which images were right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.ground.errors import SpecificationError, unknown
from jaxrobust.results.labels import BITS, DIMENSIONS, SEEN

if TYPE_CHECKING:
    import xarray


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

    if not hasattr(result, "data_vars") or BITS[0] not in result or "image" not in result.coords:
        raise SpecificationError(
            'this result has no images: sweep(..., keep="images") or --keep images keeps them'
        )
    metrics = [own + name.removesuffix("_bits") for own in ("", "clean_") for name in BITS]
    if metric not in metrics:
        raise SpecificationError(unknown("metric", metric, metrics))

    chosen = result.coords["image"].values
    if np.max(chosen, initial=0) >= 8 * result.sizes["byte"]:
        raise SpecificationError(
            "the packed bits of this result were sliced: select images by the dimension image"
        )

    def unpacked(name: str) -> xarray.DataArray:
        bits = result[name].fillna(0)  # where a mask or a concatenation has made some NaN
        if name.startswith("clean_"):
            bits = bits.max([each for each in bits.dims if each in DIMENSIONS])
        bits = bits.transpose(..., "byte")
        values = np.unpackbits(bits.values.astype(np.uint8), axis=-1)[..., chosen].astype(bool)
        dims = (*bits.dims[:-1], *result.coords["image"].dims)
        own = {each: result.coords[each] for each in ("image", "label")}
        return xarray.DataArray(values, coords={**bits.coords, **own}, dims=dims, name=metric)

    found = unpacked(f"{metric}_bits")
    return found if metric.startswith("clean_") else found.assign_coords(seen=unpacked(SEEN))
