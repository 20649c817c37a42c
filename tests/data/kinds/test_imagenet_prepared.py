"""ImageNet as TFDS's own builder prepares it, from real photographs in an archive like ILSVRC's.

Preparing needs TensorFlow and happens in a process of its own; reading back must do without it.
"""

import io
import subprocess
import sys
import tarfile
from importlib.util import find_spec

import numpy as np
import pytest

from jaxrobust.data import images
from jaxrobust.data.kinds.imagenet_val import validation_labels, wordnet_ids

COUNT = 60
_PREPARE = """
import sys
from jaxrobust.data.kinds.tfds import prepare
print(prepare("imagenet2012", manual_dir=sys.argv[1], data_dir=sys.argv[2]))
"""


@pytest.mark.slow
def test_imagenet2012_is_prepared_with_tensorflow_and_read_without(
    shared_data, tmp_path, monkeypatch
):
    if not find_spec("tensorflow"):
        pytest.skip("needs TensorFlow: pip install 'jaxrobust[prepare]'")
    photographs = {}
    with tarfile.open(shared_data / "imagenet-sample-1000.tar") as archive:
        for member in archive:
            if member.isreg():
                file = archive.extractfile(member)
                assert file is not None
                photographs[member.name.split("/")[-2]] = file.read()
    manual = tmp_path / "manual"
    manual.mkdir()
    with tarfile.open(manual / "ILSVRC2012_img_val.tar", "w") as archive:
        # TFDS counts the archive's files, so these have to be the first of the validation set.
        for number, label in enumerate(validation_labels()[:COUNT], start=1):
            content = photographs[wordnet_ids()[label]]
            member = tarfile.TarInfo(f"ILSVRC2012_val_{number:08d}.JPEG")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    subprocess.run(
        [sys.executable, "-c", _PREPARE, manual, tmp_path / "tfds"],
        env={"PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
        timeout=300,
    )

    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path / "tfds"))
    read = images("tfds:imagenet2012:validation")
    original = images(f"imagenet-val:{manual / 'ILSVRC2012_img_val.tar'}")
    assert read.store.folders == wordnet_ids()
    assert read.fingerprint() == original.fingerprint()  # the same bytes and labels in one order
    np.testing.assert_array_equal(read[7][0], original[7][0])
    assert len(images("tfds:imagenet2012:validation[:20]")) == 20
    assert "tensorflow" not in sys.modules
