"""Preprocessing against pipelines written directly with PIL and torchvision's formulas."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.preprocessing import Preprocessing

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def photograph(height, width, seed=0):
    """Smooth colours with noise, so that a shift by one pixel or another filter shows."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height))).astype(int)
    return np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


def torchvision_shorter(picture, size, resample):
    """torchvision.transforms.Resize(size), from its documentation and formulas."""
    w, h = picture.size
    short, long = (w, h) if w <= h else (h, w)
    new_short, new_long = size, int(size * long / short)
    return picture.resize(
        (new_short, new_long) if w <= h else (new_long, new_short), resample=resample
    )


def torchvision_centre(picture, height, width):
    """torchvision.transforms.CenterCrop((height, width)) of an image that is large enough."""
    top = int(round((picture.height - height) / 2.0))
    left = int(round((picture.width - width) / 2.0))
    return picture.crop((left, top, left + width, top + height))


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("shape", [(61, 83), (83, 61), (32, 32), (20, 300), (31, 32)])
def test_shorter_equals_torchvision_on_pil(shape, interpolation):
    image = photograph(*shape)
    resized = torchvision_shorter(Image.fromarray(image), 32, FILTERS[interpolation])
    expected = np.asarray(torchvision_centre(resized, 27, 25))
    preprocessing = Preprocessing((27, 25), 32, "shorter", interpolation=interpolation)
    np.testing.assert_array_equal(preprocessing.crop(image), expected)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("shape", [(61, 83), (83, 61), (32, 32), (20, 300), (31, 32)])
def test_squash_equals_pil(shape, interpolation):
    image = photograph(*shape)
    squashed = Image.fromarray(image).resize((32, 32), FILTERS[interpolation])
    expected = np.asarray(torchvision_centre(squashed, 27, 25))
    preprocessing = Preprocessing((27, 25), 32, "squash", interpolation=interpolation)
    np.testing.assert_array_equal(preprocessing.crop(image), expected)


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    target=st.integers(12, 40),
    side=st.integers(1, 12),
)
def test_any_size_equals_pil(height, width, target, side):
    image = photograph(height, width)
    picture = Image.fromarray(image)
    squashed = picture.resize((target, target), Image.Resampling.BILINEAR)
    shorter = torchvision_shorter(picture, target, Image.Resampling.BILINEAR)
    for preprocessing, resized in (
        (Preprocessing((side, side), target, "squash"), squashed),
        (Preprocessing((side, side), target, "shorter"), shorter),
    ):
        expected = np.asarray(torchvision_centre(resized, side, side))
        np.testing.assert_array_equal(preprocessing.crop(image), expected)


@pytest.mark.parametrize(("size", "first"), [(227, 14), (225, 16), (224, 16), (256, 0)])
def test_odd_margins_go_to_the_even_neighbour(size, first):
    image = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 256, 3)).copy()
    assert Preprocessing((size, size), 256, "squash").crop(image)[0, 0, 0] == first


def test_height_comes_before_width():
    image = photograph(40, 60)
    preprocessing = Preprocessing((10, 30), (20, 50), "squash")
    resized = Image.fromarray(image).resize((50, 20), Image.Resampling.BILINEAR)
    expected = np.asarray(resized.crop((10, 5, 40, 15)))
    assert preprocessing.shape == (10, 30, 3)
    np.testing.assert_array_equal(preprocessing.crop(image), expected)


def test_bgr_is_rgb_backwards():
    image = photograph(50, 40)
    rgb = Preprocessing((20, 20), 24, "squash")
    bgr = dataclasses.replace(rgb, channels="bgr")
    np.testing.assert_array_equal(bgr.crop(image), rgb.crop(image)[:, :, ::-1])


def test_grey_is_pil_luma():
    image = photograph(50, 40)
    preprocessing = Preprocessing((20, 22), 24, "squash", "grey")
    grey = Image.fromarray(image).convert("L").resize((24, 24), Image.Resampling.BILINEAR)
    expected = np.asarray(torchvision_centre(grey, 20, 22))[..., None]
    assert preprocessing.shape == (20, 22, 1)
    np.testing.assert_array_equal(preprocessing.crop(image), expected)


def test_grey_of_a_repeated_grey_image_is_that_image():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = np.repeat(grey[..., None], 3, axis=2)
    cropped = Preprocessing((16, 16), channels="grey").crop(image)
    np.testing.assert_array_equal(cropped[..., 0], grey)


def test_without_resizing_only_the_right_size_passes():
    lenet = Preprocessing((28, 28), channels="grey", std=(256.0,))
    with pytest.raises(SpecificationError, match=r"32 x 30 .* 28 x 28 .*'squash' or 'shorter'"):
        lenet.crop(photograph(32, 30))


