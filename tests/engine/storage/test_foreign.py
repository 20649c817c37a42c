"""Run folders that others have made: nothing outside of them is read, and what is wrong is said."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t, h5z  # pyright: ignore[reportAttributeAccessIssue]
from results_for_tests import KNOCKOUTS, like_the_study, made, written

import jaxrobust as jr
from jaxrobust.cli import main
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.report import write_report
from jaxrobust.storage.run_folder import is_written, read_record

SECRET = np.arange(80, dtype=np.int64) + 1_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder whose `results.nc` no digest protects."""
    made_here = made(like_the_study, {"resample": KNOCKOUTS}, ("conv", "fc"))
    folder = written(made_here, tmp_path / "run")
    described = json.loads((folder / "sweep.json").read_text())
    described.pop("files")
    (folder / "sweep.json").write_text(json.dumps(described))
    SECRET.tofile(tmp_path / "secret")
    with h5py.File(tmp_path / "secret.h5", "w") as other:
        other["top1"] = SECRET
    return folder


def shape_of(file: h5py.File) -> tuple[int, ...]:
    array = file["top1"]
    assert isinstance(array, h5py.Dataset)
    return array.shape


def external_storage(file: h5py.File, secret: Path) -> None:
    shape = shape_of(file)
    del file["top1"]
    file.create_dataset(
        "top1", shape, np.int64, external=[(str(secret), 0, 8 * int(np.prod(shape)))]
    )


def external_link(file: h5py.File, secret: Path) -> None:
    del file["top1"]
    file["top1"] = h5py.ExternalLink(f"{secret}.h5", "/top1")


def soft_link(file: h5py.File, secret: Path) -> None:
    del file["top1"]
    file["top1"] = h5py.SoftLink("/top5")


def virtual(file: h5py.File, secret: Path) -> None:
    shape = shape_of(file)
    del file["top1"]
    layout = h5py.VirtualLayout((int(np.prod(shape)),), np.int64)
    layout[:] = h5py.VirtualSource(f"{secret}.h5", "top1", (80,))
    file.create_virtual_dataset("top1", layout)


def in_a_group(file: h5py.File, secret: Path) -> None:
    file.create_group("more")["top1"] = h5py.ExternalLink(f"{secret}.h5", "/top1")


def filtered(file: h5py.File, secret: Path) -> None:
    shape = shape_of(file)
    del file["top1"]
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_chunk(shape)
    plist.set_filter(32015, h5z.FLAG_OPTIONAL)
    h5d.create(file.id, b"top1", h5t.NATIVE_INT64, h5s.create_simple(shape), plist)


def huge(file: h5py.File, secret: Path) -> None:
    file.create_dataset("more", (10**15,), np.int8, chunks=(2**20,))


def twice(file: h5py.File, secret: Path) -> None:
    file["more"] = file["top1"]


def hostile_label(file: h5py.File, secret: Path) -> None:
    labels = file["layer"]
    assert isinstance(labels, h5py.Dataset)
    labels[0] = "\x1b[2Jconv"


def hostile_attribute(file: h5py.File, secret: Path) -> None:
    file.attrs["identity"] = "[" * 100_000


def another_kind(file: h5py.File, secret: Path) -> None:
    file.attrs["depth"] = "{}"


def no_number(file: h5py.File, secret: Path) -> None:
    file.attrs["classes"] = "many"


def no_json(file: h5py.File, secret: Path) -> None:
    file.attrs["warnings"] = "nonsense"


def warnings_of_another_kind(file: h5py.File, secret: Path) -> None:
    file.attrs["warnings"] = json.dumps(["\x1b[2J"])


def several_numbers(file: h5py.File, secret: Path) -> None:
    file.attrs["finished"] = [1, 2]


def identity_in_words(file: h5py.File, secret: Path) -> None:
    file.attrs["identity"] = '{"resample": "none"}'


def changed(file: h5py.File, name: str, value: float) -> None:
    values = file[name]
    assert isinstance(values, h5py.Dataset)
    values[(0,) * values.ndim] = value


def strength_nan(file: h5py.File, secret: Path) -> None:
    changed(file, "strength", np.nan)


def too_many(file: h5py.File, secret: Path) -> None:
    changed(file, "top1", 10**6)


def below_nothing(file: h5py.File, secret: Path) -> None:
    changed(file, "clean_top5", -1)


def images_below_nothing(file: h5py.File, secret: Path) -> None:
    changed(file, "images", -5)


def no_counts(file: h5py.File, secret: Path) -> None:
    del file["images"]


