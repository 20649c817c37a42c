"""Checkpoints: what is saved comes back, and damage never goes unnoticed."""

import hashlib
import json
import os
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest
from flax import nnx

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.networks import checkpoint, zoo
from jaxrobust.networks.blueprint import Blueprint
from jaxrobust.networks.fingerprint import fingerprint
from jaxrobust.preprocessing import Preprocessing

BLUEPRINT = Blueprint(
    "small",
    "alexnet",
    {
        "classes": 4,
        "image_size": (32, 32),
        "conv1_kernel": 3,
        "conv1_stride": 1,
        "conv1_padding": 1,
        "widths": (2, 3, 4, 3, 2),
        "dense_width": 6,
    },
    Preprocessing((32, 32), 40, "squash", mean=(1.0, 2.0, 3.0)),
)
SOURCE = {"file": "weights.npz", "sha256": "0" * 64}


def random_params(seed=0):
    rng = np.random.default_rng(seed)
    params = {}
    for path, shape in BLUEPRINT.shapes().items():
        layer, leaf = path.split("/")
        params.setdefault(layer, {})[leaf] = rng.standard_normal(shape, np.float32)
    return params


@pytest.fixture
def saved(tmp_path):
    checkpoint.save(tmp_path / "saved", BLUEPRINT, random_params(), source=SOURCE)
    return tmp_path / "saved"


def refusal(folder):
    with pytest.raises(SpecificationError) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


def assert_same(found, needed):
    assert jax.tree.structure(found) == jax.tree.structure(needed)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(needed), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_a_network_comes_back_as_it_was_saved(saved):
    network = checkpoint.load(saved)
    assert network.name == "small"
    assert network.preprocessing == BLUEPRINT.preprocessing
    assert network.class_names is None
    assert_same(network.params, random_params())
    images = jnp.asarray(np.random.default_rng(1).standard_normal((2, 32, 32, 3)), jnp.float32)
    logits = jax.jit(BLUEPRINT.network(random_params()).apply)(network.params, images)
    np.testing.assert_array_equal(jax.jit(network.apply)(network.params, images), logits)
    assert logits.shape == (2, 4)


def test_its_description_says_what_it_is(saved):
    description = json.loads((saved / "network.json").read_text())
    assert Blueprint.from_json(description["blueprint"]).preprocessing == BLUEPRINT.preprocessing
    assert description["source"] == SOURCE
    assert description["fingerprint"] == fingerprint(checkpoint.load(saved).params)
    assert description["versions"]["jax"] == jax.__version__


def test_half_precision_is_for_the_disk_only(tmp_path):
    params = random_params()
    checkpoint.save(tmp_path / "half", BLUEPRINT, params, source=SOURCE, dtype="float16")
    rounded = jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(np.float32), params)
    assert_same(checkpoint.load(tmp_path / "half").params, rounded)


def test_values_that_the_type_cannot_hold_are_refused(tmp_path):
    params = random_params()
    params["fc8"]["bias"][0] = 70_000
    checkpoint.save(tmp_path / "saved", BLUEPRINT, params, source=SOURCE)
    found = "fc8/bias holds 1 of 4 values that are not finite as float16"
    with pytest.raises(SpecificationError, match=found):
        checkpoint.save(tmp_path / "half", BLUEPRINT, params, source=SOURCE, dtype="float16")
    assert os.listdir(tmp_path) == ["saved"]


def test_float64_parameters_become_float32_if_they_fit(tmp_path):
    double = jax.tree.map(lambda leaf: leaf.astype(np.float64), random_params())
    checkpoint.save(tmp_path / "saved", BLUEPRINT, double, source=SOURCE)
    assert_same(checkpoint.load(tmp_path / "saved").params, random_params())
    assert {leaf.dtype for leaf in jax.tree.leaves(BLUEPRINT.network(double).params)} == {
        np.dtype(np.float32)
    }
    double["fc8"]["bias"][0] = 1e300
    for make in (
        lambda: checkpoint.save(tmp_path / "saved", BLUEPRINT, double, source=SOURCE),
        lambda: BLUEPRINT.network(double),
    ):
        with pytest.raises(SpecificationError, match="fc8/bias holds 1 of 4 values"):
            make()


