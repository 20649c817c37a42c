"""Every network of the zoo against PyTorch: random weights, the published names and format."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np
import pytest
import pytorch_networks as reference
from pytorch_networks import torch

from jaxrobust.network import Network
from jaxrobust.networks import zoo
from jaxrobust.networks.port import port
from jaxrobust.porting import fit, read_weights
from jaxrobust.porting.readers.caffe_schema import Network as CaffeNetwork

pytestmark = pytest.mark.slow

VGG = {
    11: "1M2M44M88M88M",
    13: "11M22M44M88M88M",
    16: "11M22M444M888M888M",
    19: "11M22M4444M8888M8888M",
}


def save_pytorch(path: Path, module: Any, *, old: bool) -> Path:
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=not old)
    return path


def save_caffe(path: Path, net: Any, *, old: bool) -> Path:
    """Writes a caffemodel: present layers and shapes, or V1 layers and four axes everywhere."""
    model = CaffeNetwork()
    for name, kernel in net.kernels.items():
        layer = (model.layers if old else model.layer).add(name=name.encode())
        for tensor in (kernel, net.biases[name]):
            blob = layer.blobs.add(data=[tensor.numpy().tobytes()])
            if old:
                sizes = (1,) * (4 - tensor.ndim) + tuple(tensor.shape)
                blob.num, blob.channels, blob.height, blob.width = sizes
            else:
                blob.shape.dim.extend(tensor.shape)
    path.write_bytes(model.SerializeToString())
    return path


def save_keras(path: Path, layers: Mapping[str, Mapping[str, np.ndarray]]) -> Path:
    """Writes what Keras 1 and 2 write: a group per layer, which lists its arrays."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        for name, arrays in layers.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [array.encode() for array in arrays]
            for array, values in arrays.items():
                group[array] = values
    return path


def random_images(network: Network, count: int = 2) -> np.ndarray:
    shape = (count, *network.preprocessing.shape)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def assert_agrees(network: Network, needed_of: Any) -> None:
    images = random_images(network)
    needed = reference.logits(needed_of, images)
    assert np.isfinite(needed).all() and np.abs(needed[0] - needed[1]).max() > 1e-2
    with jax.default_matmul_precision("highest"):
        found = jax.jit(network.apply)(network.params, images)
    np.testing.assert_allclose(found, needed, atol=1e-4 * np.abs(needed).max(), rtol=0)


def assert_ports(name: str, file: Path, needed_of: Any) -> None:
    port(name, file, file.parent / "ported")
    assert_agrees(zoo.load(file.parent / "ported"), needed_of)


