"""From the bytes of an image file to RGB pixels."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.errors import SpecificationError

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from PIL import Image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
# A fixed list keeps PIL from trying formats that start other programs, and from a race in its
# loading of plugins: with no list, two threads that meet a rare format first can fail.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")


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
        SpecificationError: If the bytes are no image, are broken, or hold values without an
            agreed range (32-bit integers, floating point).
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            return np.array(_to_rgb(image))
    except SpecificationError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = f"possible: {', '.join(_FORMATS)}"
        raise SpecificationError(f"cannot be decoded as an image ({reason})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    # PIL clips deeper greys at 255, which would turn most of them white.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise SpecificationError(f"holds {image.mode!r} values of 32 bits; save it with 8 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, without PIL's warning
    return image.convert("RGB")
