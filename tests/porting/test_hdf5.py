"""The reader of Keras's files, on files laid out as each generation of Keras lays them out."""

import h5py
import numpy as np
import pytest
from weight_files import hdf5, memory_below, refusal

from jaxrobust.porting import read_weights

KERNEL = np.random.default_rng(0).standard_normal((3, 3, 4, 5)).astype(np.float32)
BIAS = np.arange(5, dtype=np.float32)


@pytest.mark.parametrize(
    ("layout", "kernel", "bias"),
    [
        ("convnets-keras", "conv_2_1/conv_2_1_W", "conv_2_1/conv_2_1_b"),
        ("Keras 1 on TensorFlow", "conv_2_1/conv_2_1_W_1:0", "conv_2_1/conv_2_1_b_1:0"),
        ("Keras 2", "conv_2_1/conv_2_1/kernel:0", "conv_2_1/conv_2_1/bias:0"),
        ("Keras 2, a second model", "conv_2_1/conv_2_1_4/kernel:0", "conv_2_1/conv_2_1_4/bias:0"),
        ("a whole model", "model_weights/conv_2_1/conv_2_1/kernel:0", "model_weights/conv_2_1/b"),
    ],
)
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_each_layout_gives_the_same_names(tmp_path, layout, kernel, bias, libver):
    path = hdf5(tmp_path / "a.h5", {kernel: KERNEL, bias: BIAS}, libver)
    with h5py.File(path, "a") as file:
        file.create_group("pool_1" if "model_weights" not in file else "model_weights/pool_1")
        file.attrs["layer_names"] = [b"conv_2_1", b"pool_1"]
    weights = read_weights(path)
    assert set(weights) == {"conv_2_1/kernel", "conv_2_1/bias"}
    assert weights.headers["conv_2_1/kernel"].shape == KERNEL.shape
    np.testing.assert_array_equal(weights["conv_2_1/kernel"], KERNEL)
    np.testing.assert_array_equal(weights["conv_2_1/bias"], BIAS)


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["layers/conv2d/vars/0", "layers/conv2d/vars/1"], ["conv2d/0", "conv2d/1"]),
        (["layer_1/param_0", "layer_1/param_1"], ["layer_1/param_0", "layer_1/param_1"]),
        (["model/a/kernel:0", "model/b/kernel:0"], ["model/a/kernel", "model/b/kernel"]),
        (["bn/bn_gamma", "bn/bn/moving_mean:0"], ["bn/gamma", "bn/moving_mean"]),
        (["W", "b"], ["W", "b"]),
    ],
)
def test_other_names_stay_close_to_the_file(tmp_path, places, names):
    weights = read_weights(hdf5(tmp_path / "a.hdf5", dict.fromkeys(places, BIAS)))
    assert sorted(weights) == sorted(names)


@pytest.mark.parametrize("beside", ["model_weights", "layers"])
def test_the_optimizer_beside_the_weights_is_passed_over(tmp_path, beside):
    places = {f"{beside}/a/kernel": BIAS, "optimizer_weights/a/kernel": KERNEL, "x": BIAS}
    weights = read_weights(hdf5(tmp_path / "a.h5", places))
    assert list(weights) == ["a/kernel"]
    np.testing.assert_array_equal(weights["a/kernel"], BIAS)


@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f4", "<f8", "<i8", "|u1", "|b1"])
def test_numbers_of_every_type_come_back(tmp_path, kind):
    array = BIAS.astype(kind)
    arrays = {"a/w": array, "a/scalar": array[3], "a/empty": array[:0]}
    weights = read_weights(hdf5(tmp_path / "a.h5", arrays))
    assert weights.headers["a/w"].dtype == weights["a/w"].dtype == array.dtype
    np.testing.assert_array_equal(weights["a/w"], array)
    assert weights["a/scalar"].shape == () and weights["a/scalar"] == array[3]
    assert weights["a/empty"].shape == (0,)


