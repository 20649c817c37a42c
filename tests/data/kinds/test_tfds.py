"""Data sets of TensorFlow Datasets, prepared and read without TensorFlow."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from jaxrobust.data import images
from jaxrobust.data.kinds.tfds import prepare
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.preprocessing import Preprocessing

tfds = pytest.importorskip("tensorflow_datasets")

COUNT = 30
CLASSES = ("zebra", "ant", "cow")  # not in sorted order
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 7, 3), np.uint8)


class PhotosForTests(tfds.core.GeneratorBasedBuilder):
    """Photographs with names, as ImageNet's builder gives them."""

    VERSION = tfds.core.Version("1.2.0")
    code_path = None  # TFDS looks for it with a package that it does not require

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=self._features())

    def _features(self):
        return tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(encoding_format="png"),
                "label": tfds.features.ClassLabel(names=CLASSES),
                "file_name": tfds.features.Text(),
            }
        )

    def _split_generators(self, dl_manager):
        return {"validation": self._generate_examples()}

    def _generate_examples(self):
        for number, pixels in enumerate(PIXELS):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            file.seek(0)
            yield (
                number,
                {"image": file, "label": number % 3, "file_name": f"photo_{number:02d}.png"},
            )


class DigitsForTests(PhotosForTests):
    """Grey images without names, whose classes have none either."""

    def _features(self):
        return tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(6, 7, 1), encoding_format="png"),
                "label": tfds.features.ClassLabel(num_classes=3),
            }
        )

    def _generate_examples(self):
        for number, pixels in enumerate(PIXELS[..., :1]):
            file = io.BytesIO()
            Image.fromarray(pixels[..., 0]).save(file, "PNG")
            file.seek(0)
            yield number, {"image": file, "label": number % 3}


class WordsForTests(PhotosForTests):
    """Nothing that could be classified."""

    def _features(self):
        return tfds.features.FeaturesDict({"text": tfds.features.Text()})

    def _generate_examples(self):
        yield 0, {"text": "word"}


