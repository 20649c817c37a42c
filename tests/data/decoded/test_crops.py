"""Images that are decoded once and read from the cache."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
from networks_for_tests import chain

import jaxrobust as jr
from jaxrobust.data import ArrayStore, ImageSource
from jaxrobust.data.decoded import crops
from jaxrobust.execution.images import Images
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.preprocessing import Preprocessing
from jaxrobust.storage.run_folder import was_counted

COUNT = 700
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 10, 9, 3), np.uint8)
LABELS = np.arange(COUNT) % 7
PREPROCESSING = Preprocessing((8, 8), 8, "shorter")


class Counting(ArrayStore):
    """Notes every image that is decoded."""

    def __init__(self, pixels=PIXELS, labels=LABELS):
        super().__init__(pixels, labels)
        self.decoded = []

    def pixels(self, index):
        self.decoded.append(index)
        return super().pixels(index)


NETWORK = dataclasses.replace(chain(), preprocessing=PREPROCESSING)


def source(pixels=PIXELS):
    return ImageSource.from_store("made:up", Counting(pixels))


def decoded(images):
    """How many images were decoded since the last call."""
    assert isinstance(images.store, Counting)
    count = len(images.store.decoded)
    images.store.decoded.clear()
    return count


def everything(found):
    return found[np.arange(len(found))]


def files(cache_folder):
    return sorted((cache_folder / "images").iterdir())


def test_crops_equal_decoding():
    images = source()
    found = images.crops(PREPROCESSING)
    expected, _ = images.decode(0, COUNT, PREPROCESSING.crop)
    assert found.shape == expected.shape and len(found) == COUNT
    np.testing.assert_array_equal(everything(found), expected)
    index = np.array([699, 0, 255, 256, 256, 511, 512, 3])
    np.testing.assert_array_equal(found[index], expected[index])


def test_each_image_is_decoded_once_for_all_processes():
    first, second = source(), source()
    expected = everything(first.crops(PREPROCESSING))
    assert decoded(first) == COUNT
    np.testing.assert_array_equal(everything(second.crops(PREPROCESSING)), expected)
    assert decoded(second) == 0


def test_slices_that_begin_alike_share_files():
    images = source()
    images[:600].crops(PREPROCESSING)
    assert decoded(images) == 600
    images.crops(PREPROCESSING)
    assert decoded(images) == COUNT - 512
    images[256:].crops(PREPROCESSING)
    assert decoded(images) == 0


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"mean": (1.0, 2.0, 3.0), "std": (2.0,)}, 0),
        ({"size": (7, 8)}, COUNT),
        ({"resize": 9}, COUNT),
        ({"mode": "squash"}, COUNT),
        ({"channels": "bgr"}, COUNT),
        ({"channels": "grey"}, COUNT),
        ({"interpolation": "nearest"}, COUNT),
        ({"small": "pad"}, COUNT),
    ],
)
def test_only_what_changes_pixels_decodes_again(change, again):
    images = source()
    images.crops(PREPROCESSING)
    decoded(images)
    changed = Preprocessing.from_json(PREPROCESSING.to_json() | change)
    np.testing.assert_array_equal(
        everything(images.crops(changed))[:20], images.decode(0, 20, changed.crop)[0]
    )
    assert decoded(images) == again + 20


def test_another_content_decodes_again():
    source().crops(PREPROCESSING)
    other = PIXELS.copy()
    other[5] += 1
    images = source(other)
    np.testing.assert_array_equal(
        everything(images.crops(PREPROCESSING)), images.decode(0, COUNT, PREPROCESSING.crop)[0]
    )
    assert 0 < decoded(images) - COUNT <= 256


def test_another_version_decodes_again(monkeypatch):
    images = source()
    images.crops(PREPROCESSING)
    versions = crops.versions()
    assert versions["pillow"] and versions["numpy"] == np.__version__
    monkeypatch.setattr(crops, "versions", lambda: versions | {"pillow": "0.1"})
    decoded(images)
    images.crops(PREPROCESSING)
    assert decoded(images) == COUNT


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_damaged_file_is_made_again(cache_folder, damage, when):
    images = source()
    expected = everything(images.crops(PREPROCESSING))
    decoded(images)
    found = images.crops(PREPROCESSING) if when == "meanwhile" else None
    file = files(cache_folder)[0]
    content = bytearray(file.read_bytes())
    images_in_it = len(content) // (8 * 8 * 3)
    file.unlink()
    if damage == "truncated":
        file.write_bytes(content[:-100])
    elif damage == "flipped":
        content[1000] ^= 1
        file.write_bytes(content)
    found = found or images.crops(PREPROCESSING)
    np.testing.assert_array_equal(everything(found), expected)
    assert decoded(images) == images_in_it
    np.testing.assert_array_equal(everything(source().crops(PREPROCESSING)), expected)


def test_without_a_cache_the_images_are_held(cache_folder, monkeypatch):
    monkeypatch.setenv("JAXROBUST_CACHE_GB", "0")
    images = source()
    found = images.crops(PREPROCESSING)
    assert decoded(images) == COUNT
    expected, _ = images.decode(0, COUNT, PREPROCESSING.crop)
    decoded(images)
    np.testing.assert_array_equal(everything(found), expected)
    assert decoded(images) == 0 and not cache_folder.exists()


def test_a_cache_that_cannot_be_written_is_done_without(cache_folder):
    cache_folder.parent.mkdir(exist_ok=True)
    cache_folder.write_text("in the way")
    images = source()
    with pytest.warns(UserWarning, match="cannot be written: decoded images stay in") as caught:
        found = images.crops(PREPROCESSING)
    assert len(caught) == 1
    assert decoded(images) == COUNT
    expected, _ = images.decode(0, COUNT, PREPROCESSING.crop)
    decoded(images)
    np.testing.assert_array_equal(everything(found), expected)
    assert decoded(images) == 0


def test_progress_is_reported():
    told = []
    source().crops(PREPROCESSING, lambda *what: told.append(what))
    reading = [what for what in told if what[0] == "reading images"]
    decoding = [what for what in told if what[0] == "decoding images"]
    assert told == reading + decoding and reading[0] == ("reading images", 0, COUNT)
    assert decoding[0][1:] == (0, COUNT) and decoding[-1][1:] == (COUNT, COUNT)
    assert len(decoding) >= 4 and sorted(decoding) == decoding


_OTHER = """
import sys
import numpy as np
from jaxrobust.data import ArrayStore, ImageSource
from jaxrobust.preprocessing import Preprocessing

