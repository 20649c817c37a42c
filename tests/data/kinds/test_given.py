"""Whatever a user may hold labelled images in, and the one line for everything else."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxrobust as jr
from jaxrobust.data import images

rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (12, 8, 8, 3), np.uint8)
LABELS = np.arange(12) % 3
PICTURES = [Image.fromarray(pixels) for pixels in PIXELS]
WEIGHTS = {"dense": {"w": jnp.asarray(rng.normal(0, 1, (3, 3)), jnp.float32)}}
NETWORK = jr.Network(
    lambda params, x: x.mean((1, 2)) @ params["dense"]["w"],
    WEIGHTS,
    name="mean",
    preprocessing=jr.Preprocessing(size=(8, 8)),
)
EXPECTED = jr.evaluate(NETWORK, images(PIXELS, LABELS))


def same(one, other):
    """Whether evaluations are equal, apart from the order in which losses are summed."""
    return dataclasses.replace(one, loss=0) == dataclasses.replace(
        other, loss=0
    ) and one.loss == pytest.approx(other.loss, rel=1e-5)


class Items:
    """A data set in the manner of PyTorch: a length, and items by number."""

    def __init__(self, item, length=12, **attributes):
        self.item, self.length = item, length
        for name, value in attributes.items():
            setattr(self, name, value)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if not 0 <= index < self.length:
            raise IndexError(index)
        return self.item(index)


class Loader:
    """PyTorch's loader: batches, by iteration only."""

    dataset = Items(lambda i: (PIXELS[i], LABELS[i]))

    def __len__(self):
        return 3

    def __iter__(self):
        return iter([])


class Stream:
    """A data set that is read from one end to the other."""

    def __iter__(self):
        return iter([])


class Names:
    """What Hugging Face calls a ClassLabel."""

    def __init__(self, *names):
        self.names = list(names)


def hugging_face(image="image", label="label", names=("a", "b", "c")):
    return Items(
        lambda i: {image: PICTURES[i], label: int(LABELS[i])},
        column_names=[image, label],
        features={image: None, label: Names(*names)},
    )


PAIRS = list(zip(PIXELS, LABELS.tolist(), strict=True))
FORMS = {
    "a tuple of arrays": (PIXELS, LABELS),
    "a list of arrays": [PIXELS, LABELS],
    "JAX arrays": (jnp.asarray(PIXELS), jnp.asarray(LABELS)),
    "lists": (list(PIXELS), LABELS.tolist()),
    "pictures and labels": (PICTURES, LABELS),
    "an array of arrays": (np.array([None, *PIXELS], object)[1:], LABELS),
    "other integers": (PIXELS, LABELS.astype(np.uint8)),
    "a dict of arrays": {"images": PIXELS, "labels": LABELS},
    "a dict of lists": {"image": PICTURES, "label": LABELS.tolist()},
    "pairs": PAIRS,
    "a tuple of pairs": tuple(PAIRS),
    "pairs of pictures": list(zip(PICTURES, LABELS.tolist(), strict=True)),
    "mappings": [{"image": pixels, "label": label} for pixels, label in PAIRS],
    "mappings, plural": [{"images": pixels, "labels": label} for pixels, label in PAIRS],
    "PyTorch's": Items(lambda i: (PIXELS[i], int(LABELS[i]))),
    "PyTorch's with NumPy's numbers": Items(lambda i: [PIXELS[i], LABELS[i]]),
    "PyTorch's with arrays of one label": Items(lambda i: (PIXELS[i], jnp.asarray(LABELS[i]))),
    "Hugging Face's": hugging_face(),
    "Hugging Face's CIFAR": hugging_face("img"),
    "an image source": images(PIXELS, LABELS),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images(form):
    assert same(jr.evaluate(NETWORK, FORMS[form]), EXPECTED)
    source = images(FORMS[form])
    batch, labels = NETWORK.prepare(FORMS[form])
    assert len(source) == 12 and batch.shape == (12, 8, 8, 3)
    for row, label in zip(batch, labels, strict=True):
        [index] = np.flatnonzero((PIXELS == row).all((1, 2, 3)))
        assert LABELS[index] == label
    assert NETWORK.prepare(source[:5])[1].tolist() == source.labels[:5].tolist()


@pytest.mark.parametrize("form", [(PIXELS[:2], [0, 1]), PAIRS[:2], tuple(PAIRS[:2])])
def test_two_images_are_not_mistaken_for_two_columns(form):
    for one in (form, [list(form[0]), list(form[1])]):
        found = images(one)
        assert sorted(label for _, label in found) == [0, 1]
        for pixels, label in found:
            np.testing.assert_array_equal(pixels, PIXELS[label])


def test_sweep_and_plan_take_them_too():
    grid = {"perturbations": ["synapse_knockout"], "strengths": "0:1:0.5", "seeds": 2}
    expected = jr.sweep(NETWORK, images(PIXELS, LABELS), **grid)
    for form in ((PIXELS, LABELS), Items(lambda i: (PIXELS[i], int(LABELS[i])))):
        assert jr.sweep(NETWORK, form, **grid).top1.equals(expected.top1)
    assert jr.plan(NETWORK, (PIXELS, LABELS), timing_seconds=0.1, **grid).trial_images > 0


def test_a_run_folder_knows_the_images_by_their_content(tmp_path):
    grid = {"perturbations": ["synapse_knockout"], "strengths": "0:1:0.5", "seeds": 2}
    first = jr.sweep(NETWORK, (PIXELS, LABELS), run_dir=tmp_path / "run", **grid)
    again = jr.sweep(NETWORK, PAIRS, run_dir=tmp_path / "run", **grid)
    assert again.top1.equals(first.top1)
    other = PIXELS.copy()
    other[11, 7, 7, 2] ^= 1
    with pytest.raises(jr.SpecificationError, match="data"):
        jr.sweep(NETWORK, (other, LABELS), run_dir=tmp_path / "run", **grid)


def test_source_strings_are_sources(tmp_path):
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=LABELS)
    assert jr.evaluate(NETWORK, f"npz:{tmp_path / 'x.npz'}") == EXPECTED
    assert jr.evaluate(NETWORK, np.load(tmp_path / "x.npz")) == EXPECTED


