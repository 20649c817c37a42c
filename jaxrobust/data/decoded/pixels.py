"""What an array of 8-bit pixels is, and how others become one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.ground.errors import SpecificationError

if TYPE_CHECKING:
    from jaxtyping import UInt8

_SHAPES = ("[{}height, width]", "[{}height, width, 1]", "[{}height, width, 3]")


def check_pixels(array: np.ndarray, *, many: bool) -> None:
    """Refuses anything but 8-bit images, grey or RGB, and says how to make them.

    Args:
        array: One image, or many along the first axis.
        many: Which of the two.

    Raises:
        SpecificationError: If the type is not uint8 or the shape is none of [height, width],
            [height, width, 1] and [height, width, 3].
    """
    shape = array.shape[1:] if many else array.shape
    if array.dtype != np.uint8:
        hint = _other_numbers(array, "images" if many else "image")
    elif len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)):
        return
    else:
        hint = _other_shape(shape, many)
    first, second, third = (each.format("images, " * many) for each in _SHAPES)
    raise SpecificationError(
        f"{'images' if many else 'an image'} must be uint8 {first}, {second} or {third}, "
        f"not {array.dtype} {array.shape}{hint}"
    )


def as_rgb(image: UInt8[np.ndarray, "height width ..."]) -> UInt8[np.ndarray, "height width 3"]:
    """A copy of an image as `check_pixels` allows it, grey repeated to three channels."""
    image = image.reshape(*image.shape[:2], -1)
    return np.repeat(image, 3 // image.shape[2], axis=2)


def _other_numbers(array: np.ndarray, name: str) -> str:
    if not array.size or array.dtype.kind not in "biuf":
        return ""
    low, high = array.min(), array.max()
    if array.dtype.kind == "b":
        return f"; possible: {name}.astype('uint8') * 255"
    if array.dtype.kind in "iu":
        fits = 0 <= low and high <= 255
        return f"; possible: {name}.astype('uint8')" if fits else f"; values from {low} to {high}"
    if name == "image" and array.ndim == 3 and array.shape[0] in (1, 3):
        return "; possible: a data set without a transform to tensors, which gives images or uint8"
    if 0 <= low and high <= 255:
        scaled = f"({name} * 255)" if high <= 1 else name
        return f", values from {low:g} to {high:g}; possible: {scaled}.round().astype('uint8')"
    return (
        f", values from {low:g} to {high:g}; possible: the original pixels, as the network's own "
        "preprocessing subtracts the mean and divides by the standard deviation"
    )


def _other_shape(shape: tuple[int, ...], many: bool) -> str:
    name = "images" if many else "image"
    if len(shape) == 3 and shape[0] in (1, 3):
        axes = (0, 2, 3, 1) if many else (1, 2, 0)
        return f"; possible: the channels last, {name}.transpose{axes}"
    if len(shape) == 3 and shape[2] == 4:
        return f"; possible: without transparency, {name}[..., :3]"
    if len(shape) == 4 and not many:
        return "; possible: (images, labels) of one data set, not several"
    return ""
