"""The definitions against forward passes spelled out in NumPy, and what they promise in words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrobust.network import Network
from jaxrobust.networks.definitions.alexnet import AlexNet
from jaxrobust.networks.definitions.googlenet import GoogLeNet
from jaxrobust.networks.definitions.resnet import CifarResNet, ResNet
from jaxrobust.networks.definitions.squeezenet import SqueezeNet
from jaxrobust.networks.definitions.vgg import VGG
from jaxrobust.preprocessing import Preprocessing

SMALL_ALEXNET = {
    "classes": 7,
    "image_size": (64, 56),
    "conv1_kernel": 5,
    "conv1_stride": 2,
    "conv1_padding": 2,
    "widths": (6, 8, 10, 9, 5),
    "dense_width": 12,
}


def small_alexnet(**changes):
    return nnx.eval_shape(lambda: AlexNet(**SMALL_ALEXNET, **changes, rngs=nnx.Rngs(0)))


def small_squeezenet():
    return nnx.eval_shape(lambda: SqueezeNet(classes=7, rngs=nnx.Rngs(0)))


def with_random_params(module):
    """Fills in kernels and biases, both at random, so that a forgotten bias shows."""
    rng = np.random.default_rng(0)
    state = nnx.state(module)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, (2 / max(1, np.prod(leaf.shape[:-1]))) ** 0.5, leaf.shape),
        nnx.to_pure_dict(state),
    )
    values = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    nnx.replace_by_pure_dict(state, values)
    nnx.update(module, state)
    return params


@nnx.jit
def run(module, images, rngs):
    return module(images, rngs=rngs)


def forward(module, images, rngs=None):
    return run(module, jnp.asarray(images, jnp.float32), rngs)


def relu(x):
    return np.maximum(x, 0)


def conv(x, layer, stride=1, padding=0):
    kernel, bias = layer["kernel"], layer["bias"]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = range(0, x.shape[1] - kernel.shape[0] + 1, stride)
    columns = range(0, x.shape[2] - kernel.shape[1] + 1, stride)
    out = np.empty((len(x), len(rows), len(columns), len(bias)))
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            seen = x[:, top : top + kernel.shape[0], left : left + kernel.shape[1]]
            out[:, i, j] = np.tensordot(seen, kernel, 3) + bias
    return out


def pool(x, ceil):
    """3×3 windows with a step of 2; with `ceil`, a last one that may be partial."""
    tops, lefts = (
        [start for start in range(0, size - 1, 2) if ceil or start + 3 <= size]
        for size in x.shape[1:3]
    )
    out = [[x[:, top : top + 3, left : left + 3].max((1, 2)) for left in lefts] for top in tops]
    return np.array(out).transpose(2, 0, 1, 3)


def test_alexnet_is_the_forward_pass_in_numpy():
    module = small_alexnet()
    params = with_random_params(module)
    images = np.random.default_rng(1).standard_normal((3, 64, 56, 3))

    x = pool(relu(conv(images, params["conv1"], stride=2, padding=2)), ceil=False)
    x = pool(relu(conv(x, params["conv2"], padding=2)), ceil=False)
    x = relu(conv(x, params["conv3"], padding=1))
    x = relu(conv(x, params["conv4"], padding=1))
    x = pool(relu(conv(x, params["conv5"], padding=1)), ceil=False)
    assert x.shape == (3, 3, 2, 5)
    x = np.stack([image.ravel() for image in x])
    for name in ("fc6", "fc7", "fc8"):
        x = (x if name == "fc6" else relu(x)) @ params[name]["kernel"] + params[name]["bias"]

    module.eval()
    np.testing.assert_allclose(forward(module, images), x, rtol=1e-4, atol=1e-5)


def test_squeezenet_is_the_forward_pass_in_numpy():
    module = small_squeezenet()
    params = with_random_params(module)
    images = np.random.default_rng(1).standard_normal((2, 37, 29, 3))

    def fire(x, name):
        layers = params[name]
        x = relu(conv(x, layers["squeeze1x1"]))
        small, large = conv(x, layers["expand1x1"]), conv(x, layers["expand3x3"], padding=1)
        return relu(np.concatenate([small, large], axis=3))

    x = pool(relu(conv(images, params["conv1"], stride=2)), ceil=True)
    assert x.shape == (2, 9, 7, 64)
    x = pool(fire(fire(x, "fire2"), "fire3"), ceil=True)
    x = pool(fire(fire(x, "fire4"), "fire5"), ceil=True)
    for name in ("fire6", "fire7", "fire8", "fire9"):
        x = fire(x, name)
    x = relu(conv(x, params["conv10"])).mean((1, 2))
    assert (x > 0).any()

    module.eval()
    np.testing.assert_allclose(forward(module, images), x, rtol=1e-4, atol=1e-5)


def network_of(module, size):
    with_random_params(module)
    return Network.from_nnx(module, name="small", preprocessing=Preprocessing(size))


def test_layers_are_named_as_in_the_papers():
    alexnet = network_of(small_alexnet(), (64, 56))
    assert list(alexnet.layers) == [*(f"conv{i}" for i in range(1, 6)), "fc6", "fc7", "fc8"]
    squeezenet = network_of(small_squeezenet(), (32, 32))
    parts = ("squeeze1x1", "expand1x1", "expand3x3")
    fires = [f"fire{i}/{part}" for i in range(2, 10) for part in parts]
    assert list(squeezenet.layers) == ["conv1", *fires, "conv10"]
    assert [leaf.path for leaf in squeezenet.layers["fire4/expand1x1"].leaves] == [
        "fire4/expand1x1/kernel",
        "fire4/expand1x1/bias",
    ]
    kernels = [layer.kernel for layer in squeezenet.layers.values()]
    assert all(kernel is not None and kernel.output_axes == (3,) for kernel in kernels)


def small_vgg(**changes):
    options = {
        "convolutions": (1, 1, 2, 1, 1),
        "widths": (4, 5, 6, 5, 7),
        "image_size": (64, 56),
        "dense_width": 9,
        "classes": 7,
    }
    return nnx.eval_shape(lambda: VGG(**options, **changes, rngs=nnx.Rngs(0)))


def test_vgg_has_the_names_of_the_paper():
    names = ["conv1_1", "conv2_1", "conv3_1", "conv3_2", "conv4_1", "conv5_1"]
    network = network_of(small_vgg(), (64, 56))
    assert list(network.layers) == [*names, "fc6", "fc7", "fc8"]
    normalised = network_of(small_vgg(batch_normalised=True), (64, 56))
    pairs = [name for conv in names for name in (conv, conv.replace("conv", "bn"))]
    assert list(normalised.layers) == [*pairs, "fc6", "fc7", "fc8"]
    statistics = {f"bn3_2/{leaf}" for leaf in ("mean", "var")}
    assert statistics <= set(normalised.frozen) and len(normalised.frozen) == 12


def test_resnets_have_pytorchs_names():
    module = nnx.eval_shape(
        lambda: ResNet(blocks=(1, 1, 1, 1), widths=(2, 3, 4, 5), bottleneck=True, rngs=nnx.Rngs(0))
    )
    layers = list(network_of(module, (64, 64)).layers)
    first = ["conv1", "bn1", *(f"layer1.0.{kind}{i}" for i in (1, 2, 3) for kind in ("conv", "bn"))]
    assert {*first, "layer4.0.downsample.0", "layer4.0.downsample.1", "fc"} <= set(layers)
    assert layers[:2] == ["conv1", "bn1"] and layers[-1] == "fc" and len(layers) == 35
    module = nnx.eval_shape(lambda: CifarResNet(blocks=(1, 1, 1), rngs=nnx.Rngs(0)))
    blocks = [f"layer{i}.0.{part}" for i in (1, 2, 3) for part in ("conv1", "bn1", "conv2", "bn2")]
    assert list(network_of(module, (32, 32)).layers) == ["conv1", "bn1", *blocks, "linear"]


def test_googlenet_has_caffes_names():
    module = nnx.eval_shape(lambda: GoogLeNet(classes=7, rngs=nnx.Rngs(0)))
    layers = list(network_of(module, (64, 64)).layers)
    assert layers[:3] == ["conv1/7x7_s2", "conv2/3x3_reduce", "conv2/3x3"]
    parts = ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj")
    modules = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
    names = {f"inception_{name}/{part}" for name in modules for part in parts}
    assert set(layers[3:-1]) == names and layers[-1] == "loss3/classifier"


def test_the_alexnet_of_2012_has_two_groups_and_normalises():
    options = SMALL_ALEXNET | {"groups": 2, "widths": (6, 8, 10, 8, 6)}
    images = 20 * np.random.default_rng(1).standard_normal((2, 64, 56, 3))
    found = []
    for place in ("none", "before pooling", "after pooling"):
        options |= {"response_norm": place, "norm_alpha": 1e-3}
        module = nnx.eval_shape(lambda options=options: AlexNet(**options, rngs=nnx.Rngs(0)))
        with_random_params(module)
        shapes = [getattr(module, f"conv{i}").kernel.shape for i in range(1, 6)]
        assert [shape[2] for shape in shapes] == [3, 3, 8, 5, 4]
        module.eval()
        found.append(np.asarray(forward(module, images)))
    assert not any(np.allclose(found[i], found[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    with pytest.raises(ValueError, match="response_norm='somewhere'; possible: none, before"):
        AlexNet(response_norm="somewhere", rngs=nnx.Rngs(0))  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [small_alexnet, small_squeezenet, small_vgg])
def test_dropout_acts_in_training_mode_only(make):
    module = make()
    with_random_params(module)
    images = np.random.default_rng(0).standard_normal((4, 64, 56, 3))
    module.train()
    first, second = (forward(module, images, nnx.Rngs(dropout=seed)) for seed in (0, 1))
    assert not np.allclose(first, second)
    module.eval()
    first, second = (forward(module, images, nnx.Rngs(dropout=seed)) for seed in (0, 1))
    np.testing.assert_array_equal(first, second)


def test_alexnet_drops_inputs_of_fc6_and_fc7_and_never_of_fc8():
    module = small_alexnet(dropout=1.0)
    params = with_random_params(module)
    module.train()
    found = forward(module, np.ones((1, 64, 56, 3)), nnx.Rngs(0))
    hidden = relu(params["fc7"]["bias"])
    needed = hidden @ params["fc8"]["kernel"] + params["fc8"]["bias"]
    np.testing.assert_allclose(found[0], needed, rtol=1e-5, atol=1e-6)


def test_squeezenet_drops_the_input_of_conv10():
    module = nnx.eval_shape(lambda: SqueezeNet(classes=7, dropout=1.0, rngs=nnx.Rngs(0)))
    params = with_random_params(module)
    module.train()
    found = forward(module, np.ones((1, 33, 33, 3)), nnx.Rngs(0))
    np.testing.assert_allclose(found[0], relu(params["conv10"]["bias"]), rtol=1e-5)


def test_alexnet_refuses_what_it_cannot_be():
    with pytest.raises(ValueError, match="five convolutions, but 2 widths"):
        AlexNet(widths=(1, 2), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="32×64 pixels are too small"):
        AlexNet(image_size=(32, 64), rngs=nnx.Rngs(0))
