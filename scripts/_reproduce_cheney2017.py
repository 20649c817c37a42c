"""The study, network by network: weights, images, sweep, report. Run again, it goes on."""

import argparse
import subprocess
import sys
from pathlib import Path

IMAGENET_V2 = "imagenet_v2/matched-frequency"
# Preparing ImageNet-V2 needs TensorFlow, whose own pins need not agree with ours.
PREPARING = Path(".venv-prepare")


def run(*command: str | Path) -> None:
    print("+", *command, flush=True)
    code = subprocess.call([str(word) for word in command])
    if code:
        raise SystemExit(code)


def prepare_imagenet_v2() -> str:
    """The source of ImageNet-V2, downloaded and prepared if it isn't yet."""
    from jaxrobust.data import images
    from jaxrobust.ground.errors import SpecificationError

    source = f"tfds:{IMAGENET_V2}:test"
    try:
        images(source)
    except SpecificationError:
        python = PREPARING / "bin" / "python"
        if not python.exists():
            run(sys.executable, "-m", "venv", PREPARING)
        run(python, "-m", "pip", "install", "--quiet", "--editable", ".[prepare]")
        run(python, "-m", "jaxrobust", "prepare", IMAGENET_V2)
    return source


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/reproduce_cheney2017",
        description="Figure 1 of the study for each network: three kinds of damage to each layer, "
        "top-5 and top-1 accuracy, in OUT/NETWORK/run/report.html.",
    )
    parser.add_argument(
        "--data",
        help="a data source, such as imagenet-val:ILSVRC2012_img_val.tar "
        "(default: ImageNet-V2, which is downloaded)",
    )
    parser.add_argument("--networks", nargs="+", default=["alexnet", "vgg16"], metavar="NETWORK")
    parser.add_argument("--layers", nargs="+", default=["all"], metavar="LAYER")
    parser.add_argument("--images", type=int, help="how many (default: all)")
    parser.add_argument("--seeds", type=int, default=5, help="random draws (default: 5)")
    parser.add_argument(
        "--strengths",
        nargs="+",
        metavar="GRID",
        # The grids of the study.
        default=["synapse_knockout=0:0.9:0.1", "node_knockout=0:0.9:0.1", "weight_noise=0:2:0.2"],
    )
    parser.add_argument("--out", type=Path, default=Path("runs/cheney2017"))
    parser.add_argument(
        "--no-verify",
        action="store_true",
        help="accept other weights than the published ones from JAXROBUST_WEIGHTS_URL",
    )
    arguments = parser.parse_args()
    jaxrobust = (sys.executable, "-m", "jaxrobust")
    weights = {name: arguments.out / name / "weights" for name in arguments.networks}
    for name, folder in weights.items():
        if not folder.exists():
            verify = ["--no-verify"] if arguments.no_verify else []
            run(*jaxrobust, "port", name, "--out", folder, *verify)
    data = arguments.data or prepare_imagenet_v2()
    images = ["--images", str(arguments.images)] if arguments.images else []
    for name, folder in weights.items():
        run(*jaxrobust, "evaluate", folder, "--data", data, *images)
        out = arguments.out / name / "run"
        grid = ("--strengths", *arguments.strengths, "--layers", *arguments.layers)
        seeds = ("--seeds", str(arguments.seeds))
        run(*jaxrobust, "sweep", folder, "--data", data, *images, *grid, *seeds, "--out", out)
        run(*jaxrobust, "report", out)


if __name__ == "__main__":
    main()
