"""Networks cut into segments, and what damage reaches in them."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from jaxrobust.layers import Leaf
from jaxrobust.network import Network
from jaxrobust.program.jaxprs import Program
from jaxrobust.program.products import product_of
from jaxrobust.program.rounding import PrecisionMode
from jaxrobust.program.route import Route
from jaxrobust.program.segments import Cut, cut


@lru_cache(maxsize=64)
def _cut(
    program: Program, segmented: bool, reformulate: bool, precision: PrecisionMode, platform: str
) -> Cut:
    return cut(
        program,
        segmented=segmented,
        reformulate=reformulate,
        precision=precision,
        platform=platform,
    )


def cut_of(
    network: Network,
    images: int,
    *,
    platform: str,
    segmented: bool = True,
    reformulate: bool = True,
    precision: PrecisionMode = "float32",
) -> Cut:
    """A network cut into segments, for a batch size.

    Args:
        network: any network; chains, skip connections and branches are cut alike.
        images: how many are run together.
        platform: what it will run on: "cpu", "gpu" or "tpu".
        segmented: False leaves the network in one piece.
        reformulate: whether convolutions are computed in the ways that are faster on a CPU.
        precision: what the operands of convolutions and matrix products are rounded to.
    """
    reformulate = reformulate and platform == "cpu"
    return _cut(network.program(images), segmented, reformulate, precision, platform)


def route_of(
    network: Network,
    damaged: Collection[str],
    images: int,
    *,
    platform: str,
    segmented: bool = True,
    hoist: bool = True,
    share: bool = True,
    reformulate: bool = True,
    precision: PrecisionMode = "float32",
) -> Route:
    """What damage to some leaves reaches.

    Args:
        network, images, platform, precision: as for `cut_of`.
        damaged: paths of the leaves.
        segmented: False runs the network in one piece for every trial: one program for all layers.
        hoist: False runs everything that depends on the images for every trial, in no other way
            than the network itself, to compare with.
        share: False computes the product of a damaged kernel anew for every trial, to compare with.
        reformulate: as for `cut_of`.
    """
    how = {"segmented": segmented, "precision": precision, "platform": platform}
    made = cut_of(network, images, reformulate=reformulate and hoist, **how)
    reached = {made.program.variables[path] for path in damaged}
    if not (hoist and segmented):
        return Route(made, frozenset({*reached, made.program.images}))
    route, kernel = Route(made, frozenset(reached)), _kernel(network, damaged)
    # Rounded operands are not linear in the kernel.
    if kernel is None or not share or precision != "float32":
        return route
    product = product_of(kernel.path, kernel.units, damaged, network.program(images))
    if product is None:
        return route
    return Route(made, route.damaged, product.written_as(made.written, route.reached))


def operations_per_image(network: Network, images: int, platform: str) -> float:
    """Operations of the undamaged network, as it is defined, of each image of a batch."""
    whole = route_of(network, (), images, platform=platform, reformulate=False)
    return whole.prefix_operations / images


def _kernel(network: Network, damaged: Collection[str]) -> Leaf | None:
    """The only damaged kernel, if one axis of it counts units."""
    leaves = [leaf for layer in network.layers.values() for leaf in layer.leaves]
    kernels = [leaf for leaf in leaves if leaf.path in damaged and leaf.role == "kernel"]
    return kernels[0] if len(kernels) == 1 and len(kernels[0].output_axes) == 1 else None
