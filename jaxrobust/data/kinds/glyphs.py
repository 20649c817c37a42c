"""The embedded data set: characters in random fonts, shapes, colours and clutter.

Nothing is stored: image `index` of a split is drawn when it is asked for, from the TrueType fonts
that matplotlib carries. All its randomness comes from the Philox key (split, index), so splits can
never share a draw, and neither can two images.
"""

from __future__ import annotations

import math
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxrobust.data.registry import register
from jaxrobust.data.store import Store
from jaxrobust.ground.drawing import import_matplotlib

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8
    from PIL import Image

# Of letters that differ only in size (c, C) or not at all (A, Cyrillic А) one is here.
CLASSES = (
    "0123456789"
    "ABCDEFGHJKLMNPQRSTUVWXYZ"
    "abdefghimnqrt"
    "ΓΔΛΞΠΣΦΨΩ"
    "βγδζηθλμξπσω"
    "БДЖИЛЦЧШЩЪЫЭЮЯ"
    "#$%&?@+=*<>{[£§±÷¶"
)
SIZE = 64
TEST_IMAGES = 50_000

Split = Literal["train", "test"]

# All have every class.
_FONTS = (
    *(f"DejaVuSans{cut}" for cut in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{cut}" for cut in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{cut}" for cut in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{cut}" for cut in ("", "Bol", "Italic", "BolIta")),
)
_SPLITS = {"train": 0, "test": 1}
_LONGER_SIDE = 56  # of a glyph in its stencil, in pixels
_MOST_STROKES = 2
_GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def render(split: Split, index: int) -> UInt8[np.ndarray, "64 64 3"]:
    """Draws an image of the class `CLASSES[index % len(CLASSES)]`.

    A glyph of a random font under a random affine map, in one colour on another that differs in
    brightness; both with a smooth random texture; strokes of a third colour across it; blur and
    Gaussian pixel noise.

    Args:
        split: "train" or "test": no random number of one is used in the other.
        index: 0 or greater, without limit.

    Returns:
        RGB; always the same for the same arguments and versions of NumPy, Pillow and the fonts.
    """
    from PIL import ImageDraw

    random = np.random.Generator(np.random.Philox(key=[index, _SPLITS[split]]))
    background, foreground, clutter = _colours(random)
    stencil = _stencil(int(random.random() * len(_FONTS)), index % len(CLASSES))
    picture = _textured(random, background)
    picture.paste(_textured(random, foreground), mask=_moved(random, stencil))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(random.random() * (_MOST_STROKES + 1))):
        *ends, width = random.random(5).tolist()
        draw.line([SIZE * end for end in ends], clutter, 1 + int(4 * width))
    bank = _noise()
    start = int(random.random() * (len(bank) - SIZE * SIZE * 3))
    noise = bank[start : start + SIZE * SIZE * 3].reshape(SIZE, SIZE, 3)
    noisy = np.asarray(picture) + noise * np.float32(2 + 10 * random.random())
    return noisy.clip(0, 255, out=noisy).astype(np.uint8)


def batch(
    split: Split, start: int, stop: int
) -> tuple[UInt8[np.ndarray, "images 64 64 3"], Int32[np.ndarray, " images"]]:
    """Draws the images from `start` up to `stop`, with their class indices."""
    indices = np.arange(start, stop)
    images = np.stack([render(split, index) for index in indices.tolist()])
    return images, (indices % len(CLASSES)).astype(np.int32)


@cache
def _noise() -> Float32[np.ndarray, " values"]:
    """Standard normal values: a cut of these costs a tenth of drawing as many."""
    return np.random.Generator(np.random.Philox(key=0)).standard_normal(2**21, np.float32)


@cache
def _sample() -> str:
    """A hash of one test image of each class, in hexadecimal digits."""
    return blake2b(batch("test", 0, len(CLASSES))[0].tobytes(), digest_size=16).hexdigest()


@cache
def _font(number: int) -> Any:
    from PIL import ImageFont

    folder = Path(import_matplotlib().get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / f"{_FONTS[number]}.ttf", 2 * SIZE)


