"""What to run, how to run it, the state of a run, and the loop."""

from jaxrobust.engine.ask import check_precision
from jaxrobust.engine.plan import Options
from jaxrobust.engine.spec import resolve_perturbations, resolve_strengths
from jaxrobust.engine.sweep import Evaluation, evaluate, sweep

__all__ = [
    "Evaluation",
    "Options",
    "check_precision",
    "evaluate",
    "resolve_perturbations",
    "resolve_strengths",
    "sweep",
]
