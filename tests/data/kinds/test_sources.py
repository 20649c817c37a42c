"""The source strings: folders, archives and array files."""

import gzip
import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from jaxrobust.data import SOURCES, images
from jaxrobust.ground.errors import SpecificationError

rng = np.random.default_rng(0)
PHOTOGRAPHS = {
    f"{folder}/{name}.png": rng.integers(0, 256, (height, 6, 3), np.uint8)
    for folder, names in {"cat": "abc", "dog": "ab", "eel": "abcd"}.items()
    for height, name in enumerate(names, start=4)
}


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_folder(root, photographs=PHOTOGRAPHS):
    for path, pixels in photographs.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(pixels))
    return f"folder:{root}"


def write_tar(path, contents):
    with tarfile.open(path, "w") as archive:
        for name, content in contents:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return f"tar:{path}"


def everything(source):
    return [(pixels.tolist(), label) for pixels, label in source]


@pytest.fixture
def as_folder(tmp_path):
    return images(write_folder(tmp_path / "photos"))


def test_a_folder_holds_every_photograph_with_its_class(as_folder):
    expected = [
        (pixels.tolist(), ["cat", "dog", "eel"].index(path.split("/")[0]))
        for path, pixels in PHOTOGRAPHS.items()
    ]
    assert len(as_folder) == 9
    assert sorted(everything(as_folder)) == sorted(expected)


@pytest.mark.parametrize("top", ["", "./", "deep/down/"])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_an_archive_equals_the_folder(tmp_path, as_folder, top, form, monkeypatch):
    monkeypatch.setattr(tarfile.TarFile, "format", form)
    contents = [(top + path, png(pixels)) for path, pixels in reversed(PHOTOGRAPHS.items())]
    source = images(write_tar(tmp_path / "photos.tar", contents))
    assert everything(source) == everything(as_folder)
    assert source.fingerprint() == as_folder.fingerprint()


def test_archives_may_hold_other_things(tmp_path, as_folder):
    others = [("cat/._a.png", b"\0"), ("README.txt", b"photos"), ("__MACOSX/cat/a.png", b"\0")]
    contents = [*others, *((path, png(pixels)) for path, pixels in PHOTOGRAPHS.items())]
    path = tmp_path / "photos.tar"
    write_tar(path, contents)
    with tarfile.open(path, "a") as archive:
        folder = tarfile.TarInfo("odd.png")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    assert everything(images(f"tar:{path}")) == everything(as_folder)


def test_of_two_members_with_one_name_the_last_counts(tmp_path):
    first, last = (np.full((2, 2, 3), value, np.uint8) for value in (1, 2))
    source = write_tar(tmp_path / "x.tar", [("a/x.png", png(first)), ("./a/x.png", png(last))])
    assert everything(images(source)) == [(last.tolist(), 0)]


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_links_in_an_archive_are_refused(tmp_path, kind):
    path = tmp_path / "x.tar"
    write_tar(path, [("a/x.png", png(np.zeros((2, 2, 3), np.uint8)))])
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("a/y.png")
        link.type, link.linkname = kind, "a/x.png"
        archive.addfile(link)
    with pytest.raises(SpecificationError, match="'a/y.png' is a link; possible: .*--dereference"):
        images(f"tar:{path}")


def test_links_in_a_folder_are_followed(tmp_path):
    write_folder(tmp_path / "real")
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("cat", "dog", "eel"):
        (linked / name).symlink_to(tmp_path / "real" / name)
    assert everything(images(f"folder:{linked}")) == everything(images(f"folder:{tmp_path}/real"))


def test_a_class_folder_that_cannot_be_listed_is_not_left_out(tmp_path, monkeypatch):
    write_folder(tmp_path)
    scandir = os.scandir

    def refuse_dogs(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_dogs)
    with pytest.raises(SpecificationError, match=r"cannot read '.*dog' \(Permission denied\)"):
        images(f"folder:{tmp_path}")


