"""How a trained network breaks from the inside: sweeps of damage to its weights, in JAX.

The public names are loaded when they are first used, so that `jaxrobust --help` is instant.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "accuracy": "results",
    "by_layer": "summary",
    "describe": "perturbations",
    "Estimate": "costing.estimate",
    "evaluate": "sweeps",
    "Evaluation": "sweeps",
    "images": "data",
    "initialize": "runtime.hosts",
    "ImageSource": "data",
    "load": "networks.zoo",
    "metric": "metrics",
    "Metric": "metrics",
    "Network": "network",
    "open_run": "storage.run_folder",
    "Options": "design.options",
    "perturb": "perturbations",
    "perturbation": "perturbations",
    "Perturbation": "perturbations",
    "plan": "costing.estimate",
    "Preprocessing": "preprocessing",
    "right": "results",
    "SpecificationError": "ground.errors",
    "sweep": "sweeps",
    "write_report": "report",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxrobust' has no attribute {name!r}")
    return getattr(import_module(f"jaxrobust.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
