"""Real weights on real photographs give the counts that PyTorch gives."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxrobust import data
from jaxrobust.networks import zoo
from jaxrobust.networks.port import port

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
