"""The networks of the benchmark in PyTorch, as steps, with the weights of their twins in JAX."""

# Only this contender needs PyTorch; where it is missing there is nothing to check it against.
# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

Weights = Mapping[str, np.ndarray]
Step = Callable[[Any], Any]


def _convolution(weights: Weights, name: str, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    height, width, inputs, outputs = weights[f"{name}/kernel"].shape
    return nn.Conv2d(inputs, outputs, (height, width), stride, padding)


def _dense(weights: Weights, name: str) -> nn.Linear:
    return nn.Linear(*weights[f"{name}/kernel"].shape)


def _relu(x: Any) -> Any:
    return F.relu(x, inplace=True)


class Steps(nn.Module):
    """A network as a chain of steps, each of which uses one layer.

    Attributes:
        steps: (the layer's name, function from what the step before gave to what this one gives).
            None changes what it is given, so that a loop can keep it.
    """

    steps: list[tuple[str, Step]]

    def forward(self, x: Any) -> Any:
        for _, step in self.steps:
            x = step(x)
        return x


def _activated(layer: nn.Module, then: Step | None = None, first: Step | None = None) -> Step:
    """The layer and a ReLU, with what comes before and behind them."""

    def step(x: Any) -> Any:
        x = _relu(layer(first(x) if first else x))
        return then(x) if then else x

    return step


def _pool(size: int, ceil: bool = False) -> Step:
    return partial(F.max_pool2d, kernel_size=size, stride=2, ceil_mode=ceil)


def _flat(x: Any) -> Any:
    return x.flatten(1)


class AlexNet(Steps):
    def __init__(self, weights: Weights, stride: int, padding: int):
        super().__init__()
        self.conv1 = _convolution(weights, "conv1", stride, padding)
        self.conv2 = _convolution(weights, "conv2", padding=2)
        self.conv3 = _convolution(weights, "conv3", padding=1)
        self.conv4 = _convolution(weights, "conv4", padding=1)
        self.conv5 = _convolution(weights, "conv5", padding=1)
        self.fc6, self.fc7, self.fc8 = (_dense(weights, name) for name in ("fc6", "fc7", "fc8"))
        self.steps = [
            ("conv1", _activated(self.conv1, then=_pool(3))),
            ("conv2", _activated(self.conv2, then=_pool(3))),
            ("conv3", _activated(self.conv3)),
            ("conv4", _activated(self.conv4)),
            ("conv5", _activated(self.conv5, then=_pool(3))),
            ("fc6", _activated(self.fc6, first=_flat)),
            ("fc7", _activated(self.fc7)),
            ("fc8", self.fc8),
        ]


class VGG(Steps):
    def __init__(self, weights: Weights):
        super().__init__()
        self.steps = []
        names = [path.split("/")[0] for path in weights if path.endswith("kernel")]
        for block in range(1, 6):
            inside = [name for name in names if name.startswith(f"conv{block}_")]
            for name in inside:
                layer = _convolution(weights, name, padding=1)
                self.add_module(name, layer)
                then = _pool(2) if name == inside[-1] else None
                self.steps.append((name, _activated(layer, then)))
        self.fc6, self.fc7, self.fc8 = (_dense(weights, name) for name in ("fc6", "fc7", "fc8"))
        self.steps += [
            ("fc6", _activated(self.fc6, first=_flat)),
            ("fc7", _activated(self.fc7)),
            ("fc8", self.fc8),
        ]


class Fire(nn.Module):
    """Two convolutions of the same input, side by side, which a third one squeezes before.

    As steps the larger one comes first: damage in the smaller one does not reach it, and damage in
    the larger one costs only a run of the smaller one too many.
    """

    def __init__(self, weights: Weights, name: str):
        super().__init__()
        self.squeeze1x1 = _convolution(weights, f"{name}/squeeze1x1")
        self.expand1x1 = _convolution(weights, f"{name}/expand1x1")
        self.expand3x3 = _convolution(weights, f"{name}/expand3x3", padding=1)

    def steps(self, name: str, then: Step | None) -> list[tuple[str, Step]]:
        def large(squeezed: Any) -> Any:
            return squeezed, _relu(self.expand3x3(squeezed))

        def small(given: Any) -> Any:
            squeezed, expanded = given
            x = torch.cat([_relu(self.expand1x1(squeezed)), expanded], 1)
            return then(x) if then else x

        return [
            (f"{name}/squeeze1x1", _activated(self.squeeze1x1)),
            (f"{name}/expand3x3", large),
            (f"{name}/expand1x1", small),
        ]


class SqueezeNet(Steps):
    """SqueezeNet 1.1."""

    def __init__(self, weights: Weights):
        super().__init__()
        pool = _pool(3, ceil=True)
        self.conv1 = _convolution(weights, "conv1", stride=2)
        self.steps = [("conv1", _activated(self.conv1, then=pool))]
        for number in range(2, 10):
            name = f"fire{number}"
            fire = Fire(weights, name)
            self.add_module(name, fire)
            self.steps += fire.steps(name, pool if number in (3, 5) else None)
        self.conv10 = _convolution(weights, "conv10")
        self.steps.append(("conv10", _activated(self.conv10, then=lambda x: x.mean((2, 3)))))


def build(name: str, weights: Weights) -> Steps:
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