with np.load(sys.argv[1]) as arrays:
    images = ImageSource.from_store("made:up", ArrayStore(arrays["images"], arrays["labels"]))
crops = images.crops(Preprocessing((8, 8), 8, "shorter"))
np.save(sys.argv[2], crops[np.arange(len(crops))])
"""


def test_two_processes_at_once(tmp_path, cache_folder):
    np.savez(tmp_path / "made.npz", images=PIXELS, labels=LABELS)
    results = [tmp_path / "a.npy", tmp_path / "b.npy"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _OTHER, tmp_path / "made.npz", result], env=environment
        )
        for result in results
    ]
    assert [process.wait(120) for process in running] == [0, 0]
    expected, _ = source().decode(0, COUNT, PREPROCESSING.crop)
    for result in results:
        np.testing.assert_array_equal(np.load(result), expected)
    assert [file.suffix for file in files(cache_folder)] == [".pixels"] * 3


def test_the_engine_reads_from_the_cache():
    told = []
    for images, count in ((source()[:60], 60), (source()[:60], 0)):
        held = Images.decode(NETWORK, images, lambda what, *_: told.append(what))
        assert decoded(images) == count and set(told) == {"reading images", "decoding images"}
        batch = held.batch(50, 20, 20)
        inputs, labels = NETWORK.prepare(images[50:])
        np.testing.assert_array_equal(held.inputs(NETWORK, batch.index, 1)[0][:10], inputs)
        np.testing.assert_array_equal(batch.labels[:10], labels)
        assert batch.present.tolist() == [True] * 10 + [False] * 10
        decoded(images)


def test_a_broken_image_stops_a_sweep_before_its_trials(tmp_path):
    class Broken(Counting):
        def pixels(self, index):
            if index == 40:
                raise SpecificationError("cannot be decoded as an image (it is torn)")
            return super().pixels(index)

    images = ImageSource.from_store("made:up", Broken())
    told = []
    with pytest.raises(SpecificationError, match=r"^made:up: image 40: cannot be decoded"):
        jr.sweep(
            NETWORK,
            images,
            perturbations="weight_noise",
            run_dir=tmp_path / "run",
            report=lambda what, *_: told.append(what),
        )
    assert set(told) == {"reading images", "decoding images"}
    assert not was_counted(tmp_path / "run")


def test_what_a_full_cache_has_no_room_for_is_decoded_each_time(cache_folder, monkeypatch):
    block = 256 * 8 * 8 * 3 + 4
    monkeypatch.setenv("JAXROBUST_CACHE_GB", str(2.5 * block / 1e9))
    images = source()
    with pytest.warns(UserWarning, match="is full .* decoded anew each time") as caught:
        found = images.crops(PREPROCESSING)
    assert len(caught) == 1 and len(files(cache_folder)) == 2
    expected, _ = images.decode(0, COUNT, PREPROCESSING.crop)
    for _ in range(2):
        decoded(images)
        np.testing.assert_array_equal(everything(found), expected)
        assert decoded(images) == COUNT - 2 * 256
