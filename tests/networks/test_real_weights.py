"""Real weights on real photographs give the counts that PyTorch gives."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxrobust import data
from jaxrobust.networks import zoo
from jaxrobust.networks.port import port
from jaxrobust.sweeps import evaluate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def squeezenet(shared_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ported") / "squeezenet"
    port("squeezenet-1.1-caffe", shared_data / "squeezenet-1.1-caffe.npz", folder)
    return zoo.load(folder)


@pytest.mark.parametrize(("mode", "top1", "top5"), [("squash", 643, 851), ("shorter", 605, 820)])
def test_squeezenet_gets_as_many_right_as_in_pytorch(squeezenet, shared_data, mode, top1, top5):
    preprocessing = dataclasses.replace(squeezenet.preprocessing, mode=mode)
    network = dataclasses.replace(squeezenet, preprocessing=preprocessing)
    photographs = data.images(f"tar:{shared_data / 'imagenet-sample-1000.tar'}")
    apply = jax.jit(network.apply)
    first = five = 0
    for start in range(0, len(photographs), 50):
        images, labels = network.prepare(photographs[start : start + 50])
        best = np.argsort(-np.asarray(apply(network.params, images)), axis=1, kind="stable")
        first += np.sum(best[:, 0] == labels)
        five += np.sum(best[:, :5] == labels[:, None])
    assert abs(first - top1) <= 2 and abs(five - top5) <= 2, (first, five)


@pytest.mark.parametrize(
    ("network", "file", "source", "right"),
    [
        ("lenet5-caffe", "caffe_lenet5_original.caffemodel", "mnist-test.npz", 9909),
        ("lenet5-caffe", "caffe_lenet5_sparse.caffemodel", "mnist-test.npz", 9909),
        ("resnet20-cifar", "resnet20-12fca82f.th", "cifar10-lossless-200.npz", 180),
    ],
)
def test_small_networks_get_as_many_right_as_in_pytorch(
    shared_data, tmp_path, network, file, source, right
):
    done = port(network, shared_data / file, tmp_path / "ported")
    weights = zoo.ZOO[network].weights
    assert weights is not None
    assert done.sha256.startswith((weights.checksum or "sha256:").removeprefix("sha256:"))
    images = data.images(f"npz:{shared_data / source}")
    assert abs(evaluate(zoo.load(done.folder), images).top1 - right) <= 1
