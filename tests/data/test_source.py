"""The sequence of images: slices, decoding on threads, fingerprints."""

import io
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxrobust.data import ArrayStore, EncodedStore, ImageSource, Item
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.preprocessing import Preprocessing

COUNT = 23
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 5, 3), np.uint8)
SOURCE = ImageSource.from_store("made:up", ArrayStore(PIXELS, np.arange(COUNT) % 4))
crop = Preprocessing((6, 5)).crop


def same(pixels):
    return pixels


def content(source):
    return [(pixels.tolist(), label) for pixels, label in source]


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def files(**contents):
    items = [Item("class", name, f"class/{name}.png") for name in contents]
    return ImageSource.from_store(
        "tar:x.tar", EncodedStore(items, lambda path: contents[path[6:-4]])
    )


bound = st.none() | st.integers(-30, 30)


@given(bound, bound, st.none() | st.integers(-5, 5).filter(bool))
def test_slices_are_those_of_a_list(start, stop, step):
    part = SOURCE[start:stop:step]
    assert content(part) == content(SOURCE)[start:stop:step]
    assert part.labels.tolist() == SOURCE.labels.tolist()[start:stop:step]
    assert len(part) == len(part.labels) and part.name == SOURCE.name


def test_slices_of_slices():
    assert content(SOURCE[5:20][::-2][1:3]) == content(SOURCE)[5:20][::-2][1:3]


@pytest.mark.parametrize("index", [0, 3, -1, -COUNT, np.int64(2)])
def test_single_images(index):
    pixels, label = SOURCE[index]
    assert pixels.dtype == np.uint8 and isinstance(label, int)
    assert (pixels.tolist(), label) == content(SOURCE)[index]


@pytest.mark.parametrize("index", [COUNT, -COUNT - 1])
def test_beyond_the_end(index):
    with pytest.raises(IndexError):
        SOURCE[index]


def test_only_integers_and_slices_are_indices():
    with pytest.raises(TypeError):
        SOURCE[1.0]  # pyright: ignore


def test_labels_cannot_be_changed_behind_the_source():
    with pytest.raises(ValueError, match="read-only"):
        SOURCE.labels[0] = 7


def test_pixels_belong_to_the_caller():
    SOURCE[0][0][:] = 0
    assert SOURCE[0][0].any()


def test_it_prints_what_it_is():
    assert repr(SOURCE) == "<ImageSource made:up: 23 images, 4 classes>"
    assert repr(SOURCE[:1]) == "<ImageSource made:up: 1 image, 1 class>"


@pytest.mark.parametrize(("start", "stop"), [(0, COUNT), (4, 5), (7, 21)])
def test_decoding_equals_one_by_one(start, stop):
    pixels, labels = SOURCE.decode(start, stop, crop)
    expected = [SOURCE[index] for index in range(start, stop)]
    np.testing.assert_array_equal(pixels, np.stack([crop(image) for image, _ in expected]))
    assert labels.tolist() == [label for _, label in expected]
    assert pixels.dtype == np.uint8 and labels.dtype == np.int32


def test_decoding_of_a_slice_counts_from_its_start():
    np.testing.assert_array_equal(SOURCE[4:9].decode(1, 3, crop)[0], SOURCE.decode(5, 7, crop)[0])


def test_decoding_uses_several_threads():
    both = threading.Barrier(2, timeout=30)

    def wait_for_another(pixels):
        both.wait()
        return pixels

    SOURCE.decode(0, 8, wait_for_another)


@pytest.mark.parametrize(("start", "stop"), [(0, COUNT + 1), (-1, 3), (3, 3), (5, 2)])
def test_decoding_beyond_the_source(start, stop):
    with pytest.raises(SpecificationError, match="made:up: there are no images"):
        SOURCE.decode(start, stop, crop)


def test_a_broken_file_is_named():
    good = png(PIXELS[0])
    source = files(a=good, b=good[:60], c=good)
    with pytest.raises(SpecificationError, match=r"^tar:x\.tar: class/b\.png: cannot be decoded"):
        source.decode(0, 3, same)


def test_an_image_of_the_wrong_size_is_named():
    source = files(a=png(PIXELS[0]), b=png(PIXELS[0, :3]), c=png(PIXELS[1]))
    with pytest.raises(SpecificationError, match=r"^tar:x\.tar: class/b\.png: the image is 3 x 5"):
        source.decode(0, 3, crop)


def test_crops_of_different_shapes_are_an_error():
    # The second shape would broadcast into the first without a word.
    shapes = iter([(6, 5, 3), (6, 5, 1)])
    with pytest.raises(SpecificationError, match="one shape"):
        SOURCE.decode(0, 2, lambda pixels: np.zeros(next(shapes), np.uint8))


def test_a_file_that_vanished_is_named(tmp_path):
    store = EncodedStore([Item("a", "x.png", "a/x.png")], lambda p: (tmp_path / p).read_bytes())
    source = ImageSource.from_store("folder:x", store)
    for use in (lambda: source[0], source.fingerprint, lambda: source.decode(0, 1, same)):
        with pytest.raises(SpecificationError, match=r"^folder:x: a/x\.png: cannot be read \(No"):
            use()


def test_the_fingerprint_is_of_images_labels_and_order():
    a, b, c = (png(pixels) for pixels in PIXELS[:3])
    source = files(a=a, b=b, c=c)
    prints = [
        source,
        source[:2],
        source[1:],
        source[::-1],
        files(a=a, b=b, c=b),
        source.with_classes(["other", "class"], 2),
    ]
    assert len({part.fingerprint() for part in prints}) == len(prints)
    assert files(a=a, b=b, c=c).fingerprint() == source.fingerprint()
    assert source[:3][:2].fingerprint() == source[:2].fingerprint()


def test_the_fingerprint_of_arrays_knows_their_shape():
    prints = {
        ImageSource.from_store("x", ArrayStore(array, np.zeros(2, int))).fingerprint()
        for array in (PIXELS[:2], PIXELS[:2].reshape(2, 5, 6, 3), PIXELS[:2] + np.uint8(1))
    }
    assert len(prints) == 3


def test_the_fingerprint_does_not_change_between_versions():
    array = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    source = ImageSource.from_store("x", ArrayStore(array, np.array([0, 1])))
    assert source.fingerprint() == "a708dc2ff2e3e325fc84533d9e06da0d"
