"""Decoding to RGB against PIL, and of files that PIL alone would get wrong."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxrobust.data.decoded.decoding import decode_image
from jaxrobust.ground.errors import SpecificationError

rng = np.random.default_rng(0)
RGB = rng.integers(0, 256, (9, 7, 3), np.uint8)
SIXTEEN = rng.integers(0, 65536, (9, 7), np.uint16)


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png(depth_and_colour, rows):
    """A PNG written by hand: PIL does not write 16 bits of colour."""

    def chunk(name, content):
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 7, 9, *depth_and_colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_kinds_give_the_pixels_back(kind):
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(RGB), kind)), RGB)


def test_webp():
    np.testing.assert_array_equal(
        decode_image(encoded(Image.fromarray(RGB), "WEBP", lossless=True)), RGB
    )


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_modes_equal_pil(mode):
    file = encoded(Image.fromarray(RGB).convert(mode), "JPEG", quality=90)
    expected = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    np.testing.assert_array_equal(decode_image(file), expected)


def test_black_and_white():
    file = encoded(Image.fromarray(RGB).convert("1"))
    assert set(np.unique(decode_image(file)).tolist()) == {0, 255}


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_dropped(mode):
    picture = Image.fromarray(RGB).convert(mode)
    picture.putalpha(Image.fromarray(RGB[:, :, 0]))
    opaque = picture.convert(mode[:-1]).convert("RGB")
    np.testing.assert_array_equal(decode_image(encoded(picture)), np.asarray(opaque))


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(200))])
def test_palette_images_keep_their_colours(transparency):
    picture = Image.fromarray(RGB).quantize(64)
    expected = np.asarray(picture.convert("RGB"))
    options = {} if transparency is None else {"transparency": transparency}
    np.testing.assert_array_equal(decode_image(encoded(picture, **options)), expected)


def test_grey_is_repeated():
    decoded = decode_image(encoded(Image.fromarray(RGB[:, :, 0])))
    np.testing.assert_array_equal(decoded, np.repeat(RGB[:, :, :1], 3, axis=2))


def test_sixteen_bits_of_grey_equal_sixteen_bits_of_colour():
    grey = decode_image(png((16, 0), SIXTEEN))
    colour = decode_image(png((16, 2), np.repeat(SIXTEEN[..., None], 3, axis=2)))
    np.testing.assert_array_equal(grey, np.repeat((SIXTEEN // 256)[..., None], 3, axis=2))
    np.testing.assert_array_equal(grey, colour)


@pytest.mark.parametrize("kind", ["TIFF", "PPM"])
def test_sixteen_bits_in_other_files(kind):
    if kind == "TIFF":
        file = encoded(Image.fromarray(SIXTEEN), kind)
    else:
        file = b"P5 7 9 65535\n" + SIXTEEN.astype(">u2").tobytes()
    np.testing.assert_array_equal(decode_image(file)[..., 1], SIXTEEN // 256)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_without_a_range_are_refused(dtype):
    file = encoded(Image.fromarray(SIXTEEN.astype(dtype)), "TIFF")
    with pytest.raises(SpecificationError, match="32 bits; save it with 8 bits"):
        decode_image(file)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_truncated_files_are_errors(kind):
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))
    file = encoded(noise, kind)
    for length in (0, 3, 20, len(file) // 2):
        with pytest.raises(SpecificationError, match="cannot be decoded as an image") as error:
            decode_image(file[:length])
        assert "\n" not in str(error.value)


def test_flipped_bytes_give_an_error_or_an_image():
    file = encoded(Image.fromarray(RGB))
    for position in range(8, len(file)):
        damaged = bytearray(file)
        damaged[position] ^= 0xFF
        try:
            assert decode_image(bytes(damaged)).dtype == np.uint8
        except SpecificationError as error:
            assert "\n" not in str(error)


def test_programs_are_not_images():
    with pytest.raises(SpecificationError, match="possible: JPEG, PNG"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


def test_the_pixels_may_be_written_to():
    decode_image(encoded(Image.fromarray(RGB)))[0, 0, 0] = 7
