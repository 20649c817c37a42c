"""The reader of PyTorch's files, on files written by hand and by PyTorch itself."""

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
    Reference,
    Saved,
    archive,
    memory_below,
    new_pth,
    old_pth,
    pickled,
    pth_members,
    refusal,
)

from jaxrobust.porting import read_weights

FORMATS = pytest.mark.parametrize("write", [new_pth, old_pth])
NUMBERS = np.random.default_rng(0).standard_normal(24).astype(np.float32)
RUN = Call(Name("posix", "system"), ("touch ran",))


def saved(path, content):
    path.write_bytes(content)
    return path


def in_pickle(operations):
    """An archive whose pickle puts on the stack whatever the operations leave there."""
    return archive({"archive/data.pkl": pickled(Raw(operations))})


@FORMATS
@pytest.mark.parametrize(
    "kind", ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
)
def test_numbers_of_every_type_come_back(tmp_path, write, kind):
    array = (NUMBERS * 4).astype(kind)
    weights = read_weights(saved(tmp_path / "a.pth", write({"w": Saved(array, (4, 6), (6, 1))})))
    assert weights.headers["w"].dtype == weights["w"].dtype == array.dtype
    np.testing.assert_array_equal(weights["w"], array.reshape(4, 6))


@FORMATS
def test_bfloat16_becomes_float32(tmp_path, write):
    array = np.array([1.0, -2.5, 0.0, 3.140625, np.inf, -(2.0**-130)], np.float32)
    upper = (array.view(np.uint32) >> 16).astype(np.uint16)
    content = write({"w": Saved(upper), "scalar": Saved(upper, (), offset=1)})
    weights = read_weights(saved(tmp_path / "a.pth", content))
    assert weights.headers["w"].dtype == weights["w"].dtype == np.float32
    np.testing.assert_array_equal(weights["w"], array)
    assert weights["scalar"].shape == () and weights["scalar"] == -2.5


@FORMATS
def test_views_of_one_storage_come_back_as_arrays_of_their_own(tmp_path, write):
    tensors = {
        "whole": Saved(NUMBERS, (2, 3, 4), (12, 4, 1)),
        "transposed": Saved(NUMBERS, (4, 2, 3), (1, 12, 4)),
        "part": Saved(NUMBERS, (2, 2), (4, 1), offset=17),
        "one": Saved(NUMBERS, (), (), offset=23),
        "empty": Saved(NUMBERS, (0, 5), (5, 1), offset=24),
    }
    weights = read_weights(saved(tmp_path / "a.pth", write(tensors)))
    whole = NUMBERS.reshape(2, 3, 4)
    np.testing.assert_array_equal(weights["whole"], whole)
    np.testing.assert_array_equal(weights["transposed"], whole.transpose(2, 0, 1))
    np.testing.assert_array_equal(weights["part"], whole[1, 1:, 1:3])
    np.testing.assert_array_equal(weights["one"], whole[1, 2, 3])
    assert weights["empty"].shape == (0, 5)
    for array in weights.values():
        assert array.flags.c_contiguous and array.flags.writeable
    weights["whole"][:] = 0
    assert weights["whole"].any()


@pytest.mark.parametrize("order", ["little", "big", None])
def test_the_byte_order_of_an_archive_is_kept_to(tmp_path, order):
    bits = np.array([0x3F80, 0x4000], np.uint16)
    tensors = {"w": Saved(NUMBERS), "b": Saved(bits)}
    weights = read_weights(saved(tmp_path / "a.pt", archive(pth_members(tensors, order))))
    np.testing.assert_array_equal(weights["w"], NUMBERS)
    np.testing.assert_array_equal(weights["b"], [1.0, 2.0])
    assert weights["w"].dtype.isnative


@FORMATS
@pytest.mark.parametrize("nested", [["state_dict"], ["model"], ["model", "state_dict"], []])
def test_the_state_dictionary_is_found_and_its_prefix_dropped(tmp_path, write, nested):
    content = {"module.conv1.weight": Saved(NUMBERS), "module.steps": 7}
    for name in nested:
        content = {"epoch": 3, "best": Saved(NUMBERS[:1].copy()), "note": None, name: content}
    weights = read_weights(saved(tmp_path / "a.th", write(content)))
    assert list(weights) == ["conv1.weight"]


