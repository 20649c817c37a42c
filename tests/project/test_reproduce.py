"""The study from weights on a server to figures, with random weights and a few photographs."""

import functools
import io
import os
import subprocess
import sys
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from jaxrobust.networks.zoo import lookup
from jaxrobust.storage.run_folder import open_run

ROOT = Path(__file__).resolve().parents[2]
LAYERS = {"alexnet": "conv1", "vgg16": "fc8"}


def validation_archive(photographs: Path, path: Path, count: int) -> None:
    """An archive named and laid out as the official one, of the first photographs of another."""
    with tarfile.open(photographs) as given, tarfile.open(path, "w") as made:
        members = [member for member in given if member.isfile()][:count]
        for number, member in enumerate(members, start=1):
            stream = given.extractfile(member)
            assert stream is not None
            content = stream.read()
            entry = tarfile.TarInfo(f"ILSVRC2012_val_{number:08}.JPEG")
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))


# Python imports it as `sitecustomize` in every process; it writes the peak memory in bytes.
PEAK_AT_EXIT = """
import atexit, os

def write():
    with open("/proc/self/status") as lines:
        [peak] = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    with open(os.path.join({folder!r}, str(os.getpid())), "w") as file:
        file.write(str(peak))

atexit.register(write)
"""


@pytest.mark.slow
def test_the_study_from_download_to_figure(tmp_path: Path, shared_data: Path) -> None:
    torch = pytest.importorskip("torch")
    import pytorch_networks

    served = tmp_path / "served"
    served.mkdir()
    made = {
        "alexnet": pytorch_networks.alexnet,
        "vgg16": lambda: pytorch_networks.vgg("11M22M444M888M888M", False, 224, 4096),
    }
    for name in LAYERS:
        weights = lookup(name).weights
        assert weights and weights.url
        file = served / Path(urlsplit(weights.url).path).name
        torch.save(made[name]().state_dict(), file)
    # What a process reports of its children begins with what this one holds, after other tests.
    measured, hook = tmp_path / "measured", tmp_path / "hook"
    measured.mkdir()
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(PEAK_AT_EXIT.format(folder=str(measured)))
    validation_archive(
        shared_data / "imagenet-sample-1000.tar", tmp_path / "ILSVRC2012_img_val.tar", 12
    )
    handler = functools.partial(SimpleHTTPRequestHandler, directory=served)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {
            **os.environ,
            "JAXROBUST_WEIGHTS_URL": f"http://127.0.0.1:{server.server_port}",
            "JAXROBUST_CACHE": str(tmp_path / "cache"),
            "PYTHONPATH": str(hook),
        }
        command = [sys.executable, "scripts/_reproduce_cheney2017.py", "--no-verify"]
        command += ["--data", f"imagenet-val:{tmp_path / 'ILSVRC2012_img_val.tar'}"]
        command += ["--seeds", "1", "--strengths", "0.5"]
        command += ["--out", str(tmp_path / "study")]
        for name, layer in LAYERS.items():
            words = [*command, "--networks", name, "--layers", layer]
            subprocess.run(words, cwd=ROOT, env=environment, check=True)
        server.shutdown()
    for name, layer in LAYERS.items():
        run = tmp_path / "study" / name / "run"
        result = open_run(run)
        assert result.layer.values.tolist() == [layer]
        assert (result["images"] == 12).all() and result.sizes["perturbation"] == 3
        assert (run / "figures" / "accuracy-top5.png").exists()
        assert (run / "report.html").exists()
    largest = max(int(file.read_text()) for file in measured.iterdir())
    assert largest < 8 * 2**30, f"{largest / 2**30:.1f} GiB"
