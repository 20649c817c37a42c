"""What PyTorch's files may hold beside tensors, and files that are damaged or made to harm."""

import argparse
import datetime
import decimal
import enum
import fractions
import pathlib
import random
import re
import struct
import time
import types
import uuid
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from functools import partial

import numpy as np
import pytest
from weight_files import (
    MAGIC,
    Call,
    Name,
    Raw,
    Saved,
    archive,
    memory_below,
    new_pth,
    old_pth,
    pickled,
    pth_members,
    refusal,
    saved,
)

from jaxrobust.porting import read_weights

FORMATS = pytest.mark.parametrize("write", [new_pth, old_pth])
NUMBERS = np.random.default_rng(0).standard_normal(24).astype(np.float32)


def in_pickle(operations):
    """An archive whose pickle puts on the stack whatever the operations leave there."""
    return archive({"archive/data.pkl": pickled(Raw(operations))})


class Config:
    """A class of somebody's own, with one inside it."""

    class Mode(enum.Enum):
        FAST = 1

    def __init__(self):
        self.rate, self.mode = 0.1, Config.Mode.FAST


class Settings(dict):
    """A dictionary of somebody's own."""


Point = namedtuple("Point", "x y")


def linked():
    """Two objects that refer to each other."""
    one, other = argparse.Namespace(), argparse.Namespace()
    one.other, other.one = other, one
    return [one, other]


HARMLESS = {
    "namespace": argparse.Namespace(rate=0.1, layers=[1, 2], path=pathlib.Path("a/b")),
    "paths": [pathlib.Path("a"), pathlib.PurePosixPath("/b"), pathlib.PureWindowsPath("c:/d")],
    "dates": [
        datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
        datetime.date(2020, 1, 2),
        datetime.timedelta(seconds=1.5),
    ],
    "defaultdict": defaultdict(list, {"a": [1]}),
    "nested defaultdict": defaultdict(partial(defaultdict, int), {"a": defaultdict(int, b=2)}),
    "counter": Counter("aab"),
    "deque": deque([1, 2], maxlen=3),
    "ordered": OrderedDict([(1, 2), ("a", {"b": ()})]),
    "sets": [{1, 2}, frozenset("ab"), set()],
    "numbers": [1 + 2j, decimal.Decimal("0.1"), fractions.Fraction(1, 3), 2**100, -1.5, range(3)],
    "bytes": [b"abc", bytearray(b"abc"), slice(1, 2)],
    "ids": uuid.UUID(int=5),
    "functions": [partial(int, base=2), re.compile("a+"), int, Config],
    "arrays": [np.arange(6.0).reshape(2, 3), np.zeros(3, bool), np.asarray([None, "a"], object)],
    "odd arrays": [
        np.asfortranarray(np.ones((2, 3))),
        np.asarray([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
        np.ma.masked_array([1, 2], [True, False]),
        np.asarray(["2020-01-01"], "datetime64[D]"),
    ],
    "scalars": [np.float64(1), np.int32(2), np.bool_(True), np.str_("a"), np.datetime64("2020")],
    "dtypes": [np.dtype("f4"), np.dtype("<i8"), np.float32, np.dtype([("a", "i4")])],
    "random": [
        np.random.RandomState(0).get_state(),
        np.random.RandomState(0),
        np.random.default_rng(0),
        np.random.PCG64(1),
        np.random.SeedSequence(2),
        random.Random(0),
        random.getstate(),
    ],
    "own classes": [Config(), Config.Mode.FAST, Point(1, 2), Settings(a=1)],
    "in circles": linked(),
    "simple": types.SimpleNamespace(a=1),
}


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", HARMLESS)
def test_other_things_beside_the_tensors_are_skipped(tmp_path, write, protocol, name):
    import pickle

    beside = Raw(pickle.dumps(HARMLESS[name], protocol)[2:-1])
    for content in ({"w": Saved(NUMBERS), name: beside}, {name: beside, "w": Saved(NUMBERS)}):
        weights = read_weights(saved(tmp_path / "a.pth", write(content)))
        assert list(weights) == ["w"]
        np.testing.assert_array_equal(weights["w"], NUMBERS)


@FORMATS
@pytest.mark.parametrize(
    "beside",
    [
        Name("torch", "float32"),
        Name("torch", "channels_last"),
        Call(Name("torch", "Size"), ([1, 2],)),
        Call(Name("torch", "device"), ("cuda", 0)),
        Call(Name("torch.serialization", "_get_layout"), ("torch.strided",)),
        Call(Name("torch.torch_version", "TorchVersion"), ("2.1",)),
        Call(Name("functools", "partial"), (Name("torch.nn.modules.normalization", "LayerNorm"),)),
        Call(Name("omegaconf.dictconfig", "DictConfig"), ()),
        Call(Name("__main__", "Config"), ({"a": Saved(NUMBERS)},)),
        Raw(b"c__main__\nConfig\n)\x81}X\x01\0\0\0aK\x01sb"),
    ],
)
def test_things_of_pytorch_and_of_other_packages_are_skipped(tmp_path, write, beside):
    content = {"state_dict": {"w": Saved(NUMBERS)}, "beside": beside}
    assert list(read_weights(saved(tmp_path / "a.pth", write(content)))) == ["w"]


@FORMATS
def test_a_default_dictionary_of_tensors_is_a_state_dictionary(tmp_path, write):
    items = [("w", Saved(NUMBERS))]
    content = {"state_dict": Call(Name("collections", "defaultdict"), (None, items))}
    assert "'state_dict'" in refusal(saved(tmp_path / "a.pth", write({"state_dict": 5})))
    assert list(read_weights(saved(tmp_path / "a.pth", write(content)))) == ["w"]


@FORMATS
def test_a_whole_module_is_no_state_dictionary(tmp_path, write):
    content = Call(Name("mine.models", "Net"), ())
    assert "an object of 'mine.models.Net', not a dictionary of tensors" in refusal(
        saved(tmp_path / "a.pth", write(content))
    )


@FORMATS
@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], 5, {"model": {"a": 1}}])
def test_a_file_without_a_state_dictionary_is_refused(tmp_path, write, content):
    assert "dictionary" in refusal(saved(tmp_path / "a.pth", write(content)))


