"""The table of named networks, loading by name, and porting."""

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from jaxrobust.errors import SpecificationError
from jaxrobust.networks import checkpoint, zoo
from jaxrobust.networks.fingerprint import fingerprint
from jaxrobust.networks.port import port
from jaxrobust.porting import read_weights

SQUEEZENET = "squeezenet-1.1-caffe"


def file_arrays(name, seed=0) -> Any:
    """Random arrays under the names and in the shapes of a network's weight file."""
    rng = np.random.default_rng(seed)
    entry: Any = zoo.ZOO[name]
    recipe = entry.weights.recipe
    return {
        recipe.source(path): rng.standard_normal(recipe.source_shape(shape), np.float32)
        for path, shape in entry.blueprint.shapes().items()
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
    assert entry.parameters == sum(math.prod(shape) for shape in shapes.values())
    class_names = entry.blueprint.read_class_names()
    assert class_names is None or len(set(class_names)) == len(class_names)
    if entry.weights is None:
        assert zoo.packed_checkpoint(name)
        return
    sources = [entry.weights.recipe.source(path) for path in shapes]
    assert len(set(sources)) == len(sources)
    for layer, (channels, height, width) in entry.weights.recipe.flattened.items():
        inputs, _ = shapes[f"{layer}/kernel"]
        assert inputs == channels * height * width


def test_the_imagenet_class_names_are_sorted_wordnet_ids():
    names = zoo.ZOO["alexnet"].blueprint.read_class_names() or ()
    assert len(names) == 1000 and list(names) == sorted(names)
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in names)
    # The first, the last and one between, as every list of the ILSVRC 2012 classes gives them.
    assert (names[0], names[281], names[999]) == ("n01440764", "n02123045", "n15075141")


def test_an_unknown_name_gives_the_closest_ones():
    assert "did you mean alexnet or alexnet-glyphs?" in refusal(zoo.lookup, "alexnett")
    assert "did you mean squeezenet-1.1-caffe?" in refusal(zoo.load, "squeezenet-1.1")
    assert "no checkpoint folder runs/nowhere" in refusal(zoo.load, "runs/nowhere")


def test_a_network_without_weights_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(zoo, "packed_checkpoint", lambda name: None)
    message = refusal(zoo.load, SQUEEZENET)
    assert f"run `jaxrobust port {SQUEEZENET} FILE.npz --out DIR`" in message
    assert "scripts/train_reference" in refusal(zoo.load, "alexnet-glyphs")


def test_the_packages_own_network_is_not_ported(tmp_path, weights):
    assert "comes with the package" in refusal(port, "alexnet-glyphs", weights, tmp_path / "out")


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
