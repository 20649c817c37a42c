"""What the code of a sweep computes: a part of its identity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import jax
import jax.numpy as jnp

from jaxrobust.metrics import Metric
from jaxrobust.network import Network
from jaxrobust.perturbations import Code, Perturbation, code_of
from jaxrobust.program.digests import digest_of, digest_of_program

# Images for which networks and metrics are traced to be compared with others.
_IMAGES = 8

Groups = Iterable[tuple[str, tuple[str, ...]]]


@dataclass(frozen=True)
class SweepCode:
    """The functions of a sweep.

    Attributes:
        network: what is damaged.
        perturbations: those that the sweep runs.
        metrics: those that were asked for, by name.
    """

    network: Network
    perturbations: Sequence[Perturbation]
    metrics: Mapping[str, Metric]

    def on(self, layers: Groups, strengths: Mapping[str, Sequence[Decimal]]) -> Code:
        """What the functions compute, as far as some sweep of them can tell.

        Args:
            layers: groups of layers by name.
            strengths: of each perturbation that the sweep runs; others are left out.
        """
        members = dict.fromkeys(name for _, members in layers for name in members)
        damaged = [self.network.layers[name] for name in members]
        program = digest_of_program(self.network.program(_IMAGES))
        code = [(f"network {self.network.name}", "apply", program)]
        for name, metric in self.metrics.items():
            traced = digest_of(metric.function, *metric_arguments(self.network.classes))
            code.append((f"metric {name}", "function", traced))
        for each in self.perturbations:
            if each.name in strengths:
                code += code_of(each, damaged, strengths[each.name])
        return tuple(code)


def metric_arguments(classes: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shapes and dtypes of what a metric is called with, for a few images."""
    logits = jax.ShapeDtypeStruct((_IMAGES, classes), jnp.float32)
    return logits, jax.ShapeDtypeStruct((_IMAGES,), jnp.int32), logits


def told_apart(held: Code, asked: Code, *, same_weights: bool) -> list[str]:
    """What computes otherwise, in words; not what only one of two sweeps has.

    Args:
        held, asked: on the same layers and strengths.
        same_weights: whether amounts can be compared, which may depend on the weights.
    """

    def parts(code: Code, wanted: str) -> dict[str, str]:
        found = {part: value for what, part, value in code if what == wanted}
        return found if same_weights else {**found, "amount": ""}

    told = []
    for what in dict.fromkeys(what for what, _, _ in held):
        before, now = parts(held, what), parts(asked, what)
        different = [p for p in dict.fromkeys((*before, *now)) if before.get(p) != now.get(p)]
        if different and any(what == other for other, _, _ in asked):
            told.append(f"{what} computes otherwise ({', '.join(different)})")
    return told
