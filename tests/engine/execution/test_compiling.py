"""Programs kept on the disk, and items made one ahead."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxrobust.runtime.compiling import one_ahead

PROGRAM = """
import sys
import jax
import jaxrobust as jr
from networks_for_tests import NETWORKS
counts = {}
def heard(event, **_):
    counts[event] = counts.get(event, 0) + 1
jax.monitoring.register_event_listener(heard)
jr.sweep(NETWORKS["chain"](), jr.images("npz:" + sys.argv[1]), seeds=1, strengths=[0.5])
print(*(counts.get("/jax/compilation_cache/cache_" + what, 0) for what in ("hits", "misses")))
"""


@pytest.mark.slow
def test_a_second_process_compiles_nothing_anew(source: object, folder: Path) -> None:
    tests = Path(__file__).resolve().parents[2] / "helpers"
    environment = {
        **os.environ,
        "JAXROBUST_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
    }
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)

    def counts() -> list[int]:
        command = [sys.executable, "-c", PROGRAM, str(folder / "right.npz")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return [int(count) for count in done.stdout.split()]

    _, compiled = counts()
    assert compiled > 10
    found, compiled_again = counts()
    assert found > 10 and compiled_again == 0


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_every_item_comes_once_and_in_order(count: int) -> None:
    assert list(one_ahead(iter(range(count)))) == list(range(count))


def test_the_next_item_is_made_while_one_is_used() -> None:
    begun = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(begun):
            event.set()
            yield number

    for number in one_ahead(items()):
        if number < 2:
            assert begun[number + 1].wait(timeout=30)


def test_an_error_on_the_other_thread_is_raised_after_what_came_before() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    made = one_ahead(items())
    assert next(made) == 1
    with pytest.raises(ValueError, match="broken"):
        next(made)
