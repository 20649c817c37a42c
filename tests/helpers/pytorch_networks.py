"""The zoo's networks in PyTorch, written from their published definitions, with random weights.

A reference has a `state_dict` under the published names and is called with images in NCHW order.
Importing this module skips the test module that imports it where PyTorch isn't installed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional


def randomised(module: Any) -> Any:
    """Random weights and statistics that keep the size of activations about the same."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        elif name.endswith("weight"):
            tensor.uniform_(0.7, 1.2, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.1, generator=generator)
    return module.eval()


def logits(reference: Any, images: np.ndarray) -> np.ndarray:
    """The reference's answers to images in NHWC order."""
    with torch.inference_mode():
        return reference(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()).numpy()


class Layers(nn.Module):
    """Features, a classifier, and what flattens the one for the other."""

    def __init__(self, features: Sequence[Any], classifier: Sequence[Any], flatten: bool = True):
        super().__init__()
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(*classifier)
        self.flatten = flatten

    def forward(self, x: Any) -> Any:
        x = self.features(x)
        return self.classifier(x.flatten(1) if self.flatten else x)


def alexnet() -> Any:
    pool = nn.MaxPool2d(3, 2)
    features = [
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), pool),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), pool),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), pool),
    ]
    classifier = [
        *(nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU()),
        *(nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()),
        nn.Linear(4096, 1000),
    ]
    return randomised(Layers(features, classifier))


