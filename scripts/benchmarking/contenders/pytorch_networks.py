"""The networks of the benchmark in PyTorch, with the weights of their twins in JAX."""

# Only this contender needs PyTorch; where it is missing there is nothing to check it against.
# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

Weights = Mapping[str, np.ndarray]


def _convolution(weights: Weights, name: str, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    height, width, inputs, outputs = weights[f"{name}/kernel"].shape
    return nn.Conv2d(inputs, outputs, (height, width), stride, padding)


def _dense(weights: Weights, name: str) -> nn.Linear:
    return nn.Linear(*weights[f"{name}/kernel"].shape)


def _relu(x: Any) -> Any:
    return F.relu(x, inplace=True)


class AlexNet(nn.Module):
    def __init__(self, weights: Weights, stride: int, padding: int):
        super().__init__()
        self.conv1 = _convolution(weights, "conv1", stride, padding)
        self.conv2 = _convolution(weights, "conv2", padding=2)
        self.conv3 = _convolution(weights, "conv3", padding=1)
        self.conv4 = _convolution(weights, "conv4", padding=1)
        self.conv5 = _convolution(weights, "conv5", padding=1)
        self.fc6, self.fc7, self.fc8 = (_dense(weights, name) for name in ("fc6", "fc7", "fc8"))

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(_relu(self.conv1(x)), 3, 2)
        x = F.max_pool2d(_relu(self.conv2(x)), 3, 2)
        x = _relu(self.conv4(_relu(self.conv3(x))))
        x = F.max_pool2d(_relu(self.conv5(x)), 3, 2).flatten(1)
        return self.fc8(_relu(self.fc7(_relu(self.fc6(x)))))


class VGG(nn.Module):
    def __init__(self, weights: Weights):
        super().__init__()
        names = [path.split("/")[0] for path in weights if path.endswith("kernel")]
        self.blocks = [
            [name for name in names if name.startswith(f"conv{block}_")] for block in range(1, 6)
        ]
        for name in sum(self.blocks, []):
            self.add_module(name, _convolution(weights, name, padding=1))
        self.fc6, self.fc7, self.fc8 = (_dense(weights, name) for name in ("fc6", "fc7", "fc8"))

    def forward(self, x: Any) -> Any:
        for block in self.blocks:
            for name in block:
                x = _relu(self.get_submodule(name)(x))
            x = F.max_pool2d(x, 2, 2)
        return self.fc8(_relu(self.fc7(_relu(self.fc6(x.flatten(1))))))


class Fire(nn.Module):
    def __init__(self, weights: Weights, name: str):
        super().__init__()
        self.squeeze1x1 = _convolution(weights, f"{name}/squeeze1x1")
        self.expand1x1 = _convolution(weights, f"{name}/expand1x1")
        self.expand3x3 = _convolution(weights, f"{name}/expand3x3", padding=1)

    def forward(self, x: Any) -> Any:
        x = _relu(self.squeeze1x1(x))
        return torch.cat([_relu(self.expand1x1(x)), _relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1."""

    def __init__(self, weights: Weights):
        super().__init__()
        self.conv1 = _convolution(weights, "conv1", stride=2)
        for number in range(2, 10):
            self.add_module(f"fire{number}", Fire(weights, f"fire{number}"))
        self.conv10 = _convolution(weights, "conv10")

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(_relu(self.conv1(x)), 3, 2, ceil_mode=True)
        for number in range(2, 10):
            x = self.get_submodule(f"fire{number}")(x)
            if number in (3, 5):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        return _relu(self.conv10(x)).mean((2, 3))


def build(name: str, weights: Weights) -> nn.Module:
    """The network of that name in the zoo.

    Args:
        name: `alexnet`, `alexnet-glyphs`, `vgg16` or `squeezenet1_1`.
        weights: path -> array: convolution kernels HWIO, dense ones [inputs, outputs].

    Returns:
        A module whose layers carry the names of the layers in JAX, with dots for slashes.
    """
    if name.startswith("alexnet"):
        stride, padding = (4, 2) if name == "alexnet" else (2, 2)
        module, last = AlexNet(weights, stride, padding), "conv5"
    elif name == "vgg16":
        module, last = VGG(weights), "conv5_3"
    else:
        module, last = SqueezeNet(weights), "conv10"
    channels = len(weights[f"{last}/bias"])
    state = {}
    for path, array in weights.items():
        layer, leaf = path.replace("/", ".").rsplit(".", 1)
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        elif layer == "fc6" and leaf == "kernel":  # flattened with its channels first, not last
            array = array.reshape(-1, channels, array.shape[1]).transpose(2, 1, 0)
            array = array.reshape(len(array), -1)
        elif array.ndim == 2:
            array = array.T
        kind = "weight" if leaf == "kernel" else leaf
        state[f"{layer}.{kind}"] = torch.from_numpy(np.ascontiguousarray(array))
    module.load_state_dict(state)
    return module.eval()
