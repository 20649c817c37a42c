"""A small network for the command, and how a wrong command ends."""

import pytest

import jaxrobust as jr
from jaxrobust.cli import main
from jaxrobust.networks.blueprint import Blueprint

SIDE, CLASSES, IMAGES = 32, 4, 22
SLOW = pytest.mark.slow
BLUEPRINT = Blueprint(
    "small",
    "alexnet",
    {
        "classes": CLASSES,
        "image_size": (SIDE, SIDE),
        "conv1_kernel": 3,
        "conv1_stride": 1,
        "conv1_padding": 1,
        "widths": (4, 4, 4, 4, 4),
        "dense_width": 8,
    },
    jr.Preprocessing((SIDE, SIDE), SIDE, "squash", mean=(128.0,), std=(64.0,)),
)


def ends_with(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a wrong command ends, with exit status 2."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and error.startswith("jaxrobust: error: ")
    return error
