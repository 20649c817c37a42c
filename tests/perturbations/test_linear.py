"""Damage that acts linearly on a kernel, against the damaged kernel itself."""

from decimal import Decimal
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from networks_for_tests import NETWORKS

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.perturbations import (
    REGISTRY,
    Perturbation,
    check_fits,
    damage,
    draw,
    linear_damage,
    scales,
)

LINEAR = [name for name, each in REGISTRY.items() if each.acts and name.isidentifier()]
STRENGTHS = [Decimal(s) for s in ("0.3", "0.3", "0.7", "1")]
SEED_OF = np.asarray([0, 1, 1, 0], np.int32)


def test_there_are_such_perturbations() -> None:
    assert set(LINEAR) == {"weight_noise", "node_knockout", "unit_silencing"}


@pytest.mark.parametrize("layer", ["conv1", "fc"])
@pytest.mark.parametrize("name", LINEAR)
def test_the_kernel_follows_from_scales_directions_and_factors(name: str, layer: str) -> None:
    perturbation, damaged_layer = REGISTRY[name], NETWORKS["normalised"]().layers[layer]
    kernel = damaged_layer.kernel
    assert kernel is not None
    (noise,) = draw(perturbation, [damaged_layer], 0, np.arange(2, dtype=np.uint32))
    expected = damage(perturbation, [damaged_layer], [noise], SEED_OF, STRENGTHS)
    found = linear_damage(perturbation, damaged_layer, kernel, noise, SEED_OF, STRENGTHS)

    whole = expected.pop(kernel.path)
    assert found.leaves.keys() == expected.keys() and expected
    for path, leaf in expected.items():
        assert np.array_equal(leaf, found.leaves[path]), path

    # A product with the identity is the kernel itself.
    acts, (axis,) = found.acts, kernel.output_axes
    rows = noise[kernel.path] if acts.directions_per_seed else [None, None]
    made = np.stack(
        [
            acts.product(jnp.asarray(kernel.value), rows[seed], jnp.asarray(own), axis)
            for seed, own in zip(SEED_OF, found.own, strict=True)
        ]
    )
    np.testing.assert_allclose(made, whole, rtol=1e-6, atol=1e-6)
    assert not np.allclose(made, np.asarray(kernel.value), atol=1e-3)


def test_a_wrong_declaration_is_refused() -> None:
    layer = NETWORKS["chain"]().layers["fc"]

    def declared(acts: Any, draw: Any) -> Perturbation:
        return Perturbation("mine", scales, draw, lambda leaves, noise, amounts: leaves, acts=acts)

    with pytest.raises(SpecificationError, match="unknown way to act 'linear'.*affine"):
        declared("linear", None)
    for noise in (lambda key, layer: (), lambda key, layer: {"fc/w": jnp.zeros(3)}):
        with pytest.raises(SpecificationError, match=r"mine on layer fc: it acts affinely.*fc/w"):
            check_fits(declared("affine", noise), layer, [Decimal("0.5")])

    def whole(leaves: Any, noise: Any, amounts: Any) -> Any:
        return {path: leaf * noise[path] for path, leaf in leaves.items()}

    def entries(key: Any, layer: Any) -> Any:
        return {leaf.path: jnp.ones(leaf.shape) for leaf in layer.leaves}

    units = Perturbation("mine", scales, entries, whole, acts="units")
    with pytest.raises(SpecificationError, match="one entry for each of the 7 units"):
        check_fits(units, layer, [Decimal("0.5")])
