"""A sweep without a run folder needs only jax, flax, orbax, numpy, scipy and xarray."""

import subprocess
import sys

PROGRAM = """
import sys
absent = ("PIL", "tyro", "jaxtyping", "matplotlib", "h5py", "h5netcdf", "safetensors",
          "google.protobuf", "tensorflow_datasets", "tensorflow")
sys.modules.update(dict.fromkeys(absent))  # importing one of them fails

import jax.numpy as jnp, numpy as np
import jaxrobust as jr
from jaxrobust.data import ArrayStore, ImageSource

random = np.random.default_rng(0)
pixels = random.integers(0, 256, (40, 8, 8, 3), np.uint8)
images = ImageSource.from_store("random", ArrayStore(pixels, np.arange(40) % 4))
params = {"kernel": jnp.asarray(random.normal(size=(192, 4)), jnp.float32)}
net = jr.Network(
    lambda params, images: images.reshape(len(images), -1) @ params["fc"]["kernel"],
    {"fc": params}, name="linear", preprocessing=jr.Preprocessing(size=(8, 8)))
result = jr.sweep(net, images, perturbations=["synapse_knockout", "weight_noise", "resample"],
                  layers="all", strengths=[0, 0.5], seeds=3)
print(jr.accuracy(result, "top1")["mean"].notnull().all().item())
"""


def test_a_sweep_runs_without_the_other_packages():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
