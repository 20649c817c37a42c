"""Perturbations of a layer's parameters: `amount`, `draw`, `apply`, and a registry of them."""

from jaxrobust.perturbations.base import (
    REGISTRY,
    Perturbation,
    decimal,
    entry_counts,
    find,
    perturbation,
    scales,
    unit_counts,
)
from jaxrobust.perturbations.code import Code, code_of
from jaxrobust.perturbations.knockout import node_knockout, synapse_knockout, unit_silencing
from jaxrobust.perturbations.noise import weight_noise
from jaxrobust.perturbations.perturb import Description, describe, perturb
from jaxrobust.perturbations.resample import resample
from jaxrobust.perturbations.trials import (
    LinearDamage,
    check_fits,
    damage,
    draw,
    draw_shapes,
    linear_damage,
)

__all__ = [
    "REGISTRY",
    "Code",
    "Description",
    "LinearDamage",
    "Perturbation",
    "check_fits",
    "code_of",
    "damage",
    "decimal",
    "describe",
    "draw",
    "draw_shapes",
    "entry_counts",
    "find",
    "linear_damage",
    "node_knockout",
    "perturb",
    "perturbation",
    "resample",
    "scales",
    "synapse_knockout",
    "unit_counts",
    "unit_silencing",
    "weight_noise",
]