@FORMATS
@pytest.mark.parametrize("settings", [{"depth": 20}, {}, {"net": {"depth": 20}}])
def test_settings_under_a_usual_name_do_not_hide_the_state_dictionary(tmp_path, write, settings):
    for content in (
        {"model": settings, "net": {"w": Saved(NUMBERS)}},
        {"checkpoint": 1, "model": {"model": settings, "net": {"w": Saved(NUMBERS)}}},
        {"model": settings, "w": Saved(NUMBERS)},
    ):
        assert list(read_weights(saved(tmp_path / "a.pth", write(content)))) == ["w"]


@FORMATS
def test_a_prefix_that_only_some_names_have_stays(tmp_path, write):
    tensors = {"module.w": Saved(NUMBERS), "w": Saved(NUMBERS)}
    assert list(read_weights(saved(tmp_path / "a.pth", write(tensors)))) == ["module.w", "w"]


def test_a_state_dictionary_saved_by_python_2_is_read(tmp_path):
    """Its OrderedDict is made from a list of pairs, and its strings are bytes."""
    tensor = Call(
        Name("torch._utils", "_rebuild_tensor"),
        (Reference(("storage", Name("torch", "FloatStorage"), "0", "cpu", 24)), 0, (24,), (1,)),
    )
    pairs = [[Raw(b"U\x01w"), tensor]]
    content = {
        "archive/data.pkl": pickled(Call(Name("collections", "OrderedDict"), (pairs,))),
        "archive/data/0": NUMBERS.tobytes(),
    }
    weights = read_weights(saved(tmp_path / "a.pth", archive(content)))
    np.testing.assert_array_equal(weights["w"], NUMBERS)


@FORMATS
def test_no_tensor_is_read_before_it_is_asked_for(tmp_path, write):
    tensors = {"small": Saved(NUMBERS), "large": Saved(np.zeros(4_000_000, np.float32))}
    path = saved(tmp_path / "a.pth", write(tensors))
    del tensors
    with memory_below(1_000_000):
        weights = read_weights(path)
        assert weights.headers["large"].shape == (4_000_000,)
        weights["small"]


def test_a_real_file_of_the_old_format(shared_data):
    weights = read_weights(shared_data / "resnet20-12fca82f.th")
    assert len(weights) == 97
    assert list(weights)[:3] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert list(weights)[-2:] == ["linear.weight", "linear.bias"]
    assert weights["conv1.weight"].shape == (16, 3, 3, 3)
    assert sum(array.size for array in weights.values()) == 271_098
    assert all((weights[name] > 0).all() for name in weights if name.endswith("running_var"))


@pytest.mark.parametrize(
    "write",
    [
        lambda value: archive({"archive/data.pkl": pickled(value)}),
        lambda value: pickled(MAGIC) + pickled(1001) + pickled({}) + pickled(value),
        pickled,
    ],
)
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (RUN, "posix.system"),
        ({"w": RUN}, "posix.system"),
        (Call(Name("os", "system"), ("touch ran",)), "os.system"),
        (
            Call(Name("builtins", "eval"), ("__import__('os').system('touch ran')",)),
            "builtins.eval",
        ),
        (Call(Name("builtins", "getattr"), (Name("os", "system"), "x")), "os.system"),
        (Call(Name("builtins", "getattr"), ({}, "clear")), "builtins.getattr"),
        (Call(Name("numpy", "load"), ("x",)), "numpy.load"),
        (Call(Name("functools", "reduce"), ()), "functools.reduce"),
        (Call(Name("pathlib", "Path.unlink"), ("x",)), "pathlib.Path.unlink"),
        (Call(Name("torch._utils", "_rebuild_tensor_v9"), ()), "torch._utils._rebuild_tensor_v9"),
        (Call(Name("torch.hub", "load"), ("x",)), "torch.hub.load"),
        (Raw(b"\x8c\x02os\x8c\x06system\x93(X\x09\0\0\0touch rantR"), "os.system"),
        (Raw(b"(X\x09\0\0\0touch ranios\nsystem\n"), "INST"),
        (Raw(b"cos\nsystem\n)\x81"), "os.system"),
        (Raw(b"\x82\x01"), "EXT1"),
    ],
)
def test_what_tensors_do_not_need_is_refused_by_name(tmp_path, monkeypatch, write, value, name):
    monkeypatch.chdir(tmp_path)
    assert name in refusal(saved(tmp_path / "a.pth", write(value)))
    assert not (tmp_path / "ran").exists()


