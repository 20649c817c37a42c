"""Finding the images and their class folders among paths."""

import pytest

from jaxrobust.data.kinds.encoded import class_folders
from jaxrobust.ground.errors import SpecificationError


def folders_and_keys(*paths):
    return sorted((item.folder, item.key) for item in class_folders(paths))


@pytest.mark.parametrize("top", ["", "./", "photos/", "data/photos/val/", "/"])
def test_folders_around_the_classes_do_not_matter(top):
    paths = [f"{top}cat/1.jpg", f"{top}cat/2.PNG", f"{top}dog/1.JPEG"]
    assert folders_and_keys(*paths) == [("cat", "1.jpg"), ("cat", "2.PNG"), ("dog", "1.JPEG")]


@pytest.mark.parametrize("top", ["", "photos/"])
def test_a_single_folder_is_a_class(top):
    assert folders_and_keys(f"{top}cat/1.jpg", f"{top}cat/2.jpg") == [
        ("cat", "1.jpg"),
        ("cat", "2.jpg"),
    ]


def test_folders_within_a_class_belong_to_the_key():
    paths = ["train/cat/images/1.jpg", "train/cat/more/1.jpg", "train/dog/images/1.jpg"]
    assert folders_and_keys(*paths) == [
        ("cat", "images/1.jpg"),
        ("cat", "more/1.jpg"),
        ("dog", "images/1.jpg"),
    ]


def test_what_is_no_image_is_left_out():
    others = ["README.md", "cat/._1.jpg", "cat/.DS_Store", "__MACOSX/cat/1.jpg", ".x/cat/1.jpg"]
    paths = [*others, "cat/boxes.txt", "cat/jpg", "cat/1.jpg", "dog/1.jpg"]
    assert folders_and_keys(*paths) == [("cat", "1.jpg"), ("dog", "1.jpg")]


@pytest.mark.parametrize(
    "paths",
    [
        ["1.jpg", "2.jpg"],
        ["1.jpg"],
        ["overview.jpg", "cat/1.jpg", "dog/1.jpg"],
        ["photos/overview.jpg", "photos/cat/1.jpg", "photos/dog/1.jpg"],
    ],
)
def test_an_image_in_no_class_folder_is_an_error(paths):
    with pytest.raises(SpecificationError, match=f"{paths[0]!r} lies in no class folder"):
        class_folders(paths)