def test_parameters_of_another_network_are_refused(tmp_path):
    params = random_params()
    params["conv1"]["kernel"] = params["conv1"]["kernel"][:2]
    del params["fc8"]["bias"]
    with pytest.raises(SpecificationError, match="definition alexnet: conv1/kernel, fc8/bias"):
        checkpoint.save(tmp_path / "saved", BLUEPRINT, params, source=SOURCE)
    assert os.listdir(tmp_path) == []


def test_an_older_checkpoint_is_replaced_whole(saved):
    checkpoint.save(saved, BLUEPRINT, random_params(seed=1), source=SOURCE)
    assert_same(checkpoint.load(saved).params, random_params(seed=1))
    assert os.listdir(saved.parent) == ["saved"]


def test_a_save_that_fails_leaves_the_older_checkpoint(saved, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(orbax.checkpoint.StandardCheckpointer, "save", fail)
    with pytest.raises(SpecificationError, match="can't be written: .* No space left"):
        checkpoint.save(saved, BLUEPRINT, random_params(seed=1), source=SOURCE)
    assert_same(checkpoint.load(saved).params, random_params())
    assert os.listdir(saved.parent) == ["saved"]


def test_folders_with_something_else_in_them_are_left_alone(tmp_path, saved):
    occupied, file = tmp_path / "occupied", tmp_path / "file"
    occupied.mkdir()
    (occupied / "thesis.tex").touch()
    (saved / "notes.md").touch()
    file.touch()
    for target, found in ((occupied, "holds thesis.tex"), (saved, "notes.md"), (file, "a file")):
        with pytest.raises(SpecificationError, match=f"{found}.*: choose a folder that is new"):
            checkpoint.save(target, BLUEPRINT, random_params(seed=1), source=SOURCE)
    assert (occupied / "thesis.tex").exists() and file.is_file()
    assert_same(checkpoint.load(saved).params, random_params())


def test_relative_paths_links_and_new_parents_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for target in ("a/b/c", "link", "link"):
        checkpoint.save(target, BLUEPRINT, random_params(), source=SOURCE)
        assert_same(checkpoint.load(target).params, random_params())
    assert (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["a", "link", "real"]


def test_a_flipped_byte_anywhere_is_noticed(saved):
    files = sorted(path for path in saved.rglob("*") if path.is_file())
    assert len(files) > 5
    for file in files:
        sound = file.read_bytes()
        for position in {0, len(sound) // 3, len(sound) // 2, len(sound) - 2}:
            damaged = bytearray(sound)
            damaged[position] ^= 1
            file.write_bytes(damaged)
            assert "can't be used" in refusal(saved)
        file.write_bytes(sound)
    assert_same(checkpoint.load(saved).params, random_params())


def test_a_missing_file_is_noticed_and_a_foreign_one_ignored(saved):
    (saved / "parameters" / ".DS_Store").touch()
    checkpoint.load(saved)
    (saved / "parameters" / "_METADATA").unlink()
    assert "its parameters/_METADATA is not as it was saved" in refusal(saved)


def test_parameters_that_orbax_restores_wrongly_are_noticed(saved, monkeypatch):
    restore = orbax.checkpoint.StandardCheckpointer.restore

    def restore_wrongly(*arguments):
        params = restore(*arguments)
        kernel = params["conv3"]["kernel"] = params["conv3"]["kernel"].copy()
        kernel[0, 0, 0, 0] = np.nextafter(kernel[0, 0, 0, 0], np.float32(9))
        return params

    monkeypatch.setattr(orbax.checkpoint.StandardCheckpointer, "restore", restore_wrongly)
    assert "its parameters are not those that were saved" in refusal(saved)


def test_a_definition_that_has_changed_since_is_noticed(saved, monkeypatch):
    shapes = BLUEPRINT.shapes()
    monkeypatch.setattr(Blueprint, "shapes", lambda _: {**shapes, "fc8/bias": (5,)})
    assert "can't be used" in refusal(saved)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "can't be used"),
        ("[" * 100_000, "can't be used"),
        ("[1, 2]", "doesn't say 'jaxrobust checkpoint 1'"),
        ('{"format": "jaxrobust checkpoint 2"}', "doesn't say 'jaxrobust checkpoint 1'"),
        ('{"format": "jaxrobust checkpoint 1"}', "network.json is not as it was saved"),
    ],
)
def test_a_foreign_description_is_refused(saved, text, reason):
    (saved / "network.json").write_text(text)
    assert reason in refusal(saved)


