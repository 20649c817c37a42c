"""Flax NNX modules, and functions that call one."""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import jax

from jaxrobust.adapters.modules import described, is_module
from jaxrobust.adapters.pure import Pure
from jaxrobust.ground.errors import SpecificationError

# Objects that are looked at for modules in what a function refers to.
_MOST_OBJECTS = 10_000
# Functions that hold nobody's network.
_LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "jaxrobust", "functools")
_WAY = (
    "give the module itself and say how it is called: "
    "from_nnx(module, call=lambda module, images: module(images, train=False), …)"
)


def from_nnx(given: Any, call: Callable[..., Any] | None, arguments: Mapping[str, Any]) -> Pure:
    """Makes a pure function of an NNX module, or of a function that calls one.

    Args:
        given, call, arguments: see `Network.from_nnx`.

    Raises:
        SpecificationError: neither a module nor a function that calls exactly one, or a function
            in which the module cannot be exchanged.
    """
    from flax import nnx

    module, call = _module_and_call(given, call)
    module = nnx.clone(module)
    module.eval()
    definition, weights, random, statistics = nnx.split(module, nnx.Param, nnx.RngState, ...)
    state = nnx.merge_state(weights, statistics)
    frozen = frozenset("/".join(map(str, path)) for path, _ in nnx.to_flat_state(statistics))
    shapes = jax.eval_shape(lambda: state)

    def apply(params: Any, images: Any) -> Any:
        present = jax.tree.map(lambda leaf: leaf, shapes)
        nnx.replace_by_pure_dict(present, params)
        return call(nnx.merge(definition, present, random, copy=True), images, **arguments)

    return Pure(apply, nnx.to_pure_dict(state), frozen)


def _module_and_call(given: Any, call: Callable[..., Any] | None) -> tuple[Any, Callable[..., Any]]:
    """The module, and `call(module, images, …)`."""
    from flax import nnx

    if isinstance(given, nnx.Module) and call is None:
        return given, lambda module, images, **options: module(images, **options)
    if isinstance(given, nnx.Module):
        if not callable(call) or next(_held(call), None) is not None:
            raise SpecificationError(
                "call must be a function that uses the module which it is given, and no other, so "
                "that parameters are no constants: call=lambda module, images: module(images)"
            )
        return given, call
    if is_module(given) or not callable(given) or call is not None:
        raise SpecificationError(f"from_nnx needs a Flax NNX module, not {described(given)}")
    found = list(_held(given))
    modules = [each for each in found if isinstance(each, nnx.Module)]
    if len(found) != 1 or not modules:
        names = ", ".join(sorted(type(each).__name__ for each in found)) or "none"
        raise SpecificationError(
            f"from_nnx was given a function that must call exactly one Flax NNX module; found in "
            f"it: {names:.120}; {_WAY}"
        )
    (module,) = modules
    if next(_held(_exchanged(given, module, _nothing)), None) is not None:
        raise SpecificationError(
            f"from_nnx was given a function that reaches its {type(module).__name__} through "
            f"another object, so that its parameters would be constants: {_WAY}"
        )
    return module, lambda other, images, **options: _exchanged(given, module, other)(
        images, **options
    )


def _nothing() -> None:
    """Stands for a module that is taken out of a function."""


def _held(function: Any) -> Iterator[Any]:
    """The modules, and parameters outside a module, that a function can reach, each once."""
    from flax import nnx

    seen: dict[int, Any] = {}  # with the objects, so that no number is given twice
    pending = [function]
    while pending:
        value = pending.pop()
        if id(value) in seen or isinstance(value, type | jax.Array | str | bytes | int | float):
            continue
        if len(seen) == _MOST_OBJECTS:
            raise SpecificationError(
                f"from_nnx was given a function that refers to too many objects to find its Flax "
                f"NNX module: {_WAY}"
            )
        seen[id(value)] = value
        if isinstance(value, nnx.Module | nnx.Variable | nnx.State):
            yield value
        else:
            pending += _referred_to(value)


def _referred_to(value: Any) -> Iterable[Any]:
    """What a function, a container or another object refers to."""
    match value:
        case FunctionType() if (value.__module__ or "").split(".")[0] in _LIBRARIES:
            return ()
        case FunctionType():
            inside = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
            inside += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
            used = [value.__globals__.get(name) for name in _globals_of(value.__code__)]
            # Of a Python module what the function may mean by `module.name`.
            attributes = _names_in(value.__code__)
            parts = [vars(each) for each in used if isinstance(each, ModuleType)]
            return [
                *inside,
                *(each for each in used if not isinstance(each, ModuleType)),
                *(part[name] for part in parts for name in attributes & part.keys()),
            ]
        case MethodType():
            return [value.__self__, value.__func__]
        case partial():
            return [value.func, *value.args, *value.keywords.values()]
        case dict():
            return value.values()
        case list() | tuple() | set() | frozenset():
            return value
        case ModuleType():
            return ()
        case _:
            wrapped = getattr(value, "__wrapped__", None)
            return [wrapped, *getattr(value, "__dict__", {}).values()]


def _exchanged(value: Any, old: Any, new: Any, made: dict[int, Any] | None = None) -> Any:
    """What is given, with another module in the place of the one that it refers to.

    Args:
        value: a function, or what it refers to.
        old, new: the modules.
        made: functions that are exchanged already, by the `id` of the old one: they may call each
            other.
    """
    made = {} if made is None else made

    def instead(inner: Any) -> Any:
        return _exchanged(inner, old, new, made)

    if value is old:
        return new
    if id(value) in made:
        return made[id(value)]
    if not any(each is old for each in _held(value)):
        return value
    match value:
        case FunctionType():
            known = {**value.__globals__}
            cells = tuple(CellType() for _ in value.__closure__ or ())
            other = FunctionType(value.__code__, known, value.__name__, None, cells or None)
            made[id(value)] = other
            for name in _globals_of(value.__code__) & known.keys():
                known[name] = instead(known[name])
            for cell, before in zip(cells, value.__closure__ or (), strict=True):
                if _filled(before):
                    cell.cell_contents = instead(before.cell_contents)
            other.__defaults__ = instead(value.__defaults__)
            other.__kwdefaults__ = instead(value.__kwdefaults__)
            return other
        case MethodType():
            return MethodType(instead(value.__func__), instead(value.__self__))
        case partial():
            return partial(instead(value.func), *instead(value.args), **instead(value.keywords))
        case dict():
            return {name: instead(inner) for name, inner in value.items()}
        case list():
            return [instead(inner) for inner in value]
        case tuple() if type(value) is tuple:
            return tuple(instead(inner) for inner in value)
    return value


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _globals_of(code: CodeType) -> set[str]:
    """The global names that a function's code, and functions made in it, refer to."""
    return {
        instruction.argval
        for each in _codes(code)
        for instruction in dis.get_instructions(each)
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }


def _names_in(code: CodeType) -> set[str]:
    return {name for each in _codes(code) for name in each.co_names}


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