@pytest.mark.parametrize("shape", [(12, 8, 8), (12, 8, 8, 1)])
def test_grey_images(shape):
    grey = PIXELS[..., :1].reshape(shape)
    colour = np.repeat(PIXELS[..., :1], 3, axis=3)
    assert jr.evaluate(NETWORK, (grey, LABELS)) == jr.evaluate(NETWORK, (colour, LABELS))
    pairs = list(zip(grey, LABELS, strict=True))
    assert jr.evaluate(NETWORK, pairs) == jr.evaluate(NETWORK, (colour, LABELS))


def test_the_fingerprint_is_that_of_the_content():
    def fingerprint(form):
        return images(form).fingerprint()

    same = ["a tuple of arrays", "lists", "pictures and labels", "pairs", "PyTorch's"]
    assert len({fingerprint(FORMS[form]) for form in same}) == 1
    other = PIXELS.copy()
    other[7, 3, 3, 1] ^= 1
    labels = LABELS.copy()
    labels[[0, 1]] = labels[[1, 0]]
    different = [(PIXELS, LABELS), (other, LABELS), (PIXELS, labels), (PIXELS[:11], LABELS[:11])]
    assert len({fingerprint(form) for form in different}) == 4


def test_later_changes_of_an_array_change_nothing():
    pixels, labels = PIXELS.copy(), LABELS.copy()
    source = images(pixels, labels)
    pixels[:], labels[:] = 0, 0
    assert jr.evaluate(NETWORK, source) == EXPECTED
    assert source.fingerprint() == images(PIXELS, LABELS).fingerprint()


