"""What a function computes, as a short text that does not depend on how it is written.

The digest of a value is made of the primitive that computes it, its parameters and the digests of
what it is computed from. Names, line numbers, files, the order of independent statements, nested
`jit` and what is computed for nothing have no part in it; every number, shape, type and parameter
has. Two versions of JAX may trace one function to different primitives, and so to other digests.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import re
import types
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxrobust.program.jaxprs import Equation, Flat, Program, flatten

# Parameters of primitives that say where or how something is computed, but not what.
_NO_PART = {"name", "name_and_src_info", "debug", "debug_info", "metadata", "weak_type"}
# Primitives that only print.
_SHOW = ("debug_callback", "debug_print")


def digest(value: Any) -> str:
    """128 bits of BLAKE2b, in hexadecimal, of nested plain values, arrays and jaxprs."""
    return _hashed(_text(value))


def digest_of_program(program: Program) -> str:
    """What a network computes, whatever the values of its parameters are."""
    inputs = (*program.parameters, program.images)
    flat = Flat(program.equations, program.constants, program.shapes, inputs, (program.output,))
    return digest(_outputs(flat))


def digest_of_equations(
    equations: Sequence[Equation],
    shapes: Mapping[int, jax.ShapeDtypeStruct],
    inputs: Sequence[int],
    outputs: Sequence[int],
    given: int,
) -> str:
    """What equations compute of their inputs.

    Args:
        equations: in order of execution.
        shapes: of every variable.
        inputs: the variables that are arguments.
        outputs: the variables that are results.
        given: how many of the inputs do not depend on the images.
    """
    flat = Flat(tuple(equations), {}, dict(shapes), tuple(inputs), tuple(outputs))
    return digest((given, [_kind(shapes[number]) for number in inputs], _outputs(flat)))


def digest_of(function: Callable[..., Any], *arguments: Any) -> str:
    """What a function computes, traced for arguments of the given shapes and dtypes.

    Args:
        function: pure, of pytrees of arrays; gives a pytree of arrays.
        arguments: pytrees of arrays, or of their shapes and dtypes.

    Raises:
        Exception: whatever the function raises for such arguments.
    """
    # Another function each time, or JAX would give the trace that it made of this one before.
    traced = jax.make_jaxpr(lambda *given: function(*given), return_shape=True)
    closed, made = traced(*arguments)
    structures = str(jax.tree.structure(arguments)), str(jax.tree.structure(made))
    return digest((structures, closed))


def _outputs(flat: Flat) -> list[str]:
    """The digest of each result, and one of effects if there are any."""
    known = {number: _hashed(_text(value)) for number, value in flat.constants.items()}
    for place, number in enumerate(flat.inputs):
        known[number] = f"input {place} {_kind(flat.shapes[number])}"

    def read(atom: int | Literal) -> str:
        return known[atom] if isinstance(atom, int) else _hashed(_text(atom))

    written = ""  # what was done to memory that equations share, as inside kernels
    for equation in flat.equations:
        if equation.primitive in _SHOW:
            continue
        texts = [equation.primitive, *map(read, equation.inputs)]
        texts += [
            f"{name}={_text(value)}"
            for name, value in sorted(equation.params.items())
            if name not in _NO_PART and value is not None
        ]
        if equation.source.effects:
            texts.append(written)
            written = _hashed("\n".join(texts))
        made = "\n".join(texts)
        for place, number in enumerate(equation.outputs):
            known[number] = _hashed(f"{made}\n{place} {_kind(flat.shapes[number])}")
    return [*map(read, flat.outputs), *([written] if written else [])]


def _text(value: Any, seen: set[int] | None = None) -> str:
    """A value as a text that is the same in every process and on every machine.

    Args:
        value: anything that can be a parameter of a primitive.
        seen: the functions and other objects that are in the text already, by `id`.
    """
    if isinstance(value, Jaxpr):
        return f"[{', '.join(_outputs(flatten(value)))}]"
    if isinstance(value, ClosedJaxpr):
        return f"[{', '.join(_outputs(flatten(value.jaxpr, value.consts)))}]"
    if isinstance(value, Literal):
        return _array(value.val, jax.typeof(value.val).dtype)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _array(value, value.dtype)
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, float):
        return value.hex()
    if value is None or isinstance(value, bool | int | str | bytes | complex):
        return repr(value)
    if isinstance(value, types.ModuleType):
        return value.__name__
    if isinstance(getattr(value, "itemsize", None), int):  # a dtype, perhaps of random keys
        return value.name
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, jax.sharding.Sharding):
        return ""
    seen = set() if seen is None else seen
    text = functools.partial(_text, seen=seen)
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{text(k)}: {text(v)}' for k, v in value.items()))}}}"
    if isinstance(value, Set):
        return f"{{{', '.join(sorted(map(text, value)))}}}"
    if tag := getattr(value, "tag", ""):  # of a generator of random numbers
        return str(tag)
    if isinstance(value, tuple | list):
        return f"({', '.join(map(text, value))})"
    if id(value) in seen:
        return ""
    seen.add(id(value))
    return f"{text(type(value))} {text(_parts(value))}"


def _parts(value: Any) -> Any:
    """What the result of a function, or of calling another object, depends on.

    Functions are parameters of those primitives that call Python while a program runs.
    """
    if isinstance(value, types.FunctionType):
        code, cells = value.__code__, value.__closure__ or ()
        used = {name: _own(value, value.__globals__.get(name)) for name in code.co_names}
        contents = [cell.cell_contents for cell in cells]
        return code, value.__defaults__, value.__kwdefaults__, contents, used
    if isinstance(value, types.CodeType):
        return value.co_code, value.co_consts, value.co_names
    if isinstance(value, types.MethodType):
        return value.__func__, value.__self__
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if dataclasses.is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if hasattr(value, "__dict__"):
        return vars(value)
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _own(function: types.FunctionType, used: Any) -> Any:
    """What a function uses; of another package's functions only their names."""
    if not isinstance(used, types.FunctionType):
        return used
    packages = [each.__module__.partition(".")[0] for each in (function, used)]
    return used if packages[0] == packages[1] else f"{used.__module__}.{used.__qualname__}"


def _array(value: Any, dtype: Any) -> str:
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return f"{dtype} {_text(jax.random.key_data(value))}"
    array = np.asarray(value, dtype)
    return f"{_kind(array)} {_hashed(array.tobytes())}"


def _kind(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _hashed(data: str | bytes) -> str:
    data = data.encode() if isinstance(data, str) else data
    return hashlib.blake2b(data, digest_size=16).hexdigest()
