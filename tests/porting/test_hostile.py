"""Thousands of mutated files for every reader: each is read or refused in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1] / "helpers"


def run(first: int, number: int, folder: Path) -> None:
    """Reads so many files in a process of its own, which a crash or a hang cannot outlive."""
    paths = [str(TESTS.parents[1]), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-X", "faulthandler", "hostile_files.py", str(first), str(number)]
    done = subprocess.run(
        command,
        cwd=TESTS,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=60 + number,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not any(TESTS.glob("ran"))


def test_mutated_files_are_read_or_refused(tmp_path):
    run(0, 1_000, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1_000_000, 1_100_000, 10_000))
def test_a_hundred_thousand_mutated_files_are_read_or_refused(tmp_path, first):
    run(first, 10_000, tmp_path)
