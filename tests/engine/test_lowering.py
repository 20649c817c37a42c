"""The programs of a sweep lowered for accelerators that are not here."""

from decimal import Decimal
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.execution.ordinary import Limits, Overlaps
from jaxrobust.execution.plan import Plan
from jaxrobust.execution.programs import Programs
from jaxrobust.hoist import split
from jaxrobust.layers import Layer
from jaxrobust.network import Network
from jaxrobust.networks.zoo import lookup
from jaxrobust.perturbations import REGISTRY, Perturbation
from jaxrobust.perturbations.trials import amounts_of, apply_program, draw_program
from jaxrobust.runtime.meshes import mesh_of

PLAN = Plan(1, 1, 4, 2, 2, 1, 1, True)
MESH = mesh_of((jax.devices()[0],), 1)
SLOW = pytest.mark.slow


def lowered(program: Any, *given: Any) -> Any:
    """The shapes that a program gives, once it has been lowered for both kinds of accelerator."""
    for platform in ("tpu", "cuda"):
        exported = jax.export.export(program, platforms=[platform])(*given)
        assert exported.mlir_module_serialized
    return jax.eval_shape(program, *given)


def without_values(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


@pytest.fixture(scope="module")
def network(request: pytest.FixtureRequest) -> Network:
    blueprint = lookup(request.param).blueprint
    params: dict[str, Any] = {}
    for path, shape in blueprint.shapes().items():
        *above, name = path.split("/")
        inner = params
        for part in above:
            inner = inner.setdefault(part, {})
        inner[name] = np.zeros(shape, np.float32)
    return blueprint.network(params)


def lower_step(network: Network, layer: Layer, perturbation: Perturbation) -> None:
    """Lowers everything that one step of a sweep calls, draws included."""
    touched = [leaf.path for leaf in perturbation.leaves(layer)]
    parts = split(network, touched, PLAN.images_per_step, reformulate=False)
    sharing = parts.product is not None and perturbation.acts is not None
    programs = Programs(parts, PLAN, MESH, sharing=sharing, block=100, metrics={}, keep="images")
    params = without_values(network.params)
    size, trials = PLAN.images_per_step, PLAN.trials_per_step
    images = jax.ShapeDtypeStruct((size, *network.preprocessing.shape), jnp.float32)
    shared = lowered(programs.shared, params)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    limits = Limits(dict.fromkeys(touched, number), number)  # pyright: ignore[reportArgumentType]
    residuals, product = lowered(programs.prefix, params, shared, images)
    undamaged = params, shared, residuals, limits

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), PLAN.seeds_per_draw))
    noise = lowered(draw_program(perturbation, layer.without_values(), MESH), keys)
    amounts = without_values(amounts_of(perturbation, layer, [Decimal("0.5")] * trials))
    rows = jax.ShapeDtypeStruct((trials,), jnp.int32)
    leaves = {leaf.path: without_values(leaf.value) for leaf in perturbation.leaves(layer)}
    leaves = lowered(apply_program(perturbation, MESH), leaves, {}, noise, rows, amounts)

    products = None
    if parts.product:
        kernel = parts.product.kernel
        kernels = leaves.pop(kernel)
        products = lowered(programs.multiply, kernels, *undamaged)
        if perturbation.acts == "affine":
            directions = lowered(programs.multiply, noise[kernel], *undamaged)
            units = jax.ShapeDtypeStruct((PLAN.seeds_per_draw, layer.units), jnp.float32)
            overlaps = Overlaps(units, units, units)  # pyright: ignore[reportArgumentType]
            products = lowered(
                programs.mix, product, directions, overlaps, rows, amounts[kernel], None
            )
        elif perturbation.acts == "units":
            factors = jax.ShapeDtypeStruct((trials, layer.units), jnp.float32)
            products = lowered(programs.mix, product, None, None, rows, None, factors)
    scoring = [
        jax.ShapeDtypeStruct(shape, kind)
        for shape, kind in (
            ((size,), jnp.int32),
            ((size,), jnp.bool_),
            ((size,), jnp.int32),
            ((size, 0), jnp.float32),
            ((size,), jnp.int32),
        )
    ]
    sums = lowered(programs.finish, products, leaves, *undamaged, *scoring)
    assert sums["top1"].shape[0] == trials


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize(
    "network",
    [
        "alexnet",
        pytest.param("vgg16", marks=SLOW),
        pytest.param("squeezenet1_1", marks=SLOW),
    ],
    indirect=True,
)
def test_every_step_lowers_for_tpu_and_cuda(network: Network, name: str) -> None:
    for layer in network.layers.values():
        if layer.kernel is not None:
            lower_step(network, layer, REGISTRY[name])