@pytest.mark.parametrize("size", [(28, 28), (20, 28)])
def test_replacing_the_mode_is_enough_to_resize(size):
    fixed = Preprocessing(size)
    image = photograph(40, 60)
    picture = Image.fromarray(image)
    squash = picture.resize((28, size[0]), Image.Resampling.BILINEAR)
    shorter = torchvision_centre(
        torchvision_shorter(picture, 28, Image.Resampling.BILINEAR), size[0], 28
    )
    for mode, expected in {"squash": squash, "shorter": shorter}.items():
        actual = dataclasses.replace(fixed, mode=mode).crop(image)
        np.testing.assert_array_equal(actual, np.asarray(expected))


def test_an_image_smaller_than_the_crop_is_an_error_not_padded():
    wide = Preprocessing((10, 40), 20, "shorter")
    assert wide.crop(photograph(30, 60)).shape == (10, 40, 3)
    with pytest.raises(SpecificationError, match=r"20 x 30 .*smaller than the crop of 10 x 40"):
        wide.crop(photograph(40, 60))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
    ],
)
def test_only_rgb_bytes_are_images(image):
    with pytest.raises(SpecificationError, match=r"must be uint8 \[height, width, 3\]"):
        Preprocessing((8, 8)).crop(image)


@pytest.mark.parametrize(
    ("channels", "mean", "std"),
    [
        ("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ("bgr", (104, 117, 123), (1.0,)),
        ("grey", (0.0,), (256,)),
        ("rgb", (127.5,), (127.5,)),
    ],
)
def test_normalise_subtracts_and_divides_per_channel(channels, mean, std):
    preprocessing = Preprocessing((6, 5), None, "squash", channels, mean, std)
    batch = np.stack([preprocessing.crop(photograph(9, 9, seed)) for seed in range(3)])
    expected = (batch.astype(np.float64) - np.array(mean)) / np.array(std)
    actual = preprocessing.normalise(batch)
    assert actual.dtype == np.float32 and actual.shape == batch.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def test_normalise_by_default_changes_no_value():
    batch = photograph(6, 5)[None]
    np.testing.assert_array_equal(Preprocessing((6, 5)).normalise(batch), batch)


@pytest.mark.parametrize("shape", [(2, 6, 5, 1), (2, 5, 6, 3), (6, 5, 3)])
def test_normalise_refuses_other_shapes(shape):
    with pytest.raises(SpecificationError, match=r"a batch must be uint8 \[images, 6, 5, 3\]"):
        Preprocessing((6, 5)).normalise(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing((227, 227), 256, "squash", "bgr", (104, 117, 123)),
        Preprocessing((28, 28), channels="grey", std=(256.0,)),
        Preprocessing((10, 30), (20, 50), "squash", interpolation="bicubic"),
    ],
)
def test_json_round_trip(preprocessing):
    restored = Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json())))
    assert restored == preprocessing
    assert hash(restored) == hash(preprocessing)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": [8, 8], "crop": 3}, "unknown crop; possible: size, resize"),
        ({"resize": 8}, "size is missing"),
    ],
)
def test_json_with_wrong_fields(values, message):
    with pytest.raises(SpecificationError, match=message):
        Preprocessing.from_json(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": (0, 8)}, "at least 1 pixel"),
        ({"size": (8, 8, 3)}, "must be"),
        ({"resize": 16}, "needs mode='squash' or mode='shorter'"),
        ({"resize": (16, 16), "mode": "shorter"}, "one number"),
        ({"resize": 7, "mode": "squash"}, "smaller than the crop"),
        ({"resize": 7, "mode": "shorter"}, "smaller than the crop"),
        ({"resize": (16, 7), "mode": "squash"}, "smaller than the crop"),
        ({"mode": "stretch"}, "mode='stretch' is unknown; possible: none, squash, shorter"),
        ({"channels": "RGB"}, "channels='RGB' is unknown; possible: rgb, bgr, grey"),
        ({"interpolation": "cubic"}, "interpolation='cubic' is unknown; possible: nearest"),
        ({"mean": (1.0, 2.0)}, "one for each of the 3 channels"),
        ({"mean": (1.0, 2.0, 3.0), "channels": "grey"}, "one for each of the 1 channels"),
        ({"std": (1.0, 0.0, 1.0)}, "greater than 0"),
        ({"std": (float("nan"),)}, "finite"),
    ],
)
def test_contradictions_are_one_clear_line(values, message):
    with pytest.raises(SpecificationError, match=message) as error:
        Preprocessing(**({"size": (8, 8)} | values))
    assert "\n" not in str(error.value)
