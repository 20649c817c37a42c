"""The embedded data set."""

import hashlib
import multiprocessing
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from jaxrobust.data import images
from jaxrobust.data.kinds import glyphs

FONTS = range(16)


def digest(split):
    return hashlib.sha256(glyphs.batch(split, 40, 60)[0].tobytes()).hexdigest()


def test_an_image_depends_on_split_and_index_only():
    here = digest("test")
    glyphs.render("train", 7)
    assert digest("test") == here != digest("train")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(digest, ("test",)) == here


def test_no_two_images_are_alike():
    seen = {glyphs.render(split, index).tobytes() for split in ("train", "test") for index in
            [*range(0, 1000, 100), 10**12, 2**63]}  # fmt: skip
    assert len(seen) == 2 * 12


def test_the_source_is_the_test_split_in_balanced_order():
    source = images("glyphs")
    assert len(source) == 50_000 and len(glyphs.CLASSES) == 100
    assert set(Counter(source[:700].labels.tolist()).values()) == {7}
    for place in (0, 1, 499):
        pixels, label = source[place]
        index = int(source.order[place])
        assert pixels.shape == (64, 64, 3) and pixels.dtype == np.uint8
        assert label == index % 100
        np.testing.assert_array_equal(pixels, glyphs.render("test", index))
    drawn, labels = glyphs.batch("train", 95, 105)
    assert labels.tolist() == [95, 96, 97, 98, 99, 0, 1, 2, 3, 4]
    np.testing.assert_array_equal(drawn[5], glyphs.render("train", 100))


@pytest.mark.parametrize("font", FONTS)
def test_every_font_has_every_class_whole_and_unlike_the_others(font):
    missing = np.asarray(glyphs._font(font).getmask("\uffff"))
    stencils = []
    for label, character in enumerate(glyphs.CLASSES):
        assert not np.array_equal(np.asarray(glyphs._font(font).getmask(character)), missing)
        stencil = np.asarray(glyphs._stencil(font, label), np.float64) / 255
        rows, columns = np.nonzero(stencil > 0.1)
        extent = [rows.max() - rows.min() + 1, columns.max() - columns.min() + 1]
        assert 54 <= max(extent) <= 56, character
        # Nothing is cut off: the border stays empty.
        assert not np.concatenate([stencil[[0, -1]].ravel(), stencil[:, [0, -1]].ravel()]).any()
        stencils.append(stencil)
    for (a, first), (b, second) in combinations(enumerate(stencils), 2):
        common = np.minimum(first, second).sum() / np.maximum(first, second).sum()
        assert common < 0.95, glyphs.CLASSES[a] + glyphs.CLASSES[b]


def test_the_glyph_is_in_the_picture_and_stands_out():
    random = np.random.default_rng(0)
    for label in range(100):
        stencil = glyphs._stencil(label % 16, label)
        shown = np.asarray(glyphs._moved(random, stencil), np.float64).sum()
        # At least a fifth of the ink: sizes go down to 0.65, a corner may be outside.
        assert shown > 0.2 * np.asarray(stencil, np.float64).sum()
        background, foreground, _ = (np.array(c) for c in glyphs._colours(random))
        assert np.abs(foreground - background).max() > 0.2 * 255


def test_the_fingerprint_tells_the_images_and_their_drawing_apart(monkeypatch):
    source = images("glyphs")
    prints = [source[:3].fingerprint(), source[1:4].fingerprint(), source[:2].fingerprint()]
    assert len(set(prints)) == 3
    assert images("glyphs")[:3].fingerprint() == prints[0]
    glyphs._sample.cache_clear()
    monkeypatch.setattr(glyphs, "_LONGER_SIDE", 55)
    assert images("glyphs")[:3].fingerprint() != prints[0]
    glyphs._sample.cache_clear()
