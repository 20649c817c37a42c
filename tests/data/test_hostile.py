"""Archives, array files and images that lie about themselves: one line, soon, and little memory."""

import io
import os
import struct
import tarfile
import threading
import time
import zipfile
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxrobust.data import images
from jaxrobust.data.decoded import decoding
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.preprocessing import Preprocessing

rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (6, 5, 5, 3), np.uint8)


def encoded(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def header(name, size, kind=tarfile.REGTYPE, **fields):
    """A member's header; its size may be anything, in base 256."""
    member = tarfile.TarInfo(name)
    member.type = kind
    member.mtime = 0
    for field, value in fields.items():
        setattr(member, field, value)
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (size % 256**12).to_bytes(12, "big")
    block[124] = 0o377 if size < 0 else 0o200
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


def padded(content):
    return content + bytes(-len(content) % 512)


def write_tar(path, *parts, end=bytes(1024)):
    path.write_bytes(b"".join(map(padded, parts)) + end)
    return f"tar:{path}"


def refusal(source, match, name=""):
    with pytest.raises(SpecificationError, match=match) as error:
        opened = images(source)
        for pixels, _ in opened:
            assert pixels.dtype == np.uint8
    assert str(error.value).isprintable() and name in str(error.value)
    return str(error.value)


PHOTO = encoded(PIXELS[0])


@pytest.mark.parametrize("size", [10**15, 10**18, 2**80, -1, -512, -(10**15)])
@pytest.mark.parametrize("name", ["a/x.png", "notes.txt"])
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_member_that_claims_what_cannot_be(tmp_path, size, name, place):
    good = [header("a/good.png", len(PHOTO)), PHOTO]
    bad = [header(name, size)]
    parts = bad + good if place == "first" else good + bad
    refusal(write_tar(tmp_path / "x.tar", *parts), "complete tar archive")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.parametrize("size", [10**15, 2**80, -512])
def test_a_long_name_that_claims_what_cannot_be(tmp_path, kind, size):
    good = [header("a/good.png", len(PHOTO)), PHOTO]
    parts = [*good, header("x", size, kind), b"name", *good]
    with pytest.raises(SpecificationError) as error:
        images(write_tar(tmp_path / "x.tar", *parts))
    assert str(error.value).isprintable()


@pytest.mark.parametrize("size", ["-1", "-100000", str(10**15)])
def test_sizes_of_extended_headers_are_claims_too(tmp_path, size):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("a/x.png")
        member.pax_headers = {"size": size}
        archive.addfile(member, io.BytesIO())
    refusal(f"tar:{path}", "complete tar archive")


def test_every_flipped_byte_of_a_header_is_noticed_or_harmless(tmp_path):
    """Python takes a header that is damaged for the end of the archive."""
    parts = [b"".join((header(f"a/{i}.png", len(PHOTO)), padded(PHOTO))) for i in range(3)]
    whole, start = b"".join(parts) + bytes(1024), len(parts[0])
    for position in range(0, 512, 7):
        damaged = bytearray(whole)
        damaged[start + position] ^= 0x21
        (tmp_path / "x.tar").write_bytes(damaged)
        try:
            assert len(images(f"tar:{tmp_path / 'x.tar'}")) == 3
        except SpecificationError as error:
            assert "x.tar" in str(error)


def test_sparse_members_are_refused(tmp_path):
    old = header("a/x.png", len(PHOTO), tarfile.GNUTYPE_SPARSE)
    refusal(
        write_tar(tmp_path / "old.tar", old, PHOTO), r"'a/x.png' is stored in pieces \(sparse\)"
    )
    for headers in (
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "5000"},
        {"GNU.sparse.map": "0,100", "GNU.sparse.size": "5000", "GNU.sparse.numblocks": "1"},
        {"GNU.sparse.major": "7", "GNU.sparse.minor": "0"},
    ):
        content = b"1\n0\n100\n".ljust(512, b"\0") + PHOTO
        with tarfile.open(tmp_path / "new.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            member = tarfile.TarInfo("a/x.png")
            member.size, member.pax_headers = len(content), headers
            archive.addfile(member, io.BytesIO(content))
        refusal(f"tar:{tmp_path / 'new.tar'}", "sparse")


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_members_that_are_no_files_are_refused(tmp_path, kind):
    refusal(write_tar(tmp_path / "x.tar", header("a/x.png", 0, kind)), "'a/x.png' is no file")


@pytest.mark.parametrize("command", ["gunzip", "bunzip2", "unxz"])
def test_compressed_archives_say_the_way_out(tmp_path, command):
    kind = {"gunzip": "gz", "bunzip2": "bz2", "unxz": "xz"}[command]
    path = tmp_path / f"imagenetv2-matched-frequency.tar.{kind}"
    opened: Any = tarfile.open
    with opened(path, f"w:{kind}") as archive:
        member = tarfile.TarInfo("top/0/x.jpeg")
        member.size = len(PHOTO)
        archive.addfile(member, io.BytesIO(PHOTO))
    refusal(f"tar:{path}", rf"is compressed .*possible: unpack it once \({command}\).*folder:PATH")


@pytest.mark.parametrize(
    "name", ["\x1b[2J\x1b]0;owned\x07", "a\nb", "\u202egnp", "\udcff", "\x9b31m"]
)
def test_names_never_steer_a_terminal(tmp_path, name):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for place in (f"a/{name}.png", f"{name}/b.png"):
            member = tarfile.TarInfo(place)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"nope"))
    refusal(f"tar:{tmp_path / 'x.tar'}", "cannot be decoded")
    with pytest.raises(SpecificationError) as error:
        images(f"tar:{tmp_path / 'x.tar'}").with_classes(["cat", "dog", "eel"], 3)
    assert str(error.value).isprintable()
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        member = tarfile.TarInfo(f"{name}.png")
        archive.addfile(member)
    assert "no class folder" in refusal(f"tar:{tmp_path / 'x.tar'}", "lies in")


