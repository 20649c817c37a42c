"""Recipes: names, groups, orders of axes, and what is ignored."""

import numpy as np
import pytest

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.porting import Recipe, Weights, fit
from jaxrobust.porting.recipes import keras_vgg, pytorch, torchvision_squeezenet, torchvision_vgg


def test_the_layers_of_a_vgg_are_counted_as_torchvision_counts_its_operations():
    plain = torchvision_vgg((2, 2, 3, 3, 3), batch_normalised=False)
    assert plain.sources("conv1_1/kernel") == ("features.0.weight",)
    assert plain.sources("conv2_1/bias") == ("features.5.bias",)
    assert plain.sources("conv5_3/kernel") == ("features.28.weight",)
    normalised = torchvision_vgg((2, 2, 3, 3, 3), batch_normalised=True)
    assert normalised.sources("conv5_3/kernel") == ("features.40.weight",)
    assert normalised.sources("bn5_3/scale") == ("features.41.weight",)
    assert normalised.sources("bn5_3/var") == ("features.41.running_var",)


def test_names_of_other_families():
    squeezenet = torchvision_squeezenet((3, 4, 6, 7, 9, 10, 11, 12))
    assert squeezenet.sources("fire9/squeeze1x1/kernel") == ("features.12.squeeze.weight",)
    assert keras_vgg((1, 1, 2, 2, 2)).sources("conv5_2/bias") == ("block5_conv2/bias",)
    assert pytorch().sources("layer1.0.bn1/mean") == ("layer1.0.bn1.running_mean",)


def test_ignored_arrays_may_be_there_or_not():
    shapes = {"bn1/scale": (3,), "bn1/mean": (3,)}
    arrays = {"bn1.weight": np.ones(3), "bn1.running_mean": np.zeros(3)}
    for more in ({}, {"bn1.num_batches_tracked": np.array(7)}):
        params = fit(Weights.of("file", arrays | more), pytorch(), shapes, network="net")
        assert params["bn1"]["scale"].tolist() == [1, 1, 1]
    with pytest.raises(SpecificationError, match="unexpected .1.: bn1.running_men$"):
        fit(
            Weights.of("f", arrays | {"bn1.running_men": np.ones(3)}), pytorch(), shapes, network=""
        )


def test_groups_are_joined_turned_round_and_reordered():
    recipe = Recipe(
        "{layer}/{leaf}",
        {"kernel": "W", "bias": "b"},
        layers={"conv": ("conv_1", "conv_2")},
        flattened={"fc": (4, 2, 3)},
        dense="IO",
        flipped=True,
    )
    shapes = {"conv/kernel": (3, 2, 5, 8), "conv/bias": (8,), "fc/kernel": (24, 6)}
    assert recipe.source_shape("conv/kernel", shapes["conv/kernel"]) == (4, 5, 3, 2)
    rng = np.random.default_rng(0)
    names = {"conv_1/W": (4, 5, 3, 2), "conv_2/W": (4, 5, 3, 2), "conv_1/b": 4, "conv_2/b": 4}
    arrays = {n: rng.standard_normal(s, np.float32) for n, s in (names | {"fc/W": (24, 6)}).items()}
    params = fit(Weights.of("file", arrays), recipe, shapes, network="net")
    for y, x, i, o in np.ndindex(3, 2, 5, 8):
        given = arrays["conv_1/W" if o < 4 else "conv_2/W"][o % 4, i, 2 - y, 1 - x]
        assert params["conv"]["kernel"][y, x, i, o] == given
    both = np.concatenate([arrays["conv_1/b"], arrays["conv_2/b"]])
    np.testing.assert_array_equal(params["conv"]["bias"], both)
    for c, y, x in np.ndindex(4, 2, 3):
        ours = params["fc"]["kernel"][(y * 3 + x) * 4 + c]
        np.testing.assert_array_equal(ours, arrays["fc/W"][(c * 2 + y) * 3 + x])