def vgg(plan: str, batch_norm: bool, side: int, dense: int) -> Any:
    """`plan`: one character per operation, widths in units of 64, `M` for a pooling."""
    features, inputs = [], 3
    for symbol in plan:
        if symbol == "M":
            features.append(nn.MaxPool2d(2, 2))
        else:
            outputs = 64 * int(symbol)
            features.append(nn.Conv2d(inputs, outputs, 3, padding=1))
            features += [nn.BatchNorm2d(outputs)] * batch_norm + [nn.ReLU()]
            inputs = outputs
    classifier = [
        *(nn.Linear(inputs * (side // 32) ** 2, dense), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(dense, dense), nn.ReLU(), nn.Dropout()),
        nn.Linear(dense, 1000),
    ]
    return randomised(Layers(features, classifier))


class Fire(nn.Module):
    def __init__(self, inputs: int, squeezed: int, expanded: int):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


def squeezenet(version: str) -> Any:
    pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    second, third, fourth = Fire(128, 16, 64), Fire(128, 32, 128), Fire(256, 32, 128)
    fifth, sixth = Fire(256, 48, 192), Fire(384, 48, 192)
    seventh, eighth = Fire(384, 64, 256), Fire(512, 64, 256)
    if version == "1.0":
        start = [nn.Conv2d(3, 96, 7, 2), nn.ReLU(), pool, Fire(96, 16, 64)]
        fires = [second, third, pool, fourth, fifth, sixth, seventh, pool, eighth]
    else:
        start = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool, Fire(64, 16, 64)]
        fires = [second, pool, third, fourth, pool, fifth, sixth, seventh, eighth]
    average = nn.AdaptiveAvgPool2d(1)
    classifier = [nn.Dropout(), nn.Conv2d(512, 1000, 1), nn.ReLU(), average, nn.Flatten()]
    return randomised(Layers(start + fires, classifier, flatten=False))


class Block(nn.Module):
    """A residual block: basic or bottleneck, of torchvision or (option A) for CIFAR."""

    def __init__(self, inputs: int, width: int, stride: int, kind: str):
        super().__init__()
        outputs = 4 * width if kind == "bottleneck" else width
        self.kind, self.depth = kind, 3 if kind == "bottleneck" else 2
        if kind == "bottleneck":
            self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
            self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(outputs)
        else:
            self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.changes = stride != 1 or inputs != outputs
        if self.changes and kind != "cifar":
            project = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(project, nn.BatchNorm2d(outputs))

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.depth == 3:
            y = self.bn3(self.conv3(F.relu(y)))
        if self.changes and self.kind == "cifar":
            quarter = y.shape[1] // 4
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
        elif self.changes:
            x = self.downsample(x)
        return F.relu(x + y)


class ResNet(nn.Module):
    def __init__(self, blocks: Sequence[int], kind: str):
        super().__init__()
        self.kind = kind
        inputs = 16 if kind == "cifar" else 64
        kernel, stride = (3, 1) if kind == "cifar" else (7, 2)
        self.conv1 = nn.Conv2d(3, inputs, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        width = inputs
        for stage, count in enumerate(blocks, 1):
            made = []
            for number in range(count):
                made.append(Block(inputs, width, 2 if stage > 1 and number == 0 else 1, kind))
                inputs = 4 * width if kind == "bottleneck" else width
            setattr(self, f"layer{stage}", nn.Sequential(*made))
            width *= 2
        if kind == "cifar":
            self.linear = nn.Linear(inputs, 10)
        else:
            self.fc = nn.Linear(inputs, 1000)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.bn1(self.conv1(x)))
        if self.kind == "cifar":
            x = self.layer3(self.layer2(self.layer1(x))).mean((2, 3))
            return self.linear(x)
        x = F.max_pool2d(x, 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))
        return self.fc(x)


def resnet(blocks: Sequence[int], kind: str) -> Any:
    return randomised(ResNet(blocks, kind))


class Named:
    """A function of named tensors: for the networks that were not published in PyTorch.

    Args:
        shapes: Name of a layer -> shape of its kernel (outputs first).
        forward: Called with the network and images; it uses `conv` and `dense`.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], forward: Any):
        generator = torch.Generator().manual_seed(0)
        self.forward = forward
        self.kernels, self.biases = {}, {}
        for name, shape in shapes.items():
            spread = (2 / np.prod(shape[1:])) ** 0.5
            self.kernels[name] = spread * torch.randn(shape, generator=generator)
            self.biases[name] = 0.1 * torch.randn(shape[0], generator=generator)

    def __call__(self, x: Any) -> Any:
        return self.forward(self, x)

    def conv(self, x: Any, name: str, **options: Any) -> Any:
        return F.conv2d(x, self.kernels[name], self.biases[name], **options)

    def dense(self, x: Any, name: str) -> Any:
        return F.linear(x.flatten(1), self.kernels[name], self.biases[name])


_ALEXNET_2012 = {
    "conv1": (96, 3, 11, 11),
    "conv2": (256, 48, 5, 5),
    "conv3": (384, 256, 3, 3),
    "conv4": (384, 192, 3, 3),
    "conv5": (256, 192, 3, 3),
    "fc6": (4096, 9216),
    "fc7": (4096, 4096),
    "fc8": (1000, 4096),
}


def alexnet_2012(norm_first: bool) -> Named:
    """Caffe's network, or the one of convnets-keras; PyTorch divides alpha by the size, 5."""

    def pooled(x: Any) -> Any:
        if norm_first:
            return F.max_pool2d(F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1), 3, 2)
        return F.local_response_norm(F.max_pool2d(x, 3, 2), 5, alpha=5e-4, beta=0.75, k=2)

    def forward(net: Named, x: Any) -> Any:
        x = pooled(F.relu(net.conv(x, "conv1", stride=4)))
        x = pooled(F.relu(net.conv(x, "conv2", padding=2, groups=2)))
        x = F.relu(net.conv(x, "conv3", padding=1))
        x = F.relu(net.conv(x, "conv4", padding=1, groups=2))
        x = F.max_pool2d(F.relu(net.conv(x, "conv5", padding=1, groups=2)), 3, 2)
        return net.dense(F.relu(net.dense(F.relu(net.dense(x, "fc6")), "fc7")), "fc8")

    return Named(_ALEXNET_2012, forward)