def test_class_names_are_matched_with_the_networks():
    network = jr.Network(
        NETWORK.apply,
        WEIGHTS,
        name="mean",
        preprocessing=NETWORK.preprocessing,
        class_names=["c", "a", "b"],
    )
    moved = (LABELS + 1) % 3
    expected = jr.evaluate(NETWORK, (PIXELS, moved))

    def item(i):
        return PIXELS[i], int(LABELS[i])

    whole = Items(item, classes=["a", "b", "c"])
    forms = (whole, hugging_face(), Items(item, dataset=whole, indices=range(12)))
    for form in forms:
        assert same(jr.evaluate(network, form), expected)
        assert same(jr.evaluate(NETWORK, form), EXPECTED)  # it has no names: the order counts
    others = (
        Items(item, classes=["a", "b", "c"], target_transform=lambda label: label),
        Items(item, dataset=whole),  # a wrapper, whose labels may be others
        Items(item, classes=[1, 2, 3]),
    )
    for other in others:
        assert same(jr.evaluate(network, other), EXPECTED)
    with pytest.raises(jr.SpecificationError, match="4 of 4 classes of the data"):
        jr.evaluate(NETWORK, hugging_face(names="wxyz"))


def of_classes(names, **attributes):
    """One image of each class, as PyTorch's folders of images give them."""
    return Items(lambda i: (PIXELS[i], i), len(names), classes=names, **attributes)


@pytest.mark.parametrize("width", [0, 2])
def test_class_names_that_are_class_indices_are_taken_as_them(width):
    names = sorted(f"{number:0{width}d}" for number in range(12))
    whole = of_classes(names)
    features = {"label": Names(*names)}
    forms = (
        whole,
        of_classes(names, dataset=whole, indices=range(12)),
        Items(lambda i: {"image": PIXELS[i], "label": i}, 12, features=features),
    )
    for form in forms:
        for class_names in (None, [f"class {number}" for number in range(12)]):
            source = images(form).with_classes(class_names, 12)
            found = dict(zip(source.order.tolist(), source.labels.tolist(), strict=True))
            assert found == {index: int(name) for index, name in enumerate(names)}


def test_class_names_in_an_order_of_doubt_are_refused_as_folders_are():
    names = [f"c{number}" for number in range(12)]
    in_doubt = r"classes of the data are numbered.*class 2 is 'c10' or 'c2'; possible: .*0 to 11"
    with pytest.raises(jr.SpecificationError, match=in_doubt) as error:
        images(of_classes(sorted(names))).with_classes(None, 12)
    assert "\n" not in str(error.value)
    with pytest.raises(jr.SpecificationError, match="classes of the data are numbers, from 1 to 3"):
        images(of_classes(["1", "2", "3"])).with_classes(None, 3)
    # The network's names, or an order that is not the folders', leave no doubt.
    source = images(of_classes(sorted(names))).with_classes(names, 12)
    assert [names[label] for label in source.labels] == [sorted(names)[i] for i in source.order]
    for chosen in (names, names[::-1]):
        source = images(of_classes(chosen)).with_classes(None, 12)
        np.testing.assert_array_equal(source.labels, source.order)


def test_items_that_change_are_noticed():
    draws = np.random.default_rng(1)
    augmented = Items(lambda i: (np.roll(PIXELS[i], draws.integers(1, 8), 1), int(LABELS[i])))
    source = images(augmented)
    with pytest.raises(jr.SpecificationError, match=r"item \d+: is another one .* augmentation"):
        for _ in range(9):
            list(source)


