"""Class folders that are numbered: as ImageNet-V2's are published, and where nothing is guessed."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from jaxrobust.data import EncodedStore, ImageSource, Item, images
from jaxrobust.data.class_order import class_order
from jaxrobust.ground.errors import SpecificationError

ANIMALS = "zebra yak wolf vole urial toad seal ram quail pig owl mole".split()


def source(folders):
    """One image in each folder, named by it."""
    store = EncodedStore([Item(folder, folder, folder) for folder in folders], str.encode)
    return ImageSource.from_store("made:up", store)


def labels_by_folder(found):
    return {
        found.store.content(index).decode(): label
        for index, label in zip(found.order.tolist(), found.labels.tolist(), strict=True)
    }


def jpeg(value):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.mark.parametrize("width", [0, 3])
@pytest.mark.parametrize("count", [1, 9, 10, 11, 101])
def test_folders_of_whole_numbers_take_these_indices(count, width):
    expected = {f"{number:0{width}d}": number for number in range(count)}
    assert labels_by_folder(source(reversed(expected))) == expected
    assert labels_by_folder(source(expected).with_classes(None, count)) == expected
    names = [f"class {number}" for number in range(count)]
    assert labels_by_folder(source(expected).with_classes(names, count)) == expected


def test_class_names_that_are_numbers_come_first():
    names = [str(number) for number in reversed(range(12))]
    found = labels_by_folder(source(names).with_classes(names, 12))
    assert found == {str(number): 11 - number for number in range(12)}
    ones = [str(number) for number in range(1, 13)]
    found = labels_by_folder(source(ones).with_classes(ones, 12))
    assert found == {name: int(name) - 1 for name in ones}


def test_an_archive_like_those_of_imagenet_v2(tmp_path):
    path = tmp_path / "imagenetv2-matched-frequency.tar"
    top = "imagenetv2-matched-frequency-format-val"
    with tarfile.open(path, "w") as archive:
        folder = tarfile.TarInfo(top)
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for number in (10, 2, 0, 1, 11, *range(3, 10)):
            for copy in range(2):
                content = jpeg(10 * number + copy)
                member = tarfile.TarInfo(f"{top}/{number}/{copy:x}afe{number}.jpeg")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    found = images(f"tar:{path}").with_classes([f"n{number:08d}" for number in range(12)], 12)
    assert len(found) == 24
    for pixels, label in found:
        assert int(pixels[0, 0, 0]) // 10 == label
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    unpacked = images(f"folder:{tmp_path / 'unpacked'}").with_classes(None, 12)
    assert unpacked.fingerprint() == found.fingerprint()


@pytest.mark.parametrize(
    "folders",
    [
        [str(number) for number in range(1, 13)],
        [str(number) for number in range(1, 4)],
        [f"{number:02d}" for number in range(1, 13)],
        ["0", "1", "2", "4"],
        ["0", "01", "2"],
        ["00", "1", "2"],
        ["0", "1", "00"],
        ["7"],
        [f"class{number}" for number in range(12)],
        [f"{number}-bird" for number in (1, 2, 10)],
        ["c1", "c01", "c2"],
        ["1a", "10b"],
        ["V8", "V12 engine"],
        [f"{number}_{animal}" for number, animal in enumerate(ANIMALS, 1)],
        [f"{number}-{animal[0]}" for number, animal in enumerate(ANIMALS)],
        [f"{number}.0" for number in range(12)],
        [f"a1b{number}" for number in range(12)],
        [*map(str, range(1, 12)), "x"],
        [*map(str, range(11)), "background"],
        ["9" * 5000, "10" * 4000, "x"],
        ["a\n2", "a\n10"],
    ],
)
def test_numbers_that_leave_doubt_are_refused(folders):
    with pytest.raises(SpecificationError, match="class folders are number.*possible: ") as error:
        source(folders).with_classes(None, len(folders))
    assert f"0 to {len(folders) - 1}" in str(error.value) and "\n" not in str(error.value)
    # By name there is no doubt.
    names = sorted(folders, reverse=True)
    found = labels_by_folder(source(folders).with_classes(names, len(folders)))
    assert found == {name: index for index, name in enumerate(names)}


@pytest.mark.parametrize(
    "folders",
    [
        ["ant", "bee", "10"],
        ["c01", "c02", "c10"],
        ["c1", "c2", "c3"],
        ["n01440764", "n01443537"],
        ["²", "1"],
        ["9" * 5000, "1"],
        ["a-b", "a1", "a b", "a", "a1-b", "aB"],
        ["01_yak", "02_cat", "10_fox"],
        ["0 - zero", "1 - one", "9 - nine"],
        [f"v{number}" for number in range(10)] + ["background"],
    ],
)
def test_other_names_count_as_text(folders):
    found = source(folders).with_classes(None, len(folders))
    assert labels_by_folder(found) == {name: i for i, name in enumerate(sorted(folders))}


def test_the_order_does_not_depend_on_how_folders_are_listed():
    names = [str(number) for number in range(20)]
    assert class_order(names) == class_order(list(reversed(names))) == tuple(names)