class HiddenForTests(PhotosForTests):
    """Images whose labels are kept secret."""

    def _generate_examples(self):
        for number, example in super()._generate_examples():
            yield number, example | {"label": -1}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with the data sets above."""
    folder = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    for name in ("photos", "digits", "words", "hidden"):
        prepare(f"{name}_for_tests", data_dir=folder)
    return folder


@pytest.fixture
def data_dir(prepared, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(prepared))
    return prepared


def number_of(source, index):
    return int(source.store.keys[index][6:8])


def test_tensorflow_is_not_needed(data_dir):
    assert "tensorflow" not in sys.modules
    images("tfds:photos_for_tests:validation")[0]
    assert "tensorflow" not in sys.modules


def test_images_labels_and_names(data_dir):
    source = images("tfds:photos_for_tests:validation")
    assert len(source) == COUNT and source.store.folders == CLASSES
    seen = []
    for place, index in enumerate(source.order.tolist()):
        number = number_of(source, index)
        pixels, label = source[place]
        np.testing.assert_array_equal(pixels, PIXELS[number])
        assert label == number % 3
        assert source.store.describe(index) == f"photo_{number:02d}.png"
        seen.append(number)
    assert sorted(seen) == list(range(COUNT))
    assert source.with_classes(sorted(CLASSES), 3).labels[0] == sorted(CLASSES).index(
        CLASSES[source.labels[0]]
    )


def test_it_equals_the_folder_of_the_same_files(data_dir, tmp_path):
    for number, pixels in enumerate(PIXELS):
        file = tmp_path / CLASSES[number % 3] / f"photo_{number:02d}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(file)
    folder = images(f"folder:{tmp_path}").with_classes(CLASSES, 3)
    source = images("tfds:photos_for_tests:validation").with_classes(CLASSES, 3)
    assert source.fingerprint() == folder.fingerprint()


def test_without_names_the_place_and_the_label_count(data_dir):
    source = images("tfds:digits_for_tests:validation")
    assert sorted(map(int, source.store.keys)) == list(range(COUNT))
    assert source.with_classes(("a", "b", "c"), 3).labels.tolist() == source.labels.tolist()
    by_pixels = {pixels[..., 0].tobytes(): number % 3 for number, pixels in enumerate(PIXELS)}
    for pixels, label in source:
        assert by_pixels[pixels[..., 0].tobytes()] == label
        assert (pixels == pixels[..., :1]).all() and pixels.shape == (6, 7, 3)


@pytest.mark.parametrize(
    ("split", "count"),
    [
        ("validation[:7]", 7),
        ("validation[5:]", 25),
        ("validation[:10%]", 3),
        ("validation[:2]+validation[-3:]", 5),
    ],
)
def test_parts_of_a_split(data_dir, split, count):
    part = images(f"tfds:photos_for_tests:{split}")
    assert len(part) == count
    assert len({part.store.keys[index] for index in part.order}) == count
    versioned = images(f"tfds:photos_for_tests:1.2.0:{split}")
    assert versioned.fingerprint() == part.fingerprint()


def test_crops_come_from_the_records(data_dir):
    source = images("tfds:photos_for_tests:validation")
    crops = source.crops(Preprocessing((6, 7)))
    np.testing.assert_array_equal(
        crops[np.arange(COUNT)], [PIXELS[number_of(source, index)] for index in source.order]
    )


def test_preparing_twice_gives_the_same_folder(data_dir):
    assert prepare("photos_for_tests") == data_dir / "photos_for_tests" / "1.2.0"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("photos_for_tests", "needs a name and a split; possible: tfds:NAME:SPLIT"),
        ("photos_for_tests:test", r"Unknown split 'test'. Should be one of \['validation'\]"),
        ("photos_for_tests:validation[3", "Error parsing split 'validation"),
        ("photos_for_tests:validation[90:]", "incompatible with 30 examples"),
        ("photos_for_tests:9.9.9:validation", "cannot be loaded at version 9.9.9, only: 1.2.0"),
        ("no_such_photos:validation", "TensorFlow Datasets has no data set 'no_such_photos'"),
        ("words_for_tests:validation", "has no 8-bit images with one class label each; .* text"),
        ("hidden_for_tests:validation", "has images without a label"),
        ("../photos:test", "Parsing builder name string ../photos failed"),
        ("mnist/a=b:test", "unknown configuration of mnist 'a=b'"),
        ("imagenet_v2/none:test", "unknown configuration of imagenet_v2 'none': .*topimages"),
        (
            "imagenet2012:validation",
            "imagenet2012 is not prepared: .*`jaxrobust prepare imagenet2012 --manual-dir DIR, "
            r"where DIR holds the files`, which may need TensorFlow \(pip install 'jaxrobust\[prep",
        ),
        ("cifar10:test", "cifar10 is not prepared: .*`jaxrobust prepare cifar10`"),
    ],
)
def test_wrong_sources_are_one_clear_line(data_dir, source, message):
    with pytest.raises(SpecificationError, match=f"^tfds:.*{message}") as error:
        images(f"tfds:{source}")
    assert "\n" not in str(error.value)


def test_other_formats_than_array_record_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    folder = tmp_path / "photos_for_tests" / "1.2.0"
    prepare("photos_for_tests")
    description = folder / "dataset_info.json"
    description.write_text(description.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(SpecificationError, match="prepared as tfrecord in .*, which only TensorFl"):
        images("tfds:photos_for_tests:validation")


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "description"])
def test_damaged_files_are_one_clear_line(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    [file] = prepare("photos_for_tests").glob("*array_record*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    if damage == "description":
        (file.parent / "dataset_info.json").write_text("{")
    elif damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    message = "Failed to load JSON" if damage == "description" else "record 0 cannot be read"
    with pytest.raises(
        SpecificationError, match=f"photos_for_tests:validation: {message}"
    ) as error:
        images("tfds:photos_for_tests:validation")
    assert "\n" not in str(error.value)


def test_preparing_says_at_once_that_it_needs_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxrobust.data.kinds.tfds.find_spec", lambda name: None)
    with pytest.raises(SpecificationError, match="preparing imagenet_v2/.* needs TensorFlow, once"):
        prepare("imagenet_v2/matched-frequency", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("tensorflow", "needs TensorFlow, once"),
        ("importlib_resources", "needs the package importlib_resources"),
    ],
)
def test_preparing_says_what_is_not_installed(tmp_path, monkeypatch, module, message):
    def missing(*_, **__):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(PhotosForTests, "download_and_prepare", missing)
    with pytest.raises(SpecificationError, match=f"photos_for_tests {message}.*jaxrobust.prepare"):
        prepare("photos_for_tests", data_dir=tmp_path)


def test_a_manual_folder_must_exist(tmp_path):
    with pytest.raises(SpecificationError, match="there is no such path"):
        prepare("photos_for_tests", data_dir=tmp_path, manual_dir=tmp_path / "none")
