"""From a framework's module to a pure function and its parameters, one file for each framework."""

from jaxrobust.adapters.linen import from_linen
from jaxrobust.adapters.modules import described, is_module, is_of_training
from jaxrobust.adapters.nnx import from_nnx
from jaxrobust.adapters.pure import Pure

__all__ = ["Pure", "described", "from_linen", "from_nnx", "is_module", "is_of_training"]
