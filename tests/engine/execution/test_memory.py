"""What a sweep of a full-size network takes, and whether it keeps to what it is given."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import numpy as np
from flax import nnx
import jaxrobust as jr
from jaxrobust.networks.zoo import lookup
name, count, layers, memory, folder = sys.argv[1:]
blueprint = lookup(name).blueprint
net = blueprint.network(nnx.to_pure_dict(nnx.state(blueprint.module(0), nnx.Param)))
images = np.random.default_rng(0).integers(0, 256, (int(count), 224, 224, 3), np.uint8)
np.savez(folder + "/images.npz", images=images, labels=np.arange(int(count)))
del images
result = jr.sweep(
    net,
    jr.images("npz:" + folder + "/images.npz"),
    layers=layers.split(","),
    strengths=[0.5],
    seeds=1,
    options=jr.Options(memory=int(memory) or None),
)
assert (result["images"] == int(count)).all()
# Unlike ru_maxrss, this is not inherited from the process that started this one.
lines = open("/proc/self/status").read().splitlines()
print(*(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")))
"""
GIB = 2**30


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own account of a process")
@pytest.mark.parametrize(
    ("name", "count", "layers", "memory", "limit"),
    [
        ("alexnet", 1000, "conv1,conv2,conv5,fc6,fc8", 0, 4 * GIB),
        ("alexnet", 300, "conv1,conv3,fc6", GIB, 3 * GIB),
        ("vgg16", 256, "conv1_1,fc6", 0, 6 * GIB),
    ],
)
def test_the_peak_stays_under_the_limit(
    name: str, count: int, layers: str, memory: int, limit: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PROGRAM, name, str(count), layers, str(memory), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = int(done.stdout.split()[-1])
    # Weights, Python and JAX themselves take more than that.
    assert GIB // 2 < peak < limit
