"""Leaving out the images that cannot be decoded."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from jaxrobust.data import EncodedStore, images
from jaxrobust.ground.errors import SpecificationError

rng = np.random.default_rng(0)


def jpeg():
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (30, 30, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Eight images of two classes, of which two are broken."""
    for number in range(8):
        file = tmp_path / "photos" / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg())
    (tmp_path / "photos/a/2.jpg").write_bytes(b"")
    torn = tmp_path / "photos/b/5.jpg"
    torn.write_bytes(torn.read_bytes()[:400])
    return f"folder:{tmp_path / 'photos'}"


@pytest.fixture
def decodings(monkeypatch):
    """The number of every image that is decoded."""
    seen = []
    pixels = EncodedStore.pixels

    def noted(self, index):
        seen.append(index)
        return pixels(self, index)

    monkeypatch.setattr(EncodedStore, "pixels", noted)
    return seen


def test_broken_images_are_left_out_and_named(folder):
    whole = images(folder)
    with pytest.raises(SpecificationError, match=r"a/2\.jpg|b/5\.jpg"):
        whole.decode(0, 8, lambda pixels: pixels)
    left = whole.without_broken()
    assert len(left) == 6 and sorted(left.left_out) == ["a/2.jpg", "b/5.jpg"]
    kept = [index for index in whole.order if whole.store.describe(index) not in left.left_out]
    assert left.order.tolist() == kept
    assert left.labels.tolist() == whole.store.labels[kept].tolist()
    left.decode(0, 6, lambda pixels: pixels)


def test_where_nothing_is_broken_nothing_changes(folder):
    left = images(folder).without_broken()
    again = left.without_broken()
    assert again.order.tolist() == left.order.tolist() and again.left_out == left.left_out
    assert again.fingerprint() == left.fingerprint()


def test_slices_and_labels_of_a_network_keep_the_names(folder):
    left = images(folder).without_broken()
    assert left[:3].left_out == left.left_out
    assert left.with_classes(("b", "a"), 2).left_out == left.left_out
    assert images(folder).left_out == ()


def test_only_the_images_in_question_are_tried(folder, decodings):
    part = images(folder)[2:5]
    part.without_broken()
    assert sorted(decodings) == sorted(part.order.tolist())


def test_the_outcome_is_remembered(folder, decodings):
    first = images(folder).without_broken()
    decodings.clear()
    second = images(folder).without_broken()
    assert not decodings
    assert second.left_out == first.left_out and second.order.tolist() == first.order.tolist()


def test_it_works_without_a_cache(folder, monkeypatch, decodings):
    monkeypatch.setenv("JAXROBUST_CACHE_GB", "0")
    for _ in range(2):
        assert len(images(folder).without_broken()) == 6
    assert len(decodings) == 16


def test_a_file_that_cannot_be_read_is_broken(folder):
    whole = images(folder)
    os.unlink(folder.removeprefix("folder:") + "/b/7.jpg")
    left = whole.without_broken()
    assert sorted(left.left_out) == ["a/2.jpg", "b/5.jpg", "b/7.jpg"]
    assert len(left.fingerprint()) == 32


def test_if_all_are_broken_it_is_an_error(folder, tmp_path):
    for file in (tmp_path / "photos").rglob("*.jpg"):
        file.write_bytes(b"no image")
    with pytest.raises(SpecificationError, match="not one of 8 images can be decoded"):
        images(folder).without_broken()


def test_progress_is_reported(folder):
    told = []
    images(folder).without_broken(lambda *what: told.append(what))
    assert told == [("reading images", 0, 8), ("looking for broken images", 0, 8)]
