"""Downloads from a local server that breaks off, lies, stalls or is not there."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weights_server import CHECKSUM, CONTENT, SHA256, Server, kept, refusal, url

from jaxrobust.networks import download as module
from jaxrobust.networks import zoo
from jaxrobust.networks.download import download
from jaxrobust.networks.entry import Entry, WeightSource
from jaxrobust.networks.port import port
from jaxrobust.porting.recipes import pytorch


def test_a_file_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    reports: list[tuple[int, int | None]] = []
    file = download(url(server), CHECKSUM, report=lambda *numbers: reports.append(numbers))
    assert file.read_bytes() == CONTENT and file.name == "weights.pth"
    assert reports[0] == (0, len(CONTENT)) and reports[-1] == (len(CONTENT), len(CONTENT))
    assert reports == sorted(reports) and len(reports) > 2
    assert download(url(server), CHECKSUM) == file and len(server.requests) == 1
    assert kept(server, tmp_path) == ["weights.pth"]


@pytest.mark.parametrize("checksum", [CHECKSUM, None])
def test_an_interruption_is_resumed(server: Server, checksum: str | None) -> None:
    server.breaks = [1_000_000, 500_000, 1, 1, 1, 1, 1]  # more often than there are attempts
    assert download(url(server), checksum).read_bytes() == CONTENT
    starts = [1_000_000, *range(1_500_000, 1_500_006)]
    assert server.requests == [None, *(f"bytes={start}-" for start in starts)]


def test_a_later_call_goes_on(server: Server, tmp_path: Path) -> None:
    server.breaks, server.status = [1_200_000], []
    server.on_request = lambda: server.status.extend([404] * (len(server.requests) == 2))
    assert "404" in refusal(url(server), CHECKSUM)
    assert kept(server, tmp_path) == ["weights.pth.part"]
    assert download(url(server), CHECKSUM).read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=1200000-"
    assert kept(server, tmp_path) == ["weights.pth"]


def test_without_a_checksum_a_later_call_starts_again(server: Server) -> None:
    server.breaks = [1_200_000]
    server.on_request = lambda: server.status.extend([404] * (len(server.requests) == 2))
    refusal(url(server))
    server.content = CONTENT[::-1]
    assert download(url(server)).read_bytes() == CONTENT[::-1]
    assert server.requests[-1] is None


@pytest.mark.parametrize("etag", ['"one"', None])
def test_a_file_that_changes_meanwhile_starts_again(server: Server, etag: str | None) -> None:
    server.etag, server.breaks = etag, [1_000_000]

    def change() -> None:
        if len(server.requests) == 2:
            server.content, server.etag = CONTENT[::-1], etag and '"two"'

    server.on_request = change
    assert download(url(server)).read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_starts_again(server: Server) -> None:
    server.ranges, server.breaks = False, [1_000_000]
    assert download(url(server), CHECKSUM).read_bytes() == CONTENT


def partial(server: Server, tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "cache" / "weights" / f"127.0.0.1_{server.server_address[1]}"
    folder.mkdir(parents=True)
    (folder / "weights.pth.part").write_bytes(content)


@pytest.mark.parametrize(
    "piece",
    [CONTENT, CONTENT + b"more", CONTENT[::-1], CONTENT[1:1000], b""],
    ids=["complete", "too long", "wrong", "of another version", "empty"],
)
def test_whatever_was_left_behind_ends_well(server: Server, tmp_path: Path, piece: bytes) -> None:
    partial(server, tmp_path, piece)
    assert download(url(server), CHECKSUM).read_bytes() == CONTENT
    assert kept(server, tmp_path) == ["weights.pth"]


def test_a_wrong_checksum_is_refused_and_nothing_kept(server: Server, tmp_path: Path) -> None:
    message = refusal(url(server), "sha256:00000000")
    assert f"starts with {SHA256[:8]}, not with 00000000" in message
    assert kept(server, tmp_path) == [] and len(server.requests) == 1


def test_a_damaged_file_in_the_cache_is_replaced(server: Server) -> None:
    file = download(url(server), CHECKSUM)
    file.write_bytes(CONTENT[:-1])
    assert download(url(server), CHECKSUM).read_bytes() == CONTENT


@pytest.mark.parametrize(("algorithm", "verify"), [("md5", True), ("sha1", True), ("sha1", False)])
def test_other_checksums(server: Server, algorithm: str, verify: bool) -> None:
    digest = hashlib.new(algorithm, CONTENT).hexdigest() if verify else "0" * 40
    found = download(url(server), f"{algorithm}:{digest}", verify=verify)
    assert found.read_bytes() == CONTENT


def test_a_missing_file_says_so_at_once(server: Server, tmp_path: Path) -> None:
    server.status = [404]
    message = refusal(url(server), CHECKSUM)
    assert f"can't download {url(server)}: the server answers 404 Not Found" in message
    place = tmp_path / "cache" / "weights" / f"127.0.0.1_{server.server_address[1]}" / "weights.pth"
    assert f"put it at {place}" in message
    assert len(server.requests) == 1 and kept(server, tmp_path) == []
    place.write_bytes(CONTENT)
    assert download(url(server), CHECKSUM) == place and len(server.requests) == 1


def test_passing_troubles_are_waited_for(server: Server) -> None:
    server.status = [503, 429, 500]
    assert download(url(server), CHECKSUM).read_bytes() == CONTENT
    server.status = [503] * 9
    assert "503 Service Unavailable" in refusal(f"{url(server)}x", CHECKSUM)
    assert len(server.requests) == 8


def test_a_silent_server_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.05)
    done = threading.Event()
    server.on_request = lambda: done.wait(10)
    message = refusal(url(server), CHECKSUM)
    done.set()
    assert "timed out" in message


def test_offline_the_address_and_the_place_are_named(server: Server, tmp_path: Path) -> None:
    message = refusal("http://127.0.0.1:9/models/vgg.pth", CHECKSUM)
    assert "can't download http://127.0.0.1:9/models/vgg.pth: [Errno 111]" in message
    assert f"put it at {tmp_path}/cache/weights/127.0.0.1_9/vgg.pth" in message
    assert "no-such-host.invalid" in refusal("https://no-such-host.invalid/vgg.pth")
    assert "starts with http" in refusal("file:///etc/passwd")


def test_a_full_disk_is_noticed_before_the_download(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    assert "no room for 3,000,000 bytes" in refusal(url(server), CHECKSUM)


def test_two_at_once_download_it_once(server: Server, tmp_path: Path) -> None:
    arrived = threading.Event()
    server.on_request = lambda: arrived.wait(0.3)
    with ThreadPoolExecutor(2) as pool:
        files = list(pool.map(lambda _: download(url(server), CHECKSUM), range(2)))
    assert files[0] == files[1] and files[0].read_bytes() == CONTENT
    assert len(server.requests) == 1 and kept(server, tmp_path) == ["weights.pth"]


def test_port_downloads_from_another_server(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way: the zoo's address, another server, the reader, the checkpoint."""
    entry: Any = zoo.ZOO["alexnet-glyphs"]
    random = np.random.default_rng(0)
    arrays: Any = {
        pytorch().sources(path)[0]: random.standard_normal(
            pytorch().source_shape(path, shape), np.float32
        )
        for path, shape in entry.blueprint.shapes().items()
    }
    np.savez(tmp_path / "w.npz", **arrays)
    server.content = (tmp_path / "w.npz").read_bytes()
    checksum = f"sha256:{hashlib.sha256(server.content).hexdigest()[:8]}"
    source = WeightSource("us", "", ".npz", pytorch(), "https://example.invalid/w.npz", checksum)
    changed = Entry(entry.blueprint, "", entry.parameters, source)
    monkeypatch.setitem(zoo.ZOO, "alexnet-glyphs", changed)
    monkeypatch.setenv("JAXROBUST_WEIGHTS_URL", server.base)
    done = port("alexnet-glyphs", None, tmp_path / "out")
    assert done.sha256.startswith(checksum.removeprefix("sha256:"))
    network = zoo.load(tmp_path / "out")
    np.testing.assert_array_equal(network.params["fc8"]["kernel"], arrays["fc8.weight"].T)
