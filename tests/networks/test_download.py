"""Downloads from a local server that breaks off, lies, stalls or is not there."""

import hashlib
import io
import os
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrobust.errors import SpecificationError
from jaxrobust.networks import download as module
from jaxrobust.networks import zoo
from jaxrobust.networks.download import download
from jaxrobust.networks.entry import Entry, WeightSource
from jaxrobust.networks.port import port
from jaxrobust.porting.recipes import pytorch

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CHECKSUM = f"sha256:{SHA256[:8]}"


class Server(ThreadingHTTPServer):
    """Serves one content under every name; tests change how."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag: str | None = '"one"'
        self.ranges = True
        self.status: list[int] = []  # answers before the first good one
        self.breaks: list[int] = []  # bytes after which answers break off
        self.requests: list[str | None] = []
        self.on_request: Callable[[], object] = lambda: None

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/files"


class Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(self.headers["Range"])
        server.on_request()
        if server.status:
            self.send_error(server.status.pop(0))
            return
        content, start = server.content, 0
        condition = self.headers["If-Range"]
        if self.headers["Range"] and server.ranges and condition in (None, server.etag):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        end = start + server.breaks.pop(0) if server.breaks else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("JAXROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXROBUST_WEIGHTS_URL", raising=False)
    monkeypatch.setattr(module, "_PAUSES", (0, 0, 0))
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def url(server: Server) -> str:
    return f"{server.base}/weights.pth"


def kept(server: Server, tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache" / "weights" / f"127.0.0.1_{server.server_address[1]}"
    return sorted(path.name for path in folder.iterdir())


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(SpecificationError) as caught:
        download(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


def drip(handler: Any, head: bytes, piece: bytes, end: threading.Event) -> None:
    """Sends pieces, one after the other, until the test is over."""
    handler.wfile.write(head)
    while not end.wait(0.01):
        try:
            handler.wfile.write(piece)
        except OSError:
            return


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"HTTP/1.1 200 OK\r\nX-Header: ", b"x"),
        (b"", b"H"),
    ],
    ids=["file", "endless file", "chunk", "header", "status"],
)
def test_a_server_that_drips_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch, head: bytes, piece: bytes
) -> None:
    monkeypatch.setattr(module, "_SPAN", 0.2)
    monkeypatch.setattr(module, "_TICK", 0.05)
    end = threading.Event()
    monkeypatch.setattr(Handler, "do_GET", lambda self: drip(self, head, piece, end))
    message = refusal(url(server), CHECKSUM)
    end.set()
    assert "fewer than 1,000 bytes arrive in a second" in message


def test_a_server_that_breaks_off_after_every_byte_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SPAN", 0.2)
    server.breaks = [1] * 10_000
    assert "the connection ended after" in refusal(url(server), CHECKSUM)
    assert len(server.requests) < 1000


def test_a_server_given_up_on_leaves_a_piece_to_go_on_from(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_SPAN", 0.3)
    monkeypatch.setattr(module, "_TICK", 0.05)
    end = threading.Event()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + CONTENT[:100]
    with monkeypatch.context() as patch:
        patch.setattr(Handler, "do_GET", lambda self: drip(self, head, b"", end))
        refusal(url(server), CHECKSUM)
    end.set()
    assert kept(server, tmp_path) == ["weights.pth.part"]
    assert download(url(server), CHECKSUM).read_bytes() == CONTENT
    assert server.requests == ["bytes=100-"]


def redirecting(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    def do_GET(handler: Any) -> None:
        if handler.path.startswith("/moved"):
            return answer(handler)
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.end_headers()

    answer = Handler.do_GET
    monkeypatch.setattr(Handler, "do_GET", do_GET)


@pytest.mark.parametrize(
    "target", ["ftp://127.0.0.1:9/weights.pth", "file:///etc/passwd", "data:text/plain,weights"]
)
def test_another_scheme_is_not_followed(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: str
) -> None:
    redirecting(monkeypatch, target)
    assert target in refusal(url(server), CHECKSUM)
    assert kept(server, tmp_path) == []


def test_from_https_nothing_leads_to_http() -> None:
    handler = module._SameScheme()
    leaves = [
        ("https://a/x", "http://b/x"),
        ("https://a/x", "ftp://b/x"),
        ("http://a/x", "ftp://b"),
    ]
    stays = [
        ("https://a/x", "https://b/x"),
        ("http://a/x", "http://b/x"),
        ("http://a", "https://b"),
    ]
    for start, target in leaves + stays:
        request = urllib.request.Request(start)
        arguments: Any = (request, io.BytesIO(), 302, "Found", {}, target)
        if (start, target) in stays:
            followed = handler.redirect_request(*arguments)
            assert followed is not None and followed.full_url == target
            continue
        with pytest.raises(module._OtherScheme, match="which is not http"):
            handler.redirect_request(*arguments)


def test_redirects_of_one_scheme_are_followed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    redirecting(monkeypatch, "/moved/weights.pth")
    assert download(url(server), CHECKSUM).read_bytes() == CONTENT


def test_what_a_server_says_never_steers_a_terminal(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def do_GET(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 404 \x1b[2J\x1b]0;owned\x07\r\n\r\n")

    monkeypatch.setattr(Handler, "do_GET", do_GET)
    message = refusal(url(server), CHECKSUM)
    assert "the server answers 404" in message and message.isprintable()


@pytest.mark.parametrize("name", ["weights.pth", "weights.pth.part"])
def test_a_pipe_in_the_cache_is_not_waited_for(server: Server, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "cache" / "weights" / f"127.0.0.1_{server.server_address[1]}"
    folder.mkdir(parents=True)
    os.mkfifo(folder / name)
    if name == "weights.pth":
        assert download(url(server), CHECKSUM).read_bytes() == CONTENT
    else:
        assert "is not a file" in refusal(url(server), CHECKSUM)


@pytest.mark.parametrize("end", ["", "..", "%2e%2e", "a%2F..", "."])
def test_an_address_without_a_files_name_is_refused(server: Server, end: str) -> None:
    assert "ends with a file's name" in refusal(f"{server.base}/{end}")


def test_no_name_leads_out_of_the_cache(server: Server, tmp_path: Path) -> None:
    file = download(f"{server.base}/..%2F..%2Fweights.pth", CHECKSUM)
    assert file.parent.parent == tmp_path / "cache" / "weights"
