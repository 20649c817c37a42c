"""The reader of PyTorch's files, on files written by hand and by PyTorch itself."""

from collections import Counter, OrderedDict

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
    saved,
)

from jaxrobust.porting import read_weights

FORMATS = pytest.mark.parametrize("write", [new_pth, old_pth])
NUMBERS = np.random.default_rng(0).standard_normal(24).astype(np.float32)
RUN = Call(Name("posix", "system"), ("touch ran",))


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
