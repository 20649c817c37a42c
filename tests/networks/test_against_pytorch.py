"""The definitions, with ported weights, against the same networks written in PyTorch."""

import dataclasses
import io
import tarfile
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from jaxrobust.networks import zoo
from jaxrobust.networks.blueprint import Blueprint
from jaxrobust.networks.port import port
from jaxrobust.porting import Weights, fit
from jaxrobust.porting.recipes import TORCHVISION_ALEXNET
from jaxrobust.preprocessing import Preprocessing

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def torch_alexnet(torch, widths, dense_width, classes, kernel, stride, padding, side):
    """torchvision's module, layer by layer, at any width."""
    a, b, c, d, e = widths
    pytorch = torch.nn
    pool = pytorch.MaxPool2d(kernel_size=3, stride=2)
    features = pytorch.Sequential(
        *(pytorch.Conv2d(3, a, kernel, stride, padding), pytorch.ReLU(), pool),
        *(pytorch.Conv2d(a, b, 5, padding=2), pytorch.ReLU(), pool),
        *(pytorch.Conv2d(b, c, 3, padding=1), pytorch.ReLU()),
        *(pytorch.Conv2d(c, d, 3, padding=1), pytorch.ReLU()),
        *(pytorch.Conv2d(d, e, 3, padding=1), pytorch.ReLU(), pool),
    )
    classifier = pytorch.Sequential(
        *(pytorch.Dropout(), pytorch.Linear(e * side * side, dense_width), pytorch.ReLU()),
        *(pytorch.Dropout(), pytorch.Linear(dense_width, dense_width), pytorch.ReLU()),
        pytorch.Linear(dense_width, classes),
    )
    module = pytorch.Sequential()
    module.features, module.flatten, module.classifier = features, pytorch.Flatten(), classifier
    return module.eval()


def torch_squeezenet(torch, arrays):
    """A function from NCHW images to logits, from the arrays of the weight file."""
    functional = torch.nn.functional
    tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}

    def convolve(x, name, **options):
        x = functional.conv2d(x, tensors[f"{name}/w"], tensors[f"{name}/b"], **options)
        return functional.relu(x)

    def fire(x, name):
        x = convolve(x, f"{name}/squeeze1x1")
        wide = convolve(x, f"{name}/expand3x3", padding=1)
        return torch.cat([convolve(x, f"{name}/expand1x1"), wide], 1)

    def apply(x):
        x = convolve(x, "conv1", stride=2)
        for first, second in ((2, 3), (4, 5)):
            x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
            x = fire(fire(x, f"fire{first}"), f"fire{second}")
        x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
        for number in (6, 7, 8, 9):
            x = fire(x, f"fire{number}")
        return convolve(x, "conv10").mean((2, 3))

    return apply


def logits_of(torch, module, images):
    with torch.inference_mode():
        return module(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


def assert_close(found, needed):
    assert np.ptp(needed) > 1e-3
    np.testing.assert_allclose(found, needed, atol=2e-5 * np.abs(needed).max())


def test_a_small_alexnet_gives_pytorchs_logits(torch):
    torch.manual_seed(0)
    widths = (8, 12, 10, 9, 7)
    module = torch_alexnet(torch, widths, 20, 6, kernel=5, stride=2, padding=2, side=3)
    arrays = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    blueprint = Blueprint(
        "small",
        "alexnet",
        {
            "classes": 6,
            "image_size": (64, 64),
            "conv1_kernel": 5,
            "conv1_stride": 2,
            "conv1_padding": 2,
            "widths": widths,
            "dense_width": 20,
        },
        Preprocessing((64, 64)),
    )
    recipe = dataclasses.replace(TORCHVISION_ALEXNET, flattened={"fc6": (7, 3, 3)})
    weights = Weights.of("PyTorch", arrays)
    network = blueprint.network(fit(weights, recipe, blueprint.shapes(), network="small"))
    images = np.random.default_rng(0).standard_normal((5, 64, 64, 3), np.float32)
    needed = logits_of(torch, module, images)
    assert_close(jax.jit(network.apply)(network.params, images), needed)


def test_torchvisions_alexnet_ports_and_gives_pytorchs_logits(torch, tmp_path):
    torch.manual_seed(0)
    widths = (64, 192, 384, 256, 256)
    module = torch_alexnet(torch, widths, 4096, 1000, kernel=11, stride=4, padding=2, side=6)
    arrays: Any = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    np.savez(tmp_path / "alexnet.npz", **arrays)
    port("alexnet", tmp_path / "alexnet.npz", tmp_path / "ported")
    network = zoo.load(tmp_path / "ported")
    images = np.random.default_rng(0).standard_normal((4, 224, 224, 3), np.float32)
    needed = logits_of(torch, module, images)
    assert_close(jax.jit(network.apply)(network.params, images), needed)


def test_the_real_squeezenet_gives_pytorchs_logits(torch, tmp_path, shared_data):
    file = shared_data / "squeezenet-1.1-caffe.npz"
    port("squeezenet-1.1-caffe", file, tmp_path / "ported")
    network = zoo.load(tmp_path / "ported")
    cropped = []
    with tarfile.open(shared_data / "imagenet-sample-1000.tar") as archive:
        for member in [member for member in archive.getmembers() if member.isfile()][::100]:
            content = archive.extractfile(member)
            assert content is not None
            photograph = Image.open(io.BytesIO(content.read())).convert("RGB")
            cropped.append(np.asarray(photograph.resize((256, 256)).crop((14, 14, 241, 241))))
    images = np.stack(cropped)[..., ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)
    needed = logits_of(torch, torch_squeezenet(torch, np.load(file)), images)
    assert_close(jax.jit(network.apply)(network.params, images), needed)
