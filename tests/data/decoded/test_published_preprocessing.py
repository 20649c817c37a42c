"""The preprocessing of every published family of networks against plain PIL and NumPy.

Each reference below is written from what the publisher's code does, with nothing of this package.
"""

import numpy as np
import pytest
from PIL import Image

from jaxrobust.networks.zoo import ZOO
from jaxrobust.preprocessing import Preprocessing

BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def torchvision(picture):
    """transforms.Resize(256), CenterCrop(224); ToTensor and Normalize follow."""
    width, height = picture.size
    if width < height:
        size = (256, int(256 * height / width))
    else:
        size = (int(256 * width / height), 256)
    picture = picture.resize(size, BILINEAR)
    left = int(round((picture.width - 224) / 2.0))
    top = int(round((picture.height - 224) / 2.0))
    return np.asarray(picture.crop((left, top, left + 224, top + 224)))


def torchvision_input(pixels):
    scaled = pixels.astype(np.float64) / 255
    return (scaled - IMAGENET_MEAN) / IMAGENET_STD


def caffe(side):
    """256 × 256 whatever the aspect ratio, centre crop, blue first."""

    def crop(picture):
        pixels = np.asarray(picture.resize((256, 256), BILINEAR))
        start = (256 - side) // 2
        return pixels[start : start + side, start : start + side, ::-1]

    return crop


def caffe_input(pixels):
    return pixels.astype(np.float64) - (104, 117, 123)


def convnets_keras(picture):
    """preprocess_image_batch(img_size=(256, 256), crop_size=(227, 227), color_mode="rgb")."""
    pixels = np.asarray(picture.resize((256, 256), BILINEAR))
    rows = slice((256 - 227) // 2, (256 + 227) // 2)
    return pixels[rows, rows]


def convnets_keras_input(pixels):
    return pixels.astype(np.float64) - (123.68, 116.779, 103.939)


def keras(picture):
    """load_img(target_size=(224, 224)): nearest neighbour; preprocess_input turns it to BGR."""
    return np.asarray(picture.resize((224, 224), NEAREST))[..., ::-1]


def keras_evaluation(picture):
    """What Keras's published accuracies were measured with: shorter side 256, centre crop."""
    width, height = picture.size
    short = min(width, height)
    picture = picture.resize((256 * width // short, 256 * height // short), BILINEAR)
    left, top = round((picture.width - 224) / 2), round((picture.height - 224) / 2)
    return np.asarray(picture.crop((left, top, left + 224, top + 224)))[..., ::-1]


def keras_input(pixels):
    return pixels.astype(np.float64) - (103.939, 116.779, 123.68)


def cifar(picture):
    """ToTensor and Normalize with ImageNet's numbers, at 32 × 32 as stored."""
    return np.asarray(picture.resize((32, 32), BILINEAR))


_MEAN, _STD = ([255 * value for value in values] for values in (IMAGENET_MEAN, IMAGENET_STD))
_KERAS_MEAN = (103.939, 116.779, 123.68)

SCHEMES = {
    "torchvision": (
        Preprocessing((224, 224), 256, "shorter", mean=tuple(_MEAN), std=tuple(_STD)),
        torchvision,
        torchvision_input,
    ),
    "caffe 227": (
        Preprocessing((227, 227), 256, "squash", "bgr", (104, 117, 123)),
        caffe(227),
        caffe_input,
    ),
    "caffe 224": (
        Preprocessing((224, 224), 256, "squash", "bgr", (104, 117, 123)),
        caffe(224),
        caffe_input,
    ),
    "convnets-keras": (
        Preprocessing((227, 227), 256, "squash", mean=(123.68, 116.779, 103.939)),
        convnets_keras,
        convnets_keras_input,
    ),
    "keras": (
        Preprocessing((224, 224), None, "squash", "bgr", _KERAS_MEAN, interpolation="nearest"),
        keras,
        keras_input,
    ),
    "keras, as evaluated": (
        Preprocessing((224, 224), 256, "shorter", "bgr", _KERAS_MEAN),
        keras_evaluation,
        keras_input,
    ),
    "cifar": (
        Preprocessing((32, 32), None, "squash", mean=tuple(_MEAN), std=tuple(_STD)),
        cifar,
        torchvision_input,
    ),
}


def photograph(height, width):
    """Smooth colours with noise, so that a shift by one pixel or another filter shows."""
    rng = np.random.default_rng(height * 1000 + width)
    coarse = rng.integers(0, 256, (6, 9, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height))).astype(int)
    return np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


# Landscape, portrait, square, very wide, smaller than the crop, and sizes of odd margins.
SHAPES = [(375, 500), (500, 334), (256, 256), (100, 700), (65, 90), (257, 301), (480, 271)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_pixels_equal_the_publishers_to_the_bit(scheme, shape):
    preprocessing, reference, _ = SCHEMES[scheme]
    image = photograph(*shape)
    np.testing.assert_array_equal(preprocessing.crop(image), reference(Image.fromarray(image)))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_networks_input_equals_the_publishers(scheme):
    preprocessing, reference, scaled = SCHEMES[scheme]
    image = photograph(375, 500)
    found = preprocessing.normalise(preprocessing.crop(image)[None])[0]
    np.testing.assert_allclose(found, scaled(reference(Image.fromarray(image))), rtol=0, atol=1e-4)


def test_the_zoo_uses_these_schemes():
    """Every named network that takes photographs crops them as one of the publishers does."""
    image = photograph(375, 500)
    picture = Image.fromarray(image)
    known = {reference(picture).tobytes() for _, reference, _ in SCHEMES.values()}
    large = {name: entry.blueprint.preprocessing for name, entry in ZOO.items()}
    large = {name: each for name, each in large.items() if min(each.size) >= 224}
    assert large
    assert [name for name, each in large.items() if each.crop(image).tobytes() not in known] == []
