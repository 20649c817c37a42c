"""What to run, how to run it, the state of a run, and the loop."""

from jaxrobust.engine.plan import Options
from jaxrobust.engine.spec import resolve_perturbations, resolve_strengths
from jaxrobust.engine.sweep import Evaluation, evaluate, sweep

__all__ = [
    "Evaluation",
    "Options",
    "evaluate",
    "resolve_perturbations",
    "resolve_strengths",
    "sweep",
]