CHANGES: dict[Callable[[h5py.File, Path], None], str] = {
    external_storage: "top1 lies in another file",
    external_link: "'top1' is a link to another place",
    soft_link: "'top1' is a link to another place",
    virtual: "top1 lies in another file",
    in_a_group: "'top1' is a link to another place",
    filtered: "top1 needs a filter that is not part of HDF5",
    huge: "its arrays claim 1,000,000,0",
    twice: "one thing under two names",
    hostile_label: r"'\x1b[2Jconv' is no name of a layer",
    hostile_attribute: "its attribute identity is damaged",
    another_kind: "its attribute depth is damaged",
    no_number: "its attribute classes is no number",
    no_json: "its attribute warnings is damaged",
    warnings_of_another_kind: "its attribute warnings is damaged",
    several_numbers: "its attribute finished is no number",
    identity_in_words: "its attribute identity is damaged",
    strength_nan: "a strength in it is no finite number",
    too_many: "top1 in it is below 0 or more than images",
    below_nothing: "clean_top5 in it is below 0 or more than clean_images",
    images_below_nothing: "images in it is below 0",
    no_counts: "this dataset has no images",
}


def refused(function: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(SpecificationError) as caught:
        function(*arguments)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_foreign_result_leads_nowhere_else(
    change: Callable[[h5py.File, Path], None], folder: Path, tmp_path: Path
) -> None:
    assert jr.open_run(folder)["top1"].sizes["layer"] == 2
    with h5py.File(folder / "results.nc", "a") as file:
        change(file, tmp_path / "secret")
    message = refused(jr.open_run, folder)
    assert message.startswith(f"{folder / 'results.nc'} cannot be read (")
    assert CHANGES[change] in message


@pytest.mark.parametrize("name", ["strength", "top1", "clean_loss"])
def test_text_where_numbers_belong_is_refused_in_one_line(name: str, folder: Path) -> None:
    result = jr.open_run(folder, blocks=True)
    words = result.assign({name: result[name].astype(str)})
    words.to_netcdf(folder / "results.nc", engine="h5netcdf")
    assert f"'{name}' in it holds no numbers" in refused(jr.open_run, folder)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x89HDF\r\n\x1a\n", None])
def test_a_damaged_result_is_refused_in_one_line(content: bytes | None, folder: Path) -> None:
    path = folder / "results.nc"
    path.write_bytes(path.read_bytes()[:-1000] if content is None else content)
    for read in (jr.open_run, write_report):
        assert "results.nc cannot be read (" in refused(read, folder)


def test_what_is_not_a_file_is_not_waited_for(folder: Path) -> None:
    record = json.loads((folder / "sweep.json").read_text())
    record["files"] = {"results.csv": "0"}
    (folder / "sweep.json").write_text(json.dumps(record))
    (folder / "results.csv").unlink()
    os.mkfifo(folder / "results.csv")
    assert "results.csv cannot be read" in refused(is_written, folder)
    for name in ("results.nc", "sweep.json"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert f"{name} cannot be read" in refused(jr.open_run, folder)


TEXTS = [
    "[]",
    "null",
    "0",
    '"text"',
    "{}",
    "",
    "{",
    "[" * 100_000,
    "\ud800".encode("utf-8", "surrogatepass"),
    '{"finished": null}',
    '{"finished": true, "specification": []}',
    '{"finished": true, "specification": null}',
    '{"finished": true, "files": []}',
    '{"finished": true, "files": {"results.nc": 1}}',
    '{"finished": true, "files": {"/dev/zero": "0"}}',
    '{"finished": true, "versions": [], "device": 3}',
]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text)[:40])
def test_a_sweep_json_of_another_kind_is_refused_in_one_line(
    text: str | bytes, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "sweep.json").write_bytes(text.encode() if isinstance(text, str) else text)
    for read in (read_record, jr.open_run, write_report):
        assert "sweep.json cannot be read: " in refused(read, folder)
    for command in ("report", "status"):
        with pytest.raises(SystemExit) as caught:
            main([command, str(folder)])
        error = capsys.readouterr().err
        assert caught.value.code == 2 and error.count("\n") == 1
        assert "sweep.json cannot be read: " in error


@pytest.mark.parametrize("field", ["specification", "versions", "device", "hash"])
def test_a_sweep_json_that_lacks_something_is_refused_by_the_report(
    field: str, folder: Path
) -> None:
    record = json.loads((folder / "sweep.json").read_text())
    del record[field]
    (folder / "sweep.json").write_text(json.dumps(record))
    assert jr.open_run(folder).sizes["seed"] == 4
    assert "does not say all that a report tells of a run" in refused(write_report, folder)
    assert not (folder / "figures").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strengths", 3),
        ("strengths", [["resample"]]),
        ("layers", [1]),
        ("images", "many"),
        ("preprocessing", "["),
        ("metrics", [1]),
        ("import_paths", None),
    ],
)
def test_a_specification_of_another_kind_is_refused_by_the_report(
    field: str, value: Any, folder: Path
) -> None:
    record = json.loads((folder / "sweep.json").read_text())
    record["specification"][field] = value
    (folder / "sweep.json").write_text(json.dumps(record))
    assert "does not say all that a report tells of a run" in refused(write_report, folder)
