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

from jaxrobust.data.decoded.cache import optional_cache_folder

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


_OPTIONS: dict[str, dict[str, Any]] = {
    # By default reductions are fused into loops of a library whose maximum, and so a ReLU before a
    # mean, passes over what is not a number.
    "cpu": {
        "xla_cpu_experimental_ynn_fusion_type": (
            "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
        )
    },
    # By default dozens of Triton kernels are compiled and timed for each matrix product, of which
    # none is faster than cuBLAS in float32: 73 s in the place of 16 for a first sweep (H200).
    "gpu": {"xla_gpu_enable_triton_gemm": False},
}


@functools.cache
def network_options(platform: str) -> dict[str, Any] | None:
    """Options with which XLA compiles a network.

    Args:
        platform: of the devices.

    Returns:
        None for platforms that need none, and where XLA does not know them.
    """
    options = _OPTIONS.get(platform)
    if options is None:
        return None
    try:
        with jax.default_device(jax.local_devices(backend=platform)[0]):
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
