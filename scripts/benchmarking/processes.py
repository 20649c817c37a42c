"""Processes of contenders, of which only one works at a time, and what they share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarking.workloads import Workload

BEGAN = time.perf_counter()
SCRIPTS = Path(__file__).resolve().parents[1]


def answer_of(module: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """Runs a module in a process of its own, whose last line of output is JSON."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, **environment},
        cwd=SCRIPTS,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{module} {' '.join(arguments)} failed; the lines above say why")
    return json.loads(done.stdout.splitlines()[-1])


class Worker:
    """A contender's process, asked over its standard input and output."""

    def __init__(self, contender: str, environment: Mapping[str, str]) -> None:
        self.contender = contender
        command = [sys.executable, "-m", "benchmarking.worker"]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            cwd=SCRIPTS,
            text=True,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def send(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.contender} failed; the lines above say why")
        return json.loads(line)

    def call(self, method: str, *arguments: Any) -> dict[str, Any]:
        return self.send(method=method, arguments=arguments)


def say(text: str) -> None:
    print(f"{time.perf_counter() - BEGAN:5.0f} s  {text}", file=sys.stderr, flush=True)


def prepare(workload: Workload, folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Has weights and images written; returns facts about JAX and its device."""
    arguments = (workload.network, str(workload.images), str(folder))
    return answer_of("benchmarking.data", *arguments, **environment)


@contextmanager
def prepared(
    name: str, workload: Workload
) -> Iterator[tuple[dict[str, Any], Callable[[str], Worker | None]]]:
    """Writes weights and images; gives facts about JAX and what starts a contender on them."""
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        folder = Path(made)
        # Nothing of the user's own cache; no process keeps an accelerator's memory to itself.
        environment = {
            "JAXROBUST_CACHE": str(folder / "cache"),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        say(f"{name}: weights and images")
        facts = prepare(workload, folder, environment)

        def opened(contender: str) -> Worker | None:
            worker = stack.enter_context(Worker(contender, environment))
            answer = worker.send(
                contender=contender,
                workload=asdict(workload),
                folder=made,
                accelerator=facts["platform"] != "cpu",
            )
            if "missing" in answer:
                say(f"{contender} is left out: {answer['missing']}")
                return None
            say(f"{name}: {contender} starts")
            return worker

        yield facts, opened
