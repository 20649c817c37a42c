"""The sources on real photographs and digits."""

import tarfile
import time

import numpy as np
import pytest
from PIL import Image

from jaxrobust.data import images
from jaxrobust.preprocessing import Preprocessing


def test_opening_a_thousand_photographs_decodes_none(shared_data, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("decoded while opening")

    monkeypatch.setattr(Image, "open", refuse)
    start = time.perf_counter()
    photographs = images(f"tar:{shared_data / 'imagenet-sample-1000.tar'}")
    assert time.perf_counter() - start < 1
    assert len(photographs) == 1000
    assert sorted(photographs.labels.tolist()) == list(range(1000))


def test_photographs_arrive_as_pil_prepares_them(shared_data):
    path = shared_data / "imagenet-sample-1000.tar"
    photographs = images(f"tar:{path}")[:24]
    caffe = Preprocessing((227, 227), 256, "squash", "bgr", (104, 117, 123))
    pixels, labels = photographs.decode(0, 24, caffe.crop)
    with tarfile.open(path) as archive:
        members = sorted(archive.getnames())  # one for each class
        for row, label in zip(caffe.normalise(pixels), labels, strict=True):
            file = archive.extractfile(members[label])
            assert file is not None
            picture = Image.open(file).convert("RGB")
            squashed = picture.resize((256, 256), Image.Resampling.BILINEAR)
            rgb = np.asarray(squashed.crop((14, 14, 241, 241)), np.float32)
            bgr = rgb[:, :, ::-1] - np.array([104, 117, 123], np.float32)
            np.testing.assert_array_equal(row, bgr)


@pytest.mark.slow
def test_two_hundred_of_a_thousand_classes(shared_data):
    imagenet = images(f"tar:{shared_data / 'imagenet-sample-1000.tar'}").store.folders
    tiny = images(f"tar:{shared_data / 'tiny-imagenet-val.tar'}")
    assert imagenet and tiny.store.folders and set(tiny.store.folders) < set(imagenet)
    source = tiny.with_classes(imagenet, 1000)
    assert len(source) == 10_000
    names = [imagenet[label] for label in source.labels[:200]]
    assert names == [tiny.store.folders[label] for label in tiny.labels[:200]]
    for length in (200, 250, 1000):
        counts = np.bincount(source.labels[:length], minlength=1000)
        assert np.count_nonzero(counts) == 200 and counts.max() - length // 200 <= 1
    pixels, _ = source.decode(0, 2000, Preprocessing((64, 64)).crop)
    grey = (pixels == pixels[..., :1]).all((1, 2, 3))
    assert 0 < grey.sum() < 200  # a few photographs without colour arrive as RGB too


def test_digits_are_balanced_and_repeated_to_three_channels(shared_data):
    digits = images(f"npz:{shared_data / 'mnist-test.npz'}").with_classes(None, 10)
    assert np.bincount(digits.labels[:500]).tolist() == [50] * 10
    pixels, label = digits[0]
    with np.load(shared_data / "mnist-test.npz") as arrays:
        original = arrays["images"][digits.order[0]]
        assert label == arrays["labels"][digits.order[0]]
    np.testing.assert_array_equal(pixels, np.stack([original] * 3, axis=-1))
