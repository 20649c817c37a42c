"""Products of rounded numbers, against numbers rounded by hand."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from networks_for_tests import NETWORKS
from sweeps_for_tests import refusal, save

import jaxrobust as jr
from jaxrobust.execution.routes import cut_of
from jaxrobust.program.jaxprs import run


def rounded_by_hand(values: np.ndarray, mode: str) -> np.ndarray:
    """To the nearest number with so many bits behind the point, ties to even."""
    if mode == "bfloat16":
        return values.astype(ml_dtypes.bfloat16).astype(np.float32)
    mantissa, exponent = np.frexp(values.astype(np.float64))
    return np.ldexp(np.rint(mantissa * 2**11) / 2**11, exponent).astype(np.float32)


@pytest.mark.parametrize("mode", ["bfloat16", "tensorfloat32"])
def test_operands_are_rounded_and_sums_are_not(mode: str) -> None:
    net = NETWORKS["chain"]()
    program = cut_of(net, 5, platform="cpu", precision=mode).program  # pyright: ignore[reportArgumentType]
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype(np.float32)

    @jax.jit
    def logits(params: Any, images: Any) -> jax.Array:
        values = dict(zip(program.parameters, jax.tree.leaves(params), strict=True))
        values |= {**program.constants, program.images: images}
        return run(program.equations, values, [program.output])[0]

    found = logits(net.params, images)

    def layer(name: str) -> dict[str, np.ndarray]:
        return {leaf: np.asarray(value) for leaf, value in net.params[name].items()}

    x = images
    for name, stride in (("conv1", 2), ("conv2", 1)):
        x, weights = rounded_by_hand(x, mode), layer(name)
        x = jax.lax.conv_general_dilated(
            jnp.asarray(x),
            jnp.asarray(rounded_by_hand(weights["w"], mode)),
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )
        x = np.maximum(np.asarray(x) + weights["b"], 0)
    weights = layer("fc")
    x = rounded_by_hand(x.reshape(5, -1), mode).astype(np.float64)
    expected = x @ rounded_by_hand(weights["w"], mode) + weights["b"]
    # A sum near a tie may round to the other side.
    np.testing.assert_allclose(found, expected, atol=2e-3)
    exact = jax.jit(net.apply)(net.params, jnp.asarray(images))
    assert np.abs(found - exact).max() > 2 * np.abs(found - expected).max()


def test_a_sweep_says_what_it_rounded_to(tmp_path: Path) -> None:
    net, source = NETWORKS["chain"](), save(tmp_path / "images.npz")
    run = tmp_path / "run"
    grid: dict[str, Any] = dict(
        perturbations=["weight_noise"], layers="conv2", strengths=[1], seeds=1
    )
    short = jr.sweep(net, source, precision_mode="bfloat16", run_dir=run, **grid)
    assert '"precision": "bfloat16"' in (run / "sweep.json").read_text()
    exact = jr.sweep(net, source, **grid)
    assert float(short["loss"].sum()) != float(exact["loss"].sum())
    assert float(short["clean_loss"]) != float(exact["clean_loss"])
    assert short.attrs["specification"] != exact.attrs["specification"]
    found = jr.evaluate(net, source, precision_mode="bfloat16")
    assert found.loss == pytest.approx(float(short["clean_loss"]) / len(source))


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    net, source = NETWORKS["chain"](), save(tmp_path / "images.npz")
    for function in (jr.sweep, jr.evaluate):
        found = refusal(function, net, source, precision_mode="float16")
        assert "unknown precision mode 'float16': did you mean" in found
        assert "bfloat16" in found
