"""The table of named networks, loading by name, and porting."""

import hashlib
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from flax import traverse_util

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.networks import checkpoint, zoo
from jaxrobust.networks.fingerprint import fingerprint
from jaxrobust.networks.port import port
from jaxrobust.porting import read_weights
from jaxrobust.porting.files import READERS

SQUEEZENET = "squeezenet-1.1-caffe"


def file_arrays(name, seed=0) -> Any:
    """Random arrays under the names and in the shapes of a network's weight file."""
    rng = np.random.default_rng(seed)
    entry: Any = zoo.ZOO[name]
    recipe = entry.weights.recipe
    return {
        source: rng.standard_normal(recipe.source_shape(path, shape), np.float32)
        for path, shape in entry.blueprint.shapes().items()
        for source in recipe.sources(path)
    }


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "squeezenet.npz"
    np.savez(path, **file_arrays(SQUEEZENET))
    return path


def refusal(function, *arguments):
    with pytest.raises(SpecificationError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_listing_imports_neither_jax_nor_flax():
    program = (
        "import sys; from jaxrobust.networks.zoo import ZOO; "
        "print([entry.summary for entry in ZOO.values()]); "
        "print({'jax', 'flax', 'orbax'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    summaries, imported = found.stdout.splitlines()
    assert "SqueezeNet 1.1" in summaries and imported == "set()"


@pytest.mark.parametrize("name", zoo.ZOO)
def test_the_parts_of_an_entry_agree(name):
    entry: Any = zoo.ZOO[name]
    assert entry.blueprint.name == name
    shapes = entry.blueprint.shapes()
    trained = {p: shape for p, shape in shapes.items() if p.rsplit("/")[-1] not in ("mean", "var")}
    assert entry.parameters == sum(math.prod(shape) for shape in trained.values())
    class_names = entry.blueprint.read_class_names()
    assert class_names is None or len(set(class_names)) == len(class_names)
    weights = entry.weights
    if weights is None:
        assert name == "alexnet-glyphs"
        return
    sources = [source for path in shapes for source in weights.recipe.sources(path)]
    assert len(set(sources)) == len(sources)
    assert not any(map(weights.recipe.ignores, sources))
    for layer, (channels, height, width) in weights.recipe.flattened.items():
        inputs, _ = shapes[f"{layer}/kernel"]
        assert inputs == channels * height * width
    assert weights.format in READERS
    if weights.url is not None:
        assert weights.url.startswith("http") and weights.url.endswith(weights.format)
    if weights.checksum is not None:
        algorithm, start = weights.checksum.split(":")
        assert algorithm in hashlib.algorithms_guaranteed
        assert len(start) >= 8 and int(start, 16) >= 0


@pytest.mark.parametrize("name", [n for n in zoo.ZOO if not n.startswith("vgg")])  # half a GB each
def test_its_preprocessing_gives_what_the_network_takes(name):
    blueprint = zoo.ZOO[name].blueprint
    network = blueprint.network(
        traverse_util.unflatten_dict(
            {path: np.broadcast_to(np.float32(0), s) for path, s in blueprint.shapes().items()},
            sep="/",
        )
    )
    class_names = network.class_names
    assert network.classes == (len(class_names) if class_names else 100)
    assert all(layer.output_shape for layer in network.layers.values())
    assert not any("mean" in p or "var" in p for p in leaves_of(network))


def leaves_of(network):
    return [leaf.path for layer in network.layers.values() for leaf in layer.leaves]


def test_every_name_of_the_design_is_there():
    vgg = [f"vgg{depth}{kind}" for depth in (11, 13, 16, 19) for kind in ("", "_bn")]
    torchvision = ["alexnet", *vgg, "squeezenet1_0", "squeezenet1_1"]
    torchvision += [f"resnet{depth}" for depth in (18, 34, 50)]
    caffe = ["alexnet-caffe", "squeezenet-1.0-caffe", "squeezenet-1.1-caffe", "googlenet-caffe"]
    keras = ["alexnet-cheney2017", "vgg16-keras", "vgg19-keras"]
    cifar = [f"resnet{depth}-cifar" for depth in (20, 32, 44, 56)]
    needed = ["alexnet-glyphs", *torchvision, *caffe, "lenet5-caffe", *keras, *cifar]
    assert sorted(zoo.ZOO) == sorted(needed)


def test_the_imagenet_class_names_are_sorted_wordnet_ids():
    names = zoo.ZOO["alexnet"].blueprint.read_class_names() or ()
    assert len(names) == 1000 and list(names) == sorted(names)
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in names)
    # The first, the last and one between, as every list of the ILSVRC 2012 classes gives them.
    assert (names[0], names[281], names[999]) == ("n01440764", "n02123045", "n15075141")


def test_an_unknown_name_gives_the_closest_ones():
    assert "did you mean alexnet or" in refusal(zoo.lookup, "alexnett")
    assert "did you mean squeezenet1_1 or squeezenet" in refusal(zoo.load, "squeezenet-1.1")
    assert "no checkpoint folder runs/nowhere" in refusal(zoo.load, "runs/nowhere")


def test_a_network_without_weights_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(zoo, "packed_checkpoint", lambda name: None)
    message = refusal(zoo.load, SQUEEZENET)
    assert f"run `jaxrobust port {SQUEEZENET} --out DIR` to download them" in message
    assert f"or `jaxrobust port {SQUEEZENET} FILE.caffemodel --out DIR`, and use DIR" in message
    message = refusal(zoo.load, "lenet5-caffe")
    assert "run `jaxrobust port lenet5-caffe FILE.caffemodel --out DIR`" in message
    assert "download" not in message
    assert "scripts/train_reference" in refusal(zoo.load, "alexnet-glyphs")


def test_the_packages_own_network_is_not_ported(tmp_path, weights):
    assert "comes with the package" in refusal(port, "alexnet-glyphs", weights, tmp_path / "out")


def test_a_network_without_an_address_needs_a_file(tmp_path):
    assert "give the file" in refusal(port, "lenet5-caffe", None, tmp_path / "out")


def test_a_ported_network_loads_from_its_folder(tmp_path, weights, monkeypatch):
    done = port(SQUEEZENET, weights, tmp_path / "ported")
    assert (done.arrays, done.parameters) == (52, 1_235_496)
    assert str(done.folder) in str(done) and done.sha256 in str(done)
    network = zoo.load(tmp_path / "ported")
    assert network.name == SQUEEZENET
    assert network.preprocessing == zoo.ZOO[SQUEEZENET].blueprint.preprocessing
    assert network.class_names is not None and network.classes == 1000
    given = read_weights(weights)
    np.testing.assert_array_equal(
        network.params["fire5"]["expand3x3"]["kernel"],
        given["fire5/expand3x3/w"].transpose(2, 3, 1, 0),
    )
    # In the folder where it lies, a zoo name without packed weights finds it too.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ported").rename(SQUEEZENET)
    monkeypatch.setattr(zoo, "packed_checkpoint", lambda name: None)
    assert fingerprint(zoo.load(SQUEEZENET).params) == fingerprint(network.params)


def test_a_packed_checkpoint_is_found_by_name(tmp_path, weights, monkeypatch):
    package = tmp_path / "jaxrobust" / "networks"
    package.mkdir(parents=True)
    monkeypatch.setattr(zoo, "__file__", str(package / "zoo.py"))
    monkeypatch.chdir(tmp_path)
    assert zoo.packed_checkpoint(SQUEEZENET) is None
    for place in ("checkpoints", "jaxrobust/_checkpoints"):
        port(SQUEEZENET, weights, tmp_path / place / SQUEEZENET, dtype="float16")
        assert zoo.packed_checkpoint(SQUEEZENET) == tmp_path / place / SQUEEZENET
    assert zoo.load(SQUEEZENET).name == SQUEEZENET


def test_a_wrong_weight_file_writes_nothing(tmp_path, weights):
    given: Any = dict(read_weights(weights))
    given["conv10/w"] = given["conv10/w"][:999]
    del given["fire2/squeeze1x1/b"]
    np.savez(tmp_path / "wrong.npz", **given)
    message = refusal(port, SQUEEZENET, tmp_path / "wrong.npz", tmp_path / "out")
    assert "missing (1): fire2/squeeze1x1/b" in message
    assert "conv10/w 999×512×1×1 (needed: 1000×512×1×1)" in message
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused_before_the_weights_are_read(tmp_path):
    (tmp_path / "thesis.tex").touch()
    message = refusal(port, SQUEEZENET, tmp_path / "nowhere.npz", tmp_path)
    assert "choose a folder that is new" in message
    assert not checkpoint.is_checkpoint(tmp_path)