def scaled(name: str, side: int, dense: int) -> tuple[Any, Any]:
    """A VGG of the zoo for small images and with narrow dense layers, and its recipe."""
    entry: Any = zoo.ZOO[name]
    blueprint = entry.blueprint
    changes = {"image_size": (side, side), "dense_width": dense}
    flattened = {"fc6": (512, side // 32, side // 32)} if entry.weights.recipe.flattened else {}
    return (
        replace(
            blueprint,
            configuration={**blueprint.configuration, **changes},
            preprocessing=replace(blueprint.preprocessing, size=(side, side)),
        ),
        replace(entry.weights.recipe, flattened=flattened),
    )


def assert_fits(name: str, file: Path, needed_of: Any, side: int, dense: int) -> None:
    blueprint, recipe = scaled(name, side, dense)
    params = fit(read_weights(file), recipe, blueprint.shapes(), network=name)
    assert_agrees(blueprint.network(params), needed_of)


def test_torchvisions_alexnet(tmp_path: Path) -> None:
    module = reference.alexnet()
    assert_ports("alexnet", save_pytorch(tmp_path / "w.pth", module, old=False), module)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("depth", VGG)
def test_torchvisions_vgg(tmp_path: Path, depth: int, batch_norm: bool) -> None:
    name = f"vgg{depth}_bn" if batch_norm else f"vgg{depth}"
    module = reference.vgg(VGG[depth], batch_norm, side=64, dense=32)
    file = save_pytorch(tmp_path / "w.pth", module, old=True)
    assert_fits(name, file, module, side=64, dense=32)


def test_torchvisions_vgg_at_full_size(tmp_path: Path) -> None:
    module = reference.vgg(VGG[16], False, side=224, dense=4096)
    assert_ports("vgg16", save_pytorch(tmp_path / "w.pth", module, old=True), module)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_torchvisions_squeezenet(tmp_path: Path, version: str) -> None:
    module = reference.squeezenet(version)
    file = save_pytorch(tmp_path / "w.pth", module, old=False)
    assert_ports(f"squeezenet{version.replace('.', '_')}", file, module)


@pytest.mark.parametrize(
    ("depth", "blocks", "kind"),
    [(18, (2, 2, 2, 2), "basic"), (34, (3, 4, 6, 3), "basic"), (50, (3, 4, 6, 3), "bottleneck")],
)
def test_torchvisions_resnet(
    tmp_path: Path, depth: int, blocks: tuple[int, ...], kind: str
) -> None:
    module = reference.resnet(blocks, kind)
    file = save_pytorch(tmp_path / "w.pth", module, old=False)
    assert_ports(f"resnet{depth}", file, module)


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_the_resnets_for_cifar(tmp_path: Path, depth: int) -> None:
    module = reference.resnet(((depth - 2) // 6,) * 3, "cifar")
    state = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    saved = {"state_dict": state, "best_prec1": 91.7}
    torch.save(saved, tmp_path / "w.th", _use_new_zipfile_serialization=False)
    assert_ports(f"resnet{depth}-cifar", tmp_path / "w.th", module)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("alexnet-caffe", lambda: reference.alexnet_2012(norm_first=True)),
        ("squeezenet-1.0-caffe", lambda: reference.squeezenet_caffe("1.0")),
        ("squeezenet-1.1-caffe", lambda: reference.squeezenet_caffe("1.1")),
        ("googlenet-caffe", reference.googlenet_caffe),
        ("lenet5-caffe", reference.lenet5_caffe),
    ],
)
def test_caffes_networks(tmp_path: Path, name: str, make: Any, old: bool) -> None:
    net = make()
    assert_ports(name, save_caffe(tmp_path / "w.caffemodel", net, old=old), net)


def test_the_studys_alexnet(tmp_path: Path) -> None:
    net = reference.alexnet_2012(norm_first=False)
    layers = {}
    for name, kernel in net.kernels.items():
        groups = 2 if name in ("conv2", "conv4", "conv5") else 1
        for group in range(groups):
            half, bias = (
                x.numpy().reshape(groups, -1, *x.shape[1:])[group]
                for x in (kernel, net.biases[name])
            )
            layer = f"conv_{name[4]}" if name[0] == "c" else f"dense_{int(name[2]) - 5}"
            layer += f"_{group + 1}" if groups > 1 else ""
            # Theano's convolution turns the kernel around; its dense kernels are inputs first.
            kernel_there = half[:, :, ::-1, ::-1] if half.ndim == 4 else half.T
            layers[layer] = {f"{layer}_W": kernel_there, f"{layer}_b": bias}
    layers["convpool_1"] = {}
    assert_ports("alexnet-cheney2017", save_keras(tmp_path / "w.h5", layers), net)


@pytest.mark.parametrize("depth", [16, 19])
def test_kerass_vgg(tmp_path: Path, depth: int) -> None:
    module = reference.vgg(VGG[depth], False, side=64, dense=32)
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    layers, block, number = {}, 1, 1
    for index, operation in enumerate(module.features):
        if isinstance(operation, torch.nn.MaxPool2d):
            block, number = block + 1, 1
        elif isinstance(operation, torch.nn.Conv2d):
            layer = f"block{block}_conv{number}"
            layers[layer] = {
                f"{layer}_W_1:0": state[f"features.{index}.weight"].transpose(2, 3, 1, 0),
                f"{layer}_b_1:0": state[f"features.{index}.bias"],
            }
            number += 1
    for layer, index in (("fc1", 0), ("fc2", 3), ("predictions", 6)):
        kernel = state[f"classifier.{index}.weight"]
        if layer == "fc1":  # TensorFlow flattens height, width, channels
            kernel = kernel.reshape(-1, 512, 2, 2).transpose(0, 2, 3, 1).reshape(len(kernel), -1)
        layers[layer] = {
            f"{layer}_W_1:0": kernel.T,
            f"{layer}_b_1:0": state[f"classifier.{index}.bias"],
        }
    file = save_keras(tmp_path / "w.h5", layers)
    assert_fits(f"vgg{depth}-keras", file, module, side=64, dense=32)
