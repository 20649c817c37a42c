"""What the tests of the command share: a checkpoint and a few random images."""

import numpy as np
import pytest
from commands_for_tests import BLUEPRINT, CLASSES, IMAGES, SIDE

from jaxrobust.networks import checkpoint


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    random = np.random.default_rng(0)
    params: dict[str, dict[str, np.ndarray]] = {}
    for path, shape in BLUEPRINT.shapes().items():
        layer, leaf = path.split("/")
        spread = 1.5 / np.sqrt(np.prod(shape[:-1]) or 1)
        params.setdefault(layer, {})[leaf] = random.normal(0, spread, shape).astype(np.float32)
    folder = tmp_path_factory.mktemp("networks") / "small"
    checkpoint.save(folder, BLUEPRINT, params, source={"how": "at random"})
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "random.npz"
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (IMAGES, SIDE, SIDE, 3), np.uint8)
    np.savez(path, images=images, labels=np.arange(IMAGES) % CLASSES)
    return f"npz:{path}"
