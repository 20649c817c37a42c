"""The reader of Caffe's binary files, on real ones and on ones written by hand."""

import numpy as np
import pytest
from weight_files import blob, caffemodel, memory_below, message, refusal, varint

from jaxrobust.porting import read_weights

RANDOM = np.random.default_rng(0)
CONV = RANDOM.standard_normal((4, 3, 5, 2)).astype(np.float32)
DENSE = RANDOM.standard_normal((6, 8)).astype(np.float32)
BIAS = RANDOM.standard_normal(6).astype(np.float32)


@pytest.fixture
def written(tmp_path):
    """A function that writes a file and gives its path."""

    def write(content):
        path = tmp_path / "a.caffemodel"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("v1", [True, False])
@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_both_generations_and_both_shapes_are_read(written, v1, legacy, kind):
    arrays = {
        "conv1": [CONV.astype(kind)],
        "inception_3a/3x3_reduce": [CONV.astype(kind)[:, :, :1, :1], BIAS[:4].astype(kind)],
        "fc6": [DENSE.astype(kind), BIAS.astype(kind)],
        "fc8": [DENSE[:1].astype(kind), BIAS[:1].astype(kind)],
    }
    layers = [(name, [blob(array, legacy) for array in found]) for name, found in arrays.items()]
    weights = read_weights(written(caffemodel([("data", []), *layers], v1)))
    assert len(weights) == 7
    for name, found in arrays.items():
        for suffix, array in zip("wb", found, strict=False):
            header = weights.headers[f"{name}/{suffix}"]
            assert header.shape == array.shape and header.dtype == kind
            np.testing.assert_array_equal(weights[f"{name}/{suffix}"], array)
            assert weights[f"{name}/{suffix}"].flags.writeable


def test_further_blobs_go_by_their_number(written):
    blobs = [blob(BIAS), blob(BIAS + 1), blob(BIAS[:1])]
    weights = read_weights(written(caffemodel([("bn", blobs), ("scale", [blob(BIAS)] * 2)])))
    assert list(weights) == ["bn/w", "bn/b", "bn/2", "scale/w", "scale/b"]
    np.testing.assert_array_equal(weights["bn/b"], BIAS + 1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("legacy", [True, False])
def test_the_masks_of_a_pruned_layer_are_applied(written, bias, legacy):
    values = [DENSE, BIAS] if bias else [DENSE]
    masks = [(array > 0).astype(np.float32) for array in values]
    blobs = [blob(array, legacy) for array in (*values, *masks)]
    weights = read_weights(written(caffemodel([("ip1", blobs)])))
    assert list(weights) == (["ip1/w", "ip1/b"] if bias else ["ip1/w"])
    np.testing.assert_array_equal(weights["ip1/w"], np.maximum(DENSE, 0))
    if bias:
        np.testing.assert_array_equal(weights["ip1/b"], np.maximum(BIAS, 0))


def test_a_mask_of_other_numbers_is_refused(written):
    path = written(caffemodel([("ip1", [blob(DENSE), blob(DENSE)])]))
    assert "other numbers than 0 and 1" in refusal(path)


def test_packed_numbers_in_pieces_are_put_together(written):
    data = CONV.tobytes()
    shape = (7, message((1, bytes(CONV.shape))))
    pieces = message((5, data[:8]), shape, (5, data[8:]))
    weights = read_weights(written(caffemodel([("conv1", [pieces])])))
    np.testing.assert_array_equal(weights["conv1/w"], CONV)


def test_what_else_a_file_says_is_passed_over(written):
    beside = message((3, 7), (4, b"text"), (200, CONV.tobytes()))
    shape = (7, message((1, bytes(BIAS.shape))))
    with_gradient = message((5, BIAS.tobytes()), (6, BIAS.tobytes()), shape)
    weights = read_weights(written(beside + caffemodel([("a", [with_gradient])]) + beside))
    np.testing.assert_array_equal(weights["a/w"], BIAS)


@pytest.mark.parametrize("kind", ["original", "sparse"])
def test_real_files(shared_data, kind):
    path = shared_data / f"caffe_lenet5_{kind}.caffemodel"
    weights = read_weights(path)
    shapes = {name: header.shape for name, header in weights.headers.items()}
    assert shapes == {
        "conv1/w": (20, 1, 5, 5),
        "conv1/b": (20,),
        "conv2/w": (50, 20, 5, 5),
        "conv2/b": (50,),
        "ip1/w": (500, 800),
        "ip1/b": (500,),
        "ip2/w": (10, 500),
        "ip2/b": (10,),
    }
    content = path.read_bytes()
    for array in weights.values():
        assert array.tobytes() in content
        assert (np.count_nonzero(array) < array.size / 4) == (kind == "sparse")


ALONE = caffemodel([("ip1", [blob(DENSE)])])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it has no layers with blobs"),
        (caffemodel([("data", [])]), "it has no layers with blobs"),
        (message((2, message((1, message((1, b"conv1"), (50, blob(CONV))))))), "(V1 or later)"),
        (ALONE + ALONE, "it holds 'ip1/w' twice"),
        (caffemodel([("a\n\x1b", [blob(DENSE)])]) * 2, r"it holds 'a\n\x1b/w' twice"),
        (b"not a network" * 100, "Error parsing message"),
        (caffemodel([("ip1", [message((5, bytes(12)))])]), "has 12 bytes of packed numbers"),
        (caffemodel([("ip1", [message((5, bytes(13)), (1, 3))])]), "has 13 bytes"),
        (
            caffemodel([("ip1", [message((7, message((1, varint(2**63 - 1)))))])]),
            "has 0 bytes of packed numbers for shape (9223372036854775807,)",
        ),
        (caffemodel([("ip1", [message((1, -1), (2, -3), (5, bytes(12)))])]), "has 12 bytes"),
        (caffemodel([("ip1", [message((7, message((1, bytes(1000)))))])]), "has 1,000 axes"),
        (caffemodel([("ip1", [message(*[(5, b"")] * 1000)])]), "split into 1,000 pieces"),
        (caffemodel([("ip1", [b""] * 1000)]), "has 1,000 blobs"),
        (caffemodel([("", [])] * 10_001), "more than 10,000 layers"),
        (message((100, message((1, b"\xff\xfe"), (7, blob(DENSE))))), "can't decode"),
    ],
)
def test_impossible_files_are_refused(written, content, reason):
    path = written(content)
    with memory_below(3_000_000):
        assert reason in refusal(path)


def test_truncated_files_are_refused_or_lack_whole_layers(written):
    arrays = {"a/w": DENSE, "b/w": CONV}
    first = len(caffemodel([("a", [blob(DENSE)])]))
    whole = caffemodel([("a", [blob(DENSE)]), ("b", [blob(CONV)])])
    for length in range(len(whole)):
        path = written(whole[:length])
        if length == first:
            assert list(read_weights(path)) == ["a/w"]
        else:
            refusal(path)
    assert dict(read_weights(written(whole))).keys() == arrays.keys()
