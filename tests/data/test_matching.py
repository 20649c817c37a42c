"""Class folders and labels against a network's classes."""

import numpy as np
import pytest

from jaxrobust.data import ArrayStore, EncodedStore, ImageSource, Item
from jaxrobust.ground.errors import SpecificationError


def source(*folders):
    """One image in each folder, named by it."""
    store = EncodedStore([Item(folder, folder, folder) for folder in folders], str.encode)
    return ImageSource.from_store("made:up", store)


def labels_by_folder(images):
    return {
        images.store.content(index).decode(): label
        for index, label in zip(images.order.tolist(), images.labels.tolist(), strict=True)
    }


def test_without_a_network_labels_follow_the_sorted_folders():
    assert labels_by_folder(source("dog", "cat", "ant")) == {"ant": 0, "cat": 1, "dog": 2}


def test_folders_named_by_classes_take_their_index():
    images = source("ant", "cat", "dog").with_classes(["dog", "ant", "cat"], 3)
    assert labels_by_folder(images) == {"dog": 0, "ant": 1, "cat": 2}
    assert images.labels.dtype == np.int32


def test_a_subset_of_the_classes_is_fine():
    images = source("dog", "eel").with_classes(["ant", "bee", "cat", "dog", "eel"], 5)
    assert labels_by_folder(images) == {"dog": 3, "eel": 4}


@pytest.mark.parametrize("names", [None, ["x", "y", "z"]])
def test_as_many_folders_as_classes_count_in_sorted_order(names):
    images = source("c", "a", "b").with_classes(names, 3)
    assert labels_by_folder(images) == {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize(
    ("folders", "names", "classes", "message"),
    [
        (("ant", "zoo"), ["ant", "bee"], 2, r"1 of 2 class folders are no class names .*'zoo'"),
        (
            ("a", "b"),
            ["ant", "bee", "cat"],
            3,
            r"2 of 2 .*such as 'ant'\), or exactly 3 class folders",
        ),
        (
            ("a", "b", "c", "d", "e"),
            None,
            3,
            r"\('a', 'b', 'c', \.\.\.\); possible: exactly 3 class folders",
        ),
        (("ant", "bee"), ["ant", "ant", "bee"], 3, "'ant' each name several classes"),
    ],
)
def test_anything_else_is_an_error(folders, names, classes, message):
    with pytest.raises(SpecificationError, match=f"^made:up: .*{message}") as error:
        source(*folders).with_classes(names, classes)
    assert "\n" not in str(error.value)


def test_matching_keeps_the_order_and_may_be_repeated():
    images = source(*"abcdefgh")
    names = list("hgfedcba")
    matched = images.with_classes(names, 8)
    np.testing.assert_array_equal(matched.order, images.order)
    np.testing.assert_array_equal(matched.labels, 7 - images.labels)
    again = matched.with_classes(sorted(names), 8)
    np.testing.assert_array_equal(again.labels, images.labels)


def test_a_slice_matches_like_the_whole():
    images, names = source(*"abcdefgh"), list("hgfedcbaxyz")
    np.testing.assert_array_equal(
        images[2:5].with_classes(names, 11).labels, images.with_classes(names, 11).labels[2:5]
    )


def test_labels_of_arrays_are_class_indices():
    labels = np.array([4, 0, 2])
    images = ImageSource.from_store("made:up", ArrayStore(np.zeros((3, 2, 2), np.uint8), labels))
    np.testing.assert_array_equal(images.with_classes(None, 5).labels, labels[images.order])
    with pytest.raises(SpecificationError, match=r"made:up: 1 labels .* 4 classes.* 4 at image 0"):
        images.with_classes(list("abcd"), 4)