@FORMATS
def test_every_truncated_file_is_refused(tmp_path, write):
    whole = write({"w": Saved(NUMBERS), "b": Saved(NUMBERS[:3].copy())})
    for length in range(len(whole)):
        refusal(saved(tmp_path / "a.pth", whole[:length]))


def test_a_flipped_byte_in_an_archive_is_noticed(tmp_path):
    content = bytearray(new_pth({"w": Saved(NUMBERS)}))
    content[content.index(NUMBERS.tobytes()) + 9] ^= 1
    assert "Bad CRC-32" in refusal(saved(tmp_path / "a.pth", content))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"archive/data/0": None}, "the storage '0' is missing"),
        ({"archive/data/0": bytes(95)}, "the storage '0' has 95 bytes, not 96"),
        ({"archive/data.pkl": None}, "not an archive that torch.save has written"),
        ({"other/data.pkl": pickled({})}, "not an archive that torch.save has written"),
        ({"archive/byteorder": b"middle"}, "byte order is neither"),
    ],
)
def test_archives_whose_members_do_not_agree_are_refused(tmp_path, change, reason):
    members = pth_members({"w": Saved(NUMBERS)}) | change
    members = {name: data for name, data in members.items() if data is not None}
    assert reason in refusal(saved(tmp_path / "a.pth", archive(members)))


@pytest.mark.parametrize("compressed", ["archive/data.pkl", "archive/data/0"])
def test_compressed_archives_are_refused_unread(tmp_path, compressed):
    members = pth_members({"w": Saved(np.zeros(3_000_000, np.float32))})
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            method = zipfile.ZIP_DEFLATED if name == compressed else zipfile.ZIP_STORED
            file.writestr(name, data, method)
    assert f"'{compressed}' is compressed" in refusal(path)