FLOATS = PIXELS.astype(np.float32)
WRONG = {
    "floats to 1": ((FLOATS / 255, LABELS), r"not float32 .*0 to 1; possible: \(images \* 255\)"),
    "floats": ((FLOATS, LABELS), r"not float32 .* possible: images.round\(\).astype\('uint8'\)"),
    "normalised": ((FLOATS / 50 - 2, LABELS), "not float32 .*possible: the original pixels"),
    "nan": ((FLOATS * np.nan, LABELS), "not float32"),
    "int64": ((PIXELS.astype(int), LABELS), r"not int64 .*possible: images.astype\('uint8'\)"),
    "16 bits": ((PIXELS.astype(np.uint16) * 257, LABELS), "not uint16 .* values from 0 to 65535"),
    "bool": ((PIXELS > 99, LABELS), r"not bool .*\* 255"),
    "complex": ((PIXELS + 1j, LABELS), "not complex"),
    "channels first": ((PIXELS.transpose(0, 3, 1, 2), LABELS), r"transpose\(0, 2, 3, 1\)"),
    "RGBA": ((PIXELS[..., [0, 1, 2, 0]], LABELS), r"without transparency, images\[..., :3\]"),
    "flat": ((PIXELS.reshape(12, -1), LABELS), r"not uint8 \(12, 192\)"),
    "short": ((PIXELS, LABELS[:-1]), r"one for each of the 12 images, not int64 \(11,\)"),
    "short list": ((PICTURES, LABELS[:-1]), r"one for each of the 12 images, not int64 \(11,\)"),
    "float labels": ((PIXELS, LABELS / 1), r"integers.*float64 .*possible: labels.astype\(int\)"),
    "one-hot": ((PIXELS, np.eye(3)[LABELS]), r"possible: labels.argmax\(1\)"),
    "a column": ((PIXELS, LABELS[:, None]), r"possible: labels.ravel\(\)"),
    "words": ((PIXELS, ["a"] * 12), "labels must be integers"),
    "words in pairs": ([(pixels, "a") for pixels in PIXELS], "whole number from 0, not 'a'"),
    "below 0": ((PIXELS, LABELS - 1), "class indices from 0, not -1 to 1"),
    "below 0 in pairs": ([(PIXELS[0], -1)] * 3, "whole number from 0, not -1"),
    "beyond": ((PIXELS, LABELS + 1), "4 labels lie outside the network's 3 classes"),
    "far beyond": ([(PIXELS[0], 2**70)] * 3, "whole number from 0"),
    "no labels": (PIXELS, "images without labels"),
    "no labels, JAX": (jnp.asarray(PIXELS), "images without labels"),
    "no images": ([], "no images"),
    "an empty array": ((PIXELS[:0], LABELS[:0]), "no images"),
    "an iterator": (iter(PAIRS), "an iterator .*has no length"),
    "a generator": ((pair for pair in PAIRS), "an iterator .*has no length"),
    "zip": (zip(PIXELS, LABELS, strict=True), "an iterator .*has no length"),
    "a loader": (Loader(), "no items by number; possible: its .dataset"),
    "a stream": (Stream(), "has no length"),
    "a set": ({1, 2}, "no items by number"),
    "nothing": (None, "holds no labelled images"),
    "a number": (7, "holds no labelled images"),
    "a class": (Items, "holds no labelled images"),
    "a path": (Path("photos.tar"), "a path alone .*possible: 'tar:photos.tar'"),
    "a name": ("photos", "'photos' is not a data source"),
    "other columns": ({"x": PIXELS, "y": LABELS}, "one of image, images, img .*holds x, y"),
    "a missing column": ({"images": PIXELS}, "one of label, labels .*holds images"),
    "other keys": ([{"image": PIXELS[0], "y": 1}] * 3, "item 0: .* label.*holds image, y"),
    "splits": ({"train": hugging_face(), "test": hugging_face()}, r"possible: one of .*'train'"),
    "Keras's": (((PIXELS, LABELS), (PIXELS, LABELS)), "item 0: .*of one data set, not several"),
    "three": (Items(lambda i: (PIXELS[i], 1, 2)), "item 0: a pair .*not a tuple of 3"),
    "tensors": (Items(lambda i: (FLOATS[i].transpose(2, 0, 1) / 255, 1)), "item 0: .*not float32"),
    "paths": ((["a.png", "b.png"], [0, 1]), "item 0: the image must be an array.*folder:PATH"),
    "raising": (Items(lambda i: 1 // i), r"item 0 cannot be read \(ZeroDivisionError: "),
    "too short": (Items(lambda i: [][i]), r"item 0 cannot be read \(IndexError: "),
    "control characters": ([(PIXELS[0], "\x1b[2J")] * 3, "item 0"),
    "of two sizes": ([(PIXELS[0], 0), (PIXELS[1][:4], 1)], "item 1: the image is 4 x 8"),
}


@pytest.mark.parametrize("case", WRONG)
def test_anything_else_is_one_clear_line(case):
    form, message = WRONG[case]
    with pytest.raises(jr.SpecificationError, match=message) as error:
        jr.evaluate(NETWORK, form)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("source", ["glyphs", images(PIXELS, LABELS)])
def test_labels_beside_a_source_are_refused(source):
    with pytest.raises(jr.SpecificationError, match="labels of its own"):
        images(source, LABELS)
