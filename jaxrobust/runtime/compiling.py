"""Compiling little and in the background; work on other threads."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import jax

from jaxrobust.data.cache import optional_cache_folder

_Item = TypeVar("_Item")
_Given = ParamSpec("_Given")


def keep_compiled_programs() -> None:
    """Turns JAX's persistent compilation cache on, in jaxrobust's cache folder.

    Programs for CPUs are kept apart by what the CPU can do, as the folder may be one of several
    machines. Nothing is done where the user has configured the cache.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return
    name = f"{platform.machine()}-{hashlib.sha256(_cpu_features()).hexdigest()[:12]}"
    above = optional_cache_folder()
    if above is None:
        return
    folder = above / "programs" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with os.scandir(folder) as entries:
            if not all(entry.is_file() for entry in entries):
                return  # JAX would wait for a named pipe for ever
    except OSError:  # a cache that cannot be written is none
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _cpu_features() -> bytes:
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    return next((line for line in lines if line.startswith((b"flags", b"Features"))), b"")


@functools.cache
def network_options(platform: str) -> dict[str, Any] | None:
    """Options with which XLA compiles a network: what is not a number stays so on a CPU.

    By default XLA fuses reductions on CPUs into loops of a library whose maximum, and so a ReLU
    before a mean, passes over what is not a number.

    Args:
        platform: of the devices.

    Returns:
        None for another platform than "cpu", and where XLA does not know the option.
    """
    if platform != "cpu":
        return None
    kept = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
    options = {"xla_cpu_experimental_ynn_fusion_type": kept}
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except Exception:  # of a class that differs from version to version
        return None
    return options


def on_this_device(function: Callable[_Given, _Item]) -> Callable[_Given, _Item]:
    """The function for other threads, where JAX's default device is still that of this one."""
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]

    @functools.wraps(function)
    def there(*arguments: _Given.args, **options: _Given.kwargs) -> _Item:
        with jax.default_device(device):
            return function(*arguments, **options)

    return there


def one_ahead(items: Iterable[_Item]) -> Iterator[_Item]:
    """The same items, each made on a background thread while the one before is being used."""
    iterator = iter(items)
    following = on_this_device(lambda: list(islice(iterator, 1)))
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(following)
        while item := made.result():
            made = pool.submit(following)
            yield item[0]