def test_one_storage_of_two_types_is_refused(tmp_path):
    tensors = {"a": Saved(NUMBERS, key="k"), "b": Saved(NUMBERS, kind="Int", key="k")}
    assert "storage that cannot be" in refusal(saved(tmp_path / "a.pth", new_pth(tensors)))


@pytest.mark.parametrize(
    "listed", [["0", "1"], [], None, 5, [0], [[["0"]]], ["0", "0"], {"0": "0"}]
)
def test_old_files_that_list_other_storages_are_refused(tmp_path, listed):
    whole = old_pth({"w": Saved(NUMBERS)})
    content = whole.replace(pickled(["0"]), pickled(listed))
    assert "storages that it lists" in refusal(saved(tmp_path / "a.pth", content))


def test_an_old_storage_of_another_length_is_refused(tmp_path):
    whole = old_pth({"w": Saved(NUMBERS)})
    content = whole.replace(struct.pack("<q", 24), struct.pack("<q", 2**40))
    assert "has 1,099,511,627,776 numbers, not 24" in refusal(saved(tmp_path / "a.pth", content))


_DOUBLED = b"q\x00" + b"".join(b"(h%ch%ct" % (i, i) + b"q%c" % (i + 1) for i in range(60))


@pytest.mark.parametrize(
    "operations",
    [
        b"\x8e" + struct.pack("<Q", 2**40),  # a bytes object that claims a terabyte
        b"\x8d" + struct.pack("<Q", 2**62),
        b"\x8b" + struct.pack("<i", 2**31 - 1),
        b"Nr" + struct.pack("<I", 2**32 - 1),  # an object with a very high number
        b"(" * 10_000 + b"t" * 10_000,  # a tuple in a tuple in a tuple
        b"]" * 10_000 + b"a" * 9_999,
        b"(" * 20_000,
        b")" + _DOUBLED,  # a tuple of twice a tuple of twice a tuple
        b"})" + _DOUBLED + b"Ns",  # and as a key of a dictionary, which would have to be hashed
        b"]" + _DOUBLED[:2] + b"h\x00a",  # a list that holds itself
        b"}q\x00X\x05\0\0\0modelh\x00s",  # a dictionary that holds itself
        b"0" * 10,
        b"R",
        b"Q",
        b"u",
        b"N)R",
        b"L" + b"9" * 100_000 + b"L\n",
        b"X\x02\0\0\0\xff\xff",
    ],
)
def test_pickles_made_to_break_the_reader_are_refused_at_little_cost(tmp_path, operations):
    files = [in_pickle(operations), pickled(Raw(operations))]
    files.append(pickled(MAGIC) + pickled(1001) + pickled({}) + pickled(Raw(operations)))
    for content in files:
        path = saved(tmp_path / "a.pth", content)
        with memory_below(100_000_000):
            begin = time.perf_counter()
            refusal(path)
            assert time.perf_counter() - begin < 20


def test_copies_of_one_large_list_are_refused(tmp_path):
    keys = b"".join(b"X\x08\0\0\0" + b"%08d" % i + b"N\x86" for i in range(100_000))
    large = b"ccollections\nOrderedDict\nq\x00](" + keys + b"e\x85q\x01"
    path = saved(tmp_path / "a.pth", in_pickle(large + b"h\x00h\x01R" * 1000))
    with memory_below(300_000_000):
        assert "calls with more than 1,000,000 items" in refusal(path)


def test_a_pickle_of_too_many_operations_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxrobust.porting.readers.pickles._MOST_OPERATIONS", 1000)
    path = saved(tmp_path / "a.pth", in_pickle(b"N0" * 1000))
    assert "more than 1,000 operations" in refusal(path)
