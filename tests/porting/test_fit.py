"""Fitting a weight file to a network: layouts, and the one line that lists what is wrong."""

import numpy as np
import pytest

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.porting import Recipe, Weights, fit

SHAPES = {
    "conv1/kernel": (2, 3, 4, 5),
    "conv1/bias": (5,),
    "block/fc/kernel": (30, 7),
    "block/fc/bias": (7,),
    "fc8/kernel": (7, 2),
}
RECIPE = Recipe(
    "{layer}.{leaf}",
    {"kernel": "weight", "bias": "bias"},
    layers={"conv1": "features.0", "block/fc": "classifier.1"},
    flattened={"block/fc": (5, 2, 3)},
)


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "features.0.weight": rng.standard_normal((5, 4, 2, 3), np.float32),
        "features.0.bias": rng.standard_normal(5, np.float32),
        "classifier.1.weight": rng.standard_normal((7, 30), np.float32),
        "classifier.1.bias": rng.standard_normal(7, np.float32),
        "fc8.weight": rng.standard_normal((2, 7), np.float32),
    }


def fitted(values):
    return fit(Weights.of("example.npz", values), RECIPE, SHAPES, network="example")


def refusal(values):
    with pytest.raises(SpecificationError) as caught:
        fitted(values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_array_lands_in_our_layout():
    given = arrays()
    params = fitted(given)
    assert params.keys() == {"conv1", "block", "fc8"}
    kernel = params["conv1"]["kernel"]
    assert kernel.shape == (2, 3, 4, 5) and kernel.flags.c_contiguous
    for y, x, i, o in np.ndindex(kernel.shape):
        assert kernel[y, x, i, o] == given["features.0.weight"][o, i, y, x]
    np.testing.assert_array_equal(params["conv1"]["bias"], given["features.0.bias"])
    np.testing.assert_array_equal(params["fc8"]["kernel"], given["fc8.weight"].T)


def test_the_dense_layer_behind_the_flatten_sees_the_same_image():
    given = arrays()
    params = fitted(given)
    image = np.random.default_rng(1).standard_normal((2, 3, 5))
    ours = image.ravel() @ params["block"]["fc"]["kernel"]
    theirs = given["classifier.1.weight"] @ image.transpose(2, 0, 1).ravel()
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_any_floating_point_type_becomes_float32(dtype):
    given = {name: array.astype(dtype) for name, array in arrays().items()}
    kernel = fitted(given)["fc8"]["kernel"]
    assert kernel.dtype == np.dtype("float32") and kernel.dtype.isnative
    np.testing.assert_array_equal(kernel, given["fc8.weight"].T.astype(np.float32))


def test_everything_that_is_wrong_is_listed_in_one_line():
    given = arrays()
    given["features.0.weight"] = given["features.0.weight"][:3]
    given["classifier.1.bias"] = given["classifier.1.bias"].astype(int)
    del given["features.0.bias"], given["fc8.weight"]
    given["fc9.weight"] = np.zeros(1)
    assert refusal(given) == (
        "example.npz does not fit example (5 arrays needed, 4 found): "
        "missing (2): features.0.bias, fc8.weight; unexpected (1): fc9.weight; "
        "mis-shaped (1): features.0.weight 3×4×2×3 (needed: 5×4×2×3); "
        "not floating-point (1): classifier.1.bias int64"
    )


def test_long_lists_are_shortened():
    given = arrays() | {f"extra{i:04}": np.zeros(1) for i in range(5000)}
    assert refusal(given).endswith(
        "unexpected (5,000): extra0000, extra0001, extra0002, extra0003, extra0004, extra0005 "
        "and 4,994 more"
    )


def test_names_and_shapes_from_the_file_cannot_garble_the_line():
    given = arrays() | {"\x1b[31m\n" + "ä" * 500: np.zeros(1)}
    given["fc8.weight"] = np.zeros((1,) * 30)
    message = refusal(given)
    assert message.isprintable() and len(message) < 400
    assert r"\x1b[31m\n" in message and "fc8.weight of rank 30 (needed: 2" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_values_that_are_not_finite_are_refused(value):
    given = arrays()
    given["classifier.1.weight"] = given["classifier.1.weight"].astype(np.float64)
    given["classifier.1.weight"][3, 4] = value
    assert refusal(given) == (
        "example.npz: 1 of the 210 values of classifier.1.weight are not finite as float32"
    )


def test_a_file_that_does_not_fit_is_refused_before_its_arrays_are_read():
    given = arrays()
    weights = Weights.of("example.npz", given | {"extra": np.zeros(1)})
    unread = Weights(weights.source, weights.headers, lambda name: pytest.fail(f"read {name}"))
    with pytest.raises(SpecificationError, match="unexpected"):
        fit(unread, RECIPE, SHAPES, network="example")
