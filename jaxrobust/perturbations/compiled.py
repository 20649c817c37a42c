"""Programs that are compiled once for all layers of the same shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.sharding import Mesh, PartitionSpec

from jaxrobust.program.digests import digest
from jaxrobust.runtime.meshes import TRIALS, on_mesh


@dataclass(frozen=True)
class Argument:
    """An argument of a program for several trials.

    Attributes:
        of_one: what one trial has of it: a pytree of arrays, or of their shapes and dtypes.
        stacked: whether the trials' are stacked along a first axis.
        divided: how they are divided among the devices.
    """

    of_one: Any
    stacked: bool
    divided: PartitionSpec


@dataclass(frozen=True, eq=False)
class _Traced:
    """A traced function; those that compute the same are equal."""

    jaxpr: ClosedJaxpr
    digest: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Traced) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def program_for_trials(
    one_trial: Callable[..., Any], arguments: tuple[Argument, ...], mesh: Mesh | None
) -> Callable[..., Any]:
    """A function of one trial, compiled for several.

    It is traced here. Whatever computes the same, under whichever names of layers and leaves, is
    compiled once.

    Args:
        one_trial: pure.
        arguments: what it is called with.
        mesh: the devices.

    Returns:
        A function of the arguments of several trials, which gives [trials, …] of each result.
    """
    leaves, structure = jax.tree.flatten(tuple(each.of_one for each in arguments))
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]

    def flat(*leaves: Any) -> Any:
        return one_trial(*jax.tree.unflatten(structure, leaves))

    jaxpr, made = jax.make_jaxpr(flat, return_shape=True)(*shapes)
    axes, how = [], []
    for each in arguments:
        count = len(jax.tree.leaves(each.of_one))
        axes += [0 if each.stacked else None] * count
        how += [each.divided] * count
    # An argument that nothing depends on has no part in the digest of what is computed.
    traced = _Traced(jaxpr, digest((jaxpr, [(each.shape, each.dtype) for each in shapes])))
    program, results = _compiled(traced, tuple(axes), tuple(how), mesh), jax.tree.structure(made)
    return lambda *given: jax.tree.unflatten(results, program(*jax.tree.leaves(given)))


@lru_cache(maxsize=4096)
def _compiled(
    traced: _Traced, axes: tuple[int | None, ...], how: tuple[PartitionSpec, ...], mesh: Mesh | None
) -> Any:
    all_trials = jax.vmap(jaxpr_as_fun(traced.jaxpr), axes)
    return on_mesh(all_trials, mesh, how, TRIALS)