def test_a_description_edited_by_hand_is_refused(saved):
    file = saved / "network.json"
    file.write_text(file.read_text().replace("2.0", "2.5"))
    assert "network.json is not as it was saved" in refusal(saved)


def test_folders_that_are_no_checkpoints_are_refused(tmp_path, saved):
    assert "is not a checkpoint" in refusal(tmp_path)
    assert "is not a checkpoint" in refusal(tmp_path / "nowhere")
    assert "is not a checkpoint" in refusal(saved / "parameters")
    shutil.rmtree(saved / "parameters")
    assert "is not a checkpoint" in refusal(saved)


def test_a_blueprint_survives_json():
    text = json.dumps(BLUEPRINT.to_json())
    again = Blueprint.from_json(json.loads(text))
    assert again.shapes() == BLUEPRINT.shapes()
    assert again.preprocessing == BLUEPRINT.preprocessing
    assert json.dumps(again.to_json()) == text


def test_a_blueprint_of_unknown_parts_is_refused():
    values = BLUEPRINT.to_json()
    with pytest.raises(SpecificationError, match="did you mean alexnet"):
        Blueprint.from_json({**values, "definition": "alexnett"})
    with pytest.raises(SpecificationError, match="possible: cifar10, digits, imagenet"):
        Blueprint.from_json({**values, "class_names": "../../etc/passwd"})
    with pytest.raises(SpecificationError, match="needed: class_names, configuration"):
        Blueprint.from_json({**values, "activation": "tanh"})