def squeezenet_caffe(version: str) -> Named:
    outputs, kernel, pools = (96, 7, (4, 8)) if version == "1.0" else (64, 3, (3, 5))
    shapes: dict[str, tuple[int, ...]] = {"conv1": (outputs, 3, kernel, kernel)}
    inputs = outputs
    for number in range(2, 10):
        squeezed = 16 * (number // 2)
        shapes[f"fire{number}/squeeze1x1"] = (squeezed, inputs, 1, 1)
        shapes[f"fire{number}/expand1x1"] = (4 * squeezed, squeezed, 1, 1)
        shapes[f"fire{number}/expand3x3"] = (4 * squeezed, squeezed, 3, 3)
        inputs = 8 * squeezed
    shapes["conv10"] = (1000, inputs, 1, 1)

    def forward(net: Named, x: Any) -> Any:
        x = F.max_pool2d(F.relu(net.conv(x, "conv1", stride=2)), 3, 2, ceil_mode=True)
        for number in range(2, 10):
            x = F.relu(net.conv(x, f"fire{number}/squeeze1x1"))
            small = net.conv(x, f"fire{number}/expand1x1")
            x = F.relu(torch.cat([small, net.conv(x, f"fire{number}/expand3x3", padding=1)], 1))
            if number in pools:
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        padding = 1 if version == "1.0" else 0
        return F.relu(net.conv(x, "conv10", padding=padding)).mean((2, 3))

    return Named(shapes, forward)


def googlenet_caffe() -> Named:
    shapes: dict[str, tuple[int, ...]] = {
        "conv1/7x7_s2": (64, 3, 7, 7),
        "conv2/3x3_reduce": (64, 64, 1, 1),
        "conv2/3x3": (192, 64, 3, 3),
        # The heads for training: in the published file, and of no use here.
        "loss1/conv": (128, 512, 1, 1),
        "loss2/classifier": (1000, 1024),
    }
    inputs = 192
    for name, a, b, c, d, e, f in (
        ("3a", 64, 96, 128, 16, 32, 32),
        ("3b", 128, 128, 192, 32, 96, 64),
        ("4a", 192, 96, 208, 16, 48, 64),
        ("4b", 160, 112, 224, 24, 64, 64),
        ("4c", 128, 128, 256, 24, 64, 64),
        ("4d", 112, 144, 288, 32, 64, 64),
        ("4e", 256, 160, 320, 32, 128, 128),
        ("5a", 256, 160, 320, 32, 128, 128),
        ("5b", 384, 192, 384, 48, 128, 128),
    ):
        shapes |= {
            f"inception_{name}/1x1": (a, inputs, 1, 1),
            f"inception_{name}/3x3_reduce": (b, inputs, 1, 1),
            f"inception_{name}/3x3": (c, b, 3, 3),
            f"inception_{name}/5x5_reduce": (d, inputs, 1, 1),
            f"inception_{name}/5x5": (e, d, 5, 5),
            f"inception_{name}/pool_proj": (f, inputs, 1, 1),
        }
        inputs = a + c + e + f
    shapes["loss3/classifier"] = (1000, inputs)

    def inception(net: Named, x: Any, name: str) -> Any:
        def relu(x: Any, part: str, padding: int = 0) -> Any:
            return F.relu(net.conv(x, f"inception_{name}/{part}", padding=padding))

        branches = [
            relu(x, "1x1"),
            relu(relu(x, "3x3_reduce"), "3x3", 1),
            relu(relu(x, "5x5_reduce"), "5x5", 2),
            relu(F.max_pool2d(x, 3, 1, 1), "pool_proj"),
        ]
        return torch.cat(branches, 1)

    def forward(net: Named, x: Any) -> Any:
        def pool(x: Any) -> Any:
            return F.max_pool2d(x, 3, 2, ceil_mode=True)

        def norm(x: Any) -> Any:
            return F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1)

        x = norm(pool(F.relu(net.conv(x, "conv1/7x7_s2", stride=2, padding=3))))
        x = F.relu(net.conv(x, "conv2/3x3_reduce"))
        x = pool(norm(F.relu(net.conv(x, "conv2/3x3", padding=1))))
        for names in ("3a 3b", "4a 4b 4c 4d 4e", "5a 5b"):
            x = x if names == "3a 3b" else pool(x)
            for name in names.split():
                x = inception(net, x, name)
        return net.dense(F.avg_pool2d(x, 7, 1), "loss3/classifier")

    return Named(shapes, forward)


def lenet5_caffe() -> Named:
    shapes = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "ip1": (500, 800), "ip2": (10, 500)}

    def forward(net: Named, x: Any) -> Any:
        x = F.max_pool2d(net.conv(x, "conv1"), 2, 2)
        x = F.max_pool2d(net.conv(x, "conv2"), 2, 2)
        return net.dense(F.relu(net.dense(x, "ip1")), "ip2")

    return Named(shapes, forward)
