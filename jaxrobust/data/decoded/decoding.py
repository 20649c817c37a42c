"""From the bytes of an image file to RGB pixels."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from jaxrobust.ground.errors import SpecificationError, first_line

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from PIL import Image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
# A fixed list keeps PIL from trying formats that start other programs, and from a race in its
# loading of plugins: with no list, two threads that meet a rare format first can fail.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")


Pixels = TypeVar("Pixels")


def decode_image(encoded: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes an image file to RGB.

    Grey, palette, CMYK and other 8-bit images are converted by PIL; transparency is dropped, as
    torchvision does; of 16-bit grey images the high byte counts, as PIL does with 16-bit colour.
    A stored rotation (EXIF) is ignored, as in the published evaluations.

    Args:
        encoded: The bytes of the file.

    Returns:
        uint8 pixels, red first.

    Raises:
        SpecificationError: If the bytes are no image, are broken, hold more pixels than
            `PIL.Image.MAX_IMAGE_PIXELS`, or values without an agreed range (32-bit integers,
            floating point).
    """
    return decode_and(encoded, lambda pixels: pixels)


def decode_and(
    encoded: bytes, crop: Callable[[UInt8[np.ndarray, "height width 3"]], Pixels]
) -> Pixels:
    """Decodes an image file as `decode_image` does, and gives what a function makes of it.

    Threads that do so at once share a bound on the pixels that they hold together, until the
    crop is made: a file of some kilobytes can stand for hundreds of megabytes. A larger image is
    decoded while no other is.

    Args:
        encoded: The bytes of the file.
        crop: Called with the pixels.

    Raises:
        SpecificationError: As for `decode_image`, or by `crop`.
    """
    from PIL import Image

    with _one_line():
        image = Image.open(io.BytesIO(encoded), formats=_FORMATS)
        count = _counted(image.size)
    with _AT_ONCE.holding(count):
        return _cropped(image, crop)


def _cropped(image: Image.Image, crop: Callable[[np.ndarray], Pixels]) -> Pixels:
    """Leaves nothing in memory but what it returns."""
    try:
        with _one_line():
            pixels = np.array(to_rgb(image))
    finally:
        image.close()
    return crop(pixels)


@contextmanager
def _one_line() -> Iterator[None]:
    """Turns every error of PIL's into a `SpecificationError`."""
    from PIL import Image

    try:
        yield
    except SpecificationError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        reason = first_line(error)
        if isinstance(error, Image.UnidentifiedImageError):
            reason = f"possible: {', '.join(_FORMATS)}"
        raise SpecificationError(f"cannot be decoded as an image ({reason})") from error


def _counted(size: tuple[int, int]) -> int:
    """The pixels of an image, if one image may have so many."""
    from PIL import Image

    width, height = size
    if width * height > (most := Image.MAX_IMAGE_PIXELS or math.inf):
        raise SpecificationError(
            f"has {width:,} x {height:,} pixels, more than the {most:,} that one image may have "
            "(PIL.Image.MAX_IMAGE_PIXELS)"
        )
    return width * height


class _Bound:
    """Lets threads in as long as what they hold together is below a bound, or one alone."""

    def __init__(self) -> None:
        self._held, self._changed = 0, Condition()

    @contextmanager
    def holding(self, count: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + count <= _MOST_AT_ONCE)
            self._held += count
        try:
            yield
        finally:
            with self._changed:
                self._held -= count
                self._changed.notify_all()


# Of about a dozen bytes each, with PIL's copies: half a gigabyte, or what one image takes.
_MOST_AT_ONCE = 2**25
_AT_ONCE = _Bound()


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of PIL's, opened or made, as `decode_image` says.

    Raises:
        SpecificationError: If it holds values without an agreed range.
    """
    from PIL import Image

    # PIL clips deeper greys at 255, which would turn most of them white.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise SpecificationError(f"holds {image.mode!r} values of 32 bits; save it with 8 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, without PIL's warning
    return image if image.mode == "RGB" else image.convert("RGB")