def test_the_command_that_is_refused_would_run_otherwise(tmp_path, monkeypatch):
    """Python's own unpickler shows that the pickle of the tests above is a real attack."""
    import pickle

    monkeypatch.chdir(tmp_path)
    pickle.loads(pickled(RUN))
    assert (tmp_path / "ran").exists()


@FORMATS
@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (Saved(NUMBERS, (25,)), "'w' reaches beyond its storage of 24 numbers"),
        (Saved(NUMBERS, (24,), offset=1), "reaches beyond"),
        (Saved(NUMBERS, (2, 2), (23, 1)), "reaches beyond"),
        (Saved(NUMBERS, (2**62, 2**62), (0, 0)), "reaches beyond"),
        (Saved(NUMBERS, (10**9,), (0,)), "reaches beyond"),
        (Saved(NUMBERS, (2**70,)), "is not described as a tensor"),
        (Saved(NUMBERS, (-24,)), "is not described as a tensor"),
        (Saved(NUMBERS, (24,), (-1,), offset=23), "is not described as a tensor"),
        (Saved(NUMBERS, (24,), offset=-1), "is not described as a tensor"),
        (Saved(NUMBERS, ("24",)), "is not described as a tensor"),
        (Saved(NUMBERS, (True,)), "is not described as a tensor"),
        (Saved(NUMBERS, (1,) * 100), "has 100 axes and 100 strides"),
        (Saved(NUMBERS, (24,), ()), "has 1 axes and 0 strides"),
        (Saved(NUMBERS, kind="QInt8"), "it asks for 'torch.QInt8Storage'"),
    ],
)
def test_impossible_tensors_are_refused(tmp_path, write, tensor, reason):
    path = saved(tmp_path / "a.pth", write({"w": tensor}))
    with memory_below(1_000_000):
        assert reason in refusal(path)


@FORMATS
def test_one_storage_cannot_stand_for_any_number_of_tensors(tmp_path, write):
    storage = np.zeros(10_000, np.float32)
    path = saved(tmp_path / "a.pth", write({f"w{i}": Saved(storage) for i in range(100)}))
    assert "its arrays claim 4,000,000 bytes" in refusal(path)


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
    monkeypatch.setattr("jaxrobust.porting.pickles._MOST_OPERATIONS", 1000)
    path = saved(tmp_path / "a.pth", in_pickle(b"N0" * 1000))
    assert "more than 1,000 operations" in refusal(path)


@pytest.mark.slow
@pytest.mark.parametrize("archived", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_files_of_pytorch_come_back_as_pytorch_reads_them(tmp_path, archived, protocol):
    torch = pytest.importorskip("torch")
    base = torch.randn(2, 3, 4)
    kinds = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()
    tensors = {
        **{f"module.{kind}": (base * 4).to(getattr(torch, kind)) for kind in kinds},
        "module.base": base,
        "module.transposed": base.permute(2, 0, 1),
        "module.view": base[1, 1:, ::2],
        "module.scalar": base[0, 0, 2],
        "module.empty": torch.zeros(0, 3),
        "module.parameter": torch.nn.Parameter(torch.randn(4)),
    }
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    module(torch.randn(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    beside = {
        "epoch": 3,
        "accuracy": torch.tensor(76.1),
        "best": np.float64(3.0),
        "optimizer": optimizer.state_dict(),
        "milestones": Counter([30, 60]),
        "size": base.shape,
        "device": torch.device("cpu"),
        "set": {1, 2},
        "bytes": b"abc",
    }
    for content, expected in [
        (OrderedDict(tensors), tensors),
        (beside | {"state_dict": tensors}, tensors),
        (module.state_dict(), module.state_dict()),
    ]:
        path = tmp_path / "a.pth"
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=archived)
        weights = read_weights(path)
        assert list(weights) == [name.removeprefix("module.") for name in expected]
        for name, tensor in expected.items():
            found = weights[name.removeprefix("module.")]
            tensor = tensor.detach()
            tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
            assert found.dtype == tensor.numpy().dtype
            np.testing.assert_array_equal(found, tensor.numpy())
