"""What a notebook leaves in the environment stops nothing, and stays as it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, pathlib, sys
import jaxrobust as jr
import jaxrobust.sweeps
from jaxrobust.figures import heat_map, save
from results_for_tests import STUDY, like_the_study, made
assert jr.images("glyphs")[0][0].shape
save(heat_map(made(like_the_study, STUDY, ("conv1",))), pathlib.Path(sys.argv[1]))
assert "matplotlib.pyplot" not in sys.modules
if os.environ["MPLBACKEND"] == "pdf":
    import matplotlib
    assert matplotlib.get_backend() == "pdf"
print(os.environ["MPLBACKEND"])
"""


@pytest.mark.parametrize(
    "backend", ["nonsense", "module://matplotlib_inline.backend_inline", "pdf", ""]
)
def test_any_backend_of_the_environment_will_do(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "figure.svg"
    paths = os.pathsep.join(
        [str(Path(__file__).parents[1] / "helpers"), os.environ.get("PYTHONPATH", "")]
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(path)],
        env=os.environ | {"MPLBACKEND": backend, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{backend}\n" and path.stat().st_size > 1000