def rewritten(folder, **changes):
    """A checkpoint whose description asks for something else, with a checksum that is right."""
    file = folder / "network.json"
    description = json.loads(file.read_text())
    description["blueprint"].update(changes.pop("blueprint", {}))
    description.update(changes)
    del description["sha256"]
    text = json.dumps(description, sort_keys=True, ensure_ascii=True)
    description["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    file.write_text(json.dumps(description))
    return folder


CONFIGURATION = BLUEPRINT.to_json()["configuration"]
PREPROCESSING = BLUEPRINT.to_json()["preprocessing"]


@pytest.mark.parametrize(
    ("blueprint", "reason"),
    [
        ({"definition": "resnet", "configuration": {"blocks": [10**6] * 4}}, "numbers up to 1,000"),
        ({"definition": "resnet", "configuration": {"blocks": [900] * 4}}, "3,600 layers"),
        ({"definition": "cifar_resnet", "configuration": {"blocks": [6] * 3}}, "16 arrays"),
        ({"definition": "vgg", "configuration": {"convolutions": [99] * 5}}, "495 layers"),
        ({"configuration": {"widths": [10**9] * 5}}, "numbers up to 1,000,000"),
        ({"configuration": {"widths": [10**6] * 5}}, "don't fit the definition alexnet"),
        ({"configuration": {**CONFIGURATION, "classes": 10**6}}, "don't fit"),
        ({"configuration": {**CONFIGURATION, "classes": 10**30}}, "numbers up to 1,000,000"),
        ({"configuration": {**CONFIGURATION, "classes": 1e400}}, "numbers up to 1,000,000"),
        ({"configuration": {**CONFIGURATION, "groups": 10**6}}, "numbers up to 64"),
        ({"configuration": {**CONFIGURATION, "image_size": [10**6, 32]}}, "numbers up to 4,096"),
        ({"configuration": {**CONFIGURATION, "conv1_padding": 10**6}}, "numbers up to 1,000"),
        ({"configuration": {**CONFIGURATION, "conv1_stride": 0}}, "can't be used"),
        ({"configuration": {**CONFIGURATION, "dropout": {"a": 1}}}, "plain values"),
        ({"configuration": {**CONFIGURATION, "widths": [[1]] * 5}}, "plain values"),
        ({"configuration": {**CONFIGURATION, "widths": [1] * 10**5}}, "plain values"),
        ({"configuration": {**CONFIGURATION, "response_norm": "x" * 10**5}}, "plain values"),
        ({"configuration": [1, 2]}, "can't be used"),
        ({"preprocessing": {**PREPROCESSING, "size": [10**6, 10**6]}}, "numbers up to 4,096"),
        ({"preprocessing": {**PREPROCESSING, "resize": 10**9}}, "numbers up to 16,384"),
        ({"preprocessing": {**PREPROCESSING, "mean": [0.0] * 10**5}}, "plain values"),
        ({"name": "a\x1b[2Jb"}, "printable text"),
        ({"name": "x" * 10**5}, "printable text"),
        ({"name": 5}, "printable text"),
    ],
)
def test_what_a_foreign_description_asks_for_is_bounded(saved, blueprint, reason):
    folder = rewritten(saved, blueprint=blueprint)
    begin = time.perf_counter()
    assert reason in refusal(folder)
    assert time.perf_counter() - begin < 10


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": "S1000000000"}, "its dtype is"),
        ({"dtype": ["float32"]}, "its dtype is"),
        ({"files": {"/dev/zero": "0"}}, "names a file outside parameters"),
        ({"files": {"parameters/../../secret": "0"}}, "names a file outside parameters"),
        ({"files": {"parameters": "0"}}, "names a file outside parameters"),
        ({"files": ["parameters/_METADATA"]}, "can't be used"),
        ({"files": {"parameters/a\x1b[2Jb": "0"}}, "parameters/a\\x1b[2Jb is not as it was saved"),
        ({"source": "x" * 5_000_000}, "is larger than any"),
    ],
)
def test_a_foreign_description_names_nothing_else(saved, changes, reason):
    assert reason in refusal(rewritten(saved, **changes))


def test_parameters_that_the_files_cannot_hold_are_refused_unread(saved, monkeypatch):
    monkeypatch.setattr(checkpoint, "_FREE_BYTES", -(10**9))
    assert "its parameters claim" in refusal(saved)


@pytest.mark.slow
def test_a_module_starts_with_weights_of_its_seed():
    first, again, other = (
        fingerprint(nnx.to_pure_dict(nnx.state(BLUEPRINT.module(seed)))) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_fingerprint_names_paths_shapes_types_and_values():
    params = {"a": {"b": np.arange(6.0)}, "c": np.zeros((0, 2))}
    variants = [
        {"a": {"b": np.arange(6.0)}, "c": np.zeros((2, 0))},
        {"a": {"b": np.arange(6.0).reshape(2, 3)}, "c": np.zeros((0, 2))},
        {"a": {"b": np.arange(6.0, dtype=np.float32)}, "c": np.zeros((0, 2))},
        {"a": {"d": np.arange(6.0)}, "c": np.zeros((0, 2))},
        {"a": {"b": np.arange(6.0) + 1e-15}, "c": np.zeros((0, 2))},
    ]
    found = {fingerprint(variant) for variant in [params, *variants]}
    assert len(found) == 1 + len(variants)
    assert fingerprint({"a": {"b": np.arange(12.0)[::2] / 2}, "c": np.zeros((0, 2))}) in found
    assert fingerprint({"x": jnp.arange(3.0)}) == fingerprint({"x": np.arange(3, dtype=np.float32)})


def test_it_holds_no_path_of_the_machine_that_wrote_it(saved, tmp_path):
    for file in saved.rglob("*"):
        assert not file.is_file() or str(tmp_path).encode() not in file.read_bytes()


def test_every_network_of_the_zoo_is_within_the_bounds():
    for entry in zoo.ZOO.values():
        again = Blueprint.from_json(json.loads(json.dumps(entry.blueprint.to_json())))
        again.check_layers(1_000)
