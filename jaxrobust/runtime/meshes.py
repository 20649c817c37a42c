"""Programs that run on several devices at once, each on its own part of the trials or images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrobust.runtime.compiling import network_options

WHOLE = PartitionSpec()
TRIALS = PartitionSpec("trial")
IMAGES = PartitionSpec("image")
IMAGES_AND_TRIALS = PartitionSpec("image", "trial")


@cache
def mesh_of(devices: tuple[Any, ...], image_devices: int) -> Mesh:
    """A mesh with the axes `trial` and `image`.

    Args:
        devices: all of them.
        image_devices: the size of `image`, which divides their number.
    """
    grid = np.asarray(devices).reshape(-1, image_devices)
    return Mesh(grid, ("trial", "image"), axis_types=(AxisType.Auto,) * 2)


def network_on_mesh(
    function: Callable[..., Any], mesh: Mesh, given: Sequence[Any], made: Any
) -> Callable[..., Any]:
    """`on_mesh`, with the options with which networks are compiled."""
    return on_mesh(function, mesh, given, made, network_options(mesh.devices.flat[0].platform))


def on_mesh(
    function: Callable[..., Any],
    mesh: Mesh | None,
    given: Sequence[Any],
    made: Any,
    compiler_options: dict[str, Any] | None = None,
) -> Callable[..., Any]:
    """Compiles a function that every device of a mesh calls with its own part of the arguments.

    Nothing is passed between devices unless the function asks for it.

    Args:
        function: takes and gives arrays, or pytrees of them.
        mesh: None compiles the function as it is.
        given: how each argument is divided, or each part of it.
        made: how the parts make up the result, or each of its parts.
        compiler_options: for XLA.
    """
    if mesh is None:
        return jax.jit(function, compiler_options=compiler_options)
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=tuple(given), out_specs=made, check_vma=False
    )
    shardings = jax.tree.map(lambda each: NamedSharding(mesh, each), tuple(given))
    return jax.jit(mapped, in_shardings=shardings, compiler_options=compiler_options)


def shared_by_trials(values: Sequence[Any], mesh: Mesh) -> list[jax.Array]:
    """The same arrays [1, …], with an axis for trials, on all devices of a mesh.

    On a CPU they share the memory of those that are there.
    """
    whole = NamedSharding(mesh, WHOLE)
    if mesh.devices.flat[0].platform == "cpu":
        return [jax.device_put(np.asarray(x)[None], whole, may_alias=True) for x in values]
    return jax.jit(lambda values: [x[None] for x in values], out_shardings=whole)(list(values))


def divided(values: Any, mesh: Mesh | None, how: PartitionSpec) -> Any:
    """The same arrays, divided among the devices of a mesh; `WHOLE` gives every device a copy.

    One of several processes can call programs on a mesh of its own only with such arrays.
    """
    return values if mesh is None else jax.device_put(values, NamedSharding(mesh, how))