@cache
def _stencil(font: int, label: int) -> Image.Image:
    """A class's glyph of one font, its longer side `_LONGER_SIDE`, centred: grey, SIZE × SIZE."""
    from PIL import Image, ImageDraw

    large = Image.new("L", (4 * SIZE, 4 * SIZE))
    ImageDraw.Draw(large).text((SIZE, SIZE), CLASSES[label], fill=255, font=_font(font))
    ink = large.crop(large.getbbox())  # the font's own box includes the space around the glyph
    scale = _LONGER_SIDE / max(ink.size)
    width, height = (max(1, round(side * scale)) for side in ink.size)
    stencil = Image.new("L", (SIZE, SIZE))
    fitted = ink.resize((width, height), Image.Resampling.LANCZOS)
    stencil.paste(fitted, ((SIZE - width) // 2, (SIZE - height) // 2))
    return stencil


def _moved(random: np.random.Generator, stencil: Image.Image) -> Image.Image:
    """The stencil under a random affine map, sometimes blurred."""
    from PIL import Image, ImageFilter

    turn, shear, aspect, *place = (2 * random.random(5) - 1).tolist()
    size, blur = 0.65 + 0.35 * random.random(), random.random()
    turn, shear, aspect = 0.25 * turn, 0.2 * shear, math.exp(0.15 * aspect)
    cosine, sine = math.cos(turn), math.sin(turn)
    # Columns of the map: stretch by size · aspect across and size / aspect down, shear, turn.
    a, d = cosine * size * aspect, sine * size * aspect
    b, e = a * shear - sine * size / aspect, d * shear + cosine * size / aspect
    half = _LONGER_SIDE / 2
    # The glyph's box may stick out of the picture a little.
    x, y = (
        SIZE / 2 + max(0.55 * SIZE - half * (abs(u) + abs(v)), 2) * where
        for u, v, where in ((a, b, place[0]), (d, e, place[1]))
    )
    # PIL asks where in the stencil each point of the picture comes from: the inverse map.
    area = a * e - b * d
    a, b, d, e = e / area, -b / area, -d / area, a / area
    inverse = (a, b, SIZE / 2 - a * x - b * y, d, e, SIZE / 2 - d * x - e * y)
    moved = stencil.transform(
        (SIZE, SIZE), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR
    )
    return moved.filter(ImageFilter.GaussianBlur(blur)) if blur > 0.75 else moved


def _colours(random: np.random.Generator) -> list[tuple[int, ...]]:
    """Background, foreground and clutter, RGB; the first two differ in brightness."""
    colours = random.random((3, 3))
    share, dark, swap = random.random(3).tolist()
    contrast = 0.35 + 0.4 * share
    wanted = [dark * (1 - contrast), dark * (1 - contrast) + contrast]
    # Moved in brightness only, the hue stays.
    colours[:2] += (np.array(wanted[:: 1 if swap < 0.5 else -1]) - colours[:2] @ _GREY)[:, None]
    return [tuple(colour) for colour in (colours.clip(0, 1) * 255).astype(int).tolist()]


def _textured(random: np.random.Generator, colour: tuple[int, ...]) -> Image.Image:
    """A colour blended with a smooth random pattern, coarse or fine."""
    from PIL import Image

    cells, share = 2 + int(15 * random.random()), 0.25 * random.random()
    pattern = Image.frombytes("RGB", (cells, cells), random.bytes(3 * cells * cells))
    coarse = Image.blend(Image.new("RGB", (cells, cells), colour), pattern, share)
    return coarse.resize((SIZE, SIZE), Image.Resampling.BILINEAR)


class GlyphStore(Store):
    """The first `TEST_IMAGES` test images, drawn when they are asked for."""

    threads = False  # drawing holds the interpreter's lock nearly all the time

    def __init__(self) -> None:
        self.keys = [str(index) for index in range(TEST_IMAGES)]
        self.folders = None
        self.labels = np.arange(TEST_IMAGES, dtype=np.int32) % len(CLASSES)

    def content(self, index: int) -> bytes:
        # To draw an image only for its fingerprint would take as long as to decode it. What a
        # change of versions, fonts or machine does to one, it does to some of these too.
        return f"{_sample()} {index}".encode()

    def pixels(self, index: int) -> UInt8[np.ndarray, "64 64 3"]:
        return render("test", index)

    def describe(self, index: int) -> str:
        return f"glyph {index}"


@register("glyphs")
def open_glyphs(_: str) -> Store:
    """Characters of 100 classes, drawn on the spot: 50,000 test images, 64×64."""
    return GlyphStore()