def test_no_array_is_read_before_it_is_asked_for(tmp_path):
    path = hdf5(tmp_path / "a.h5", {"small": BIAS, "large": np.zeros(4_000_000)})
    with memory_below(1_000_000):
        weights = read_weights(path)
        assert weights.headers["large"].shape == (4_000_000,)
        weights["small"]


def _objects(file):
    file["o"] = np.array([file["a/w"].ref], h5py.ref_dtype)


def _loop(file):
    file["a/b"] = file["a"]


def _two_names(file):
    file["b"] = file["a/w"]


def _virtual(file):
    layout = h5py.VirtualLayout((5,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "w", (5,))
    file.create_virtual_dataset("v", layout)


def _deep(file):
    file["/".join("abcdefghijkl") + "/w"] = BIAS


def _compressed_bomb(file):
    file.create_dataset("z", shape=(10**9,), dtype="f4", chunks=(10**6,), compression="gzip")


@pytest.mark.parametrize(
    ("add", "reason"),
    [
        (lambda file: file.update(s=h5py.SoftLink("/a/w")), "'s' is a link to another place"),
        (
            lambda file: file.update(s=h5py.ExternalLink("other.h5", "/")),
            "'s' is a link to another",
        ),
        (
            lambda file: file.update(model_weights=h5py.ExternalLink("other.h5", "/")),
            "'model_weights' is a link",
        ),
        (lambda file: file.update(t=np.dtype("f4")), "'t' is neither a group nor an array"),
        (lambda file: file.update(s="text"), "'s' holds object, not plain numbers"),
        (lambda file: file.update(n=h5py.Empty("f4")), "'n' holds float32, not plain numbers"),
        (lambda file: file.update({"a/w_1:0": BIAS, "a/a/w_1": BIAS}), "it holds 'a/w_1' twice"),
        (lambda file: file.create_dataset("c", data=BIAS, chunks=(2,)), "h5repack -f NONE"),
        (lambda file: file.create_dataset("u", (10**12,), "f4"), "'u' has 0 bytes in the file"),
        (lambda file: file.create_dataset("u", (5,), "f4"), "'u' has 0 bytes in the file"),
        (
            lambda file: file.create_dataset("e", (5,), "f4", external="other"),
            "'e' is compressed or lies in another file",
        ),
        (_objects, "'o' holds object, not plain numbers"),
        (_loop, "hold each other"),
        (_two_names, "one thing under two names"),
        (_virtual, "'v' is in chunks or compressed"),
        (_compressed_bomb, "'z' is in chunks or compressed"),
        (_deep, "its groups hold each other"),
    ],
)
def test_what_weights_do_not_need_is_refused(tmp_path, monkeypatch, add, reason):
    monkeypatch.chdir(tmp_path)
    hdf5(tmp_path / "other.h5", {"w": BIAS})
    path = hdf5(tmp_path / "a.h5", {"a/w": BIAS})
    with h5py.File(path, "a") as file:
        add(file)
    with memory_below(2_000_000):
        assert reason in refusal(path)


def test_a_file_without_arrays_is_refused(tmp_path):
    assert "it holds no arrays" in refusal(hdf5(tmp_path / "a.h5", {}))


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"not HDF5" * 100])
def test_what_is_no_hdf5_file_is_refused(tmp_path, content):
    (tmp_path / "a.h5").write_bytes(content)
    assert "is not a readable .h5 file" in refusal(tmp_path / "a.h5")


def test_truncated_files_are_refused(tmp_path):
    whole = hdf5(tmp_path / "a.h5", {"a/w": KERNEL}).read_bytes()
    for length in range(0, len(whole), 37):
        (tmp_path / "b.h5").write_bytes(whole[:length])
        refusal(tmp_path / "b.h5")


def test_a_name_that_would_be_followed_like_a_path_is_refused(tmp_path):
    path = hdf5(tmp_path / "a.h5", {"a/w": BIAS, "b_w": BIAS})
    content = path.read_bytes()
    assert content.count(b"b_w\0") == 1
    path.write_bytes(content.replace(b"b_w\0", b"a/w\0"))
    assert "'a/w' is a link to another place" in refusal(path)