def array(shape, data=b"", dtype="|u1"):
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    "shape", [(10**15, 8, 8, 3), (10**6, 1000, 1000, 3), (2**63, 2**63), (-1, 8, 8), (7, 5, 5, 3)]
)
@pytest.mark.parametrize("name", ["images", "labels"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_arrays_that_claim_more_than_is_there(tmp_path, shape, name, compression):
    good = {"images": array(PIXELS.shape, PIXELS.tobytes()), "labels": array((6,), bytes(6))}
    with zipfile.ZipFile(tmp_path / "x.npz", "w", compression) as archive:
        for each, content in (good | {name: array(shape, bytes(400))}).items():
            archive.writestr(f"{each}.npy", content)
    refusal(f"npz:{tmp_path / 'x.npz'}", "cannot be read as an .npz file")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_byte_of_an_npz_is_one_line_or_harmless(tmp_path, save):
    save(tmp_path / "x.npz", images=PIXELS, labels=np.arange(6) % 3)
    whole, expected = (tmp_path / "x.npz").read_bytes(), images(f"npz:{tmp_path / 'x.npz'}")
    for position in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        (tmp_path / "x.npz").write_bytes(damaged)
        try:
            found = images(f"npz:{tmp_path / 'x.npz'}")
        except SpecificationError as error:
            assert str(error).isprintable()
        else:
            assert found.fingerprint() == expected.fingerprint()


def test_an_npz_larger_than_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=np.arange(6))
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 100}[name])
    refusal(f"npz:{tmp_path / 'x.npz'}", "more than this machine's memory .100 B.; possible: fewer")


def bomb(width, height):
    """A PNG of one grey that is small in the file."""

    def chunk(name, content):
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    start = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes((width + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", start), chunk(b"IDAT", data), chunk(b"IEND", b""))
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("times", [1, 3])  # beyond its bound Pillow warns, beyond twice it refuses
def test_an_image_of_too_many_pixels_is_refused(tmp_path, monkeypatch, times):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(bomb(1001, times))
    refusal(f"folder:{tmp_path}", "a/x.png: .* pixels.*(1,000|2000)")
    (tmp_path / "a" / "x.png").write_bytes(bomb(1000, 1))
    assert len(list(images(f"folder:{tmp_path}"))) == 1
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # whoever wants no bound
    (tmp_path / "a" / "x.png").write_bytes(bomb(1001, times))
    assert len(list(images(f"folder:{tmp_path}"))) == 1


def test_what_is_decoded_at_once_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_MOST_AT_ONCE", 250)
    for index in range(12):
        (tmp_path / "ab"[index % 2]).mkdir(exist_ok=True)
        (tmp_path / "ab"[index % 2] / f"{index}.png").write_bytes(bomb(10, 10))
    (tmp_path / "a" / "large.png").write_bytes(bomb(30, 30))
    source = images(f"folder:{tmp_path}")
    held, most, lock = 0, [], threading.Lock()

    def crop(pixels):
        nonlocal held
        with lock:
            held += pixels[..., 0].size
            most.append(held)
        time.sleep(0.005)
        with lock:
            held -= pixels[..., 0].size
        return pixels[:1, :1]

    source.decode(0, len(source), crop)
    assert set(most) <= {100, 200, 900} and 900 in most


@pytest.mark.parametrize("shape", [(1, 70_000), (70_000, 1)])
def test_a_line_of_pixels_is_not_enlarged_to_gigabytes(shape):
    line = np.zeros((*shape, 3), np.uint8)
    with pytest.raises(
        SpecificationError, match="would be enlarged to .*possible: resize 'squash'"
    ):
        Preprocessing((224, 224), 256, "shorter").crop(line)
    assert Preprocessing((224, 224), 256, "squash").crop(line).shape == (224, 224, 3)


@pytest.mark.parametrize("kind", ["folder", "imagenet-val"])
def test_a_pipe_among_images_is_not_waited_for(tmp_path, kind):
    (tmp_path / "n01751748").mkdir()
    os.mkfifo(tmp_path / "n01751748" / "ILSVRC2012_val_00000001.JPEG")
    refusal(f"{kind}:{tmp_path}", r"cannot be read \(is not a file\)", "ILSVRC2012_val_00000001")


@pytest.mark.parametrize("kind", ["folder", "tar", "npz", "imagenet-val"])
@pytest.mark.parametrize("path", ["x" * 300, "~nobody-has-this-name/x"])
def test_a_path_that_cannot_be_looked_at_is_one_line(kind, path):
    refusal(f"{kind}:{path}", "cannot be looked at|there is no such path")
