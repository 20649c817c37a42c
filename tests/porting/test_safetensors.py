"""The reader of `.safetensors` files."""

import struct

import numpy as np
import pytest
from safetensors.numpy import save_file
from weight_files import memory_below, refusal, safetensors

from jaxrobust.porting import read_weights

NUMBERS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


@pytest.fixture
def written(tmp_path):
    """A function that writes a file and gives its path."""

    def write(content):
        path = tmp_path / "a.safetensors"
        path.write_bytes(content)
        return path

    return write


def described(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "kind", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
)
def test_numbers_of_every_type_come_back(tmp_path, kind):
    arrays = {
        "conv1.weight": (NUMBERS * 4).astype(kind),
        "scalar": np.ones((), kind),
        "empty": np.zeros((0, 3), kind),
    }
    save_file(arrays, tmp_path / "a.safetensors", metadata={"format": "pt"})
    weights = read_weights(tmp_path / "a.safetensors")
    assert weights.keys() == arrays.keys()
    for name, array in arrays.items():
        assert weights.headers[name].shape == weights[name].shape == array.shape
        assert weights.headers[name].dtype == weights[name].dtype == array.dtype
        np.testing.assert_array_equal(weights[name], array)


def test_bfloat16_becomes_float32(written):
    array = np.array([1.0, -2.5, 0.0, 3.140625, np.inf, -(2.0**-130)], np.float32)
    upper = (array.view(np.uint32) >> 16).astype(np.uint16)
    weights = read_weights(
        written(safetensors({"w": described([2, 3], 0, 12, "BF16")}, upper.tobytes()))
    )
    assert weights.headers["w"].dtype == weights["w"].dtype == np.float32
    np.testing.assert_array_equal(weights["w"], array.reshape(2, 3))


def test_no_array_is_read_before_it_is_asked_for(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"small": NUMBERS, "large": np.zeros(4_000_000)}, path)
    with memory_below(1_000_000):
        weights = read_weights(path)
        assert weights.headers["large"].shape == (4_000_000,)
        weights["small"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "header too small"),
        (struct.pack("<Q", 2**62), "header too"),
        (struct.pack("<Q", 200_000) + b"[" * 200_000, "invalid JSON"),
        (struct.pack("<Q", 200_000) + b'{"a":' * 40_000, "invalid JSON"),
        (safetensors(b"\xff\xfe"), "invalid UTF-8"),
        (safetensors({"w": described([2**40], 0, 2**42)}), "not fully covered"),
        (safetensors({"w": described([2**63, 4], 0, 4)}, bytes(4)), "overflow"),
        (safetensors({"w": described([2], 0, 4)}, bytes(4)), "header"),
        (safetensors({"w": described([1], 4, 8)}, bytes(8)), "header"),
        (safetensors({"w": described([1], 0, 4), "v": described([1], 0, 4)}, bytes(4)), "header"),
        (safetensors({"w": described([1], 0, 4)}, bytes(8)), "not fully covered"),
        (safetensors({"w": described([4], 0, 4, "F8_E4M3")}, bytes(4)), "holds F8_E4M3 numbers"),
        (safetensors({"w": described([1], 0, 4, "\x1b[31m\n")}, bytes(4)), "unknown variant"),
    ],
)
def test_impossible_files_are_refused(written, content, reason):
    path = written(content)
    with memory_below(1_000_000):
        assert reason in refusal(path)


def test_every_truncated_file_is_refused(written):
    whole = safetensors({"w": described([4, 3], 0, 48)}, NUMBERS.tobytes())
    for length in range(len(whole)):
        refusal(written(whole[:length]))


@pytest.mark.slow
def test_files_of_pytorch_come_back(tmp_path):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    tensors = {"w": torch.randn(3, 4), "h": torch.randn(5).bfloat16(), "n": torch.tensor(7)}
    library.save_file(tensors, tmp_path / "a.safetensors")
    weights = read_weights(tmp_path / "a.safetensors")
    for name, tensor in tensors.items():
        expected = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        np.testing.assert_array_equal(weights[name], expected.numpy())
