"""The training loop."""

import jax
import numpy as np
import pytest
from flax import nnx

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.preprocessing import Preprocessing
from jaxrobust.training import Settings, train

SIZE = 6
PREPROCESSING = Preprocessing(size=(SIZE, SIZE), mean=(127.5,), std=(64.0,))


@pytest.fixture(autouse=True)
def _standard_promotion():
    # Optax's own arithmetic mixes types, which the strict mode of the other tests forbids.
    with jax.numpy_dtype_promotion("standard"):
        yield


PREPROCESSING = Preprocessing(size=(SIZE, SIZE), mean=(127.5,), std=(64.0,))


class Small(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.2)
        self.dense = nnx.Linear(SIZE * SIZE * 8, 4, rngs=rngs)

    def __call__(self, images, rngs=None):
        x = jax.nn.relu(self.conv(images)).reshape(images.shape[0], -1)
        return self.dense(self.dropout(x, rngs=rngs))


def examples(step):
    """One bright quarter in noise: the class says which."""
    random = np.random.default_rng(step)
    labels = random.integers(4, size=32)
    images = random.integers(0, 150, (32, SIZE, SIZE, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(label, 2)
        image[3 * row : 3 * row + 3, 3 * column : 3 * column + 3] += 100
    return images, labels


def trained(folder, settings, report=lambda *_: None):
    return train(Small(), PREPROCESSING, examples, settings, folder, report)


def test_it_learns(tmp_path):
    module, reports = Small(), []
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    settings = Settings(200, learning_rate=3e-3)
    params = train(
        module, PREPROCESSING, examples, settings, tmp_path, lambda *r: reports.append(r)
    )
    steps, losses, accuracies = zip(*reports, strict=True)
    assert steps == tuple(range(20, 201, 20))
    assert accuracies[0] < 0.8 < 0.95 < accuracies[-1] and losses[-1] < losses[0] / 2
    # The parameters that come back are the good ones: counted here, without the loop's own code.
    images, labels = examples(10_000)
    network = nnx.merge(nnx.graphdef(module), params)
    network.eval()
    logits = network(((images - 127.5) / 64).astype(np.float32))
    assert np.mean(np.argmax(logits, -1) == labels) > 0.95
    # The module that was given stays as it was.
    after = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, after))


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path):
    settings = Settings(60, save_every=25)

    def stop(step, loss, accuracy):
        if step >= 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "interrupted", settings, stop)
    reports = []
    resumed = trained(tmp_path / "interrupted", settings, lambda *r: reports.append(r))
    assert [step for step, *_ in reports] == [40, 60]  # it went on from step 25
    whole = trained(tmp_path / "whole", settings)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    # Finished: the result again, without a step.
    again = trained(tmp_path / "whole", settings, lambda *_: pytest.fail("it trained again"))
    jax.tree.map(np.testing.assert_array_equal, again, whole)


def test_a_folder_of_another_training_is_refused(tmp_path):
    trained(tmp_path, Settings(3))
    with pytest.raises(SpecificationError, match="choose a new folder"):
        trained(tmp_path, Settings(4))
