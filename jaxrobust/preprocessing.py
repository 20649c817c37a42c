"""From a photograph to the array that a network takes: resize, crop, channels, mean and std."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from jaxrobust.ground.errors import SpecificationError

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8
    from PIL import Image

Mode = Literal["none", "squash", "shorter"]
Channels = Literal["rgb", "bgr", "grey"]
Small = Literal["enlarge", "pad"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]

# Pixels of an image that is larger than its original: enough for sides of 1 to 100 at usual
# targets, and a line of pixels cannot take gigabytes.
_MOST_ENLARGED = 2**24
_PACKING = {"rgb": "RGB", "bgr": "BGR", "grey": "L"}  # PIL's names


@dataclass(frozen=True)
class Preprocessing:
    """What a network does to an 8-bit RGB image before it sees it.

    The image turns grey first (where the network is grey), is resized, then cropped in its
    centre, all exactly as PIL does it, with antialiasing; then each channel becomes
    `(pixel - mean) / std`. To ask for another resizing, use
    `dataclasses.replace(preprocessing, mode="shorter")`; for networks from Caffe, which would pad
    small images with black then, add `small="enlarge"`.

    Args:
        size: Height and width of the network's input, in pixels.
        resize: Target of the resizing, in pixels, before the crop: with "squash" the side of a
            square or (height, width), with "shorter" the length of the shorter side. None stands
            for `size` itself ("squash"), or for its longer side ("shorter").
        mode: "none" takes only images that have `size` already; "squash" resizes whatever the
            aspect ratio; "shorter" keeps the aspect ratio, the longer side rounded down, as
            torchvision does.
        channels: Order of the channels that the network sees; "grey" is one channel, PIL's luma.
        mean: Subtracted, in pixel units 0 to 255: one value, or one per channel in the network's
            order.
        std: Divisor, in pixel units, like `mean`.
        interpolation: PIL's name of the filter, in lower case.
        small: With "shorter", what becomes of an image whose shorter side is below the target:
            "enlarge" resizes it too, as torchvision does; "pad" leaves it as it is, and the crop,
            whose start is then rounded down, fills what is missing with black, as `Image.crop`.

    Raises:
        SpecificationError: If the values contradict each other.

    Example:
        >>> import numpy as np
        >>> caffe = Preprocessing((227, 227), 256, "squash", "bgr", mean=(104, 117, 123))
        >>> caffe.shape
        (227, 227, 3)
        >>> caffe.normalise(caffe.crop(np.zeros((300, 400, 3), np.uint8))[None])[0, 0, 0].tolist()
        [-104.0, -117.0, -123.0]
    """

    size: tuple[int, int]
    resize: tuple[int, int] | int | None = None
    mode: Mode = "none"
    channels: Channels = "rgb"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    interpolation: Interpolation = "bilinear"
    small: Small = "enlarge"

    def __post_init__(self) -> None:
        for name in ("size", "resize", "mean", "std"):  # lists (from JSON) would not be hashable
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        choices = {
            "mode": Mode,
            "channels": Channels,
            "interpolation": Interpolation,
            "small": Small,
        }
        for name, choice in choices.items():
            if getattr(self, name) not in get_args(choice):
                raise SpecificationError(
                    f"preprocessing: {name}={getattr(self, name)!r} is unknown; "
                    f"possible: {', '.join(get_args(choice))}"
                )
        self._check_sizes()
        for name in ("mean", "std"):
            value = getattr(self, name)
            if len(value) not in (1, self.shape[2]) or not all(map(math.isfinite, value)):
                raise SpecificationError(
                    f"preprocessing: {name}={value} needs one finite value, or one for each of "
                    f"the {self.shape[2]} channels ({self.channels})"
                )
        if min(self.std) <= 0:
            raise SpecificationError(f"preprocessing: std={self.std} must be greater than 0")

    def _check_sizes(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise SpecificationError(
                f"preprocessing: size={self.size} must be (height, width), at least 1 pixel each"
            )
        if self.resize is None:
            return
        if self.mode == "none":
            raise SpecificationError(
                f"preprocessing: resize={self.resize} needs mode='squash' or mode='shorter'"
            )
        if self.mode == "shorter":
            if not isinstance(self.resize, int):
                raise SpecificationError(
                    f"preprocessing: mode='shorter' needs one number for resize, not {self.resize}"
                )
            fits = self.resize >= min(self.size)
        else:
            height, width = self._squashed()
            fits = height >= self.size[0] and width >= self.size[1]
        if not fits:
            raise SpecificationError(
                f"preprocessing: resize={self.resize} is smaller than the crop, size={self.size}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image as the network sees it."""
        return (*self.size, 1 if self.channels == "grey" else 3)

    def crop(self, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "h w channels"]:
        """Resizes, crops and reorders one image, equal to PIL to the bit.

        Args:
            image: uint8 RGB, of any size.

        Returns:
            uint8 of `self.shape`.

        Raises:
            SpecificationError: If the image does not have `size` and mode is "none", if it is
                smaller than the crop, or so long and thin that it would become gigantic.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise SpecificationError(
                f"an image must be uint8 [height, width, 3], not {image.dtype} {image.shape}"
            )
        if self.mode == "none":
            self._check_image_size(image)
            if self.channels != "grey":
                return np.ascontiguousarray(image[..., :: 1 if self.channels == "rgb" else -1])
        from PIL import Image

        picture = Image.fromarray(image)
        if self.channels == "grey":
            picture = picture.convert("L")
        picture = self._central(self._resized(picture))
        packed = picture.tobytes("raw", _PACKING[self.channels])
        return np.frombuffer(packed, np.uint8).reshape(self.shape)

    def normalise(
        self, batch: UInt8[np.ndarray, "images h w channels"]
    ) -> Float32[np.ndarray, "images h w channels"]:
        """Turns cropped images into the network's input: `(pixel - mean) / std`.

        Args:
            batch: uint8, a stack of what `crop` returned; a JAX array is normalised on its device.

        Returns:
            float32 of the same shape.

        Raises:
            SpecificationError: If the batch is not uint8 or its images are not of `shape`.
        """
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != self.shape:
            raise SpecificationError(
                f"a batch must be uint8 [images, {', '.join(map(str, self.shape))}], "
                f"not {batch.dtype} {batch.shape}"
            )
        mean, std = (
            np.asarray(values, np.float32).reshape(1, 1, 1, -1) for values in (self.mean, self.std)
        )
        return (batch.astype(np.float32) - mean) / std

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values that JSON can hold."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_json`.

        Args:
            values: Field names and values; a field that has a default may be left out.

        Returns:
            The preprocessing.

        Raises:
            SpecificationError: If a field is unknown or `size` is missing.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown or "size" not in values:
            wrong = f"unknown {', '.join(unknown)}" if unknown else "size is missing"
            raise SpecificationError(f"preprocessing: {wrong}; possible: {', '.join(known)}")
        return cls(**values)

    def _check_image_size(self, image: UInt8[np.ndarray, "height width 3"]) -> None:
        if image.shape[:2] != self.size:
            raise SpecificationError(
                f"the image is {image.shape[0]} x {image.shape[1]} pixels (height x width), the "
                f"network takes {self.size[0]} x {self.size[1]} and does not resize by itself; "
                "possible: resize 'squash' or 'shorter'"
            )

    def _squashed(self) -> tuple[int, int]:
        if self.resize is None:
            return self.size
        return (self.resize, self.resize) if isinstance(self.resize, int) else self.resize

    def _resized(self, picture: Image.Image) -> Image.Image:
        width, height = picture.size
        if self.mode == "none":
            return picture
        if self.mode == "squash":
            target_height, target_width = self._squashed()
        else:
            shorter = self.resize if isinstance(self.resize, int) else max(self.size)
            short = min(height, width)
            if self.small == "pad" and short < shorter:
                return picture
            target_height, target_width = shorter * height // short, shorter * width // short
        if target_width * target_height > max(width * height, _MOST_ENLARGED):
            raise SpecificationError(
                f"the image is {height} x {width} pixels (height x width) and would be enlarged to "
                f"{target_height:,} x {target_width:,}; possible: resize 'squash'"
            )
        from PIL import Image

        resample = Image.Resampling[self.interpolation.upper()]
        return picture.resize((target_width, target_height), resample)

    def _central(self, picture: Image.Image) -> Image.Image:
        height, width = self.size
        if self.mode == "shorter" and self.small == "pad":
            top, left = (picture.height - height) // 2, (picture.width - width) // 2
            return picture.crop((left, top, left + width, top + height))
        if picture.height < height or picture.width < width:
            raise SpecificationError(
                f"the image is {picture.height} x {picture.width} pixels (height x width) after "
                f"resizing, smaller than the crop of {height} x {width}; possible: "
                "resize 'squash', or a larger resize"
            )
        # Python's round goes to the even neighbour, which is where torchvision puts the crop.
        top, left = round((picture.height - height) / 2), round((picture.width - width) / 2)
        return picture.crop((left, top, left + width, top + height))
