"""The validation set of ImageNet: its own archive, and folders of its files."""

import io
import tarfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxrobust.data import images
from jaxrobust.data.kinds.imagenet_val import validation_labels, wordnet_ids
from jaxrobust.ground.errors import SpecificationError

rng = np.random.default_rng(0)


def name(number):
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def encoded(mode="RGB", kind="JPEG"):
    picture = Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8)).convert(mode)
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


FILES = {name(number): encoded() for number in (1, 2, 3, 50_000, 4711)}


def write_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for member_name, content in files.items():
            member = tarfile.TarInfo(member_name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return f"imagenet-val:{path}"


def write_folder(root, files):
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return f"imagenet-val:{root}"


def class_of(number):
    return wordnet_ids()[validation_labels()[number - 1]]


def test_every_class_has_fifty_images():
    assert np.bincount(validation_labels()).tolist() == [50] * 1000
    assert len(wordnet_ids()) == 1000 and list(wordnet_ids()) == sorted(set(wordnet_ids()))


def test_the_labels_are_those_of_tensorflow_datasets():
    package = find_spec("tensorflow_datasets")
    assert package is not None and package.origin is not None
    folder = Path(package.origin).parent / "datasets" / "imagenet2012"
    theirs = (folder / "validation_labels.txt").read_text().split()
    assert [wordnet_ids()[label] for label in validation_labels()] == theirs
    assert list(wordnet_ids()) == (folder / "labels.txt").read_text().split()


def test_the_first_images_show_what_they_show():
    # ILSVRC2012_val_00000001.JPEG is a sea snake, the next two are an alp and a Shetland sheepdog.
    assert [class_of(number) for number in (1, 2, 3)] == ["n01751748", "n09193705", "n02105855"]
    assert validation_labels()[:3].tolist() == [65, 970, 230]


@pytest.mark.parametrize("top", ["", "./", "ILSVRC2012_img_val/"])
def test_the_archive(tmp_path, top):
    source = images(write_tar(tmp_path / "x.tar", {top + path: FILES[path] for path in FILES}))
    network_labels = source.with_classes(wordnet_ids(), 1000).labels
    assert len(source) == len(FILES)
    for place in range(len(source)):
        key = source.store.keys[int(source.order[place])]
        expected = np.asarray(Image.open(io.BytesIO(FILES[key])).convert("RGB"))
        np.testing.assert_array_equal(source[place][0], expected)
        assert network_labels[place] == validation_labels()[int(key[15:23]) - 1]


def test_folders_equal_the_archive(tmp_path):
    as_tar = images(write_tar(tmp_path / "x.tar", FILES))
    by_class = {f"{class_of(int(path[15:23]))}/{path}": FILES[path] for path in FILES}
    for source in (
        images(write_folder(tmp_path / "flat", FILES)),
        images(write_folder(tmp_path / "by_class", by_class)),
        images(write_folder(tmp_path / "deeper", {f"val/{path}": FILES[path] for path in FILES})),
    ):
        assert source.fingerprint() == as_tar.fingerprint()
    # The same order as that of the same photographs in plain class folders.
    plain = images(f"folder:{tmp_path / 'by_class'}").with_classes(wordnet_ids(), 1000)
    assert plain.fingerprint() == as_tar.with_classes(wordnet_ids(), 1000).fingerprint()


def test_classes_that_are_absent_keep_their_index(tmp_path):
    source = images(write_tar(tmp_path / "x.tar", {name(2): FILES[name(2)]}))
    assert source.with_classes(None, 1000).labels.tolist() == [970]
    with pytest.raises(SpecificationError, match="exactly 10 class folders"):
        source.with_classes(None, 10)


def test_a_network_with_its_own_order_of_classes(tmp_path):
    source = images(write_tar(tmp_path / "x.tar", FILES))
    backwards = source.with_classes(wordnet_ids()[::-1], 1000)
    np.testing.assert_array_equal(backwards.labels, 999 - source.labels)


def test_oddities_of_the_published_files_decode(tmp_path):
    odd = {
        name(1): encoded("CMYK"),
        name(2): encoded(kind="PNG"),  # a PNG in spite of its name
        name(3): encoded("L"),
    }
    source = images(write_tar(tmp_path / "x.tar", odd))
    assert len(source) == 3
    for place in range(len(source)):
        file = odd[source.store.keys[int(source.order[place])]]
        expected = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
        np.testing.assert_array_equal(source[place][0], expected)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("cat.jpg", "'cat.jpg' is no image of the ImageNet validation set; possible: ILSVRC"),
        (name(0), "is no image of the ImageNet validation set"),
        (name(50_001), "is no image of the ImageNet validation set"),
        ("n01440764/" + name(1), "lies in the folder of another class: it shows n01751748"),
        ("again/" + name(50_000), f"holds {name(50_000)} twice"),
    ],
)
def test_other_files_are_errors(tmp_path, path, message):
    source = write_tar(tmp_path / "x.tar", FILES | {path: encoded()})
    with pytest.raises(SpecificationError, match=message) as error:
        images(source)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.tar", "there is no such path"),
        ("noise", "cannot be read as an uncompressed, complete tar archive"),
        ("empty", "holds no images; possible: ILSVRC2012_img_val.tar, or a folder"),
    ],
)
def test_wrong_paths(tmp_path, path, message):
    (tmp_path / "noise").write_bytes(rng.bytes(3000))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecificationError, match=message):
        images(f"imagenet-val:{tmp_path / path}")
