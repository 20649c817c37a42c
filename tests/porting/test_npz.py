"""The `.npz` reader, on sound archives and on those made to break it."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from weight_files import memory_below, refusal

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.porting import read_weights

ARRAYS = {
    "conv1/w": np.random.default_rng(0).standard_normal((4, 3, 5, 5), np.float32),
    "conv1/b": np.arange(4, dtype=np.float16),
    "big-endian": np.arange(6, dtype=">f8").reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "scalar": np.array(7.0),
    "empty": np.zeros((0, 3)),
    "integers": np.arange(3),
}


def npy(header, data=b"", version=1):
    text = header if isinstance(header, bytes) else repr(header).encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text) + 1)
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + b"\n" + data


def described(shape, dtype: object = "<f4"):
    return {"descr": dtype, "fortran_order": False, "shape": shape}


def write(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_array_comes_back_as_it_was(tmp_path, save):
    save(tmp_path / "weights.npz", **ARRAYS)
    weights = read_weights(tmp_path / "weights.npz")
    assert list(weights) == list(ARRAYS) and len(weights) == len(ARRAYS)
    assert "conv1/w" in weights and "conv1" not in weights
    for name, array in ARRAYS.items():
        assert weights.headers[name].shape == array.shape
        assert weights.headers[name].dtype == array.dtype
        assert weights[name].dtype == array.dtype
        np.testing.assert_array_equal(weights[name], array)
    with pytest.raises(KeyError):
        weights["conv1"]


def test_no_array_is_read_before_it_is_asked_for(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, small=np.zeros(3), large=np.zeros(4_000_000))
    with memory_below(1_000_000):
        weights = read_weights(path)
        assert weights.headers["large"].shape == (4_000_000,)
        weights["small"]


@given(st.data())
def test_damage_is_refused_or_harmless(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    stream = io.BytesIO()
    save = data.draw(st.sampled_from([np.savez, np.savez_compressed]))
    save(stream, **ARRAYS)
    content = bytearray(stream.getvalue())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = folder / "weights.npz"
    path.write_bytes(content)
    try:
        found = dict(read_weights(path))
    except SpecificationError as error:
        assert "\n" not in str(error)
    else:  # a byte that says nothing about the data, such as a date: nothing may have changed
        for name in found.keys() & ARRAYS.keys():
            np.testing.assert_array_equal(found[name], ARRAYS[name])


def test_a_flipped_byte_of_the_data_is_noticed(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, w=ARRAYS["conv1/w"])
    content = bytearray(path.read_bytes())
    content[content.index(ARRAYS["conv1/w"].tobytes()) + 100] ^= 1
    path.write_bytes(content)
    assert "Bad CRC-32" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not an archive" * 100])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "weights.npz"
    path.write_bytes(content)
    assert "not a readable .npz file: File is not a zip file" in refusal(path)


def test_pickled_objects_are_refused_unread(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, w=np.array([print], object))
    assert "'w.npy' holds object, not plain numbers" in refusal(path)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.npy", npy(described((10**12,))))], "which are not a float32 array of shape"),
        ([("a.npy", npy(described((10**30,))))], "which are not a float32 array of shape"),
        ([("a.npy", npy(described((-1, -4)), bytes(16)))], "which are not a float32 array"),
        ([("a.npy", npy(described((4,)), bytes(12)))], "holds 12 bytes"),
        ([("a.npy", npy(described((4,), "<U4"), bytes(64)))], "not plain numbers"),
        ([("a.npy", npy(described((4,), [("x", "<f4")]), bytes(16)))], "not plain numbers"),
        ([("a.npy", npy("(" * 9000))], ""),
        ([("a.npy", npy(b" " * 10_000_000, version=2))], ""),
        ([("a.npy", npy(described(()), bytes(4), version=3))], "version (3, 0)"),
        ([("a.npy", b"\x93NUMPY")], ""),
        ([("a.npy", b"GIF89a")], ""),
        ([("notes.txt", b"hello")], "'notes.txt' is not an array"),
        ([("\n\x1b[31m" * 90 + ".txt", b"")], "is not an array"),
        ([("folder/", b"")], "'folder/' is not an array"),
    ],
)
def test_hostile_members_are_refused(tmp_path, members, reason):
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = write(tmp_path / "weights.npz", members, compression)
        with memory_below(5_000_000 + 3 * path.stat().st_size):
            message = refusal(path)
        assert reason in message and "\x1b" not in message


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_is_refused(tmp_path):
    members = [("a.npy", npy(described((1,)), bytes(4)))] * 2
    assert "'a.npy' twice" in refusal(write(tmp_path / "weights.npz", members))


def test_a_directory_that_claims_more_than_the_file_can_hold_is_refused(tmp_path):
    """A header and a directory that agree on 3 GB, over a few bytes of data."""
    size = 3 * 10**9
    member = npy(described((size // 4,)))
    deflated = zlib.compress(member, wbits=-15)
    claim = len(member) + size
    name = b"a.npy"
    fields = struct.pack("<HHHHHIIIH", 20, 0, 8, 0, 0, 0, len(deflated), claim, len(name))
    local = b"PK\x03\x04" + fields + struct.pack("<H", 0) + name
    central = b"PK\x01\x02" + struct.pack("<H", 20) + fields + struct.pack("<HHHHII", *[0] * 6)
    end = struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central + name), len(local + deflated), 0)
    path = tmp_path / "weights.npz"
    path.write_bytes(local + deflated + central + name + b"PK\x05\x06" + end)
    assert f"'a.npy' claims {claim:,} bytes, the file has {path.stat().st_size:,}" in refusal(path)


def test_paths_that_are_no_weight_files_are_refused(tmp_path):
    assert "is not there" in refusal(tmp_path / "weights.npz")
    assert "is a folder" in refusal(tmp_path)
    (tmp_path / "weights.bin").touch()
    assert "has no known ending; possible: .npz" in refusal(tmp_path / "weights.bin")
