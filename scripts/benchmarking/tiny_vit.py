"""A small vision transformer as a pure function: many layers, little to compute in each."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrobust as jr

SIDE, PATCH, WIDTH, DEPTH, HEADS, CLASSES = 32, 4, 64, 3, 2, 10


def tiny_vit() -> jr.Network:
    """The network with random weights: patches of 4 × 4 pixels, 3 blocks of width 64."""
    random = np.random.default_rng(0)

    def dense(inputs: int, outputs: int) -> dict[str, Any]:
        kernel = random.standard_normal((inputs, outputs), np.float32) * inputs**-0.5
        return {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(outputs)}

    norm = {"scale": jnp.ones(WIDTH), "bias": jnp.zeros(WIDTH)}
    params: dict[str, Any] = {"patches": dense(PATCH**2 * 3, WIDTH)}
    for number in range(DEPTH):
        params[f"block{number}"] = {
            "norm1": norm,
            "qkv": dense(WIDTH, 3 * WIDTH),
            "projection": dense(WIDTH, WIDTH),
            "norm2": norm,
            "up": dense(WIDTH, 2 * WIDTH),
            "down": dense(2 * WIDTH, WIDTH),
        }
    params |= {"norm": norm, "head": dense(WIDTH, CLASSES)}
    preprocessing = jr.Preprocessing((SIDE, SIDE), mean=(128.0,), std=(64.0,))
    return jr.Network(_apply, params, name="tiny-vit", preprocessing=preprocessing)


def _apply(params: Any, images: Any) -> Any:
    x = images.reshape(-1, SIDE // PATCH, PATCH, SIDE // PATCH, PATCH, 3)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(len(images), -1, PATCH**2 * 3)
    x = _dense(params["patches"], x)
    for number in range(DEPTH):
        own = params[f"block{number}"]
        x = x + _dense(own["projection"], _attention(_dense(own["qkv"], _norm(own["norm1"], x))))
        x = x + _dense(own["down"], jax.nn.gelu(_dense(own["up"], _norm(own["norm2"], x))))
    return _dense(params["head"], _norm(params["norm"], x).mean(1))


def _dense(params: Any, x: Any) -> Any:
    return x @ params["kernel"] + params["bias"]


def _norm(params: Any, x: Any) -> Any:
    return jax.nn.standardize(x, axis=-1) * params["scale"] + params["bias"]


def _attention(qkv: Any) -> Any:
    images, tokens, _ = qkv.shape
    q, k, v = jnp.moveaxis(qkv.reshape(images, tokens, 3, HEADS, WIDTH // HEADS), 2, 0)
    weights = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", q, k) * (WIDTH // HEADS) ** -0.5)
    return jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(images, tokens, WIDTH)
