"""Recognising other frameworks' modules, without importing any framework."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

_PORT = (
    "of the networks of `jaxrobust list networks`, `jaxrobust port` reads the weight file; for any "
    "other write the forward pass in JAX, jaxrobust.Network(apply, params, …)"
)

# Where a base class comes from, its names, what it is called, and what makes a network of it.
_BASES = (
    (
        ("flax.nnx",),
        ("Module",),
        "a Flax NNX module",
        "jaxrobust.Network.from_nnx(module, name=…, preprocessing=…) makes a network of it",
    ),
    (
        ("flax.linen",),
        ("Module",),
        "a Flax Linen module",
        "jaxrobust.Network.from_linen(module, variables, name=…, preprocessing=…) makes a network "
        "of it",
    ),
    (("torch",), ("Module",), "a PyTorch module", f"there is no Network.from_torch yet: {_PORT}"),
    (
        ("keras", "tf_keras", "tensorflow"),
        ("Model", "Layer", "Module"),
        "a Keras model",
        f"there is no Network.from_keras yet: {_PORT}",
    ),
    (
        ("equinox",),
        ("Module",),
        "an Equinox module",
        "there is no Network.from_equinox yet: with params, static = equinox.partition(module, "
        "equinox.is_array) it is jaxrobust.Network(lambda params, images: "
        "jax.vmap(equinox.combine(params, static))(images), params, …)",
    ),
)


def is_module(value: Any) -> bool:
    """Whether a value is a module of Flax, PyTorch, Keras or Equinox, or a class of them."""
    return _base(value) is not None


def described(value: Any) -> str:
    """What a value is that was given for a network, and what makes a network of it.

    Example:
        >>> described("alexnet-glyphs")
        "the text 'alexnet-glyphs': jaxrobust.load('alexnet-glyphs') gives the network"
    """
    name = (value if isinstance(value, type) else type(value)).__name__
    base = _base(value)
    if base is not None:
        kind, way = base
        which = f"the class {name} of" if isinstance(value, type) else f"{name},"
        return f"{which} {kind}: {way}"
    if isinstance(value, str | os.PathLike):
        text = f"{os.fspath(value)!r:.80}"
        return f"the text {text}: jaxrobust.load({text}) gives the network"
    if isinstance(value, type):
        return f"the class {name}"
    if callable(value):
        return "a function: jaxrobust.Network(function, params, name=…, preprocessing=…)"
    if isinstance(value, Mapping | list | tuple):
        return f"a {name}: jaxrobust.Network(apply, params, name=…, preprocessing=…)"
    return f"a {name}" if value is not None else "None"


def is_of_training(error: Exception) -> bool:
    """Whether an error is one in which a module of Flax ends that is called in training mode.

    Its normalisation would change its statistics, or its dropout has nothing to draw from.
    """
    kinds = ("ModifyScopeVariableError", "InvalidRngError")
    return type(error).__name__ in kinds or "`deterministic` is False" in str(error)


def _base(value: Any) -> tuple[str, str] | None:
    for ancestor in (value if isinstance(value, type) else type(value)).__mro__:
        for packages, names, kind, way in _BASES:
            module = f"{ancestor.__module__}."
            if ancestor.__name__ in names and module.startswith(tuple(f"{p}." for p in packages)):
                return kind, way
    return None
