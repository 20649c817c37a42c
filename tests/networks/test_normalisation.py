"""Normalisation against its formula, and against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrobust.networks.definitions.normalisation import batch_norm, local_response_norm


def by_the_formula(x, alpha, offset, size):
    out = np.empty(x.shape)
    for channel in range(x.shape[3]):
        first, last = max(0, channel - size // 2), channel + size // 2
        squares = (x[..., first : last + 1].astype(np.float64) ** 2).sum(3)
        out[..., channel] = x[..., channel] / (offset + alpha * squares) ** 0.75
    return out


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 11])
@pytest.mark.parametrize(("alpha", "offset", "size"), [(1e-4, 2.0, 5), (2e-5, 1.0, 5), (0.3, 1, 3)])
def test_local_response_norm_is_its_formula(channels, alpha, offset, size):
    x = 50 * np.random.default_rng(0).standard_normal((2, 3, 4, channels), np.float32)
    found = jax.jit(lambda x: local_response_norm(x, alpha=alpha, offset=offset, size=size))(x)
    np.testing.assert_allclose(found, by_the_formula(x, alpha, offset, size), rtol=1e-6)


def test_local_response_norm_survives_enormous_activations():
    """A damaged network may overflow: finite activations stay finite, as in PyTorch."""
    found = local_response_norm(jnp.full((1, 1, 1, 4), 1e30), alpha=1e-4, offset=1.0)
    assert found.tolist() == [[[[0, 0, 0, 0]]]]


def test_local_response_norm_needs_no_gather():
    x = jnp.zeros((1, 2, 2, 8))
    text = str(jax.make_jaxpr(lambda x: local_response_norm(x, alpha=1e-4, offset=1.0))(x))
    assert "gather" not in text and "pow" not in text


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "offset"), [(1e-4, 1.0), (5e-4, 2.0)])
def test_local_response_norm_is_pytorchs(alpha, offset):
    torch = pytest.importorskip("torch")
    x = 100 * np.random.default_rng(0).standard_normal((2, 7, 5, 96), np.float32)
    needed = torch.nn.functional.local_response_norm(
        torch.from_numpy(x).permute(0, 3, 1, 2), 5, alpha=alpha, beta=0.75, k=offset
    )
    found = local_response_norm(jnp.asarray(x), alpha=alpha / 5, offset=offset)
    np.testing.assert_allclose(found, needed.permute(0, 2, 3, 1), rtol=2e-6)


def test_batch_norm_in_evaluation_mode_uses_its_statistics():
    layer = batch_norm(3, rngs=nnx.Rngs(0))
    values = {
        "mean": jnp.asarray([1.0, 2.0, 3.0]),
        "var": jnp.asarray([4.0, 1.0, 0.0]),
        "scale": jnp.asarray([1.0, 2.0, 1.0]),
        "bias": jnp.asarray([0.0, 0.0, 5.0]),
    }
    state = nnx.state(layer)
    nnx.replace_by_pure_dict(state, values)
    nnx.update(layer, state)
    layer.eval()
    found = layer(jnp.full((2, 4, 4, 3), 3.0))
    assert found.shape == (2, 4, 4, 3)
    np.testing.assert_allclose(found[1, 2, 3], [1, 2, 5], rtol=1e-5)