def test_a_home_folder_is_found(tmp_path, as_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert everything(images("folder:~/photos")) == everything(as_folder)


@pytest.mark.parametrize("shape", [(7, 5, 4), (7, 5, 4, 1), (7, 5, 4, 3)])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays(tmp_path, shape, save):
    pixels, labels = rng.integers(0, 256, shape, np.uint8), np.array([3, 1, 1, 0, 3, 3, 1])
    save(tmp_path / "x.npz", images=pixels, labels=labels)
    source = images(f"npz:{tmp_path / 'x.npz'}")
    colour = np.broadcast_to(pixels.reshape(7, 5, 4, -1), (7, 5, 4, 3))
    assert sorted(everything(source)) == sorted(zip(colour.tolist(), labels.tolist(), strict=True))
    assert sorted(source.labels[:3].tolist()) == [0, 1, 3]


GOOD = {"images": np.zeros((4, 5, 5), np.uint8), "labels": np.arange(4)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": GOOD["images"]}, "has no array labels; it holds images"),
        ({"x": GOOD["images"], "y": GOOD["labels"]}, "no array images and no array labels.* x, y"),
        (GOOD | {"images": np.zeros((4, 5, 5))}, "must be uint8 .* not float64"),
        (GOOD | {"images": np.zeros((4, 3, 5, 5), np.uint8)}, r"not uint8 \(4, 3, 5, 5\)"),
        (GOOD | {"images": np.zeros((4, 25), np.uint8)}, r"not uint8 \(4, 25\)"),
        (GOOD | {"labels": np.arange(3)}, r"one for each of the 4 images, not int64 \(3,\)"),
        (GOOD | {"labels": np.ones(4)}, "labels must be integers"),
        (GOOD | {"labels": np.eye(4, dtype=int)}, "labels must be integers"),
        (GOOD | {"labels": np.array([0, 1, -1, 2])}, "class indices from 0, not -1 to 2"),
        (GOOD | {"labels": np.array([0, 1, 2**40, 2])}, "class indices from 0"),
        ({"images": np.zeros((0, 5, 5), np.uint8), "labels": np.arange(0)}, "no images"),
        (GOOD | {"labels": np.array([{}] * 4)}, "cannot be read as an .npz file"),
    ],
)
def test_wrong_arrays(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(SpecificationError, match=f"x.npz: .*{message}"):
        images(f"npz:{tmp_path / 'x.npz'}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "photos",
            "'photos' is not a data source; possible: folder:PATH, glyphs, imagenet-val",
        ),
        ("rar:x.rar", "'rar:x.rar' is not a data source; possible: folder:PATH"),
        ("tar:", "'tar:' is not a data source; possible: tar:PATH"),
        ("npz", "'npz' is not a data source; possible: npz:PATH"),
        ("tar:{0}/none.tar", "none.tar: there is no such path"),
        ("npz:{0}/none.npz", "none.npz: there is no such path"),
        ("folder:{0}/none", "none: there is no such path"),
        ("tar:{0}", "is not a file; for a folder of class folders, use folder:PATH"),
        ("folder:{0}/noise", "is not a folder; for an archive, use tar:PATH or npz:PATH"),
        ("tar:{0}/noise", "cannot be read as an uncompressed, complete tar archive"),
        ("npz:{0}/noise", "cannot be read as an .npz file"),
        ("npz:{0}/empty", "cannot be read as an .npz file"),
        ("npz:{0}/single.npy", "is a single array"),
        ("tar:{0}/empty", "cannot be read as an uncompressed, complete tar archive"),
        ("folder:{0}", "holds no images"),
        ("tar:{0}/texts.tar", "holds no images"),
        ("tar:{0}/packed.tar.gz", r"is compressed \(gzip\).*possible: unpack it once \(gunzip\)"),
        ("tar:{0}/cut.tar", "cannot be read as an uncompressed, complete tar archive"),
    ],
)
def test_wrong_sources_are_one_clear_line(tmp_path, source, message):
    (tmp_path / "noise").write_bytes(rng.bytes(2000))
    (tmp_path / "empty").write_bytes(b"")
    np.save(tmp_path / "single.npy", np.arange(3))
    photo = [("a/x.png", png(rng.integers(0, 256, (50, 50, 3), np.uint8)))]
    write_tar(tmp_path / "texts.tar", [("a/x.txt", b"x")])
    write_tar(tmp_path / "whole.tar", photo)
    whole = (tmp_path / "whole.tar").read_bytes()
    (tmp_path / "packed.tar.gz").write_bytes(gzip.compress(whole))
    (tmp_path / "cut.tar").write_bytes(whole[:3000])
    with pytest.raises(SpecificationError, match=message) as error:
        images(source.format(tmp_path))
    assert "\n" not in str(error.value)


def test_every_kind_of_source_says_what_it_is():
    assert {"folder", "glyphs", "imagenet-val", "npz", "tar", "tfds"} == set(SOURCES)
    for prefix, kind in SOURCES.items():
        assert kind.usage.startswith(prefix) and kind.summary.endswith(".")
